"""The canonical record: its shape in `datasets`, and a validator that names file, row and field."""

from typing import Any

import pytest
from datasets import Dataset

from hf_videollm.data.parsed_files import DataError
from hf_videollm.data.record import RECORD_KEYS, RecordError, check_record, media_of, meta_of, record_features


def row(**changes: Any) -> dict[str, Any]:
    return {
        "id": "set/train/0",
        "source": "set",
        "task": "mc_qa",
        "messages": [
            {"role": "system", "content": "Look."},
            {
                "role": "user",
                "content": [
                    {"type": "video", "path": "a.mp4", "root": "films", "start": 1, "end": 2.5, "use_audio": True},
                    {"type": "text", "text": "What\ncolour?"},
                ],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "red"}]},
        ],
        "options": ["blue", "red"],
        "answer": "red",
        "answer_index": 1,
        "references": ["red", "crimson"],
        "meta": {"b": [1, 2], "a": None},
        **changes,
    }


def with_block(**fields: Any) -> dict[str, Any]:
    """The row, whose medium is this block."""
    changed = row()
    changed["messages"][1]["content"][0] = fields
    return changed


def test_a_record_goes_through_datasets_as_it_is() -> None:
    record = check_record(row())
    assert set(record) == set(RECORD_KEYS) == set(record_features())
    (found,) = Dataset.from_list([record], features=record_features())
    assert found == record
    assert check_record(found) == record
    assert media_of(record)[0]["start"] == 1.0
    assert meta_of(record) == {"a": None, "b": [1, 2]}


def test_missing_fields_get_their_defaults_and_dicts_of_any_order_are_one_record() -> None:
    given = row()
    least = check_record({"id": "1", "messages": given["messages"]})
    assert (least["split"], least["options"], least["answer_index"], least["meta"]) == ("train", [], -1, "{}")
    assert check_record(dict(reversed(given.items()))) == check_record(given)


def test_a_record_without_answer_serves_evaluation_alone() -> None:
    changed = row()
    del changed["messages"][2]
    assert check_record(changed, training=False)["answer"] == "red"
    with pytest.raises(RecordError, match="no answer at its end"):
        check_record(changed)


@pytest.mark.parametrize(
    "block",
    [
        {"type": "video", "path": "f", "kind": "frames", "fps": 3, "first": 1, "start": 0, "end": 4},
        {"type": "video", "path": "f", "kind": "images"},
        {"type": "video", "path": "a.gif", "kind": "gif", "fps": 25.0},
        {"type": "image", "path": "a.png", "root": None, "fps": None},
        {"type": "audio", "path": "a.wav", "end": 3},
    ],
)
def test_media_of_all_kinds(block: dict[str, Any]) -> None:
    (medium,) = media_of(check_record(with_block(**block)))
    assert {name: value for name, value in medium.items() if value is not None} == {
        name: value for name, value in block.items() if value is not None
    }


def test_frames_that_are_all_to_be_seen_need_no_rate() -> None:
    frames = with_block(type="video", path="f", kind="frames")
    check_record({**frames, "meta": {"presampled": True}})
    with pytest.raises(RecordError, match="needs fps and first"):
        check_record(frames)


def test_the_sound_of_the_video_before_needs_no_path() -> None:
    heard = row()
    heard["messages"][1]["content"].insert(1, {"type": "audio"})
    assert [block["type"] for block in media_of(check_record(heard))] == ["video", "audio"]
    heard["messages"][1]["content"].insert(0, {"type": "audio"})
    with pytest.raises(RecordError, match=r"content\[0\]: path must be"):
        check_record(heard)


