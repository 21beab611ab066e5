"""The folder of a cache: whole entries or none, never too large, shared by processes, whatever is killed."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from hf_videollm.data.media_cache.digests import ContentDigests
from hf_videollm.data.media_cache.folder import BLOCK, FIXED, LOCK, TEMPORARY, CacheFolder
from hf_videollm.data.media_cache.packing import pack, unpack
from hf_videollm.data.media_cache.setting import cache_options, open_cache
from hf_videollm.data.sizes import parse_size

SUPPORT = Path(__file__).parents[1] / "support"
BOUND = 2**20


def key(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def held(cache: CacheFolder, numbers: int) -> list[int]:
    """Which entries there are; looking at them does not make them newer."""
    return [number for number in range(numbers) if (cache.folder / key(number)[0] / key(number)).exists()]


def test_entries_are_found_by_their_keys_in_every_object(tmp_path: Path) -> None:
    cache = CacheFolder(tmp_path, BOUND)
    for number, content in enumerate((b"", b"one", b"x" * 300_000)):
        assert cache.get(key(number)) is None
        assert cache.put(key(number), content)
        assert cache.get(key(number)) == content
        assert CacheFolder(tmp_path, BOUND).get(key(number)) == content
    assert cache.put(key(1), b"another")
    assert cache.get(key(1)) == b"another"
    assert len(cache) == 3


@pytest.mark.parametrize(
    "array", [np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.zeros(0), np.zeros((0, 3), np.float32), np.ones(5)]
)
def test_arrays_are_packed_and_unpacked(array: np.ndarray, tmp_path: Path) -> None:
    cache = CacheFolder(tmp_path, BOUND)
    assert cache.put(key(0), *pack({"fps": 0.1}, array))
    content = cache.get(key(0))
    assert content is not None
    facts, found = unpack(content)
    assert facts == {"fps": 0.1}
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert np.array_equal(found, array)
    assert found.flags.writeable


def test_the_bound_holds_at_each_entry_and_the_least_recently_used_go(tmp_path: Path) -> None:
    cache = CacheFolder(tmp_path, BOUND)
    for number in range(60):
        assert cache.put(key(number), bytes(50_000))
        used = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
        assert used <= cache.size() <= BOUND
        # Entry 0 is read again and again; entry 1, the control, is not.
        assert cache.get(key(0)) is not None
    left = held(cache, 60)
    assert 10 <= len(left) < 20
    assert 0 in left
    assert 1 not in left
    assert left[1:] == list(range(60 - len(left) + 1, 60))


def test_a_smaller_bound_holds_at_once_and_what_is_too_large_is_not_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    large = CacheFolder(tmp_path, 10 * BOUND)
    for number in range(60):
        large.put(key(number), bytes(100_000))
    assert large.size() > 2 * BOUND
    small = CacheFolder(tmp_path, BOUND)
    assert small.size() <= BOUND
    before = held(small, 60)
    assert not small.put(key(99), bytes(BOUND))
    assert not small.put(key(99), bytes(BOUND))
    assert held(small, 60) == before
    assert caplog.text.count("does not fit") == 1


@pytest.mark.parametrize("damage", ["none", "one bit", "cut", "longer", "empty", "zeros"])
def test_damaged_entries_are_noticed_removed_and_made_again(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = CacheFolder(tmp_path, BOUND)
    content = os.urandom(10_000)
    cache.put(key(0), content)
    path = cache.folder / key(0)[0] / key(0)
    data = bytearray(path.read_bytes())
    if damage == "one bit":
        data[5_000] ^= 1
    changed = {"cut": data[:-1], "longer": data + b"x", "empty": b"", "zeros": bytes(len(data))}.get(damage, data)
    path.write_bytes(changed)
    if damage == "none":
        assert cache.get(key(0)) == content
        return
    assert cache.get(key(0)) is None
    assert "damaged" in caplog.text
    assert not path.exists()
    assert cache.put(key(0), content)
    assert cache.get(key(0)) == content


def test_a_lost_or_wrong_count_is_made_again(tmp_path: Path) -> None:
    cache = CacheFolder(tmp_path, BOUND)
    for count in ("", "nonsense", "9" * 32, None):
        if count is None:
            (tmp_path / LOCK).unlink()
        else:
            (tmp_path / LOCK).write_text(count)
        assert cache.put(key(1), bytes(1000))
        assert cache.size() <= int((tmp_path / LOCK).read_text()) <= FIXED + 2 * BLOCK
        assert cache.get(key(1)) is not None


def test_readers_see_whole_entries_while_others_write_and_remove(tmp_path: Path) -> None:
    contents = [bytes([number]) * 200_000 for number in range(12)]
    stop, wrong, found = threading.Event(), [], []

    def read() -> None:
        cache = CacheFolder(tmp_path, BOUND)
        while not stop.is_set():
            for number, content in enumerate(contents):
                entry = cache.get(key(number))
                found.append(entry is not None)
                if entry is not None and entry != content:
                    wrong.append(number)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    cache = CacheFolder(tmp_path, BOUND)
    for turn in range(60):
        assert cache.put(key(turn % 12), contents[turn % 12])
    stop.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert True in found
    assert False in found


@pytest.mark.skipif(os.name == "nt", reason="flock")
def test_files_of_dead_writers_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    import fcntl

    cache = CacheFolder(tmp_path, BOUND)
    cache.put(key(0), b"content")
    folder = cache.folder / key(0)[0]
    dead, living = folder / f"{TEMPORARY}dead", folder / f"{TEMPORARY}living"
    dead.write_bytes(bytes(10_000))
    with living.open("wb") as file:
        file.write(bytes(10_000))
        fcntl.flock(file, fcntl.LOCK_EX)
        CacheFolder(tmp_path, BOUND)
        assert not dead.exists()
        assert living.exists()


def run_kills(*arguments: object) -> dict[str, object]:
    command = [sys.executable, SUPPORT / "kill_caches.py", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=SUPPORT)
    assert result.returncode == 0, result.stderr[-2000:]
    found: dict[str, object] = json.loads(result.stdout)
    return found


@pytest.mark.skipif(os.name == "nt", reason="fork")
def test_kill_at_every_step_of_an_entry(tmp_path: Path) -> None:
    found = run_kills(tmp_path, "steps")
    seen = found["seen"]
    assert isinstance(seen, list)
    # There were moments before anything, with an unfinished file, and with the entry in its place.
    assert {tuple(state[1:]) for state in seen} == {(0, False), (1, False), (0, True)}


@pytest.mark.skipif(os.name == "nt", reason="fork")
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_kill_at_random_moments_while_others_go_on(seed: int, tmp_path: Path) -> None:
    assert run_kills(tmp_path, "storm", 150, seed)["entries"] != 0


# Digests


def test_digests_follow_the_content_and_not_the_name(tmp_path: Path) -> None:
    digests = ContentDigests(CacheFolder(tmp_path / "cache", BOUND))
    path = tmp_path / "a"
    path.write_bytes(b"one")
    first = digests.of(str(path))
    assert first == hashlib.sha256(b"one").hexdigest() == digests.of(b"one")
    for content in (b"two", b"one", b"six"):  # of the same size, at the same time
        path.write_bytes(content)
        os.utime(path, ns=(10**18, 10**18))
        assert digests.of(str(path)) == hashlib.sha256(content).hexdigest()
    for nothing in (str(tmp_path / "none"), object(), [], "http://host/a.mp4", [b"one"], None, 3):
        assert digests.of(nothing) is None


def test_a_digest_is_remembered_by_all_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    now = [path.stat().st_ctime + 10]
    monkeypatch.setattr("hf_videollm.data.media_cache.digests.time.time", lambda: now[0])
    ContentDigests(CacheFolder(tmp_path / "cache", BOUND)).of(str(path))
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("read again"))
        remembering = ContentDigests(CacheFolder(tmp_path / "cache", BOUND))
        assert [remembering.of(str(path)) for _ in range(2)] == [hashlib.sha256(b"one").hexdigest()] * 2
    path.write_bytes(b"two")
    now[0] = path.stat().st_ctime + 10
    assert remembering.of(str(path)) == hashlib.sha256(b"two").hexdigest()


# The setting


@pytest.mark.parametrize(
    ("text", "size"), [("50 GB", 50 * 10**9), ("1.5MiB", 3 * 2**19), ("200", 200), (7, 7), ("2 tb", 2 * 10**12)]
)
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (3, "must be a folder"),
        ("", "must be a folder"),
        ([], "must be a folder"),
        ({}, r"frame_cache\.folder must be a folder, not None"),
        ({"folder": "a", "max_sise": 3}, "frame_cache has no 'max_sise': did you mean max_size"),
        ({"folder": "a", "max_size": "much"}, r"frame_cache\.max_size: 'much' is no size"),
        ({"folder": "a", "max_size": -1}, r"frame_cache\.max_size: -1 is no size"),
        ({"folder": "a", "max_size": True}, "is no size"),
    ],
)
def test_wrong_settings_are_told_in_one_line(setting: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        cache_options(setting)
    assert "\n" not in str(error.value)


def test_settings_open_caches(tmp_path: Path) -> None:
    assert open_cache(None) is None
    cache = open_cache({"folder": str(tmp_path / "a"), "max_size": "3 MB"})
    assert cache is not None
    assert cache.entries.max_bytes == 3_000_000
    assert open_cache(cache) is cache
    with pytest.raises(ValueError, match="can hold nothing"):
        open_cache({"folder": str(tmp_path / "b"), "max_size": 10})
