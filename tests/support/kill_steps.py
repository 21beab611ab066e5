"""Kill a run of `atomic_folder` or `atomic_file` at every one of its steps, and look at what is left.

    python kill_steps.py FOLDER WHAT EXCHANGE LOCKS       (WHAT: replace, make, file; EXCHANGE, LOCKS: 1 or 0)

A program of its own: it loads the few modules it is about and not torch, so that a thousand forks take seconds. Prints
the states that were seen and the number of steps as JSON; an assertion that fails names the step.
"""

import importlib.util
import json
import os
import sys
import types
from pathlib import Path
from typing import Any

from killing import killed_at

OURS = ("atomic.py", "atomic_claim.py", "atomic_exchange.py")
OLD = {"config": "old", "deep/weights": "old" * 1000, "deep/left_over": "old"}
NEW = {"config": "new", "deep/weights": "new" * 1000, "more/added": "new"}
THIRD = OLD | {"config": "third"}


def write(folder: Path, content: dict[str, str]) -> None:
    for name, text in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def read(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def save(atomic: Any, destination: Path, content: dict[str, str]) -> None:
    with atomic.atomic_folder(destination, overwrite=True) as folder:
        write(folder, content)


def kill_while_replacing(atomic: Any, root: Path, gapless: bool) -> tuple[list[str], int]:
    seen, killed = [], True
    while killed:
        step = len(seen)
        place = root / str(step)
        write(place / "model", OLD)
        killed = killed_at(step, lambda place=place: save(atomic, place / "model", NEW), OURS)
        if gapless:
            # There is no moment without: nobody had to look after it.
            assert read(place / "model") in (OLD, NEW), step
        atomic.restore(place / "model")
        found = read(place / "model")
        assert found in (OLD, NEW), step
        assert names(place) == ["model"], step
        save(atomic, place / "model", THIRD)
        assert read(place / "model") == THIRD, step
        assert names(place) == ["model"], step
        seen.append("old" if found == OLD else "new")
    return seen, len(seen)


def kill_while_making(atomic: Any, root: Path, locks: bool) -> tuple[list[str], int]:
    seen, killed = [], True
    while killed:
        step = len(seen)
        destination = root / str(step) / "deep" / "model"
        killed = killed_at(step, lambda destination=destination: save(atomic, destination, NEW), OURS)
        atomic.restore(destination)
        left = names(destination.parent) if destination.parent.exists() else []
        # Without locks, nobody can know whose lock file it is before the number of the process stands in it.
        assert left in ([], ["model"]) or (not locks and left == [".model.partial"]), step
        if destination.exists():
            assert read(destination) == NEW, step
        seen.append("new" if destination.exists() else "none")
    return seen, len(seen)


def kill_while_writing_a_file(atomic: Any, root: Path) -> tuple[list[str], int]:
    def work() -> None:
        with atomic.atomic_file(root / "file") as temporary:
            temporary.write_text("new")

    (root / "file").write_text("old")
    seen, killed = [], True
    while killed:
        killed = killed_at(len(seen), work, OURS)
        seen.append((root / "file").read_text())
        atomic.restore(root / "file")
        assert names(root) == ["file"], len(seen)
    return seen, len(seen)


def load_atomic() -> Any:
    """`hf_videollm.atomic` without the rest of the package."""
    package = types.ModuleType("hf_videollm")
    package.__path__ = list(importlib.util.find_spec("hf_videollm").submodule_search_locations)
    sys.modules["hf_videollm"] = package
    return importlib.import_module("hf_videollm.atomic")


def main(root: Path, what: str, exchange: bool, locks: bool) -> None:
    atomic = load_atomic()
    # SIGKILL loses nothing that was written, synced or not.
    os.fsync = lambda descriptor: None  # type: ignore[assignment]
    if not exchange:
        atomic.exchange = lambda one, other: False
    if not locks:
        sys.modules["hf_videollm.atomic_claim"].try_lock = lambda descriptor: None
    if what == "replace":
        seen, steps = kill_while_replacing(atomic, root, exchange)
    elif what == "make":
        seen, steps = kill_while_making(atomic, root, locks)
    else:
        seen, steps = kill_while_writing_a_file(atomic, root)
    print(json.dumps({"seen": sorted(set(seen)), "first": seen[0], "last": seen[-1], "steps": steps}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "1", sys.argv[4] == "1")
