"""Where a checkpoint comes from: base models, licence and revision, as its files say, and variants of it on the Hub."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, scan_cache_dir, try_to_load_from_cache
from huggingface_hub.errors import CacheNotFound

from ..known_models import bundled_checkpoints, bundled_name
from ..models.errors import CheckpointError
from ..models.video_llm_checkpoint_files import find_file, read_checkpoint_json
from ..origin import DATA_ROLE, ORIGIN_FILE, load_card_metadata, read_origin_file, stated_licence

# The beginnings of texts of licences, without spaces at line breaks -> their ids on the Hub.
LICENCE_TEXTS = {
    "apache license version 2.0": "apache-2.0",
    "mit license": "mit",
    "bsd 3-clause": "bsd-3-clause",
    "bsd 2-clause": "bsd-2-clause",
    "llama 2 community license": "llama2",
    "meta llama 3 community license": "llama3",
    "gemma terms of use": "gemma",
    "attribution-noncommercial 4.0": "cc-by-nc-4.0",
    "attribution 4.0": "cc-by-4.0",
}
# The small checkpoints come with the package, and are under its licence.
OWN_LICENCE = "apache-2.0"
LICENCE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt")
# Part of a licence file in which its name must stand.
HEAD_CHARS = 400
HUB_ID = re.compile(r"[\w.\-]+/[\w.\-]+")
MOST_VARIANTS = 100


@dataclass(frozen=True)
class BaseModel:
    """A model that a checkpoint was made from.

    Attributes:
        name: Hub id or folder.
        role: what it is to the checkpoint: what was taken from it (checkpoint, vision tower, ...) by origin.json,
            `base_model_relation` of the README (finetune, quantized, adapter, merge), or the field of config.json that
            names it (backbone_name, text_config, ...).
        revision: its revision, if it was recorded.
        stated_in: the file that says so.
    """

    name: str
    role: str | None
    revision: str | None
    stated_in: str


@dataclass(frozen=True)
class Licence:
    """The licence of a checkpoint as its files state it.

    Attributes:
        id: id of the Hub, such as `"apache-2.0"`; `"other"` if the text is not known.
        name: name of another licence.
        link: its address.
        stated_in: the file that says so.
    """

    id: str
    name: str | None
    link: str | None
    stated_in: str


@dataclass(frozen=True)
class Variants:
    """Other repositories with the same model, quantized.

    Attributes:
        names: Hub ids.
        looked_in: `"Hub"`, or `"cache"` if the Hub could not be asked; `None` for a folder, which has no other
            repositories.
    """

    names: list[str] = field(default_factory=list)
    looked_in: str | None = None


@dataclass(frozen=True)
class StatedOrigin:
    """What the files of a checkpoint say about where it comes from."""

    revision: str | None
    base_models: list[BaseModel]
    training_data: list[str]
    licence: Licence | None
    variants: Variants


def read_origin(source: str, config: Mapping[str, Any]) -> StatedOrigin:
    """Read README, licence and records of a checkpoint, and look for its variants.

    Args:
        source: folder or Hub id. The small files of a Hub id are downloaded if the Hub answers.
        config: content of its config.json.

    Raises:
        CheckpointError: the README's metadata, or another file, cannot be read.
        OriginError: the record of the conversion or build is damaged.
    """
    card = _read_card(source)
    stated = [
        *_of_record(source),
        *_of_card(card),
        *_of_config(config),
        *_of_adapter(source, config),
    ] or list(_of_weights(source))
    # The record comes first, because it has revisions and says what was taken from each model.
    base_models = {item.name: item for item in reversed(stated)}
    return StatedOrigin(
        revision=_revision(source),
        base_models=[item for item in stated if base_models[item.name] is item],
        training_data=_data_of_record(source),
        licence=_licence(source, card),
        variants=Variants() if os.path.isdir(source) else find_variants(source),
    )


def _read_card(source: str) -> dict[str, Any]:
    """The metadata of the README; empty if there are none."""
    file = find_file(source, "README.md", {})
    return {} if file is None else load_card_metadata(file)


def _of_record(source: str) -> Iterator[BaseModel]:
    """The sources in the record of the conversion, build or quantization that made the checkpoint."""
    if (file := find_file(source, ORIGIN_FILE, {})) is not None:
        for record in read_origin_file(file).sources:
            if record.role != DATA_ROLE:
                yield BaseModel(record.name, record.role, record.revision, ORIGIN_FILE)


def _data_of_record(source: str) -> list[str]:
    """What the checkpoint was trained on, as its record says."""
    file = find_file(source, ORIGIN_FILE, {})
    sources = () if file is None else read_origin_file(file).sources
    return list(dict.fromkeys(record.name for record in sources if record.role == DATA_ROLE))


def _of_card(card: Mapping[str, Any]) -> Iterator[BaseModel]:
    names = card.get("base_model")
    for name in names if isinstance(names, list) else [names]:
        if isinstance(name, str) and name:
            relation = card.get("base_model_relation")
            yield BaseModel(name, relation if isinstance(relation, str) else None, None, "README.md")


def _of_config(config: Mapping[str, Any], prefix: str = "") -> Iterator[BaseModel]:
    """The models that config.json names. Paths of the machine where it was made say nothing elsewhere: left out."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _of_config(value, f"{prefix}{name}.")
        elif name == "backbone_name" and _is_known(value):
            yield BaseModel(value, name, config.get("backbone_revision"), "config.json")
        elif name == "_name_or_path" and prefix and _is_known(value):
            yield BaseModel(value, prefix.rstrip("."), None, "config.json")


