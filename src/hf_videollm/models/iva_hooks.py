"""Calls IVA's adapter between the layers of a language model of transformers, without changing that model's code.

Forward pre-hooks on the decoder layers call the adapter. The hooks are plain functions without state, so a model can
be copied, pickled, compiled and split over devices. Each call of the language model gets its own `AdapterContext` as a
keyword argument, and the decoders of transformers pass keyword arguments on to their layers.

The context is not kept on the model: gradient checkpointing runs layers and their hooks again in the backward pass,
and by then the model may have been called with other prompts (see `transformers_compat.hold_gradients`).
"""

from typing import Any

import torch
from torch import nn

from .iva_frames import FrameBank

CONTEXT = "iva_context"


class AdapterContext:
    """What the hooks need in one call of the language model.

    It is not a list, dict or tuple, because accelerate would copy tensors inside those to the device of every layer.

    Attributes:
        adapter: the adapter module of the model at the time of the call (PEFT may have wrapped it).
        columns: int64, `(batch, queries)`, columns of the query tokens in the prompts.
        valid: bool, `(batch, queries)`, false for entries of `columns` that only fill up rows with fewer query tokens.
        visible: bool, `(batch, queries, frames)`, true for the frames that a query token may attend to.
        frames: the frames of all rows.
        num_calls: how often the adapter has been called.
        selections: the attention weights over frames. For each call of the adapter, this list gets a list with one
            tensor per adapter layer. `None` if the caller does not ask for the weights.
        is_replayed: whether reentrant gradient checkpointing is in use. It runs the layers, and with them the hooks, a
            second time.
        replay_frames: a copy of `frames` without gradient history, which collects their gradients.
    """

    __slots__ = (
        "adapter",
        "columns",
        "frames",
        "is_replayed",
        "num_calls",
        "replay_frames",
        "selections",
        "valid",
        "visible",
    )

    def __init__(
        self, adapter: nn.Module, columns: torch.Tensor, valid: torch.Tensor, visible: torch.Tensor, frames: FrameBank
    ) -> None:
        self.adapter = adapter
        self.columns = columns
        self.valid = valid
        self.visible = visible
        self.frames = frames
        self.num_calls = 0
        self.selections: list[list[torch.Tensor]] | None = None
        self.is_replayed = False
        self.replay_frames: FrameBank | None = None

    def frames_of_call(self) -> FrameBank:
        """The frames for the current call of the adapter.

        The first pass of reentrant checkpointing runs without gradients. Later passes run with gradients, and get the
        copy `replay_frames`; `transformers_compat.hold_gradients` explains the reason.
        """
        if not self.frames.requires_grad:
            return self.frames
        if not torch.is_grad_enabled():
            self.is_replayed = True
            return self.frames
        if not self.is_replayed:
            return self.frames
        if self.replay_frames is None:
            self.replay_frames = self.frames.cut_off()
        return self.replay_frames


def call_adapter(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Forward pre-hook of a decoder layer: change the hidden states of the query tokens."""
    if CONTEXT not in kwargs:
        return None
    context: AdapterContext = kwargs[CONTEXT]
    others = {name: value for name, value in kwargs.items() if name != CONTEXT}
    hidden_states = args[0] if args else others.pop("hidden_states")
    columns = context.columns.to(hidden_states.device).unsqueeze(-1).expand(-1, -1, hidden_states.shape[-1])
    queries = hidden_states.gather(1, columns)
    change, selections = context.adapter(queries, context.visible, context.frames_of_call())
    context.num_calls += 1
    if context.selections is not None:
        context.selections.append(selections)
    # This hook runs before accelerate moves the inputs of a layer to one device, so `change` may still be on another.
    change = change.to(queries).masked_fill(~context.valid.to(queries.device).unsqueeze(-1), 0.0)
    return (hidden_states.scatter(1, columns, queries + change), *args[1:]), others


def drop_context(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Forward pre-hook of all other decoder layers: remove the context, which attention functions do not accept."""
    return (args, {name: value for name, value in kwargs.items() if name != CONTEXT}) if CONTEXT in kwargs else None


def decoder_layers(language_model: nn.Module, num_layers: int) -> nn.ModuleList:
    """The decoder layers of a language model of transformers.

    Families name the list of layers differently, so this function takes the first list with `num_layers` modules.

    Raises:
        ValueError: there is no such list.
    """
    for module in language_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == num_layers:
            return module
    raise ValueError(
        f"IVA found no list of {num_layers} decoder layers in {type(language_model).__name__}: use a LLaMA-like "
        "language model, or num_insertions=0 for a model without the adapter."
    )


__all__ = ["CONTEXT", "AdapterContext", "call_adapter", "decoder_layers", "drop_context"]
