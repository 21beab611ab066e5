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


# About the process itself, which is an interpreter there, as users have it.
IN_AN_INTERPRETER = (
    "test_tensors_arrive_unchanged",
    "test_a_hostile_pickle_is_refused_and_not_run",
    "test_a_child_that_hangs_is_ended",
    "test_a_child_that_dies_is_told",
)


@pytest.fixture(autouse=True)
def _ready_children(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.node.name.startswith(IN_AN_INTERPRETER):
        ready = SimpleNamespace(run=run, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired)
        monkeypatch.setattr(pickle_reader, "subprocess", ready)
