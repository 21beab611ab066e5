"""LinVT (Gao et al., 2024): any number of visual tokens in, a fixed number of weighted means of them out.

    tokens (B,T,N,D) -> scores -> the k best, in the order of time -> means over windows, at three scales
                     -> queries that know the question weigh the means of their scale -> (B,n,D)

What comes out is M V: V are the tokens that came in, and M has rows of numbers that are not negative and sum to 1. Only
M depends on tokens and question in a way that is not linear, so the language model sees mixtures of what it knows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.export import register_dataclass
from transformers.utils.generic import maybe_autocast

from .configuration_linvt import LinVTModuleConfig, num_windows
from .linvt_layers import (
    LinVTAggregator,
    LinVTScorer,
    PooledTokens,
    choose_tokens,
    pool_tokens,
    spread_weights,
    standardise,
    window_sizes,
    zero_changes,
)


@dataclass(frozen=True)
class LinVTSelection:
    """The tokens of videos that are worth keeping: all that later questions on them need.

    Args:
        tokens: `(batch, k, hidden_size)`, copies of tokens that came in, in the order of time and place; tokens that
            are none stand behind.
        mask: `(batch, k)` bool, tokens that are some.
        indices: `(batch, k)` int64, where they stood: frame times N plus position.
        scores: `(batch, T, N)` float32, of all tokens; minus infinity in padded frames.
        frame_codes: `(batch, T, hidden_size)` float32, time code of the frames; `None` without one.
        deepstack: `(batch, k, levels, hidden_size)`, what the tower feeds deeper layers of the language model for these
            tokens, 0 where there is no token; `None` where it feeds none.
        score_changes: `(batch, k)` float32, 0 everywhere, through which gradients reach the scores of these tokens;
            `None` where the scorer is not trained.
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    indices: torch.Tensor
    scores: torch.Tensor
    frame_codes: torch.Tensor | None
    deepstack: torch.Tensor | None = None
    score_changes: torch.Tensor | None = None

    def take(self, rows: torch.Tensor) -> "LinVTSelection":
        """These rows, which may repeat: one for each of several questions on a video, say.

        Args:
            rows: `(new_batch,)` int64.
        """
        held = {name: value for name, value in vars(self).items() if value is not None}
        return replace(self, **{name: value.index_select(0, rows) for name, value in held.items()})


# Wrappers that shard weights (FSDP2) look for the tensors in what a module takes and returns.
register_dataclass(LinVTSelection)


def join_selections(selections: Sequence[LinVTSelection]) -> LinVTSelection:
    """Selections of videos as one batch, the shorter ones padded.

    Args:
        selections: of one module, from videos with equally many tokens per frame.

    Returns:
        A batch of all their rows.
    """
    joined = {}
    # A selection that was made without gradients has no changes of scores: they are 0.
    is_trained = any(selection.score_changes is not None for selection in selections)
    for name, value in vars(selections[0]).items():
        if value is None and not (name == "score_changes" and is_trained):
            continue
        parts = [getattr(selection, name) for selection in selections]
        if name == "score_changes":
            parts = [
                selection.mask.new_zeros(selection.mask.shape, dtype=torch.float32) if part is None else part
                for selection, part in zip(selections, parts, strict=True)
            ]
        length = max(part.shape[1] for part in parts)
        filling = float("-inf") if name == "scores" else 0
        padded = [part.new_full((len(part), length, *part.shape[2:]), filling) for part in parts]
        for target, part in zip(padded, parts, strict=True):
            target[:, : part.shape[1]] = part
        joined[name] = torch.cat(padded)
    return replace(selections[0], **joined)


def mix_deepstack(selection: LinVTSelection, linear_map: torch.Tensor) -> torch.Tensor:
    """Mixtures of deeper levels, by the weights that mix the tokens themselves: so they are linear as well.

    Args:
        selection: a batch with `deepstack`.
        linear_map: M, `(batch, n, T * N)`.

    Returns:
        `(batch, n, levels, hidden_size)`.
    """
    places = selection.indices.unsqueeze(1).expand(-1, linear_map.shape[1], -1)
    assert selection.deepstack is not None
    # Where there is no token its weight is another one's, but the levels are 0.
    return torch.einsum("bnk,bkld->bnld", linear_map.gather(2, places), selection.deepstack.float()).to(
        selection.deepstack.dtype
    )


