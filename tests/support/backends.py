"""The backends that read videos here, and what PyAV's reader decodes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from hf_videollm.models.errors import Deadline, MediaLimits
from hf_videollm.models.media_pyav import PyAVReader
from hf_videollm.models.media_source import open_media
from hf_videollm.models.media_video import available_backends

BACKENDS = [name for name in ("pyav", "decord", "torchcodec") if name in available_backends()]


def record_decoded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A list that fills with the frames that PyAV's reader decodes, wanted or on the way to a wanted one."""
    decoded: list[Any] = []
    original = PyAVReader._decoded

    def recording(self: Any, packet: Any) -> Any:
        for frame in original(self, packet):
            decoded.append(frame)
            yield frame

    monkeypatch.setattr(PyAVReader, "_decoded", recording)
    return decoded


def read(path: Any, indices: Sequence[int] | None = None, trusts_index: bool = True) -> tuple[Any, ...]:
    """Whether PyAV's reader used the index of the container, what it knows of the file, and frames (all by default)."""
    with open_media(path, MediaLimits(), (), Deadline(60)) as handle:
        reader = PyAVReader(handle, MediaLimits(), Deadline(60), False, trusts_index)
        try:
            clip = reader.clip
            facts = (clip.timestamps.tolist(), clip.duration, clip.fps, clip.width, clip.height, list(reader._pts))
            frames = [picture for _, picture in reader.frames(indices or range(len(clip)))]
            return reader._is_from_index, facts, np.stack(frames)
        finally:
            reader.close()
