"""Readers of foreign formats: what they make of invented rows, there and back, and errors that name places."""

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from hf_videollm.data.formats import FORMATS, find_format
from hf_videollm.data.loading import detect_format, load_data, open_source, read_data, write_data
from hf_videollm.data.parsed_files import DataError
from hf_videollm.data.record import Record, RecordError, check_record, meta_of

EXAMPLES = Path(__file__).parents[1] / "fixtures" / "formats"
# File -> letter of its format, records that it holds, options that it needs.
FILES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "llava.json": ("L", 6, {}),
    "video/reasoning/invented_mc/train.json": ("V", 2, {}),
    "videochat2.json": ("V", 2, {}),
    "video_chatgpt.json": ("C", 3, {}),
    "sharegptvideo.jsonl": ("S", 2, {}),
    "vtimellm.json": ("T", 2, {}),
    "nextqa.csv": ("Q", 3, {}),
    "avqa.json": ("Q", 2, {}),
    "clevrer.json": ("Q", 2, {}),
    "lifeqa.json": ("Q", 3, {}),
    "open_qa.json": ("Q", 2, {}),
    "webvid.csv": ("K", 2, {}),
    "panda.csv": ("K", 2, {}),
    "internvid.jsonl": ("K", 2, {}),
    "wavcaps.json": ("A", 2, {}),
    "clotho.csv": ("A", 6, {}),
    "audiocaps.csv": ("A", 2, {}),
    "musiccaps.csv": ("A", 1, {}),
    "esc50.csv": ("G", 3, {}),
    "ssv2.json": ("G", 1, {}),
    "vggsound.csv": ("G", 2, {"header": ["youtube_id", "start", "label", "split"]}),
    "avsd.json": ("D", 3, {}),
    "music_avqa.json": ("M", 2, {}),
    "records.jsonl": ("R", 2, {}),
}


def read(name: str, **options: Any) -> list[Record]:
    letter, _, needed = FILES[name]
    return list(read_data(EXAMPLES / name, letter, **{**needed, **options}))


def turns(record: Record) -> list[Any]:
    """The conversation in short: texts, and paths in brackets."""
    return [
        [block["text"] if block["type"] == "text" else [block["path"]] for block in message["content"]]
        for message in record["messages"]
    ]


def test_every_format_has_an_example() -> None:
    assert {letter for letter, _, _ in FILES.values()} == set(FORMATS)
    assert set("LVCSTQKAGDM") < set(FORMATS)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_recognised_read_written_and_read_again(name: str, tmp_path: Path) -> None:
    letter, count, options = FILES[name]
    assert detect_format(EXAMPLES / name, options.get("header")).letter == letter
    records = read(name)
    assert len(records) == count
    assert len({record["id"] for record in records}) == count
    assert [check_record(record) for record in records] == records
    suffix = Path(name).suffix if letter != "Q" else ".json"
    # Without the folders that tell the task of VideoChat2-IT's files.
    first = records[0]
    path = write_data(records, tmp_path / f"out{suffix}", letter)
    assert list(read_data(path, letter, name=first["source"], split=first["split"])) == records
    assert detect_format(path).letter == letter


def test_dataset_holds_the_records_with_whole_paths(tmp_path: Path) -> None:
    for streaming in (False, True):
        dataset = load_data(EXAMPLES / "llava.json", root=EXAMPLES, streaming=streaming, cache_dir=str(tmp_path))
        found = list(dataset)
        assert [row["id"] for row in found] == [record["id"] for record in read("llava.json")]
        assert found[0]["messages"][0]["content"][0]["path"] == str(EXAMPLES / "clips/1.mp4")
        for row in found:
            check_record(row)


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    rows = json.loads((EXAMPLES / "video_chatgpt.json").read_text())
    for count in (1, 3):
        path.write_text(json.dumps(rows[:count]))
        assert len(load_data(path, cache_dir=str(tmp_path / "cache"))) == count


