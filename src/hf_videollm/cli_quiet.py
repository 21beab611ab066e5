"""Without --debug, the messages of libraries do not stand between the user and the answer."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide warnings, notices and progress bars of libraries; our own warnings become one line on stderr each.

    Everything is put back at the end, because tests and notebooks call `main` in their own process.
    """
    from .models.media_errors import MediaWarning

    logging_before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), _hidden_progress_bars():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", MediaWarning)
        warnings.showwarning = _print_warning
        try:
            yield
        finally:
            logging.disable(logging_before)


def _print_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


@contextmanager
def _hidden_progress_bars() -> Iterator[None]:
    # huggingface_hub and transformers read this variable when they are imported; what is imported already is told.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    loaded = sys.modules.get("transformers")
    was_shown = loaded is not None and loaded.utils.logging.is_progress_bar_enabled()
    if was_shown:
        loaded.utils.logging.disable_progress_bar()  # type: ignore[union-attr]
    try:
        yield
    finally:
        if was_shown:
            loaded.utils.logging.enable_progress_bar()  # type: ignore[union-attr]


__all__ = ["quiet_libraries"]
