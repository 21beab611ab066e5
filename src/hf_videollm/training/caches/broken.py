"""What is done about files that cannot be decoded."""

from __future__ import annotations

from collections.abc import Callable

from ...models.errors import MissingBackend, UnsafeURL

__all__ = ["FAULTS_OF_SETUP", "OnBroken"]

# Called with the path of a file that cannot be decoded, and with the reason.
OnBroken = Callable[[str, str], None]
# What is wrong with the machine or the settings, not with one file.
FAULTS_OF_SETUP = (MissingBackend, UnsafeURL)
