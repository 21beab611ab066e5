"""Resizes the frames of a video with PIL, several at a time."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image

_THREADS = max(1, min(4, os.cpu_count() or 1))


def resize_frames(video: torch.Tensor, target: tuple[int, int], resample: Image.Resampling) -> torch.Tensor:
    """Resize `(num_frames, 3, height, width)` uint8 frame by frame, as PIL resizes a picture.

    PIL lets go of Python's lock while it works, so threads resize several frames at once. The order of the frames and
    their pixels do not depend on it.

    Args:
        video: the frames, on any device.
        target: height and width of the result.
        resample: filter of PIL.
    """
    frames = video.permute(0, 2, 3, 1).contiguous().to(torch.uint8).cpu().numpy()
    resized = np.empty((len(frames), *target, 3), dtype=np.uint8)

    def resize(index: int) -> None:
        resized[index] = np.asarray(Image.fromarray(frames[index]).resize(target[::-1], resample))

    threads = min(_THREADS, len(frames))
    if threads < 2:
        for index in range(len(frames)):
            resize(index)
    else:
        with ThreadPoolExecutor(threads, thread_name_prefix="resize") as pool:
            # The results are asked for, because an error is raised there.
            list(pool.map(resize, range(len(frames))))
    return torch.from_numpy(resized).permute(0, 3, 1, 2).to(video.device)


__all__ = ["resize_frames"]
