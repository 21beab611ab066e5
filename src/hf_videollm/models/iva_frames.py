"""Features of the frames that IVA's adapter attends to, and the row of the batch that each frame belongs to."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .configuration_iva import IvaConfig
from .video_llm_chunks import join_in_chunks


# Frames are kept in objects of these classes, not in lists, dicts or tuples: accelerate would copy tensors inside those
# to the device of every layer.
class MediumFrames:
    """Features of the frames of one video or image.

    Attributes:
        global_features: g, `(frames, vision_width)`.
        chunks: f, the patch features in one or several parts `(frames of the part, patches, vision_width)`. Together
            the parts hold all frames in their order.
    """

    __slots__ = ("chunks", "global_features")

    def __init__(self, global_features: torch.Tensor, chunks: Sequence[torch.Tensor]) -> None:
        self.global_features = global_features
        self.chunks = list(chunks)


class IvaVideoState:
    """The frames of videos and images whose visual tokens are in a key-value cache.

    The adapter needs them when a further question continues the cache, which does not hold the frames themselves.

    Attributes:
        media: one entry per video or image.
        rows: int64, `(media,)`, the row of the batch that each medium belongs to.
    """

    __slots__ = ("media", "rows")

    def __init__(self, media: Sequence[MediumFrames], rows: torch.Tensor) -> None:
        self.media = list(media)
        self.rows = rows

    def repeat(self, times: int) -> "IvaVideoState":
        """The state for a batch in which each row is repeated `times` times, as for beams."""
        rows = self.rows.repeat_interleave(times) * times + torch.arange(times).repeat(len(self.rows)).to(self.rows)
        return IvaVideoState([medium for medium in self.media for _ in range(times)], rows)


@dataclass
class IvaMediaOutput(BaseModelOutputWithPooling):
    """Output of `get_image_features` and `get_video_features`.

    Attributes:
        pooler_output: the visual tokens, one `(num_tokens, text_width)` tensor per medium.
        frames: what the adapter attends to, one `MediumFrames` per medium; `None` if the model has no adapter.
    """

    frames: list[Any] | None = None


class FrameBank:
    """The frames of all rows of a batch, in the form that the adapter takes.

    Attributes:
        global_features: `(frames, vision_width)`.
        rows: int64, `(frames,)`, the row of the batch that each frame belongs to.
        columns: int64, `(frames,)`, the column of the last placeholder of the medium that each frame belongs to; -1 if
            the placeholders are in the cache.
        chunks: patch features, `(frames of the chunk, patches, vision_width)` each. Together they hold all frames in
            the order of `global_features`.
        chunk_rows: int64, `(chunks,)`, the row of the batch that each chunk belongs to.
    """

    __slots__ = ("chunk_rows", "chunks", "columns", "global_features", "rows")

    def __init__(self, media: Sequence[MediumFrames], rows: torch.Tensor, columns: torch.Tensor) -> None:
        counts = [len(medium.global_features) for medium in media]
        self.global_features = torch.cat([medium.global_features for medium in media])
        self.rows = repeat_each(rows, counts)
        self.columns = repeat_each(columns, counts)
        self.chunks = [chunk for medium in media for chunk in medium.chunks]
        self.chunk_rows = repeat_each(rows, [len(medium.chunks) for medium in media])
        num_patches = sorted({chunk.shape[1] for chunk in self.chunks})
        if len(num_patches) > 1:
            raise ValueError(
                f"The frames of one batch have {num_patches} patches: all videos and images must have the same size."
            )

    @property
    def features(self) -> list[torch.Tensor]:
        """g, and the chunks of f."""
        return [self.global_features, *self.chunks]

    @property
    def requires_grad(self) -> bool:
        """Whether gradients must reach the frames: the vision tower or its input is trained."""
        return any(tensor.requires_grad for tensor in self.features)

    def cut_off(self) -> "FrameBank":
        """A copy whose tensors are detached from the graph that computed them, and collect gradients in `.grad`."""
        bank = copy.copy(self)
        bank.global_features, *bank.chunks = (
            tensor.detach().requires_grad_(tensor.requires_grad) for tensor in self.features
        )
        return bank


def repeat_each(values: torch.Tensor, times: Sequence[int]) -> torch.Tensor:
    """Repeat `values[i]` `times[i]` times. `times` holds Python numbers, so this does not wait for the device."""
    return torch.cat([value.expand(count) for value, count in zip(values.split(1), times, strict=True)])


def split_into_media(chunks: Iterable[torch.Tensor], num_frames: Sequence[int]) -> list[list[torch.Tensor]]:
    """Split chunks of frames into the chunks of each medium, of which medium i has `num_frames[i]` frames.

    The returned chunks are views, not copies.
    """
    media: list[list[torch.Tensor]] = [[]]
    remaining = list(num_frames)
    for chunk in chunks:
        while len(chunk):
            if not remaining[0]:
                remaining.pop(0)
                media.append([])
            media[-1].append(chunk[: remaining[0]])
            chunk = chunk[remaining[0] :]
            remaining[0] -= len(media[-1][-1])
    return media


def check_class_token(num_tokens: int, frames: torch.Tensor, config: IvaConfig) -> None:
    """Check that a vision tower returned one token for each patch of a frame, and a class token if one is expected.

    Args:
        num_tokens: number of tokens that the tower returned for a frame.
        frames: `(frames, 3, height, width)`, of which only the height and the width are used.
        config: says by `vision_feature_select_strategy` whether a class token is expected.

    Raises:
        ValueError: the class token is missing or not expected, or the tower returned other tokens that are not patches.
    """
    if (size := getattr(config.vision_config, "patch_size", None)) is None:
        return
    height, width = (size, size) if isinstance(size, int) else size
    num_patches = (frames.shape[-2] // height) * (frames.shape[-1] // width)
    name = config.vision_config.model_type
    if config.vision_feature_select_strategy == "default" and num_tokens == num_patches:
        raise ValueError(
            f"{name} gave {num_tokens} tokens for {num_patches} patches: it has no class token. Set "
            "vision_feature_select_strategy='full' (the global feature of a frame is then the mean of its patches)."
        )
    if config.vision_feature_select_strategy == "full" and num_tokens == num_patches + 1:
        raise ValueError(
            f"{name} gave {num_tokens} tokens for {num_patches} patches: it has a class token. Set "
            "vision_feature_select_strategy='default' (the class token is then the global feature of its frame)."
        )
    num_expected = num_patches + (config.vision_feature_select_strategy == "default")
    if num_tokens != num_expected:
        raise ValueError(
            f"{name} gave {num_tokens} tokens a frame instead of {num_expected} ({num_patches} patches): use a "
            "vision tower that returns patches alone or patches and a class token, such as SigLIP or CLIP."
        )


def place_media(mask: torch.Tensor, num_tokens: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column of the last placeholder of each medium.

    Args:
        mask: bool, `(batch, length)`, true at the placeholders. The media are in the order of the rows: first those of
            row 0, then those of row 1, and so on.
        num_tokens: number of placeholders of each medium.

    Returns:
        Two int64 tensors `(media,)`. They are computed on the device, and the code does not wait for the result.
    """
    ends = torch.tensor(list(num_tokens), device=mask.device).cumsum(0)
    last = torch.searchsorted(mask.flatten().long().cumsum(0), ends)
    return last // mask.shape[1], last % mask.shape[1]


def media_of_state(value: Any) -> list[MediumFrames]:
    """The frames of all media in a value that was passed as `video_state`.

    Raises:
        TypeError: the value is not something that `get_video_features` or `make_video_state` returns.
    """
    if isinstance(value, IvaVideoState):
        return value.media
    # An output of transformers is a mapping, too, so this check comes before the check for a dict of outputs.
    if getattr(value, "frames", None) is not None:
        return list(value.frames)
    if isinstance(value, Mapping) and "pooler_output" not in value:
        return [medium for output in value.values() for medium in media_of_state(output)]
    raise TypeError(
        "video_state must be an output of get_video_features or get_image_features of a model with an adapter, a dict "
        f"of such outputs, or an output of make_video_state, not {type(value).__name__}."
    )


__all__ = [
    "FrameBank",
    "IvaMediaOutput",
    "IvaVideoState",
    "MediumFrames",
    "check_class_token",
    "join_in_chunks",
    "media_of_state",
    "place_media",
    "split_into_media",
]
