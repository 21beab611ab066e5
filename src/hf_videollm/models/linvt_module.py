"""LinVT (Gao et al., 2024): turns any number of visual tokens into a fixed number of weighted means of these tokens.

    tokens (B,T,N,D) -> a score for each token -> the k best, in the order of time   `select`
                     -> means over windows, at three scales                          `aggregate`
                     -> queries, which have read the question, weigh the means of their scale -> (B,n,D)

The output is the product M V. V holds the visual tokens, and each row of M holds weights of at least 0 that sum to 1.
The weights depend on the tokens and on the question, but every output is a mean of vectors of the kind that the
language model was trained on.
"""

import torch
from torch import nn
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
from .linvt_selection import LinVTSelection, join_selections, mix_deepstack


def sinusoidal_code(times: torch.Tensor, width: int) -> torch.Tensor:
    """Channel 2i is the sine, and channel 2i + 1 the cosine, of the time multiplied by 10000^(-2i / width).

    Args:
        times: any shape, float32.
        width: number of channels.

    Returns:
        `(*times.shape, width)` float32.
    """
    pairs = torch.arange((width + 1) // 2, device=times.device, dtype=torch.float32)
    angles = times.unsqueeze(-1) * 10000.0 ** (-2 * pairs / width)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)[..., :width]


class LinVTModule(nn.Module):
    """Linear video tokenizer.

    A model of transformers that contains it lists `LinVTScorer` and `LinVTAggregator` in `_no_split_modules`, and calls
    `reset_parameters` of its `LinVTScoreHead` and `LinVTAggregator` in `_init_weights`. All other parameters belong to
    linear layers and norms.

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
            config: the sizes of the module.

        Raises:
            ValueError: the heads do not divide the width.
        """
        super().__init__()
        if hidden_size % config.num_attention_heads:
            raise ValueError(
                f"The language model has width {hidden_size}, which is no multiple of LinVT's "
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
        """Run `select`, then `aggregate`. Their docstrings explain the arguments that are not listed here.

        A model calls both of them through `forward`, because libraries that shard or move weights prepare the weights
        when `forward` is called.

        Args:
            selection: from `select`, instead of `tokens`.
            select_only: return the selection, without `aggregate`.

        Raises:
            ValueError: neither `tokens` nor `selection` was passed; also the cases of `select` and `aggregate`.
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
        """Score the tokens of videos and keep those with the highest scores. The scores do not depend on a question.

        Args:
            tokens: `(batch, T, N, hidden_size)`, what the language model would read for each frame.
            frame_mask: `(batch, T)`, false (or 0) for padded frames, whose tokens may be any numbers; `None` without
                padding.
            frame_times: `(batch, T)`, seconds. If `None`, the number of a frame is its time.

        Returns:
            `min(k, T * N)` tokens of each video; fewer of them are valid if a video has fewer tokens.

        Raises:
            ValueError: shapes do not fit, or a video has no frames.
        """
        mask = self._check_video(tokens, frame_mask, frame_times)
        if mask is not None:
            tokens = tokens.masked_fill(~mask[:, :, None, None], 0)
        codes = self._frame_codes(tokens, mask, frame_times)
        # Always a new tensor, because the scorer changes its input if there are no gradients.
        states = tokens.clone() if codes is None else tokens + codes.unsqueeze(2).to(tokens.dtype)
        scores = self.svr(states, mask).to(tokens.device)
        flat_scores = scores.flatten(1)
        indices, valid = choose_tokens(
            self._ranks(flat_scores), min(self.config.num_selected_tokens, flat_scores.shape[1])
        )
        chosen = tokens.flatten(1, 2).gather(1, indices.unsqueeze(-1).expand(-1, -1, self.hidden_size))
        # Choosing tokens has no gradient. `aggregate` uses `changes`, which are 0, to give the scores a gradient.
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
            text_mask: `(batch, S)`, false (or 0) for padding; `None` without padding. A row that holds only padding
                belongs to a video without a question.
            return_map: also return M, the weights of all tokens.

        Returns:
            `(batch, n, hidden_size)` in the dtype of the tokens, finest scale first. With `return_map` also M,
            `(batch, n, T * N)` float32; its weights are at least 0 and sum to 1 in each row.

        Raises:
            ValueError: the shape of the text or of its mask does not fit.
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
                # These lines add 0 to the output, but give the scores a gradient. It is the gradient that they would
                # have if the weight of token i in output q were M_qi exp(s_i), divided by the sum of these weights over
                # all tokens, where s_i is the standardised score. So training raises the score of a token if more
                # weight on that token would lower the loss.
                share = on_selected.detach() * changes.unsqueeze(1)
                total = share.sum(-1, keepdim=True)
                output = output + share @ selection.tokens.float() - total * output.detach()
                on_selected = on_selected + share - total * on_selected.detach()
            output = output.to(selection.tokens.dtype)
        return (output, _map_of_all(on_selected, selection)) if return_map else output

    def _ranks(self, scores: torch.Tensor) -> torch.Tensor:
        """The numbers by which tokens are chosen: the scores, to which training with `selection_noise` adds noise."""
        scores = scores.detach()
        noise = getattr(self.config, "selection_noise", 0.0) if self.training else 0.0
        if not noise:
            return scores
        mask = scores != float("-inf")
        standardised = standardise(scores, mask)
        gumbel = -torch.empty_like(scores).exponential_().log()
        return (standardised + noise * gumbel).masked_fill(~mask, float("-inf"))

    def _groups(self, selection: LinVTSelection) -> list[PooledTokens]:
        """The visual tokens that each group of queries attends to."""
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
        """In the variant `"multi_a"`, pool outputs (or rows of M) to each scale; in others, return them unchanged."""
        if self.config.variant != "multi_a":
            return rows
        mask = torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device)
        return torch.cat([pool_tokens(rows, mask, *scale) for scale in self.config.windows()], dim=1)

    def _spread(self, weights: list[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
        """Turn weights of pooled tokens into weights of the selected tokens, `(batch, queries, k)`."""
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
        """Time code of each frame, scaled to the size of the tokens of its video: `(batch, T, hidden_size)` float32."""
        if self.config.time_code == "none":
            return None
        if mask is None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        counts = mask.sum(1)
        times = mask.cumsum(1) - 1 if frame_times is None else frame_times
        times = torch.where(mask, times.float(), 0)
        # The norms are computed in float32, without a float32 copy of all tokens. For float64 tokens the norms are
        # computed in float64, because torch refuses a narrower dtype than that of its input.
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
        for name, values in (("frame_mask", frame_mask), ("frame_times", frame_times)):
            if values is not None and values.shape != tokens.shape[:2]:
                raise ValueError(
                    f"{name} of shape {tuple(values.shape)} does not fit {tokens.shape[0]} videos of {tokens.shape[1]} "
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


def _map_of_all(on_selected: torch.Tensor, selection: LinVTSelection) -> torch.Tensor:
    """Extend M from the selected tokens to all tokens of the videos.

    Args:
        on_selected: `(batch, n, k)` float32.
        selection: the tokens that these weights belong to.

    Returns:
        `(batch, n, T * N)` float32, 0 for tokens that were not selected.
    """
    linear_map = on_selected.new_zeros(*on_selected.shape[:2], selection.scores[0].numel())
    return linear_map.scatter_add(2, selection.indices.unsqueeze(1).expand_as(on_selected), on_selected)


__all__ = ["LinVTModule", "LinVTSelection", "choose_tokens", "join_selections", "mix_deepstack", "sinusoidal_code"]
