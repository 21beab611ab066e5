"""Sizes in bytes as people write them."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["parse_size"]

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def parse_size(value: Any) -> int:
    """A number of bytes from a number, or from a text such as "50 GB".

    Raises:
        ValueError: it is no size above zero.

    Example:
        >>> parse_size("1.5 GB")
        1500000000
    """
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Z]*)", value.strip().upper())
        if match and match[2] in _UNITS and (size := int(float(match[1]) * _UNITS[match[2]])) > 0:
            return size
    elif isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise ValueError(f"{value!r} is no size: give bytes, or a text such as 50 GB (KB, MB, GB, TB, KiB, MiB, GiB, TiB).")
