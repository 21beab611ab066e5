"""The canonical record: round trip, atomic writing and errors that name the line."""

import json

import pytest

from hf_videollm.data.records import (
    RecordError,
    VideoQARecord,
    drop_none,
    iter_jsonl,
    make_record,
    read_jsonl,
    write_jsonl,
)


def good_row() -> dict:
    return {
        "id": "a",
        "messages": [
            {
                "role": "user",
                "content": [{"type": "video", "path": "v/a.mp4"}, {"type": "text", "text": "What colour?"}],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "red"}]},
        ],
        "metadata": {"kind": "colour"},
    }


def test_round_trip_resolves_relative_paths(tmp_path):
    record = make_record("a", "v/a.mp4", [("What colour?", "red"), ("And the shape?", "circle")], {"kind": "x"})
    path = write_jsonl([record], tmp_path / "deep" / "records.jsonl")
    assert read_jsonl(path, resolve_media=False) == [record]
    (resolved,) = read_jsonl(path)
    assert resolved.media() == [str(tmp_path / "deep" / "v/a.mp4")]
    assert resolved.answer == "circle"
    assert [message["role"] for message in resolved.prompt_messages()] == ["user", "assistant", "user"]
    assert list(path.parent.iterdir()) == [path]


def test_absolute_paths_and_urls_stay():
    record = make_record("a", "/v/a.mp4", [("q", "a")]).with_media_root("/elsewhere")
    assert record.media() == ["/v/a.mp4"]
    row = good_row()
    row["messages"][0]["content"][0] = {"type": "video", "url": "https://host/a.mp4"}
    assert VideoQARecord.from_dict(row).with_media_root("/x").media() == ["https://host/a.mp4"]


def test_plain_string_content_and_arrow_nones_are_accepted():
    row = good_row()
    row["messages"][1]["content"] = "red"
    row["messages"][0]["content"][1]["path"] = None
    row["messages"][0]["content"][0]["text"] = None
    record = VideoQARecord.from_dict(row)
    assert record.answer == "red"
    assert record.messages[0]["content"][0] == {"type": "video", "path": "v/a.mp4"}
    assert drop_none({"a": [{"b": None, "c": 0}]}) == {"a": [{"c": 0}]}


def test_record_without_answer():
    row = good_row()
    del row["messages"][1]
    record = VideoQARecord.from_dict(row)
    assert record.answer is None
    assert record.prompt_messages() == record.messages


def test_sound_track_block_needs_no_name():
    row = good_row()
    row["messages"][0]["content"].insert(1, {"type": "audio"})
    assert VideoQARecord.from_dict(row).media("audio") == [""]


def change(path: list, value):
    """Return a copy of the good row with one place replaced."""
    row = good_row()
    target = row
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return row


BAD_ROWS = {
    "not an object": ([], "expected an object"),
    "extra key": (change(["video"], "x"), "unknown keys \\['video'\\]"),
    "no id": (change(["id"], ""), "'id' must be"),
    "metadata": (change(["metadata"], 3), "'metadata' must be"),
    "no messages": (change(["messages"], []), "'messages' must be"),
    "role": (change(["messages", 0, "role"], "human"), "message 0: role 'human'"),
    "turn order": (change(["messages", 1, "role"], "user"), "alternation"),
    "message keys": (change(["messages", 0], {"role": "user"}), "exactly the keys"),
    "content": (change(["messages", 0, "content"], []), "non-empty list of blocks"),
    "block": (change(["messages", 0, "content", 0], "x"), "block 0: a block must be"),
    "block type": (change(["messages", 0, "content", 0], {"type": "film"}), "type 'film'"),
    "empty text": (change(["messages", 1, "content", 0, "text"], " "), "message 1, block 0: a text block"),
    "no path": (change(["messages", 0, "content", 0], {"type": "video"}), "exactly one of 'path' and 'url'"),
    "both": (
        change(["messages", 0, "content", 0], {"type": "video", "path": "a", "url": "b"}),
        "exactly one of 'path' and 'url'",
    ),
    "block keys": (
        change(["messages", 0, "content", 0], {"type": "video", "path": "a", "fps": 3}),
        "unknown keys \\['fps'\\]",
    ),
    "assistant video": (change(["messages", 1, "content", 0], {"type": "video", "path": "a"}), "user turn only"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_rows_name_their_line(name, tmp_path):
    row, message = BAD_ROWS[name]
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(good_row()) + "\n\n" + json.dumps(row) + "\n")
    with pytest.raises(RecordError, match=message) as error:
        read_jsonl(path)
    assert str(error.value).startswith(f"{path}, line 3")


@pytest.mark.parametrize("text", ["{", "\udcff"])
def test_broken_json_names_its_line(text, tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RecordError, match="line 1: not valid UTF-8 JSON"):
        list(iter_jsonl(path))


def test_repeated_ids_and_empty_files(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text(2 * (json.dumps(good_row()) + "\n"))
    with pytest.raises(RecordError, match="line 2: id 'a' was already used on line 1"):
        read_jsonl(path)
    path.write_text("\n")
    with pytest.raises(RecordError, match="no records"):
        read_jsonl(path)
    with pytest.raises(FileNotFoundError):
        read_jsonl(tmp_path / "none.jsonl")


def test_failed_write_leaves_nothing(tmp_path):
    bad = VideoQARecord(id="b", messages=[])
    with pytest.raises(RecordError, match="row 1"):
        write_jsonl([make_record("a", "v.mp4", [("q", "a")]), bad], tmp_path / "r.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_make_record_refuses_empty_answers():
    with pytest.raises(RecordError, match="record 'a'"):
        make_record("a", "v.mp4", [("q", "")])
    with pytest.raises(RecordError):
        make_record("a", "v.mp4", [])
