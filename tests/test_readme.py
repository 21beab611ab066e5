"""The README is true: its Python example runs as printed, and what it names exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import ready_python
from pages import blocks

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


# What a library says on stderr when it warns or announces something; progress bars are neither.
NOTICE = re.compile(r"[Ww]arning|[Dd]eprecat|^\[\w+\] ", re.MULTILINE)


def run_python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs Python in a process of its own and an empty folder, which must end well and without a warning."""
    result = ready_python.run(*arguments, cwd=cwd)
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
    # It sets a variable that transformers reads while it is imported, so nothing may be imported before.
    command = [sys.executable, str(REPOSITORY / "examples" / "demo.py")]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
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


def test_all_python_examples_run_in_order_in_one_fresh_process(tmp_path: Path) -> None:
    """Pasted one after the other. The answers are those that the generators know to be right; the folder is whole.

    With the commands between them they run in `tests/test_how_to.py`.
    """
    from hf_videollm.synthetic.clips import make_scene

    code = "".join(block.code for block in blocks(README) if block.language == "python")
    printed = run_python("-c", code, cwd=tmp_path).stdout.splitlines()
    scene = make_scene(2_000_000, kind="motion")
    assert printed[:2] == [scene.direction, str(scene.beeps)]
    answers = [re.search(r"\? (\w+) \(right: (\w+)\)$", line) for line in printed[2:]]
    assert len(answers) == 3
    assert all(found and found[1] == found[2] for found in answers)
    assert (tmp_path / "my-model" / "model.safetensors").exists()


def test_the_readme_is_short() -> None:
    assert len(README.split()) < 2000


def test_sections_are_in_the_order_that_people_need() -> None:
    wanted = ["Try it", "Which design should I take", "Ask", "Convert", "Train", "Share"]
    assert re.findall(r"^## (.*)$", README, re.MULTILINE)[: len(wanted)] == wanted


def test_the_table_of_designs_is_that_of_the_package() -> None:
    """One row for each design that reads videos; its numbers are those of `hf-videollm flops` and the configuration."""
    from hf_videollm.costs.flops import describe_flops
    from hf_videollm.designs import DESIGNS

    rows = {row[1]: row[0] for row in re.findall(r"^(\| \[([^\]]+)\]\(docs/designs/.*)$", README, re.MULTILINE)}
    assert set(rows) == {design.title for design in DESIGNS.values() if design.video_processor is not None}
    for name, title in (
        ("pllava", "PLLaVA"),
        ("videollama2", "VideoLLaMA2"),
        ("videollama2.1", "VideoLLaMA2"),
        ("videollama2_av", "VideoLLaMA2-AV"),
        ("iva", "IVA"),
        ("ftfv", "FTFV"),
    ):
        cost = describe_flops(design=name, tokens_per_frame=128 if name == "ftfv" else None)
        assert f"{cost.kv_cache_bytes / 1e6:,.0f} MB" in rows[title]
        if name == "iva":
            assert cost.media_tokens == 2 * cost.num_frames == 120
        elif name == "videollama2_av":
            assert cost.media_tokens == 1352 + 1496
        else:
            assert f"{cost.media_tokens:,}" in rows[title]
    config = DESIGNS["linvt"].load("config")()
    assert f"{config.num_video_tokens(config.num_frames)}, however long" in rows["LinVT"]


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
