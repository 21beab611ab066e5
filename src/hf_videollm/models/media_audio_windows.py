"""Which part of a long sound is heard: a window, or the evenly spaced clips of VideoLLaMA2."""

from fractions import Fraction
from typing import Literal

import numpy as np

WindowPosition = Literal["start", "center", "random"]
WINDOW_POSITIONS = ("start", "center", "random")


def clip_windows(
    num_samples: int, sampling_rate: int = 16000, *, clips: int = 8, clip_seconds: float = 2.0, divisor: int = 8
) -> list[tuple[int, int]]:
    """Places of the clips, by the arithmetic of pytorchvideo's constant-clips sampler, which the original uses.

    Clip i begins at i / divisor of what the sound is longer than a clip. Times are kept exact once the float duration
    is known, then cut down to whole samples.

    Args:
        num_samples: length of the sound.
        clips: how many there are.
        clip_seconds: length of one.
        divisor: 8 as in pytorchvideo 0.1.5, where the last clip ends before the sound does; 7 (one less than the
            clips) as in its unreleased main branch, where it ends with the sound.

    Returns:
        (first sample, end) of each clip. In a sound shorter than a clip, all begin at 0 and end behind it.

    Raises:
        ValueError: an argument is out of its range.
    """
    if num_samples < 0 or sampling_rate < 1 or clips < 1 or divisor < 1 or not 0 < clip_seconds < float("inf"):
        raise ValueError(
            f"No clips of {clip_seconds} s can be cut with num_samples={num_samples}, sampling_rate={sampling_rate}, "
            f"clips={clips}, divisor={divisor}: all must be positive."
        )
    # The subtraction is one of floats on purpose: with 6.1 s it decides whether clip 1 begins at 8199 or 8200.
    spare = Fraction(max(num_samples / sampling_rate - clip_seconds, 0.0))
    starts = [Fraction(spare, divisor) * index for index in range(clips)]
    length = Fraction(clip_seconds)
    return [(int(start * sampling_rate), int((start + length) * sampling_rate)) for start in starts]


def take_clips(
    waveform: np.ndarray,
    sampling_rate: int = 16000,
    *,
    clips: int = 8,
    clip_seconds: float = 2.0,
    divisor: int = 8,
) -> np.ndarray:
    """The clips of a sound, joined; a sound of at most `clip_seconds` is repeated as a whole.

    Args:
        waveform: (..., samples).
        clips, clip_seconds, divisor: as in `clip_windows`.

    Returns:
        (..., samples of all clips), at most `clips * clip_seconds` long.
    """
    windows = clip_windows(waveform.shape[-1], sampling_rate, clips=clips, clip_seconds=clip_seconds, divisor=divisor)
    return np.concatenate([waveform[..., start:end] for start, end in windows], axis=-1)


def window(
    waveform: np.ndarray,
    seconds: float,
    sampling_rate: int = 16000,
    where: WindowPosition = "start",
    generator: np.random.Generator | int | None = None,
) -> np.ndarray:
    """At most `seconds` of a sound; a shorter one comes back as it is.

    Args:
        waveform: (..., samples).
        where: "start", "center", or "random" (the original; every place is as likely).
        generator: for "random": a generator or a seed; `None` draws anew at each call.

    Returns:
        A view, (..., samples).
    """
    if where not in WINDOW_POSITIONS:
        raise ValueError(f"audio_window={where!r}: choose one of {', '.join(WINDOW_POSITIONS)}.")
    length = int(seconds * sampling_rate)
    spare = waveform.shape[-1] - length
    if spare <= 0:
        return waveform
    if where == "start":
        start = 0
    elif where == "center":
        start = spare // 2
    else:
        start = int(np.random.default_rng(generator).integers(0, spare, endpoint=True))
    return waveform[..., start : start + length]


__all__ = ["clip_windows", "take_clips", "window"]
