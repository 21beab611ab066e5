"""torchcodec finds FFmpeg by soname; PyAV brings the libraries under other names, so a child process borrows them."""

from __future__ import annotations

import os
from pathlib import Path

import av
import pytest


def environment(folder: Path) -> dict[str, str]:
    """Environment of a child in which torchcodec works; links go into `folder`. Skips the test where it cannot be."""
    pytest.importorskip("torchcodec", reason="the torchcodec extra is not installed")
    libraries = Path(av.__file__).parent.parent / "av.libs"
    if not libraries.is_dir():
        pytest.skip("this PyAV does not bundle its FFmpeg as av.libs (not a Linux wheel)")
    for library in libraries.glob("lib*-*.so.*"):
        stem, _, rest = library.name.partition("-")
        if stem.startswith(("libav", "libsw")):
            (folder / f"{stem}.so.{rest.split('.so.')[1].split('.')[0]}").symlink_to(library)
    return {**os.environ, "LD_LIBRARY_PATH": f"{folder}:{libraries}"}
