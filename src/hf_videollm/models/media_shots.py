"""Frames by shots, as LinVT's paper cuts videos before it makes tokens of them (section 6, there with AutoShot).

A shot finder is any function from a video to its shots, pairs of frame numbers (first, behind the last), so AutoShot or
TransNet can take the place of the one here, which is PySceneDetect. The choice itself:

    >>> frames_of_shots([(0, 10), (10, 40)], num_frames=4).tolist()
    [5, 15, 25, 35]
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from transformers.video_utils import VideoMetadata

from .errors import MissingBackend, UnsupportedMedia

Shots = Sequence[tuple[int, int]]


def allot_frames(lengths: Sequence[int], num_frames: int) -> list[int]:
    """How many frames each shot gets: in proportion to its length, and at least one.

    What rounding leaves over or takes too much is given to, or taken from, the longest shots, one each by turns. If
    there are more shots than frames, the longest get one each and the others none. Of equal shots the earlier is first.

    Args:
        lengths: frames of each shot, at least one each.
        num_frames: sum of the result.

    Raises:
        ValueError: no shots, an empty shot, or no frames to give.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames={num_frames}: at least one frame must be asked for.")
    if not lengths or min(lengths) < 1:
        raise ValueError(f"Shots of {list(lengths)} frames: at least one shot is needed, and a frame in each.")
    longest_first = sorted(range(len(lengths)), key=lambda shot: -lengths[shot])
    if len(lengths) > num_frames:
        kept = set(longest_first[:num_frames])
        return [int(shot in kept) for shot in range(len(lengths))]
    total = sum(lengths)
    # To the nearest whole number, halves up.
    shares = [max(1, (2 * num_frames * length + total) // (2 * total)) for length in lengths]
    while missing := num_frames - sum(shares):
        for shot in longest_first:
            if missing > 0:
                shares[shot] += 1
                missing -= 1
            elif missing < 0 and shares[shot] > 1:
                shares[shot] -= 1
                missing += 1
    return shares


def frames_of_shots(shots: Shots, num_frames: int, total_num_frames: int | None = None) -> np.ndarray:
    """The middles of equal parts of each shot, in the order of time.

    Args:
        shots: `(first, behind the last)` frame of each. Where no shot is, no frame is taken.
        num_frames: frames wanted. One comes several times if its shot is shorter than its share.
        total_num_frames: frames the video has. Shots are cut off there, since detectors may count otherwise; without
            shots the whole video is one.

    Returns:
        `(num_frames,)` int64, ascending.

    Raises:
        ValueError: shots overlap or run backwards, or there is nothing to choose from.
    """
    limit = total_num_frames if total_num_frames is not None else max((end for _, end in shots), default=0)
    known = sorted((int(start), int(end)) for start, end in shots)
    ends = [0, *(end for _, end in known)]
    for before, (start, end) in zip(ends, known, strict=False):
        if start < before or end < start:
            raise ValueError(
                f"Shot ({start}, {end}) runs backwards, or begins before frame {before}, where the shot before it "
                "ends: give pairs (first frame, frame behind the last one) that do not overlap."
            )
    inside = [(start, min(end, limit)) for start, end in known if start < min(end, limit)] or [(0, limit)]
    shares = allot_frames([end - start for start, end in inside], num_frames)
    return np.array(
        [
            # In whole numbers: (part + 1/2) * length / share, rounded down.
            start + (2 * part + 1) * (end - start) // (2 * share)
            for (start, end), share in zip(inside, shares, strict=True)
            for part in range(share)
        ],
        dtype=np.int64,
    )


def find_shots_by_content(video: Any, threshold: float = 27.0) -> list[tuple[int, int]]:
    """Shots of a video file as PySceneDetect sees them: a cut is where colours change between two frames.

    Args:
        video: path of a file.
        threshold: how much the mean of hue, saturation and lightness changes at a cut, of 255; PySceneDetect's own.

    Returns:
        `(first, behind the last)` frame of each shot; one shot if there is no cut. For variable frame rates
        PySceneDetect estimates the numbers.

    Raises:
        MissingBackend: PySceneDetect (`scenedetect`) or OpenCV is not installed.
        UnsupportedMedia: the video is no file on this machine.
    """
    try:
        import scenedetect
    except ImportError:
        raise MissingBackend(
            'Shots are found by PySceneDetect, which is not installed; run: pip install "hf-videollm[shots]", or pass '
            "a function of your own as find_shots."
        ) from None
    if not isinstance(video, str | os.PathLike) or not os.path.isfile(video):
        name = repr(video) if isinstance(video, str | os.PathLike) else type(video).__name__
        raise UnsupportedMedia(
            f"{name}: PySceneDetect reads files on this machine only; save the video to one, or pass a function of "
            "your own as find_shots."
        )
    detector = scenedetect.ContentDetector(threshold=threshold)
    scenes = scenedetect.detect(os.fspath(video), detector, start_in_scene=True)
    return [(start.frame_num, end.frame_num) for start, end in scenes]


def shot_sampler(
    video: Any, num_frames: int, find_shots: Callable[[Any], Shots] = find_shots_by_content
) -> Callable[..., np.ndarray]:
    """A sampler for `load_video(video, sample_indices_fn=...)`; without `start` and `end`, as shots are of the file.

    Args:
        video: what is given to `find_shots`, which is called here, once.
        num_frames: frames wanted.
        find_shots: gives the shots, see `frames_of_shots`.
    """
    shots = list(find_shots(video))

    def sample(metadata: VideoMetadata, **kwargs: Any) -> np.ndarray:
        return frames_of_shots(shots, num_frames, metadata.total_num_frames)

    return sample


__all__ = ["Shots", "allot_frames", "find_shots_by_content", "frames_of_shots", "shot_sampler"]
