"""Tiny LVLM-eHub: five groups, pictures, prompt, errors."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hf_videollm.evaluation.data_files import DataError
from hf_videollm.evaluation.items import Item
from hf_videollm.evaluation.tasks import find_task
from hf_videollm.evaluation.tasks.tiny_lvlm_ehub import GROUPS

Load = Callable[[str, Path], list[Item]]
Folder = Callable[[str], Path]
Edit = Callable[[Path, Callable[[Any], Any]], None]
NAME = "tiny_lvlm_ehub"


def test_items_of_five_groups(stand_in: Folder, load: Load) -> None:
    items = load(NAME, stand_in(NAME))
    assert Counter(item.groups["group"] for item in items) == dict.fromkeys(GROUPS, 4)
    for item in items:
        assert item.media[0].type == "image"
        # Paths of pictures are relative to their group.
        assert item.media[0].path.parent.parent.name == item.groups["group"]
        with Image.open(item.media[0].path) as picture:
            assert picture.size == (64, 64)


def test_prompt_of_internvls_runner(stand_in: Folder, load: Load) -> None:
    item = load(NAME, stand_in(NAME))[0]
    for style in ("default", "internvl"):
        prompt = find_task(NAME).prompt_rule(style)(item, "What is it?")
        assert prompt.text == "What is it? Answer the question using a single word or phrase."
        assert prompt.generate_kwargs == {"do_sample": False, "max_new_tokens": 30, "min_new_tokens": 1}
    assert find_task(NAME).prompt_rule("raw")(item, "What is it?").text == "What is it?"


def test_groups_without_the_outer_folder(stand_in: Folder, load: Load, tmp_path: Path) -> None:
    shutil.copytree(stand_in(NAME) / "updated_datasets", tmp_path / "inner")
    items = load(NAME, tmp_path / "inner")
    assert [item.id for item in items] == [item.id for item in load(NAME, stand_in(NAME))]
    assert all(item.media[0].path.exists() for item in items)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gt_answers": []}, r"Visual_Perception/dataset\.json, row 1: gt_answers is \[\]"),
        ({"gt_answers": [1]}, r"row 1: gt_answers is \[1\], which is no list of one text or more"),
        ({"gt_answers": 1}, r"row 1: gt_answers is 1, which is no str or list"),
        ({"image_path": None}, r"row 1: the field 'image_path' is missing"),
        ({"image_path": "../x.png"}, r"the name '\.\./x\.png' of a medium leads out"),
    ],
)
def test_wrong_rows(copied: Folder, load: Load, edit: Edit, change: dict[str, Any], words: str) -> None:
    folder = copied(NAME)

    def changed(rows: list[dict[str, Any]]) -> None:
        rows[1].update(change)

    edit(folder / "updated_datasets/Visual_Perception/dataset.json", changed)
    with pytest.raises(DataError, match=words):
        load(NAME, folder)


def test_several_answers_are_references(copied: Folder, load: Load, edit: Edit) -> None:
    folder = copied(NAME)

    def several(rows: list[dict[str, Any]]) -> None:
        rows[0]["gt_answers"] = ["red", "crimson", "red"]

    edit(folder / f"updated_datasets/{GROUPS[0]}/dataset.json", several)
    assert load(NAME, folder)[0].references == ("red", "crimson")
