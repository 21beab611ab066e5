"""Clotho-AQA, TUT2017 and VocalSound: all forms of their files, prompts letter by letter, errors."""

import json
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from hf_videollm.evaluation.data_files import DataError
from hf_videollm.evaluation.items import Item
from hf_videollm.evaluation.tasks import find_task
from hf_videollm.synthetic.benchmarks.media import known_questions, write_json_lines, write_table

Load = Callable[[str, Path], list[Item]]
Folder = Callable[[str], Path]
Edit = Callable[[Path, Callable[[Any], Any]], None]
TUT2017 = (
    "Question: Identify the sound event in the audio.\nOptions:\n(A) beach\n(B) bus\n(C) cafe or restaurant\n(D) car\n"
    "(E) city center\n(F) forest path\n(G) grocery store\n(H) home\n(I) library\n(J) metro station\n(K) office\n"
    "(L) park\n(M) residential area\n(N) train\n(O) tram\n.Answer with the option's letter from the given choices "
    "directly and only give the best option."
)
VOCALSOUND = (
    "Identify the human sound in the audio.\nOptions:\n(A) Laughter\n(B) Sigh\n(C) Cough\n(D) Throat clearing\n"
    "(E) Sneeze\n(F) Sniff\n.Answer with the option's letter from the given choices directly and only give the best "
    "option."
)


def text(name: str, style: str, item: Item) -> str:
    return find_task(name).prompt_rule(style)(item, item.question).text


@pytest.mark.parametrize("name", ["clotho_aqa", "tut2017", "vocalsound"])
def test_media_are_sounds(stand_in: Folder, load: Load, name: str) -> None:
    for item in load(name, stand_in(name)):
        assert [medium.type for medium in item.media] == ["audio"]
        with wave.open(str(item.media[0].path), "rb") as file:
            assert (file.getframerate(), file.getnchannels()) == (16_000, 1)
            assert file.getnframes() > 0


def test_prompts(stand_in: Folder, load: Load) -> None:
    clotho = load("clotho_aqa", stand_in("clotho_aqa"))[0]
    assert text("clotho_aqa", "videollama2", clotho) == (
        f"Question: {clotho.question}\nAnswer the question using a single word."
    )
    assert text("clotho_aqa", "lmms_eval", clotho) == (
        f"{clotho.question}\nAnswer the question using a single word only. "
    )
    assert text("tut2017", "videollama2", load("tut2017", stand_in("tut2017"))[0]) == TUT2017
    vocalsound = load("vocalsound", stand_in("vocalsound"))[0]
    assert text("vocalsound", "videollama2", vocalsound) == VOCALSOUND
    assert text("vocalsound", "lmms_eval", vocalsound) == "Classify the human vocal sound to VocalSound in English: "


def test_what_most_people_say_is_right(stand_in: Folder, load: Load) -> None:
    """In the stand-in one of the three is wrong, the first as often as the last."""
    items = load("clotho_aqa", stand_in("clotho_aqa"))
    known = known_questions(len(items), kinds=("beeps", "pitch"))
    assert [(item.question, item.answer) for item in items] == [(each.qa.question, each.qa.answer) for each in known]
    assert {item.groups["agreement"] for item in items} == {"2 of 3"}
    assert {item.groups["kind"] for item in items} == {"one word"}


HEADER = ["file_name", "QuestionText", "answer", "confidence"]


def test_the_official_table_of_clotho_aqa(load: Load, tmp_path: Path) -> None:
    rows = [
        ["a.wav", "Is it rain? ", "no", "yes"],
        ["a.wav", "Is it rain?", "Yes", "yes"],
        ["a.wav", "Is it rain?", "yes ", "no"],
        ["a.wav", "What is it?", "rain", "yes"],
        ["a.wav", "What is it?", "water", "yes"],
    ]
    write_table(tmp_path / "clotho_aqa_test.csv", [HEADER, *rows])
    items = load("clotho_aqa", tmp_path)
    assert [(item.id, item.answer, item.groups["kind"], item.groups["agreement"]) for item in items] == [
        ("a_0", "Yes", "yes/no", "2 of 3"),
        # The first where they all differ.
        ("a_1", "rain", "one word", "1 of 2"),
    ]
    write_table(tmp_path / "clotho_aqa_test.csv", [["file_name", "Question", "answer"], ["a.wav", "q", "a"]])
    with pytest.raises(DataError, match=r"clotho_aqa_test\.csv lacks the column 'QuestionText'"):
        load("clotho_aqa", tmp_path)


