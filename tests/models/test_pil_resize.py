"""Frames that several threads resize with PIL are those of PIL alone, in their order."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image

from hf_videollm.models import media_pil_resize
from hf_videollm.models.media_pil_resize import resize_frames


@pytest.mark.parametrize("num_threads", [1, 2, 4])
@pytest.mark.parametrize("resample", [Image.Resampling.BICUBIC, Image.Resampling.BILINEAR])
def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch, num_threads: int, resample: Image.Resampling) -> None:
    used: set[str] = set()
    fromarray = Image.fromarray

    def recording(array: np.ndarray) -> Image.Image:
        used.add(threading.current_thread().name)
        return fromarray(array)

    frames = np.random.default_rng(0).integers(0, 256, (9, 37, 53, 3), dtype=np.uint8)
    right = np.stack([np.asarray(fromarray(frame).resize((40, 24), resample)) for frame in frames])
    monkeypatch.setattr(media_pil_resize, "_THREADS", num_threads)
    monkeypatch.setattr(Image, "fromarray", recording)
    channels_first = torch.from_numpy(frames).permute(0, 3, 1, 2)
    for video in (channels_first, channels_first.contiguous()):
        resized = resize_frames(video, (24, 40), resample)
        assert torch.equal(resized, torch.from_numpy(right).permute(0, 3, 1, 2))
    assert all(name.startswith("resize") for name in used) == (num_threads > 1)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("resize")]


def test_an_error_in_a_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_pil_resize, "_THREADS", 2)
    with pytest.raises(ValueError, match="height and width"):
        resize_frames(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), (0, 5), Image.Resampling.BICUBIC)