NAN = float("nan")
WRONG: dict[str, tuple[Any, str]] = {
    "no object": ([row()], "must be an object"),
    "unknown field": (row(answers=["a"]), "no field 'answers': did you mean answer"),
    "no id": (row(id=" "), "id must be"),
    "number as id": (row(id=3), "id must be"),
    "split": (row(split=""), "split must be"),
    "task": (row(task="captions"), "task is 'captions'.* did you mean caption"),
    "no messages": (row(messages=[]), "messages must be"),
    "nested messages": (row(messages=[row()["messages"]]), r"messages\[0\]: a turn"),
    "role": (row(messages=[{"role": "human", "content": "x"}]), r"messages\[0\]: role is 'human'"),
    "order": (row(messages=row()["messages"][1:] * 2 + row()["messages"][1:2] * 2), "user and assistant in turns"),
    "only a system": (row(messages=row()["messages"][:1]), "user and assistant in turns"),
    "blank text": (row(messages=[{"role": "user", "content": " "}]), r"content\[0\]: text must be"),
    "token": (row(messages=[{"role": "user", "content": "<video>\nHi"}]), "text holds <video>"),
    "empty content": (row(messages=[{"role": "user", "content": []}]), r"messages\[0\]: content must be"),
    "block": (with_block(), r"messages\[1\], content\[0\]: type is None"),
    "block type": (with_block(type="film", path="a"), "type is 'film'"),
    "block field": (with_block(type="video", path="a", url="b"), "no field 'url'"),
    "text of a medium": (with_block(type="image", path="a", text="b"), "no field 'text'"),
    "no path": (with_block(type="video"), "path must be.*missing"),
    "start": (with_block(type="video", path="a", start=NAN), "start must be a number, 0 or more, not nan"),
    "text as start": (with_block(type="video", path="a", start="3"), "start must be a number"),
    "negative": (with_block(type="audio", path="a", end=-1), "end must be a number"),
    "no length": (with_block(type="video", path="a", start=3, end=3), "end 3 is not behind start 3"),
    "part of an image": (with_block(type="image", path="a", start=3), "no field 'start'"),
    "kind": (with_block(type="video", path="a", kind="frame"), "did you mean frames"),
    "rate": (with_block(type="video", path="a", kind="frames", fps=0, first=1), "fps is 0"),
    "first": (with_block(type="video", path="a", kind="frames", fps=3, first=1.5), "first must be"),
    "negative first": (with_block(type="video", path="a", kind="frames", fps=3, first=-1), "first is -1"),
    "rate of a file": (with_block(type="video", path="a", fps=3), "belong to folders"),
    "part of pictures": (with_block(type="video", path="a", kind="images", end=3), "by its fps, which is missing"),
    "use_audio": (with_block(type="video", path="a", use_audio=1), "use_audio must be true or false"),
    "options": (row(options="ab"), "options must be a list"),
    "blank option": (row(options=["a", " "]), "options must be a list"),
    "index": (row(answer_index=2), "answer_index is 2"),
    "true as index": (row(answer_index=True), "answer_index is True"),
    "index without options": (row(options=[], answer_index=0), "option 0 of"),
    "other option": (row(answer_index=0), "answer is 'red', but answer_index says option 0"),
    "references": (row(references=["crimson"]), "first of references"),
    "meta": (row(meta="[]"), "meta must be an object"),
    "number in meta": (row(meta={"x": NAN}), "meta must be an object"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_with_its_place(name: str) -> None:
    given, message = WRONG[name]
    with pytest.raises(RecordError, match=message) as error:
        check_record(given, "a.json, row 3")
    assert str(error.value).startswith("a.json, row 3")
    assert "\n" not in str(error.value)
    assert isinstance(error.value, DataError)


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_media_stand_in_turns_of_the_user_alone(role: str) -> None:
    changed = row()
    position = {"system": 0, "assistant": 2}[role]
    changed["messages"][position]["content"] = [{"type": "image", "path": "a.png"}]
    with pytest.raises(RecordError, match=f"not of the {role}"):
        check_record(changed)


def test_a_check_changes_nothing_of_what_it_gets() -> None:
    given, copy = row(), row()
    check_record(given)
    assert given == copy