def test_an_error_in_a_row_is_the_error_of_the_dataset(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text('[{"q": "a", "a": "b", "video_id": "v"}, {"q": "a", "a": " ", "video_id": "v"}]')
    with pytest.raises(DataError, match=r"c\.json, row 1: a is blank"):
        load_data(path, cache_dir=str(tmp_path / "cache"))


# What each format makes of its rows.


def test_llava() -> None:
    one, two, three, four, five, six = read("llava.json")
    assert turns(one)[0] == [["clips/1.mp4"], "What is on the table?"]
    assert turns(one)[3] == ["A child.\nIt is tall."]
    assert (one["id"], two["id"]) == ("llava/train/a-1", "llava/train/a-1#2")
    assert turns(two)[0] == ["Compare", ["p/1.png"], "with", ["p/2.jpg"], ", please."]
    assert (three["task"], three["messages"][0]["role"], one["task"]) == ("text", "system", "instruct")
    # <image> means the video where there is no image.
    assert turns(four)[0] == ["What is heard?", ["clips/2.mp4"]]
    assert meta_of(four)["source"] == "invented"
    assert turns(five)[0] == [["clips/3.mp4"], "No token here."]
    assert six["messages"][0]["content"][0]["type"] == "audio"
    assert turns(read("llava.json", order="media_first")[3])[0] == [["clips/2.mp4"], "What is heard?"]


def test_rows_that_the_rules_leave_out_are_counted() -> None:
    for name, reason in {
        "llava.json": "begins with gpt",
        "music_avqa.json": "deleted",
        "clevrer.json": "not exactly one right choice",
    }.items():
        source, found = open_source(EXAMPLES / name)
        list(found.read(source))
        assert source.dropped == {reason: 1}


def test_videochat2() -> None:
    one, two = read("video/reasoning/invented_mc/train.json")
    assert [message["role"] for message in two["messages"]] == ["system", "user", "assistant", "user", "assistant"]
    assert turns(one)[:2] == [["Choose an option."], [["v/1.mp4"], "What moves?\nOptions:\n(A) the cube\n(B) the ball"]]
    shown = two["messages"][1]["content"][0]
    assert (shown["start"], shown["end"], one["task"], two["task"]) == (3.0, 9.5, "mc_qa", "mc_qa")
    assert meta_of(two) == {"type": "reasoning", "instructions": {"1": "Answer freely."}}
    gif, image = read("videochat2.json")
    assert turns(gif) == [[["v/1.gif"]], ["a cat jumps"]]
    assert (gif["messages"][0]["content"][0]["kind"], gif["messages"][0]["content"][0]["fps"]) == ("gif", 25.0)
    assert (gif["task"], image["task"], meta_of(image)) == ("caption", "open_qa", {"note": "kept"})


def test_video_chatgpt_alternates_by_the_rows_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "v_2.webm").touch()
    first, second, third = read("video_chatgpt.json", root=tmp_path)
    assert turns(first)[0] == ["What happens?", ["v_1.mp4"]]
    assert turns(second)[0] == [["v_2.webm"], "Where?"]
    assert turns(third)[0] == ["Why?", ["v_1.mp4"]]
    with pytest.raises(RecordError, match="cannot hold its"):
        write_data([second], tmp_path / "out.json", "C")


def test_sharegptvideo() -> None:
    block = read("sharegptvideo.jsonl")[0]["messages"][0]["content"][0]
    assert (block["kind"], block["path"], block["fps"]) == ("frames", "f-1", None)


def test_vtimellm() -> None:
    first, second = read("vtimellm.json")
    # 100 * 1.2 / 60.5 = 1.98, 50, 74.4, and 100 becomes 99.
    assert turns(first)[1] == ["From 02 to 50, and again from 74 to 99."]
    block = first["messages"][0]["content"][0]
    assert (block["path"], block["start"], block["end"]) == ("t-1.mp4", 0.0, 60.5)
    assert second["messages"][0]["content"][0]["start"] == 10.0
    seconds = read("vtimellm.json", time_format="seconds")
    assert turns(seconds[0])[1] == ["From 1.2 to 30.25, and again from 45 to 60.5."]


