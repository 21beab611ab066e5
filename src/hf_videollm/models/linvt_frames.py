"""Runs frames of videos through the image processor of an image-LLM, and splits them into chunks for its tower."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from .linvt_families import FRAME_CALLS, FrameCall
from .video_llm_chunks import RowJoiner

# Frames that an image processor gets at a time.
FRAMES_AT_A_TIME = 32


def frame_inputs(
    image_processor: Any,
    model_type: str,
    videos: Sequence[Sequence[Any]],
    pixel_dtype: torch.dtype | None = None,
    **options: Any,
) -> dict[str, torch.Tensor]:
    """Run an image-LLM's image processor over the frames of videos.

    Args:
        image_processor: the image processor of the image-LLM.
        model_type: `model_type` of the image-LLM.
        videos: for each video its frames, in a form that the image processor takes for images.
        pixel_dtype: type of the pixel values; as the image processor makes them if `None`.
        options: options of the image processor. The options in `FrameCall` replace them.

    Returns:
        The outputs of the image processor for all frames, one video after the other, with `_videos` appended to each
        name; and `num_video_frames`, `(videos,)` int64.
    """
    call = FRAME_CALLS.get(model_type, FrameCall())
    if call.layout == "videos":
        images: list[Any] = [list(video) for video in videos]
    else:
        images = [[frame] if call.layout == "frames" else frame for video in videos for frame in video]
    process = partial(image_processor, return_tensors="pt", **{**options, **call.options})
    outputs = process(images) if call.layout == "videos" else _in_parts(process, images, pixel_dtype)
    outputs = _whole_views(outputs) if "image_token_pooling" in outputs else outputs
    named = {f"{name}_videos": value for name, value in outputs.items()}
    named["pixel_values_videos"] = named["pixel_values_videos"].to(pixel_dtype)
    return {**named, "num_video_frames": torch.tensor([len(video) for video in videos])}


def _in_parts(process: Callable[[list[Any]], Any], images: list[Any], pixel_dtype: torch.dtype | None) -> Any:
    """Run an image processor over a few frames at a time, so that the float32 values of all frames are in memory once.

    All frames are processed at once if there is more in the outputs than pixels, since an output may depend on all
    images of a call; and if frames come out in different sizes.
    """
    first = process(images[:FRAMES_AT_A_TIME])
    if len(images) <= FRAMES_AT_A_TIME:
        return first
    pixels = first["pixel_values"]
    if set(first) != {"pixel_values"} or not isinstance(pixels, torch.Tensor) or len(pixels) != FRAMES_AT_A_TIME:
        return process(images)
    joiner, size = RowJoiner(len(images)), pixels.shape[1:]
    for start in range(0, len(images), FRAMES_AT_A_TIME):
        part = pixels if start == 0 else process(images[start : start + FRAMES_AT_A_TIME])["pixel_values"]
        if part.shape[1:] != size:
            return process(images)
        joiner.add(part.to(pixel_dtype))
    return {"pixel_values": joiner.result()}


def _whole_views(outputs: Any) -> dict[str, torch.Tensor]:
    """Keep the view of each whole image in the outputs of Molmo2's image processor, and drop the crops after it."""
    crops, grids, patches = outputs["image_num_crops"], outputs["image_grids"], outputs["pixel_values"].shape[1]
    rows, kept = _pooled_tokens(grids), grids[:, 0] * grids[:, 1]
    first_crops, first_rows = crops.cumsum(0) - crops, rows.cumsum(0) - rows
    pooling = []
    for number, (crop, row, count) in enumerate(
        zip(first_crops.tolist(), first_rows.tolist(), kept.tolist(), strict=True)
    ):
        pooling.append(_shift_patches(outputs["image_token_pooling"][row : row + count], (number - crop) * patches))
    return {
        "pixel_values": outputs["pixel_values"][first_crops],
        "image_token_pooling": torch.cat(pooling),
        "image_grids": torch.cat([grids[:, :2], torch.zeros_like(grids[:, 2:])], dim=1),
        "image_num_crops": torch.ones_like(crops),
    }


def _pooled_tokens(grids: torch.Tensor) -> torch.Tensor:
    """Number of tokens of each image of Molmo2, for the view of the whole image and for its crops together."""
    return grids[:, 0] * grids[:, 1] + grids[:, 2] * grids[:, 3]


def _shift_patches(indices: torch.Tensor, offset: int) -> torch.Tensor:
    """Add `offset` to the numbers of patches. The number -1 means no patch, and does not change."""
    return torch.where(indices >= 0, indices + offset, indices)


def split_frames(
    media: dict[str, Any], num_frames: Sequence[int], chunk_size: int | None = None
) -> list[dict[str, Any]]:
    """Split the inputs of a vision tower into chunks of frames, so that the tower needs less memory.

    Args:
        media, num_frames, chunk_size: see `Backbone.encode_frames`.

    Returns:
        The inputs of each chunk. There is only one chunk if `chunk_size` covers all frames, or if it is unknown which
        rows of an input belong to which frame.
    """
    media = {name: value for name, value in media.items() if value is not None}
    total = sum(num_frames)
    rows = {name: _rows_per_frame(name, media, total) for name in media if name != "batch_num_images"}
    if chunk_size is None or chunk_size >= total or any(counts is None for counts in rows.values()):
        return [media]
    ends = {name: [0, *torch.as_tensor(counts).cumsum(0).tolist()] for name, counts in rows.items()}
    # LLaVA-OneVision (the family with `batch_num_images`) encodes the frame of a video that has only one frame
    # differently from the frames of longer videos. So a chunk holds frames of one video only, and `batch_num_images` is
    # at least 2 for a chunk of a longer video, even if the chunk has one frame.
    lengths = list(num_frames) if "batch_num_images" in media else [total]
    chunks, start = [], 0
    for length in lengths:
        for first in range(start, start + length, chunk_size):
            last = min(first + chunk_size, start + length)
            chunk = {name: value[ends[name][first] : ends[name][last]] for name, value in media.items() if name in ends}
            if "batch_num_images" in media:
                chunk["batch_num_images"] = torch.tensor([1 if length == 1 else max(2, last - first)])
            if "image_token_pooling" in chunk:
                patches = ends["pixel_values"][first] * media["pixel_values"].shape[1]
                chunk["image_token_pooling"] = _shift_patches(chunk["image_token_pooling"], -patches)
            chunks.append(chunk)
        start += length
    return chunks


def _rows_per_frame(name: str, media: dict[str, Any], num_frames: int) -> torch.Tensor | None:
    """How many rows of an input belong to each frame; `None` if that is unknown."""
    counts = {"pixel_values": media.get("image_num_crops")}
    if "image_grids" in media:
        counts["image_token_pooling"] = _pooled_tokens(media["image_grids"])
    elif "image_grid_thw" in media:
        counts["pixel_values"] = media["image_grid_thw"].prod(-1)
    rows = counts.get(name)
    rows = torch.ones(num_frames, dtype=torch.long) if rows is None else rows
    return rows if len(rows) == num_frames and int(rows.sum()) == len(media[name]) else None


__all__ = [
    "frame_inputs",
    "split_frames",
]
