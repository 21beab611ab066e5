"""Points the real client of this process, or of another one, at the server."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import datasets
from huggingface_hub import close_session, constants

from .server import HubServer


def environment_of(hub: HubServer, cache: Path) -> dict[str, str]:
    """Environment of a new process that talks to the server: its address, a token, and a cache of its own."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))},
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": hub.token,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1,localhost",
    }


@contextmanager
def against(hub: HubServer, cache: Path, token: str | None = None) -> Iterator[list[float]]:
    """Let the client of this process talk to the server for the length of the block, without waiting between retries.

    The client reads its environment when it is imported, which was before the test, so its constants are changed.

    Args:
        hub: the server.
        cache: folder for downloads.
        token: token of the user; that of the server's user by default.

    Returns:
        The seconds that the client wanted to wait between retries; the block gets the list at its beginning.
    """
    waits: list[float] = []
    with ExitStack() as stack:
        for name, value in {
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_TELEMETRY": True,
            "HF_HUB_CACHE": str(cache),
            "HF_TOKEN_PATH": str(cache / "token"),
        }.items():
            stack.enter_context(patch.object(constants, name, value))
        # `datasets` has copied some of them.
        for name, value in {
            "HF_ENDPOINT": hub.url,
            "HF_HUB_OFFLINE": False,
            "HUB_DATASETS_URL": hub.url + "/datasets/{repo_id}/resolve/{revision}/{path}",
        }.items():
            stack.enter_context(patch.object(datasets.config, name, value))
        own = {"HF_TOKEN": hub.token if token is None else token, "NO_PROXY": "127.0.0.1,localhost"}
        stack.enter_context(patch.dict(os.environ, own))
        stack.enter_context(patch.object(time, "sleep", waits.append))
        # The client keeps its connections, and the settings of proxies, from one request to the next.
        close_session()
        stack.callback(close_session)
        yield waits


__all__ = ["against", "environment_of"]
