"""What the answers of a run depend on; a run is only continued with the same settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..atomic import atomic_file

__all__ = ["SettingsChangedError", "differences", "fingerprint", "keep_settings", "read_settings"]

FILE = "settings.json"


class SettingsChangedError(ValueError):
    """A run would be continued with other settings; the message names them."""


def fingerprint(text: str | None) -> str | None:
    """A short name of a long text, by which two texts are told apart."""
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()[:16]


def read_settings(folder: Path) -> dict[str, Any] | None:
    """The settings of the run in a folder; None where there is no run.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}): choose another output, or remove the folder.") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} should hold an object: choose another output, or remove the folder.")
    return settings


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One text for each setting that differs, e.g. `dtype (was "float32", is "bfloat16")`."""
    found = []
    for name in dict.fromkeys([*before, *now]):
        was, new = before.get(name), now.get(name)
        if isinstance(was, Mapping) and isinstance(new, Mapping):
            found += differences(was, new, f"{prefix}{name}.")
        elif was != new:
            found.append(f"{prefix}{name} (was {_short(was)}, is {_short(new)})")
    return found


def keep_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings of a run that begins, or compare them with those of the run that is continued.

    Raises:
        SettingsChangedError: the folder holds a run with other settings.
    """
    # What is compared later has gone through JSON.
    plain = json.loads(json.dumps(settings))
    before = read_settings(folder)
    if before is None:
        with atomic_file(folder / FILE) as path:
            path.write_text(json.dumps(plain, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        return
    if changed := differences(before, plain):
        raise SettingsChangedError(
            f"{folder} holds answers that were made with other settings: {'; '.join(changed)}. Choose another output, "
            "or remove the folder to begin again."
        )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
