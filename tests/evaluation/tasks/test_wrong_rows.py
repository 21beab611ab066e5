"""A wrong row or file stops every benchmark in the same way: the error names the file and the place in it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_videollm.evaluation.data_files import DataError, Row
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


def test_a_row_refuses_a_blank_answer_and_takes_none() -> None:
    row = Row({}, "/data/q.json, row 7")
    fields: dict[str, Any] = {"id": "1", "media": (Medium(Path("a.mp4")),), "questions": ("What?",)}
    for blank in ("", " ", "\t"):
        with pytest.raises(DataError, match=r"^/data/q\.json, row 7: the right answer of item '1' is blank"):
            row.item(**fields, answer=blank)
    # Control: a secret answer and a written one are fine.
    assert row.item(**fields).answer is None
    assert row.item(**fields, answer="a").answer == "a"
