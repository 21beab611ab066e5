"""Refuses labels that ask a model to predict placeholders of media, as soon as a trainer passes them."""

from typing import Any

import torch
from torch import nn

from .video_llm_placeholders import check_tensor


def refuse_placeholder_labels(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Check the labels of a call. Use as a hook: `model.register_forward_pre_hook(..., with_kwargs=True)`.

    A hook sees the labels of every trainer. TRL replaces the `forward` of a model by one that keeps the labels to
    itself. Only such calls are checked: someone who calls the model itself may have reasons for any labels.

    Args:
        model: a model whose configuration has a `<modality>_token_id` for each of its `modalities`.
        args: positional arguments of the call. Trainers pass labels by name.
        kwargs: arguments by name; `labels` `(batch, length)`.

    Raises:
        ValueError: a label is the id of a placeholder, which a model must never write.
    """
    labels = kwargs.get("labels")
    if not isinstance(labels, torch.Tensor) or "forward" not in vars(model):
        return
    config: Any = model.config
    ids = [getattr(config, f"{modality}_token_id") for modality in config.modalities]
    learned = torch.isin(labels, torch.tensor(ids, device=labels.device, dtype=labels.dtype))
    check_tensor(
        ~learned.any(),
        "The labels hold placeholders of media, which nothing should learn: train on answers only. With TRL, make the "
        "trainer by hf_videollm.make_trainer(...), or set SFTConfig(assistant_only_loss=True).",
    )


__all__ = ["refuse_placeholder_labels"]