def test_questions() -> None:
    first, second, third = read("nextqa.csv")
    assert turns(first) == [
        [["11.mp4"], "why does the dog bark\n(A) hungry\n(B) sees a cat\n(C) tired\n(D) happy\n(E) cold"],
        ["(B) sees a cat"],
    ]
    assert (first["options"][1], first["answer"], first["answer_index"]) == ("sees a cat", "sees a cat", 1)
    assert (second["id"], third["answer"]) == ("nextqa/train/11_1", "park")
    assert turns(read("nextqa.csv", answer_style="letter")[0])[1] == ["B"]
    assert turns(read("nextqa.csv", answer_style="text")[0])[1] == ["sees a cat"]
    opened = read("nextqa.csv", open=True)[0]
    assert turns(opened) == [[["11.mp4"], "why does the dog bark"], ["sees a cat"]]
    assert (opened["task"], opened["answer_index"], first["task"]) == ("open_qa", 1, "mc_qa")
    assert read("avqa.json")[0]["answer"] == "bird"
    shapes = read("clevrer.json")
    assert [record["answer"] for record in shapes] == ["cube", "They meet"]
    assert [record["id"] for record in shapes] == ["clevrer/train/5_0", "clevrer/train/5_1"]
    assert [record["id"] for record in read("lifeqa.json")] == [f"lifeqa/train/{n}" for n in ("31_0", "32_0", "32_1")]


def test_questions_whose_answers_are_in_a_second_file(tmp_path: Path) -> None:
    (tmp_path / "q.json").write_text('[{"question_id": "v_1", "video_name": "1", "question": "is it?"}]')
    (tmp_path / "a.json").write_text('[{"question_id": "v_1", "answer": "yes"}]')
    (record,) = read_data(tmp_path / "q.json", "Q", answers="a.json", pattern="v_{video_name}.mp4")
    assert turns(record) == [[["v_1.mp4"], "is it?"], ["yes"]]
    (tmp_path / "a.json").write_text('[{"question_id": "v_2", "answer": "yes"}]')
    with pytest.raises(DataError, match="answers has none for question v_1"):
        list(read_data(tmp_path / "q.json", "Q", answers="a.json"))
    with pytest.raises(DataError, match=r"answers: there is no file .*b\.json"):
        list(read_data(tmp_path / "q.json", "Q", answers="b.json"))


def test_captions() -> None:
    one, two = read("webvid.csv")
    assert turns(one)[0][0] == ["000001_000050/101.mp4"]
    assert turns(two)[1] == ["waves, slow"]
    second = read("panda.csv")[1]
    block = second["messages"][0]["content"][0]
    assert (block["path"], block["start"], block["end"]) == ("abc.mp4", 60.0, 62.0)
    assert turns(second)[1] == ["It's frying."]
    assert read("internvid.jsonl")[0]["messages"][0]["content"][0]["end"] == 4.0
    assert turns(read("webvid.csv", instructions=["Caption it."])[0])[0][1] == "Caption it."
    assert turns(read("webvid.csv", pattern="{page_dir}-{videoid:06d}.mkv")[0])[0][0] == ["000001_000050-000101.mkv"]
    chosen = {turns(record)[0][1] for seed in range(20) for record in read("webvid.csv", seed=seed)}
    assert len(chosen) == 4


def test_captions_of_sounds() -> None:
    records = read("clotho.csv")
    assert [record["answer"] for record in records[:3]] == ["It rains.", "Rain falls.", "Water drips."]
    assert records[1]["references"] == ["Rain falls.", "It rains.", "Water drips."]
    assert {len(read("clotho.csv", multi="random", seed=seed)) for seed in range(3)} == {2}
    assert len({read("clotho.csv", multi="random", seed=seed)[0]["answer"] for seed in range(20)}) == 3
    assert turns(read("wavcaps.json")[0])[0][0] == ["180.wav"]
    cut = read("musiccaps.csv", cut=True)[0]["messages"][0]["content"][0]
    assert (cut["start"], cut["end"]) == (30.0, 40.0)
    whole = read("musiccaps.csv")[0]
    assert (whole["messages"][0]["content"][0]["start"], meta_of(whole)["start_s"]) == (None, "30")


def test_sounds_of_test_sets_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "w.json").write_bytes((EXAMPLES / "wavcaps.json").read_bytes())
    (tmp_path / "black.json").write_text('{"FreeSound": ["180"], "AudioSet": ["181"]}')
    for part, left in (("FreeSound", ["181"]), ("AudioSet", ["180"])):
        options = {"blacklist": "black.json", "blacklist_part": part}
        found = list(read_data(tmp_path / "w.json", "A", **options))
        assert [record["id"] for record in found] == [f"w/train/{name}" for name in left]
    assert list(read_data(tmp_path / "w.json", "A", blacklist="black.json")) == []


