"""Whether a training can write into a folder, found out before a model is loaded."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from .recipe_errors import RecipeError

__all__ = ["check_folder"]


def check_folder(field: str, folder: Any) -> None:
    """Refuse a folder that cannot be made or written into. It is not made.

    Args:
        field: of the recipe, for the message.
        folder: its value.

    Raises:
        RecipeError: it is no folder, or nothing can be written there.
    """
    if not isinstance(folder, str | os.PathLike) or not str(folder).strip():
        raise RecipeError(f"{field} must be a folder, not {folder!r}: name one, or leave it out.")
    path = Path(folder).expanduser()
    there = path
    while not os.path.lexists(there) and there.parent != there:
        there = there.parent
    if not there.is_dir():
        kind = "a file" if there.exists() else "a broken link"
        raise RecipeError(f"{field}: {path} cannot be a folder, because {there} is {kind}: name another one.")
    try:
        # Only an attempt tells what rights, read-only disks and special file systems allow.
        with tempfile.TemporaryDirectory(dir=there, prefix=".hf_videollm_"):
            pass
    except OSError as error:
        raise RecipeError(f"{field}: nothing can be written into {there} ({error.strerror}): name another.") from None
