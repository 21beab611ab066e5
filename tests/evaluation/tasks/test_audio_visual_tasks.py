"""MUSIC-AVQA, AVSD and AVSSD: places of questions, subsets, judges, releases, errors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_videollm.evaluation.data_files import DataError
from hf_videollm.evaluation.items import Item
from hf_videollm.evaluation.tasks import find_task
from hf_videollm.synthetic.benchmarks.media import known_questions, write_json, write_table
from hf_videollm.synthetic.scene import QUESTION_KINDS

Load = Callable[[str, Path], list[Item]]
Folder = Callable[[str], Path]
Edit = Callable[[Path, Callable[[Any], Any]], None]
SUBSETS = {"avsd": "avsd_full", "avssd": "avssd_full"}


@pytest.mark.parametrize("name", ["music_avqa", *SUBSETS, *SUBSETS.values()])
def test_the_sound_is_heard(stand_in: Folder, load: Load, name: str) -> None:
    assert all(item.media[0].use_audio is True for item in load(name, stand_in(name)))


def test_places_of_music_avqa_are_filled(stand_in: Folder, load: Load) -> None:
    """The stand-in takes the names of shapes out of its questions; the loader has to put them in again."""
    folder = stand_in("music_avqa")
    items = load("music_avqa", folder)
    known = known_questions(len(items), kinds=QUESTION_KINDS)
    assert [item.question for item in items] == [each.qa.question for each in known]
    assert sum("<Object>" in row["question_content"] for row in json.loads((folder / "avqa-test.json").read_text())) > 2


ROW = {
    "video_id": "00000093",
    "question_id": 5,
    "type": '["Audio-Visual", "Comparative"]',
    "question_content": "Is the <Object> on the <LR> louder than the <Object>?",
    "templ_values": '["flute", "left", "acoustic_guitar"]',
    "question_deleted": 0,
    "anser": "acoustic_guitar",
}


def test_a_row_of_music_avqa(load: Load, tmp_path: Path) -> None:
    write_json(tmp_path / "data/json_update/avqa-test.json", [ROW, {**ROW, "question_id": 6, "question_deleted": 1}])
    (item,) = load("music_avqa", tmp_path)
    assert item.id == "5"
    assert item.question == "Is the flute on the left louder than the acoustic_guitar?"
    assert item.references == ("acoustic_guitar", "acoustic guitar")
    assert item.groups == {"modality": "Audio-Visual", "type": "Audio-Visual Comparative"}
    assert find_task("music_avqa").prompt_rule("videollama2")(item, item.question).text == item.question


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"templ_values": '["flute"]'}, r"row 0: question_content has 3 places for 1 templ_values"),
        ({"templ_values": "flute"}, r"row 0: templ_values is 'flute', which is no list in JSON"),
        ({"templ_values": "[1, 2, 3]"}, r"row 0: templ_values is '\[1, 2, 3\]', which is no list of texts"),
        ({"type": "[]"}, r"row 0: type is an empty list"),
        ({"type": None}, r"row 0: the field 'type' is missing"),
        ({"anser": None}, r"row 0: the field 'anser' is missing"),
        ({"question_deleted": "no"}, r"row 0: question_deleted is 'no', which is no int"),
    ],
)
def test_wrong_rows_of_music_avqa(load: Load, tmp_path: Path, change: dict[str, Any], words: str) -> None:
    write_json(tmp_path / "avqa-test.json", [{**ROW, **change}])
    with pytest.raises(DataError, match=words):
        load("music_avqa", tmp_path)


@pytest.mark.parametrize("name", SUBSETS)
def test_an_eighth_is_judged(stand_in: Folder, load: Load, name: str) -> None:
    folder = stand_in(name)
    part, whole = load(name, folder), load(SUBSETS[name], folder)
    assert len(part) == 20
    assert len(whole) == 160
    # In the order of the file.
    assert part == [item for item in whole if item.id in {each.id for each in part}]
    assert "seed" in " ".join(find_task(name).notes)


@pytest.mark.parametrize("name", SUBSETS)
def test_both_judge_texts_of_videollama2(name: str) -> None:
    texts = find_task(name).judge_texts
    assert texts == {"default": "avqa_table9", "videollama2": "avqa_table9", "videollama2_code": "avqa_code"}


def test_avsd_is_asked_turn_by_turn(stand_in: Folder, load: Load) -> None:
    folder = stand_in("avsd_full")
    dialogs = json.loads((folder / "valid_set4DSTC10-AVSD.json").read_text())["dialogs"]
    expected = [
        (f"{dialog['image_id']}_{number}", turn["question"], turn["answer"])
        for dialog in dialogs
        for number, turn in enumerate(dialog["dialog"])
    ]
    items = load("avsd_full", folder)
    assert [(item.id, item.question, item.answer) for item in items] == expected
    assert items[3].groups == {"turn": "4"}
    # No history: the prompt is the question alone.
    assert find_task("avsd").prompt_rule("videollama2")(items[3], items[3].question).text == items[3].question


@pytest.mark.parametrize("file", ["valid_set4DSTC7-AVSD.json", "avsd_val.json"])
def test_other_releases_of_avsd(load: Load, tmp_path: Path, file: str) -> None:
    """Names of fields differ in their case."""
    turn = {"Question": "q", "Answer": "a"}
    write_json(tmp_path / file, {"dialogs": [{"Image_ID": "YSE1G", "Dialog": [turn, turn]}], "version": "0.1"})
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/YSE1G.mp4").touch()
    items = load("avsd_full", tmp_path)
    assert [item.id for item in items] == ["YSE1G_0", "YSE1G_1"]
    assert items[0].media[0].path == tmp_path / "videos/YSE1G.mp4"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], r"AVSD\.json should hold an object with the field 'dialogs'"),
        ({"dialogs": [{"image_id": "x"}]}, r"dialogs, row 0: the field 'dialog' is missing"),
        ({"dialogs": [{"image_id": "x", "dialog": [{"question": "q"}]}]}, r"row 0 \(x\), dialog, row 0: .*'answer'"),
    ],
)
def test_wrong_avsd(load: Load, tmp_path: Path, value: Any, words: str) -> None:
    write_json(tmp_path / "valid_set4DSTC10-AVSD.json", value)
    with pytest.raises(DataError, match=words):
        load("avsd_full", tmp_path)


def test_a_dialog_that_stands_twice(copied: Folder, load: Load, edit: Edit) -> None:
    folder = copied("avsd_full")

    def double(value: dict[str, Any]) -> None:
        value["dialogs"].append(value["dialogs"][0])

    edit(folder / "valid_set4DSTC10-AVSD.json", double)
    with pytest.raises(DataError, match=r"dialogs, row \d+: the id 'clip0000' stands already in .*dialogs, row 0;"):
        load("avsd_full", folder)


def test_avssd_asks_the_same_of_every_clip(stand_in: Folder, load: Load) -> None:
    items = load("avssd_full", stand_in("avssd_full"))
    for style in ("default", "videollama2"):
        texts = {find_task("avssd").prompt_rule(style)(item, item.question).text for item in items}
        assert texts == {"Identify the event in the video."}
    # The clips of the train split are none of them.
    assert not any("train" in item.id for item in items)
    assert items[0].id == "clip0000_000000"


@pytest.mark.parametrize(("file", "row"), [("vggsound.csv", ["a", 3, "wind", "test"]), ("test.csv", ["a.mp4", "wind"])])
def test_a_clip_that_stands_twice(load: Load, tmp_path: Path, file: str, row: list[Any]) -> None:
    write_table(tmp_path / file, [row, row])
    with pytest.raises(DataError, match=r"line 2: the id 'a.*' stands already in .*line 1;"):
        load("avssd_full", tmp_path)


def test_avssd_from_the_other_table(load: Load, tmp_path: Path) -> None:
    write_table(tmp_path / "test.csv", [["--abc_000030.mp4", "dog barking, loud"], ["x_000001.mp4", "wind"]])
    items = load("avssd_full", tmp_path)
    assert [(item.id, item.answer) for item in items] == [("--abc_000030", "dog barking, loud"), ("x_000001", "wind")]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (["abc", "x", "wind", "test"], r"vggsound\.csv, line 1: start is 'x', which is no whole number"),
        (["abc", 3, "wind", "dev"], r"vggsound\.csv, line 1: split is 'dev', which is neither train nor test"),
        (["abc", 3, "wind", "test"] * 2, r"expected 4 fields .*got 8"),
        (["abc", 3, "wind"], r"vggsound\.csv, line 1: expected 4 fields \(id, start, label, split\), got 3"),
    ],
)
def test_wrong_avssd(load: Load, tmp_path: Path, row: list[Any], words: str) -> None:
    write_table(tmp_path / "vggsound.csv", [row])
    with pytest.raises(DataError, match=words):
        load("avssd_full", tmp_path)
