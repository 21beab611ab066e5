"""Frames go through a model a few at a time, so that its memory does not grow with the length of the video.

Frames do not attend to each other in a vision tower, so the number of frames at a time changes memory and speed, but
not the features. `None` as `vision_chunk_size` of a configuration means that the functions here choose the number.
"""

from collections.abc import Iterable, Iterator, Sequence
from math import ceil, prod
from typing import Any

import torch

# Memory for the activations of the frames that run at a time. For CLIP-L at 336 pixels these are 13 frames in bfloat16.
CHUNK_BYTES = 256 * 2**20
# More frames at a time do not make a tower faster. Small towers would otherwise take thousands.
MOST_FRAMES = 32
# Names under which families of transformers keep the sizes of a tower.
WIDTHS = ("hidden_size", "embed_dim")
MLP_WIDTHS = ("intermediate_size", "mlp_hidden_dim")
HEADS = ("num_attention_heads", "num_heads")


def chosen_chunk_size(config: Any) -> int | None:
    """`vision_chunk_size` of the configuration of a design; `None` leaves the choice to `tower_chunk_size`.

    Raises:
        ValueError: it is less than 1. It is checked here as well, because it may be changed after loading.
    """
    size: int | None = config.vision_chunk_size
    if size is not None and size < 1:
        raise ValueError(f"vision_chunk_size must be at least 1 or None, not {size}.")
    return size


def tower_chunk_size(config: Any, shape: Sequence[int], dtype: torch.dtype, num_frames: int) -> int:
    """How many frames run through a vision tower at a time, if the configuration leaves it open.

    Args:
        config: configuration of the tower, of any family; `None` if it is not known.
        shape: of the pixels of all frames, such as `(num_frames, 3, height, width)`.
        dtype: of the tower.
        num_frames: frames of all videos.
    """
    return even_chunk_size(num_frames, frames_in_budget(tower_bytes_per_frame(config, shape, dtype, num_frames)))


def frames_in_budget(bytes_per_frame: int, least: int = 1) -> int:
    """How many frames fit into `CHUNK_BYTES`: at least `least`, and at most `MOST_FRAMES`."""
    return max(least, min(MOST_FRAMES, CHUNK_BYTES // max(bytes_per_frame, 1)))


def even_chunk_size(num_frames: int, limit: int) -> int:
    """The size of chunks of equal length, of which none has more than `limit` frames.

    Example:
        >>> even_chunk_size(16, 14)   # 8 + 8 instead of 14 + 2
        8
    """
    return max(1, ceil(num_frames / max(1, ceil(num_frames / limit))))


def tower_bytes_per_frame(config: Any, shape: Sequence[int], dtype: torch.dtype, num_frames: int) -> int:
    """About the largest memory of one frame in a layer of a vision transformer.

    In the MLP, three tensors of its width are alive (the input of the activation function, and two inside of it)
    besides the state, its norm and their sum. Eager attention needs more than that: two matrices of all pairs of
    tokens, one of them in float32.

    Args:
        config: configuration of the tower, of any family; `None` if it is not known.
        shape, dtype, num_frames: see `tower_chunk_size`.
    """
    num_frames, shape = max(num_frames, 1), tuple(shape)
    of_pixels = 2 * prod(shape) // num_frames * dtype.itemsize
    width, patch = max(_sizes(config, WIDTHS), default=0), getattr(config, "patch_size", None)
    if not width or patch is None:
        return of_pixels + CHUNK_BYTES // MOST_FRAMES
    if len(shape) < 4:
        # The image processor has cut the frames into patches, one in a row.
        tokens = shape[0] // num_frames
    else:
        rows, columns = (patch, patch) if isinstance(patch, int) else patch
        views = prod(shape[:-3]) // num_frames
        tokens = max(views, 1) * ((shape[-2] // rows) * (shape[-1] // columns) + 1)
    values = tokens * (4 * width + 3 * max(_sizes(config, MLP_WIDTHS), default=4 * width))
    if getattr(config, "_attn_implementation", None) == "eager":
        values += 3 * max(_sizes(config, HEADS), default=1) * tokens**2
    return int(of_pixels + values * dtype.itemsize)


def _sizes(config: Any, names: Sequence[str]) -> list[int]:
    return [value for name in names if isinstance(value := getattr(config, name, None), int)]


def join_in_chunks(clips: Sequence[torch.Tensor], size: int) -> Iterator[torch.Tensor]:
    """The frames of all clips, `size` at a time. Only chunks with frames of several clips are copies."""
    parts: list[torch.Tensor] = []
    missing = size
    for clip in clips:
        while len(clip):
            parts.append(clip[:missing])
            clip = clip[missing:]
            missing -= len(parts[-1])
            if not missing:
                yield torch.cat(parts) if len(parts) > 1 else parts[0]
                parts, missing = [], size
    if parts:
        yield torch.cat(parts) if len(parts) > 1 else parts[0]


class RowJoiner:
    """Joins tensors along their first dimension as they come, in memory that is allocated once.

    `torch.cat` would hold all parts beside their copy. With gradients the parts are needed anyway, so they are
    concatenated.

    Args:
        num_rows: rows of the result.
    """

    def __init__(self, num_rows: int) -> None:
        self.num_rows, self.num_added = num_rows, 0
        self._joined: torch.Tensor | None = None
        self._parts: list[torch.Tensor] = []

    def add(self, part: torch.Tensor) -> None:
        """Add the next rows, `(rows, ...)`."""
        if part.requires_grad or len(part) == self.num_rows:
            self._parts.append(part)
        else:
            if self._joined is None:
                self._joined = part.new_empty(self.num_rows, *part.shape[1:])
            self._joined[self.num_added : self.num_added + len(part)] = part
        self.num_added += len(part)

    def result(self) -> torch.Tensor:
        """All rows, `(num_rows, ...)`."""
        if self._joined is not None:
            return self._joined
        return self._parts[0].contiguous() if len(self._parts) == 1 else torch.cat(self._parts)


def join_parts(parts: Iterable[torch.Tensor], num_rows: int) -> torch.Tensor:
    """Join tensors as `RowJoiner` does.

    Args:
        parts: tensors with `num_rows` rows together. A caller that computes them one by one must not keep them.
        num_rows: rows of the result.
    """
    joiner = RowJoiner(num_rows)
    for part in parts:
        joiner.add(part)
        # Otherwise this part would be in memory while the next one is computed.
        del part
    return joiner.result()


__all__ = [
    "CHUNK_BYTES",
    "MOST_FRAMES",
    "RowJoiner",
    "chosen_chunk_size",
    "even_chunk_size",
    "frames_in_budget",
    "join_in_chunks",
    "join_parts",
    "tower_bytes_per_frame",
    "tower_chunk_size",
]
