"""Pickled weights are read in processes that need not import torch once more."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import ready_python

from hf_videollm.convert import pickle_reader


def run(command: list[str], *, timeout: float, **others: Any) -> "subprocess.CompletedProcess[bytes]":
    """`subprocess.run`, as `pickle_reader` calls it."""
    assert command[:2] == [sys.executable, "-P"]
    assert others == {"stdin": subprocess.DEVNULL, "capture_output": True, "check": False}
    done = ready_python.run(*command[1:], timeout=timeout)
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.encode(), done.stderr.encode())


@pytest.fixture(autouse=True)
def _ready_children(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """`test_pickle_reader.py` is about the process itself, which is an interpreter there, as users have it."""
    if request.node.path.name != "test_pickle_reader.py":
        ready = SimpleNamespace(run=run, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired)
        monkeypatch.setattr(pickle_reader, "subprocess", ready)
