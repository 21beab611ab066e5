"""Video-MME: prompts with and without subtitles, which lines are shown, places of the files, errors."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from hf_videollm.evaluation.data_files import DataError
from hf_videollm.evaluation.items import Item
from hf_videollm.evaluation.multiple_choice import score_choice
from hf_videollm.evaluation.tasks import find_task
from hf_videollm.synthetic.benchmarks.media import write_parquet

Load = Callable[[str, Path], list[Item]]
Folder = Callable[[str], Path]
NAME, WITH = "videomme", "videomme_subtitles"
TABLE = "videomme/test-00000-of-00001.parquet"
SELECT = "Select the best answer to the following multiple-choice question based on the video"
RESPOND = "Respond with only the letter (A, B, C, or D) of the correct option."
BELOW = "This video's subtitles are listed below:"


def listed(item: Item) -> str:
    return "\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", item.options, strict=True))


def change_rows(folder: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    rows = pyarrow.parquet.read_table(folder / TABLE).to_pylist()
    change(rows)
    write_parquet(folder / TABLE, rows)


def at(item: Item, *times: float) -> Item:
    """The item, as it is when the times of the model's frames are known."""
    return replace(item, extra={**item.extra, "frame_times": times})


def texts(name: str, item: Item) -> dict[str, str]:
    return {style: rule(item, "Why?").text for style, rule in find_task(name).prompts.items()}


def test_prompts_without_subtitles(stand_in: Folder, load: Load) -> None:
    item = load(NAME, stand_in(NAME))[0]
    found = texts(NAME, item)
    start = f"{SELECT}. {RESPOND}\nWhy?\n{listed(item)}\n"
    letter = "Answer with the option's letter from the given choices directly"
    assert found["official"] == found["default"] == f"{start}The best answer is:"
    assert found["videollama2"] == f"{start}{letter} and only give the best option. The best answer is: "
    assert found["linvt"] == f"{start}{letter}."
    assert found["lmms_eval"] == f"{SELECT} and the subtitles. {RESPOND}\nWhy?\n{listed(item)}\n\n{letter}."


def test_prompts_with_subtitles(stand_in: Folder, load: Load) -> None:
    item = at(next(item for item in load(WITH, stand_in(WITH)) if item.extra["subtitles"]), 0.2, 0.7, 0.9)
    found = texts(WITH, item)
    half_seconds = int(item.extra["subtitles"][-1].end * 2)
    lines = [f"Half second {number + 1}." for number in range(half_seconds)]
    with_both = f"{SELECT} and the subtitles. {RESPOND}\nWhy?\n{listed(item)}\nThe best answer is:"
    assert found["official_all_lines"] == f"{BELOW}\n" + "\n".join(lines) + f"\n{with_both}"
    without = texts(NAME, item)
    # The words about subtitles in the question are the official prompt's alone.
    shown = f"{BELOW}\nHalf second 1.\nHalf second 2.\nHalf second 2.\n"
    assert found["linvt"] == shown + without["linvt"]
    assert found["official"] == found["default"] == shown + with_both
    assert found["videollama2"].startswith(f"{BELOW}\nHalf second 1.\n")
    # Many frames see each line several times, and VideoLLaMA2 writes it once.
    often = at(item, *(number / 16 for number in range(1, 32)))
    assert texts(WITH, often)["videollama2"].count("Half second 2.") == 1
    assert texts(WITH, often)["official"].count("Half second 2.") > 1
    assert found["videollama2"].endswith(f"\n{without['videollama2']}")
    assert found["lmms_eval"].startswith(f"{BELOW} \nHalf second 1.\nHalf second 2.\n")


def test_only_some_prompts_depend_on_the_frames(stand_in: Folder, load: Load) -> None:
    item = next(item for item in load(WITH, stand_in(WITH)) if item.extra["subtitles"])
    few, many = texts(WITH, at(item, 0.2)), texts(WITH, at(item, *(number / 8 for number in range(1, 16))))
    same = {style for style in few if few[style] == many[style]}
    assert same == {"official_all_lines", "lmms_eval", "bare"}
    # lmms-eval takes 32 frames, but each line once.
    assert few["lmms_eval"].count("Half second") == len(item.extra["subtitles"])


def test_videos_without_subtitles(stand_in: Folder, load: Load) -> None:
    item = next(item for item in load(WITH, stand_in(WITH)) if not item.extra["subtitles"])
    found = texts(WITH, item)
    assert found["official"] == texts(NAME, item)["official"]
    assert found["videollama2"] == f"{BELOW}\n\n{texts(NAME, item)['videollama2']}"
    assert found["lmms_eval"].startswith(f"{BELOW} \nNo subtitles available\n")


def test_a_broken_video_has_a_prompt_all_the_same(copied: Folder, load: Load) -> None:
    """A run renders the first prompt, whatever becomes of its video. Nobody knows the frames of such a video."""
    items = load(WITH, copied(WITH))
    item = next(item for item in items if item.extra["subtitles"])
    item.media[0].path.write_bytes(b"no video")
    found = texts(WITH, item)
    assert "Half second" not in found["videollama2"] + found["official"] + found["linvt"]


@pytest.mark.parametrize("place", ["test-00000-of-00001.parquet", "Video-MME/videomme/test-00000-of-00001.parquet"])
def test_other_places_of_the_table(copied: Folder, load: Load, place: str) -> None:
    folder = copied(NAME)
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    (folder / TABLE).rename(folder / place)
    assert len(load(NAME, folder)) == 20


def test_groups_are_those_of_the_table(stand_in: Folder, load: Load) -> None:
    items = load(NAME, stand_in(NAME))
    assert {item.groups["duration"] for item in items} == {"short", "medium", "long"}
    assert {len(item.groups) for item in items} == {4}


def test_videollama2_reads_the_words_of_an_option_with_its_full_stop(stand_in: Folder, load: Load) -> None:
    rule = find_task(NAME).choice_rules["videollama2"]
    item = load(NAME, stand_in(NAME))[0]
    assert item.options[0].endswith(".")
    choice, _ = score_choice(item.options[2].removesuffix("."), item.options, 2, rule)
    assert choice.index == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[3].update(answer="E"), r"parquet, row 3: answer is 'E', but the options are A to D"),
        (lambda rows: rows[1].update(question_id="001-1"), r"row 1: question_id '001-1' stands already in .*row 0"),
        (lambda rows: [row.pop("domain") for row in rows], r"parquet lacks the column 'domain'"),
        (lambda rows: rows[0].update(videoID="../x"), r"the name '.*\.\./x' of a medium leads out"),
    ],
)
def test_wrong_tables(copied: Folder, load: Load, change: Callable[..., None], words: str) -> None:
    folder = copied(NAME)
    change_rows(folder, change)
    with pytest.raises(DataError, match=words) as error:
        load(NAME, folder)
    assert "\n" not in str(error.value)


def test_subtitles_that_are_none(copied: Folder, load: Load) -> None:
    folder = copied(WITH)
    path = sorted((folder / "subtitle").iterdir())[0]
    path.write_text("nothing of the kind")
    with pytest.raises(DataError, match=rf"{path.name} has no line such as"):
        load(WITH, folder)
    # Control: the task without subtitles does not read them.
    assert load(NAME, folder)
