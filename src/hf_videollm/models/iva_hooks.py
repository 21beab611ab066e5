"""How IVA's adapter gets between the layers of a language model of transformers whose files it does not touch.

Forward pre-hooks on the decoder layers call it. They are functions of this file, without a state, so that a model can
be copied, pickled, compiled and split over devices; what a call is about comes to them as a keyword argument, which the
decoders of transformers hand on to their layers. A context kept on the model instead would be gone, or another one,
where hooks run again because a layer is recomputed in the backward pass (`transformers_compat.hold_gradients`).
"""

from typing import Any

import torch
from torch import nn

from .iva_frames import FrameBank

CONTEXT = "iva_context"


class AdapterContext:
    """What the hooks need in one call of the language model.

    An object that is no container and no tensor: accelerate moves everything it can look into to every layer's device.

    Attributes:
        adapter: the adapter, as the model holds it at the time of the call (PEFT may have wrapped it).
        columns: int64, `(batch, queries)`, where the query tokens stand.
        valid: bool, `(batch, queries)`: rows without query tokens have none.
        visible: bool, `(batch, queries, frames)`.
        frames: the frames of all rows.
        num_calls: how often the adapter has been called.
        selections: the attention over frames, a list with one tensor per pair for each call; `None` to forget it.
        is_replayed: the layers are checkpointed in the reentrant way, hooks included.
        replay_frames: `frames` cut off from what they were computed from, which takes up their gradients.
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
        """The frames, as the present call of the adapter may use them; see `transformers_compat.hold_gradients`."""
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
    # This runs before accelerate brings a layer's inputs together.
    change = change.to(queries).masked_fill(~context.valid.to(queries.device).unsqueeze(-1), 0.0)
    return (hidden_states.scatter(1, columns, queries + change), *args[1:]), others


def drop_context(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Forward pre-hook of the other layers, whose attention kernels need not know of it."""
    return (args, {name: value for name, value in kwargs.items() if name != CONTEXT}) if CONTEXT in kwargs else None


def decoder_layers(language_model: nn.Module, num_layers: int) -> nn.ModuleList:
    """The layers of a language model of transformers, wherever the family keeps them.

    Raises:
        ValueError: no list of so many layers was found.
    """
    for module in language_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == num_layers:
            return module
    raise ValueError(
        f"IVA found no list of {num_layers} decoder layers in {type(language_model).__name__}: use a LLaMA-like "
        "language model, or num_insertions=0 for the model without IVA."
    )


__all__ = ["CONTEXT", "AdapterContext", "call_adapter", "decoder_layers", "drop_context"]
