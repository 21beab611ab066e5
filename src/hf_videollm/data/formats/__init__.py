"""Formats of training data, one file for each. A file ends with its `FORMAT`; they do not import each other."""

from collections.abc import Mapping

from ...models.video_llm_option_names import did_you_mean
from ..parsed_files import DataError
from ..reading import Format
from . import (
    audio_captions,
    captions,
    dialogs,
    labels,
    llava,
    music_avqa,
    questions,
    records,
    sharegptvideo,
    video_chatgpt,
    videochat2,
    vtimellm,
)

__all__ = ["FORMATS", "find_format"]

_FILES = (
    *(llava, videochat2, video_chatgpt, sharegptvideo, vtimellm, questions),
    *(captions, audio_captions, labels, dialogs, music_avqa, records),
)
# Letter -> format.
FORMATS: Mapping[str, Format] = {file.FORMAT.letter: file.FORMAT for file in _FILES}


def find_format(name: str, owner: str = "format") -> Format:
    """A format by its letter or its long name.

    Args:
        name: such as `V` or `videochat2`.
        owner: what names it, for errors.

    Raises:
        DataError: there is no such format.
    """
    by_name = {known.name: known for known in FORMATS.values()}
    if isinstance(name, str) and (found := FORMATS.get(name.upper() if len(name) == 1 else name) or by_name.get(name)):
        return found
    known = ", ".join(f"{each.letter} ({each.name})" for each in FORMATS.values())
    hint = did_you_mean(name, by_name) if len(str(name)) > 1 else ""
    raise DataError(f"{owner}: there is no format {name!r}: known are {known}. {hint}".strip())
