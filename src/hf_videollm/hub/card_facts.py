"""Collects what a model card says about a checkpoint, from its files and from the functions that count its costs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial, reduce
from pathlib import Path
from typing import Any

from ..costs.info import BYTES_PER_PARAMETER, CheckpointInfo, describe_checkpoint
from ..known_models import bundled_checkpoints
from ..models.errors import CheckpointError
from .card_files import load_facts
from .card_numbers import FactBook
from .licences import bundled_name, quantized_from
from .quantize import REPORT_FILE, preset_of

__all__ = [
    "ACCURACY",
    "STORED_MEMORY",
    "CardSource",
    "Table",
    "accuracy_tables",
    "cost_rows",
    "pointed",
    "read_json",
    "settings_rows",
    "variant_rows",
]

ACCURACY = "accuracy.json"
# The row of a variant's memory.
STORED_MEMORY = "memory of the weights as they are stored here"
# Options of frames that a card shows, with their names there.
FRAME_OPTIONS = {
    "num_frames": "frames of a video",
    "fps": "frames per second",
    "sampling": "sampling",
    "size": "size",
    "crop_size": "crop",
    "do_center_crop": "cropped to the centre",
    "resize_mode": "resizing",
    "num_tokens_per_frame": "tokens kept of a frame",
    "on_decode_error": "damaged files",
}
ANSWER_OPTIONS = {"max_new_tokens": "longest answer, in tokens", "do_sample": "answers are drawn", "num_beams": "beams"}


@dataclass(frozen=True)
class Table:
    """A table of a card, with marked cells.

    Attributes:
        title: sentence above it.
        header: names of the columns.
        rows: the cells of each row.
    """

    title: str
    header: list[str]
    rows: list[list[str]]


@dataclass
class CardSource:
    """A checkpoint folder with the facts that a card may state.

    Attributes:
        folder: the folder.
        book: collects the facts that the card states.
        given_name: name that the folder will have, if it is written under a temporary name.
        preset: name of the preset that wrote these weights, if the folder is a variant.
    """

    folder: Path
    given_name: str | None = None
    book: FactBook = field(default_factory=FactBook)

    def __post_init__(self) -> None:
        self.config = self.json("config.json")
        self.bundled = bundled_name(self.folder) or quantized_from(self.folder)
        self.design = str(self.config.get("model_type"))
        self.facts = load_facts(f"designs/{self.design}")
        if not self.facts:
            raise CheckpointError(
                f"{self.folder} holds a model of type {self.design!r}, for which model_cards/designs has no facts."
            )
        self.checkpoint = load_facts(f"checkpoints/{self.bundled}") if self.bundled else {}
        self.info: CheckpointInfo = describe_checkpoint(self.folder, memory=False)
        # Only `quantize` writes this report, so the weights are not those that were trained and measured.
        self.preset = preset_of(self.folder)

    @property
    def name(self) -> str:
        """Name of the folder, also if it was given as `.` or `..`."""
        return self.given_name or os.path.basename(os.path.abspath(self.folder))

    @property
    def is_variant(self) -> bool:
        """Whether the weights are not those that were trained, but were made smaller afterwards."""
        return self.preset is not None or self.info.quantization is not None

    def json(self, name: str) -> dict[str, Any]:
        """Content of a JSON file of the folder; an empty dict if it has none."""
        return read_json(self.folder / name)

    def home(self, name: str) -> Path:
        """A file of the folder, or of the bundled checkpoint that the folder is a copy or a variant of."""
        own = self.folder / name
        if own.is_file() or self.bundled is None:
            return own
        return bundled_checkpoints()[self.bundled] / name

    def json_of(self, file: Path) -> dict[str, Any]:
        """Content of any JSON file; an empty dict if it does not exist."""
        return read_json(file)

    def from_json(self, file: Path, pointer: str, style: str) -> str:
        """A value of a JSON file, marked. `pointer` has the keys on the way to it, with slashes between them."""
        # The reader of the card looks for the file in the repository.
        place = file.name if file.is_relative_to(self.folder) else f"{file.name} of {file.parent.name} in the package"
        return self.book.add(lambda: pointed(read_json(file), pointer), f"{place}: {pointer}", style)

    def from_info(self, read: Callable[[CheckpointInfo], Any], what: str, style: str = "count") -> str:
        """A value that the functions of `costs` count, marked."""
        return self.book.add(lambda: read(self.info), f"`hf-videollm info`: {what}", style)

    def weight_bytes(self) -> int:
        """Size of the weight files on disk."""
        return sum(file.stat().st_size for file in self.folder.rglob("*.safetensors"))


def read_json(file: Path) -> dict[str, Any]:
    """Content of a JSON file; an empty dict if it does not exist.

    Raises:
        CheckpointError: the file is no valid JSON.
    """
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is no valid JSON ({error}): save the checkpoint again.") from error
    return content if isinstance(content, dict) else {}


def pointed(content: Any, pointer: str) -> Any:
    """The value at the end of a way of keys through nested dicts; `None` if the way ends early.

    Example:
        >>> pointed({"a": {"b c": 1}}, "a/b c")
        1
    """
    step = lambda inner, key: inner.get(key) if isinstance(inner, Mapping) else None  # noqa: E731
    return reduce(step, pointer.split("/"), content)


def cost_rows(source: CardSource) -> list[tuple[str, str]]:
    """What one video and the weights cost: name and marked value of each row."""
    info = source.info
    rows = [
        ("frames of a video, by default", source.from_info(lambda info: info.num_frames, "frames per video")),
        ("tokens of such a video", source.from_info(lambda info: info.tokens_per_video, "tokens per video")),
    ]
    if info.tokens_per_image is not None:
        rows.append(("tokens of an image", source.from_info(lambda info: info.tokens_per_image, "tokens per image")))
    if info.tokens_per_sound is not None:
        seconds = source.book.name("30", "costs/info.py: FRAMES_OF_30_SECONDS")
        tokens = source.from_info(lambda info: info.tokens_per_sound, "tokens per sound")
        rows.append((f"tokens of {seconds} seconds of sound", tokens))
    rows.append(("parameters", source.from_info(lambda info: info.parameters["total"], "parameters, total")))
    rows.append(
        ("weight files on disk", source.book.add(source.weight_bytes, "sizes of the *.safetensors files", "size"))
    )
    rows += _weight_rows(source)
    rows.append(
        (
            "key-value cache of one video and a short conversation, in bfloat16",
            source.from_info(lambda info: info.kv_cache_bytes, "key-value cache", "size"),
        )
    )
    return rows


def _weight_rows(source: CardSource) -> list[tuple[str, str]]:
    """The memory of the weights in each type. For a variant, other types would be those of its original."""
    if source.is_variant and source.info.stored is not None:
        return [(STORED_MEMORY, source.from_info(_stored_bytes, "on disk", "size"))]
    return [
        (
            f"memory of the weights in {name}",
            source.from_info(partial(_weights_in, name=name), f"weights in {name}", "size"),
        )
        for name in BYTES_PER_PARAMETER
    ]


def _stored_bytes(info: CheckpointInfo) -> int | None:
    return None if info.stored is None else info.stored.bytes


def _weights_in(info: CheckpointInfo, name: str) -> int:
    return info.weight_bytes[name]


def settings_rows(source: CardSource) -> list[tuple[str, str, str]]:
    """Options of frames and answers: name in the file, meaning, and marked value."""
    rows = []
    video = source.json("processor_config.json").get("video_processor") or {}
    for name, meaning in FRAME_OPTIONS.items():
        if video.get(name) is not None and not _is_unused(name, video):
            rows.append((name, meaning, _option(source, "processor_config.json", f"video_processor/{name}")))
        elif source.config.get(name) is not None and name in ("num_frames", "num_tokens_per_frame"):
            rows.append((name, meaning, _option(source, "config.json", name)))
    answers = source.json("generation_config.json")
    for name, meaning in ANSWER_OPTIONS.items():
        if answers.get(name) is not None:
            rows.append((name, meaning, _option(source, "generation_config.json", name)))
    return rows


def _is_unused(name: str, video: Mapping[str, Any]) -> bool:
    """Whether other options of the processor say that this one has no effect."""
    switch = {"crop_size": "do_center_crop", "size": "do_resize"}.get(name)
    return switch is not None and not video.get(switch)


def _option(source: CardSource, file: str, pointer: str) -> str:
    value = pointed(source.json(file), pointer)
    if isinstance(value, Mapping):
        parts = [source.from_json(source.folder / file, f"{pointer}/{key}", "plain") for key in value]
        return " x ".join(parts) if len(parts) > 1 else f"{next(iter(value)).replace('_', ' ')} {parts[0]}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return source.from_json(source.folder / file, pointer, "plain")


def accuracy_tables(source: CardSource) -> list[Table]:
    """The tables of accuracies of a bundled checkpoint, as its file in `model_cards/checkpoints` asks for them."""
    file = source.home(ACCURACY)
    if not source.checkpoint or not file.is_file():
        return []
    tables = []
    for asked in source.checkpoint.get("tables", ()):
        columns = _columns(source, file, asked)
        kinds = list(dict.fromkeys(kind for _, pointer in columns for kind in pointed(read_json(file), pointer) or {}))
        rows = [
            [
                kind.replace("_", " "),
                *(source.from_json(file, f"{pointer}/{kind}", "percent") for _, pointer in columns),
            ]
            for kind in kinds
        ]
        tables.append(Table(asked["title"], ["question", *(name for name, _ in columns)], rows))
    return tables


def _columns(source: CardSource, file: Path, asked: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and pointers of the columns of a table. `each` makes a column of each key below a pointer."""
    columns = [(str(name), str(pointer)) for name, pointer in (asked.get("columns") or {}).items()]
    if (each := asked.get("each")) is not None:
        for key in pointed(read_json(file), each["pointer"]) or {}:
            marked = source.book.name(str(key), f"{file.name}: key of {each['pointer']}")
            columns.insert(
                len(columns) - len(asked.get("columns") or {}),
                (each["name"].format(marked), f"{each['pointer']}/{key}"),
            )
    return columns


def variant_rows(source: CardSource) -> list[tuple[str, str]]:
    """What was measured when a quantized variant was written; nothing for any other folder."""
    file = source.folder / REPORT_FILE
    if not file.is_file():
        return []
    named = {
        "weight_bytes": ("weight files of this variant", "size"),
        "source_bytes": ("weight files of the original", "size"),
        "errors/layers": ("quantized layers", "count"),
        "errors/mean": ("mean relative error of a layer", "percent"),
        "errors/largest": ("largest relative error of a layer", "percent"),
    }
    content = read_json(file)
    return [
        (name, source.from_json(file, pointer, style))
        for pointer, (name, style) in named.items()
        if pointed(content, pointer)
    ]
