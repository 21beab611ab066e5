"""FSDP2 in the trainers: the model says in which units it is to be sharded, unless the user says it."""

from __future__ import annotations

from typing import Any

from ..models.video_llm_contract import ModelContract

__all__ = ["shard_by_layers"]


def shard_by_layers(trainer: Any) -> None:
    """Let FSDP shard the layers of the language model one by one (`ModelContract.layers_to_shard`).

    Without it, accelerate would also take the layers of towers and connectors. They run as often as the media of a
    process ask for, so that processes with other media would wait for each other.

    Args:
        trainer: a trainer of transformers whose model is not sharded yet. Nothing changes if it does not use FSDP, or
            if its configuration names layers.
    """
    if not trainer.is_fsdp_enabled:
        return
    plugin = trainer.accelerator.state.fsdp_plugin
    model = next((module for module in trainer.model.modules() if isinstance(module, ModelContract)), None)
    if model is not None and plugin.transformer_cls_names_to_wrap is None:
        plugin.transformer_cls_names_to_wrap = model.layers_to_shard()
