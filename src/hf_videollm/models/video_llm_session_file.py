"""Saved sessions: encoded media and the keys and values of the language model, in one safetensors file.

The header of the file describes the values, and says what they were computed from: the bytes of the media, the frames
that were taken, the settings of the processor, the weights of the model and their precision. A file that does not fit
is refused, since its answers would be those of another model.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .errors import CheckpointError
from .video_llm_identity import model_identity, processor_identity
from .video_llm_kept_cache import LayerStates
from .video_llm_media_digests import media_identity
from .video_llm_session_disk import (
    CHECKSUM,
    UNSEALED,
    DamagedFileError,
    check_seal,
    refuse_other_than_file,
    seal,
    written_file,
)
from .video_llm_session_prompts import MEDIA_KINDS, SessionPrompts
from .video_llm_stored_values import pack, unpack
from .video_llm_watched_media import WatchedMedia

FAMILY = "hf_videollm session "
FORMAT = f"{FAMILY}2"
ENTRY = "session"
# What the message calls each part of the identity of a model.
PARTS = {
    "design": "a model of the design {old}, and this one is a {new}",
    "dtype": "a model in {old}, and this one is in {new}",
    "configuration": "a model with another configuration",
    "weights": "other weights: another checkpoint or revision, or a model that was trained since",
    "processor": "another processor, or other settings of it",
}


@dataclass
class SavedSession:
    """What a file holds.

    Attributes:
        watched: the media.
        head_ids: ids of the tokens before every question.
        states: keys and values of these tokens, for each layer; `None` if they depend on the question.
        media_options: options of the processor.
        rendering: options of the chat template, and of the design for prompts.
        answer_options: options of `generate`.
    """

    watched: WatchedMedia
    head_ids: list[int]
    states: list[LayerStates] | None
    media_options: dict[str, Any]
    rendering: dict[str, Any]
    answer_options: dict[str, Any]


def write_session(path: str | os.PathLike[str], saved: SavedSession, identity: Mapping[str, str]) -> Path:
    """Write a session. The file appears only when it is complete.

    Args:
        path: of the file.
        saved: the session.
        identity: of the model, and of the processor when the media were read.

    Raises:
        ValueError: an option cannot be written into a file, or the name is empty or not that of a regular file.
        OSError: the file cannot be written.
    """
    tensors: dict[str, torch.Tensor] = {}
    watched = saved.watched
    states = None if saved.states is None else pack(list(saved.states), tensors, "cache")
    described = {
        "format": FORMAT,
        "identity": dict(identity),
        "kinds": watched.kinds,
        "first_ids": watched.first_ids,
        "head_ids": saved.head_ids,
        "frames": watched.frames,
        "digests": watched.digests,
        "media_options": saved.media_options,
        "rendering": saved.rendering,
        "answer_options": saved.answer_options,
        "types": pack(watched.types, tensors, "types"),
        "encoded": pack(watched.encoded, tensors, "encoded"),
        "cache": states,
    }
    try:
        text = json.dumps(described)
    except TypeError as error:
        raise ValueError(f"The session cannot be saved, because an option has no form in JSON: {error}") from error
    path = refuse_other_than_file(path)
    with written_file(path) as temporary:
        save_file(tensors, temporary, metadata={ENTRY: text, CHECKSUM: UNSEALED})
        seal(temporary)
    return path


def read_session(path: str | os.PathLike[str], model: Any, processor: Any) -> SavedSession:
    """Read a session that was saved with this model and processor.

    Raises:
        CheckpointError: the file is no whole session, or was saved with another model, precision or processor; the
            message names the file and what differs.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; session.save writes one.")
    with _readable(path), safe_open(path, "pt", device="cpu") as file:
        described = _described(path, file.metadata())
        check_seal(path)
        saved_with = dict(described["identity"])
    # The tensors are not read for another model.
    identity = {**model_identity(model, every_value=True), "processor": processor_identity(processor)}
    _check_identity(path, saved_with, identity)
    with _readable(path), safe_open(path, "pt", device="cpu") as file:
        return _session(path, described, {name: file.get_tensor(name).to(model.device) for name in file.keys()})  # noqa: SIM118


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say in one line that a file cannot be read as a session."""
    try:
        yield
    except CheckpointError:
        raise
    except (SafetensorError, OSError, DamagedFileError) as error:
        raise CheckpointError(
            f"{path} is no whole session: it was cut off or damaged, or is another kind of file. Save it again."
        ) from error
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no session that this release can read ({type(error).__name__}): save it again."
        ) from error


def check_sources(path: str | os.PathLike[str], digests: Sequence[str], blocks: Sequence[Mapping[str, Any]]) -> None:
    """Check that a file was made from these media; with no media, nothing is checked.

    Raises:
        CheckpointError: it was made from others, or does not say from which.
    """
    if blocks and (not digests or media_identity(blocks) != list(digests)):
        why = "was made from other media" if digests else "does not say from which media it was made"
        raise CheckpointError(f"{path} {why}: open the media again, and save that session.")


def check_options(path: str | os.PathLike[str], saved: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Check that a file was made with these options of media; options that are not given are not compared.

    Raises:
        CheckpointError: one of them was another; the message names both values.
    """
    for name, value in given.items():
        made_with = saved.get(name)
        if json.loads(json.dumps(value, default=str)) != made_with:
            how = f"with {name}={made_with}" if name in saved else f"without {name}"
            raise CheckpointError(
                f"{path} was made {how}, and not with {name}={value}: leave it out, or open the media again and save "
                "that session."
            )


