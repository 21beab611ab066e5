"""Files for servers: they can be read again, hold every answered item, and no invented answer."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from hf_videollm.evaluation.data_files import DataFiles
from hf_videollm.evaluation.items import Item
from hf_videollm.evaluation.run_options import RunOptions
from hf_videollm.evaluation.runner import Runner
from hf_videollm.evaluation.scoring import Scoring
from hf_videollm.evaluation.submissions import chosen, with_missing
from hf_videollm.evaluation.task import Scored
from hf_videollm.evaluation.tasks import find_task

Load = Callable[[str, Path], list[Item]]
Folder = Callable[[str], Path]
NAMES = ("perception_test", "egoschema")


def submitted(name: str, items: Sequence[Item], scored: Sequence[Scored]) -> dict[str, Any]:
    """The submission of a task, with JSON read."""
    write = find_task(name).submission
    assert write is not None
    answers = [() if value.rule == "none" else ("B",) for value in scored]
    files = write(items, answers, scored)
    return {file: json.loads(text) if file.endswith(".json") else text for file, text in files.items()}


def numbers(name: str, files: dict[str, Any]) -> dict[str, int]:
    """Item -> number of the option in the main file."""
    if name == "egoschema":
        return dict(files["egoschema.json"])
    videos = files["perception_test.json"]
    return {f"{video}/{row['id']}": row["answer_id"] for video, rows in videos.items() for row in rows}


@pytest.mark.parametrize("name", NAMES)
def test_every_item_is_sent_with_its_option(stand_in: Folder, load: Load, name: str) -> None:
    items = load(name, stand_in(name))
    scored = [Scored(choice=number % len(item.options)) for number, item in enumerate(items)]
    files = submitted(name, items, scored)
    assert "missing.json" not in files
    assert numbers(name, files) == {item.id: value.choice for item, value in zip(items, scored, strict=True)}


@pytest.mark.parametrize("name", NAMES)
def test_what_has_no_answer_is_listed_and_not_invented(stand_in: Folder, load: Load, name: str) -> None:
    items = load(name, stand_in(name))
    scored = [Scored(choice=1, rule="letter") for _ in items]
    scored[3] = Scored(rule="none")
    scored[5] = Scored(choice=None, rule="letter", parse_failed=True, detail={"failure": "several_letters"})
    files = submitted(name, items, scored)
    assert set(numbers(name, files)) == {item.id for item in items} - {items[3].id, items[5].id}
    assert files["missing.json"] == {
        items[3].id: "the model gave no answer; items.jsonl has the error",
        items[5].id: "no option can be read from the answer (several_letters)",
    }


def test_perception_test_sends_the_texts_too(stand_in: Folder, load: Load) -> None:
    items = load("perception_test", stand_in("perception_test"))
    files = submitted("perception_test", items, [Scored(choice=2) for _ in items])
    by_id = {item.id: item for item in items}
    for video, rows in files["perception_test.json"].items():
        for row in rows:
            assert list(row) == ["id", "answer_id", "answer"]
            assert isinstance(row["id"], int)
            assert row["answer"] == by_id[f"{video}/{row['id']}"].options[2]


def test_kaggles_table_of_egoschema(stand_in: Folder, load: Load) -> None:
    items = load("egoschema", stand_in("egoschema"))
    files = submitted("egoschema", items, [Scored(choice=4) for _ in items])
    assert files["egoschema.csv"].startswith("q_uid, answer\n")
    rows = list(csv.DictReader(io.StringIO(files["egoschema.csv"]), skipinitialspace=True))
    assert {row["q_uid"]: int(row["answer"]) for row in rows} == files["egoschema.json"]


@pytest.mark.parametrize(("fallback", "num_sent"), [("none", 18), ("first", 20)])
def test_a_run_with_a_broken_video(
    bundled_pipe: Callable[[str], Any], copied: Folder, tmp_path: Path, fallback: str, num_sent: int
) -> None:
    data = copied("egoschema")
    broken = sorted((data / "good_clips_git").glob("*.mp4"))[:2]
    broken[0].unlink()
    broken[1].write_bytes(b"no video")
    task = find_task("egoschema")
    scoring = Scoring(task, style="bare", fallback=fallback)
    options = RunOptions(prompt_style="bare", batch_size=10)
    result = Runner(bundled_pipe("pllava-tiny"), "m", options).run(task, DataFiles(data), tmp_path / "run", scoring)
    assert result is not None
    assert result["counts"]["errors"] == 2
    sent = json.loads((tmp_path / "run/submission/egoschema.json").read_text())
    assert len(sent) == num_sent
    missing = tmp_path / "run/submission/missing.json"
    if fallback == "none":
        assert set(json.loads(missing.read_text())) == {path.stem for path in broken}
    else:
        assert not missing.exists()
        assert [sent[path.stem] for path in broken] == [0, 0]


def test_nothing_is_missing_where_all_have_an_option(stand_in: Folder, load: Load) -> None:
    items = load("egoschema", stand_in("egoschema"))[:2]
    scored = [Scored(choice=0), Scored(choice=3)]
    assert [index for _, index in chosen(items, scored)] == [0, 3]
    assert with_missing({"a": "b"}, items, [("A",), ("D",)], scored) == {"a": "b"}