def sinusoidal_code(times: torch.Tensor, width: int) -> torch.Tensor:
    """Sine and cosine by turns, of the time multiplied by 10000^(-2i / width).

    Args:
        times: any shape, float32.
        width: channels wanted.

    Returns:
        `(*times.shape, width)` float32.
    """
    pairs = torch.arange((width + 1) // 2, device=times.device, dtype=torch.float32)
    angles = times.unsqueeze(-1) * 10000.0 ** (-2 * pairs / width)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)[..., :width]


class LinVTModule(nn.Module):
    """Linear video tokenizer.

    Models that hold it should list `LinVTScorer` and `LinVTAggregator` in `_no_split_modules`, and call
    `reset_parameters` of its `LinVTScoreHead` and `LinVTAggregator` in their `_init_weights`; the rest are linear
    layers and norms.

    Example:

    ```python
    >>> import torch
    >>> from hf_videollm.models.configuration_linvt import LinVTModuleConfig
    >>> from hf_videollm.models.linvt_module import LinVTModule
    >>> module = LinVTModule(64, LinVTModuleConfig(num_layers=1))
    >>> video, question = torch.randn(1, 8, 16, 64), torch.randn(1, 5, 64)
    >>> module(video, text_embeddings=question).shape
    torch.Size([1, 112, 64])

    ```"""

    def __init__(self, hidden_size: int, config: LinVTModuleConfig) -> None:
        """
        Args:
            hidden_size: D, width of the language model.
            config: see there.

        Raises:
            ValueError: the heads do not divide the width.
        """
        super().__init__()
        if hidden_size % config.num_attention_heads:
            raise ValueError(
                f"LinVT stands before a language model of width {hidden_size}, which is no multiple of "
                f"num_attention_heads ({config.num_attention_heads}): set another number of heads."
            )
        self.hidden_size, self.config = hidden_size, config
        self.svr = LinVTScorer(hidden_size, config)
        self.tta = LinVTAggregator(hidden_size, config)

    def forward(
        self,
        tokens: torch.Tensor | None = None,
        frame_mask: torch.Tensor | None = None,
        text_embeddings: torch.Tensor | None = None,
        text_mask: torch.Tensor | None = None,
        frame_times: torch.Tensor | None = None,
        return_map: bool = False,
        selection: LinVTSelection | None = None,
        select_only: bool = False,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor] | LinVTSelection:
        """`select`, then `aggregate`; see there for the arguments.

        A model calls both halves here, because libraries that shard or move weights wait at `forward`.

        Args:
            selection: from `select`, instead of `tokens`.
            select_only: return the selection.

        Raises:
            ValueError: neither `tokens` nor `selection`; or as the two halves.
        """
        if selection is None:
            if tokens is None:
                raise ValueError("LinVT needs the tokens of videos, or a selection of them.")
            selection = self.select(tokens, frame_mask, frame_times)
        if select_only:
            return selection
        return self.aggregate(selection, text_embeddings, text_mask, return_map)

    def select(
        self,
        tokens: torch.Tensor,
        frame_mask: torch.Tensor | None = None,
        frame_times: torch.Tensor | None = None,
    ) -> LinVTSelection:
        """Scores the tokens of videos and keeps the best; independent of any question.

        Args:
            tokens: `(batch, T, N, hidden_size)`, what the language model would be fed for each frame.
            frame_mask: `(batch, T)`, true (or 1) for frames that are none of the padding; all if `None`. What stands in
                padded frames does not matter.
            frame_times: `(batch, T)`, seconds; the number of the frame counts if `None`.

        Returns:
            `min(k, T * N)` tokens of each video, fewer of them valid where padding leaves fewer.

        Raises:
            ValueError: shapes that do not fit, or a video without frames.
        """
        mask = self._check_video(tokens, frame_mask, frame_times)
        if mask is not None:
            tokens = tokens.masked_fill(~mask[:, :, None, None], 0)
        codes = self._frame_codes(tokens, mask, frame_times)
        states = tokens if codes is None else tokens + codes.unsqueeze(2).to(tokens.dtype)
        scores = self.svr(states, mask).to(tokens.device)
        flat_scores = scores.flatten(1)
        indices, valid = choose_tokens(
            self._ranks(flat_scores), min(self.config.num_selected_tokens, flat_scores.shape[1])
        )
        chosen = tokens.flatten(1, 2).gather(1, indices.unsqueeze(-1).expand(-1, -1, self.hidden_size))
        # The choice has no gradient; `aggregate` passes one on through these.
        changes = zero_changes(flat_scores.gather(1, indices), valid) if flat_scores.requires_grad else None
        return LinVTSelection(chosen, valid, indices, scores.detach(), codes, score_changes=changes)

    def aggregate(
        self,
        selection: LinVTSelection,
        text_embeddings: torch.Tensor | None = None,
        text_mask: torch.Tensor | None = None,
        return_map: bool = False,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Weighted means of selected tokens, for a question.

        Args:
            selection: from `select`, one row for each row of the text.
            text_embeddings: `(batch, S, hidden_size)`, the question as the language model embeds it.
            text_mask: `(batch, S)`, true (or 1) for tokens that are none of the padding; all if `None`. A row without
                any is a video without a question.
            return_map: also return M.

        Returns:
            `(batch, n, hidden_size)` in the dtype of the tokens, finest scale first; with `return_map` also M,
            `(batch, n, T * N)` float32, each row of it not negative and of sum 1.

        Raises:
            ValueError: text that does not fit.
        """
        text_mask = self._check_text(selection, text_embeddings, text_mask)
        groups = self._groups(selection)
        device = selection.tokens.device
        weights = [part.to(device) for part in self.tta(groups, text_embeddings, text_mask)]
        changes = selection.score_changes if torch.is_grad_enabled() else None
        with maybe_autocast(device_type=device.type, enabled=False):
            means = torch.cat([part @ group.tokens for part, group in zip(weights, groups, strict=True)], dim=1)
            output = self._pool_outputs(means)
            if changes is None and not return_map:
                return output.to(selection.tokens.dtype)
            on_selected = self._pool_outputs(self._spread(weights, selection.mask))
            if changes is not None:
                # Nothing is added but a gradient: that of weighing token i by M_qi exp(s_i), where s is its
                # standardised score. A query would gain by more of a token that is better than what it has.
                share = on_selected.detach() * changes.unsqueeze(1)
                total = share.sum(-1, keepdim=True)
                output = output + share @ selection.tokens.float() - total * output.detach()
                on_selected = on_selected + share - total * on_selected.detach()
            output = output.to(selection.tokens.dtype)
        if not return_map:
            return output
        source = on_selected.new_zeros(*on_selected.shape[:2], selection.scores[0].numel())
        places = selection.indices.unsqueeze(1).expand_as(on_selected)
        return output, source.scatter_add(2, places, on_selected)

    def _ranks(self, scores: torch.Tensor) -> torch.Tensor:
        """By what tokens are chosen: their scores; in training with `selection_noise`, standardised and with noise."""
        scores = scores.detach()
        noise = getattr(self.config, "selection_noise", 0.0) if self.training else 0.0
        if not noise:
            return scores
        mask = scores != float("-inf")
        standardised = standardise(scores, mask)
        gumbel = -torch.empty_like(scores).exponential_().log()
        return (standardised + noise * gumbel).masked_fill(~mask, float("-inf"))

    def _groups(self, selection: LinVTSelection) -> list[PooledTokens]:
        """What each group of queries looks at."""
        tokens, mask = selection.tokens.float(), selection.mask
        keys = tokens
        if selection.frame_codes is not None:
            frames = selection.indices // selection.scores.shape[2]
            keys = tokens + selection.frame_codes.gather(1, frames.unsqueeze(-1).expand(-1, -1, self.hidden_size))
        if self.config.variant in ("single_a", "multi_a"):
            return [PooledTokens(tokens, keys, mask)]
        scales = []
        for window, stride in self.config.windows():
            pooled = pool_tokens(tokens, mask, window, stride)
            pooled_keys = pooled if keys is tokens else pool_tokens(keys, mask, window, stride)
            scales.append(PooledTokens(pooled, pooled_keys, window_sizes(mask, window, stride) > 0))
        if self.config.variant == "multi_c":
            return scales
        return [PooledTokens(*(torch.cat(parts, dim=1) for parts in zip(*scales, strict=True)))]

    def _pool_outputs(self, rows: torch.Tensor) -> torch.Tensor:
        """Multi-A makes its scales here, of its outputs or of the rows of their map: `(batch, n, ...)`."""
        if self.config.variant != "multi_a":
            return rows
        every = torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device)
        return torch.cat([pool_tokens(rows, every, *scale) for scale in self.config.windows()], dim=1)

    def _spread(self, weights: list[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
        """Weights of pooled tokens as weights of the selected ones: `(batch, queries, k)`."""
        if self.config.variant in ("single_a", "multi_a"):
            return weights[0]
        scales = self.config.windows()
        if self.config.variant == "multi_c":
            spread = [spread_weights(part, mask, *scale) for part, scale in zip(weights, scales, strict=True)]
            return torch.cat(spread, dim=1)
        parts = weights[0].split([num_windows(mask.shape[1], *scale) for scale in scales], dim=2)
        spread = [spread_weights(part, mask, *scale) for part, scale in zip(parts, scales, strict=True)]
        return torch.stack(spread).sum(0)

    @torch.no_grad()
    def _frame_codes(
        self, tokens: torch.Tensor, mask: torch.Tensor | None, frame_times: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Time code of each frame, as large as the tokens of its video: `(batch, T, hidden_size)` float32."""
        if self.config.time_code == "none":
            return None
        if mask is None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        counts = mask.sum(1)
        times = mask.cumsum(1) - 1 if frame_times is None else frame_times
        times = torch.where(mask, times.float(), 0)
        # At least float32, without a copy of all tokens; torch refuses to narrow float64.
        dtype = torch.promote_types(tokens.dtype, torch.float32)
        norms = torch.linalg.vector_norm(tokens.flatten(1), dim=1, dtype=dtype).float()
        sizes = norms / (counts * tokens[0, 0].numel()) ** 0.5
        return sinusoidal_code(times, self.hidden_size) * sizes[:, None, None]

    def _check_video(
        self, tokens: torch.Tensor, frame_mask: torch.Tensor | None, frame_times: torch.Tensor | None
    ) -> torch.Tensor | None:
        if tokens.dim() != 4 or tokens.shape[-1] != self.hidden_size or 0 in tokens.shape:
            raise ValueError(
                f"Visual tokens of shape {tuple(tokens.shape)}: LinVT takes (videos, frames, tokens of a frame, "
                f"{self.hidden_size}), at least one of each."
            )
        for name, given in (("frame_mask", frame_mask), ("frame_times", frame_times)):
            if given is not None and given.shape != tokens.shape[:2]:
                raise ValueError(
                    f"{name} of shape {tuple(given.shape)} does not fit {tokens.shape[0]} videos of {tokens.shape[1]} "
                    "frames: give one number per frame."
                )
        if frame_mask is None:
            return None
        frame_mask = frame_mask.bool()
        if not torch.compiler.is_compiling() and not frame_mask.any(1).all():
            raise ValueError("frame_mask leaves a video without frames: drop that video.")
        return frame_mask

    def _check_text(
        self, selection: LinVTSelection, text: torch.Tensor | None, mask: torch.Tensor | None
    ) -> torch.Tensor | None:
        if text is None:
            return None
        expected = len(selection.tokens)
        if text.dim() != 3 or text.shape[0] != expected or text.shape[2] != self.hidden_size:
            raise ValueError(
                f"text_embeddings of shape {tuple(text.shape)} do not fit: LinVT takes ({expected}, length, "
                f"{self.hidden_size}), one row per video; selection.take(rows) repeats a video for more questions."
            )
        if mask is None:
            return None
        if mask.shape != text.shape[:2]:
            raise ValueError(
                f"text_mask of shape {tuple(mask.shape)} does not fit text_embeddings of {tuple(text.shape)}: give one "
                "number per token."
            )
        return mask.bool()


__all__ = ["LinVTModule", "LinVTSelection", "choose_tokens", "join_selections", "mix_deepstack", "sinusoidal_code"]
