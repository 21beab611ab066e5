"""Files are short enough to be read in one sitting (CONTRIBUTING.md, rule 8), and pytest can tell them apart."""

from collections import Counter
from pathlib import Path

import pytest

import hf_videollm

PACKAGE = Path(hf_videollm.__file__).parent
MOST_LINES = 500


def long_files(folder: Path) -> dict[str, int]:
    """Source files of more than 500 lines, and how many they have."""
    lengths = {str(file.relative_to(folder)): len(file.read_text().splitlines()) for file in folder.rglob("*.py")}
    return {name: length for name, length in lengths.items() if length > MOST_LINES}


def test_no_source_file_has_more_than_500_lines() -> None:
    assert long_files(PACKAGE) == {}


@pytest.mark.parametrize(("num_lines", "is_long"), [(500, False), (501, True)])
def test_long_files_are_found(tmp_path: Path, num_lines: int, is_long: bool) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file.py").write_text("pass\n" * num_lines)
    assert bool(long_files(tmp_path)) is is_long


def test_no_two_test_files_have_one_name() -> None:
    """pytest imports a test file by its name alone, whatever its folder, and stops where a name comes twice."""
    counts = Counter(file.name for file in Path(__file__).parent.rglob("test_*.py"))
    assert [name for name, count in counts.items() if count > 1] == []
