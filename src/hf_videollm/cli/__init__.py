"""The command line `hf-videollm`: one file for each command or group of commands."""

from .commands import app, main

__all__ = ["app", "main"]
