"""The cache of replies survives kills, is shared by processes, and takes no file that is somebody else's."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hf_videollm.evaluation.judges.cache import ReplyCache, reply_key

MESSAGES = [{"role": "user", "content": "Right?"}]
SAMPLING = {"temperature": 0.0, "top_p": None, "max_tokens": None}
WRITE = """
import sys
from hf_videollm.evaluation.judges.cache import ReplyCache
path, name, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
with ReplyCache(path) as cache:
    print("ready", flush=True)
    for i in range(number):
        cache.add(f"{name}-{i % 50}", f"{name} says {i} " + "x" * 3000)
"""


def start(path: Path, name: str, number: int) -> "subprocess.Popen[str]":
    arguments = [sys.executable, "-c", WRITE, str(path), name, str(number)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def test_replies_are_there_again_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "replies.jsonl"
    reply = "{'pred': 'yes'}\n\"\u2028 \ud800 é 你好"
    with ReplyCache(path) as cache:
        for text in ("first", reply, ""):
            cache.add("k", text, model="m")
        cache.add("other", "x")
    with ReplyCache(path) as cache:
        assert cache.replies("k") == ["first", reply, ""]
        assert (cache.replies("unknown"), len(cache), cache.dropped) == ([], 4, [])
    assert all(json.loads(line)["key"] for line in path.read_bytes().splitlines())


@pytest.mark.parametrize("cut", [1, 5, 20, 26])
def test_a_half_written_last_line_is_dropped_and_told(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "replies.jsonl"
    with ReplyCache(path) as cache:
        cache.add("a", "1")
        cache.add("b", "2")
    path.write_bytes(path.read_bytes()[:-cut])
    with ReplyCache(path) as cache:
        assert cache.replies("a") == ["1"]
        # Without the line break alone, the reply is whole.
        assert (cache.replies("b"), cache.dropped) == ((["2"], []) if cut == 1 else ([], [2]))
        cache.add("c", "3")
    with ReplyCache(path) as cache:
        assert cache.replies("c") == ["3"]
        assert cache.dropped == ([] if cut == 1 else [2])


def test_the_first_line_may_be_the_broken_one(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    path.write_bytes(b'{"ke')
    with ReplyCache(path) as cache:
        assert cache.dropped == [1]
        cache.add("a", "1")
    with ReplyCache(path) as cache:
        assert cache.replies("a") == ["1"]


def test_a_killed_process_loses_no_reply_that_it_had_kept(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    process = start(path, "w", 10**9)
    assert process.stdout is not None
    process.stdout.readline()
    while not path.exists() or path.stat().st_size < 100_000:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with ReplyCache(path) as cache:
        kept = len(cache)
        assert len(cache.dropped) <= 1
        numbers = [int(reply.split()[2]) for i in range(50) for reply in cache.replies(f"w-{i}")]
        assert sorted(numbers) == list(range(kept))
        cache.add("after", "it goes on")
    with ReplyCache(path) as cache:
        assert (len(cache), cache.replies("after")) == (kept + 1, ["it goes on"])


def test_several_processes_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    processes = [start(path, name, 100) for name in ("a", "b", "c")]
    for process in processes:
        process.communicate(timeout=120)
        assert process.returncode == 0
    with ReplyCache(path) as cache:
        assert (len(cache), cache.dropped) == (300, [])
        for name in ("a", "b", "c"):
            # Each process's replies are in the order in which it wrote them.
            assert [reply.split()[2] for reply in cache.replies(f"{name}-7")] == ["7", "57"]


@pytest.mark.parametrize("content", [b'{"id": 1}\n', b"[1]\n", b"hello", b"\x89PNG\r\n", b'{"key": 3}\n'])
def test_another_file_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"mine\.jsonl, line 1: no reply of a judge"):
        ReplyCache(path)
    assert path.read_bytes() == content


def test_a_path_that_cannot_be_is_told(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="give the file"):
        ReplyCache(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        ReplyCache(tmp_path / "file" / "replies.jsonl")


def test_a_key_depends_on_everything_that_a_reply_depends_on() -> None:
    keys = {
        reply_key("openai", "m", "robust", MESSAGES, SAMPLING),
        reply_key("local", "m", "robust", MESSAGES, SAMPLING),
        reply_key("openai", "n", "robust", MESSAGES, SAMPLING),
        reply_key("openai", "m", "pllava", MESSAGES, SAMPLING),
        reply_key("openai", "m", "robust", [{"role": "user", "content": "Right? "}], SAMPLING),
        reply_key("openai", "m", "robust", [{"role": "system", "content": "Right?"}], SAMPLING),
        reply_key("openai", "m", "robust", MESSAGES, {**SAMPLING, "temperature": 0.7}),
    }
    assert len(keys) == 7
    assert reply_key("openai", "m", "robust", MESSAGES, dict(reversed(SAMPLING.items()))) in keys
