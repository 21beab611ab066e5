"""A plan of a training, without weights: what is trained, on how many tokens, in how many steps, in how much memory.

Sizes are those of the checkpoint's configuration or, if no checkpoint is given, those of the paper. The model stands on
torch's meta device, so that a model of any size needs neither memory nor weights.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from ..costs.live_bytes import unique_bytes
from ..costs.training_memory import TrainingMemory, predict_training_memory
from ..models.transformers_compat import enable_checkpointing
from .arguments import PlannedArguments
from .checks import check_training
from .collator import VideoDataCollator
from .paper_mixes import expected_rows
from .planned_batch import TEXT_TOKENS, planned_batch, planned_tokens
from .precision import autocast_of, to_float32
from .quantized import saved_bytes
from .recipe import LOSS, Recipe
from .recipe_augment import read_augment
from .trainable import plain_name

__all__ = ["PartCount", "TrainingPlan", "count_steps", "part_counts", "plan_training"]

META = "meta"


@dataclass(frozen=True)
class PartCount:
    """Parameters of a part of the model: all of them, and those that are trained."""

    total: int
    trained: int


@dataclass(frozen=True)
class TrainingPlan:
    """What a training would do.

    Attributes:
        sizes: where the sizes come from: a checkpoint, or a paper's models.
        base: the model that the stage begins with in its paper, in words; None if the recipe does not say it.
        loss: what the loss is on.
        options: of the processor, such as frames and padding.
        parts: name of a part -> its parameters; `LoRA` is the adapter.
        rows: samples of an epoch; None if they are not known.
        rows_from: where that number comes from.
        batch: samples in a batch of one process.
        accumulation: batches until the weights change.
        processes: processes that train.
        steps: changes of the weights; None if they are not known.
        tokens: tokens of each sample of the batch that is shown, or of one sample that is assumed.
        tokens_from: where these come from.
        memory: of one device; None if it cannot be predicted.
        notes: what could not be told, in sentences.
        sample: the batch as the model gets it; what is learned stands in [brackets].
    """

    sizes: str
    parts: dict[str, PartCount]
    rows: int | None
    rows_from: str
    batch: int
    accumulation: int
    processes: int
    steps: int | None
    tokens: list[int]
    tokens_from: str
    memory: TrainingMemory | None
    base: str | None = None
    loss: str = LOSS
    options: dict[str, Any] = field(default_factory=dict)
    sample: str = ""
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def render(self) -> Any:
        """The plan for a terminal, without the sample."""
        from .plan_table import plan_table

        return plan_table(self)


def plan_training(recipe: Recipe, design: str | None = None) -> TrainingPlan:
    """Check a recipe, and say what its training would do. No weights are loaded, and nothing is written.

    Args:
        recipe: the recipe. Without a model, the sizes are those of the paper; without data, a sample is assumed.
        design: the design that the recipe was written for.

    Raises:
        RecipeError: a field, a name or a pattern is wrong, or there is neither a model nor a design.
        DataError: the records or the mix are invalid.

    Example:
        >>> plan = plan_training(load_recipe("pllava/instruct"), "pllava")     # doctest: +SKIP
        >>> plan.steps, plan.tokens, plan.parts["LoRA"].trained                # doctest: +SKIP
        (6250, [2560], 67108864)
    """
    checked = check_training(recipe, design)
    assert checked.model is not None
    arguments, config = checked.arguments, checked.model.config
    model = checked.model.model.train()
    parts = part_counts(model)
    rows, rows_from = (checked.rows, "counted") if checked.rows is not None else expected_rows(recipe)
    autocast = autocast_of(arguments.wanted)
    # What is trained is float32 in the trainer, too (`precision.Float32Mixin`).
    to_float32(model, autocast)
    dtype = autocast or torch.float32
    frames = _most_frames(recipe, config)
    media = str((recipe.expected or {}).get("media", "video"))
    notes = list(checked.notes)
    if checked.batches:
        collator = VideoDataCollator(checked.processor)
        batches: list[Mapping[str, Any]] = checked.batches
        sample = "\n".join(map(collator.describe_batch, checked.batches))
        tokens, tokens_from = [batch["input_ids"].shape[1] for batch in batches], f"{len(batches)} samples of the data"
        batch = batches[tokens.index(max(tokens))]
    else:
        batch = planned_batch(config, media, frames, dtype)
        sample = "\n".join(_plain(row) for row in checked.first)
        tokens = [planned_tokens(config, media, frames)]
        tokens_from = f"assumed: {_in_words(media, frames)} and {TEXT_TOKENS} tokens of text"
    memory = None
    try:
        memory = _memory(model, batch, arguments, dtype, saved_bytes(checked.model.quantized))
    except ValueError as error:
        notes.append(str(error))
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    return TrainingPlan(
        sizes=checked.sizes,
        parts=parts,
        rows=rows,
        rows_from=rows_from,
        batch=arguments.args.per_device_train_batch_size,
        accumulation=arguments.args.gradient_accumulation_steps,
        processes=processes,
        steps=count_steps(rows, arguments.args, processes),
        tokens=tokens,
        tokens_from=tokens_from,
        memory=memory,
        base=recipe.base,
        options=dict(recipe.processor_options or {}),
        sample=sample,
        notes=notes,
    )


def count_steps(rows: int | None, args: Any, processes: int = 1) -> int | None:
    """Steps of a training as transformers' trainer counts them; None if they depend on an unknown number of rows.

    Args:
        rows: samples of an epoch.
        args: `TrainingArguments`.
        processes: that train together.
    """
    if args.max_steps > 0:
        return int(args.max_steps)
    if rows is None:
        return None
    rounded = math.floor if args.dataloader_drop_last else math.ceil
    batches = rounded(rows / args.per_device_train_batch_size / processes)
    per_epoch = max(math.ceil(batches / args.gradient_accumulation_steps), 1)
    return math.ceil(args.num_train_epochs * per_epoch)


def part_counts(model: nn.Module) -> dict[str, PartCount]:
    """Parameters of each part of a model, which may have an adapter of PEFT. Shared weights count once."""
    counts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        if ".original_module." in name:
            continue  # PEFT keeps the weights of parts that it trains as a whole twice.
        words = re.sub(r"^(base_model\.model\.)?(model\.)?", "", plain_name(name)).split(".")
        part = "LoRA" if any(word.startswith("lora_") for word in words) else words[0]
        total_trained = counts.setdefault(part, [0, 0])
        total_trained[0] += parameter.numel()
        total_trained[1] += parameter.numel() if parameter.requires_grad else 0
    return {part: PartCount(*numbers) for part, numbers in counts.items()}


def _most_frames(recipe: Recipe, config: Any) -> int:
    """Frames of a video; if their number is drawn anew in each epoch, the largest."""
    augment = read_augment(recipe.augment)
    if augment is not None and augment.num_frames is not None:
        return augment.num_frames[1]
    return int((recipe.processor_options or {}).get("num_frames", config.num_frames))


def _memory(
    model: Any, batch: Mapping[str, Any], arguments: PlannedArguments, dtype: torch.dtype, saved: int
) -> TrainingMemory:
    """The memory of a step, in which quantized weights take `saved` bytes less than those of the model."""
    if arguments.checkpointing:
        # Embeddings need a gradient, so that checkpointed layers of a frozen model have one to pass on.
        enable_checkpointing(model, {"use_reentrant": False})
        model.enable_input_require_grads()
    inputs = {name: _without_values(name, value, dtype) for name, value in batch.items() if torch.is_tensor(value)}
    samples = arguments.args.per_device_train_batch_size
    # `optim` is an enumeration.
    optimizer = arguments.wanted.get("optim") or arguments.args.optim.value
    weights = unique_bytes([*model.parameters(), *model.buffers()]) - saved
    return predict_training_memory(
        model, inputs, samples=samples, dtype=dtype, optimizer=optimizer, weight_bytes=weights
    )


def _without_values(name: str, value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Frames and sounds without values. Ids, masks and times keep theirs, because models compute with them."""
    is_medium = value.is_floating_point() and name != "video_frame_times"
    return value.to(META, dtype) if is_medium else value


def _in_words(media: str, frames: int) -> str:
    words = {"video": f"a video of {frames} frames", "audio": "30 s of sound", "image": "an image", "text": "no media"}
    return {**words, "audio_visual": f"a video of {frames} frames with 30 s of sound"}[media]


def _plain(row: Mapping[str, Any]) -> str:
    """A row as text, where no processor says how the model gets it."""
    parts = []
    for message in row["messages"]:
        texts = [block["text"] if block["type"] == "text" else f"<{block['type']}>" for block in message["content"]]
        text = " ".join(texts)
        parts.append(f"{message['role']}: [{text}]" if message["role"] == "assistant" else f"{message['role']}: {text}")
    return "\n".join(parts)
