"""A wrong row or file stops every benchmark in the same way: the error names the file and the place in it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_videollm.evaluation.data_files import DataError, DataFiles, Row
from hf_videollm.evaluation.items import Item, Medium
from hf_videollm.evaluation.tasks import find_task, task_names

NAMES = task_names()
Folder = Callable[[str], Path]
Load = Callable[[str, Path], list[Item]]

# File and place of an error: `/folder/list.json, row 3`, also with a key in the place of a number.
PLACE = re.compile(r"^(?P<file>/[^,]+?), .*(row|line|question|clip|video) ")


def place_of(error: DataError, folder: Path) -> Path:
    found = PLACE.match(str(error))
    assert found is not None, str(error)
    assert "\n" not in str(error)
    file = Path(found["file"])
    assert file.is_file()
    assert file.is_relative_to(folder)
    return file


def refuse(item: Item) -> None:
    raise ValueError(f"Item {item.id!r} contradicts itself.")


@pytest.mark.parametrize("name", NAMES)
def test_an_item_that_contradicts_itself_names_its_row(
    stand_in: Folder, load: Load, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(Item, "__post_init__", refuse)
    with pytest.raises(DataError, match="contradicts itself") as error:
        load(name, stand_in(name))
    place_of(error.value, stand_in(name))


@pytest.mark.parametrize("name", [name for name in NAMES if find_task(name).has_public_answers and name != "inter4k"])
def test_a_blank_answer_names_its_row(stand_in: Folder, load: Load, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def blank(item: Item) -> None:
        object.__setattr__(item, "answer", " ")

    monkeypatch.setattr(Item, "__post_init__", blank)
    with pytest.raises(DataError, match=r"the right answer of item .* is blank") as error:
        load(name, stand_in(name))
    place_of(error.value, stand_in(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_blank_question_names_its_row(
    stand_in: Folder, load: Load, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(Item, "__post_init__", lambda item: object.__setattr__(item, "questions", (" \t",)))
    with pytest.raises(DataError, match=r"a question of item .* is blank") as error:
        load(name, stand_in(name))
    place_of(error.value, stand_in(name))


@pytest.mark.parametrize("stem", ["", " ", "videos/", "videos/ "])
def test_a_medium_has_a_name(tmp_path: Path, stem: str) -> None:
    (tmp_path / "videos").mkdir()
    with pytest.raises(DataError, match="a medium without a name"):
        DataFiles(tmp_path).medium(stem, ("", ".mp4"))


def test_a_row_refuses_a_blank_answer_and_takes_none() -> None:
    row = Row({}, "/data/q.json, row 7")
    fields: dict[str, Any] = {"id": "1", "media": (Medium(Path("a.mp4")),), "questions": ("What?",)}
    for blank in ("", " ", "\t"):
        with pytest.raises(DataError, match=r"^/data/q\.json, row 7: the right answer of item '1' is blank"):
            row.item(**fields, answer=blank)
    # Control: a secret answer and a written one are fine.
    assert row.item(**fields).answer is None
    assert row.item(**fields, answer="a").answer == "a"


def texts(folder: Path) -> list[Path]:
    """The annotation files of a stand-in that are texts."""
    kinds = (".json", ".jsonl", ".csv", ".txt", ".tsv")
    return sorted(path for path in folder.rglob("*") if path.suffix in kinds and path.is_file())


@pytest.mark.parametrize("name", NAMES)
def test_another_encoding_names_its_file(copied: Folder, load: Load, name: str) -> None:
    folder = copied(name)
    for path in texts(folder):
        content = path.read_bytes()
        path.write_bytes(content + "é".encode("latin-1"))
        with pytest.raises(DataError, match=re.escape(str(path))) as error:
            load(name, folder)
        assert "\n" not in str(error.value)
        path.write_bytes(content)
    # Control: as they were, the files are fine.
    assert load(name, folder)


@pytest.mark.parametrize(
    "name", ["mvbench", "mlvu", "vcg", "msvd_qa", "msvc", "music_avqa", "tiny_lvlm_ehub", "video_bench", "videovista"]
)
def test_an_empty_list_names_its_file(copied: Folder, load: Load, name: str) -> None:
    folder, seen = copied(name), 0
    for path in texts(folder):
        content = path.read_text(encoding="utf-8")
        if path.suffix != ".json" or path.name == "answers.json":
            continue
        path.write_text("[]" if content.lstrip().startswith("[") else "{}", encoding="utf-8")
        with pytest.raises(DataError, match=rf"^{re.escape(str(path))} holds an empty (list|object): fetch"):
            load(name, folder)
        path.write_text(content, encoding="utf-8")
        seen += 1
    assert seen
    assert load(name, folder)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_another_encoding_names_its_line(tmp_path: Path, name: str) -> None:
    data = DataFiles(tmp_path)

    def rows() -> list[Row]:
        if name == "a.csv":
            return list(data.csv_rows(name, columns=("q",)))
        return list(data.jsonl_rows(name))

    text = '\ufeffq\n"é"\n' if name == "a.csv" else '\ufeff\n{"q": "é"}\n'
    (tmp_path / name).write_bytes(text.encode("utf-8").replace("é".encode(), b"\xe9"))
    with pytest.raises(DataError, match=rf"{re.escape(name)}, line 2 has the byte 0xe9, which is no UTF-8: save it"):
        rows()
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert [row.values for row in rows()] == [{"q": "é"}]


def test_a_row_with_another_number_of_fields_than_the_header(tmp_path: Path) -> None:
    data = DataFiles(tmp_path)
    for row, count in (("x,1", 2), ("x,1,t,more", 4)):
        (tmp_path / "a.csv").write_text(f"name,number,type\nx,1,t\n\n{row}\n")
        with pytest.raises(DataError, match=rf"a\.csv, line 4: the row has {count} fields, the header 3\."):
            list(data.csv_rows("a.csv", columns=("name",)))
    # Control: blank fields at the end, and line breaks in fields, are no mistake.
    (tmp_path / "a.csv").write_text('name,number,type\n"x\ny",1,t,\n')
    (row,) = data.csv_rows("a.csv", columns=("name",))
    assert row.values == {"name": "x\ny", "number": "1", "type": "t"}
