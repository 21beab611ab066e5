"""Records what a checkpoint was made from, in the file `origin.json` of its folder.

Conversions, builds and quantization write the record. Model cards and the licence check read it. A record names models
of the Hub by their id, and other folders by their last name only, so that no path of a private machine is published.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from shutil import copyfile
from typing import Any

__all__ = [
    "DATA_ROLE",
    "ORIGINAL",
    "ORIGIN_FILE",
    "Origin",
    "OriginError",
    "SourceRecord",
    "carry_origin",
    "carry_record",
    "load_card_metadata",
    "read_card_metadata",
    "read_origin",
    "read_origin_file",
    "save_origin",
    "source_record",
    "stated_licence",
    "write_origin",
]

ORIGIN_FILE = "origin.json"
# The role of the checkpoint that a variant was made from.
ORIGINAL = "original"
# The role of data. These are files of the machine that trained, not data sets of the Hub.
DATA_ROLE = "training data"
# A folder inside the cache of huggingface_hub, whose path names the repository and its commit.
_CACHED = re.compile(r"models--(?P<owner>[^/\\]+?)--(?P<name>[^/\\]+)[/\\]snapshots[/\\](?P<revision>[0-9a-f]{7,40})")


class OriginError(ValueError):
    """The record of a checkpoint is damaged."""


@dataclass(frozen=True)
class SourceRecord:
    """One source of a checkpoint.

    Attributes:
        role: what was taken from it, such as `"language model"`.
        name: id on the Hub, or the last name of its folder.
        revision: commit on the Hub, if its folder says so.
        licence: identifier of the licence in the source's own model card.
        licence_name: name of a licence for which the Hub has no identifier.
        licence_link: where the text of the licence stands.
        base_models: what the source's model card names as its base models.
        datasets: what the source's model card names as its data sets.
    """

    role: str
    name: str
    revision: str | None = None
    licence: str | None = None
    licence_name: str | None = None
    licence_link: str | None = None
    base_models: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Origin:
    """How a checkpoint was made.

    Attributes:
        made_by: the command or function, such as `"hf-videollm convert pllava"`.
        relation: relation to the sources in the Hub's words: `"finetune"`, `"quantized"`, `"merge"` or `"adapter"`.
        sources: what it was made from.
        notes: what a reader of the model card has to know, in sentences.
    """

    made_by: str
    relation: str = "finetune"
    sources: tuple[SourceRecord, ...] = ()
    notes: tuple[str, ...] = field(default=())


def source_record(folder: str | os.PathLike[str], role: str) -> SourceRecord:
    """Describe a source by what its folder says: the path of the Hub's cache, and the metadata of its README.md.

    Args:
        folder: folder or file of the source.
        role: what is taken from it.

    Example:
        >>> source_record("/data/clip-large", "vision tower").name
        'clip-large'
    """
    path = Path(folder)
    cached = _CACHED.search(str(path.absolute()))
    name = f"{cached['owner']}/{cached['name']}" if cached else os.path.basename(os.path.abspath(path))
    metadata = read_card_metadata(path if path.is_dir() else path.parent)
    return SourceRecord(
        role=role,
        name=name,
        revision=cached["revision"] if cached else None,
        licence=stated_licence(metadata),
        licence_name=_text(metadata.get("license_name")),
        licence_link=_text(metadata.get("license_link")),
        base_models=_texts(metadata.get("base_model")),
        datasets=_texts(metadata.get("datasets")),
    )


def read_card_metadata(folder: Path) -> dict[str, Any]:
    """The metadata of the model card in a folder; an empty dict if there is no card or its metadata is damaged."""
    card = folder / "README.md"
    try:
        return load_card_metadata(card) if card.is_file() else {}
    except ValueError:  # A damaged card of a source says nothing.
        return {}


def load_card_metadata(card: str | os.PathLike[str]) -> dict[str, Any]:
    """The metadata of a model card; an empty dict if it has none.

    Args:
        card: file of the card.

    Raises:
        CheckpointError: the metadata is damaged.
    """
    from huggingface_hub.repocard import metadata_load

    from .models.errors import CheckpointError, one_line

    try:
        found = metadata_load(os.fspath(card))
    except Exception as error:  # The YAML parser raises errors of its own.
        raise CheckpointError(
            f"The metadata at the top of {os.fspath(card)} cannot be read ({one_line(error, 120)})."
        ) from error
    return dict(found) if isinstance(found, dict) else {}


def stated_licence(metadata: Mapping[str, Any]) -> str | None:
    """The licence that the metadata of a card states; the first one, if it states several.

    Example:
        >>> stated_licence({"license": ["cc-by-nc-4.0"]})
        'cc-by-nc-4.0'
    """
    found = metadata.get("license")
    return _text(found[0] if isinstance(found, list) and found else found)


def write_origin(
    folder: str | os.PathLike[str],
    made_by: str,
    sources: Iterable[tuple[str, str | os.PathLike[str] | None]],
    *,
    relation: str = "finetune",
    notes: Sequence[str] = (),
) -> Origin:
    """Write the record of a checkpoint that is being made. What the sources themselves were made from is kept.

    Args:
        folder: folder of the new checkpoint.
        made_by: the command or function.
        sources: role and folder of each source; a folder that is `None` is left out.
        relation: see `Origin`.
        notes: see `Origin`.

    Returns:
        The record.
    """
    records: list[SourceRecord] = []
    for role, place in sources:
        if place is None:
            continue
        records.append(source_record(place, role))
        earlier = read_origin(place) if Path(place).is_dir() else None
        records += earlier.sources if earlier is not None else ()
    origin = Origin(made_by, relation, tuple(dict.fromkeys(records)), tuple(notes))
    save_origin(folder, origin)
    return origin


def save_origin(folder: str | os.PathLike[str], origin: Origin) -> None:
    """Write a record into a folder."""
    text = json.dumps(asdict(origin), indent=2, ensure_ascii=False)
    (Path(folder) / ORIGIN_FILE).write_text(f"{text}\n", encoding="utf-8")


def carry_origin(model: Any, folder: str | os.PathLike[str]) -> None:
    """Copy the record of the folder that a model was loaded from into a folder that it is saved to.

    Args:
        model: a model of transformers. One that was not loaded from a folder has no record.
        folder: folder to write to.
    """
    loaded = model.name_or_path
    if isinstance(loaded, str) and os.path.isdir(loaded):
        carry_record(loaded, folder, "hf_videollm.save_checkpoint")


def carry_record(place: str | os.PathLike[str], folder: str | os.PathLike[str], made_by: str) -> None:
    """Pass on what a checkpoint says about its origin to one that was made from it, so that its licence is not lost.

    Args:
        place: folder of the checkpoint. If it has no record, but a model card that names a licence or base models, the
            record of the new checkpoint names it as the source.
        folder: folder of the new checkpoint.
        made_by: see `Origin`.
    """
    if (Path(place) / ORIGIN_FILE).is_file():
        copyfile(Path(place) / ORIGIN_FILE, Path(folder) / ORIGIN_FILE)
        return
    record = source_record(place, "checkpoint")
    if record.licence or record.base_models:
        write_origin(folder, made_by, [(record.role, place)])


def read_origin(folder: str | os.PathLike[str]) -> Origin | None:
    """The record in a folder; `None` if it has none.

    Raises:
        OriginError: the record is damaged.
    """
    file = Path(folder) / ORIGIN_FILE
    return read_origin_file(file) if file.is_file() else None


def read_origin_file(file: str | os.PathLike[str]) -> Origin:
    """The record in a file.

    Raises:
        OriginError: the record is damaged.
    """
    file = Path(file)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        sources = tuple(_record(entry) for entry in content["sources"])
        return Origin(str(content["made_by"]), str(content["relation"]), sources, _texts(content.get("notes")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OriginError(
            f"{file} is damaged ({type(error).__name__}): remove it, and name the base model with --base-model."
        ) from error


def _record(entry: dict[str, Any]) -> SourceRecord:
    return SourceRecord(
        role=str(entry["role"]),
        name=str(entry["name"]),
        revision=_text(entry.get("revision")),
        licence=_text(entry.get("licence")),
        licence_name=_text(entry.get("licence_name")),
        licence_link=_text(entry.get("licence_link")),
        base_models=_texts(entry.get("base_models")),
        datasets=_texts(entry.get("datasets")),
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _texts(value: Any) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else []
    return tuple(text for text in values if isinstance(text, str))
