"""Items refuse contradictions; parts of folders of frames are chosen by PLLaVA's rule."""

import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hf_videollm.evaluation.items import Item, Medium
from hf_videollm.models.errors import MediaError

MEDIA = (Medium(Path("clip.mp4")),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"questions": ()}, "asks nothing"),
        ({"media": ()}, "shows nothing"),
        ({"options": ("a", "b"), "answer": "a", "answer_index": 2}, "none of its 2 options"),
        ({"options": ("a", "b"), "answer": "a", "answer_index": 1}, "is not option 1"),
        ({"media": (Medium(Path("x"), start=2.0, end=2.0),)}, "start 2.0 is not before end 2.0"),
        ({"media": (Medium(Path("x"), start=-1.0),)}, "start is -1.0, which is no second of a video"),
        ({"media": (Medium(Path("x"), end=float("inf")),)}, "end is inf, which is no second of a video"),
        ({"media": (Medium(Path("x"), start=float("nan"), end=1.0),)}, "start is nan, which is no second of a video"),
        ({"media": (Medium(Path("x"), start=math.nan, end=2.0),)}, "start is nan, which is no second"),
        ({"media": (Medium(Path("x"), end=math.inf),)}, "end is inf, which is no second"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    Item("1", MEDIA, ("Who?",), ("a", "b"), "b", 1)
    with pytest.raises(ValueError, match=message):
        Item(**{"id": "1", "media": MEDIA, "questions": ("Who?",), **changes})


def test_the_only_question_and_all_references() -> None:
    assert Item("1", MEDIA, ("Who?",)).question == "Who?"
    assert Item("1", MEDIA, ("Who?",)).all_references == ()
    assert Item("1", MEDIA, ("Who?",), answer="a").all_references == ("a",)
    assert Item("1", MEDIA, ("Who?",), answer="a", references=("a", "b")).all_references == ("a", "b")
    with pytest.raises(ValueError, match="has 2 questions"):
        _ = Item("1", MEDIA, ("Who?", "What?")).question


def frames(folder: Path, count: int, first: int = 1) -> Path:
    folder.mkdir()
    for number in range(first, first + count):
        Image.new("RGB", (32, 32), (number % 256, 0, 0)).save(folder / f"{number:05d}.jpg")
    return folder


def test_a_file_names_its_part_and_a_folder_lists_its_pictures(tmp_path: Path) -> None:
    assert Medium(Path("clip.mp4"), start=1.0, end=2.5).to_block() == {
        "type": "video",
        "path": "clip.mp4",
        "start": 1.0,
        "end": 2.5,
    }
    folder = frames(tmp_path / "frames", 12)
    assert Medium(folder, fps=3.0).to_block() == {"type": "video", "path": str(folder)}
    block = Medium(folder, start=1.0, end=2.0, fps=3.0).to_block()
    assert [Path(name).name for name in block["video"]] == ["00003.jpg", "00004.jpg", "00005.jpg", "00006.jpg"]
    # A part that ends behind the last frame ends there; the first second of frames is frame 1.
    assert len(Medium(folder, start=3.0, end=99.0, fps=3.0).to_block()["video"]) == 4
    assert len(Medium(folder, end=1.0, fps=3.0).to_block()["video"]) == 3


def test_frames_are_those_of_the_official_evaluation(tmp_path: Path) -> None:
    """A golden value of PLLaVA: 100 frames at 25 fps, seconds 1 to 3, four frames: 31, 43, 56 and 69."""
    from hf_videollm.models.video_processing_pllava import PllavaVideoProcessor

    first, last = Medium(tmp_path, start=1.0, end=3.0, fps=25.0).chosen_frames(100)
    within = PllavaVideoProcessor().sample_range(0, last - first, 4)
    # File names are counted from 1.
    assert [int(index) + first + 1 for index in within] == [31, 43, 56, 69]


def test_halves_are_rounded_to_even_numbers() -> None:
    medium = Medium(Path("x"), start=0.5, end=1.5, fps=3.0)  # frames 1.5 and 4.5
    assert medium.chosen_frames(10) == (1, 3)


def test_what_cannot_be_chosen_is_told(tmp_path: Path) -> None:
    folder = frames(tmp_path / "frames", 3)
    with pytest.raises(ValueError, match="`fps`, which is missing"):
        Medium(folder, start=1.0).to_block()
    with pytest.raises(ValueError, match=r"start=9 s lies behind the last of 3 frames"):
        Medium(folder, start=9.0, fps=3.0).to_block()
    (tmp_path / "empty").mkdir()
    with pytest.raises(MediaError, match="holds no pictures"):
        Medium(tmp_path / "empty", start=1.0, fps=3.0).to_block()
    # What is missing is told when it is read, as a file is.
    assert Medium(tmp_path / "gone", start=1.0, fps=3.0).to_block()["path"].endswith("gone")
