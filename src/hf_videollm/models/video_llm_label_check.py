"""Refuses batches from which a model would learn placeholders or questions, or without their media, in a trainer."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from .video_llm_placeholders import check_tensor

# Arguments of a call that come from words alone. `VideoDataCollator` always passes more, also for rows without media.
WORD_INPUTS = frozenset(
    {"input_ids", "attention_mask", "position_ids", "labels", "shift_labels", "num_items_in_batch", "cache_position"}
    | {f"{name}_{side}" for name in ("cu_seq_lens", "max_length") for side in "qk"}
)
MAKE_TRAINER = "make the trainer by hf_videollm.make_trainer(...)"
PLACEHOLDERS = (
    "The labels hold placeholders of media, which nothing should learn: train on answers only. With TRL, "
    f"{MAKE_TRAINER}, or set SFTConfig(assistant_only_loss=True)."
)
QUESTIONS = (
    "The labels hold the first token of a row, so the questions would be learned, too: train on answers only. With "
    f"TRL, {MAKE_TRAINER}, or set SFTConfig(assistant_only_loss=True)."
)
BLIND = (
    "TRL has dropped the media of these rows, as it does without a column images, so the model would be trained "
    "blind: make the trainer by hf_videollm.make_trainer, make_dpo_trainer or make_grpo_trainer, which read media in "
    "messages and columns, and take rows of text alone, too."
)


def refuse_wrong_labels(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Check the labels of a call. Use as a hook: `model.register_forward_pre_hook(..., with_kwargs=True)`.

    A hook sees the batches of every trainer. TRL replaces the `forward` of a model by one that keeps the labels to
    itself. Only such calls are checked: someone who calls the model itself may have reasons for any labels.

    Args:
        model: a model whose configuration has a `<modality>_token_id` for each of its `modalities`.
        args: positional arguments of the call. Trainers pass labels by name.
        kwargs: arguments by name; `labels` `(batch, length)`.

    Raises:
        ValueError: a label is the id of a placeholder, which a model must never write. Or the call comes from TRL, and
            the first token of a row is learned, which no answer is; or the rows were made without a processor.
    """
    labels = kwargs.get("labels")
    if not isinstance(labels, torch.Tensor) or "forward" not in vars(model):
        return
    config: Any = model.config
    ids = [getattr(config, f"{modality}_token_id") for modality in config.modalities]
    placeholders = torch.isin(labels, torch.tensor(ids, device=labels.device, dtype=labels.dtype)).any()
    if not _is_of_trl(model):
        check_tensor(~placeholders, PLACEHOLDERS)
        return
    questions = (_first_labels(labels, kwargs.get("attention_mask")) != -100).any()
    check_tensor(~(placeholders | questions), lambda: _meaning(bool(placeholders), kwargs))
    if _is_of_words(kwargs):
        raise ValueError(BLIND)


def _meaning(has_placeholders: bool, kwargs: Mapping[str, Any]) -> str:
    if has_placeholders:
        return PLACEHOLDERS
    return BLIND if _is_of_words(kwargs) else QUESTIONS


def _is_of_words(kwargs: Mapping[str, Any]) -> bool:
    """Whether no tensor of the call tells of media, not even that there are none."""
    return not any(isinstance(value, torch.Tensor) for name, value in kwargs.items() if name not in WORD_INPUTS)


def _first_labels(labels: torch.Tensor, attention_mask: Any) -> torch.Tensor:
    """The label of the first token of each row that is no padding."""
    if not isinstance(attention_mask, torch.Tensor) or attention_mask.shape != labels.shape:
        return labels[:, 0]
    return labels.gather(1, attention_mask.long().argmax(-1, keepdim=True))[:, 0]


def _is_of_trl(model: nn.Module) -> bool:
    """Whether TRL has replaced the `forward` of the model. Other libraries, such as accelerate, may wrap it, too."""
    return any(
        str(getattr(function, "__globals__", {}).get("__name__", "")).split(".")[0] == "trl"
        for function in _wrapped(vars(model)["forward"])
    )


def _wrapped(function: Any) -> Iterator[Any]:
    """A function or method, and the functions that it wraps."""
    while function is not None:
        function = getattr(function, "__func__", function)
        yield function
        function = getattr(function, "__wrapped__", None)


__all__ = ["refuse_wrong_labels"]
