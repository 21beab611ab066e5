"""The setting `frame_cache` of recipes, trainers and evaluations."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...models.video_llm_option_names import did_you_mean
from ..sizes import parse_size

if TYPE_CHECKING:
    from .cache import MediaCache

__all__ = ["cache_options", "open_cache"]

KEYS = ("folder", "max_size")


def cache_options(setting: Any) -> dict[str, Any]:
    """The arguments of `MediaCache` for a setting: a folder, or a mapping with `folder` and perhaps `max_size`.

    Raises:
        ValueError: it is neither of these, a key is unknown, or `max_size` is no size.

    Example:
        >>> cache_options({"folder": "frames", "max_size": "20 GB"})
        {'folder': 'frames', 'max_size': 20000000000}
    """
    if isinstance(setting, str | os.PathLike) and os.fspath(setting):
        return {"folder": os.fspath(setting)}
    if not isinstance(setting, Mapping):
        raise ValueError(f"frame_cache must be a folder, or have folder and max_size, not {setting!r}.")
    if unknown := sorted(str(key) for key in setting if key not in KEYS):
        raise ValueError(f"frame_cache has no {unknown[0]!r}: {did_you_mean(unknown[0], KEYS)}")
    folder = setting.get("folder")
    if not isinstance(folder, str | os.PathLike) or not os.fspath(folder):
        raise ValueError(f"frame_cache.folder must be a folder, not {folder!r}.")
    options: dict[str, Any] = {"folder": os.fspath(folder)}
    if setting.get("max_size") is not None:
        try:
            options["max_size"] = parse_size(setting["max_size"])
        except ValueError as error:
            raise ValueError(f"frame_cache.max_size: {error}") from None
    return options


def open_cache(setting: Any) -> MediaCache | None:
    """The cache that a setting asks for. A cache itself is a setting, too, and None asks for none.

    Raises:
        ValueError: the setting is none of these; see `cache_options`.
        OSError: the folder cannot be made or written to.
    """
    from .cache import MediaCache

    if setting is None or isinstance(setting, MediaCache):
        return setting
    return MediaCache(**cache_options(setting))
