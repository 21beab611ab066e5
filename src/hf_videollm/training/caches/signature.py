"""One name for a set of files and the options with which they were read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

__all__ = ["cache_signature"]


def cache_signature(paths: list[str], options: Mapping[str, Any]) -> str:
    """A hash of files and decoding options. It changes if a file (name, size, time of change) or an option changes."""
    facts = [(path, os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in paths]
    settings = json.dumps([options, facts], sort_keys=True, default=str)
    return hashlib.sha256(settings.encode()).hexdigest()[:16]
