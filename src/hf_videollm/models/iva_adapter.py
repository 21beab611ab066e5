"""The interactive visual adapter (IVA, paper section 3.3): dynamic query tokens attend to the patches of chosen frames.

Eq. 3 and 4 project every patch of every frame. This file gets the same result without projecting single patches, with
28 times less work for 60 frames at the default sizes (docs/measured/iva_memory.md). It uses two identities. The weights
of each softmax sum to 1, so the weighted mean of projected vectors equals the projection of their weighted mean. And
u . (W y) equals (W^T u) . y, where W^T is the transpose of W, so the few queries can be projected instead of the many
keys.

In the equations, x is the adapter's state of a query token, g_n is the global feature of frame n, and f_n are the patch
features of frame n. Trans is a linear map, and F_p is patch p of F.

    A = softmax over frames n of ((W_k^T q) . g_n + q . b_k) / tau    with q = W_q x + b_q
    F = sum_n A_n f_n                                                 (S of Eq. 3 is Trans(F))
    a = softmax over patches p of r . (W_2 Trans(F_p) + b_2)          with r = W_1 x + b_1; in the code, r is multiplied
    c = W_3 Trans(sum_p a_p F_p) + b_3                                by the transposes of W_2 and Trans instead of F_p
    x <- MLP(c) + c
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_iva import IvaConfig
from .iva_frames import FrameBank


def scaled_linear(in_features: int, out_features: int, gain: float = 1.0, bias: bool = True) -> nn.Linear:
    """A linear map whose initial weights have the standard deviation `gain` / sqrt(`in_features`).

    With a gain of 1, outputs are about as large as inputs at any width. The usual standard deviation of 0.02 equals
    1 / sqrt(2500), so it does this only for 2500 inputs. With fewer inputs, values would shrink from layer to layer.
    `IvaModel` reads the attribute `initial_std` when it initialises weights.
    """
    linear = nn.Linear(in_features, out_features, bias=bias)
    linear.initial_std = gain * in_features**-0.5
    return linear


class IvaProjection(nn.Module):
    """A linear map y -> W y + b of keys y. It can be moved to the queries u: u . (W y + b) = (W^T u) . y + u . b."""

    def __init__(self, in_features: int, out_features: int, gain: float = 1.0) -> None:
        super().__init__()
        self.initial_std = gain * in_features**-0.5
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features))

    # Both uses are in `forward`, because accelerate moves the weights to the device of the inputs only when `forward`
    # is called.
    def forward(
        self, vectors: torch.Tensor, of_queries: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Return W y + b for keys y `(..., in_features)`.

        With `of_queries`, `vectors` are queries u `(..., out_features)`; return W^T u and u . b.
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
        # Eq. 3 does not divide the products of queries and keys by the root of the width. With this gain, untrained
        # weights give logits (products divided by tau) with a variance of 1. At the default width of 1024, the standard
        # deviation of these weights is then 0.004.
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
            visible: bool, `(batch, queries, frames)`, true for the frames that a query may attend to.
            frames: the frames of all rows.
            trained: `frames.features` if they need gradients, otherwise nothing. A comment in `IvaAdapter.forward` says
                why they are passed a second time.

        Returns:
            F, `(batch, queries, patches, vision_width)`, and A, `(batch, queries, frames)`; see the top of this file.
        """
        global_features, *chunks = trained or frames.features
        projected, offset = self.key(self.query(queries), of_queries=True)
        logits = (projected @ global_features.to(projected).T + offset).to(
            torch.promote_types(queries.dtype, torch.float32)
        )
        # Frames that are not visible get the lowest finite logit. With -inf, the softmax of a query that may attend to
        # no frame at all (in a prompt without video) would be NaN.
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
    """Eq. 4: each query attends to the patches of F, its weighted mean of frames. `trans` is Trans of Eq. 3."""

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
            mixed: F, which the selector returned.

        Returns:
            MLP(c) + c, in the shape of x.
        """
        weights = self.patch_weights(queries, mixed).to(mixed.dtype)
        content = self.value(self.trans((weights.unsqueeze(-2) @ mixed).squeeze(-2)))
        output: torch.Tensor = self.mlp(content) + content
        return output

    def patch_weights(self, queries: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """a of Eq. 4: how much each query attends to each patch of F.

        Args:
            queries: x, `(batch, queries, adapter_width)`.
            mixed: F, `(batch, queries, patches, vision_width)`.

        Returns:
            `(batch, queries, patches)`, at least float32.
        """
        projected, offset = self.key(self.query(queries), of_queries=True)
        projected, trans_offset = self.trans(projected, of_queries=True)
        logits = ((mixed @ projected.unsqueeze(-1)).squeeze(-1) + offset + trans_offset) * self.scale
        return logits.softmax(-1, dtype=torch.promote_types(queries.dtype, torch.float32))


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
        """Arguments as in `IvaSelector`. Returns the new x, and the weights A of the frames."""
        mixed, weights = self.selector(queries, visible, frames, *trained)
        output = self.interactor(queries, mixed)
        return queries + output if self.has_residual else output, weights


class IvaAdapter(nn.Module):
    """Computes what is added to the hidden states of the query tokens.

    The same adapter, with the same weights, is called before several layers of the language model.
    """

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
            hidden_states: h, the states of the query tokens, `(batch, queries, text_width)`.
            visible: bool, `(batch, queries, frames)`, true for the frames that a query may attend to.
            frames: the frames of all rows.

        Returns:
            The change that the caller adds to h, and A of every layer, each `(batch, queries, frames)`.
        """
        states = self.input(self.norm(hidden_states.to(self.norm.weight.dtype)))
        visible = visible.to(states.device)
        # Reentrant checkpointing computes gradients only for tensors that are arguments of the layer. So features that
        # need gradients are passed as arguments. Other features are only passed inside `frames`, because accelerate
        # would move all tensors among the arguments to the device of the layer.
        trained = frames.features if frames.requires_grad else []
        selections = []
        for layer in self.layers:
            states, weights = layer(states, visible, frames, *trained)
            selections.append(weights)
        return self.output(states), selections


__all__ = ["IvaAdapter", "IvaAdapterLayer", "IvaInteractor", "IvaProjection", "IvaSelector", "scaled_linear"]
