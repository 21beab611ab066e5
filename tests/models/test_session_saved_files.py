"""Files of sessions: damaged and edited ones, places where none can be written, and the options that they hold."""

import json
import os
import random
import stat
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import StoppingCriteria

import hf_videollm
from hf_videollm import CheckpointError, VideoSession
from hf_videollm.models.errors import MediaWarning
from hf_videollm.models.video_llm_session_disk import CHECKSUM, UNSEALED, seal

GREEDY = {"do_sample": False, "max_new_tokens": 3}
QUESTION = "What colour is the shape?"


@pytest.fixture(scope="module")
def pipe() -> Any:
    return hf_videollm.load_pipeline("pllava-tiny", dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def linvt() -> Any:
    return hf_videollm.load_pipeline("linvt-tiny", dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def session(pipe: Any, clips: list[str]) -> VideoSession:
    return pipe.open(clips[0], num_frames=4, **GREEDY)


@pytest.fixture(scope="module")
def saved(session: VideoSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return session.save(tmp_path_factory.mktemp("saved") / "clip.session")


def opened(path: Path, pipe: Any, *media: Any, **options: Any) -> VideoSession:
    return VideoSession.open_saved(path, pipe.model, pipe.processor, *media, **options)


def refused(path: Path, pipe: Any, words: str = "session") -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        opened(path, pipe)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_with_any_byte_changed(pipe: Any, saved: Path, tmp_path: Path) -> None:
    """Wherever it stands; zeros in the place of the values, too. The same bytes in another file are opened."""
    whole = saved.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    damaged = tmp_path / "damaged.session"
    damaged.write_bytes(whole)
    assert opened(damaged, pipe).ask(QUESTION, **GREEDY)
    draw = random.Random(0)
    places = [*range(8), *draw.sample(range(8, header), 60), *draw.sample(range(header, len(whole)), 20)]
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1 << draw.randrange(8)
        damaged.write_bytes(changed)
        refused(damaged, pipe)
    damaged.write_bytes(whole[:header] + bytes(len(whole) - header))
    refused(damaged, pipe, "no whole session")
    damaged.write_bytes(whole + b"\0")
    refused(damaged, pipe)


EDITS: dict[str, Any] = {
    "kinds": ["video", "video"],
    "kinds ": ["picture"],
    "frames": [],
    "digests": ["1", "2"],
    "head_ids": [1, 2, 3],
    "first_ids": [1, 2, 3],
    "cache": None,
    "format": "hf_videollm session 1",
    "identity": None,
    "rendering": {"chat_template": "{{ messages }}"},
}


@pytest.mark.parametrize("name", [*EDITS, "nothing"])
def test_an_edited_header_with_a_right_checksum(name: str, pipe: Any, saved: Path, tmp_path: Path) -> None:
    with safe_open(saved, "pt") as file:
        described = json.loads(file.metadata()["session"])
    if name in EDITS:
        described[name.strip()] = EDITS[name]
    edited = tmp_path / "edited.session"
    save_file(load_file(saved), edited, metadata={"session": json.dumps(described), CHECKSUM: UNSEALED})
    seal(edited)
    if name == "nothing":
        assert opened(edited, pipe).ask(QUESTION, **GREEDY)
    else:
        refused(edited, pipe, "another release" if name == "format" else "do not fit|no session that")


def test_places_where_no_file_can_be_written(session: VideoSession, tmp_path: Path) -> None:
    """They are as they were; a name of a file, in folders that do not exist, is written."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name, words in {"pipe": "no regular file", "link": "no regular file", "folder": "is a folder"}.items():
        for path in (tmp_path / name, str(tmp_path / name)):
            with pytest.raises(ValueError, match=words) as caught:
                session.save(path)
            assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="name of the file is empty"):
        session.save("")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["folder", "link", "pipe"]
    assert os.listdir(tmp_path / "folder") == []
    assert session.save(tmp_path / "new" / "folder" / "s").is_file()
    assert os.listdir(tmp_path / "new" / "folder") == ["s"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o007])
def test_the_mode_follows_the_umask(mask: int, session: VideoSession, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        (tmp_path / "usual").touch()
        session.save(tmp_path / "s")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("usual", "s")]
    assert modes == [0o666 & ~mask] * 2


def test_options_of_answers_are_kept(session: VideoSession, saved: Path, pipe: Any, tmp_path: Path) -> None:
    again = opened(saved, pipe)
    assert again.answer_options == session.answer_options
    assert again.ask(QUESTION, min_new_tokens=3) == session.ask(QUESTION, min_new_tokens=3)
    assert opened(saved, pipe, answer_options={"max_new_tokens": 1}).answer_options["max_new_tokens"] == 1

    class Stop(StoppingCriteria):
        """It has no form that could be written."""

    session.answer_options["stopping_criteria"] = [Stop()]
    try:
        with pytest.warns(MediaWarning, match="does not hold stopping_criteria: pass answer_options again"):
            path = session.save(tmp_path / "s")
    finally:
        del session.answer_options["stopping_criteria"]
    assert opened(path, pipe).answer_options == session.answer_options


def test_options_of_media_are_compared(saved: Path, pipe: Any, clips: list[str]) -> None:
    assert opened(saved, pipe, clips[0], num_frames=4)
    for options, words in [
        ({"num_frames": 8}, "with num_frames=4, and not with num_frames=8"),
        ({"start": 1.0}, "without start, and not with start=1.0"),
    ]:
        with pytest.raises(CheckpointError, match=words):
            opened(saved, pipe, clips[0], **options)
    with pytest.raises(TypeError, match="did you mean num_frames"):
        opened(saved, pipe, num_framse=4)


def test_options_of_prompts(linvt: Any, clips: list[str], tmp_path: Path) -> None:
    """`recondition` has the effect that it has in a call, in whichever way it is passed, and in a saved session."""
    texts = ["Hello", "yes", "In which direction does the shape move?"]
    messages = [
        {"role": "assistant" if number == 1 else "user", "content": [{"type": "text", "text": text}]}
        for number, text in enumerate(texts)
    ]
    messages[0]["content"].insert(0, {"type": "video", "video": clips[0]})

    def row(**options: Any) -> list[int]:
        found = linvt.processor.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs=options
        )
        return found["question_input_ids"].flatten().tolist()

    def asked(session: VideoSession) -> list[int]:
        session.history = texts[:2]
        return session.write(texts[2], follow_up=True).question["question_input_ids"].flatten().tolist()

    assert row(recondition=True) != row()
    for number, (options, expected) in enumerate(
        [
            ({"recondition": True}, row(recondition=True)),
            ({"rendering": {"recondition": True}}, row(recondition=True)),
            ({"recondition": False}, row()),
            ({}, row()),
        ]
    ):
        session = VideoSession(linvt.model, linvt.processor, clips[0], num_frames=4, **options)
        assert asked(session) == expected, options
        again = opened(session.save(tmp_path / str(number)), linvt)
        assert asked(again) == expected, options
    assert asked(linvt.open(clips[0], num_frames=4, recondition=True)) == row(recondition=True)
    with pytest.raises(ValueError, match="questions: a session writes the question"):
        linvt.open(clips[0], questions=["Who?"])


def test_a_design_without_such_options_refuses_them(pipe: Any, clips: list[str]) -> None:
    for open_it in (pipe.open, lambda *media, **more: VideoSession(pipe.model, pipe.processor, *media, **more)):
        with pytest.raises(TypeError, match="recondition"):
            open_it(clips[0], recondition=True)
