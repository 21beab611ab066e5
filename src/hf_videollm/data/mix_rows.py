"""The rows of one source of a mix as a dataset on the disk, with what a mix chooses them by."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .formats import FORMATS
from .loading import state_of, whole_path
from .mix import MixSource
from .parsed_files import DataError
from .reading import Source
from .record import Record, media_of, meta_of, record_features

__all__ = ["CHOSEN_BY", "modality_of", "read_source", "source_rows"]

# Columns beside those of the records. The first medium names the video; `type` is that of `per_type`.
CHOSEN_BY = ("chosen_by_video", "chosen_by_type", "chosen_by_modality", "files")

_HOW_MUCH = ("fraction", "max_samples", "repeat", "seed")


def read_source(spec: MixSource) -> tuple[Source, Iterator[dict[str, Any]]]:
    """The file of a source, and its records with the columns of `CHOSEN_BY`. The file counts rows that are left out.

    Raises:
        DataError: a row is wrong, when it is reached.
    """
    known = FORMATS[spec.format]
    options = known.with_defaults(spec.options, str(spec.annotation))
    source = Source(spec.annotation, spec.source, spec.split, spec.root, options)
    return source, (_row(record, spec) for record in known.read(source))


def source_rows(spec: MixSource, cache_dir: str | None = None) -> Any:
    """The rows of a source as a `datasets.Dataset`. A file that was not changed is read once.

    Args:
        spec: the source.
        cache_dir: folder for the dataset, by default that of `datasets`.

    Raises:
        DataError: a row is wrong.
    """
    from datasets import Dataset, Features, List, Value
    from datasets.exceptions import DatasetGenerationError

    features = Features(
        {
            **record_features(),
            **{name: Value("string") for name in CHOSEN_BY},
            "files": List(Value("string")),
        }
    )
    # How much of the rows is taken does not change the rows.
    which = {name: value for name, value in vars(spec).items() if name not in _HOW_MUCH}
    arguments = {
        "spec": {**which, "annotation": str(spec.annotation), "root": str(spec.root)},
        "state": state_of(spec.annotation, spec.root, spec.options),
    }
    try:
        return Dataset.from_generator(_generated, features=features, cache_dir=cache_dir, gen_kwargs=arguments)
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, DataError):
            raise error.__cause__ from None
        raise


def _generated(spec: dict[str, Any], state: str) -> Iterator[dict[str, Any]]:
    """The rows; a function of a module, so that other processes can call it."""
    whole = {**spec, "annotation": Path(spec["annotation"]), "root": Path(spec["root"])}
    source, rows = read_source(MixSource(**whole))
    yield from source.some(rows)


def _row(record: Record, spec: MixSource) -> dict[str, Any]:
    media: list[Any] = list(media_of(record))
    meta = meta_of(record)
    named = [block for block in media if block["path"] is not None]
    # "./a.mp4" and "a.mp4" are the same video.
    path = named[0]["path"] if named else record["id"]
    video = os.path.normpath(path) if named and "://" not in path else path
    if spec.task is not None:
        record["task"] = spec.task
    for block in media:
        if block["type"] == "video" and spec.use_audio is not None:
            block["use_audio"] = spec.use_audio
        block.update(whole_path(block, spec.root))
    return {
        **record,
        "chosen_by_video": video,
        "chosen_by_type": spec.type or meta.get("type") or meta.get("kind") or record["task"],
        "chosen_by_modality": modality_of(record),
        "files": [block["path"] for block in named if "://" not in block["path"]],
    }


def modality_of(record: Mapping[str, Any]) -> str:
    """What a model sees and hears of a record: audio_visual, video, audio, image or text."""
    media = media_of(record)
    kinds = {block["type"] for block in media}
    if "video" in kinds:
        is_heard = "audio" in kinds or any(block["use_audio"] for block in media)
        return "audio_visual" if is_heard else "video"
    return next((kind for kind in ("audio", "image") if kind in kinds), "text")
