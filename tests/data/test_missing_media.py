"""What is said to be there can be read, in every way to name a file; what is said to be missing cannot."""

import base64
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_videollm.data.missing_media import missing_file
from hf_videollm.models.errors import MediaError
from hf_videollm.models.media_video import load_video

# A path that is there -> how it may be named.
NAMES: dict[str, Callable[[str], Any]] = {
    "path": str,
    "Path": Path,
    "relative": os.path.relpath,
    "address": lambda path: Path(path).as_uri(),
    "loud address": lambda path: Path(path).as_uri().replace("file", "FILE"),
    "below home": lambda path: "~/" + os.path.basename(path),
    "mapping": lambda path: {"path": path, "bytes": None},
}


def can_be_read(source: Any) -> bool:
    try:
        load_video(source, num_frames=1)
    except MediaError:
        return False
    return True


@pytest.mark.parametrize("way", NAMES)
def test_what_is_there_can_be_read(way: str, clips: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = tmp_path / "a clip, 50 %.mp4"
    clip.write_bytes(Path(clips[0]).read_bytes())
    monkeypatch.setenv("HOME", str(tmp_path))
    source = NAMES[way](str(clip))
    assert (missing_file(source) is None) == can_be_read(source) == (way != "below home")
    clip.unlink()
    assert missing_file(source) is not None
    assert not can_be_read(source)


def test_the_first_missing_frame_is_named(clips: list[str]) -> None:
    assert missing_file([clips[0], "gone-1.png", "gone-2.png"]) == "gone-1.png"
    assert missing_file([clips[0], clips[0]]) is None
    assert missing_file({"path": "gone.mp4", "bytes": b"held"}) is None


def test_nobody_can_tell_about_what_is_no_file() -> None:
    held = "data:video/mp4;base64," + base64.b64encode(b"no video").decode()
    for source in (None, held, "https://example.com/gone.mp4", "hf://datasets/a/b/gone.mp4", b"bytes"):
        assert missing_file(source) is None
