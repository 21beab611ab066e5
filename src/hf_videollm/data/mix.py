"""Mix files: which data are trained on, how much of each, and in which order.

A mix is a YAML file. Paths are relative to it.

    seed: 0                              # draws videos and rows; the same seed always draws the same
    roots: {webvid: /data/webvid}        # optional: short names of folders of media
    fraction: 0.1                        # optional: so much of the videos of every source, with all their rows
    per_type: 10000                      # optional: so many rows of each type; or {vqa: 10000, reasoning: 5000}
    batches: {audio_visual: 2, audio: 1, video: 1}   # optional: ratio of modalities in every batch
    shuffle: true                        # optional: draw another order in every epoch
    max_bad: 0.01                        # optional: largest share of rows whose media are missing or broken
    sources:
      - annotation: webvid/train.csv     # the file
        format: K                        # optional: letter or name of its format; recognised by its fields
        root: webvid                     # optional: a name in roots, or a folder; the folder of the file by default
        source: webvid                   # optional: its name in ids and tables
        split: train                     # optional
        options: {seed: 1}               # optional: of the reader of the format
        fraction: 0.3                    # optional: instead of the one above
        max_samples: 50000               # optional: at most so many rows
        repeat: 2                        # optional: each row so many times
        task: caption                    # optional: instead of the task that the reader finds
        type: simple_caption             # optional: for per_type; the reader's own type or the task by default
        use_audio: true                  # optional: whether the sound of its videos is heard

A fraction takes videos, not rows, because rows about one video are much alike (FTFV, Table 2). The videos of a smaller
fraction are among those of a larger one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from ..models.errors import one_line
from ..models.video_llm_option_names import did_you_mean
from .formats import find_format
from .loading import default_name, open_source
from .parsed_files import DataError
from .record import TASKS
from .unique_yaml import load_unique

__all__ = ["MODALITIES", "Mix", "MixError", "MixSource", "load_mix", "source_fractions"]

MODALITIES = ("audio_visual", "video", "audio", "image", "text")


class MixError(DataError):
    """A mix file cannot be used; the message names the file and the key."""


@dataclass(frozen=True)
class MixSource:
    """One file of a mix; the docstring of this module explains the fields. Paths are whole."""

    annotation: Path
    source: str
    root: Path
    format: str
    split: str = "train"
    options: Mapping[str, Any] = field(default_factory=dict)
    fraction: float = 1.0
    max_samples: int | None = None
    repeat: int = 1
    seed: int = 0
    task: str | None = None
    type: str | None = None
    use_audio: bool | None = None


@dataclass(frozen=True)
class Mix:
    """A mix file; the docstring of this module explains the fields."""

    path: Path
    sources: tuple[MixSource, ...]
    seed: int = 0
    per_type: int | Mapping[str, int] | None = None
    batches: Mapping[str, int] | None = None
    shuffle: bool = True
    max_bad: float = 0.01


# Keys of the file that are no fields of `Mix`, and of a source that are none of `MixSource`.
_KEYS = ("seed", "roots", "fraction", "per_type", "batches", "shuffle", "max_bad", "sources")
# Endings of the files that a mix names.
_DATA = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
_SOURCE_KEYS = tuple(entry.name for entry in fields(MixSource))


def load_mix(path: str | os.PathLike[str], data_root: str | os.PathLike[str] | None = None) -> Mix:
    """Read a mix file, and check all that can be checked before rows are read.

    Args:
        path: the file.
        data_root: folder that its paths are relative to; the folder of the file by default.

    Raises:
        MixError: there is no such file, it is no YAML, a key is unknown or has a wrong value, or a file or folder that
            it names does not exist.
        DataError: the format of a file is not clear, or an option of its reader is wrong.

    Example:
        >>> load_mix("mix.yaml").sources[0].format  # doctest: +SKIP
        'V'
    """
    place = Path(path)
    if place.suffix.lower() in _DATA:
        raise MixError(f"{place} is data, not a mix: write sources: [{{annotation: {place.name}}}] into a YAML file.")
    content = _read_yaml(place)
    # A list alone is the list of the sources.
    content = {"sources": content} if isinstance(content, list) else content
    if not isinstance(content, dict):
        raise MixError(f"{place}: a mix is a mapping with the key sources, not a {type(content).__name__}.")
    _check_keys(content, _KEYS, str(place))
    check = _Checks(str(place))
    seed = check.whole("seed", content.get("seed", 0), least=None)
    base = place.parent if data_root is None else Path(data_root).expanduser()
    if not base.is_dir():
        raise MixError(f"{place}: there is no folder {base} for its data: correct data_root.")
    roots = _roots(content.get("roots"), place, base)
    fraction = check.share("fraction", content.get("fraction", 1.0))
    listed = content.get("sources")
    if not isinstance(listed, list) or not listed:
        raise MixError(f"{place}: sources must be a list of files that is not empty.")
    sources = tuple(_source(entry, number, place, base, roots, fraction, seed) for number, entry in enumerate(listed))
    _check_names(sources, place)
    return Mix(
        path=place,
        sources=sources,
        seed=seed,
        per_type=_per_type(content.get("per_type"), check),
        batches=_batches(content.get("batches"), check),
        shuffle=check.truth("shuffle", content.get("shuffle", True)),
        max_bad=check.share("max_bad", content.get("max_bad", 0.01), may_be_zero=True),
    )


def source_fractions(path: str | os.PathLike[str]) -> dict[str, float]:
    """Maps the names of the sources of a mix to the shares of their videos, without a look at their files.

    Raises:
        MixError: the file cannot be read, or is no mix.

    Example:
        >>> source_fractions("mix.yaml")  # doctest: +SKIP
        {'videoinstruct': 0.1}
    """
    content = _read_yaml(Path(path))
    content = {"sources": content} if isinstance(content, list) else content
    listed = content.get("sources") if isinstance(content, dict) else None
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise MixError(f"{path}: sources must be a list of files that is not empty.")
    whole = content.get("fraction", 1.0)
    return {
        str(entry.get("source") or default_name(Path(str(entry.get("annotation"))))): entry.get("fraction", whole)
        for entry in listed
    }


def _read_yaml(path: Path) -> Any:
    try:
        return load_unique(path.read_text(encoding="utf-8"))
    except DataError as error:
        raise MixError(f"{path}, {error}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else one_line(error)
        raise MixError(f"{path}: the mix cannot be read: {reason}.") from error


def _check_keys(given: Mapping[Any, Any], known: tuple[str, ...], where: str) -> None:
    for key in given:
        if key not in known:
            raise MixError(f"{where}: there is no key {key!r}: {did_you_mean(key, known)}")


@dataclass(frozen=True)
class _Checks:
    """Checks of single values; errors begin with the place."""

    where: str

    def whole(self, key: str, value: Any, least: int | None = 1) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or (least is not None and value < least):
            wanted = "a whole number" if least is None else f"a whole number, {least} or more"
            raise MixError(f"{self.where}: {key} must be {wanted}, not {value!r}.")
        return value

    def share(self, key: str, value: Any, *, may_be_zero: bool = False) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            # YAML reads 1e-1 as a text; it wants 1.0e-1.
            raise MixError(f"{self.where}: {key} must be a number such as 0.1, not {value!r}.")
        if math.isnan(value) or not 0 <= value <= 1 or (value == 0 and not may_be_zero):
            least = "from 0 to 1" if may_be_zero else "above 0, at most 1"
            raise MixError(f"{self.where}: {key} is {value}: give a share {least}.")
        return float(value)

    def truth(self, key: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise MixError(f"{self.where}: {key} must be true or false, not {value!r}.")
        return value

    def text(self, key: str, value: Any) -> str:
        if not isinstance(value, str) or not value.strip():
            raise MixError(f"{self.where}: {key} must be a text that is not blank, not {value!r}.")
        return value


def _roots(given: Any, place: Path, base: Path) -> dict[str, Path]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise MixError(f"{place}: roots must map names to folders, not be {given!r}.")
    roots: dict[str, Path] = {}
    for name, folder in given.items():
        if not isinstance(name, str) or not isinstance(folder, str):
            raise MixError(f"{place}: roots must map names to folders, not {name!r} to {folder!r}.")
        roots[name] = base / Path(folder).expanduser()
        if not roots[name].is_dir():
            raise MixError(f"{place}: roots.{name}: there is no folder {roots[name]}: correct it.")
    return roots


def _per_type(given: Any, check: _Checks) -> int | Mapping[str, int] | None:
    if given is None:
        return None
    if not isinstance(given, dict):
        return check.whole("per_type", given)
    if not given:
        raise MixError(f"{check.where}: per_type is empty: give a number for each type, or leave it out.")
    return {check.text("a type in per_type", name): check.whole(f"per_type.{name}", n, 0) for name, n in given.items()}


def _batches(given: Any, check: _Checks) -> Mapping[str, int] | None:
    if given is None:
        return None
    if not isinstance(given, dict) or not given:
        raise MixError(f"{check.where}: batches must map modalities to numbers, not be {given!r}.")
    for name in given:
        if name not in MODALITIES:
            raise MixError(f"{check.where}: batches names the modality {name!r}: {did_you_mean(name, MODALITIES)}")
    return {name: check.whole(f"batches.{name}", number) for name, number in given.items()}


def _source(
    given: Any, number: int, place: Path, base: Path, roots: Mapping[str, Path], fraction: float, seed: int
) -> MixSource:
    where = f"{place}: sources[{number}]"
    if not isinstance(given, dict):
        raise MixError(f"{where} must be a mapping with the key annotation, not {given!r}.")
    _check_keys(given, _SOURCE_KEYS, where)
    check = _Checks(where)
    if "annotation" not in given:
        raise MixError(f"{where} has no annotation: name the file.")
    annotation = base / Path(check.text("annotation", given["annotation"])).expanduser()
    if not annotation.is_file():
        raise MixError(f"{where}: annotation: there is no file {annotation}: correct it.")
    root = _root(given.get("root"), annotation, base, roots, check)
    task = given.get("task")
    if task is not None and task not in TASKS:
        raise MixError(f"{where}: task is {task!r}: {did_you_mean(task, TASKS)}")
    options = given.get("options") or {}
    if not isinstance(options, dict):
        raise MixError(f"{where}: options must be a mapping, not {options!r}.")
    letter = given.get("format")
    if letter is not None:
        letter = find_format(letter, where).letter
    _, found = open_source(annotation, letter, root=root, options=options)
    return MixSource(
        annotation=annotation,
        source=check.text("source", given.get("source", default_name(annotation))),
        root=root,
        format=found.letter,
        split=check.text("split", given.get("split", "train")),
        options=options,
        fraction=check.share("fraction", given.get("fraction", fraction)),
        max_samples=check.whole("max_samples", given["max_samples"]) if "max_samples" in given else None,
        repeat=check.whole("repeat", given.get("repeat", 1)),
        seed=check.whole("seed", given.get("seed", seed), least=None),
        task=task,
        type=check.text("type", given["type"]) if "type" in given else None,
        use_audio=check.truth("use_audio", given["use_audio"]) if "use_audio" in given else None,
    )


def _root(given: Any, annotation: Path, base: Path, roots: Mapping[str, Path], check: _Checks) -> Path:
    if given is None:
        return annotation.parent
    name = check.text("root", given)
    if name in roots:
        return roots[name]
    folder = base / Path(name).expanduser()
    if not folder.is_dir():
        hint = f"or a name in roots: {did_you_mean(name, roots)}" if roots else ""
        raise MixError(f"{check.where}: root: there is no folder {folder}: name a folder that exists{hint or '.'}")
    return folder


def _check_names(sources: tuple[MixSource, ...], place: Path) -> None:
    seen: dict[tuple[str, str], int] = {}
    for number, source in enumerate(sources):
        key = (source.source, source.split)
        if key in seen:
            raise MixError(
                f"{place}: sources[{seen[key]}] and sources[{number}] are both called {source.source!r} "
                f"({source.split}), so their ids would be equal: give one of them another name, as source."
            )
        seen[key] = number
