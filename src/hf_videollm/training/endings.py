"""From what a training has left to a checkpoint that loads anywhere. There is one function for each ending.

| function | result |
|---|---|
| `finish_checkpoint` | a complete checkpoint, however it was trained: it chooses among the next three |
| `finish_merged` | a LoRA is added to the weights |
| `finish_adjustable` | a LoRA is kept apart, so that its strength (alpha) can still be changed (PLLaVA) |
| `finish_qlora` | a LoRA that was trained on 4-bit weights is added to plain weights |
| `finish_linvt` | LinVT alone, without its image-LLM |

Every function writes its folder completely or not at all, and loads it again before it appears.
"""

from __future__ import annotations

import os
from typing import Any

from ..convert import MAX_SHARD_SIZE
from ..known_models import find_model
from ..models.errors import CheckpointError
from ..models.modeling_linvt import LinVTForCausalLM
from ..models.video_llm_contract import ModelContract
from ..training_outputs import load_trained
from .ending_output import FinishReport, TrainingOutput

__all__ = [
    "BASES",
    "FinishReport",
    "finish_adjustable",
    "finish_checkpoint",
    "finish_linvt",
    "finish_merged",
    "finish_qlora",
]

# Weights into which a LoRA that was trained on 4-bit weights can be merged.
BASES = ("dequantized", "original")


def finish_checkpoint(
    run: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    base: str | None = None,
    overwrite: bool = False,
    max_shard_size: int = MAX_SHARD_SIZE,
) -> FinishReport:
    """Write a complete checkpoint of any training output.

    Whole weights are written as they are, and a LoRA is merged into its base model: into the dequantized one if it was
    trained on 4-bit weights.

    Args:
        run: folder of a run, one of its checkpoints, or an adapter folder of PEFT, whichever trainer wrote it.
        dst: folder to write.
        base: the model that an adapter was trained on; the recorded one by default.
        overwrite: replace a destination that is not empty.
        max_shard_size: maximum size of one weight file in bytes.

    Raises:
        CheckpointError: the output is not whole, its base model is missing or another one, or the result would not
            load.
        FileExistsError: the destination is not empty and `overwrite` is not set.

    Example:
        >>> from hf_videollm.training.endings import finish_checkpoint
        >>> finish_checkpoint("runs/first", "my-model")   # doctest: +SKIP
    """
    place = TrainingOutput.of(run, dst, base, overwrite, max_shard_size)
    if place.base is None:
        return place.write("as trained", *load_trained(place.source))
    return _merge(place, None, "dequantized" if place.base.quantization else "original")


def finish_merged(
    run: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    lora_alpha: float | None = None,
    base: str | None = None,
    overwrite: bool = False,
    max_shard_size: int = MAX_SHARD_SIZE,
) -> FinishReport:
    """Write a checkpoint in which the LoRA of a training is added to the weights.

    Args:
        lora_alpha: strength with which it is added; that of the training by default. For PLLaVA alone.
        run: see `finish_checkpoint`, as for all other arguments.

    Raises:
        CheckpointError: the run has no LoRA, or trained it on 4-bit weights (`finish_qlora`); or as in
            `finish_checkpoint`.
    """
    place = TrainingOutput.of(run, dst, base, overwrite, max_shard_size)
    if place.needs_adapter().quantization:
        raise CheckpointError(
            f"{run} was trained on 4-bit weights: say into which weights to merge it, with `hf-videollm finish qlora "
            "RUN DST --into dequantized` or `--into original`."
        )
    return _merge(place, lora_alpha, "original")


def finish_qlora(
    run: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    into: str = "dequantized",
    base: str | None = None,
    overwrite: bool = False,
    max_shard_size: int = MAX_SHARD_SIZE,
) -> FinishReport:
    """Write a checkpoint in which a LoRA that was trained on 4-bit weights is added to plain weights.

    Args:
        into: `"dequantized"`: the 4-bit weights written as plain numbers. The result computes what was trained. Or
            `"original"`: the weights of the base model before they were quantized. They are more exact, but the LoRA
            has not seen them.
        run: see `finish_checkpoint`, as for all other arguments.

    Raises:
        ValueError: `into` is unknown.
        CheckpointError: the run was not trained on 4-bit weights; or as in `finish_checkpoint`.
    """
    if into not in BASES:
        raise ValueError(f"into must be one of {', '.join(BASES)}, not {into!r}.")
    place = TrainingOutput.of(run, dst, base, overwrite, max_shard_size)
    if not place.needs_adapter().quantization:
        raise CheckpointError(f"{run} was not trained on 4-bit weights: use `hf-videollm finish merged RUN DST`.")
    return _merge(place, None, into)


