"""All benchmarks with one small model through the command line: killed in the middle, continued, put side by side."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import ready_python

from hf_videollm.evaluation.result import read_runs
from hf_videollm.evaluation.tasks import find_task, task_names
from hf_videollm.synthetic.benchmarks import write_stand_in

MODEL = "videollama2-av-tiny"
# The model knows the questions of these stand-ins when no options are listed. The others ask about events and speech,
# name letters, or have no right answer.
UNKNOWN = ("avssd", "avssd_full", "tut2017", "vocalsound", "tiny_lvlm_ehub")


def write_data(data: Path, names: list[str], count: int) -> None:
    """Stand-ins of this many items."""
    for name in names:
        write_stand_in(name, data / name, count)


def command(data: Path, output: Path, *arguments: str) -> list[str]:
    start = ["-m", "hf_videollm.cli", "evaluate", "--model", MODEL, "--device", "cpu"]
    return [*start, "--data", str(data), "--output", str(output), "--judge", "rule", *arguments]


def kill_after(num_tasks: int, arguments: list[str], output: Path) -> None:
    """Run until this many tasks have begun to write records, then SIGKILL."""
    run = ready_python.start(*arguments)
    try:
        while len(list(output.glob("*/records*.jsonl"))) < num_tasks:
            assert run.poll() is None, "the run ended before it was killed"
            time.sleep(0.05)
    finally:
        run.kill()
        run.wait()


def results_of(output: Path) -> dict[str, dict[str, Any]]:
    return {path.parent.name: json.loads(path.read_text()) for path in output.glob("*/result.json")}


@pytest.mark.parametrize("count", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_run_of_all_tasks_goes_on(tmp_path: Path, count: int) -> None:
    data, output = tmp_path / "data", tmp_path / "runs"
    write_data(data, task_names(), count)
    everything = command(data, output, "--tasks", "all")
    kill_after(6, everything, output)
    finished = results_of(output)
    # The control: some tasks were finished, others were not.
    assert finished
    assert len(finished) < len(task_names())
    before = {path: path.stat().st_mtime_ns for path in output.glob("*/result.json")}

    done = ready_python.run(*everything, "--json", timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    results = results_of(output)
    assert set(results) == set(task_names()) == set(json.loads(done.stdout)["results"])
    for name, result in results.items():
        counts = result["counts"]
        assert counts["answered"] == counts["items"] > 0, name
        assert counts["errors"] == 0, name
    # What was answered before the kill was not answered again.
    for path in before:
        assert len(read_runs(path.parent)) == 1, path

    sheet = tmp_path / "results.html"
    shown = ["-m", "hf_videollm.cli", "results", *map(str, sorted(output.iterdir()))]
    assert ready_python.run(*shown, "--format", "html", "--output", sheet).returncode == 0
    page = sheet.read_text()
    assert all(find_task(name).title in page for name in task_names())


# The tests of the tasks ask for the same, task by task, without the command line.
@pytest.mark.slow
def test_what_the_model_knows_is_right_in_every_form(tmp_path: Path) -> None:
    """A loader that mixed up questions, answers or videos would show here."""
    data, output = tmp_path / "data", tmp_path / "runs"
    open_tasks = [name for name in task_names() if "bare" not in find_task(name).prompts and name not in UNKNOWN]
    choices = [name for name in task_names() if "bare" in find_task(name).prompts]
    assert len(open_tasks) + len(choices) + len(UNKNOWN) == len(task_names())
    write_data(data, [*open_tasks, *choices], 4)
    for names, style in ((open_tasks, ()), (choices, ("--prompt-style", "bare"))):
        asked = command(data, output, "--tasks", ",".join(names), *style)
        done = ready_python.run(*asked, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
    for name, result in results_of(output).items():
        accuracy = result["metrics"].get("accuracy")
        assert accuracy is None or accuracy >= 0.75, (name, accuracy)
