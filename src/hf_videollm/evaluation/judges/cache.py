"""Replies of judges on disk: a run that is repeated, or goes on after a kill, asks for nothing twice.

The file is JSON Lines and only ever grows. Each reply is one line that is written at once, behind a lock where the
system has one, so that several threads and processes may share the file. A process that is killed while it writes
leaves at most one broken line, which readers drop and count.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...disk_full import name_full_disk
from .judge_text import ChatMessage

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["ReplyCache", "reply_key"]

# How every line begins: what begins otherwise is somebody else's file.
HEAD = b'{"key": "'


def reply_key(kind: str, model: str, policy: str, messages: Sequence[ChatMessage], sampling: Mapping[str, Any]) -> str:
    """SHA-256 of everything that a reply depends on.

    Args:
        kind: kind of the judge.
        model: model of the judge.
        policy: name of the policy.
        messages: what the judge is sent.
        sampling: temperature, top_p and max_tokens.
    """
    parts = {"kind": kind, "model": model, "policy": policy, "messages": list(messages), "sampling": dict(sampling)}
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class ReplyCache:
    """Replies by key, in memory and in a file.

    A key may have several replies: the first, the second and so on of the attempts at one item.

    Attributes:
        path: the file.
        dropped: numbers of the lines that were no whole reply when the file was read.

    Raises:
        IsADirectoryError: the path is a folder.
        PermissionError: the file cannot be read or written.
        ValueError: the file holds something else than replies of judges.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.dropped: list[int] = []
        self._replies: dict[str, list[str]] = {}
        self._lock = threading.Lock()
        if self.path.is_dir():
            raise IsADirectoryError(f"{self.path}: a folder; give the file to keep the judge's replies in.")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Opened for writing at once: that it cannot be written is found out before replies are paid for.
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
        try:
            self._read()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ReplyCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what is in memory can still be read."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __len__(self) -> int:
        """Number of replies."""
        return sum(map(len, self._replies.values()))

    def replies(self, key: str) -> list[str]:
        """The replies of a key, in the order of the attempts."""
        with self._lock:
            return list(self._replies.get(key, ()))

    def add(self, key: str, reply: str, **facts: Any) -> None:
        """Keep one more reply of a key.

        Args:
            key: what `reply_key` gave.
            reply: what the judge wrote.
            facts: what else stands in the line, for people who look into the file.
        """
        row = json.dumps({"key": key, "reply": reply, **facts}, ensure_ascii=True)
        with self._lock:
            with self._locked_file():
                self._append((self._line_break_if_cut() + row + "\n").encode("ascii"))
            self._replies.setdefault(key, []).append(reply)

    def _append(self, line: bytes) -> None:
        with name_full_disk(self.path):
            while line:  # a nearly full disk takes a part, and refuses the rest
                line = line[os.write(self._file, line) :]

    def _line_break_if_cut(self) -> str:
        """A line break where a killed process has left half a line; the lock is held, so nobody is still writing."""
        size = os.fstat(self._file).st_size
        if size == 0:
            return ""
        os.lseek(self._file, size - 1, os.SEEK_SET)
        return "" if os.read(self._file, 1) == b"\n" else "\n"

    @contextlib.contextmanager
    def _locked_file(self) -> Iterator[None]:
        if fcntl is None:
            yield
            return
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _read(self) -> None:
        # Behind the lock, so that a line which another process is writing is not taken for a broken one.
        with self._locked_file():
            lines = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            row = _parsed(line)
            if row is not None:
                self._replies.setdefault(row["key"], []).append(row["reply"])
            elif not self._replies and not HEAD.startswith(line[: len(HEAD)]):
                raise ValueError(f"{self.path}, line {number}: no reply of a judge; give the cache another file.")
            else:
                self.dropped.append(number)


def _parsed(line: bytes) -> dict[str, str] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(row, dict) and isinstance(row.get("key"), str) and isinstance(row.get("reply"), str)
    return row if whole else None
