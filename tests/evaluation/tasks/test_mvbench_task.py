"""MVBench: both layouts of its files, parts of videos, the papers' prompts, and errors."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_videollm.evaluation.data_files import DataError
from hf_videollm.evaluation.items import Item
from hf_videollm.evaluation.prompting import Prompt
from hf_videollm.evaluation.tasks import find_task
from hf_videollm.evaluation.tasks.mvbench import SUB_TASKS
from hf_videollm.synthetic.benchmarks.choices import part_of
from hf_videollm.synthetic.benchmarks.media import known_questions

Load = Callable[[str, Path], list[Item]]
Folder = Callable[[str], Path]
Edit = Callable[[Path, Callable[[Any], Any]], None]
NAME = "mvbench"
BOUNDED = ("AS", "AP", "OI", "AL")
WATCH = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question."
)


def by_task(items: list[Item]) -> dict[str, Item]:
    return {item.groups["task"]: item for item in items}


@pytest.fixture
def asked(stand_in: Folder, load: Load) -> Item:
    """An item with two options."""
    return next(item for item in load(NAME, stand_in(NAME)) if len(item.options) == 2)


def test_twenty_sub_tasks_in_the_order_of_the_tables(stand_in: Folder, load: Load) -> None:
    items = load(NAME, stand_in(NAME))
    order = "AS AP AA FA UA OE OI OS MD AL ST AC MC MA SC FP CO EN ER CI"
    assert [item.groups["task"] for item in items] == order.split()
    assert [f"{name}/0" for name in SUB_TASKS] == [item.id for item in items]


def test_parts_are_those_of_their_rows(stand_in: Folder, load: Load) -> None:
    known = known_questions(20)
    for number, (abbreviation, item) in enumerate(by_task(load(NAME, stand_in(NAME))).items()):
        medium, part = item.media[0], part_of(known[number])
        if abbreviation == "ER":
            assert medium.fps == 3.0
            assert medium.path.is_dir()
            # The frames of the part, and no other.
            assert medium.chosen_frames(part.stop) == (part.first, part.stop - 1)
            shown = medium.to_block()["video"]
            assert len(shown) == known[number].scene.num_frames
        elif abbreviation in BOUNDED:
            assert (medium.start, medium.end) == ((part.first + 0.4) / 8, (part.stop - 0.1) / 8)
            assert medium.fps is None
        else:
            assert (medium.start, medium.end, medium.fps) == (None, None, None)


@pytest.mark.parametrize("root", ["", "data0613", "video/data0613"])
def test_other_places_of_the_folders(copied: Folder, load: Load, root: str) -> None:
    folder = copied(NAME)
    whole = load(NAME, folder)
    moved = folder / "moved"
    (folder / "video").rename(moved)
    (folder / root).mkdir(parents=True, exist_ok=True)
    for each in list(moved.iterdir()):
        each.rename(folder / root / each.name)
    found = load(NAME, folder)
    assert all(item.media[0].path.exists() for item in found)
    assert [item.media[0].start for item in found] == [item.media[0].start for item in whole]


def test_the_revision_with_parts_as_files(copied: Folder, load: Load) -> None:
    folder = copied(NAME)
    for sub_task in SUB_TASKS.values():
        old, cut = folder / "video" / sub_task.folder, sub_task.cut
        if cut is not None and old.exists():
            new = folder / cut
            new.parent.mkdir(parents=True, exist_ok=True)
            old.rename(new)
            for path in list(new.iterdir()):
                if path.is_dir():
                    shutil.rmtree(path)
                    path.with_name(f"{path.name}.mp4").touch()
                else:
                    path.rename(path.with_suffix(".mp4"))
    items = by_task(load(NAME, folder))
    for abbreviation in (*BOUNDED, "ER", "AA", "FP"):
        medium = items[abbreviation].media[0]
        assert (medium.start, medium.end, medium.fps, medium.path.suffix) == (None, None, None, ".mp4")
        assert medium.path.exists()
    # Control: a sub-task that both revisions keep in one folder is still found there.
    assert items["OE"].media[0].path == folder / "video/clevrer/video_validation" / items["OE"].media[0].path.name


def test_a_missing_video_keeps_its_place_and_bounds(copied: Folder, load: Load) -> None:
    folder = copied(NAME)
    shutil.rmtree(folder / "video/sta")
    medium = by_task(load(NAME, folder))["AL"].media[0]
    assert medium.path.parent == folder / "video/sta/sta_video"
    assert medium.start is not None


def test_pllava_prompts(asked: Item, render: Callable[[Item, Prompt], str]) -> None:
    a, b = asked.options
    block = f"Question: Who left?\nOptions:\n(A) {a}\n(B) {b} \nOnly give the best option."
    prompt = find_task(NAME).prompt_rule("pllava")(asked, "Who left?")
    assert render(asked, prompt) == f"{WATCH}\n USER: <video>\n USER: {block} ASSISTANT:Best option:("
    assert (prompt.answer_prefix, prompt.return_prefix) == ("Best option:(", "(")
    assert prompt.generate_kwargs["max_new_tokens"] == 100
    large = render(asked, find_task(NAME).prompt_rule("pllava_34b")(asked, "Who left?"))
    # The 34b model gets Video-ChatGPT's system text here.
    assert large.startswith("You are Video-ChatGPT, ")
    assert large.endswith(f"<|im_start|>user\n{block}<|im_end|>\n<|im_start|>assistant\nBest option:(")


def test_other_prompts(asked: Item) -> None:
    a, b = asked.options
    rules = find_task(NAME).prompts
    texts = {style: rules[style](asked, "Who left?").text for style in rules}
    assert texts["videollama2"] == (
        f"Question: Who left?\nOptions:\n(A) {a}\n(B) {b}\nAnswer with the option's letter from the given choices "
        "directly and only give the best option."
    )
    assert texts["linvt"] == (f"{WATCH}\n\nQuestion: Who left?\nOptions:\n(A) {a}\n(B) {b}\nOnly give the best option.")
    assert texts["lmms_eval"] == f"Question:Who left?\nOption:\n(A) {a}\n(B) {b}\nOnly give the best option.\n"
    assert texts["bare"] == "Who left?"
    assert rules["linvt"](asked, "Who left?").generate_kwargs == {
        "do_sample": False,
        "max_new_tokens": 1000,
        "min_new_tokens": 1,
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"answer": "nobody"}, r"action_sequence\.json, row 0: answer is 'nobody', which is none of the options"),
        ({"candidates": ["one"]}, r"row 0: candidates is \['one'\], which is no list of 2 to 26 texts"),
        ({"start": None}, r"row 0: the field 'start' is missing"),
        (
            {"start": 9.0, "end": 2.0},
            r"action_sequence\.json, row 0: Item 'action_sequence/0': start 9\.0 is not before end 2\.0",
        ),
        ({"video": "../x.mp4"}, r"the name '.*\.\./x\.mp4' of a medium leads out"),
    ],
)
def test_wrong_rows(copied: Folder, load: Load, edit: Edit, change: dict[str, Any], words: str) -> None:
    folder = copied(NAME)
    edit(folder / "json/action_sequence.json", lambda rows: rows[0].update(change))
    with pytest.raises(DataError, match=words) as error:
        load(NAME, folder)
    assert "\n" not in str(error.value)


def test_a_list_of_a_sub_task_is_missing(copied: Folder, load: Load) -> None:
    folder = copied(NAME)
    (folder / "json/moving_count.json").unlink()
    with pytest.raises(DataError, match=r"has no json/moving_count\.json and no moving_count\.json"):
        load(NAME, folder)
