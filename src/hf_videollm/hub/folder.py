"""Checks a checkpoint folder before anything of it is published, and says what belongs into its repository."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ..designs import DESIGNS, Design
from ..models.errors import CheckpointError, one_line
from ..models.video_llm_checkpoint_files import (
    INDEX_NAME,
    PICKLE_SUFFIXES,
    check_file,
    check_headers,
    find_weight_files,
    read_checkpoint_json,
)
from ..models.video_llm_option_names import nearest
from ..models.video_llm_processor_files import processor_errors
from ..models.video_llm_safetensors import LFS_MARK
from ..pair_check import check_pair
from .checkpoint import hidden_progress
from .secret_files import is_secret_name, refuse_secrets

CONFIG, CARD = "config.json", "README.md"
PROCESSOR_FILES = ("processor_config.json", "tokenizer_config.json", "chat_template.jinja")
# What programs leave beside a checkpoint. It is not published, and the report says so.
LEFTOVER_NAMES = ("*.pyc", "Thumbs.db", "desktop.ini", "*~")
# The trainer's own checkpoints, checkpoint-500 and the like, belong to the run and not to its result.
LEFTOVER_FOLDERS = ("__pycache__", "checkpoint-[0-9]*")
# Endings of files that were not written to their end.
UNFINISHED = (".tmp", ".temp", ".part", ".partial", ".incomplete", ".lock", ".crdownload", ".download", ".swp")
PICKLES = (*PICKLE_SUFFIXES, ".pickle", ".joblib", ".dill")
GIT_STORE = ".git/objects/"
# More files than any checkpoint has. A larger number shows that this is another folder, such as a home folder.
MOST_FILES = 5000


@dataclass(frozen=True)
class CheckpointFolder:
    """A folder that holds a complete checkpoint.

    Attributes:
        path: the folder.
        design: the design of its model.
        config: content of its config.json.
        files: path in the repository -> file, in the order of the paths.
        left_out: what lies in the folder and is not published.
    """

    path: Path
    design: Design
    config: dict[str, Any]
    files: dict[str, Path]
    left_out: tuple[str, ...] = ()

    @property
    def quantization(self) -> str | None:
        """Name of the method by which the weights are quantized; `None` if they are not."""
        content = self.config.get("quantization_config")
        return None if content is None else str(content.get("quant_method"))


def check_folder(folder: str | os.PathLike[str], tokens: Iterable[str] = ()) -> CheckpointFolder:
    """Check that a folder is a complete checkpoint of a design, and that all in it may be published.

    The weights are compared with the configuration by names and shapes; their values are not read.

    Args:
        folder: the folder.
        tokens: secrets of this user, which must not stand in any file.

    Raises:
        CheckpointError: it is no checkpoint, a part is missing, truncated or damaged, it holds what does not belong to
            a checkpoint (pickles, unfinished files, weights of another checkpoint), or it holds a secret.

    Example:
        >>> from hf_videollm import default_checkpoint
        >>> from hf_videollm.hub.folder import check_folder
        >>> check_folder(default_checkpoint("iva-tiny")).design.name
        'iva'
    """
    path = Path(folder)
    if not path.is_dir():
        raise CheckpointError(f"{path} is no folder: give the folder of a checkpoint.")
    config = _read_config(path)
    design = _design(path, config)
    files, left_out = _list_files(path)
    # Also what is left out: the user should know that a secret lies in a folder of which copies are made.
    refuse_secrets({**_hidden_files(path, left_out), **files}, tokens)
    _refuse_foreign(path, files)
    _check_weights(path, config)
    for name in PROCESSOR_FILES:
        if name not in files:
            raise CheckpointError(
                f"{path / name} is missing, so the repository would not be complete: save the checkpoint again with "
                "hf_videollm.save_checkpoint(model, processor, folder)."
            )
    checked = CheckpointFolder(path, design, config, files, left_out)
    _check_loads(checked)
    return checked


def _read_config(path: Path) -> dict[str, Any]:
    if not (path / CONFIG).is_file():
        below = sorted(item.parent.name for item in path.glob(f"*/{CONFIG}"))
        hint = f"; did you mean {path / below[0]}?" if below else ": give a folder that save_checkpoint wrote."
        raise CheckpointError(f"{path} is no checkpoint, because it has no {CONFIG}{hint}")
    return read_checkpoint_json(check_file(path / CONFIG, path))


def _design(path: Path, config: Mapping[str, Any]) -> Design:
    name = config.get("model_type")
    if name in DESIGNS and DESIGNS[name].video_processor is not None:
        return DESIGNS[name]
    for design in DESIGNS.values():
        if design.is_original is not None and design.is_original(config):
            raise CheckpointError(f"{path} was not converted: {design.advice}")
    known = ", ".join(name for name, design in DESIGNS.items() if design.video_processor is not None)
    hint = f" (did you mean {similar[0]}?)" if (similar := nearest(name, DESIGNS)) else ""
    raise CheckpointError(
        f"{path} holds a model of type {name!r}{hint}, which is none of this package's designs: {known}."
    )


def _list_files(path: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """The files to publish, and the names of what is left out."""
    files: dict[str, Path] = {}
    left_out: list[str] = []
    for name, file in _walk(path, path, left_out):
        if len(files) >= MOST_FILES:
            raise CheckpointError(f"{path} holds more than {MOST_FILES} files: give the checkpoint's own folder.")
        files[name] = check_file(file, path)
    return dict(sorted(files.items())), tuple(sorted(left_out))


def _walk(folder: Path, root: Path, left_out: list[str]) -> Iterator[tuple[str, Path]]:
    for entry in sorted(folder.iterdir()):
        name = entry.relative_to(root).as_posix()
        # A file for secrets is an error even if it is hidden and would be left out: the user should know of it.
        is_hidden = entry.name.startswith(".") and not is_secret_name(f"{name}/x" if entry.is_dir() else name)
        if entry.is_dir():
            if is_hidden or any(fnmatch(entry.name, pattern) for pattern in LEFTOVER_FOLDERS):
                left_out.append(f"{name}/")
            elif entry.is_symlink():
                raise CheckpointError(f"{entry} is a link to a folder: put the folder itself there.")
            else:
                yield from _walk(entry, root, left_out)
        elif is_hidden or any(fnmatch(entry.name, pattern) for pattern in LEFTOVER_NAMES):
            left_out.append(name)
        else:
            yield name, entry


def _hidden_files(path: Path, left_out: Iterable[str]) -> dict[str, Path]:
    """The files that are left out, with those in folders that are; git's own store of contents is not read."""
    found: dict[str, Path] = {}
    for name in left_out:
        place = path / name
        inner = place.rglob("*") if place.is_dir() and not place.is_symlink() else [place]
        for file in inner:
            relative = file.relative_to(path)
            if file.is_file() and not file.is_symlink() and GIT_STORE not in relative.as_posix():
                found[relative.as_posix()] = file
    return found