def test_labels() -> None:
    one = read("esc50.csv")[0]
    assert turns(one) == [[["1-1-A-0.wav"], "Identify the sound event in the audio."], ["dog bark"]]
    assert one["messages"][0]["content"][0]["type"] == "audio"
    asked = read("esc50.csv", num_options=2)
    for record in asked:
        assert len(record["options"]) == 2
        assert record["options"][record["answer_index"]] == record["answer"]
    assert read("vggsound.csv")[1]["answer"] == "dog barking, howling"
    assert [record["answer"] for record in read("vggsound.csv", where={"split": "train"})] == ["playing banjo"]


def test_dialogs() -> None:
    records = read("avsd.json")
    assert [record["id"] for record in records] == ["avsd/train/CH1-0", "avsd/train/CH1-1", "avsd/train/CH2-0"]
    assert turns(records[1]) == [[["CH1.mp4"], "does she speak?"], ["no, not once"]]
    whole = read("avsd.json", history=True)
    assert [len(record["messages"]) for record in whole] == [4, 2]
    assert turns(read("avsd.json", context="caption")[0])[0] == [["CH1.mp4"], "a person sits", "is she alone?"]


def test_music_avqa() -> None:
    first, second = read("music_avqa.json")
    assert turns(first) == [[["0001.mp4"], "How many flutes are on the left?"], ["two"]]
    assert first["messages"][0]["content"][0]["use_audio"] is True
    assert meta_of(second)["modality"] == "Visual"


# What is wrong.

NAN = float("nan")
Change = Callable[[list[Any]], Any]


def put(*path: Any, value: Any) -> Change:
    """Replace a value of the file; an Ellipsis removes it."""

    def change(content: list[Any]) -> None:
        target: Any = content
        for key in path[:-1]:
            target = target[key]
        if value is ...:
            del target[path[-1]]
        else:
            target[path[-1]] = value

    return change


