"""Get the test mixins of the installed transformers: they are in its source archive, but not in its wheel.

Only the top-level test files are unpacked, into a package `upstream_tests`. They import four modules that exist on
GitHub alone; small stand-ins of our own take their place. Everything lands in `.conformance/` and is reused.
"""

import re
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

CACHE = Path(__file__).parents[2] / ".conformance"
TEST_FILE = re.compile(r"transformers-[^/]+/tests/(test_\w+\.py)")
# Path under the unpacked folder -> text. The two mixins are left empty: generation and export of our models are
# tested by the shared invariants of this repository instead.
STAND_INS = {
    "upstream_tests/__init__.py": "",
    "upstream_tests/exporters/__init__.py": "",
    "upstream_tests/exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "upstream_tests/generation/__init__.py": "",
    "upstream_tests/generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "upstream_tests/utils/__init__.py": "",
    "upstream_tests/utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
    "utils/fetch_hub_objects_for_ci.py": "from conformance_media import url_to_local_path  # noqa: F401\n",
}


def fetch(cache: Path = CACHE) -> Path:
    """Folder to put on `sys.path`, holding `upstream_tests` for the installed transformers; downloads it once.

    Raises:
        RuntimeError: pip could not download the source archive.
    """
    release = version("transformers")
    target = cache / f"transformers-{release}"
    if not target.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            unpacked = Path(folder, "unpacked")
            _unpack_tests(_download(release, Path(folder)), unpacked / "upstream_tests")
            unpacked.rename(target)
    # Written every time, so that a change of the stand-ins needs no new download.
    for name, text in STAND_INS.items():
        file = target / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return target


def _download(release: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", f"transformers=={release}", "--no-deps"]
    command += ["--no-binary", "transformers", "--disable-pip-version-check", "--quiet", "--dest", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = list(folder.glob("transformers-*.tar.gz"))
    if result.returncode or not archives:
        raise RuntimeError(f"Cannot download the source archive of transformers {release}: {result.stderr.strip()}")
    return archives[0]


def _unpack_tests(archive: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            match = TEST_FILE.fullmatch(member.name)
            if match and member.isfile() and (content := tar.extractfile(member)) is not None:
                (folder / match[1]).write_bytes(content.read())


if __name__ == "__main__":
    print(fetch())
