"""The scripts that make the small checkpoints of the package: their command lines, and the names of their recipes."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_videollm.synthetic.check import held_out_clips
from hf_videollm.training.recipe_names import SYNTHETIC, recipe_files
from hf_videollm.training.run_record import RUN_FILE, read_run

SCRIPTS = Path(__file__).parents[2] / "tools" / "tiny_checkpoints"
# IVA's script has a command for each step instead.
WITH_ONE_COMMAND = ("ftfv", "linvt", "pllava", "videollama2", "videollama2_av")
pytestmark = pytest.mark.skipif(not SCRIPTS.is_dir(), reason="the scripts are in the repository, not in the package")


@pytest.fixture
def in_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts import `common`, as they do where they are started."""
    monkeypatch.syspath_prepend(SCRIPTS)
    for name in ("common", "history"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def run(path: Path, *arguments: str) -> Any:
    """Run a script as `python` does; returns its exit code."""
    before, sys.argv = sys.argv, [str(path), *arguments]
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as ending:
        return ending.code
    finally:
        sys.argv = before
        sys.modules.pop("common", None)
    return None


@pytest.mark.parametrize("name", [*WITH_ONE_COMMAND, "iva"])
def test_help_of_every_script(in_folder: None, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(SCRIPTS / f"{name}.py", "--help") == 0
    text = capsys.readouterr().out
    options = ("--work", "--num-videos", "--per-kind", "--threads", "--output", "--split", "--only")
    wanted = options if name in WITH_ONE_COMMAND else ("data", "train", "finish", "evaluate", "plot")
    assert [option for option in wanted if option not in text] == []


def test_all_scripts_are_known_here() -> None:
    assert {path.stem for path in SCRIPTS.glob("*.py")} == {
        *WITH_ONE_COMMAND,
        "iva",
        "common",
        "history",
        "linvt_selection",
    }


def test_what_the_scorer_of_linvt_keeps(in_folder: None, tmp_path: Path) -> None:
    tool = runpy.run_path(str(SCRIPTS / "linvt_selection.py"))
    model, processor = tool["load_checkpoint"](tool["ASSETS"] / "linvt-tiny")
    clips = held_out_clips(tmp_path, per_kind=2, kinds=["direction", "shape"], with_audio=False)
    trained = tool["kept_shares"](model, processor, clips)
    with tool["changed_scores"](model, torch.neg):
        reverse = tool["kept_shares"](model, processor, clips)
    # Half of all tokens are kept, so the scorer and its opposite together keep each once.
    assert trained[0] + reverse[0] == pytest.approx(1.0, abs=0.02)
    for seed in range(3):
        with tool["untrained_scorer"](model, seed):
            untrained = tool["kept_shares"](model, processor, clips)
        assert trained[0] > untrained[0] + 0.1, "the trained scorer prefers shapes"
    assert tool["kept_shares"](model, processor, clips) == trained


@pytest.mark.parametrize("name", [*WITH_ONE_COMMAND, "iva"])
def test_stages_are_recipes_of_the_package(in_folder: None, name: str) -> None:
    script = runpy.run_path(str(SCRIPTS / f"{name}.py"))
    sys.modules.pop("common", None)
    groups = [script[key] for key in ("STAGES", "IMAGE_STAGES", "LINVT_STAGES") if key in script]
    stages = [stage for group in groups for stage in group] + [script[key] for key in ("LORA_STAGE",) if key in script]
    assert stages
    small = {known for known, file in recipe_files().items() if file.is_relative_to(SYNTHETIC)}
    assert set(stages) == {known for known in small if known.startswith(f"{name}/")}


@pytest.mark.parametrize(
    ("only", "steps"),
    [
        ([], ["train", "finish", "measure"]),
        (["--only", "finish"], ["finish", "measure"]),
        (["--only", "evaluate"], ["measure"]),
        (["--only", "nothing"], []),
    ],
)
def test_only_leaves_out_the_earlier_steps(
    in_folder: None, only: list[str], steps: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom common import Options, run_script\n"
        f"log = Path({str(tmp_path / 'log')!r})\n"
        "def step(name, result=None):\n"
        "    def run(options):\n"
        "        assert options == Options(Path('w'), 3, log.parent, 5, 'validation'), options\n"
        "        log.open('a').write(name + '\\n')\n"
        "        return result\n"
        "    return run\n"
        "run_script('About.', Options(Path('w'), 7, Path('o')), step('train'), step('finish'),\n"
        "           step('measure', ({'right': 1.0}, 'page')))\n"
    )
    monkeypatch.chdir(tmp_path)
    stage(tmp_path / "w" / "stages" / "toy", "09:00")
    options = ["--num-videos", "3", "--output", str(tmp_path), "--per-kind", "5", "--split", "validation"]
    assert run(script, *options, *only) == (0 if steps else 2)
    log = tmp_path / "log"
    assert (log.read_text().split() if log.exists() else []) == steps
    # Measuring alone does not change what was recorded.
    assert (tmp_path / "TRAINING.md").exists() == ("finish" in steps)
    assert (tmp_path / "accuracy.json").exists() == ("finish" in steps)


def stage(folder: Path, started: str, first_step: int = 0, **changes: Any) -> dict[str, Any]:
    """Write the record of a stage of 10 steps that took 3 minutes, after what stands there already."""
    session = {
        "started": f"2026-11-30T{started}:00+00:00",
        "ended": f"2026-11-30T{started[:2]}:{int(started[3:]) + 3:02d}:00+00:00",
        "first_step": first_step,
        "last_step": 10,
        "versions": {"transformers": "5", "trl": "1", "torch": "2"},
        "git_revision": "abc",
        "cpus": 2,
        "gpus": [],
        "command": ["script.py"],
    } | changes
    folder.mkdir(parents=True, exist_ok=True)
    sessions = read_run(folder).get("sessions", [])
    (folder / RUN_FILE).write_text(json.dumps({"sessions": [*sessions, session]}))
    return session


def test_page_says_whether_the_training_was_one_run(in_folder: None, tmp_path: Path) -> None:
    """Whether a copy was made by one run is read from the records of its stages, not claimed."""
    history = runpy.run_path(str(SCRIPTS / "history.py"))
    how_it_was_made, uninterrupted = history["how_it_was_made"], history["UNINTERRUPTED"]
    with pytest.raises(FileNotFoundError, match=r"holds no run\.json"):
        how_it_was_made(tmp_path)
    stage(tmp_path / "stages" / "toy" / "videos", "09:10")
    stage(tmp_path / "stages" / "toy" / "stills", "09:00")
    page = how_it_was_made(tmp_path)
    assert uninterrupted in page
    assert "2026-11-30; 2 CPU cores, no GPU; commit abc" in page
    # Stages stand in the order of time, not of the alphabet or of the files.
    assert page.index("| toy/stills | 10 | 3 |") < page.index("| toy/videos | 10 | 3 |")
    stage(tmp_path / "stages" / "toy" / "videos", "09:20", first_step=7)
    page = how_it_was_made(tmp_path)
    assert uninterrupted not in page
    assert "toy/videos at step 7" in page
    assert "| toy/videos | 10 | 6 |" in page


@pytest.mark.parametrize("change", [{"git_revision": "other"}, {"command": ["script.py", "--num-videos", "3"]}])
def test_stages_of_several_commands_are_not_one_run(in_folder: None, change: dict[str, Any], tmp_path: Path) -> None:
    history = runpy.run_path(str(SCRIPTS / "history.py"))
    stage(tmp_path / "stills", "09:00")
    stage(tmp_path / "videos", "09:10", **change)
    page = history["how_it_was_made"](tmp_path)
    assert history["UNINTERRUPTED"] not in page
    assert "several commands or at several commits" in page


def test_killed_session_counts_no_minutes(in_folder: None, tmp_path: Path) -> None:
    history = runpy.run_path(str(SCRIPTS / "history.py"))
    killed = stage(tmp_path / "stills", "09:00")
    assert history["minutes"](killed) == 3
    del killed["ended"]
    assert history["minutes"](killed) == 0
