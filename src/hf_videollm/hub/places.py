"""Finds the folder of a checkpoint with the small files that say where it comes from, also of one on the Hub."""

import os
from pathlib import Path

from ..models.video_llm_checkpoint_files import find_file
from ..origin import ORIGIN_FILE

# Files that are not loaded with the weights, and hold for everything that is made from them.
SMALL_FILES = ("README.md", ORIGIN_FILE, "LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "NOTICE")


def place_of(source: str | os.PathLike[str]) -> Path:
    """The folder of a checkpoint.

    Args:
        source: a folder, or a Hub id. The small files of a Hub id are fetched into the cache, as far as it has them and
            the Hub answers.

    Raises:
        FileNotFoundError: it is neither a folder nor in the cache.

    Example:
        >>> from hf_videollm import default_checkpoint
        >>> str(place_of(default_checkpoint())) == default_checkpoint()
        True
    """
    if os.path.isdir(source):
        return Path(source)
    files = [find_file(source, name, {}) for name in ("config.json", *SMALL_FILES)]
    found = next((file for file in files if file is not None), None)
    if found is None:
        raise FileNotFoundError(f"{os.fspath(source)} is no folder, and the cache of the Hub does not have it.")
    return found.parent


def refuse_inside(checkpoint: str | os.PathLike[str], destination: str | os.PathLike[str], how: str = "") -> None:
    """Refuse to write a folder into a checkpoint, because a later push would publish it as a part of the checkpoint.

    Args:
        checkpoint: folder of the checkpoint.
        destination: folder that is going to be written.
        how: the option that names another destination.

    Raises:
        FileExistsError: it lies inside.
    """
    inside = Path(destination).resolve()
    if Path(checkpoint).resolve() in inside.parents:
        raise FileExistsError(
            f"{destination} lies inside the checkpoint {checkpoint}, and would be published with it: choose another "
            f"folder{f' with {how}' if how else ''}."
        )


__all__ = ["SMALL_FILES", "place_of", "refuse_inside"]
