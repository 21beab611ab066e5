"""What captions and labels are answers to. The data sets do not say it, and the papers do not print it: ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .parsed_files import DataError
from .reading import Option, Source, drawn
from .rows import Row

__all__ = ["DESCRIBE", "IDENTIFY", "INSTRUCTION_OPTIONS", "instruction"]

DESCRIBE: Mapping[str, Sequence[str]] = {
    "video": (
        "Describe the video briefly.",
        "What happens in this video?",
        "Write a short caption for the video.",
        "Summarize the video in one sentence.",
    ),
    "image": (
        "Describe the image briefly.",
        "What does this image show?",
        "Write a short caption for the image.",
        "Summarize the image in one sentence.",
    ),
    "audio": (
        "Please describe the audio.",
        "What can be heard in this audio?",
        "Write a short caption for the audio.",
        "Summarize the sound events of the audio in one sentence.",
    ),
}
IDENTIFY: Mapping[str, Sequence[str]] = {
    "video": ("Identify the action in the video.",),
    "image": ("Identify the subject of the image.",),
    "audio": ("Identify the sound event in the audio.",),
}
INSTRUCTION_OPTIONS = {
    "instructions": Option(None, "Texts of which one is drawn for each record, instead of ours.", (list,)),
    "seed": Option(0, "Seed of what is drawn."),
}


def instruction(source: Source, row: Row, native: Any, texts: Sequence[str]) -> str:
    """The text before a caption or a label: that of the row's field `instruction`, or one that is drawn for its id.

    Args:
        source: the file, with the options `instructions` and `seed`.
        row: the row.
        native: its id.
        texts: what is drawn from, if the option names nothing.

    Raises:
        DataError: the option holds something else than texts.
    """
    if (own := row.get("instruction", str, "").strip()) != "":
        return own
    given = texts if source.options["instructions"] is None else source.options["instructions"]
    if not given or not all(isinstance(text, str) and text.strip() for text in given):
        raise DataError(f"{source.path}: instructions must be a list of texts that are not blank, not {given!r}.")
    return str(drawn(given, source.options["seed"], native)).strip()
