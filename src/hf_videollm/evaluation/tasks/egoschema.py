"""EgoSchema: questions with five options about three minutes seen through somebody's eyes.

Of 5,031 answers, 500 are public (the subset). A server has the others, for which the files are written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..choice_items import by_number, choice_item, finds, listed_options, numbered_options
from ..choice_prompts import bare_question, letters_rule
from ..data_files import DataFiles, Row
from ..items import Item, Medium
from ..paper_prompts import videollama2_rule
from ..prompting import raw_question
from ..row_joins import check_answers, medium_in, rows_by_id
from ..submissions import chosen, json_text, with_missing
from ..task import Scored, Task

__all__ = ["TASKS"]

_QUESTIONS = ("questions.json", "EgoSchema/questions.json")
_ANSWERS = ("subset_answers.json", "EgoSchema/subset_answers.json")
_HUB = ("MC/test-*.parquet", "*/MC/test-*.parquet")
_HUB_SUBSET = ("Subset/test-*.parquet", "*/Subset/test-*.parquet")
_COLUMNS = ("question", "video_idx", "option", "answer")
_FOLDERS = ("good_clips_git", "videos", "")


def _load(data: DataFiles) -> Iterator[Item]:
    # The files of the authors come first.
    if not finds(data, _QUESTIONS) and finds(data, _HUB):
        known = _hub_subset(data) if finds(data, _HUB_SUBSET) else {}
        questions = rows_by_id(data.parquet_rows(*_HUB, columns=_COLUMNS), "video_idx")
        check_answers(known, questions, _HUB[0])
        for name, row in questions.items():
            yield _hub_item(data, name, row, known.get(name))
        return
    path = data.find(*_QUESTIONS, *_HUB)
    known = _answers(data) if finds(data, _ANSWERS) else {}
    questions = rows_by_id(data.json_rows(str(path.relative_to(data.root))), "q_uid")
    check_answers(known, questions, path.name)
    # Most questions have no public answer; the result counts them as `unknown`.
    for name, row in questions.items():
        yield _item(data, name, row, known.get(name))


def _load_subset(data: DataFiles) -> Iterator[Item]:
    if not finds(data, _QUESTIONS) and finds(data, _HUB_SUBSET):
        for name, row in _hub_subset(data).items():
            yield _hub_item(data, name, row, row)
        return
    path = data.find(*_QUESTIONS, *_HUB_SUBSET)
    questions, known = rows_by_id(data.json_rows(str(path.relative_to(data.root))), "q_uid"), _answers(data)
    check_answers(known, questions, path.name)
    for name, row in questions.items():
        if name in known:
            yield _item(data, name, row, known[name])


def _answers(data: DataFiles) -> dict[str, Row]:
    """The public answers: id of a question -> a row whose field is that id."""
    path, content = data.find(*_ANSWERS), data.json_object(*_ANSWERS, holds="the number of an option for each q_uid")
    return {name: Row(content, f"{path}, question {name!r}") for name in content}


def _hub_subset(data: DataFiles) -> dict[str, Row]:
    return rows_by_id(data.parquet_rows(*_HUB_SUBSET, columns=_COLUMNS), "video_idx")


def _item(data: DataFiles, name: str, row: Row, known: Row | None) -> Item:
    options = numbered_options(row, "option {}", range(5))
    right = None if known is None else by_number(known, name, options)
    return choice_item(row, name, _medium(data, name), row.get("question"), options, right)


def _hub_item(data: DataFiles, name: str, row: Row, known: Row | None) -> Item:
    options = listed_options(row, "option")
    right = None if known is None else by_number(known, "answer", options)
    return choice_item(row, name, _medium(data, name), row.get("question"), options, right)


def _medium(data: DataFiles, name: str) -> Medium:
    return Medium(medium_in(data, _FOLDERS, name, (".mp4", ".MP4")))


def _submission(items: Sequence[Item], answers: Sequence[Sequence[str]], scored: Sequence[Scored]) -> dict[str, str]:
    """The numbers of the options by id: JSON for the authors' server, a table for Kaggle."""
    numbers = {item.id: index for item, index in chosen(items, scored)}
    table = "".join(["q_uid, answer\n", *(f"{name}, {index}\n" for name, index in numbers.items())])
    return with_missing({"egoschema.json": json_text(numbers), "egoschema.csv": table}, items, answers, scored)


