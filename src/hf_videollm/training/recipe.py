"""What a recipe is: a YAML file that says what to train, on what, and how.

A recipe:

    model: path or Hub id            # may also be given on the command line
    base: the result of ftfv/align   # optional: the model that the stage begins with, in words; --dry-run shows it
    loss: answers                    # optional: what the loss is on; there is no other value
    model_options: {num_insertions: 8}        # optional: fields of its configuration; may add parts to the model
    records: clips/records.jsonl     # records; questions of one clip can be merged into one conversation
    mix: mix.yaml                    # instead of records: several data sets in other formats (data/mix.py)
    frame_cache: runs/frames         # optional: folder for decoded frames and sounds, so that every clip is decoded
                                     # only once; or {folder: runs/frames, max_size: 50 GB}
    merge_turns: true                # optional: ask all questions about a clip in one conversation
    split_rounds: true               # optional: one sample for each answer: the conversation up to this answer
    kinds: [colour, shape]           # optional: only records whose metadata has one of these kinds
    still_frames: true               # optional: show one random frame of each clip (image stage); needs frame_cache
    sound_only: true                 # optional: let the model hear the clips without seeing them (audio stage)
    vary: {missing_audio: [silence, skip]}   # optional: options of the processor; a value is drawn for each batch
    trainable: ["connector"]         # optional: patterns of parameter names; everything else is frozen
    lora: {r: 128, lora_alpha: 32, target_modules: ["q_proj", "v_proj"]}      # optional: peft.LoraConfig; the names
                                     # mean modules of the language model. What `trainable` names is trained as well
    quantize: nf4                    # optional: the language model in 4 bits, under the LoRA (QLoRA)
    trainable_layers: {vision_tower: 3}       # optional: the last three layers of this part are trained, too
    learning_rates: {connector: 2.0e-5}       # optional: parameters that match this pattern get this learning rate
    augment: {frames: random, num_frames: [40, 60], crop: 0.5, flip: 0.5}     # optional: other frames and pictures in
                                     # each epoch (recipe_augment.py); not in evaluations
    contrastive: {weight: 0.1, temperature: 0.07}     # optional: a loss between videos and answers (contrastive.py)
    processor_options: {num_frames: 16}       # optional: options of the processor
    data_root: /data                 # optional: folder that the files of the mix are below; that of the mix by default
    fractions: {videoinstruct: 0.3}  # optional: other shares of the videos of sources of the mix
    expected: {rows: 783000, media: video}    # optional: the data of a paper, for --dry-run without data; and
                                     # rows_of: {0.3: 29396}, its rows for other shares of the only source of the mix
    arguments: {output_dir: runs/x, max_steps: 1000, learning_rate: 1.0e-3}   # trl.SFTConfig
    sources: {arguments.learning_rate: paper 4.1}     # optional: where the numbers come from; for readers

YAML takes `1e-3` for a text. Numbers in this form are read as numbers where a number belongs.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

import yaml

from ..data.media_cache.setting import cache_options
from ..data.mix import MODALITIES
from ..data.parsed_files import DataError
from ..data.unique_yaml import load_unique
from ..models.video_llm_option_names import did_you_mean
from .recipe_augment import read_augment
from .recipe_contrastive import read_contrastive
from .recipe_errors import RecipeError, is_number, named_in_errors
from .recipe_names import find_recipe, recipe_files
from .recipe_settings import as_number, with_settings

# Types that are checked. A string in place of a list, for example, would be read letter by letter.
FIELD_TYPES: dict[str, type] = {
    "base": str,
    "mix": str,
    "data_root": str,
    "quantize": str,
    "kinds": list,
    "trainable": list,
    **dict.fromkeys(("model_options", "vary", "lora", "learning_rates", "arguments", "sources"), dict),
    **dict.fromkeys(("trainable_layers", "processor_options", "fractions", "expected", "contrastive", "augment"), dict),
    **dict.fromkeys(("merge_turns", "split_rounds", "still_frames", "sound_only"), bool),
}


# What the loss is on. Questions, instructions and placeholders of media are masked (`collator.VideoDataCollator`).
LOSS = "answers"


@dataclass(frozen=True)
class Recipe:
    """What to train, on what, and how. The beginning of this file explains the fields."""

    model: str | None = None
    base: str | None = None
    loss: str | None = None
    model_options: dict[str, Any] | None = None
    records: str | None = None
    mix: str | None = None
    frame_cache: str | dict[str, Any] | None = None
    merge_turns: bool = False
    split_rounds: bool = False
    kinds: list[str] | None = None
    still_frames: bool = False
    sound_only: bool = False
    vary: dict[str, list[Any]] | None = None
    trainable: list[str] | None = None
    lora: dict[str, Any] | None = None
    quantize: str | None = None
    trainable_layers: dict[str, int] | None = None
    learning_rates: dict[str, float] | None = None
    augment: dict[str, Any] | None = None
    contrastive: dict[str, Any] | None = None
    processor_options: dict[str, Any] | None = None
    data_root: str | None = None
    fractions: dict[str, float] | None = None
    expected: dict[str, Any] | None = None
    sources: dict[str, str] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)


def load_recipe(path: str | os.PathLike[str], settings: Iterable[str] = ()) -> Recipe:
    """Read a recipe: a file, or the name of one that comes with the package, e.g. `iva/align`.

    Args:
        path: the file or name.
        settings: changes, each `FIELD=VALUE` or `FIELD.KEY=VALUE`, such as `arguments.learning_rate=1e-4`.

    Raises:
        RecipeError: there is no such file or name, it is no valid YAML, or a field is unknown or has a wrong type.
    """
    source = find_recipe(path)
    if not source.exists() and not source.suffix:
        raise RecipeError(f"There is no recipe {source}: give a YAML file, or one of {', '.join(recipe_files())}.")
    try:
        content = load_unique(source.read_text(encoding="utf-8"))
    except DataError as error:
        raise RecipeError(f"{source}, {error}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"Cannot read the recipe {source}: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{source}: a recipe is a mapping of fields, got {type(content).__name__}.")
    content = with_settings(content, settings, [entry.name for entry in fields(Recipe)])
    known = [entry.name for entry in fields(Recipe)]
    unknown = sorted(set(content) - set(known))
    if unknown:
        hint = did_you_mean(unknown[0], known)
        raise RecipeError(f"{source}: unknown fields {unknown}; known are {known}; {hint}")
    for name, value in content.items():
        kind = FIELD_TYPES.get(name)
        if value is not None and kind is not None and not isinstance(value, kind):
            raise RecipeError(f"{source}: {name} must be a {kind.__name__}, not {value!r}.")
    if content.get("loss") not in (None, LOSS):
        raise RecipeError(f"{source}: loss is {content['loss']!r}: only answers are learned, so write {LOSS}.")
    for name, values in (content.get("vary") or {}).items():
        if not isinstance(values, list):
            raise RecipeError(f"{source}: vary.{name} must be a list of values, not {values!r}.")
    if content.get("frame_cache") is not None:
        try:
            cache_options(content["frame_cache"])
        except ValueError as error:
            raise RecipeError(f"{source}: {error}") from None
    with named_in_errors(str(source)):
        _check_numbers(content)
        _check_expected(content.get("expected") or {})
        read_contrastive(content.get("contrastive"))
        augment = read_augment(content.get("augment"))
    if augment is not None and content.get("frame_cache") is not None:
        raise RecipeError(
            f"{source}: augment draws other frames in each epoch, but frame_cache keeps frames: leave one of them out."
        )
    return Recipe(**content)


def _check_numbers(content: dict[str, Any]) -> None:
    """Turn texts that are numbers into numbers, where numbers belong, and refuse other values there."""
    for name, value in (content.get("learning_rates") or {}).items():
        rate = as_number(value)
        if not is_number(rate) or not 0 <= rate < float("inf"):
            raise RecipeError(f"learning_rates.{name} must be a number of at least 0, not {value!r}.")
        content["learning_rates"][name] = float(rate)
    for name, value in (content.get("trainable_layers") or {}).items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise RecipeError(f"trainable_layers.{name} must be a number of layers, not {value!r}.")


def _check_expected(given: dict[str, Any]) -> None:
    media, shares = given.get("media", "video"), given.get("rows_of", {})
    known = ("rows", "media", "rows_of")
    if unknown := sorted(set(given) - set(known)):
        raise RecipeError(f"expected.{unknown[0]} is unknown: {did_you_mean(unknown[0], known)}")
    if not isinstance(shares, dict) or not all(is_number(share) and 0 < share <= 1 for share in shares):
        raise RecipeError(f"expected.rows_of must map shares, such as 0.3, to samples, not {shares!r}.")
    for rows in (given.get("rows", 1), *shares.values()):
        if not isinstance(rows, int) or isinstance(rows, bool) or rows < 1:
            raise RecipeError(f"expected.rows must be a number of samples, not {rows!r}.")
    if media not in MODALITIES:
        raise RecipeError(f"expected.media is {media!r}: {did_you_mean(media, MODALITIES)}")


__all__ = ["Recipe", "RecipeError", "load_recipe"]
