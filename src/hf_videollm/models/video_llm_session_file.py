"""Saved sessions: encoded media and the keys and values of the language model, in one safetensors file.

The header of the file describes the values, and says what they were computed from: the bytes of the media, the frames
that were taken, the settings of the processor, the weights of the model and their precision. A file that does not fit
is refused, since its answers would be those of another model.
"""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
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
from .video_llm_stored_values import pack, unpack
from .video_llm_watched_media import WatchedMedia

FORMAT = "hf_videollm session 1"
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
        rendering: options of the chat template.
    """

    watched: WatchedMedia
    head_ids: list[int]
    states: list[LayerStates] | None
    media_options: dict[str, Any]
    rendering: dict[str, Any]


def write_session(path: str | os.PathLike[str], saved: SavedSession, identity: Mapping[str, str]) -> Path:
    """Write a session. The file appears only when it is complete.

    Args:
        path: of the file.
        saved: the session.
        identity: of the model, and of the processor when the media were read.

    Raises:
        ValueError: an option cannot be written into a file.
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
        "types": pack(watched.types, tensors, "types"),
        "encoded": pack(watched.encoded, tensors, "encoded"),
        "cache": states,
    }
    try:
        text = json.dumps(described)
    except TypeError as error:
        raise ValueError(f"The session cannot be saved, because an option has no form in JSON: {error}") from error
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        save_file(tensors, name, metadata={ENTRY: text})
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
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
    try:
        with safe_open(path, "pt", device="cpu") as file:
            described = _described(path, file.metadata())
            # The weights are not read for a file that is none of a session.
            identity = {**model_identity(model, every_value=True), "processor": processor_identity(processor)}
            _check_identity(path, described["identity"], identity)
            tensors = {name: file.get_tensor(name).to(model.device) for name in file.keys()}  # noqa: SIM118
        return _session(described, tensors)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is no whole session: it was cut off or damaged, or is another kind of file. Save it again."
        ) from error
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
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


def _described(path: Path, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    described = json.loads((metadata or {}).get(ENTRY, "{}"))
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        raise CheckpointError(f"{path} is a safetensors file, but no session of this release: session.save writes one.")
    return described


def _check_identity(path: Path, saved: Mapping[str, str], given: Mapping[str, str]) -> None:
    for name, text in PARTS.items():
        if saved.get(name) != given[name]:
            what = text.format(old=saved.get(name), new=given[name])
            raise CheckpointError(f"{path} was saved with {what}: open the video again, and save that session.")


def _session(described: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> SavedSession:
    watched = WatchedMedia(
        kinds=list(described["kinds"]),
        first_ids=list(described["first_ids"]),
        types=unpack(described["types"], tensors),
        encoded=unpack(described["encoded"], tensors),
        frames=described["frames"],
        digests=described["digests"],
    )
    states = None if described["cache"] is None else [tuple(layer) for layer in unpack(described["cache"], tensors)]
    return SavedSession(
        watched, list(described["head_ids"]), states, described["media_options"], described["rendering"]
    )


__all__ = ["SavedSession", "check_sources", "read_session", "write_session"]