WRONG: list[tuple[str, Change, str]] = [
    ("llava.json", put(1, "image", value=["a.png"]), r"row 1, conversations\[0\]: value has more <image>"),
    ("llava.json", put(1, "image", value=["a.png", "b.png", "c.png"]), "row 1: conversations has no token for 'c.png'"),
    ("llava.json", put(0, "conversations", 1, "from", value="bot"), r"row 0, conversations\[1\]: from is 'bot'"),
    ("llava.json", put(0, "conversations", 1, "value", value=" "), r"row 0, conversations\[1\]: value is blank"),
    ("llava.json", put(0, "conversations", 1, "value", value=7), r"row 0, conversations\[1\]: value is 7"),
    ("llava.json", put(0, "conversations", 3, value=...), "row 0: messages has no answer at its end"),
    ("llava.json", put(0, "conversations", value=[[]]), r"row 0, conversations\[0\] must be an object"),
    ("llava.json", put(2, "conversations", value=[]), "row 2: conversations is an empty list"),
    ("llava.json", put(2, "conversations", value="x"), "row 2: conversations is 'x', which is no list"),
    ("llava.json", put(0, "video", value="../../secret.mp4"), "row 0: video '../../secret.mp4' leads out"),
    ("llava.json", put(0, "video", value="/etc/passwd"), "row 0: video '/etc/passwd' leads out"),
    ("llava.json", put(0, "video", value=""), "row 0: video is blank"),
    ("llava.json", put(0, "video", value=3), "row 0: video is 3"),
    ("llava.json", put(0, "score", value=NAN), "row 0: meta must be an object that JSON can hold"),
    ("llava.json", put(3, value=[1]), "row 3: expected an object, not a list"),
    ("videochat2.json", put(0, "QA", value=[]), "row 0: QA is an empty list"),
    ("videochat2.json", put(0, "QA", 0, "a", value=""), r"row 0, QA\[0\]: a is blank"),
    ("videochat2.json", put(0, "QA", 0, value="x"), r"row 0, QA\[0\] must be an object"),
    ("videochat2.json", put(0, "start", value=NAN), "row 0: start is nan"),
    ("videochat2.json", put(0, "start", value="3"), "row 0: start is '3'"),
    ("videochat2.json", put(0, "end", value=-1), "row 0, messages.*end must be a number, 0 or more"),
    ("videochat2.json", put(0, "video", value=...), "row 0: the field 'video' is missing"),
    ("video_chatgpt.json", put(1, "a", value=...), "row 1: the field 'a' is missing"),
    ("video_chatgpt.json", put(1, "q", value="<video>"), "row 1, .*text holds <video>"),
    ("video_chatgpt.json", put(1, "video_id", value=[]), r"row 1: video_id is \[\]"),
    ("sharegptvideo.jsonl", put(1, "video", value=None), "line 2: the field 'video' is missing"),
    ("vtimellm.json", put(0, "meta", "token", "<e0>", value=...), "row 0, meta: token has no time for <e0>"),
    ("vtimellm.json", put(0, "meta", "token", "<e0>", value="x"), "row 0, meta, token: <e0> is 'x'"),
    ("vtimellm.json", put(0, "meta", "duration", value=0), "row 0, meta: duration is 0"),
    ("vtimellm.json", put(0, "meta", "split", value=[1]), "row 0, meta: split must hold"),
    ("vtimellm.json", put(0, "meta", "split", value=[9, 3]), "row 0, .*end 3 is not behind start 9"),
    ("vtimellm.json", put(0, "meta", value=...), "row 0: the field 'meta' is missing"),
    ("avqa.json", put(0, "answer", value=4), "row 0: answer '4' names none of the 4 options"),
    ("avqa.json", put(0, "answer", value=NAN), "row 0: answer is nan"),
    ("avqa.json", put(0, "multi_choice", value=["a", ""]), "row 0: multi_choice must be a list of texts"),
    ("avqa.json", put(1, "id", value=3), "row 1: question 3 stands already in .*row 0"),
    ("avqa.json", put(1, "question_text", value=...), "row 1: no column holds the question"),
    ("clevrer.json", put(0, "questions", 0, "answer", value=...), r"row 0, questions\[0\]: no column holds the answer"),
    ("lifeqa.json", put("31", "questions", 0, value=3), r"'31', questions\[0\]: expected an object, not a int"),
    ("internvid.jsonl", put(1, "Start_timestamp", value="soon"), "line 2: Start_timestamp is 'soon'"),
    ("internvid.jsonl", put(1, "End_timestamp", value="00:00:10"), "line 2, .*end 10 is not behind start 60"),
    ("internvid.jsonl", put(1, "Caption", value=None), "line 2: the field 'Caption' is missing"),
    ("wavcaps.json", put("data", value=[]), "data is an empty list"),
    ("wavcaps.json", put("data", 1, "caption", value=["a"]), "data, row 1: caption is"),
    ("ssv2.json", put(0, "label", value=""), "row 0: label is blank"),
    ("avsd.json", put("dialogs", 0, "dialog", 1, "answer", value=None), r"dialogs, row 0, dialog\[1\]: the field 'ans"),
    ("avsd.json", put("dialogs", 0, "dialog", value={}), "dialogs, row 0: dialog is {}"),
    ("music_avqa.json", put(0, "templ_values", value='["a"]'), "row 0: question_content has 2 places for 1"),
    ("music_avqa.json", put(0, "templ_values", value="a"), "row 0: templ_values is 'a', which is no list in JSON"),
    ("music_avqa.json", put(2, "question_id", value=41), "row 2: question_id 41 stands already in .*row 0"),
    ("music_avqa.json", put(0, "anser", value=...), "row 0: the field 'anser' is missing"),
    ("records.jsonl", put(1, "id", value="r-1"), "line 2: id 'r-1' stands already in .*line 1"),
    ("records.jsonl", put(0, "message", value=[]), "line 1: a record has no field 'message': did you mean messages"),
    ("records.jsonl", put(1, "messages", 0, "content", 0, "fps", value=...), "line 2, .*needs fps and first"),
]


def load(path: Path) -> Any:
    text = path.read_text()
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)


def save(content: Any, path: Path) -> None:
    lines = "".join(f"{json.dumps(row)}\n" for row in content) if path.suffix == ".jsonl" else json.dumps(content)
    path.write_text(lines)


