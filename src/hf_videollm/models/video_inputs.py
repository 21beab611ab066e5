"""What a user may pass as videos, sorted: flat lists, nested lists, frames, arrays, and what is known of them."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_utils import ChannelDimension, infer_channel_dimension_format
from transformers.video_utils import VideoMetadata

from .media_errors import UnsupportedMedia
from .media_source import PICTURE_SUFFIXES, VideoSource


def flatten_videos(videos: Any) -> list[VideoSource]:
    """A flat list of videos from one video or from lists of them, nested to any depth.

    A video is a path, URL, bytes, file object, array `(T, H, W, C)` or `(T, C, H, W)`, or a list of frames (PIL images,
    three-dimensional arrays, or names of image files). `None` inside a list stands for a prompt without videos.

    Raises:
        UnsupportedMedia: something in the list is none of these.
    """
    if is_single_video(videos):
        return [os.fspath(videos) if isinstance(videos, os.PathLike) else videos]
    if getattr(videos, "ndim", None) == 5 or isinstance(videos, list | tuple):
        return [video for item in videos if item is not None for video in flatten_videos(item)]
    if getattr(videos, "ndim", None) == 3 or isinstance(videos, Image.Image):
        return [[videos]]
    raise UnsupportedMedia(f"Cannot read a video from {type(videos).__name__}: pass a path, bytes, a file or frames.")


def is_single_video(videos: Any) -> bool:
    """Whether this is one video, and not a list of them."""
    if isinstance(videos, str | bytes | bytearray | memoryview | os.PathLike) or hasattr(videos, "read"):
        return True
    if getattr(videos, "ndim", None) == 4:
        return True
    return isinstance(videos, list | tuple) and bool(videos) and all(map(_is_frame, videos))


def media_per_row(
    media: Any, num_rows: int, is_single: Callable[[Any], bool], count: Callable[[Any], int]
) -> list[int] | None:
    """How many media each prompt owns, where the nesting says so: a list with a list (or `None`) for every prompt.

    Args:
        media: images or videos as the user passed them.
        num_rows: number of prompts.
        is_single: whether something is one image or video; a list of frames is one video.
        count: counts the media of one entry.
    """
    if not isinstance(media, list | tuple) or len(media) != num_rows or is_single(media):
        return None
    if not all(item is None or (isinstance(item, list | tuple) and not is_single(item)) for item in media):
        return None
    return [0 if item is None else count(item) for item in media]


def flatten_metadata(metadata: Any, num_videos: int) -> list[VideoMetadata | None]:
    """One `VideoMetadata` (or `None`) per video from the forms transformers accepts: one, a list, nested lists, dicts.

    Raises:
        ValueError: the number of entries is not the number of videos.
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
    """What was found in a source; the frame rate that the user knows where the source has none (folders, lists)."""
    if known is None or found.fps:
        return found
    return replace(found, fps=known.fps, duration=known.duration)


def as_frame_array(source: Any) -> Any | None:
    """The four-dimensional array of an array, tensor or list of equally sized array frames; `None` for the rest.

    Raises:
        ValueError: frames of different sizes.
    """
    if getattr(source, "ndim", None) == 4:
        return source
    if isinstance(source, list | tuple) and source and all(getattr(frame, "ndim", None) == 3 for frame in source):
        shapes = {tuple(frame.shape) for frame in source}
        if len(shapes) > 1:
            raise ValueError(f"The frames of a video must have one size, but these have {sorted(shapes)}.")
        return torch.stack([torch.as_tensor(frame) for frame in source])
    return None


def frames_of_array(
    array: Any, known: VideoMetadata | None, sampler: Callable[..., np.ndarray] | None, input_data_format: Any
) -> tuple[torch.Tensor, VideoMetadata]:
    """Frames `(num_frames, channels, height, width)` of an array in either layout, all or those the sampler chooses."""
    video = torch.as_tensor(array)
    layout = input_data_format or infer_channel_dimension_format(video, num_channels=(1, 3, 4))
    if layout == ChannelDimension.LAST:
        video = video.permute(0, 3, 1, 2)
    known = known or VideoMetadata(total_num_frames=len(video))
    known = replace(known, height=video.shape[-2], width=video.shape[-1])
    if sampler is None:
        return video, replace(known, frames_indices=list(range(len(video))))
    indices = sampler(metadata=replace(known, total_num_frames=len(video)))
    return video[indices], replace(known, frames_indices=[int(index) for index in indices])


def _is_frame(item: Any) -> bool:
    # A GIF is a video of its own, so it does not count as the name of a frame.
    if isinstance(item, str | os.PathLike):
        return os.fspath(item).lower().endswith(PICTURE_SUFFIXES)
    return isinstance(item, Image.Image) or getattr(item, "ndim", None) == 3


__all__ = [
    "as_frame_array",
    "fill_metadata",
    "flatten_metadata",
    "flatten_videos",
    "frames_of_array",
    "is_single_video",
    "media_per_row",
]
