"""The README is true: its Python example runs as printed, and what it names exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


# What a library says on stderr when it warns or announces something; progress bars are neither.
NOTICE = re.compile(r"[Ww]arning|[Dd]eprecat|^\[\w+\] ", re.MULTILINE)


def run_python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs Python in a process of its own and an empty folder, which must end well and without a warning."""
    result = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert not NOTICE.search(result.stderr), result.stderr
    return result


def test_a_warning_of_an_example_would_be_seen(tmp_path: Path) -> None:
    """A control of `run_python`."""
    for code in (
        "import warnings; warnings.warn('old', FutureWarning)",
        "from transformers.utils import logging; logging.get_logger('transformers').warning('old')",
    ):
        with pytest.raises(AssertionError):
            run_python("-c", code, cwd=tmp_path)


def test_demo_prints_right_answers_and_nothing_else(tmp_path: Path) -> None:
    result = run_python(str(REPOSITORY / "examples" / "demo.py"), cwd=tmp_path)
    answers = re.findall(r"answer:   (\w+)\nexpected: (\w+)", result.stdout)
    assert len(answers) == 3
    assert all(given == right for given, right in answers)
    assert result.stderr == ""


def test_python_example_runs_as_printed(tmp_path: Path) -> None:
    """The answer is the direction that the generator drew."""
    from hf_videollm.synthetic.clips import make_scene

    example = re.search(r"In Python:\n\n```python\n(.*?)```", README, re.DOTALL)
    assert example
    lines = [line for line in example[1].splitlines() if line.strip()]
    assert len(lines) <= 10
    result = run_python("-c", example[1], cwd=tmp_path)
    assert result.stdout.strip() == make_scene(2_000_000, kind="motion").direction


def test_sound_example_runs_as_printed(tmp_path: Path) -> None:
    """Behind the first example, whose clip it hears."""
    from hf_videollm.synthetic.clips import make_scene

    examples = re.findall(r"(?:In Python|sounds of their own):\n\n```python\n(.*?)```", README, re.DOTALL)
    assert len(examples) == 2
    result = run_python("-c", "".join(examples), cwd=tmp_path)
    assert result.stdout.split()[-1] == str(make_scene(2_000_000, kind="motion").beeps)


def test_long_video_example_runs_as_printed(tmp_path: Path) -> None:
    """With the imports of the first example; the answers are those that the generator knows to be right."""
    example = next(code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "make_long_scene" in code)
    code = "import hf_videollm\nfrom transformers import pipeline\n" + example
    result = run_python("-c", code, cwd=tmp_path)
    answers = re.findall(r"\? (\w+) \(right: (\w+)\)", result.stdout)
    assert len(answers) == 3
    assert all(given == right for given, right in answers)


@pytest.mark.parametrize(
    "target", sorted(set(re.findall(r"^([a-z-]+):.*##", (REPOSITORY / "Makefile").read_text(), re.M)))
)
def test_make_targets_are_real(target: str) -> None:
    subprocess.run(["make", "--dry-run", target], cwd=REPOSITORY, check=True, capture_output=True)


def test_files_named_in_the_readme_exist() -> None:
    named = set(re.findall(r"`((?:tests|examples|benchmarks|src)/[\w./-]+)`", README))
    named |= set(re.findall(r"\]\((?!http)([\w./-]+)\)", README))
    missing = [name for name in named if not (REPOSITORY / name).exists()]
    assert not missing


def test_commands_named_in_the_readme_exist() -> None:
    from typer.main import get_command

    from hf_videollm.cli.commands import app

    known = set(get_command(app).commands)  # type: ignore[attr-defined]
    used = set(re.findall(r"^hf-videollm ([a-z-]+)", README, re.MULTILINE))
    assert used <= known
    assert {"ask", "caption", "info", "convert", "tune-alpha"} <= known


def test_the_record_in_the_readme_is_valid(tmp_path: Path) -> None:
    from hf_videollm.data.records import read_jsonl

    line = re.search(r"```json\n(.*?)\n```", README, re.DOTALL)
    assert line
    (tmp_path / "records.jsonl").write_text(line[1] + "\n")
    (record,) = read_jsonl(tmp_path / "records.jsonl")
    assert record.answer == "a dog"
