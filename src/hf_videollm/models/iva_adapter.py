"""The interactive visual adapter (IVA, paper section 3.3): dynamic query tokens attend to the patches of chosen frames.

Eq. 3 and 4 project every patch of every frame. This file gets the same result without projecting single patches, with
28 times less work at the paper's size. It uses two identities. The weights of each softmax sum to 1, so the mean of
projected vectors equals the projection of their mean. And q . (W k) equals (W' q) . k, where W' is the transpose of W,
so the few queries can be projected instead of the many keys.

    A = softmax over frames of ((W_k' q) . g_n + q . b_k) / tau     q = W_q x + b_q
    F = sum_n A_n f_n                                               S = Trans(F)
    a = softmax over patches of q' . (W_2 Trans(F_p) + b_2)         q' = W_1 x + b_1, multiplied by W_2' and Trans'
    c = W_3 Trans(sum_p a_p F_p) + b_3
    x <- MLP(c) + c
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_iva import IvaConfig
from .iva_frames import FrameBank


def scaled_linear(in_features: int, out_features: int, gain: float = 1.0, bias: bool = True) -> nn.Linear:
    """A linear map whose initial weights have the standard deviation `gain` / sqrt(inputs).

    With a gain of 1, outputs are as large as inputs at any width. The usual standard deviation of 0.02 would do this
    only at a width of about 2500; in a narrower adapter, values would shrink from layer to layer. `IvaModel` reads the
    attribute `initial_std` when it initialises weights.
    """
    linear = nn.Linear(in_features, out_features, bias=bias)
    linear.initial_std = gain * in_features**-0.5
    return linear


class IvaProjection(nn.Module):
    """A linear map of keys that can also be applied to the queries instead: u . (W y + b) = (u W) . y + u . b."""

    def __init__(self, in_features: int, out_features: int, gain: float = 1.0) -> None:
        super().__init__()
        self.initial_std = gain * in_features**-0.5
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features))

    # Both uses are in `forward`, because accelerate moves weights to the device of the inputs when `forward` is called.
    def forward(
        self, vectors: torch.Tensor, of_queries: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Return W y + b for vectors y `(..., in_features)`.

        With `of_queries`, return u W and u . b for queries u `(..., out_features)`.
        """
        if of_queries:
            return vectors @ self.weight, (vectors @ self.bias).unsqueeze(-1)
        return F.linear(vectors, self.weight, self.bias)


