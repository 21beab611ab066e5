"""Runs a vision tower only up to the last layer that is used, and keeps only the hidden states that are used.

The encoders of transformers run `for layer in self.layers`. The list of layers becomes a `StoppableLayers`, whose
iterator ends early while a `LayerRun` is active. Modules, their names and their weights do not change, so checkpoints,
adapters, hooks, and libraries that shard or move weights are not affected. Other calls of the tower run all layers.
"""

from collections.abc import Iterator, Sequence
from contextvars import ContextVar, Token
from typing import Any

import torch
from torch import nn

# Each thread has its own value, so several threads can run the same model.
_active: ContextVar["LayerRun | None"] = ContextVar("hf_videollm_layer_run", default=None)


class _Traced:
    """Holds the active run while `torch.compile` traces the model: it cannot trace context variables."""

    run: "LayerRun | None" = None


def active_run() -> "LayerRun | None":
    """The run whose context the caller is in."""
    return _Traced.run if torch.compiler.is_compiling() else _active.get()


class LayerRun:
    """A context in which a tower stops after the last hidden state that is wanted.

    Hidden state 0 is the input of the first layer, and hidden state i the output of layer i.

    Args:
        wanted: indices of hidden states, not negative.
        num_states: hidden states of the whole tower.
    """

    def __init__(self, wanted: Sequence[int], num_states: int) -> None:
        self.wanted = frozenset(wanted)
        self.num_states = num_states
        # The input of the first layer is known only when the first layer is called.
        self.num_layers = max(1, *wanted)
        self.states: dict[int, torch.Tensor] = {}

    def __enter__(self) -> "LayerRun":
        if torch.compiler.is_compiling():
            _Traced.run = self
        else:
            self._token: Token[LayerRun | None] = _active.set(self)
        return self

    def __exit__(self, *error: object) -> None:
        if torch.compiler.is_compiling():
            _Traced.run = None
        else:
            _active.reset(self._token)

    def keep(self, index: int, state: torch.Tensor) -> None:
        """Keep a hidden state if it is wanted."""
        if index in self.wanted:
            self.states[index] = state

    def hidden_states(self) -> tuple[torch.Tensor | None, ...]:
        """The hidden states of the tower, `None` where they are not wanted.

        Raises:
            RuntimeError: the tower did not call its layers one after the other.
        """
        if self.states.keys() != self.wanted:
            raise RuntimeError(
                f"The vision tower gave the hidden states {sorted(self.states)} instead of {sorted(self.wanted)}: it "
                "does not run its list of layers from the first to the last."
            )
        return tuple(self.states.get(index) for index in range(self.num_states))


class StoppableLayers(nn.ModuleList):
    """A list of layers that ends early while a `LayerRun` is active."""

    def __iter__(self) -> Iterator[nn.Module]:
        run, layers = active_run(), super().__iter__()
        return layers if run is None else _watched(layers, run)


def _watched(layers: Iterator[nn.Module], run: LayerRun) -> Iterator[Any]:
    for index, layer in zip(range(run.num_layers), layers, strict=False):
        yield _WatchedLayer(layer, index, run)


class _WatchedLayer:
    """Calls a layer, and keeps its output for the run.

    It is no hook of the layer: with gradient checkpointing, hooks see tensors without the history of their gradients.
    """

    def __init__(self, layer: nn.Module, index: int, run: LayerRun) -> None:
        self._layer, self._index, self._run = layer, index, run

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._index == 0:
            self._run.keep(0, args[0] if args else kwargs["hidden_states"])
        output = self._layer(*args, **kwargs)
        self._run.keep(self._index + 1, output[0] if isinstance(output, tuple) else output)
        return output


def partial_run(vision_tower: nn.Module, selected: int | Sequence[int]) -> LayerRun | None:
    """The run in which a tower stops after the last of some hidden states; `None` if all of its layers have to run.

    Args:
        vision_tower: the tower; only one with `StoppableLayers` can stop.
        selected: the hidden state(s) that are used, as in `vision_feature_layer`.
    """
    layers = next((len(part) for part in vision_tower.modules() if isinstance(part, StoppableLayers)), 0)
    wanted = [index % (layers + 1) for index in ([selected] if isinstance(selected, int) else selected)]
    # The last hidden state of some towers has gone through a norm after the layers, so the tower itself returns it.
    return LayerRun(wanted, layers + 1) if wanted and layers and layers not in wanted else None


def make_stoppable(layers: nn.ModuleList) -> None:
    """Let a list of layers end early while a `LayerRun` is active. Lists of other classes are left as they are."""
    if type(layers) is nn.ModuleList:
        layers.__class__ = StoppableLayers


__all__ = ["LayerRun", "StoppableLayers", "active_run", "make_stoppable", "partial_run"]
