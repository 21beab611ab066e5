"""Lets the vision tower of an image-LLM end its run after the last layer that the image-LLM uses.

`get_image_features` of some families asks the tower for all hidden states and takes one or two of them, often that of
the last layer but one. Inside of `used_layers`, the tower runs only as far as that, see `video_llm_tower_layers`.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from .video_llm_tower_layers import StoppableLayers, active_run, make_stoppable, partial_run
from .video_llm_vision_tower import towers_of, vision_layers


def make_tower_stoppable(vision_tower: Any) -> None:
    """Prepare a tower for `used_layers`. Its modules, their names and their weights do not change."""
    for tower in towers_of(vision_tower):
        layers = vision_layers(tower)
        if not isinstance(layers, StoppableLayers):
            make_stoppable(layers)
            tower.register_forward_hook(_give_kept_states)


def used_layers(vision_tower: Any, selected: int | Sequence[int]) -> AbstractContextManager[Any]:
    """A context in which the tower stops after the last of these hidden states was computed.

    Args:
        vision_tower: a tower that `make_tower_stoppable` has prepared; any other one runs all layers.
        selected: the hidden state(s) that are used, as in `vision_feature_layer`.
    """
    return partial_run(vision_tower, selected) or nullcontext()


def _give_kept_states(tower: Any, args: Any, outputs: Any) -> Any:
    """A hook: what a stopped tower returns as hidden states is too short, so a negative index would find another."""
    if (run := active_run()) is None:
        return None
    outputs.hidden_states = run.hidden_states()
    return outputs


__all__ = ["make_tower_stoppable", "used_layers"]
