"""The backends that read videos here, and what PyAV's reader decodes."""

from typing import Any

import pytest

from hf_videollm.models.media_pyav import PyAVReader
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
