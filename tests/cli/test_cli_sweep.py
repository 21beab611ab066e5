"""`hf-videollm sweep` and `tune-alpha --task`: tables, plots, runs that go on, and what is refused first."""

import csv
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import ready_python
from disturbing_lora import disturbed_pipe
from evaluated_clips import TASKS, clip_questions, make_task, write_benchmark
from judge_server import judge_server

from hf_videollm import save_checkpoint
from hf_videollm.evaluation import sweep_plot
from hf_videollm.evaluation import tasks as task_table
from hf_videollm.synthetic.benchmarks import write_stand_in

Cli = Callable[..., tuple[int, str, str]]
ON_CPU = ("--device", "cpu", "--dtype", "float32")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    clips = clip_questions(folder / "clips", 1)
    for name in ("clips", "judged"):
        write_benchmark(folder / name, clips)
    return folder


@pytest.fixture(scope="module")
def with_lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a checkpoint whose LoRA does harm."""
    pipe = disturbed_pipe(500.0)
    return save_checkpoint(pipe.model, pipe.processor, tmp_path_factory.mktemp("lora") / "checkpoint")


@pytest.fixture
def _known_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tasks instead of the package's own."""
    judged = make_task("judged", metric="judged_qa", judge_texts={"default": "qa"})
    module = ModuleType("hf_videollm.evaluation.tasks.of_tests")
    module.TASKS = [TASKS[0], judged]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(task_table, "TASK_FILES", {task.name: "of_tests" for task in module.TASKS})


