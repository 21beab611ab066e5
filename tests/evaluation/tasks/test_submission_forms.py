"""The files that a run writes for the server of a benchmark have exactly the form that this server takes."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from finished_runs import write_run

from hf_videollm.evaluation.items import Item
from hf_videollm.evaluation.tasks import find_task, task_names
from hf_videollm.evaluation.tasks.video_bench import SETS, official_prompt

Load = Callable[[str, Path], list[Item]]
Folder = Callable[[str], Path]
WITH_SERVER = [name for name in task_names() if find_task(name).submission is not None]


def letter(item: Item) -> str:
    return "ABCDEF"[number(item)]


def number(item: Item) -> int:
    """The option that the model names in these tests: another one for each item."""
    return sum(item.id.encode()) % len(item.options)


def egoschema(items: list[Item], files: dict[str, str]) -> None:
    """JSON {q_uid: number} for the authors' server, and a table with the header `q_uid, answer` for Kaggle."""
    assert set(files) == {"egoschema.json", "egoschema.csv"}
    assert json.loads(files["egoschema.json"]) == {item.id: number(item) for item in items}
    header, *lines = files["egoschema.csv"].splitlines()
    assert header == "q_uid, answer"
    assert [tuple(line.split(", ")) for line in lines] == [(item.id, str(number(item))) for item in items]


def perception_test(items: list[Item], files: dict[str, str]) -> None:
    """{video: [{"id": int, "answer_id": int, "answer": text of the option}]}."""
    assert set(files) == {"perception_test.json"}
    videos: dict[str, list[Any]] = {}
    for item in items:
        video, _, question = item.id.rpartition("/")
        row = {"id": int(question), "answer_id": number(item), "answer": item.options[number(item)]}
        videos.setdefault(video, []).append(row)
    assert json.loads(files["perception_test.json"]) == videos


def video_bench(items: list[Item], files: dict[str, str]) -> None:
    """{question: {video_id, question, output_sequence}} in `{Set}_eval.json`, and all with letters in one file."""
    merged = "Video_Bench_Input.json"
    assert set(files) == {f"{name}_eval.json" for name in SETS} | {merged}
    matched = json.loads(files[merged])
    assert list(matched) == [name for name in SETS if name in matched]
    assert set(matched) == set(SETS)
    for item in items:
        name, _, question = item.id.partition("/")
        row = json.loads(files[f"{name}_eval.json"])[question]
        assert list(row) == ["video_id", "question", "output_sequence"]
        assert row["question"] == official_prompt(item, item.question).text
        assert row["output_sequence"] == f"({letter(item)})"
        assert matched[name][question] == {**row, "output_chatgpt_choice": letter(item)}


FORMS: dict[str, Callable[[list[Item], dict[str, str]], None]] = {
    "egoschema": egoschema,
    "perception_test": perception_test,
    "video_bench": video_bench,
}


def test_every_task_whose_answers_are_secret_has_a_submission_with_a_known_form() -> None:
    secret = [name for name in task_names() if not find_task(name).has_public_answers]
    assert set(WITH_SERVER) == set(secret) == set(FORMS)


def submitted(folder: Path, name: str, items: list[Item]) -> dict[str, str]:
    """File -> text of the submission of a run that named an option of each item."""
    scoring = {"reads_letters": True} if name == "video_bench" else {}
    write_run(folder, [f"({letter(item)})" for item in items], items, name, **scoring)
    return {path.name: path.read_text(encoding="utf-8") for path in (folder / "submission").iterdir()}


@pytest.mark.parametrize("name", WITH_SERVER)
def test_the_form_is_that_of_the_server(stand_in: Folder, load: Load, tmp_path: Path, name: str) -> None:
    items = load(name, stand_in(name))
    FORMS[name](items, submitted(tmp_path, name, items))
    # The control: one answer less shows.
    with pytest.raises((AssertionError, KeyError)):
        FORMS[name](items, submitted(tmp_path / "fewer", name, items[1:]))


@pytest.mark.parametrize("name", WITH_SERVER)
def test_the_notes_of_the_task_name_every_file_that_is_sent(
    stand_in: Folder, load: Load, tmp_path: Path, name: str
) -> None:
    items = load(name, stand_in(name))
    sent = [file for file in submitted(tmp_path, name, items) if not re.search(r"_eval\.json$", file)]
    assert all(file in " ".join(find_task(name).notes) for file in sent)


@pytest.mark.parametrize("name", [name for name in task_names() if name not in WITH_SERVER])
def test_a_task_with_public_answers_writes_none(stand_in: Folder, load: Load, tmp_path: Path, name: str) -> None:
    items = load(name, stand_in(name))
    if find_task(name).metric == "multiple_choice":
        write_run(tmp_path, ["(A)"] * len(items), items, name)
        assert not (tmp_path / "submission").exists()
