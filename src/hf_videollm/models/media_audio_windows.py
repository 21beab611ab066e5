"""Chooses the part of a long audio that the model receives: one window, or VideoLLaMA2's evenly spaced clips."""

from fractions import Fraction
from typing import Literal

import numpy as np

WindowPosition = Literal["start", "center", "random"]
WINDOW_POSITIONS = ("start", "center", "random")


def clip_windows(
    num_samples: int, sampling_rate: int = 16000, *, clips: int = 8, clip_seconds: float = 2.0, divisor: int = 8
) -> list[tuple[int, int]]:
    """Start and end of each clip, computed as in pytorchvideo's constant-clips sampler, which VideoLLaMA2's code uses.

    Let the spare time be the duration of the audio minus that of one clip. Clip i begins at spare time * i / divisor.
    The spare time is a float; all later steps are exact fractions, which are rounded down to whole samples.

    Args:
        num_samples: length of the audio.
        clips: number of clips.
        clip_seconds: length of one clip.
        divisor: 8 as in pytorchvideo 0.1.5, where the last clip ends before the audio does; 7 (one less than the
            number of clips) as in its unreleased main branch, where the last clip ends with the audio.

    Returns:
        (first sample, one past the last sample) of each clip. If the audio is shorter than a clip, all clips begin at 0
        and end after the audio does.

    Raises:
        ValueError: an argument is out of its range.
    """
    if num_samples < 0 or sampling_rate < 1 or clips < 1 or divisor < 1 or not 0 < clip_seconds < float("inf"):
        raise ValueError(
            f"No clips of {clip_seconds} s can be cut with num_samples={num_samples}, sampling_rate={sampling_rate}, "
            f"clips={clips}, divisor={divisor}: all must be positive."
        )
    # pytorchvideo subtracts floats, so this does too: for 6.1 s, exact numbers would move clip 1 from 8199 to 8200.
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
    """Cuts the clips out of an audio and joins them. Audio of at most `clip_seconds` is repeated, once for each clip.

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
    """At most `seconds` of an audio; shorter audio is returned unchanged.

    Args:
        waveform: (..., samples).
        seconds: length of the window.
        where: position of the window: "start", "center", or "random" (as in VideoLLaMA2's code; all positions are
            equally likely).
        generator: for "random": a generator or a seed; with `None` each call draws another position.

    Returns:
        A view, (..., samples).

    Raises:
        ValueError: `where` is none of the three.
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
