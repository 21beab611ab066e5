"""Trains on a mix: its rows as the records that recipes make samples of, and what it asks of the trainer."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..atomic import atomic_file
from ..data.bad_media import BadFile, BadMediaLog
from ..data.mix_plan import PreparedMix, prepare_mix
from ..data.record import meta_of
from ..data.records import VideoQARecord, drop_none
from .hearing import unheard
from .paper_mixes import is_paper_mix, load_recipe_mix
from .recipe import Recipe, RecipeError

__all__ = [
    "BAD_MEDIA",
    "TrainingMix",
    "check_whole_clips",
    "is_without_data",
    "needs_records",
    "open_mix",
    "whole_records",
]

# Files in the output folder of a training.
BAD_MEDIA, DESCRIPTION = "bad_media.jsonl", "data.json"
SEQUENTIAL = "sequential"


@dataclass(frozen=True)
class TrainingMix:
    """A mix that is trained on.

    Attributes:
        prepared: the mix.
        is_ordered: whether its rows are trained on in its order. Otherwise the trainer draws an order in each epoch.
    """

    prepared: PreparedMix
    is_ordered: bool

    def rows(self, epoch: int | None = 0) -> Any:
        """The rows of an epoch as a dataset that stays on the disk.

        Args:
            epoch: number of the epoch, if the mix has an order; None for all rows in the order of the sources.
        """
        return self.prepared.rows(self._epoch(epoch)).select_columns(["id", "messages"])

    def records(self, epoch: int | None = 0) -> list[VideoQARecord]:
        """The same in memory. If their metadata have no `kind`, it is the type by which the mix chooses."""
        return [_record(row) for row in self.prepared.rows(self._epoch(epoch))]

    def _epoch(self, epoch: int | None) -> int | None:
        return epoch if self.is_ordered else None

    def arguments(self, given: Mapping[str, Any], known: set[str]) -> dict[str, Any]:
        """The arguments of the trainer, with those that the order of the mix needs.

        Args:
            given: those of the recipe.
            known: names of all arguments of the trainer.

        Raises:
            RecipeError: an argument contradicts the mix.
        """
        if not self.is_ordered:
            return {"data_seed": self.prepared.mix.seed, **given}
        strategy = "train_sampling_strategy"
        if given.get(strategy, SEQUENTIAL) != SEQUENTIAL or strategy not in known:
            raise RecipeError(f"arguments: {strategy} must be {SEQUENTIAL}, because the mix has an order of its own.")
        size, group = given.get("per_device_train_batch_size", 8), self.prepared.group
        if size % group:
            raise RecipeError(
                f"arguments: per_device_train_batch_size is {size}, but the batches of {self.prepared.mix.path} have a "
                f"ratio of {group} rows: give a multiple of {group}."
            )
        return {**given, strategy: SEQUENTIAL}

    def check_hearing(self, processor: Any) -> None:
        """Refuse `use_audio: true` for a model that cannot hear.

        Raises:
            RecipeError: a source asks for it.
        """
        if (fault := unheard(self.prepared.mix, processor)) is not None:
            raise RecipeError(fault)

    def log(self, ids: Collection[str], output: str | os.PathLike[str]) -> BadMediaLog:
        """What is known about bad media, and the file into which the training writes what it finds.

        Args:
            ids: of all samples.
            output: folder of the training.
        """
        missing = self.prepared.missing
        total = len(set(ids)) + len(missing)
        return BadMediaLog(Path(output) / BAD_MEDIA, total, self.prepared.mix.max_bad, missing)

    def write_description(self, output: str | os.PathLike[str]) -> None:
        """Write what is trained on into the output folder."""
        with atomic_file(Path(output) / DESCRIPTION) as temporary:
            temporary.write_text(json.dumps(self.prepared.describe(), indent=1) + "\n", encoding="utf-8")


def open_mix(recipe: Recipe) -> TrainingMix | None:
    """The mix of a recipe; `None` if it has none.

    Raises:
        DataError: the mix, a source or a row is wrong.
        RecipeError: a field of the recipe does not go with a mix, or not with this one.
    """
    if recipe.mix is None:
        return None
    if recipe.records is not None:
        if is_paper_mix(recipe.mix):
            return None  # The mix of a paper is what a recipe trains on if nothing else is given.
        raise RecipeError("The recipe names records and a mix: leave one of them out.")
    mix = load_recipe_mix(recipe)
    changing = {"merge_turns": recipe.merge_turns, "split_rounds": recipe.split_rounds, "kinds": recipe.kinds}
    if mix.batches is not None and (clash := next((name for name, value in changing.items() if value), None)):
        raise RecipeError(f"{clash} changes the number of samples, so {mix.path} cannot have batches: leave one out.")
    return TrainingMix(prepare_mix(mix), is_ordered=mix.batches is not None or not mix.shuffle)


def is_without_data(recipe: Recipe) -> bool:
    """Whether a recipe names no data of the user: no records, and no mix or one of a paper without its folder."""
    return recipe.records is None and (recipe.mix is None or (is_paper_mix(recipe.mix) and recipe.data_root is None))


def needs_records(recipe: Recipe) -> bool:
    """Whether a recipe changes rows or looks for their files before the training, for which they must be in memory."""
    changes = recipe.kinds or recipe.merge_turns or recipe.split_rounds or recipe.sound_only
    return bool(changes) or recipe.still_frames or recipe.mix is None


def check_whole_clips(recipe: Recipe, records: Sequence[VideoQARecord]) -> None:
    """Refuse parts of videos if the recipe shows single frames, which are those of whole clips.

    Raises:
        RecipeError: a record shows a part.
    """
    if not recipe.still_frames:
        return
    for record in records:
        for message in record.messages:
            for block in message["content"]:
                if "start" in block or "end" in block:
                    raise RecipeError(
                        f"still_frames shows frames of whole clips, but {record.id} shows a part of "
                        f"{block.get('path')}: cut the file."
                    )


def whole_records(records: Sequence[VideoQARecord], broken: Mapping[str, str], log: BadMediaLog) -> list[VideoQARecord]:
    """The records without those that name a broken file, which are noted.

    Raises:
        TooManyBadMediaError: these are too many.
    """
    whole = []
    for record in records:
        paths = [path for kind in ("video", "image", "audio") for path in record.media(kind)]
        if (path := next((path for path in paths if path in broken), None)) is None:
            whole.append(record)
        else:
            log.note(BadFile(record.id, path, broken[path]))
    return whole


def _record(row: Mapping[str, Any]) -> VideoQARecord:
    meta = meta_of(row)
    kind = meta.get("kind") or meta.get("type") or row["task"]
    return VideoQARecord(row["id"], drop_none(row["messages"]), {**meta, "kind": kind})
