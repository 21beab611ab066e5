"""Answers that people have judged, to measure a judge against: JSON Lines with one answer in each.

    {"id": "v1_3", "question": "Who runs?", "answer": "a dog", "prediction": "a puppy", "label": "yes", "score": 4}

`label` is yes or no (or true or false), `score` a number that may be missing, `metadata` an object that is not read.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["HumanLabel", "HumanLabelError", "read_human_labels"]

_TEXTS = ("id", "question", "answer", "prediction")
_KNOWN = (*_TEXTS, "label", "score", "metadata")


class HumanLabelError(ValueError):
    """A file of human labels breaks the format; the message names file, line and field."""


@dataclass(frozen=True)
class HumanLabel:
    """What a person said of one answer.

    Attributes:
        id: name of the answer, unique in its file.
        question: the question.
        answer: the right answer.
        prediction: the answer that was judged.
        label: whether it is right.
        score: how right it is, if the person gave a number.
    """

    id: str
    question: str
    answer: str
    prediction: str
    label: bool
    score: float | None = None


def read_human_labels(path: str | os.PathLike[str]) -> list[HumanLabel]:
    """Read a file of human labels.

    Raises:
        FileNotFoundError: there is no such file.
        HumanLabelError: a line is no label, an id occurs twice, or there are no lines.
    """
    path = Path(path)
    rows: list[HumanLabel] = []
    lines: dict[str, int] = {}
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if not line.strip():
            continue
        row = _label(line, f"{path}, line {number}")
        if row.id in lines:
            raise HumanLabelError(f"{path}, line {number}: the id {row.id!r} was already used on line {lines[row.id]}.")
        lines[row.id] = number
        rows.append(row)
    if not rows:
        raise HumanLabelError(f"{path}: the file holds no labels.")
    return rows


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file of human labels; check the path.") from None
    except IsADirectoryError:
        raise IsADirectoryError(f"{path}: a folder; give the file of human labels (JSON Lines) in it.") from None
    except UnicodeDecodeError as error:
        raise HumanLabelError(f"{path}: not UTF-8 text ({error}).") from error


def _label(line: str, where: str) -> HumanLabel:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise HumanLabelError(f"{where}: not valid JSON ({error}).") from error
    if not isinstance(row, Mapping):
        raise HumanLabelError(f"{where}: expected an object with the keys {', '.join(_KNOWN)}.")
    for name in row:
        if name not in _KNOWN:
            from ...models.video_llm_option_names import did_you_mean  # loads transformers

            hint = did_you_mean(name, _KNOWN)
            raise HumanLabelError(f"{where}: unknown key {name!r}: {hint} Other facts go under 'metadata'.")
    texts = {name: _text(row, name, where) for name in _TEXTS}
    if not texts["id"]:
        raise HumanLabelError(f"{where}: 'id' is empty; give each answer a name.")
    return HumanLabel(**texts, label=_yes_or_no(row.get("label"), where), score=_score(row.get("score"), where))


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise HumanLabelError(f"{where}: {name!r} must be a text, not {value!r}.")
    return value


def _yes_or_no(value: Any, where: str) -> bool:
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else None
    if word not in ("yes", "no"):
        raise HumanLabelError(f"{where}: 'label' must be yes or no, not {value!r}.")
    return word == "yes"


def _score(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise HumanLabelError(f"{where}: 'score' must be a number, not {value!r}.")
    return float(value)