_PUBLISHED = {
    "videollama2": {  # Table 5
        "VideoLLaMA 2 (7B), 8 frames": {"accuracy": 50.5},
        "VideoLLaMA 2 (7B), 16 frames": {"accuracy": 51.7},
        "VideoLLaMA 2 (8x7B), 8 frames": {"accuracy": 53.3},
    },
    "linvt": {  # Table 8; LinVT-InternVL2 1B: Table 11. Table 2 prints 55.9 for Mipha
        "LinVT-InternVL2 1B": {"accuracy": 55.7},
        "LinVT-Mipha 1.6B": {"accuracy": 48.4},
        "LinVT-Aquila 2B": {"accuracy": 57.9},
        "LinVT-BLIP-3 4B": {"accuracy": 62.9},
        "LinVT-Molmo 7B": {"accuracy": 63.1},
        "LinVT-Qwen2-VL 7B": {"accuracy": 69.5},
        "LinVT-InternVL2 8B": {"accuracy": 63.9},
    },
}
_PROMPTS = {
    "default": raw_question,
    "videollama2": videollama2_rule("egoschema"),
    "lmms_eval": letters_rule(),
    "bare": bare_question,
}
_RULES = {"default": "robust", "videollama2": "videollama2_egoschema"}
_QUESTION_FILE = "questions.json - q_uid, question, option 0 to option 4; also below EgoSchema/"
_VIDEOS = "good_clips_git/{q_uid}.mp4 - the videos; the folder videos is found, too"
_SOURCE = "https://github.com/egoschema/EgoSchema"
_HUB_IDS = ("lmms-eval/egoschema", "lmms-lab/egoschema")
_FALLBACK = "VideoLLaMA2's numbers count an answer without a letter as C (--fallback third)."
_NO_PROMPT = "LinVT does not publish its prompt; the style `default` asks for a letter."

TASKS = [
    Task(
        name="egoschema",
        title="EgoSchema",
        load=_load,
        files=(
            _QUESTION_FILE,
            "if it is there, subset_answers.json gives the public answers",
            _VIDEOS,
            "or, from the Hub: MC/test-*.parquet with video_idx, question, option (and Subset/test-*.parquet)",
        ),
        hub_ids=_HUB_IDS,
        source=_SOURCE,
        prompts=_PROMPTS,
        metric="multiple_choice",
        choice_rules=_RULES,
        has_public_answers=False,
        submission=_submission,
        published=_PUBLISHED,
        notes=(
            "The papers' numbers are of the full set: submission/egoschema.json goes to the authors' server "
            "(https://validation-server.onrender.com/api/upload/), egoschema.csv to Kaggle (egoschema-public).",
            "The accuracy of this package counts the questions of the subset alone, whose answers are public.",
            _FALLBACK,
            _NO_PROMPT,
            "LinVT prints another number of Mipha elsewhere: 55.9 (Table 2).",
        ),
    ),
    Task(
        name="egoschema_subset",
        title="EgoSchema (subset)",
        load=_load_subset,
        files=(
            _QUESTION_FILE,
            "subset_answers.json - q_uid -> number of the right option; also below EgoSchema/",
            _VIDEOS,
            "or, from the Hub: Subset/test-*.parquet with video_idx, question, option, answer",
        ),
        hub_ids=_HUB_IDS,
        source=_SOURCE,
        prompts=_PROMPTS,
        metric="multiple_choice",
        choice_rules=_RULES,
        notes=("The papers print numbers of the full set, the task `egoschema`.", _FALLBACK, _NO_PROMPT),
    ),
]
