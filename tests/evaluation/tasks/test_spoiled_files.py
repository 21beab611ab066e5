"""Empty, broken and doubled annotation files: every benchmark tells in one line what is wrong, and where."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from annotation_files import (
    annotation_files,
    changes_of_rows,
    has_header,
    kind_of,
    lists_of_rows,
    read,
    with_a_row_twice,
    with_first_key_twice,
    write,
)

from hf_videollm.evaluation.data_files import DataError, DataFiles
from hf_videollm.evaluation.items import Item
from hf_videollm.evaluation.tasks import find_task, task_names

NAMES = task_names()
Folder = Callable[[str], Path]
Load = Callable[[str, Path], list[Item]]
# Tasks whose rows have no id; the notes of the task say what becomes of a row that stands twice.
NUMBERED = ("mvbench", "mlvu", "tiny_lvlm_ehub", "vcg", "msvc", "wildqa", "wildqa_dev")
# Three people answer each question of Clotho-AQA: a row that stands twice is one more answer.
PEOPLE = ("clotho_aqa",)
# File and place of an error, e.g. `/folder/list.json, row 3`.
PLACE = re.compile(r"^(?P<file>/[^,]+?), .*(row|line|question|clip|video) ")


def told(load: Load, name: str, folder: Path, path: Path) -> str:
    """The error of a spoiled file: one line that names the file and says what to do.

    Raises:
        AssertionError: it is none.
    """
    with pytest.raises(DataError) as error:
        load(name, folder)
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 800
    return message


# --- rows that stand twice ---


@pytest.mark.parametrize("name", NAMES)
def test_a_row_that_stands_twice(copied: Folder, load: Load, name: str) -> None:
    folder, refused = copied(name), 0
    before = load(name, folder)
    for path in annotation_files(folder):
        content = path.read_bytes()
        if kind_of(path) == ".json" and not list(lists_of_rows(read(path))):
            continue
        for last in (False, True):
            with_a_row_twice(path, last)
            try:
                after = load(name, folder)
            except DataError as error:
                message = str(error)
                assert message.startswith(str(path))
                assert PLACE.match(message), message
                assert "stands already in" in message
                assert "\n" not in message
                refused += 1
            else:
                # Otherwise it is a new item, one more answer to the same question, or a row that the task leaves out.
                assert len({item.id for item in after}) == len(after) == len(before) + (name in NUMBERED)
                assert after == before or name in (*NUMBERED, *PEOPLE)
            path.write_bytes(content)
    # Video-Bench has no rows, but keys, which another test writes twice.
    assert bool(refused) != (name in (*NUMBERED, *PEOPLE, "video_bench"))


@pytest.mark.parametrize("name", NAMES)
def test_the_tasks_without_ids_say_so(name: str) -> None:
    says = any(note.startswith("The rows have no ids") for note in find_task(name).notes)
    assert says == (name in NUMBERED)


@pytest.mark.parametrize("name", NAMES)
def test_a_key_that_stands_twice(copied: Folder, load: Load, name: str) -> None:
    """Keys are ids in some files. Python would keep the last one alone."""
    folder = copied(name)
    for path in annotation_files(folder):
        content = path.read_bytes()
        if kind_of(path) != ".json" or not isinstance(read(path), dict):
            continue
        key = with_first_key_twice(path)
        assert f"the key {key!r} stands twice" in told(load, name, folder, path)
        path.write_bytes(content)
    assert load(name, folder)


# --- answers without a question ---


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("msvd_qa", "test_a.json"),
        ("msrvtt_qa", "test_a.json"),
        ("tgif_qa", "test_a.json"),
        ("activitynet_qa", "test_a.json"),
        ("egoschema", "subset_answers.json"),
        ("egoschema_subset", "subset_answers.json"),
        ("video_bench", "answers.json"),
    ],
)
def test_an_answer_without_a_question_names_its_id(copied: Folder, load: Load, name: str, file: str) -> None:
    folder = copied(name)
    path, content = folder / file, read(folder / file)
    if isinstance(content, list):
        content.append({**content[-1], "question_id": "nobody asks"})
    elif name == "video_bench":
        next(iter(content.values()))["nobody asks"] = "A"
    else:
        content["nobody asks"] = 0
    write(path, content)
    message = told(load, name, folder, path)
    assert "'nobody asks'" in message
    assert PLACE.match(message), message


def test_a_question_without_a_public_answer_is_counted_as_unknown(copied: Folder, load: Load) -> None:
    """Most answers of these benchmarks are secret, so a question without one is no mistake."""
    folder = copied("egoschema")
    answers = read(folder / "subset_answers.json")
    write(folder / "subset_answers.json", dict(list(answers.items())[1:]))
    unknown = [item.id for item in load("egoschema", folder) if item.answer_index is None]
    assert len(unknown) == 11
    assert next(iter(answers)) in unknown
    assert len(load("egoschema_subset", folder)) == 9


# --- empty and broken files ---


@pytest.mark.parametrize("content", [b"", b" \n\n", b"\xef\xbb\xbf"], ids=["nothing", "blanks", "mark"])
@pytest.mark.parametrize("name", NAMES)
def test_an_empty_file(copied: Folder, load: Load, name: str, content: bytes) -> None:
    folder = copied(name)
    for path in annotation_files(folder):
        before = path.read_bytes()
        path.write_bytes(content)
        message = told(load, name, folder, path)
        assert "fetch the file again" in message
        path.write_bytes(before)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_without_rows(copied: Folder, load: Load, name: str) -> None:
    folder = copied(name)
    for path in annotation_files(folder):
        before, value = path.read_bytes(), read(path)
        if path.suffix == ".parquet":
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.parquet.read_table(path).slice(0, 0), path)
        elif path.suffix == ".csv":
            # A table without a header and without rows is an empty file.
            path.write_text(",".join(value[0]) + "\n" if has_header(path) else "\n")
        elif kind_of(path) == ".jsonl":
            path.write_text("\n\n")
        elif isinstance(value, dict) and any(isinstance(entry, list) for entry in value.values()):
            write(path, {key: [] if isinstance(entry, list) else entry for key, entry in value.items()})
        else:
            write(path, type(value)())
        assert "fetch the file again" in told(load, name, folder, path)
        path.write_bytes(before)


BROKEN = {
    "cut": lambda text: text[: len(text) // 2],
    "no JSON": lambda text: "<html>\n404\n</html>\n",
    "deep": lambda text: "[" * 100_000,
    "list of the list": lambda text: f"[{text}]",
    "long number": lambda text: f"[{'9' * 10_000}]",
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("name", NAMES)
def test_a_broken_file(copied: Folder, load: Load, name: str, kind: str) -> None:
    folder = copied(name)
    for path in annotation_files(folder):
        if path.suffix == ".csv":
            continue
        before = path.read_bytes()
        path.write_bytes(BROKEN[kind](before.decode("latin-1")).encode("latin-1"))
        message = told(load, name, folder, path)
        assert re.search(r"fetch the file again|correct", message), message
        path.write_bytes(before)


@pytest.mark.parametrize("name", [name for name in NAMES if find_task(name).files[0].split()[0].endswith(".csv")])
def test_a_broken_table(copied: Folder, load: Load, name: str) -> None:
    folder = copied(name)
    (path,) = annotation_files(folder)
    lines = path.read_text(encoding="utf-8").splitlines()
    cases = {
        "field larger than field limit": f"{lines[2]}{'x' * 200_000}",
        # The quotation mark ends at the next one, if there is one.
        r"a quotation mark is opened and never closed|fields": re.sub(r",([^,]*)$", r',"\1', lines[2]),
        "expected 4 fields|the row has": f"{lines[2]},one,two,three,four,five,six,seven,eight",
    }
    for reason, line in cases.items():
        path.write_text("\n".join([*lines[:2], line, *lines[3:]]) + "\n", encoding="utf-8")
        message = told(load, name, folder, path)
        assert re.search(reason, message), message
        assert f"{path}, line 3" in message
    # The control: as it was, without a line break at its end, the table is fine.
    path.write_text("\n".join(lines), encoding="utf-8")
    assert load(name, folder)


# --- values of another type ---

VALUES: list[Any] = [None, 7, True, 1.5, math.nan, math.inf, "", " ", [], {}, [["x"]], [None], [7], {"x": [1]}]


@pytest.mark.parametrize("name", NAMES)
def test_a_value_of_another_type(copied: Folder, load: Load, name: str) -> None:
    """Either the value makes no difference to the benchmark, or one line names file, place and field."""
    folder, refused = copied(name), set[str]()
    for path in annotation_files(folder):
        before = path.read_bytes()
        for field, spoil in changes_of_rows(path, VALUES):
            spoil()
            try:
                load(name, folder)
            except DataError as error:
                message = str(error)
                # A question that is spoiled may show in the file of the answers.
                assert message.startswith(str(folder)), message
                assert "\n" not in message
                assert PLACE.match(message), message
                assert field in message or "answer" in message or "option" in message, (field, message)
                refused.add(field)
            path.write_bytes(before)
    # The control: some field is needed.
    assert refused


@pytest.mark.parametrize("name", NAMES)
def test_a_field_that_is_needed_is_needed_with_its_type(copied: Folder, load: Load, name: str) -> None:
    """Where a missing field is an error, an object in its place is one, too: no value is taken for a text."""
    folder = copied(name)
    for path in annotation_files(folder):
        before = path.read_bytes()
        for field, spoil in changes_of_rows(path, [None]):
            spoil()
            try:
                load(name, folder)
            except DataError:
                for wrong in ({"x": [1]}, [["x"]], [None], math.nan):
                    found = [change for other, change in changes_of_rows_of(path, before, wrong) if other == field]
                    found[0]()
                    with pytest.raises(DataError):
                        load(name, folder)
            path.write_bytes(before)


def changes_of_rows_of(path: Path, content: bytes, value: Any) -> list[tuple[str, Callable[[], None]]]:
    path.write_bytes(content)
    return list(changes_of_rows(path, [value]))


# --- start and end ---

BOUNDS = [(math.nan, 2.0), (1.0, math.nan), (-math.inf, 2.0), (0.0, math.inf), (2.0, 1.0), (1.0, 1.0), ("0", 1.0)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
def test_impossible_bounds(copied: Folder, load: Load, name: str, bounds: tuple[Any, Any]) -> None:
    folder = copied(name)
    if all(medium.end is None for item in load(name, folder) for medium in item.media):
        return
    seen = 0
    for path in annotation_files(folder):
        before, value = path.read_bytes(), read(path)
        rows = [row for rows in lists_of_rows(value) for row in rows if row.get("segment") or "end" in row]
        if not rows:
            continue
        fields = ("segment",) if "segment" in rows[0] else ("start", "end")
        rows[0].update({"segment": list(bounds)} if fields == ("segment",) else dict(zip(fields, bounds, strict=True)))
        write(path, value)
        message = told(load, name, folder, path)
        assert PLACE.match(message), message
        assert any(field in message for field in fields)
        assert "correct" in message
        path.write_bytes(before)
        seen += 1
    assert seen


def test_a_benchmark_without_items_is_refused(tmp_path: Path) -> None:
    """Files that are fine, but hold only what the task leaves out."""
    (tmp_path / "vggsound.csv").write_text("a,1,wind,train\n")
    with pytest.raises(DataError, match=f"the files in {re.escape(str(tmp_path))} hold no items: fetch them again"):
        list(find_task("avssd").items(DataFiles(tmp_path)))
