"""All that can be wrong with a training, found before weights are loaded: a plan and a run both begin here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..data.media_cache.setting import cache_options
from ..data.records import VideoQARecord, drop_none
from ..models.errors import MediaError, one_line
from .arguments import PlannedArguments, checked_arguments, training_arguments
from .caches.broken import FAULTS_OF_SETUP
from .collator import VideoDataCollator
from .folders import check_folder
from .hearing import hears
from .mixed import TrainingMix, check_whole_clips, is_without_data, needs_records, open_mix
from .paper_mixes import check_fractions
from .paper_sizes import paper_config
from .quantized import quantization_of
from .recipe import Recipe, RecipeError
from .samples import check_files, make_samples, read_records
from .sketch import SketchedModel, check_options, processor_of_design, sketch_for_training

__all__ = ["CheckedTraining", "check_training"]


@dataclass(frozen=True)
class CheckedTraining:
    """What the checks have made on their way.

    Attributes:
        arguments: of the trainer.
        quantization: of the language model; None if it is not quantized.
        mix: the mix, if the recipe has one with data.
        records: all records; none if the rows of a mix stay on the disk.
        samples: made from these.
        rows: number of samples of an epoch; None without data.
        first: the samples of the first batch.
        batches: each of them as the model gets it.
        model: the model without weights; None for a checkpoint of which loading says what is wrong.
        sizes: where the sizes of the model come from.
        notes: what was left out, in sentences.
    """

    arguments: PlannedArguments
    quantization: Any
    mix: TrainingMix | None
    records: list[VideoQARecord]
    samples: list[VideoQARecord]
    rows: int | None
    first: list[dict[str, Any]]
    batches: list[Any]
    model: SketchedModel | None
    sizes: str
    notes: list[str] = field(default_factory=list)

    @property
    def processor(self) -> Any:
        """The processor of the checkpoint, if there is one."""
        return None if self.model is None else self.model.processor


def check_training(
    recipe: Recipe, design: str | None = None, *, is_run: bool = False, is_loaded: bool = False
) -> CheckedTraining:
    """Check a recipe with its data and its model. No weights are loaded, and nothing is written.

    Only what a machine has is different: a plan is also made where the devices of a training are not.

    Args:
        recipe: the recipe.
        design: the design that the recipe was written for. With it, a plan needs neither a model nor data.
        is_run: a training follows, on this machine.
        is_loaded: the model has been loaded already, so that nothing is said about that of the recipe.

    Raises:
        RecipeError: a setting is wrong; the message names it.
        DataError: the records or the mix are invalid.
        ValueError: the first samples cannot be made into a batch.
    """
    check_settings(recipe)
    training_arguments(recipe)
    quantization = quantization_of(recipe)
    is_planned = not is_run and is_without_data(recipe)
    mix = None if is_planned else open_mix(recipe)
    arguments = checked_arguments(recipe, mix, is_run)
    records = [] if is_planned else _records(recipe, mix, None if is_run else 0)
    samples = make_samples(recipe, records) if records else []
    check_whole_clips(recipe, samples)
    if mix is None:
        check_files(recipe, samples)
    rows, first = _rows(mix, samples, arguments.args.per_device_train_batch_size)
    model, sizes = (None, "the model that was passed") if is_loaded else _model(recipe, design, is_run)
    processor = None if model is None else model.processor
    notes: list[str] = []
    batches: list[Any] = []
    if processor is not None:
        check_sound(recipe, mix, processor)
        first, batches = _batches(recipe, processor, first, mix is not None, notes)
    return CheckedTraining(
        arguments=arguments,
        quantization=quantization,
        mix=mix,
        records=records,
        samples=samples,
        rows=None if is_planned else rows,
        first=first,
        batches=batches,
        model=model,
        sizes=sizes,
        notes=notes,
    )


def check_settings(recipe: Recipe) -> None:
    """Check the fields of a recipe that need neither its data nor its model.

    Raises:
        RecipeError: a value is impossible, or a field would change nothing.
        MixError: the file of the mix cannot be read.
    """
    check_fractions(recipe)
    if recipe.trainable is not None and not recipe.trainable and not recipe.trainable_layers and recipe.lora is None:
        raise RecipeError("trainable is empty, so nothing would be trained: name parts, or leave it out to train all.")
    for name, values in (recipe.vary or {}).items():
        if not values:
            raise RecipeError(f"vary.{name} is empty: give the values of which one is drawn for each batch.")
    if recipe.still_frames and recipe.frame_cache is None:
        raise RecipeError("still_frames needs frames from a cache: name a folder in frame_cache.")
    if recipe.frame_cache is not None:
        try:
            folder = cache_options(recipe.frame_cache)["folder"]
        except ValueError as error:
            raise RecipeError(str(error)) from error
        check_folder("frame_cache", folder)
    check_folder("arguments: output_dir", recipe.arguments.get("output_dir", "trainer_output"))


def check_sound(recipe: Recipe, mix: TrainingMix | None, processor: Any) -> None:
    """Refuse sounds for a model that cannot hear: `use_audio` of a mix, and `sound_only`.

    Raises:
        RecipeError: the recipe or its mix asks for them.
    """
    if mix is not None:
        mix.check_hearing(processor)
    if recipe.sound_only and not hears(processor):
        raise RecipeError(f"sound_only: {type(processor).__name__} cannot hear; use a design with an audio tower.")


def _model(recipe: Recipe, design: str | None, is_run: bool) -> tuple[SketchedModel | None, str]:
    """The model that is trained, without weights, and where its sizes come from."""
    if recipe.model is not None:
        return sketch_for_training(recipe, is_run), recipe.model
    if design is None:
        raise RecipeError("The recipe names no model; add the field `model` or pass --model.")
    config, sizes = paper_config(design, recipe.model_options)
    check_options(recipe, processor_of_design(design))
    return SketchedModel.of(recipe, config, None), sizes


def _records(recipe: Recipe, mix: TrainingMix | None, epoch: int | None) -> list[VideoQARecord]:
    """The records of a recipe; none if it trains on the rows of a mix as they are, which then stay on the disk."""
    if mix is None:
        return read_records(recipe)
    return mix.records(epoch) if needs_records(recipe) else []


def _rows(mix: TrainingMix | None, samples: Sequence[VideoQARecord], size: int) -> tuple[int, list[dict[str, Any]]]:
    """The number of samples, and those of the first batch."""
    if mix is None or samples:
        return len(samples), [sample.to_dict() for sample in samples[:size]]
    rows = mix.rows()
    return len(rows), [drop_none(rows[number]) for number in range(min(size, len(rows)))]


def _batches(
    recipe: Recipe, processor: Any, first: Sequence[dict[str, Any]], is_mix: bool, notes: list[str]
) -> tuple[list[dict[str, Any]], list[Any]]:
    """The first samples, each alone as a batch. Broken media of a mix are left out, as in a training."""
    collator = VideoDataCollator(processor, vary=recipe.vary, processor_kwargs=recipe.processor_options)
    kept, batches = [], []
    for row in first:
        try:
            batches.append(collator([row]))
        except FAULTS_OF_SETUP:
            raise
        except MediaError as error:
            if not is_mix:
                raise
            notes.append(f"{row['id']} is left out: {one_line(error, 120)}")
        else:
            kept.append(row)
    return kept, batches