def test_qwen_audios_list_of_clotho_aqa(load: Load, tmp_path: Path) -> None:
    row = {"audio": "/cpfs/clotho/a.wav", "gt": "yes", "question": "Is it rain?", "source": "clothoaqa"}
    write_json_lines(tmp_path / "clothoaqa_eval.jsonl", [row, {**row, "question": "Is it wind?"}])
    items = load("clotho_aqa", tmp_path)
    assert [item.id for item in items] == ["a_0", "a_1"]
    assert items[0].media[0].path == tmp_path / "audio_files/a.wav"


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def test_sounds_of_the_hub_are_written_out(stand_in: Folder, load: Load, tmp_path: Path) -> None:
    sounds = sorted((stand_in("clotho_aqa") / "audio_files").iterdir())[:2]
    rows = [
        {"audio": {"bytes": sound.read_bytes(), "path": path}, "question": "q", "answer": "no"}
        for sound, path in zip(sounds, ("x.flac", None), strict=True)
    ]
    path = tmp_path / "clotho_aqa/clotho_aqa_test_filtered-00000-of-00001.parquet"
    write_parquet(path, rows)
    items = load("clotho_aqa", tmp_path)
    assert [item.media[0].path.name for item in items] == [
        "clotho_aqa_test_filtered_000000.flac",
        "clotho_aqa_test_filtered_000001.wav",
    ]
    assert [item.media[0].path.read_bytes() for item in items] == [sound.read_bytes() for sound in sounds]
    # They are written once.
    written = [item.media[0].path.stat().st_mtime_ns for item in items]
    assert [item.media[0].path.stat().st_mtime_ns for item in load("clotho_aqa", tmp_path)] == written
    write_parquet(path, [{"audio": {"path": "x.wav"}, "question": "q", "answer": "no"}])
    with pytest.raises(DataError, match=r"parquet, row 0: audio holds no bytes, only path"):
        load("clotho_aqa", tmp_path)


def test_vocalsound_of_the_hub(load: Load, tmp_path: Path) -> None:
    row = {"audio": {"bytes": b"RIFF", "path": None}, "answer": "Throat clearing", "spk_id": "m0001", "age_group": 2}
    path = tmp_path / "data/test-00000-of-00001.parquet"
    write_parquet(path, [row])
    (item,) = load("vocalsound", tmp_path)
    assert item.groups == {"label": "Throat clearing", "sex": "male", "age": "26-48"}
    assert item.media[0].path.read_bytes() == b"RIFF"
    write_parquet(path, [{**row, "answer": "Snore"}])
    with pytest.raises(DataError, match=r"row 0: 'Snore' is none of the 6 sounds"):
        load("vocalsound", tmp_path)


def test_labels_of_vocalsound_come_from_the_names(stand_in: Folder, load: Load) -> None:
    items = load("vocalsound", stand_in("vocalsound"))
    assert {item.answer for item in items} == {"Laughter", "Sigh", "Cough", "Throat clearing", "Sneeze", "Sniff"}
    for item in items:
        assert item.media[0].path.stem.endswith(item.answer.lower().replace(" ", ""))
        assert item.groups["sex"] == {"f": "female", "m": "male"}[item.id[0]]


def test_qwen_audios_list_of_vocalsound(load: Load, tmp_path: Path) -> None:
    rows = [{"audio": f"/cpfs/vs/audio_16k/f0003_0_{name}.wav", "gt": name} for name in ("cough", "throatclearing")]
    write_json_lines(tmp_path / "vocalsound_eval.jsonl", rows)
    items = load("vocalsound", tmp_path)
    assert [item.answer for item in items] == ["Cough", "Throat clearing"]
    assert items[0].media[0].path == tmp_path / "audio_16k/f0003_0_cough.wav"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], r"te\.json should hold an object with the field 'data'"),
        ({"data": [{"wav": "x0003_0_cough.wav"}]}, r"data, row 0: 'x0003_0_cough\.wav' should begin with f or m"),
        ({"data": [{"wav": "f0003_0_snore.wav"}]}, r"data, row 0: 'snore' is none of the 6 sounds"),
        ({"data": [{"labels": "x"}]}, r"data, row 0: the field 'wav' is missing"),
        ({"data": [{"wav": "f1_0_cough.wav"}] * 2}, r"data, row 1: the id 'f1_0_cough' stands already in .*row 0;"),
    ],
)
def test_wrong_vocalsound(copied: Folder, load: Load, edit: Edit, value: Any, words: str) -> None:
    folder = copied("vocalsound")
    edit(folder / "meta/te.json", lambda _: value)
    with pytest.raises(DataError, match=words):
        load("vocalsound", folder)


@pytest.mark.parametrize("file", ["evaluation_setup/evaluate.txt", "meta.txt"])
def test_tut2017_as_first_released(load: Load, tmp_path: Path, file: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text("audio/1.wav\tcafe/restaurant\naudio/2.wav\tcity_center\tb020\n")
    items = load("tut2017", tmp_path)
    assert [(item.id, item.answer) for item in items] == [("1", "cafe or restaurant"), ("2", "city center")]
    assert [item.answer_index for item in items] == [2, 4]
    path.write_text("audio/1.wav beach\n")
    with pytest.raises(DataError, match=r"line 1: expected a file and its place with a tab between"):
        load("tut2017", tmp_path)


def test_wrong_places_of_tut2017(copied: Folder, load: Load) -> None:
    folder = copied("tut2017")
    path = folder / "tut2017_eval.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write_json_lines(path, [{**rows[0], "gt": "beech"}])
    with pytest.raises(DataError, match=r"line 1: 'beech' is none of the 15 places: .*beach"):
        load("tut2017", folder)
    write_json_lines(path, [rows[0], rows[0]])
    with pytest.raises(DataError, match=r"line 2: the id '0' stands already in .*line 1;"):
        load("tut2017", folder)
