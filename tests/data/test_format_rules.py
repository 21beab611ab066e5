"""Rules of the formats that files of people break: letters, clocks, tabs, cuts, ids that stand twice."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from hf_videollm.data.decoding import decoded_seconds
from hf_videollm.data.loading import load_data, read_data, write_data
from hf_videollm.data.mix import load_mix
from hf_videollm.data.mix_plan import prepare_mix
from hf_videollm.data.parsed_files import DataError
from hf_videollm.data.record import media_of
from hf_videollm.data.records import read_jsonl
from hf_videollm.data.unique_yaml import load_unique
from hf_videollm.models.errors import MediaError


def table(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> Path:
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    path.write_text("".join(delimiter.join(line) + "\n" for line in lines))
    return path


def listed(path: Path, rows: list[Any]) -> Path:
    path.write_text(json.dumps(rows))
    return path


LETTERS = {
    "dots": ["A. red", "B. blue", "C. green"],
    "brackets": ["(A) red", "(B) blue", "(C) green"],
    "half brackets": ["A) red", "B) blue", "C) green"],
    "colons": ["A: red", "B: blue", "C: green"],
    "none": ["red", "blue", "green"],
}


@pytest.mark.parametrize("form", LETTERS)
@pytest.mark.parametrize("answer", [1, "B", "(B)", "blue", "as it stands"])
def test_options_are_texts_without_letters(form: str, answer: Any, tmp_path: Path) -> None:
    options = LETTERS[form]
    said = options[1] if answer == "as it stands" else answer
    rows = [{"video": "a.mp4", "question": "Which?", "options": options, "answer": said}]
    (record,) = read_data(listed(tmp_path / "q.json", rows), "Q")
    assert record["options"] == LETTERS["none"]
    assert (record["answer"], record["answer_index"]) == ("blue", 1)
    assert [block["text"] for message in record["messages"] for block in message["content"] if block["text"]] == [
        "Which?\n(A) red\n(B) blue\n(C) green",
        "(B) blue",
    ]


def test_names_that_look_like_letters_stay(tmp_path: Path) -> None:
    options = ["A. Lincoln", "T. Roosevelt"]
    rows = [{"video": "a.mp4", "question": "Who?", "options": options, "answer": 1}]
    assert next(read_data(listed(tmp_path / "q.json", rows), "Q"))["options"] == options


@pytest.mark.parametrize("number", [26, 27])
def test_there_are_as_many_options_as_letters(number: int, tmp_path: Path) -> None:
    rows = [{"video": "a.mp4", "question": "Which?", "options": [f"o{n}" for n in range(number)], "answer": 3}]
    path = listed(tmp_path / "q.json", rows)
    if number == 26:
        assert "(Z) o25" in next(read_data(path, "Q"))["messages"][0]["content"][1]["text"]
        return
    with pytest.raises(DataError, match=r"row 0: options has 27 options, but there are 26 letters"):
        list(read_data(path, "Q"))
    assert next(read_data(path, "Q", open=True))["answer"] == "o3"


def test_tgif_qa_as_published(tmp_path: Path) -> None:
    (tmp_path / "tumblr_1.gif").write_bytes(b"GIF89a")
    rows = [{"gif_name": "tumblr_1", "question": "what, is it?", "answer": "dog", "vid_id": "ACTION1", "key": 7}]
    path = table(tmp_path / "Test_frameqa_question.csv", rows, "\t")
    for letter in (None, "Q"):
        (record,) = read_data(path, letter)
        assert (record["id"], record["answer"]) == ("Test_frameqa_question/train/7", "dog")
        assert [(block["path"], block["kind"]) for block in media_of(record)] == [("tumblr_1.gif", "gif")]
    choices = {**rows[0], **{f"a{number}": f"option {number}" for number in range(1, 6)}, "answer": 4}
    assert next(read_data(table(tmp_path / "Train_action_question.csv", [choices], "\t")))["answer"] == "option 5"


def test_a_second_answer_to_a_question_is_refused(tmp_path: Path) -> None:
    asked = [{"question_id": "1", "video": "a", "question": "q?"}]
    answers = [{"question_id": "1", "answer": "x"}, {"question_id": "1", "answer": "y"}]
    listed(tmp_path / "answers.json", answers)
    with pytest.raises(DataError, match=r"answers\.json, row 1: question 1 stands already in .*row 0"):
        list(read_data(listed(tmp_path / "asked.json", asked), "Q", answers="answers.json"))


CUTS: dict[str, tuple[str, dict[str, Any], tuple[float | None, float | None]]] = {
    "AudioCaps": ("A", {"audiocap_id": 1, "youtube_id": "x", "start_time": 30, "caption": "rain"}, (30.0, 40.0)),
    "MusicCaps": ("A", {"ytid": "x", "start_s": 30, "end_s": 35, "caption": "rain"}, (30.0, 35.0)),
    "Kinetics": ("G", {"label": "dog", "youtube_id": "x", "time_start": 3, "time_end": 13}, (3.0, 13.0)),
    "plain": ("G", {"label": "dog", "video": "x.mp4", "start": 3, "end": 13}, (3.0, 13.0)),
    "no times": ("G", {"label": "dog", "video": "x.mp4", "subset": "train"}, (None, None)),
    "no times of sounds": ("A", {"audiocap_id": 1, "youtube_id": "x", "caption": "rain"}, (None, None)),
}


@pytest.mark.parametrize("name", CUTS)
def test_cut_shows_the_part_or_says_what_is_missing(name: str, tmp_path: Path) -> None:
    letter, row, (start, end) = CUTS[name]
    path = table(tmp_path / "t.csv", [row])
    whole = media_of(next(read_data(path, letter)))[0]
    assert (whole["start"], whole["end"]) == (None, None)
    if start is None:
        with pytest.raises(DataError, match=r"t\.csv, line 2: cut needs columns with start and end.*name them in col"):
            list(read_data(path, letter, cut=True))
        return
    cut = media_of(next(read_data(path, letter, cut=True)))[0]
    assert (cut["start"], cut["end"]) == (start, end)


@pytest.mark.parametrize("time", ["00:75:99", "00:60:00", "00:00:60", "10:99"])
def test_clocks_have_sixty_minutes(time: str, tmp_path: Path) -> None:
    row = {"video": "x.mp4", "caption": "rain", "start": time, "end": "01:59:59.5"}
    with pytest.raises(DataError, match=r"line 2: start is .*over 59"):
        list(read_data(table(tmp_path / "t.csv", [row]), "K"))
    # The control: minutes alone may be many.
    row["start"] = "75:59"
    assert media_of(next(read_data(table(tmp_path / "t.csv", [row]), "K")))[0]["start"] == 75 * 60 + 59


@pytest.mark.parametrize("style", ["percent", "seconds"])
def test_moments_before_the_video_are_refused(style: str, tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image>\nWhen?"}, {"from": "gpt", "value": "At <s0>."}]
    meta = {"duration": 10.0, "token": {"<s0>": -0.5}}
    path = listed(tmp_path / "t.json", [{"id": "v", "conversations": turns, "meta": meta}])
    with pytest.raises(DataError, match=r"row 0, meta, token: <s0> is -0\.5, before the video"):
        list(read_data(path, "T", time_format=style))


@pytest.mark.parametrize("letter", ["L", "S"])
def test_rows_that_begin_with_an_answer_are_left_out_but_not_all_of_them(letter: str, tmp_path: Path) -> None:
    turns = [{"from": "gpt", "value": "hi"}, {"from": "human", "value": "<video>q"}, {"from": "gpt", "value": "a"}]
    rows = [{"id": "1", "video": "v", "conversations": turns}, {"id": "2", "video": "v", "conversations": turns[1:]}]
    assert [record["id"] for record in read_data(listed(tmp_path / "f.json", rows), letter)] == ["f/train/2"]
    alone = listed(tmp_path / "alone.json", rows[:1])
    message = r"alone\.json: no row is left.*1 begins with gpt"
    with pytest.raises(DataError, match=message):
        load_data(alone, letter, cache_dir=str(tmp_path / "cache"))
    mix = tmp_path / "mix.yaml"
    mix.write_text(yaml.safe_dump({"sources": [{"annotation": "alone.json", "format": letter}]}))
    with pytest.raises(DataError, match=message):
        prepare_mix(load_mix(mix), str(tmp_path / "cache"))


@pytest.mark.parametrize("context", ["none", "caption", "summary"])
@pytest.mark.parametrize("history", [True, False])
def test_dialogs_come_back(context: str, history: bool, tmp_path: Path) -> None:
    turns = [{"question": "Who?", "answer": "A man."}, {"question": "Why?", "answer": "He waits."}]
    dialogs = {"dialogs": [{"image_id": "X", "caption": "A man waits.", "summary": "Waiting.", "dialog": turns}]}
    path = tmp_path / "d.json"
    path.write_text(json.dumps(dialogs))
    records = list(read_data(path, "D", context=context, history=history))
    write_data(records, tmp_path / "again.json", "D", context=context, history=history)
    assert json.loads((tmp_path / "again.json").read_text())["dialogs"][0]["dialog"] == turns


def test_null_is_not_told_as_a_misspelt_name(tmp_path: Path) -> None:
    path = listed(tmp_path / "s.json", [{"video": None, "conversations": [{"from": "human", "value": "q"}]}])
    with pytest.raises(DataError, match=r"row 0: the field 'video' is missing: its value is null") as caught:
        list(read_data(path, "S"))
    assert "did you mean" not in str(caught.value)


PART = {"type": "video", "path": "clips/a.mp4", "start": 1.0, "end": 2.5}
TURNS = [
    {"role": "user", "content": [PART, {"type": "text", "text": "Which?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "red"}]},
]
WHOLE = {
    "id": "s/train/0",
    "source": "s",
    "split": "train",
    "task": "mc_qa",
    "messages": TURNS,
    "options": ["red", "blue"],
    "answer": "red",
    "answer_index": 0,
    "references": ["red"],
    "meta": '{"a": 1}',
}


@pytest.mark.parametrize("row", [WHOLE, {"id": "1", "messages": TURNS, "metadata": {"kind": "colour"}}])
def test_files_of_records_hold_what_a_mix_reads(row: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (record,) = read_jsonl(path)
    (same,) = read_data(path, "R")
    assert record.messages[0]["content"][0] == {**PART, "path": str(tmp_path / "clips/a.mp4")}
    assert record.answer == "red"
    assert record.metadata["kind"] == ("colour" if "metadata" in row else "mc_qa")
    assert media_of(same)[0]["end"] == 2.5
    backwards = json.loads(json.dumps(row))
    backwards["messages"][0]["content"][0]["end"] = 0.5
    path.write_text(json.dumps(backwards) + "\n")
    with pytest.raises(DataError, match=r"r\.jsonl, line 1.*end 0\.5 is not behind start 1"):
        read_jsonl(path)


def test_paths_of_one_video_are_one_video(tmp_path: Path) -> None:
    names = ["./clips/a.mp4", "clips/a.mp4", "clips/../clips/a.mp4", "clips/b.mp4"]
    rows = []
    for number, name in enumerate(names):
        turns = [
            {"role": "user", "content": [{"type": "video", "path": name}, {"type": "text", "text": "q"}]},
            TURNS[1],
        ]
        rows.append({"id": str(number), "messages": turns})
    (tmp_path / "clips").mkdir()
    for name in "ab":
        (tmp_path / "clips" / f"{name}.mp4").write_bytes(b"x")
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mix.yaml").write_text("sources: [{annotation: r.jsonl, fraction: 0.5}]")
    (counts,) = prepare_mix(load_mix(tmp_path / "mix.yaml"), str(tmp_path / "cache")).sources
    assert (counts.videos, counts.chosen_videos) == (2, 1)
    assert counts.chosen in (1, 3)


def test_keys_stand_once() -> None:
    assert load_unique("a: &x {b: 1}\nc: {<<: *x, b: 2}") == {"a": {"b": 1}, "c": {"b": 2}}
    with pytest.raises(DataError, match="line 3: the key 'b' stands twice"):
        load_unique("a:\n  b: 1\n  b: 2\n")


def test_media_are_decoded_for_their_length(clips: list[str], tmp_path: Path) -> None:
    block = {"type": "video", "path": clips[0], "kind": "file"}
    record = {"messages": [{"role": "user", "content": [block]}]}
    (length,) = decoded_seconds(record)
    assert length > 0
    block["path"] = str(tmp_path / "broken.mp4")
    Path(block["path"]).write_bytes(b"")
    with pytest.raises(MediaError):
        list(decoded_seconds(record))
