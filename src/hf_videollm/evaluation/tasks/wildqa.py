"""WildQA: questions about long outdoor videos, answered freely."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from ..data_files import DataFiles, Row
from ..items import Item, Medium
from ..prompting import raw_question
from ..row_joins import NUMBERED, medium_in, stated_number
from ..task import Task
from .open_qa_published import accuracy_and_score

__all__ = ["TASKS"]


def _loader(split: str) -> Callable[[DataFiles], Iterator[Item]]:
    def load(data: DataFiles) -> Iterator[Item]:
        folders = ("", "wildQA-data/", "src/example_data/wildQA-data/")
        numbers: Counter[str] = Counter()
        for row in data.json_rows(*(f"{folder}{split}.json" for folder in folders)):
            video = row.get("video_id")
            yield _item(data, row, video, f"{video}_{numbers[video]}")
            # The list has no ids of questions.
            numbers[video] += 1

    return load


def _item(data: DataFiles, row: Row, video: str, name: str) -> Item:
    answer = row.get("answer").strip()
    others = [other.strip() for other in row.texts("alter_answers", [], may_be_empty=True) if other.strip()]
    kinds = [kind.strip() for kind in row.texts("question_type", [], may_be_empty=True)]
    return row.item(
        id=name,
        media=(
            Medium(
                medium_in(data, ("videos", "", "video"), video, (".mp4",)),
                stated_seconds=stated_number(row, "duration"),
            ),
        ),
        questions=(row.get("question").strip(),),
        answer=answer,
        references=tuple(dict.fromkeys((answer, *others))),
        groups={"domain": row.get("domain", str, "unknown"), "question_type": ", ".join(sorted(kinds)) or "unknown"},
    )


_PUBLISHED = {
    "iva": {  # Table 1
        "Baseline (w/o IVA)": accuracy_and_score(52.2, 3.1),
        "IVA (LQ=8, NI=8)": accuracy_and_score(51.2, 3.1),
        "IVA (LQ=16, NI=8)": accuracy_and_score(53.5, 3.2),
        "IVA (LQ=32, NI=8)": accuracy_and_score(53.7, 3.2),
        "IVA (LQ=16, NI=4)": accuracy_and_score(52.5, 3.2),
        "IVA (LQ=16, NI=16)": accuracy_and_score(55.1, 3.3),
        "IVA (LQ=16, NI=8)-272K": accuracy_and_score(50.9, 3.1),
    },
}


def _task(name: str, title: str, split: str) -> Task:
    return Task(
        name=name,
        title=title,
        load=_loader(split),
        files=(
            f"{split}.json - questions: question, answer, alter_answers, video_id, domain, question_type",
            "wildQA-data/ or src/example_data/wildQA-data/ - may hold the list",
            "videos/{video_id}.mp4 - the videos; they are found beside the list, too",
        ),
        source="https://github.com/MichiganNLP/In-the-wild-QA",
        prompts={"default": raw_question},
        metric="judged_qa",
        judge_texts={"default": "qa", "iva": "qa"},
        judge_policies={"default": "robust", "iva": "iva"},
        group_by=("domain", "question_type"),
        has_alternative_answers=True,
        published=_PUBLISHED,
        notes=(
            NUMBERED,
            "IVA does not say which split its numbers are of; `wildqa` has the test split, `wildqa_dev` the dev split.",
            "IVA does not say whether the alternative answers counted. By default the judge compares with `answer` "
            "alone; with --references best it compares with each of `alter_answers`, too, and the best one counts.",
            "IVA does not publish its prompt; the style `default` asks the bare question.",
        ),
    )


TASKS = [_task("wildqa", "WildQA", "test"), _task("wildqa_dev", "WildQA (dev)", "dev")]