@pytest.mark.parametrize(("name", "change", "message"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_named_with_file_row_and_field(
    name: str, change: Change, message: str, tmp_path: Path
) -> None:
    content = load(EXAMPLES / name)
    change(content)
    path = tmp_path / name
    save(content, path)
    with pytest.raises(DataError, match=message) as error:
        list(read_data(path, FILES[name][0]))
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


BROKEN: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a.json", b"", "is empty"),
    "blank": ("a.jsonl", b" \n\n", "is empty"),
    "empty list": ("a.json", b"[]", "holds no row"),
    "no list": ("a.json", b"3", "should hold a list"),
    "cut": ("a.json", b'[{"q": "a", "a": "b", "video_id": "c"}, {"q"', "line 1 cannot be read as JSON"),
    "no end": (
        "a.json",
        b'[{"q": "a", "a": "b", "video_id": "c"}\n,',
        "line 2 .*the list has no end",
    ),
    "more": ("a.json", b'[{"q": "a", "a": "b", "video_id": "c"}]\n\n[', "line 3 .*more behind the end"),
    "no comma": ("a.json", b'[{"q": "a", "a": "b", "video_id": "c"}\n{}]', "line 2 .*a comma"),
    "twice": ("a.json", b'[{"q": "a",\n "q": "b"}]', "line 1: the key 'q' stands twice"),
    "nested": ("a.json", b"[" * 100_000, "nested too deeply"),
    "no UTF-8": ("a.json", b'[{"q": "a"},\n"\xff"]', "line 2 has the byte 0xff"),
    "cut line": ("a.jsonl", b'{"q": "a", "a": "b", "video_id": "c"}\n{"q"', "line 2 cannot be read as JSON"),
    "other ending": ("a.xml", b"<a/>", r"\.xml is no \.json"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named_with_their_line(name: str, tmp_path: Path) -> None:
    file, content, message = BROKEN[name]
    path = tmp_path / file
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        list(read_data(path, "C"))
    assert str(error.value).startswith(str(path))


def test_broken_tables(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for content, message in {
        "": "is empty",
        "videoid,name\n": "holds no row below its header",
        "videoid,name,name\n1,a,b\n": "has the column 'name' twice",
        "videoid,name\n1,a\n2\n": "line 3: the row has 1 fields, the header 2",
        'videoid,name\n1,"a\n': "line 2: a quotation mark",
        "videoid,name\n1,a\n2, \n": "line 3: name is blank",
    }.items():
        path.write_text(content)
        with pytest.raises(DataError, match=message) as error:
            list(read_data(path, "K"))
        assert str(error.value).startswith(str(path))
    path.write_bytes(b"not parquet")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        list(read_data(path.rename(tmp_path / "a.parquet"), "K"))


def test_parquet(tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_list([{"image": "a.png", "caption": "A map."}]).to_parquet(tmp_path / "a.parquet")
    (record,) = read_data(tmp_path / "a.parquet")
    assert turns(record)[1] == ["A map."]
    assert record["messages"][0]["content"][0]["type"] == "image"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("llava.json", {"ordre": "as_is"}, "has no option 'ordre': did you mean order"),
        ("llava.json", {"order": "first"}, "order is 'first', which is none of as_is, media_first"),
        ("video_chatgpt.json", {"order": "as_is"}, r"format C \(video_chatgpt\) has no option 'order': it has none"),
        ("nextqa.csv", {"open": "yes"}, "open must be of type bool, not 'yes'"),
        ("nextqa.csv", {"columns": {"film": "video"}}, "columns names the meaning 'film'"),
        ("nextqa.csv", {"columns": {"video": "vid"}}, "line 2: columns names 'vid': did you mean"),
        ("nextqa.csv", {"where": {"kind": "CW"}}, "where names the column 'kind'"),
        ("nextqa.csv", {"where": {"type": "XX"}}, "chooses no row"),
        ("nextqa.csv", {"pattern": "{film}.mp4"}, "line 2: pattern names the column 'film'"),
        ("nextqa.csv", {"pattern": "{video"}, "does not fit"),
        ("webvid.csv", {"instructions": []}, "instructions must be a list of texts"),
        ("webvid.csv", {"seed": "0"}, "seed must be of type int"),
        ("esc50.csv", {"num_options": 4}, "num_options is 4, but the file has 3 labels"),
        ("nextqa.csv", {"root": "nowhere"}, "no such folder of media"),
    ],
)
def test_wrong_options(name: str, options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(read_data(EXAMPLES / name, FILES[name][0], **options))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"video": "a", "caption": "b", "label": "c"}, r"it may be K \(captions\), G \(labels\): say which"),
        ({"film": "a"}, "with the fields film it is none of the formats L "),
    ],
)
def test_a_format_that_is_not_clear_is_not_guessed(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([row]))
    with pytest.raises(DataError, match=message):
        detect_format(path)


