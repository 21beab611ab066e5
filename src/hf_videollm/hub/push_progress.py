"""Progress of what happens before an upload: hashing and copying of large files, and the steps of quantization.

The bars are those of huggingface_hub, which shows the progress of uploads itself. They appear on a terminal only.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

CHUNK = 2**24


@contextmanager
def shown_progress(show: bool) -> Iterator[None]:
    """Show the client's own progress bars while the block runs, although the command line hides those of libraries."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if not show or not are_progress_bars_disabled():
        yield
        return
    enable_progress_bars()
    try:
        yield
    finally:
        disable_progress_bars()


@contextmanager
def byte_bar(title: str, total: int, show: bool) -> Iterator[Callable[[int], object]]:
    """A bar that counts bytes; the block gets a function that adds some.

    Args:
        title: what is done.
        total: all bytes.
        show: show it on a terminal although the command line hides the bars of libraries.
    """
    from huggingface_hub.utils import tqdm

    # `disable=None` hides the bar where stderr is no terminal.
    with shown_progress(show), tqdm(total=total, unit="B", unit_scale=True, desc=title, disable=None) as bar:
        yield bar.update


@contextmanager
def step_line(title: str, show: bool) -> Iterator[Callable[[str], None]]:
    """A line that says what is being done and for how long; the block gets a function that changes it."""
    from huggingface_hub.utils import tqdm

    with shown_progress(show), tqdm(desc=title, bar_format="{desc} [{elapsed}]", disable=None) as bar:
        yield lambda step: bar.set_description(f"{title}: {step}")


def hash_files(files: dict[str, Path], title: str, show: bool) -> dict[str, bytes]:
    """SHA-256 of each file, by its path in the repository."""
    digests = {}
    with byte_bar(title, _size(files), show) as add:
        for path, file in files.items():
            digest = sha256()
            for chunk in _chunks(file):
                digest.update(chunk)
                add(len(chunk))
            digests[path] = digest.digest()
    return digests


def copy_files(files: dict[str, Path], folder: Path, title: str, show: bool) -> None:
    """Copy each file to its path below a folder."""
    with byte_bar(title, _size(files), show) as add:
        for path, file in files.items():
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("wb") as target:
                for chunk in _chunks(file):
                    target.write(chunk)
                    add(len(chunk))


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as content:
        while chunk := content.read(CHUNK):
            yield chunk


def _size(files: dict[str, Path]) -> int:
    return sum(file.stat().st_size for file in files.values())


__all__ = ["byte_bar", "copy_files", "hash_files", "shown_progress", "step_line"]