def _refuse_foreign(path: Path, files: Mapping[str, Path]) -> None:
    """Refuse files that show that the folder is not one finished checkpoint."""
    for name, file in files.items():
        if file.suffix in PICKLES:
            raise CheckpointError(
                f"{name} in {path} is a pickle, which can run code when it is read, or the state of a training: take "
                "it out of the folder, or save the model alone with save_checkpoint and push that folder."
            )
        if file.suffix in UNFINISHED:
            raise CheckpointError(
                f"{name} in {path} is an unfinished file: finish the download or the save, or remove it."
            )
        with file.open("rb") as content:
            if content.read(len(LFS_MARK)) == LFS_MARK:
                raise CheckpointError(f"{name} in {path} is a pointer of Git LFS and not the file: run git lfs pull.")


def _check_weights(path: Path, config: Mapping[str, Any]) -> None:
    weights, index = find_weight_files(path, {})
    check_headers(weights, index, is_quantized="quantization_config" in config)
    # transformers reads no other weight files of this folder, so these would be published for nothing.
    named = {file.name for file in weights}
    for stray in sorted([*path.glob("*.safetensors"), *path.glob("*.safetensors.index*.json")]):
        if stray.name not in {*named, index.name}:
            raise CheckpointError(
                f"{stray} is not among the weights of the checkpoint ({_listed(named)}): remove it, or save the "
                "checkpoint again into an empty folder."
            )


def _listed(names: set[str]) -> str:
    return min(names) if len(names) == 1 else f"{len(names)} files that {INDEX_NAME} names"


def _check_loads(folder: CheckpointFolder) -> None:
    """Load configuration and processor, and compare names and shapes of the weights with the model."""
    from huggingface_hub.errors import StrictDataclassError

    design, path = folder.design, folder.path
    try:
        with hidden_progress():
            config = design.load("config").from_pretrained(path)
            with processor_errors(path, {}):
                processor = design.load("processor").from_pretrained(path)
            check_pair(config, processor)
            # A quantized model is not loaded, because its quantizer may need a package or a device that is not here.
            if folder.quantization is None:
                design.load("generating_model").from_pretrained(path, device_map="meta")
    except CheckpointError:
        raise
    except (ValueError, OSError, TypeError, KeyError, StrictDataclassError) as error:
        reason = one_line(error, 300)
        raise CheckpointError(f"{path} does not load, so it cannot be published: {reason}") from error


__all__ = ["CARD", "CONFIG", "CheckpointFolder", "check_folder"]