def _is_known(name: Any) -> bool:
    return isinstance(name, str) and bool(HUB_ID.fullmatch(name) or (name and os.path.isdir(name)))


def _of_adapter(source: str, config: Mapping[str, Any]) -> Iterator[BaseModel]:
    """The model that the adapter of a PLLaVA was trained on."""
    adapter = config.get("lora_adapter")
    if (
        not isinstance(adapter, str)
        or (file := find_file(source, "adapter_config.json", {"subfolder": adapter})) is None
    ):
        return
    name = read_checkpoint_json(file).get("base_model_name_or_path")
    if isinstance(name, str) and _is_known(name):
        yield BaseModel(name, "adapter", None, f"{adapter}/adapter_config.json")


def _of_weights(source: str) -> Iterator[BaseModel]:
    """The small checkpoint of this package of which a folder is a copy. Only weights of the same size are read."""
    if not os.path.isdir(source) or (name := bundled_name(source)) is None:
        return
    if Path(source).resolve() != bundled_checkpoints()[name].resolve():
        yield BaseModel(name, "the same weights", None, "model.safetensors")


def _licence(source: str, card: Mapping[str, Any]) -> Licence | None:
    if (stated := stated_licence(card)) is not None:
        name, link = (card.get(field) for field in ("license_name", "license_link"))
        return Licence(stated, name, link, "README.md")
    for name in LICENCE_FILES:
        if (file := find_file(source, name, {})) is not None:
            return Licence(licence_of_text(file.read_text(encoding="utf-8", errors="replace")), None, None, name)
    if os.path.isdir(source) and bundled_name(source) is not None:
        return Licence(OWN_LICENCE, None, None, "the licence of this package")
    return None


def licence_of_text(text: str) -> str:
    """The Hub's id of a licence by the beginning of its text, `"other"` if it is not known.

    Example:
        >>> licence_of_text("MIT License\\n\\nCopyright (c) 2026 ...")
        'mit'
    """
    head = " ".join(text[:HEAD_CHARS].lower().replace(",", " ").split())
    return next((name for words, name in LICENCE_TEXTS.items() if words in head), "other")


def _revision(source: str) -> str | None:
    """The commit on the Hub that a folder or a cached repository was downloaded from, if that is recorded."""
    if not os.path.isdir(source):
        file = try_to_load_from_cache(source, "config.json")
        return Path(file).parent.name if isinstance(file, str) else None
    # `hf download --local-dir` writes the commit into the first line of this file.
    record = Path(source, ".cache", "huggingface", "download", "config.json.metadata")
    if record.is_file():
        return record.read_text(encoding="utf-8").partition("\n")[0] or None
    folder = Path(source).resolve()
    return folder.name if folder.parent.name == "snapshots" else None


def find_variants(name: str) -> Variants:
    """The quantized variants of a repository: those that the Hub lists, or those in the cache if it does not answer.

    Args:
        name: Hub id.
    """
    try:
        models = HfApi().list_models(filter=f"base_model:quantized:{name}", limit=MOST_VARIANTS)
        listed = {model.id for model in models}
    # The Hub's client passes on errors of several libraries.
    except Exception:
        return Variants(sorted(_cached_variants(name)), "cache")
    return Variants(sorted(listed), "Hub")


def _cached_variants(name: str) -> Iterator[str]:
    try:
        repos = scan_cache_dir().repos
    except (CacheNotFound, OSError):
        return
    for repo in repos:
        if repo.repo_type != "model" or repo.repo_id == name:
            continue
        try:
            card = _read_card(next(iter(repo.revisions)).snapshot_path.as_posix())
        except (CheckpointError, StopIteration):
            continue
        if card.get("base_model_relation") == "quantized" and name in (card.get("base_model"), *_names(card)):
            yield repo.repo_id


def _names(card: Mapping[str, Any]) -> list[str]:
    return [item.name for item in _of_card(card)]


__all__ = ["BaseModel", "Licence", "StatedOrigin", "Variants", "find_variants", "licence_of_text", "read_origin"]