def finish_adjustable(
    run: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    lora_alpha: float | None = None,
    base: str | None = None,
    overwrite: bool = False,
    max_shard_size: int = MAX_SHARD_SIZE,
) -> FinishReport:
    """Write a checkpoint that keeps its LoRA apart, so that `lora_alpha` can be changed whenever it is loaded.

    Args:
        lora_alpha: strength that the checkpoint has by default; that of the training if it is not given.
        run: see `finish_checkpoint`, as for all other arguments.

    Raises:
        CheckpointError: the run has no LoRA, or its design keeps none apart; or as in `finish_checkpoint`.
    """
    place = TrainingOutput.of(run, dst, base, overwrite, max_shard_size)
    place.needs_adapter()
    tuned, processor = place.load_tuned("dequantized")
    model = _adjustable(tuned, lora_alpha, run)
    if model is None:
        raise CheckpointError(
            f"{run}: {type(tuned.get_base_model()).__name__} keeps no LoRA apart from its weights: use `hf-videollm "
            "finish merged RUN DST`."
        )
    return place.write("LoRA kept apart, adjustable", model, processor, is_compared=False)


def finish_linvt(
    run: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    image_llm: str | None = None,
    overwrite: bool = False,
) -> FinishReport:
    """Write LinVT alone: its weights, and the name of the image-LLM that it belongs to.

    `LinVTForCausalLM.from_adapter` loads the folder. It is loaded once before it appears, and every weight is compared
    with that of the run, so that nothing that was trained is left out.

    Args:
        image_llm: folder, Hub id or bundled name of the image-LLM; that in the configuration of the run by default.
        run: see `finish_checkpoint`, as for all other arguments.

    Raises:
        CheckpointError: the run is none of LinVT's, it has changed the image-LLM, or the image-LLM is not known or is
            another one than that of the run.
        FileNotFoundError: there is no image-LLM of this name.
    """
    place = TrainingOutput.of(run, dst, None, overwrite, MAX_SHARD_SIZE)
    given = None if image_llm is None else find_model(image_llm)
    if place.base is not None:
        raise CheckpointError(
            f"{run} has a LoRA on the language model, which LinVT alone would lose: use `hf-videollm finish merged`."
        )
    model, processor = load_trained(place.source)
    if not isinstance(model, LinVTForCausalLM):
        raise CheckpointError(
            f"{run} holds a {type(model).__name__}, which has no LinVT: use `hf-videollm finish checkpoint RUN DST`."
        )
    if given is not None and given != model.config.backbone_name:
        model.config.backbone_name, model.config.backbone_revision = given, None
    if model.config.backbone_name is None:
        raise CheckpointError(f"{run} does not say which image-LLM it belongs to: name it with --image-llm.")
    return place.write("LinVT alone", model, processor, adapter_only=True)


def _merge(place: TrainingOutput, lora_alpha: float | None, into: str) -> FinishReport:
    tuned, processor = place.load_tuned(into)
    adjustable = _adjustable(tuned, lora_alpha, place.run)
    # PLLaVA's own function adds the factors in float32, whatever the type of the weights.
    model = tuned.merge_and_unload() if adjustable is None else adjustable.merge_lora()
    quantized = place.base is not None and place.base.quantization
    return place.write(f"LoRA merged into the {into} weights" if quantized else "LoRA merged", model, processor)


def _adjustable(tuned: Any, lora_alpha: float | None, run: str | os.PathLike[str]) -> Any:
    """The model inside PEFT's wrapper, with this strength of its LoRA; `None` if its design cannot change it.

    Raises:
        CheckpointError: a strength is given, and it cannot be changed.
    """
    model = tuned.get_base_model()
    if isinstance(model, ModelContract) and model.keeps_lora:
        alpha = tuned.active_peft_config.lora_alpha if lora_alpha is None else lora_alpha
        model.set_lora_alpha(alpha)  # type: ignore[attr-defined]
        return model
    if lora_alpha is not None:
        raise CheckpointError(f"{run}: the strength of a LoRA can be changed for PLLaVA alone: leave out lora_alpha.")
    return None