def one_line(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.usefixtures("_known_tasks")
def test_table_and_plot_are_written(cli: Cli, data: Path, tmp_path: Path) -> None:
    line = ("sweep", "pooling", "--task", "clips", "--data", str(data), *ON_CPU, "--output", str(tmp_path / "out"))
    files = ("--csv", str(tmp_path / "table.csv"), "--plot", str(tmp_path / "plot.svg"))
    code, out, err = cli(*line, "--values", "8x4x4, 1x1x1", *files)
    assert code == 0, err
    assert "pooling-8x4x4" in out
    assert "100.0 %" in out
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert [row["setting"] for row in rows] == ["pooling-1x1x1", "pooling-8x4x4"]
    assert float(rows[0]["value"]) < float(rows[1]["value"]) == 1.0
    assert (tmp_path / "out/sweep.csv").read_bytes() == (tmp_path / "table.csv").read_bytes()
    assert "<svg" in (tmp_path / "plot.svg").read_text()
    # The same command asks nothing again; with one more value, it asks that one.
    code, out, _ = cli(*line, "--values", "8x4x4,1x1x1,8x2x2", "--json")
    report = json.loads(out)
    assert (code, report["best"], report["failed"]) == (0, {"pooling_shape": [8, 4, 4]}, {})
    assert report == json.loads((tmp_path / "out/sweep.json").read_text())
    runs = [json.loads((tmp_path / "out" / row["setting"] / "result.json").read_text())["runs"] for row in rows]
    assert [len(found) for found in runs] == [1, 1]
    assert len(report["rows"]) == 3


def test_a_killed_sweep_goes_on(cli: Cli, tmp_path: Path) -> None:
    write_stand_in("msvd_qa", tmp_path / "data/msvd_qa", 8)

    def line(output: str) -> list[str]:
        options = ["--batch-size", "1", "--judge", "rule", "--json", "--values", "2,8", *ON_CPU]
        places = ["--data", str(tmp_path / "data"), "--output", str(tmp_path / output)]
        return ["sweep", "frames", "--task", "msvd_qa", *places, *options]

    cut = ready_python.start("-m", "hf_videollm.cli", *line("cut"))
    records, until = tmp_path / "cut/frames-8/records.jsonl", time.monotonic() + 300
    while not (records.exists() and records.stat().st_size) and cut.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    cut.kill()
    assert cut.wait() == -9
    assert not (tmp_path / "cut/sweep.json").exists(), "the control: it was killed before its end"
    reports = [json.loads(cli(*line(output))[1]) for output in ("cut", "whole")]
    assert reports[0] == reports[1]
    for label in ("frames-2", "frames-8"):
        found = [(tmp_path / output / label / "records.jsonl").read_bytes() for output in ("cut", "whole")]
        assert found[0] == found[1]
    # What was answered before the kill was not asked again.
    (run,) = json.loads((tmp_path / "cut/frames-2/result.json").read_text())["runs"]
    assert run["num_items"] == 8


@pytest.mark.usefixtures("_known_tasks")
def test_settings_share_the_replies_of_a_judge(
    cli: Cli, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    line = ("sweep", "frames", "--task", "judged", "--data", str(data), *ON_CPU, "--output", str(tmp_path))
    with judge_server() as server:
        judge = ("--judge", "openai", "--judge-model", "m", "--judge-url", server.url, "--judge-policy", "pllava")
        code, out, err = cli(*line, "--values", "7,8", *judge, "--json")
        calls = server.calls
    assert code == 0, err
    rows = json.loads(out)["rows"]
    answers = [
        [(item["id"], item["answers"]) for item in map(json.loads, (tmp_path / name / "items.jsonl").open())]
        for name in ("frames-7", "frames-8")
    ]
    different = {json.dumps(answer) for found in answers for answer in found}
    assert calls == len(different) < 10
    assert all(row["numbers"]["accuracy"]["low"] is not None for row in rows)


@pytest.mark.usefixtures("_known_tasks")
def test_answers_are_measured_under_other_roles(cli: Cli, data: Path, tmp_path: Path) -> None:
    line = ("sweep", "prompt-styles", "--task", "judged", "--data", str(data), *ON_CPU, "--output", str(tmp_path))
    code, out, err = cli(*line, "--values", "default,USER:/ASSISTANT:,Tell:/Me:", "--limit", "3", "--json")
    assert code == 0, err
    assert "No judge was chosen" in one_line(err)
    default, other, same = json.loads(out)["rows"]
    assert [row["value"] for row in (default, other, same)] == ["default", "Tell:/Me:", "USER:/ASSISTANT:"]
    assert default["lengths"] == same["lengths"]
    assert default["lengths"]["words"]["answers"] == 3
    assert sum(other["lengths"]["tokens"]["histogram"]["counts"]) == 3
    items = [json.loads(line) for line in (tmp_path / "style-default/items.jsonl").open()]
    words = [len(item["generated"][0].split()) for item in items]
    assert default["lengths"]["words"]["mean"] == pytest.approx(sum(words) / 3)
    code, out, _ = cli(*line, "--values", "default", "--limit", "3")
    assert code == 0
    assert "words (10 to 90 %)" in one_line(out)


@pytest.mark.usefixtures("_known_tasks")
def test_one_bad_setting_does_not_lose_the_others(cli: Cli, data: Path, tmp_path: Path) -> None:
    line = ("sweep", "frames", "--task", "clips", "--data", str(data), *ON_CPU, "--output", str(tmp_path))
    (tmp_path / "frames-4").mkdir()
    (tmp_path / "frames-4/settings.json").write_text('{"task": "other"}')
    code, out, err = cli(*line, "--values", "4,8", "--json")
    assert code == 1
    report = json.loads(out)
    assert [row["setting"] for row in report["rows"]] == ["frames-8"]
    assert "was made with other settings" in report["failed"]["frames-4"].replace("that were", "was")
    assert "1 of 2 settings failed:" in err


@pytest.mark.usefixtures("_known_tasks")
def test_the_best_alpha_is_found_and_recorded(cli: Cli, data: Path, with_lora: Path, tmp_path: Path) -> None:
    line = ("tune-alpha", str(with_lora), "--data", str(data), "--output", str(tmp_path), *ON_CPU)
    code, out, err = cli(*line, "--task", "clips", "--alphas", "500,0", "--plot", str(tmp_path / "figure9.png"))
    assert code == 0, err
    assert "best alpha by accuracy: 0" in err
    assert "alpha-500" in out
    assert (tmp_path / "figure9.png").exists()
    assert json.loads((with_lora / "config.json").read_text())["lora_alpha"] == 500.0
    free = ("--task", "judged", "--output", str(tmp_path / "judged"), "--limit", "1", "--alphas", "0")
    code, _, err = cli(*line, *free, "--save")
    assert code == 2
    assert "No alpha is best, because nothing was scored: choose a judge" in one_line(err)
    code, out, err = cli(*line, "--task", "clips", "--alphas", "500,0", "--save", "--json")
    assert (code, json.loads(out)["best"]) == (0, 0.0)
    assert json.loads((with_lora / "config.json").read_text())["lora_alpha"] == 0.0


def table(folder: Path) -> list[str]:
    return [row["setting"] for row in csv.DictReader((folder / "sweep.csv").open())]


@pytest.mark.usefixtures("_known_tasks")
def test_a_sweep_goes_on_after_the_best_alpha_was_saved(cli: Cli, data: Path, with_lora: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(with_lora, tmp_path / "checkpoint")
    line = ("tune-alpha", str(checkpoint), "--data", str(data), "--output", str(tmp_path / "out"), *ON_CPU)
    assert cli(*line, "--task", "clips", "--alphas", "500,0", "--save")[0] == 0
    code, out, err = cli(*line, "--task", "clips", "--alphas", "500,0", "--json")
    assert (code, err.count("failed")) == (0, 0), err
    runs = [
        json.loads((tmp_path / "out" / row["setting"] / "result.json").read_text())["runs"]
        for row in json.loads(out)["rows"]
    ]
    assert [len(found) for found in runs] == [1, 1], "nothing was asked again"
    # A shorter list drops no row, and the best is that of the list.
    code, out, err = cli(*line, "--task", "clips", "--alphas", "500", "--json")
    assert (code, json.loads(out)["best"]) == (0, 500.0), err
    assert table(tmp_path / "out") == ["alpha-0", "alpha-500"]
    # Where every setting fails, the table stays.
    (checkpoint / "new.json").write_text("{}")
    kept = (tmp_path / "out/sweep.csv").read_bytes()
    code, _, err = cli(*line, "--task", "clips", "--alphas", "500,0")
    assert code == 1
    assert "2 of 2 settings failed" in err
    assert (tmp_path / "out/sweep.csv").read_bytes() == kept


@pytest.mark.usefixtures("_known_tasks")
def test_no_alpha_is_recorded_where_all_are_equal(cli: Cli, data: Path, with_lora: Path, tmp_path: Path) -> None:
    line = ("tune-alpha", str(with_lora), "--data", str(data), "--output", str(tmp_path), *ON_CPU)
    before = (with_lora / "config.json").read_bytes()
    code, out, err = cli(*line, "--task", "clips", "--alphas", "0,0.000001", "--save", "--json")
    assert (code, json.loads(out)["tied"]) == (1, True)
    assert "All alphas have the same accuracy, so none is best" in one_line(err)
    assert (with_lora / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sweep alpha", "Say what to evaluate on: --task NAME"),
        ("sweep alpha --task mvbnech", "There is no task 'mvbnech': did you mean mvbench"),
        ("sweep alpha --task mvbench --values ,", "--values is empty"),
        ("sweep alpha --task mvbench --lora-alpha 3", "sweep alpha sets --lora-alpha itself: leave it out"),
        ("sweep frames --task mvbench --fps 2", "sweep frames sets --fps itself"),
        ("sweep tokens-per-frame --task mvbench --tokens-per-frame 2", "sets --tokens-per-frame itself"),
        ("sweep prompt-styles --task mvbench --prompt-style pllava", "sets --prompt-style itself"),
        ("sweep prompt-styles --task mvbench --mode likelihood", "measures what the model writes: leave out --mode"),
        ("sweep pooling --task mvbench --frames 4 --values 4x4x4@4", "exclude each other: give one of them"),
        ("sweep frames --task mvbench --plot a.txt", "A plot is a file that ends with .png, .svg, .pdf, not 'a.txt'"),
        ("sweep frames --task msvd_qa --plot a.png", "nothing to draw for msvd_qa: its answers are free: choose a"),
        ("sweep frames --task inter4k --plot a.png", "nothing to draw for inter4k: it has no metric"),
        ("sweep frames --task msvd_qa --choice-rule pllava", "--choice-rule does nothing for msvd_qa"),
        ("sweep frames --task mvbench --data gone", "mvbench: gone/mvbench"),
        ("sweep frmes", "there is no such command; did you mean frames?"),
        ("tune-alpha pllava-tiny", "Give a file of records or --task NAME, one of them"),
        ("tune-alpha pllava-tiny a.jsonl --task mvbench", "Give a file of records or --task NAME, one of them"),
        ("tune-alpha pllava-tiny a.jsonl --plot a.png", "--plot does something with --task alone: leave it out"),
        ("tune-alpha pllava-tiny a.jsonl --judge rule", "--judge does something with --task alone"),
        ("tune-alpha pllava-tiny a.jsonl --prompt-style x", "--prompt-style does something with --task alone"),
        ("tune-alpha pllava-tiny a.jsonl --batch-size 0", "--batch-size must be a number of at least 1, not '0'"),
    ],
)
def test_what_cannot_be_is_told_before_a_model_is_loaded(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, line: str, message: str
) -> None:
    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("hf_videollm.inference.load_pipeline", refuse)
    code, out, err = cli(*line.split())
    assert (code, out) == (2, "")
    assert message in one_line(err)
    assert err.count("\n") == 1


def test_a_plot_without_matplotlib_is_told_first(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_plot, "find_spec", lambda name: None)
    code, _, err = cli("sweep", "frames", "--task", "mvbench", "--plot", "a.png")
    assert code == 2
    assert 'Plots need matplotlib: pip install "hf-videollm[plots]"' in one_line(err)


@pytest.mark.usefixtures("_known_tasks")
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("alpha", "FtfvForConditionalGeneration keeps no LoRA whose alpha could be set: PLLaVA does."),
        ("pooling", "FtfvForConditionalGeneration has no pooling shape: PLLaVA does."),
    ],
)
def test_a_design_that_lacks_the_option_is_told(cli: Cli, data: Path, tmp_path: Path, kind: str, message: str) -> None:
    line = ("sweep", kind, "--model", "ftfv-tiny", "--task", "clips", "--data", str(data), *ON_CPU)
    code, out, err = cli(*line, "--output", str(tmp_path / "out"))
    assert (code, out) == (2, "")
    assert message in one_line(err)
    assert not (tmp_path / "out").exists()
