"""Hides the messages of libraries while a command runs without --debug."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide warnings, log messages and progress bars of libraries. Each of our own warnings becomes one line on stderr.

    Everything is restored at the end, because tests and notebooks call `main` in their own process.
    """
    import logging

    from ..models.errors import MediaWarning

    logging_before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", MediaWarning)
        warnings.showwarning = _print_warning
        try:
            with _hidden_progress_bars():
                yield
        finally:
            logging.disable(logging_before)


def _print_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


@contextmanager
def _hidden_progress_bars() -> Iterator[None]:
    """Hide those of transformers and huggingface_hub. The switch of transformers changes both, so both are restored."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as logging_of_transformers

    was_shown, hub_was_hidden = logging_of_transformers.is_progress_bar_enabled(), are_progress_bars_disabled()
    logging_of_transformers.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            logging_of_transformers.enable_progress_bar()
        if hub_was_hidden:
            disable_progress_bars()
        else:
            enable_progress_bars()


__all__ = ["quiet_libraries"]
