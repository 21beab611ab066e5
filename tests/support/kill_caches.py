"""Kill processes that use one cache folder (SIGKILL), and look at what is left.

    python kill_caches.py FOLDER steps               kill the writing of an entry at every one of its steps
    python kill_caches.py FOLDER storm KILLS SEED    kill several processes at random moments while others go on

A program of its own, without torch, so that hundreds of forks take seconds. Prints what was seen as JSON; an assertion
that fails names the step.
"""

import hashlib
import importlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from kill_steps import load_atomic
from killing import killed_at

OURS = ("folder.py", "atomic_claim.py")
BOUND = 1_200_000
LARGEST = 150_000


def key_of(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def content_of(number: int, size: int | None = None) -> bytes:
    """What the entry of this number holds, whoever writes it."""
    size = 1000 + number * 7919 % LARGEST if size is None else size
    return hashlib.sha256(str(number).encode()).digest() * (size // 32)


def check(module: Any, folder: Path, numbers: range, size: int | None = None) -> tuple[int, list[str]]:
    """Assert that a folder is whole; how many entries it has, and the unfinished files that are left."""
    left = [path.name for path in folder.rglob(f"{module.TEMPORARY}*")]
    used = sum(module._blocks(path.stat().st_size) for path in folder.rglob("*") if path.is_file())
    assert used <= BOUND, used
    cache = module.CacheFolder(folder, BOUND)
    assert not list(folder.rglob(f"{module.TEMPORARY}*"))
    counted = int((folder / module.LOCK).read_text())
    assert cache.size() <= counted <= BOUND
    found = {number: cache.get(key_of(number)) for number in numbers}
    assert all(value is None or bytes(value) == content_of(number, size) for number, value in found.items())
    assert len(cache) == sum(value is not None for value in found.values())
    return len(cache), left


def kill_at_steps(module: Any, root: Path) -> dict[str, Any]:
    """One process puts an entry for which others must go, and is killed at each step of it."""
    size, steps, seen, killed = 150_000, 0, set(), True
    while killed:
        folder = root / str(steps)
        cache = module.CacheFolder(folder, BOUND)
        for number in range(7):
            assert cache.put(key_of(number), content_of(number, size))
        killed = killed_at(steps, lambda cache=cache: cache.put(key_of(7), content_of(7, size)), OURS)
        number, left = check(module, folder, range(8), size)
        seen.add((number, len(left), cache.get(key_of(7)) is not None))
        # The next process goes on as if nothing had happened.
        assert module.CacheFolder(folder, BOUND).put(key_of(7), content_of(7, size))
        assert cache.get(key_of(7)) is not None
        steps += 1
    return {"steps": steps, "seen": sorted(seen)}


def use(module: Any, folder: Path, seed: int) -> None:
    """Read and write entries until somebody kills this process."""
    rng, cache = random.Random(seed), module.CacheFolder(folder, BOUND)
    while True:
        number = rng.randrange(40)
        found = cache.get(key_of(number))
        if found is None:
            cache.put(key_of(number), content_of(number))
        elif bytes(found) != content_of(number):
            os._exit(3)


def storm(module: Any, folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Four processes use a folder that cannot hold all entries; one after the other is killed, and begins anew."""
    rng, children, largest, unfinished = random.Random(seed), [], 0, 0

    def begin(number: int) -> int:
        child = os.fork()
        if child == 0:
            try:
                use(module, folder, number)
            finally:
                os._exit(4)
        return child

    module.CacheFolder(folder, BOUND)
    children = [begin(number) for number in range(4)]
    for number in range(kills):
        time.sleep(rng.uniform(0, 0.02))
        child = children.pop(0)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), f"kill {number}: the process had ended with {os.WEXITSTATUS(status)}"
        children.append(begin(4 + number))
        # While others write: each file is counted before it exists, so at no moment there is too much.
        sizes = []
        for path in folder.rglob("*"):
            try:
                sizes.append(path.stat().st_size if path.is_file() else 0)
            except FileNotFoundError:
                continue
        largest = max(largest, sum(sizes))
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    # A walk through the folder is no single moment: what is written meanwhile may be counted with what was removed.
    assert largest <= BOUND + 4 * LARGEST
    entries, left = check(module, folder, range(40))
    unfinished += len(left)
    return {"entries": entries, "left": unfinished, "largest": largest}


if __name__ == "__main__":
    load_atomic()
    folder_module = importlib.import_module("hf_videollm.data.media_cache.folder")
    place, what = Path(sys.argv[1]), sys.argv[2]
    if what == "steps":
        print(json.dumps(kill_at_steps(folder_module, place)))
    else:
        print(json.dumps(storm(folder_module, place, int(sys.argv[3]), int(sys.argv[4]))))
