"""Video-Bench: thirteen sets of questions with two to six options, whose free answers a judge maps to options.

Most answers are known to the benchmark's server only, for which the files are written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ...models.video_llm_option_names import did_you_mean
from ..choice_items import by_letter, choice_item
from ..choice_prompts import bare_question
from ..data_files import DataError, DataFiles, Row
from ..items import Item, Medium
from ..prompting import Prompt, letter_of, raw_question
from ..row_joins import check_answers, medium_in
from ..submissions import chosen, json_text, with_missing
from ..task import Scored, Task

__all__ = ["SETS", "TASKS", "official_prompt"]

# Set -> part of the benchmark, in the order of its table.
SETS = {
    **dict.fromkeys(("ActivityNet", "MSVD", "MSRVTT", "TGIF", "Youcook2", "Ucfcrime", "MOT"), "exclusive"),
    **dict.fromkeys(("TVQA", "MV", "NBA"), "prior"),
    **dict.fromkeys(("Driving-exam", "Driving-decision-making", "SQA3D"), "decision"),
}
_FOLDERS = ("Eval_QA/", "")
_OWN_ANSWERS = "answers.json"


def _load(data: DataFiles) -> Iterator[Item]:
    private = _private_answers(data)
    for name in SETS:
        files = [f"{folder}{name}_{kind}.json" for kind in ("QA_new", "QA") for folder in _FOLDERS]
        rows, path = data.json_object(*files, holds="a question in each field"), data.find(*files)
        own = private.get(name, {})
        check_answers(own, rows, path.name)
        for question_id, values in rows.items():
            yield _item(data, name, question_id, data.as_row(values, f"{path}, question {question_id!r}"), own)


def _item(data: DataFiles, name: str, question_id: str, row: Row, own: Mapping[str, Row]) -> Item:
    options = _options(row)
    right = by_letter(row, "answer", options) if row.get("answer", str, None) is not None else None
    if question_id in own:
        right = by_letter(own[question_id], "letter", options)
    return choice_item(
        row,
        f"{name}/{question_id}",
        Medium(_path(data, name, row.get("vid_path"))),
        row.get("question"),
        options,
        right,
        groups={"part": SETS[name], "set": name},
        extra={"set": name, "question_id": question_id, "video_id": row.get("video_id", (str, int), None)},
    )


def _options(row: Row) -> tuple[str, ...]:
    choices = row.get("choices", Mapping)
    letters = [letter_of(index) for index in range(len(choices))]
    if list(choices) != letters or not 2 <= len(letters) <= 6:
        raise DataError(
            f"{row.where}: choices has the letters {', '.join(choices)}; expected A to at most F, in order."
        )
    if not all(isinstance(value, str | int | float) for value in choices.values()):
        raise DataError(f"{row.where}: choices is {dict(choices)!r}, whose values are no texts: correct them.")
    return tuple(str(value) for value in choices.values())


def _path(data: DataFiles, name: str, listed: str) -> Path:
    """The video. The first lists hold paths of their authors' machine, of which the name is left."""
    path = PurePosixPath(listed)
    if path.is_absolute():
        return medium_in(data, (f"Eval_video/{name}",), path.name)
    return medium_in(data, ("", "Eval_video"), str(path))


def _private_answers(data: DataFiles) -> dict[str, dict[str, Row]]:
    """Answers of one's own: set -> question id -> row with the letter."""
    if not (data.root / _OWN_ANSWERS).exists():
        return {}
    path = data.root / _OWN_ANSWERS
    content = data.json_object(_OWN_ANSWERS, holds="the letters of the right options for each set")
    for name in content:
        if name not in SETS:
            raise DataError(f"{path}: there is no set {name!r}: {did_you_mean(name, SETS)}")
    return {
        name: {key: Row({"letter": letter}, f"{path}, {name}, question {key!r}") for key, letter in row.values.items()}
        for name, row in ((name, data.as_row(value, f"{path}, set {name}")) for name, value in content.items())
    }


_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}


def official_prompt(item: Item, question: str) -> Prompt:
    """The prompt of the official code, in which a blank stands behind the colon of some numbers of options only."""
    count = len(item.options)
    letters = [letter_of(index) for index in range(count)]
    listed = " ".join(f"{letter}.{option}" for letter, option in zip(letters, item.options, strict=True))
    before = "Choices: " if count == 6 else " "
    after = "" if count in (4, 6) else " "
    return Prompt(
        f"{question}{before}{listed} \n Among the {_NUMBERS[count]} options {', '.join(letters)} above, "
        f"the one closest to the correct answer is:{after}"
    )


