"""Code in a new interpreter, with this package or without it: for tests of what travels with a checkpoint."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import ready_python

# To be put before code that must not find the package.
WITHOUT_PACKAGE = """
import sys
sys.path = [path for path in sys.path if not path.rstrip("/").endswith("src")]
try:
    import hf_videollm
except ImportError:
    pass
else:
    sys.exit("the package is still importable: this process would prove nothing")
LOCAL = False
"""


def run_fresh(code: str, *arguments: str, cache: Path) -> dict[str, Any]:
    """Run code in a new interpreter with its own cache of remote modules; it leaves its findings in `report`."""
    environment = {**os.environ, "HF_MODULES_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    result = ready_python.run("-c", code + "\nprint(json.dumps(report))", *arguments, env=environment, cwd=cache)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.strip().splitlines()[-1])


class Running(NamedTuple):
    """The streams of a process that goes on."""

    stdin: TextIO
    stdout: TextIO


@contextmanager
def running_fresh(code: str, *, cache: Path) -> Iterator[Running]:
    """A new interpreter that runs code as in `run_fresh`, and goes on for several questions: one line in, one out.

    Its messages are in the file `stderr` of the cache. It ends when nothing more can come in.
    """
    environment = {**os.environ, "HF_MODULES_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    (reads, asks), (answers, writes) = os.pipe(), os.pipe()
    with open(reads, "rb") as stdin, open(writes, "wb") as stdout, (cache / "stderr").open("wb") as messages:
        job = ready_python.start("-c", code, env=environment, cwd=cache, stdin=stdin, stdout=stdout, stderr=messages)
    with open(asks, "w", encoding="utf-8") as questions, open(answers, encoding="utf-8") as found:
        yield Running(questions, found)
    job.wait(60)
