"""LifeQA as IVA uses it: questions about everyday videos, answered freely, though the set gives four options."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..data_files import DataError, DataFiles, Row
from ..items import Item, Medium
from ..prompting import raw_question
from ..row_joins import check_new, medium_in, text_id
from ..task import Task
from .open_qa_published import accuracy_and_score

__all__ = ["TASKS"]


def _loader(*splits: str) -> Callable[[DataFiles], Iterator[Item]]:
    def load(data: DataFiles) -> Iterator[Item]:
        seen: dict[str, str] = {}
        for split in splits:
            names = (f"lqa_{split}.json", f"data/lqa_{split}.json")
            path = data.find(*names)
            for clip, value in data.json_object(*names, holds="a clip in each field").items():
                of_clip = data.as_row(value, f"{path}, clip {clip!r}")
                for row in data.as_rows(of_clip.get("questions", list), f"{of_clip.where}, questions"):
                    item = _item(data, clip, row)
                    check_new(seen, item.id, row.where)
                    yield item

    return load


def _item(data: DataFiles, clip: str, row: Row) -> Item:
    options, right = row.texts("answers"), row.get("correct_index", int)
    if not 0 <= right < len(options):
        raise DataError(f"{row.where}: correct_index is {right}, but there are {len(options)} answers.")
    return row.item(
        id=f"{clip}_{text_id(row, 'q_id')}",
        media=(Medium(medium_in(data, ("videos", "", "data/videos"), clip, (".mp4",))),),
        questions=(row.get("question"),),
        answer=options[right],
        groups={"answer_type": row.get("answer_type", str, "unknown")},
        # Not `options`, which would be shown to the model.
        extra={"options": tuple(options)},
    )


_PUBLISHED = {
    "iva": {  # Table 1
        "Baseline (w/o IVA)": accuracy_and_score(31.7, 2.3),
        "IVA (LQ=8, NI=8)": accuracy_and_score(46.5, 2.8),
        "IVA (LQ=16, NI=8)": accuracy_and_score(50.5, 3.0),
        "IVA (LQ=32, NI=8)": accuracy_and_score(51.9, 3.1),
        "IVA (LQ=16, NI=4)": accuracy_and_score(50.1, 3.0),
        "IVA (LQ=16, NI=16)": accuracy_and_score(50.0, 3.0),
        "IVA (LQ=16, NI=8)-272K": accuracy_and_score(48.1, 2.9),
    },
}


def _task(name: str, title: str, *splits: str) -> Task:
    return Task(
        name=name,
        title=title,
        load=_loader(*splits),
        files=(
            *(
                f"lqa_{split}.json - clips with their questions: q_id, question, answers, correct_index"
                for split in splits
            ),
            "data/ - may hold the lists",
            "videos/{clip}.mp4 - the clips; they are found beside the lists, too",
        ),
        source="https://github.com/mmazab/LifeQA",
        prompts={"default": raw_question},
        metric="judged_qa",
        judge_texts={"default": "qa", "iva": "qa"},
        judge_policies={"default": "robust", "iva": "iva"},
        group_by=("answer_type",),
        published=_PUBLISHED,
        notes=(
            "IVA does not say which split its numbers are of; `lifeqa` is the test split, `lifeqa_dev_test` has both.",
            "IVA does not publish its prompt; the style `default` asks the bare question, without the options.",
            "The row 272K of IVA is trained on the train split of this set.",
        ),
    )


TASKS = [_task("lifeqa", "LifeQA", "test"), _task("lifeqa_dev_test", "LifeQA (dev and test)", "dev", "test")]