def _submission(items: Sequence[Item], answers: Sequence[Sequence[str]], scored: Sequence[Scored]) -> dict[str, str]:
    """A file of answers for each set, which the official matcher reads, and one with all letters for the server.

    Without a judge there are no letters.
    """
    sets: dict[str, dict[str, dict[str, Any]]] = {}
    for item, given in zip(items, answers, strict=True):
        if given:
            row = {
                "video_id": item.extra["video_id"],
                "question": official_prompt(item, item.question).text,
                "output_sequence": given[0],
            }
            sets.setdefault(item.extra["set"], {})[item.extra["question_id"]] = row
    files = {f"{name}_eval.json": json_text(rows) for name, rows in sets.items()}
    matched: dict[str, dict[str, dict[str, Any]]] = {}
    for item, index in chosen(items, scored):
        name, question_id = item.extra["set"], item.extra["question_id"]
        letter = {"output_chatgpt_choice": letter_of(index)}
        matched.setdefault(name, {})[question_id] = {**sets[name][question_id], **letter}
    if matched:
        files["Video_Bench_Input.json"] = json_text(matched)
    return with_missing(files, items, answers, scored, "no judge has matched the answer with an option")


def _parts(exclusive: float, prior: float, decision: float, everything: float) -> dict[str, float]:
    return {"exclusive": exclusive, "prior": prior, "decision": decision, "accuracy": everything}


TASKS = [
    Task(
        name="video_bench",
        title="Video-Bench",
        load=_load,
        files=(
            "Eval_QA/{set}_QA_new.json - the thirteen lists: vid_path, video_id, question, choices; also without the "
            "folder",
            "Eval_video/{set}/ - the videos, by the paths of the lists",
            "if it is there, answers.json of one's own gives right options: {set: {question id: letter}}",
        ),
        hub_ids=("LanguageBind/Video-Bench",),
        source="https://github.com/PKU-YuanGroup/Video-Bench",
        prompts={"default": official_prompt, "official": official_prompt, "raw": raw_question, "bare": bare_question},
        metric="matched_choice",
        judge_texts={"default": "video_bench", "official": "video_bench"},
        judge_policies={"default": "robust", "official": "video_chatgpt"},
        group_by=("part", "set"),
        has_public_answers=False,
        submission=_submission,
        published={
            "ftfv": {  # Table 4; the rows that end with a number of tokens a frame: Table 5
                "FTFV-LLM image": _parts(52.4, 42.8, 52.3, 49.2),
                "FTFV-LLM S4-V": _parts(54.3, 42.0, 54.5, 50.3),
                "FTFV-LLM S3-IV": _parts(53.2, 41.9, 53.9, 49.7),
                "FTFV-LLM S2-S3-IV": _parts(54.3, 42.5, 53.6, 50.1),
                "FTFV-LLM S4-V 4": {"accuracy": 49.65},
                "FTFV-LLM S4-V 16": {"accuracy": 49.59},
                "FTFV-LLM S4-V 32": {"accuracy": 49.87},
                "FTFV-LLM S4-V 64": {"accuracy": 49.84},
                "FTFV-LLM S4-V 128": {"accuracy": 50.26},
                "FTFV-LLM S4-V 256": {"accuracy": 49.39},
            },
        },
        notes=(
            "Most answers are not public: submission/Video_Bench_Input.json goes to the benchmark's Space "
            "(LanguageBind/Video-Bench). It is written when a judge has matched the answers.",
            "The official score of a part is the mean of its sets, in which MOT and Driving-exam count half, and the "
            "final score is the mean of the three parts. The table `set` has the accuracies of the sets; the accuracy "
            "of all items is another number.",
            "Only items with a known answer are in the accuracies; `unknown` counts the others.",
            "The official matcher is gpt-3.5-turbo-0613, without sampling options, asked until its reply can be read; "
            "the policy `video_chatgpt` does the same with another model, which --judge-model names.",
            "FTFV does not say which prompt and which matcher it used.",
        ),
    ),
]
