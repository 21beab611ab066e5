"""Chooses the frames of a video by its shots, as LinVT's paper does (section 6, where AutoShot finds the shots).

A shot is a pair of frame numbers (first frame, one past the last frame). A shot finder is any function that takes a
video and returns its shots. The one in this file uses PySceneDetect; AutoShot or TransNet can replace it. Example:

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
    """The number of frames to choose from each shot: in proportion to its length, and at least one.

    After rounding, the sum may differ from `num_frames`. The difference is added to or taken from the longest shots,
    one frame at a time. If there are more shots than frames, the longest shots get one frame each and the others none.
    Of shots of equal length, the earlier one counts as longer.

    Args:
        lengths: number of frames in each shot, at least one.
        num_frames: sum of the result.

    Raises:
        ValueError: there are no shots, a shot is empty, or `num_frames` is less than one.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames={num_frames}: ask for at least one frame.")
    if not lengths or min(lengths) < 1:
        raise ValueError(f"The shots have {list(lengths)} frames: give at least one shot, and no shot of 0 frames.")
    longest_first = sorted(range(len(lengths)), key=lambda shot: -lengths[shot])
    if len(lengths) > num_frames:
        kept = set(longest_first[:num_frames])
        return [int(shot in kept) for shot in range(len(lengths))]
    total = sum(lengths)
    # num_frames * length / total, rounded to the nearest integer (halves up), at least 1.
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
    """Chooses frame numbers: each shot is divided into equal parts, and the middle frame of each part is taken.

    Args:
        shots: `(first frame, one past the last frame)` of each shot. Frames that lie in no shot are not chosen.
        num_frames: number of frames to choose. Frames are repeated if a shot has fewer frames than are chosen from it.
        total_num_frames: number of frames of the video. Shots are cut off there, since a shot finder may count more
            frames than the decoder. If there are no shots, the whole video is one shot.

    Returns:
        `(num_frames,)` int64, ascending.

    Raises:
        ValueError: shots overlap, a shot ends before it begins, or there is no frame to choose from.
    """
    limit = total_num_frames if total_num_frames is not None else max((end for _, end in shots), default=0)
    known = sorted((int(start), int(end)) for start, end in shots)
    ends = [0, *(end for _, end in known)]
    for last_end, (start, end) in zip(ends, known, strict=False):
        if start < last_end or end < start:
            raise ValueError(
                f"Shot ({start}, {end}) runs backwards, or begins before frame {last_end}, where the previous shot "
                "ends: give pairs (first frame, one past the last frame) that do not overlap."
            )
    inside = [(start, min(end, limit)) for start, end in known if start < min(end, limit)] or [(0, limit)]
    shares = allot_frames([end - start for start, end in inside], num_frames)
    return np.array(
        [
            # The middle of each part, (part + 1/2) * length / share rounded down, in integer arithmetic.
            start + (2 * part + 1) * (end - start) // (2 * share)
            for (start, end), share in zip(inside, shares, strict=True)
            for part in range(share)
        ],
        dtype=np.int64,
    )


def find_shots_by_content(video: Any, threshold: float = 27.0) -> list[tuple[int, int]]:
    """Finds the shots of a video file with PySceneDetect: a new shot begins where the colours change strongly.

    Args:
        video: path of a file.
        threshold: smallest change between two frames that counts as a cut: the mean change of hue, saturation and
            lightness, each from 0 to 255. The default is PySceneDetect's.

    Returns:
        `(first frame, one past the last frame)` of each shot; a single shot if there is no cut. For variable frame
        rates, PySceneDetect only estimates the frame numbers.

    Raises:
        MissingBackend: PySceneDetect (`scenedetect`) or OpenCV is not installed.
        UnsupportedMedia: the video is not a file on this machine.
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
    """Returns a sampler for `load_video(video, sample_indices_fn=...)` that chooses frames by shots.

    Do not pass `start` or `end` to that call: the frame numbers of shots count from the beginning of the file.

    Args:
        video: the video, in a form that `find_shots` accepts. `find_shots` is called once, immediately.
        num_frames: number of frames to choose.
        find_shots: function that takes `video` and returns its shots, as in `frames_of_shots`.
    """
    shots = list(find_shots(video))

    def sample(metadata: VideoMetadata, **kwargs: Any) -> np.ndarray:
        return frames_of_shots(shots, num_frames, metadata.total_num_frames)

    return sample


__all__ = ["Shots", "allot_frames", "find_shots_by_content", "frames_of_shots", "shot_sampler"]
