"""`python ARGUMENTS` in a process of its own that has imported the large libraries already.

Each test process keeps one server (`ready_server.py`) that imported them once and forks itself for each job. A job is a
process with its own folder, environment, modules and end; it saves the seconds that importing torch and transformers
takes. What a library says or does while it is imported is not in it: for that, start an interpreter. A job about the
import of transformers, or with variables of its own for it, runs `with_transformers=False`: then torch is there, and
nothing of Hugging Face.
"""

import array
import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

SERVER = Path(__file__).with_name("ready_server.py")
# Libraries read variables of these names while they are imported: a job with others of them needs an interpreter.
READ_BY_TORCH = ("TORCH", "OMP", "MKL", "PYTHON", "CUDA", "XDG_", "HOME")
READ_BY_TRANSFORMERS = ("HF_", "HUGGINGFACE", "TRANSFORMERS")
# These are read anew in each job.
READ_AGAIN = ("HF_MODULES_CACHE", "PYTHONPATH")
# CPU seconds of all jobs that ended; the operating system adds them to the server, not to this process.
cpu_seconds = 0.0
# The process, the sockets of its two servers (with transformers, without), and its environment.
_servers: list[tuple[subprocess.Popen[bytes], tuple[socket.socket, ...], Mapping[str, str]]] = []


def read_at_import(environment: Mapping[str, str], with_transformers: bool) -> dict[str, str]:
    """The part of an environment that must be the same in a job and its server."""
    prefixes = READ_BY_TORCH + READ_BY_TRANSFORMERS * with_transformers
    names = [name for name in environment if name.startswith(prefixes) and name not in READ_AGAIN]
    return {name: environment[name] for name in names}


def _server(environment: Mapping[str, str], with_transformers: bool) -> socket.socket:
    """The socket of this test process's server."""
    if not _servers:
        ours, theirs = zip(*(socket.socketpair() for _ in range(2)), strict=True)
        numbers = [end.fileno() for end in theirs]
        command = [sys.executable, str(SERVER), *map(str, numbers)]
        process = subprocess.Popen(command, pass_fds=numbers, stdin=subprocess.DEVNULL)
        for end in theirs:
            end.close()
        _servers.append((process, ours, dict(os.environ)))
        atexit.register(stop)
    _, sockets, environment_of_server = _servers[0]
    served, asked = (read_at_import(one, with_transformers) for one in (environment_of_server, environment))
    different = sorted(name for name in served.keys() | asked.keys() if served.get(name) != asked.get(name))
    if different:
        raise ValueError(f"{', '.join(different)}: read while libraries are imported; start an interpreter for it")
    return sockets[not with_transformers]


def stop() -> None:
    """End the server, and wait for it."""
    while _servers:
        process, sockets, _ = _servers.pop()
        for ours in sockets:
            ours.close()
        # Of its seconds, those that the jobs took are in `cpu_seconds`: the server has not waited for them itself.
        process.wait()


class Job:
    """A job that runs: its process, and its end."""

    def __init__(self, status: int) -> None:
        self._status = status
        self.returncode: int | None = None
        self.pid = self._read(1, None)[0]

    def _read(self, count: int, timeout: float | None) -> "array.array[int]":
        if not select.select([self._status], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(f"job {self.pid}", timeout or 0)
        values = array.array("q", os.read(self._status, 8 * count))
        if len(values) != count:
            raise RuntimeError("the server of ready interpreters has ended: see what it says on stderr")
        return values

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, minus the signal's number after a signal."""
        global cpu_seconds
        if self.returncode is None:
            self.returncode, microseconds = self._read(2, timeout)
            os.close(self._status)
            cpu_seconds += microseconds / 1e6
        return self.returncode

    def poll(self) -> int | None:
        """The exit status, or nothing while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the job has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        self.send_signal(signal.SIGKILL)


def start(
    *arguments: str | Path,
    cwd: str | Path = ".",
    env: Mapping[str, str] | None = None,
    stdin: IO[bytes] | None = None,
    stdout: IO[bytes] | None = None,
    stderr: IO[bytes] | None = None,
    with_transformers: bool = True,
) -> Job:
    """Start `python ARGUMENTS`: `-c CODE ...`, `-m MODULE ...`, `FILE ...` or `-P FILE ...`.

    A stream without a file goes nowhere.
    """
    environment = dict(os.environ if env is None else env)
    server = _server(environment, with_transformers)
    job = {"arguments": list(map(str, arguments)), "folder": str(Path(cwd).resolve()), "environment": environment}
    reading, writing = os.pipe()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file, open(os.devnull, "r+b") as nowhere:
        json.dump(job, file)
        file.seek(0)
        standard = [(stream or nowhere).fileno() for stream in (stdin, stdout, stderr)]
        socket.send_fds(server, [b"j"], [file.fileno(), writing, *standard])
    os.close(writing)
    return Job(reading)


def run(
    *arguments: str | Path,
    cwd: str | Path = ".",
    env: Mapping[str, str] | None = None,
    input: str = "",
    timeout: float = 300,
    with_transformers: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS` to its end: exit status and output, as from `subprocess.run`."""
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        stdin.write(input.encode())
        stdin.seek(0)
        streams = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        job = start(*arguments, cwd=cwd, env=env, with_transformers=with_transformers, **streams)
        try:
            job.wait(timeout)
        finally:
            job.kill()
        output = []
        for file in (stdout, stderr):
            file.seek(0)
            output.append(file.read().decode())
    return subprocess.CompletedProcess([str(argument) for argument in arguments], job.wait(), *output)