def test_formats_by_name() -> None:
    assert find_format("v") is find_format("videochat2") is FORMATS["V"]
    with pytest.raises(DataError, match=r"no format 'videochat': .*did you mean"):
        find_format("videochat")
    with pytest.raises(DataError, match="no such file"):
        open_source("gone.json")
    with pytest.raises(DataError, match="is a folder"):
        open_source(EXAMPLES)


def test_names_of_options_that_could_be_two_are_not_guessed(tmp_path: Path) -> None:
    row = {"video": "a", "question": "how many?", "options": ["1", "0", "2"], "answer": "1"}
    path = tmp_path / "a.json"
    path.write_text(json.dumps([row]))
    with pytest.raises(DataError, match="may be the index or the text"):
        list(read_data(path, "Q"))
    assert [next(read_data(path, "Q", answer_is=form))["answer"] for form in ("index", "text")] == ["0", "1"]
    path.write_text(json.dumps([{**row, "options": ["x", "y"], "answer": "(b)"}]))
    assert next(read_data(path, "Q"))["answer"] == "y"
    assert next(read_data(path, "Q", answer_is="letter"))["answer_index"] == 1
    path.write_text(json.dumps([{**row, "options": ["x", "y"], "answer": 1}]))
    assert next(read_data(path, "Q", first_index=1))["answer"] == "x"


def test_absolute_paths_below_the_root_become_relative(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    rows = json.loads((EXAMPLES / "llava.json").read_text())[:1]
    rows[0]["video"] = str(tmp_path / "clips" / "1.mp4")
    path.write_text(json.dumps(rows))
    assert turns(next(read_data(path, "L")))[0][0] == ["clips/1.mp4"]


def test_a_file_is_read_row_by_row(tmp_path: Path) -> None:
    """The first record comes before a fault behind it is found; in pieces of any size, the rows are the same."""
    from hf_videollm.data import json_stream

    rng = random.Random(0)
    rows = [{"q": 'é\n"x" ' * rng.randrange(9), "n": rng.random(), "l": [[], {}, None]} for _ in range(200)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=2), encoding="utf-8-sig")
    for size in (1, 7, 64, 1 << 20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(json_stream, "_BYTES_AT_ONCE", size)
            assert list(json_stream.stream_json_list(path)) == rows
    path.write_text('[{"q": "a", "a": "b", "video_id": "c"}, {]')
    found = read_data(path, "C")
    assert next(found)["task"] == "instruct"
    with pytest.raises(DataError):
        next(found)


def test_writing_refuses_what_a_format_cannot_hold(tmp_path: Path) -> None:
    (record,) = read("nextqa.csv")[:1]
    with pytest.raises(RecordError, match=r"format L \(llava\) cannot hold its"):
        write_data([record], tmp_path / "a.json", "L")
    with pytest.raises(RecordError, match="no records"):
        write_data([], tmp_path / "a.json", "L")
    with pytest.raises(RecordError, match="several sources"):
        write_data([record, {**record, "source": "b"}], tmp_path / "a.json", "L")
    with pytest.raises(DataError, match=r"has files with \.json"):
        write_data([record], tmp_path / "a.csv", "C")
    assert list(tmp_path.iterdir()) == []
    write_data([record], tmp_path / "a.jsonl", "R")


def test_formats_never_import_each_other() -> None:
    import ast

    import hf_videollm.data.formats as formats

    for file in Path(formats.__file__).parent.glob("*.py"):
        imports = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
        assert file.name == "__init__.py" or all(node.level != 1 for node in imports), file
