"""Supervised fine-tuning of any design of the package with TRL's `SFTTrainer`, described by a recipe (`recipe.py`).

`run_sft(load_recipe("recipe.yaml"))` does what this command does:

    hf-videollm train recipe.yaml --model my-checkpoint --records clips/records.jsonl
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from ..data.bad_media import BadMediaLog
from ..data.media_cache.cache import MediaCache
from ..data.media_cache.setting import open_cache
from ..data.records import VideoQARecord
from ..disk_full import name_full_disk
from ..models.video_llm_checkpoint import freeze_unused_parameters
from ..moved import run_as_command
from ..pair_check import check_pair
from ..training_outputs import BaseModel
from .arguments import DEFAULT_ARGUMENTS
from .augmenting import Augmenter
from .caches.broken import OnBroken
from .caches.frames import FrameCache, StillFrames
from .caches.sounds import AudioCache
from .checks import check_sound, check_training
from .collator import VideoDataCollator
from .epoch_order import EpochOrder
from .hearing import hears
from .learned_parts import lora_of, trained_patterns
from .loading import load_for_training
from .mixed import TrainingMix, needs_records, whole_records
from .plain_sft import FIXED_ARGUMENTS
from .quantized import keep_precision
from .recipe import Recipe, RecipeError, load_recipe
from .recipe_augment import read_augment
from .recipe_contrastive import read_contrastive
from .result import save_result
from .resume import last_whole_checkpoint, needed_files, only_run, steps_of
from .resume_check import check_resumption
from .run_record import RunRecord, data_of_records
from .samples import media_files, merge_turns, split_rounds, without_picture
from .sketch import check_options
from .trainable import freeze_all_but, thaw

if TYPE_CHECKING:
    from trl import SFTTrainer

__all__ = [
    "DEFAULT_ARGUMENTS",
    "FIXED_ARGUMENTS",
    "Recipe",
    "RecipeError",
    "freeze_all_but",
    "load_recipe",
    "make_trainer",
    "merge_turns",
    "run_sft",
    "show_sample",
    "split_rounds",
    "without_picture",
]


def make_trainer(recipe: Recipe, model: Any = None, processor: Any = None) -> SFTTrainer:
    """Make the trainer of a recipe.

    Args:
        recipe: the recipe.
        model: a model to use instead of the one that the recipe names; `model_options` are not applied to it.
        processor: the processor of `model`. The two must be passed together.

    Raises:
        RecipeError: a needed field is missing, or `lora` names modules that the model does not have.
        DataError: the records or the mix are invalid.
        TypeError: only one of `model` and `processor` is passed.
        ValueError: a pattern of `learning_rates` matches nothing that is trained.
    """
    from transformers import set_seed

    from .mix_reporter import MixReporter
    from .run_callbacks import EpochTeller, RunLogger
    from .skipping import SkippingCollator
    from .trainer import PartwiseSFTTrainer

    if (model is None) != (processor is None):
        given, missing = ("processor", "model") if model is None else ("model", "processor")
        raise TypeError(f"A {given} was passed without a {missing}: pass both, or none to load those of the recipe.")
    checked = check_training(recipe, is_run=True, is_loaded=model is not None)
    mix, records, samples = checked.mix, checked.records, checked.samples
    arguments, quantization = checked.arguments.args, checked.quantization
    base = None
    if model is None:
        del checked  # The model without weights is not needed any more.
        model, processor = _load(recipe, quantization)
        base = _base(recipe, quantization)
    else:
        _check_given(recipe, model, processor)
        thaw(model)
    check_options(recipe, processor)
    check_sound(recipe, mix, processor)
    trained = trained_patterns(recipe, model)
    if trained is not None and recipe.lora is None:
        freeze_all_but(model, trained)
    broken: dict[str, str] = {}
    on_broken = None if mix is None else broken.__setitem__
    cache = _open_cache(recipe)
    frames = _open_frames(recipe, records, processor, cache, on_broken)
    sounds = _open_sounds(recipe, records, processor, cache, on_broken)
    rows, log, order = _rows(recipe, mix, samples, broken, str(arguments.output_dir))
    # The seed is set here, because TRL 1.10 adds the LoRA, and draws its weights, before the trainer sets the seed.
    set_seed(arguments.seed)
    augment = read_augment(recipe.augment)
    augmenter = None if augment is None else Augmenter(augment, arguments.seed)
    collator: Any = VideoDataCollator(
        processor,
        cache=cache,
        frames=frames,
        sounds=sounds,
        vary=recipe.vary,
        processor_kwargs=recipe.processor_options,
        augmenter=augmenter,
    )
    data = mix.prepared.describe() if mix is not None else data_of_records(str(recipe.records), len(rows))
    callbacks: list[Any] = [RunLogger(RunRecord(recipe, base, data)), EpochTeller(collator.draws, augmenter, order)]
    if mix is not None and log is not None:
        collator = SkippingCollator(collator, rows, log, mix.prepared.group)
        callbacks.insert(0, MixReporter(mix, log))
    trainer = PartwiseSFTTrainer(
        learning_rates=recipe.learning_rates,
        contrastive=read_contrastive(recipe.contrastive),
        augmenter=augmenter,
        model=model,
        args=arguments,
        train_dataset=rows if order is None else order.dataset(),
        data_collator=collator,
        callbacks=callbacks,
        processing_class=processor,
        peft_config=lora_of(recipe, model),
    )
    trainer.base_model = base
    if quantization is not None:
        keep_precision(trainer.model)
    # PEFT copies the modules that it trains in full, and makes all parameters of a copy trainable.
    freeze_unused_parameters(trainer.model)
    return trainer


def _base(recipe: Recipe, quantization: Any) -> BaseModel:
    """The record of the model that the recipe names."""
    return BaseModel.of(
        str(recipe.model),
        model_options=dict(recipe.model_options or {}),
        seed=recipe.arguments.get("seed", 0),
        quantization=None if quantization is None else quantization.to_dict(),
    )


def _check_given(recipe: Recipe, model: Any, processor: Any) -> None:
    """Check a model and processor that were passed.

    Raises:
        ValueError: they do not belong together.
        RecipeError: the recipe quantizes a model that it loads itself.
    """
    if recipe.quantize is not None:
        raise RecipeError("quantize: only a model that the recipe names is loaded quantized: leave it out.")
    check_pair(model.config, processor)


def _rows(
    recipe: Recipe, mix: TrainingMix | None, samples: list[VideoQARecord], broken: Mapping[str, str], output: str
) -> tuple[Any, BadMediaLog | None, EpochOrder | None]:
    """The dataset of a training and, for a mix, the log of its bad media and, if epochs differ, their orders."""
    from datasets import Dataset

    rows = None if mix is None or needs_records(recipe) else mix.rows(epoch=None)
    log = None
    if mix is not None:
        log = mix.log([sample.id for sample in samples] if rows is None else rows["id"][:], output)
        samples = whole_records(samples, broken, log)
    if rows is None:
        # Metadata is left out: its fields may differ from record to record, and Arrow needs one schema for all.
        rows = Dataset.from_list([{"id": sample.id, "messages": sample.messages} for sample in samples])
    order = None
    if mix is not None and mix.is_ordered:
        by_epoch = EpochOrder(mix.prepared, rows)
        rows = rows.select(by_epoch.places())
        order = by_epoch if mix.prepared.mix.shuffle else None
    return rows, log, order


def show_sample(recipe: Recipe) -> str:
    """The text of the first sample as the model gets it; the words that the model learns are in [brackets]."""
    checked = check_training(recipe)
    collator = VideoDataCollator(checked.processor, processor_kwargs=recipe.processor_options)
    return collator.describe(checked.first[0])


def run_sft(
    recipe: Recipe, model: Any = None, processor: Any = None, resume: bool = True, save: bool = False
) -> SFTTrainer:
    """Train as the recipe says; see `make_trainer`.

    Args:
        resume: continue from the last complete checkpoint in `output_dir`, if there is one. Incomplete checkpoints,
            which a killed run left, are removed.
        save: save the trained model in `output_dir`, beside its checkpoints (see `save_result`).

    Returns:
        The trainer, with the trained model in `trainer.model`.

    Raises:
        FileExistsError: another run is training into `output_dir`.
        RecipeError: `output_dir` holds a run of another recipe, on other data or from another model, which cannot be
            resumed.
        DiskFullError: a checkpoint or the result could not be written; earlier checkpoints are kept.
    """
    if resume:
        check_resumption(recipe)
    trainer: Any = make_trainer(recipe, model, processor)
    output = str(trainer.args.output_dir)
    with name_full_disk(output), only_run(output, trainer.is_world_process_zero()) as may_remove:
        checkpoint = last_whole_checkpoint(output, needed_files(trainer), may_remove) if resume else None
        first = steps_of(checkpoint)
        trainer.train(resume_from_checkpoint=checkpoint)
        trainer.had_finished = checkpoint is not None and trainer.state.global_step == first
        if save:
            save_result(trainer)
    return trainer


def _open_cache(recipe: Recipe) -> MediaCache | None:
    try:
        return open_cache(recipe.frame_cache)
    except (ValueError, OSError) as error:
        raise RecipeError(f"frame_cache: {error}") from error


def _open_frames(
    recipe: Recipe, records: list[VideoQARecord], processor: Any, cache: MediaCache | None, on_broken: OnBroken | None
) -> Mapping[str, torch.Tensor] | None:
    """Single frames of all clips, if the recipe shows these. Without them, the collator reads the clips."""
    if not recipe.still_frames or cache is None or recipe.sound_only:
        return None
    files = media_files(records, "video")
    return StillFrames(FrameCache.build(files, processor.video_processor, cache, on_broken=on_broken))


def _open_sounds(
    recipe: Recipe, records: list[VideoQARecord], processor: Any, cache: MediaCache | None, on_broken: OnBroken | None
) -> AudioCache | None:
    """The sounds of all clips, if the recipe shows single frames of them, which have no sound of their own."""
    if not recipe.still_frames or cache is None or not hears(processor):
        return None
    files = media_files(records, "video", "audio")
    return AudioCache.build(files, processor.feature_extractor.sampling_rate, cache, on_broken=on_broken)


def _load(recipe: Recipe, quantization: Any = None) -> tuple[Any, Any]:
    if recipe.model is None:
        raise RecipeError("The recipe names no model; add the field `model` or pass --model.")
    return load_for_training(recipe.model, recipe.model_options, recipe.arguments.get("seed", 0), quantization)


if __name__ == "__main__":
    run_as_command("train")