def saved_prompts(path: str | os.PathLike[str], saved: SavedSession, processor: Any) -> SessionPrompts:
    """What writes the prompts of a saved session.

    Raises:
        CheckpointError: the processor writes other tokens before a question than the file holds.
    """
    prompts = SessionPrompts(processor, [{"type": kind} for kind in saved.watched.kinds], saved.rendering)
    try:
        prompts.take_head(saved.watched.first_ids)
    except ValueError as error:
        raise misfit(path, "the tokens before the question") from error
    if prompts.head_ids != saved.head_ids:
        raise misfit(path, "the tokens before the question")
    return prompts


def misfit(path: str | os.PathLike[str], what: str) -> CheckpointError:
    """The error for a file whose checksum is right, and whose parts do not fit each other: somebody edited it."""
    return CheckpointError(f"{path}: {what} do not fit the rest of the file: open the media again, and save that.")


def split_storable(options: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The options that JSON gives back as they are, and the names of the others."""
    kept: dict[str, Any] = {}
    for name, value in options.items():
        try:
            if json.loads(json.dumps(value)) == value:
                kept[name] = value
        except (TypeError, ValueError):
            continue
    return kept, sorted(options.keys() - kept.keys())


def _described(path: Path, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    described = json.loads((metadata or {}).get(ENTRY, "{}"))
    if not isinstance(described, dict) or not str(described.get("format")).startswith(FAMILY):
        raise CheckpointError(f"{path} is a safetensors file, but no session of this release: session.save writes one.")
    if described["format"] != FORMAT:
        raise CheckpointError(
            f"{path} was saved by another release ({described['format']}, not {FORMAT}): open the video again, and "
            "save that session."
        )
    return described


def _check_identity(path: Path, saved: Mapping[str, str], given: Mapping[str, str]) -> None:
    for name, text in PARTS.items():
        if saved.get(name) != given[name]:
            what = text.format(old=saved.get(name), new=given[name])
            raise CheckpointError(f"{path} was saved with {what}: open the video again, and save that session.")


def _session(path: Path, described: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> SavedSession:
    watched = WatchedMedia(
        kinds=list(described["kinds"]),
        first_ids=list(described["first_ids"]),
        types=unpack(described["types"], tensors),
        encoded=unpack(described["encoded"], tensors),
        frames=described["frames"],
        digests=list(described["digests"]),
    )
    states = None if described["cache"] is None else [tuple(layer) for layer in unpack(described["cache"], tensors)]
    options = [dict(described[name]) for name in ("media_options", "rendering", "answer_options")]
    saved = SavedSession(watched, list(described["head_ids"]), states, *options)
    if what := _misfit(saved):
        raise misfit(path, what)
    return saved


def _misfit(saved: SavedSession) -> str | None:
    """The first part of a file that does not fit the others."""
    watched, length = saved.watched, len(saved.head_ids)
    if not watched.kinds or set(watched.kinds) - set(MEDIA_KINDS):
        return "the kinds of media"
    if watched.digests and len(watched.digests) != len(watched.kinds):
        return "the digests of the media"
    if len(watched.frames) != watched.kinds.count("video"):
        return "the frames"
    if not 0 < length <= len(watched.first_ids) or saved.head_ids != watched.first_ids[:length]:
        return "the tokens before the question"
    if any(types.shape != (1, len(watched.first_ids)) for types in watched.types.values()):
        return "the types of the tokens"
    if any(state.shape[:1] + state.shape[2:3] != (1, length) for layer in saved.states or () for state in layer):
        return "the keys and values"
    return None


__all__ = [
    "SavedSession",
    "check_options",
    "check_sources",
    "misfit",
    "read_session",
    "saved_prompts",
    "split_storable",
    "write_session",
]
