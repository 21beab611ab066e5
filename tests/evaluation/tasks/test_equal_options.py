"""Items that offer the same option twice, as Video-MME has some: they are counted, and scored by the right letter."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from finished_runs import write_run

from hf_videollm.evaluation.choice_robust import equal_options
from hf_videollm.evaluation.items import Item
from hf_videollm.evaluation.tasks import find_task, task_names

Load = Callable[[str, Path], list[Item]]
Folder = Callable[[str], Path]
CHOICES = [name for name in task_names() if find_task(name).metric in ("multiple_choice", "matched_choice")]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("a man", "a dog"), []),
        (("a man", "A man."), [[0, 1]]),
        (("a  man", "a dog", "a man", "A DOG"), [[0, 2], [1, 3]]),
        (("A. a man", "B. a dog", "C. a man"), [[0, 2]]),
        (("1", "-1", "1.0"), []),
        (("(a)(c)(b).", "(c)(a)(b).", "(a)(c)(b)."), [[0, 2]]),
        (("a man", "the man", "man"), []),
        ((), []),
    ],
)
def test_options_that_say_the_same(options: tuple[str, ...], expected: list[list[int]]) -> None:
    assert equal_options(options) == expected


def result_of(folder: Path, name: str, items: list[Item]) -> dict[str, Any]:
    """The result of a run in which every item was answered with its first option."""
    write_run(folder, [item.options[0] for item in items], items, name)
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


@pytest.mark.parametrize("name", CHOICES)
def test_they_are_counted_and_marked(stand_in: Folder, load: Load, tmp_path: Path, name: str) -> None:
    items = load(name, stand_in(name))
    # The control: the stand-in has none.
    assert result_of(tmp_path / "as it is", name, items)["equal_options"] == {
        "items": 0,
        "with_the_right_one": 0,
        "ids": [],
    }
    wrong = twice(items[0], is_right=False) if len(items[0].options) > 2 and has_answer(items[0]) else items[0]
    right = twice(items[1], is_right=True)
    found = result_of(tmp_path / "spoiled", name, [wrong, right, *items[2:]])["equal_options"]
    ids = [item.id for item in (wrong, right) if equal_options(item.options)]
    assert found == {"items": len(ids), "with_the_right_one": int(has_answer(right)), "ids": ids}
    lines = (tmp_path / "spoiled/items.jsonl").read_text().splitlines()
    assert sum('"equal_options"' in line for line in lines) == len(ids)


def has_answer(item: Item) -> bool:
    return item.answer_index is not None


def twice(item: Item, is_right: bool) -> Item:
    """The item with the text of one option in the place of another, where the right one is meant or is not."""
    options, right = list(item.options), item.answer_index or 0
    others = [index for index in range(len(options)) if index != right]
    source, target = (right, others[0]) if is_right else (others[0], others[1])
    options[target] = f"{options[source].upper()} "
    return replace(item, options=tuple(options))


def test_items_that_repeat_others_are_counted(stand_in: Folder, load: Load, tmp_path: Path) -> None:
    items = load("nextqa", stand_in("nextqa"))
    assert result_of(tmp_path / "as it is", "nextqa", items)["counts"]["repeated_items"] == 0
    # Another id, and nothing else.
    again = [replace(items[0], id="again"), replace(items[1], id="once more")]
    assert result_of(tmp_path / "twice", "nextqa", [*items, *again])["counts"]["repeated_items"] == 2
