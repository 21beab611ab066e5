"""The selected tokens of videos, which LinVT keeps for later questions, and functions that join them into a batch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.export import register_dataclass


@dataclass(frozen=True)
class LinVTSelection:
    """The tokens of videos with the highest scores. To answer a question on a video, LinVT needs only its selection.

    Args:
        tokens: `(batch, k, hidden_size)`, copies of the tokens that LinVT got, in the order of time and position.
            Padding comes last.
        mask: `(batch, k)` bool, false for padding.
        indices: `(batch, k)` int64, where the tokens were in the video: number of the frame times N plus position.
        scores: `(batch, T, N)` float32, the scores of all tokens; minus infinity in padded frames.
        frame_codes: `(batch, T, hidden_size)` float32, the time code of each frame; `None` without time code.
        deepstack: `(batch, k, levels, hidden_size)`, what deeper layers of the language model read for these tokens, 0
            for padding; `None` in families whose tower does not feed deeper layers.
        score_changes: `(batch, k)` float32, 0 everywhere; gradients reach the scores of these tokens through it. `None`
            if the scorer is not trained.
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    indices: torch.Tensor
    scores: torch.Tensor
    frame_codes: torch.Tensor | None
    deepstack: torch.Tensor | None = None
    score_changes: torch.Tensor | None = None

    def take(self, rows: torch.Tensor) -> "LinVTSelection":
        """A selection with these rows. A row may be repeated, for example to ask several questions on one video.

        Args:
            rows: `(new_batch,)` int64, the numbers of the rows.
        """
        return replace(self, **{name: value.index_select(0, rows) for name, value in self._tensors().items()})

    def row(self, row: int, num_frames: int, tokens_per_frame: int) -> "LinVTSelection":
        """One row without the padding of its batch.

        Args:
            row: the number of the row.
            num_frames: frames of this video.
            tokens_per_frame: N.
        """
        video = self.take(torch.tensor([row], device=self.mask.device))
        num_kept = min(num_frames * tokens_per_frame, video.mask.shape[1])
        lengths = {"scores": num_frames, "frame_codes": num_frames}
        tensors = video._tensors().items()
        return replace(video, **{name: value[:, : lengths.get(name, num_kept)] for name, value in tensors})

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {name: value for name, value in vars(self).items() if value is not None}


# Libraries that shard weights (FSDP2) look for tensors in the inputs and outputs of a module. They find the tensors of
# this class only if it is registered.
register_dataclass(LinVTSelection)


def join_selections(selections: Sequence[LinVTSelection]) -> LinVTSelection:
    """Join selections of several videos into one batch, and pad the shorter ones.

    Args:
        selections: selections by one module, from videos with equally many tokens per frame.

    Returns:
        One selection with the rows of all.
    """
    joined: dict[str, Any] = {}
    for name in vars(selections[0]):
        parts = [getattr(selection, name) for selection in selections]
        if name == "score_changes" and any(part is not None for part in parts):
            # A selection that was made without gradients has no `score_changes`. Zeros replace them.
            parts = [
                selection.mask.new_zeros(selection.mask.shape, dtype=torch.float32) if part is None else part
                for selection, part in zip(selections, parts, strict=True)
            ]
        if parts[0] is not None:
            joined[name] = _join_padded(parts, float("-inf") if name == "scores" else 0)
    return replace(selections[0], **joined)


def _join_padded(parts: Sequence[torch.Tensor], filling: float) -> torch.Tensor:
    """Concatenate along dimension 0 after padding dimension 1 to the longest."""
    length = max(part.shape[1] for part in parts)
    padded = [part.new_full((len(part), length, *part.shape[2:]), filling) for part in parts]
    for target, part in zip(padded, parts, strict=True):
        target[:, : part.shape[1]] = part
    return torch.cat(padded)


def mix_deepstack(selection: LinVTSelection, linear_map: torch.Tensor) -> torch.Tensor:
    """Compute weighted means of the `deepstack` vectors, with the weights by which LinVT mixes the tokens.

    Args:
        selection: a batch with `deepstack`.
        linear_map: `(batch, n, T * N)`, the weights of all tokens in each of the n outputs (M in `linvt_module.py`).

    Returns:
        `(batch, n, levels, hidden_size)`.
    """
    assert selection.deepstack is not None
    indices = selection.indices.unsqueeze(1).expand(-1, linear_map.shape[1], -1)
    # The index of a padded entry is that of another token, whose weight is read here. This weight has no effect,
    # because the `deepstack` vectors of padded entries are 0.
    mixed = torch.einsum("bnk,bkld->bnld", linear_map.gather(2, indices), selection.deepstack.float())
    return mixed.to(selection.deepstack.dtype)


__all__ = ["LinVTSelection", "join_selections", "mix_deepstack"]
