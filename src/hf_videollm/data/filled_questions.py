"""MUSIC-AVQA's questions with places to be filled, as training data and as a benchmark."""

from __future__ import annotations

import json
import re

from .parsed_files import DataError
from .rows import Row

__all__ = ["filled_question", "question_kinds"]

_PLACE = re.compile(r"<[^<>]+>")


def question_kinds(row: Row) -> list[str]:
    """The modality of a question, and its kind if it has one.

    Raises:
        DataError: `type` is no list of texts, or an empty one.
    """
    kinds = _texts(row, "type")
    if not kinds:
        raise DataError(f"{row.where}: type is an empty list.")
    return kinds


def filled_question(row: Row) -> str:
    """The question with its places (`<Object>`, `<LR>`, ...) filled from left to right.

    Raises:
        DataError: there are more or fewer places than values.
    """
    template, values = row.get("question_content"), _texts(row, "templ_values")
    if (places := len(_PLACE.findall(template))) != len(values):
        raise DataError(f"{row.where}: question_content has {places} places for {len(values)} templ_values.")
    remaining = iter(values)
    return _PLACE.sub(lambda _: next(remaining), template)


def _texts(row: Row, field: str) -> list[str]:
    """A list of texts, which these files hold as a text of JSON."""
    value = row.get(field)
    try:
        values = json.loads(value)
    except json.JSONDecodeError as error:
        raise DataError(f"{row.where}: {field} is {value!r}, which is no list in JSON: {error}.") from error
    if not isinstance(values, list) or not all(isinstance(text, str) for text in values):
        raise DataError(f"{row.where}: {field} is {value!r}, which is no list of texts.")
    return values