class IvaSelector(nn.Module):
    """Eq. 3: for each query, a weighted mean of all frames of its prompt. The global features decide the weights."""

    def __init__(self, config: IvaConfig) -> None:
        super().__init__()
        self.temperature = config.selector_temperature
        self.frames_per_chunk = config.frames_per_chunk
        width = config.adapter_hidden_size
        # Eq. 3 does not divide the products of queries and keys by the root of the width. With this gain, the logits
        # of untrained weights have a variance of 1. At the paper's width, the standard deviation of weights is 0.004.
        gain = (self.temperature * width**-0.5) ** 0.5
        self.query = scaled_linear(width, width, gain)
        self.key = IvaProjection(config.vision_width, width, gain)

    def forward(
        self,
        queries: torch.Tensor,
        visible: torch.Tensor,
        frames: FrameBank,
        *trained: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            queries: x, `(batch, queries, adapter_width)`.
            visible: bool, `(batch, queries, frames)`: the frames that each query may attend to.
            frames: the frames of all rows.
            trained: the features of `frames`, if they need gradients; `IvaAdapter.forward` says why.

        Returns:
            F, `(batch, queries, patches, vision_width)`, and A, `(batch, queries, frames)`.
        """
        global_features, *chunks = trained or frames.features
        projected, offset = self.key(self.query(queries), of_queries=True)
        logits = (projected @ global_features.to(projected).T + offset).to(
            torch.promote_types(queries.dtype, torch.float32)
        )
        # The smallest number is used instead of -inf. A query without frames (in a prompt without video) would get NaN.
        hidden = torch.finfo(logits.dtype).min
        weights = (logits / self.temperature).masked_fill(~visible, hidden).softmax(-1)
        # The sum over chunks is in float32: in half precision, small terms from late chunks of a long video would be
        # rounded away.
        mixed = weights.new_zeros((*queries.shape[:2], *chunks[0].shape[1:]))
        start = 0
        for row, chunk in zip(frames.chunk_rows.to(queries.device).split(1), chunks, strict=True):
            for part in chunk.split(self.frames_per_chunk or len(chunk)):
                share = weights.index_select(0, row)[0, :, start : start + len(part)]
                features = part.to(queries.device)
                added = share.to(features.dtype) @ features.flatten(1)
                mixed.index_add_(0, row, added.to(mixed.dtype).unflatten(1, features.shape[1:]).unsqueeze(0))
                start += len(part)
        return mixed.to(queries.dtype), weights


class IvaInteractor(nn.Module):
    """Eq. 4: each query attends to the patches of its mean frame from Eq. 3; `trans` is Trans of Eq. 3."""

    def __init__(self, config: IvaConfig) -> None:
        super().__init__()
        width = config.adapter_hidden_size
        self.scale = width**-0.5 if config.scale_interactor else 1.0
        self.trans = IvaProjection(config.vision_width, width)
        self.query = scaled_linear(width, width)
        self.key = IvaProjection(width, width)
        self.value = scaled_linear(width, width)
        self.mlp = nn.Sequential(scaled_linear(width, 4 * width), nn.GELU(), scaled_linear(4 * width, width))

    def forward(self, queries: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """
        Args:
            queries: x, `(batch, queries, adapter_width)`.
            mixed: F of the selector.

        Returns:
            MLP(c) + c, of the shape of x.
        """
        projected, offset = self.key(self.query(queries), of_queries=True)
        projected, trans_offset = self.trans(projected, of_queries=True)
        logits = ((mixed @ projected.unsqueeze(-1)).squeeze(-1) + offset + trans_offset) * self.scale
        weights = logits.softmax(-1, dtype=torch.promote_types(queries.dtype, torch.float32)).to(mixed.dtype)
        content = self.value(self.trans((weights.unsqueeze(-2) @ mixed).squeeze(-2)))
        output: torch.Tensor = self.mlp(content) + content
        return output


class IvaAdapterLayer(GradientCheckpointingLayer):
    """One pair of selector and interactor."""

    def __init__(self, config: IvaConfig) -> None:
        super().__init__()
        self.has_residual = config.adapter_residual
        self.selector = IvaSelector(config)
        self.interactor = IvaInteractor(config)

    def forward(
        self, queries: torch.Tensor, visible: torch.Tensor, frames: FrameBank, *trained: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Arguments as in `IvaSelector`. Returns the new x, and A."""
        mixed, weights = self.selector(queries, visible, frames, *trained)
        output = self.interactor(queries, mixed)
        return queries + output if self.has_residual else output, weights


class IvaAdapter(nn.Module):
    """Computes the change of the query tokens' hidden states. All insertion points use the same weights."""

    def __init__(self, config: IvaConfig) -> None:
        super().__init__()
        text_width, width = config.text_config.hidden_size, config.adapter_hidden_size
        self.norm = nn.LayerNorm(text_width)
        self.input = scaled_linear(text_width, width, bias=False)
        self.layers = nn.ModuleList([IvaAdapterLayer(config) for _ in range(config.num_adapter_layers)])
        # These weights start at 0, so the untrained adapter does not change the outputs of the language model.
        self.output = scaled_linear(width, text_width, gain=0.0, bias=False)

    def forward(
        self, hidden_states: torch.Tensor, visible: torch.Tensor, frames: FrameBank
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """
        Args:
            hidden_states: h at the query positions, `(batch, queries, text_width)`.
            visible: bool, `(batch, queries, frames)`: the frames that each query may attend to.
            frames: the frames of all rows.

        Returns:
            The change that the caller adds to h, and A of every layer, `(batch, queries, frames)`.
        """
        states = self.input(self.norm(hidden_states.to(self.norm.weight.dtype)))
        visible = visible.to(states.device)
        # Reentrant checkpointing computes gradients only for tensors that are arguments of the layer, so the features
        # are passed as arguments if they need gradients. Otherwise they are not, because accelerate would move all of
        # them to the device of the layer.
        trained = frames.features if frames.requires_grad else []
        selections = []
        for layer in self.layers:
            states, weights = layer(states, visible, frames, *trained)
            selections.append(weights)
        return self.output(states), selections


__all__ = ["IvaAdapter", "IvaAdapterLayer", "IvaInteractor", "IvaProjection", "IvaSelector", "scaled_linear"]
