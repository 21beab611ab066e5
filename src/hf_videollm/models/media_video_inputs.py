"""Turns videos and their metadata, in every form that a user may pass (nested lists, arrays, ...), into flat lists."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_utils import ChannelDimension, infer_channel_dimension_format
from transformers.video_utils import VideoMetadata

from .errors import UnsupportedMedia
from .media_dataset_columns import is_column, without_decoding
from .media_pictures import is_iterated, is_moving, is_picture_file, is_picture_name, is_plain, whole_numbers
from .media_source import VideoSource, stored_media


def flatten_videos(videos: Any) -> list[VideoSource]:
    """A flat list of videos from one video or from lists of them, nested to any depth.

    A video is a path, URL, bytes, file object, array `(T, H, W, C)` or `(T, C, H, W)`, opened animation, entry of a
    `datasets` column (a decoder, or a dict with `bytes` and `path`), or list of frames (PIL images, three-dimensional
    arrays, names or bytes of image files). `None` inside a list means that a prompt has no videos.

    Raises:
        UnsupportedMedia: an entry of the list is not a video.
    """
    videos = stored_media(without_decoding(videos) if is_column(videos) else videos)
    if is_single_video(videos):
        if isinstance(videos, list | tuple) and is_iterated(videos):
            return [videos[0]]
        return [os.fspath(videos) if isinstance(videos, os.PathLike) else videos]
    if getattr(videos, "ndim", None) == 5 or isinstance(videos, Sequence):
        return [video for item in videos if item is not None for video in flatten_videos(item)]
    if getattr(videos, "ndim", None) == 3 or isinstance(videos, Image.Image):
        return [[videos]]
    what = f"a dict with {sorted(map(str, videos))}" if isinstance(videos, dict) else type(videos).__name__
    raise UnsupportedMedia(f"Cannot read a video from {what}: pass a path, bytes, a file or frames.")


def is_single_video(videos: Any) -> bool:
    """Whether this is one video, and not a list of videos."""
    videos = stored_media(videos)
    if isinstance(videos, str | bytes | bytearray | memoryview | os.PathLike) or hasattr(videos, "read"):
        return True
    if getattr(videos, "ndim", None) == 4 or hasattr(videos, "get_frames_at") or is_moving(videos):
        return True
    if not isinstance(videos, list | tuple) or not videos:
        return False
    return all(map(_is_frame, videos)) or is_iterated(videos)


def media_per_row(
    media: Any, num_rows: int, is_single: Callable[[Any], bool], count: Callable[[Any], int]
) -> list[int] | None:
    """The number of images or videos of each prompt, if `media` has one list (or `None`) for each prompt; else `None`.

    Args:
        media: images or videos as the user passed them.
        num_rows: number of prompts.
        is_single: function that tells whether an object is one image or video (a list of frames is one video).
        count: function that counts the media in the entry of one prompt.
    """
    if not isinstance(media, list | tuple) or len(media) != num_rows or is_single(media):
        return None
    if not all(item is None or (isinstance(item, list | tuple) and not is_single(item)) for item in media):
        return None
    return [0 if item is None else count(item) for item in media]


def flatten_metadata(metadata: Any, num_videos: int) -> list[VideoMetadata | None]:
    """One `VideoMetadata` (or `None`) for each video.

    Args:
        metadata: in any form that transformers accepts: `VideoMetadata` or a dict, alone or in (nested) lists.
        num_videos: number of videos.

    Raises:
        ValueError: there is not one entry for each video.
    """
    if metadata is None:
        return [None] * num_videos

    def flatten(item: Any) -> list[VideoMetadata | None]:
        if isinstance(item, list | tuple):
            return [entry for part in item for entry in flatten(part)]
        return [item if item is None or isinstance(item, VideoMetadata) else VideoMetadata(**item)]

    entries = flatten(metadata)
    if len(entries) != num_videos:
        raise ValueError(f"Got {len(entries)} entries of video_metadata for {num_videos} videos: pass one per video.")
    return entries


def fill_metadata(found: VideoMetadata, known: VideoMetadata | None) -> VideoMetadata:
    """The metadata of a source, completed with the user's frame rate if the source has none (folders, lists).

    Args:
        found: metadata that were read from the source.
        known: metadata that the user passed.
    """
    if known is None or found.fps:
        return found
    return replace(found, fps=known.fps, duration=known.duration)


def as_frame_array(source: Any) -> Any | None:
    """A four-dimensional array or tensor, or a list of frames that are arrays, as one array; `None` for other sources.

    Raises:
        ValueError: the frames differ in size, or some hold floats and others integers.
        UnsupportedMedia: the range of the values is not known (`media_pictures`).
    """
    if getattr(source, "ndim", None) == 4:
        return source
    if isinstance(source, list | tuple) and source and all(getattr(frame, "ndim", None) == 3 for frame in source):
        shapes = {tuple(frame.shape) for frame in source}
        if len(shapes) > 1:
            raise ValueError(f"The frames of a video must have one size, but these have {sorted(shapes)}.")
        frames = [_as_numbers(frame, f"frame {index}") for index, frame in enumerate(source)]
        if len(kinds := {frame.dtype for frame in frames}) > 1:
            raise ValueError(f"The frames of a video must be of one kind, but these hold {sorted(map(str, kinds))}.")
        return torch.stack(frames)
    return None


def frames_of_array(
    array: Any,
    known: VideoMetadata | None,
    sampler: Callable[..., np.ndarray] | None,
    input_data_format: Any,
    normalized: bool = False,
) -> tuple[torch.Tensor, VideoMetadata]:
    """The frames of an array as a tensor `(num_frames, 3, height, width)`, and their metadata.

    Args:
        array: `(T, H, W, C)` or `(T, C, H, W)` with 1, 3 or 4 channels; grey is repeated, transparency is dropped.
        known: metadata that the user passed.
        sampler: function that chooses frames from the metadata; `None` takes all frames.
        input_data_format: the layout of `array`, for shapes that fit both layouts.
        normalized: whether the processor will normalise the frames, which requires floats between 0 and 1.

    Raises:
        UnsupportedMedia: the range of the values is not known (`media_pictures`), or floats are NaN, infinite or out of
            range.
    """
    if 0 in tuple(array.shape)[1:]:
        raise UnsupportedMedia(f"the array of frames has the shape {tuple(array.shape)}; frames need pixels.")
    video = _as_numbers(array, "the array of frames")
    layout = input_data_format or infer_channel_dimension_format(video, num_channels=(1, 3, 4))
    if layout == ChannelDimension.LAST:
        video = video.permute(0, 3, 1, 2)
    known = known or VideoMetadata(total_num_frames=len(video))
    known = replace(known, height=video.shape[-2], width=video.shape[-1])
    indices = range(len(video)) if sampler is None else sampler(metadata=replace(known, total_num_frames=len(video)))
    if sampler is not None:
        video = video[indices]
    if video.is_floating_point():
        _check_floats(video, normalized)
    video = video.expand(-1, 3, -1, -1) if video.shape[1] == 1 else video[:, :3]
    return video, replace(known, frames_indices=[int(index) for index in indices])


def _as_numbers(array: Any, what: str) -> torch.Tensor:
    """Converts to a tensor: integers to uint8 by the rule of `media_pictures`, floats to float32 unchanged."""
    if not isinstance(array, torch.Tensor):
        array = np.asarray(array)
        if array.dtype.kind == "f":
            return torch.from_numpy(array.astype(np.float32))
        array = np.ascontiguousarray(whole_numbers(array, what))
        # torch warns about read-only arrays, so these are copied.
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    if array.is_floating_point() and is_plain(array):
        return array.detach().float()
    return whole_numbers(array, what)


def _check_floats(video: torch.Tensor, normalized: bool) -> None:
    lowest, highest = float(video.min()), float(video.max())
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise UnsupportedMedia("the frames hold NaN or infinity; pass frames with finite values.")
    if normalized and not (lowest >= -1e-3 and highest <= 1 + 1e-3):
        raise UnsupportedMedia(
            f"frames of floats must have values between 0 and 1, but these have {lowest:g} to {highest:g}: pass uint8, "
            "or do_normalize=False if they are normalised already."
        )


def _is_frame(item: Any) -> bool:
    item = stored_media(item)
    if isinstance(item, Image.Image):
        return not is_moving(item)
    return is_picture_name(item) or is_picture_file(item) or getattr(item, "ndim", None) in (2, 3)


__all__ = [
    "as_frame_array",
    "fill_metadata",
    "flatten_metadata",
    "flatten_videos",
    "frames_of_array",
    "is_single_video",
    "media_per_row",
]
