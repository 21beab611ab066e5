"""The runner of the benchmarks keeps what is finished, and `compare.py` finds what became worse."""

import importlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

REPOSITORY = Path(__file__).resolve().parents[1]
# Writes how often it ran, and what lay at the place of its result before. Fails as long as `broken` exists.
SCRIPT = '''"""Counts its runs."""
import json, sys
from pathlib import Path
QUICK = ("--repeats", "1")
def main(arguments):
    folder, out = Path(__file__).parent, Path(arguments[arguments.index("--out") + 1])
    name = Path(__file__).stem
    runs = folder / f"{name}.runs"
    runs.write_text(runs.read_text() + "x" if runs.exists() else "x")
    found = json.loads(out.read_text())["results"]["steps"] if out.exists() else 0
    out.write_text(json.dumps({"results": {"steps": found + 1}, "method": {"rounds": 1}}))
    sys.exit(3 if (folder / "broken").exists() else 0)
if __name__ == "__main__":
    main(sys.argv[1:])
'''


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    """The scripts that the benchmarks share; they import each other by name."""
    path = list(sys.path)
    sys.path.insert(0, str(REPOSITORY / "benchmarks"))
    names = ("run_facts", "discovery", "running", "compare")
    yield {name: importlib.import_module(name) for name in names}
    sys.path[:] = path
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def running(modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(modules["running"], "revision", lambda: "one")
    monkeypatch.setattr(modules["run_facts"], "revision", lambda: "one")
    return modules["running"]


@pytest.fixture
def scripts(tmp_path: Path, modules: dict[str, ModuleType]) -> Any:
    folder = tmp_path / "scripts"
    folder.mkdir()
    for name in ("bench_first.py", "bench_second.py", "third_gpu.py"):
        (folder / name).write_text(SCRIPT)
    (folder / "bench_tools.py").write_text('"""No benchmark."""\n')
    return modules["discovery"].find_benchmarks(folder)


def runs(scripts: Any, name: str) -> int:
    file = scripts[name].script.with_suffix(".runs")
    return len(file.read_text()) if file.exists() else 0


def test_benchmarks_are_found_with_what_they_say_of_themselves(scripts: Any) -> None:
    assert list(scripts) == ["first", "second", "third_gpu"]
    assert scripts["first"].summary == "Counts its runs."
    assert scripts["first"].quick == ("--repeats", "1")
    assert [found.result_name for found in scripts.values()] == ["first_cpu.json", "second_cpu.json", "third_gpu.json"]


def test_every_benchmark_has_a_summary_and_a_short_run(modules: dict[str, ModuleType]) -> None:
    found = modules["discovery"].find_benchmarks()
    assert {"pllava", "convert", "startup"} <= set(found)
    assert "tools" not in found
    lacking = [name for name, benchmark in found.items() if not benchmark.summary or not benchmark.quick]
    assert not lacking, 'add QUICK = ("--repeats", "1") or the like to these scripts; it takes seconds'


def test_a_misspelt_name_is_told_what_it_may_mean(scripts: Any, modules: dict[str, ModuleType]) -> None:
    discovery = modules["discovery"]
    assert [found.name for found in discovery.choose(["second", "first", "second"], scripts)] == ["second", "first"]
    with pytest.raises(discovery.UsageError, match=r"no benchmark secnd: did you mean second\?"):
        discovery.choose(["secnd"], scripts)


def test_a_result_says_everything_about_its_run(scripts: Any, running: ModuleType, tmp_path: Path) -> None:
    plan = running.Plan(tmp_path / "out", "2 cores", quick=True)
    assert running.run_all([scripts["first"]], plan, lambda line: None) == []
    content = json.loads((tmp_path / "out" / "first_cpu.json").read_text())
    assert content["benchmark"] == "first"
    assert content["machine"] == "2 cores"
    assert content["arguments"] == ["--repeats", "1"]
    assert content["revision"] == "one"
    assert content["method"] == {"rounds": 1}
    assert content["date"].startswith("20")
    assert {"cpu", "cores", "memory_gib", "gpu", "load_before", "load_after"} <= set(content["hardware"])
    assert content["hardware"]["cores"] > 0
    assert content["versions"]["torch"]
    assert content["results"] == {"steps": 1}


def test_a_second_run_measures_only_what_is_missing(scripts: Any, running: ModuleType, tmp_path: Path) -> None:
    plan, lines = running.Plan(tmp_path / "out", "here"), []
    both = [scripts["first"], scripts["second"]]
    broken = scripts["first"].script.parent / "broken"
    assert running.run_all(both[:1], plan, lines.append) == []
    broken.touch()
    # The second one is stopped in its middle: no result, but what it had written stays for its next run.
    assert running.run_all(both, plan, lines.append) == ["second"]
    assert not (tmp_path / "out" / "second_cpu.json").exists()
    broken.unlink()
    assert running.run_all(both, plan, lines.append) == []
    assert (runs(scripts, "first"), runs(scripts, "second")) == (1, 2)
    assert json.loads((tmp_path / "out" / "second_cpu.json").read_text())["results"] == {"steps": 2}
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["first_cpu.json", "second_cpu.json"]
    assert any("FAILED" in line and "exit code 3" in line for line in lines)


def test_what_was_measured_otherwise_is_measured_again(
    scripts: Any, running: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(**options: Any) -> int:
        running.run_all([scripts["first"]], running.Plan(tmp_path / "out", "here", **options), lambda line: None)
        return runs(scripts, "first")

    assert run() == 1
    assert run() == 1
    assert run(quick=True) == 2
    assert run(again=True) == 3
    assert run() == 3
    monkeypatch.setattr(running, "revision", lambda: "two")
    assert run() == 4
    (tmp_path / "out" / "first_cpu.json").write_text("{")
    assert run() == 5


def test_a_short_run_needs_arguments_for_it(running: ModuleType, modules: dict[str, ModuleType]) -> None:
    lacking = modules["discovery"].Benchmark("a", Path("bench_a.py"), "", None, None)
    with pytest.raises(modules["discovery"].UsageError, match=r"a has no short run: add QUICK = \(\.\.\.\) to bench_a"):
        running.arguments_of(lacking, running.Plan(Path("out"), "here", quick=True))
    assert running.arguments_of(lacking, running.Plan(Path("out"), "here", arguments=("--x",))) == ["--x"]


def test_what_a_benchmark_needs_is_told(running: ModuleType, modules: dict[str, ModuleType], monkeypatch: Any) -> None:
    monkeypatch.setenv("THERE", "1")
    monkeypatch.delenv("NOT_THERE", raising=False)

    def needs(what: str | None, quick: bool = False) -> str | None:
        benchmark = modules["discovery"].Benchmark("a", Path("bench_a.py"), "", (), what)
        return running.missing_need(benchmark, running.Plan(Path("out"), "here", quick=quick))

    assert needs(None) is needs("THERE") is needs("gpu", quick=True) is None
    assert needs("NOT_THERE") == "it needs the variable NOT_THERE"
    assert "GPU" in (needs("gpu") or "")


def test_a_result_is_written_as_a_whole(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    modules["run_facts"].write_json(file, {"a": 1})
    with pytest.raises(TypeError):
        modules["run_facts"].write_json(file, {"a": object()})
    assert json.loads(file.read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_places_and_names_are_no_arguments_of_a_measurement(modules: dict[str, ModuleType]) -> None:
    given = ["--width", "64", "--out", "x.json", "--machine=mine", "--quick", "--machine", "two words"]
    assert modules["run_facts"].own_arguments(given) == ["--width", "64", "--quick"]


# compare.py


def result(ratio: float, rounds: list[float] | None = None, **more: Any) -> dict[str, Any]:
    """A result in which `ours` takes `ratio` times the time of `peer`."""
    peer: dict[str, Any] = {"seconds": 1.0, "times_peer": 1.0}
    ours: dict[str, Any] = {"seconds": ratio, "times_peer": ratio, "wall_times_peer": 9.0}
    if rounds is not None:
        peer["rounds"], ours["rounds"] = [1.0] * len(rounds), rounds
    return {"benchmark": "x", "arguments": [], "results": {"case": {"ours": ours, "peer": peer}, **more}}


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        (result(1.0), result(1.05), "same"),
        (result(1.0), result(1.2), "worse"),
        (result(1.2), result(1.0), "better"),
        (result(1.0, [0.9, 1.0, 1.3]), result(1.2, [1.1, 1.2, 1.4]), "noise"),
        (result(1.0, [0.9, 1.0, 1.05]), result(1.2, [1.1, 1.2, 1.4]), "worse"),
        (result(1.2, [1.1, 1.2, 1.4]), result(1.0, [0.9, 1.0, 1.05]), "better"),
    ],
)
def test_a_ratio_is_worse_beyond_threshold_and_noise(
    modules: dict[str, ModuleType], old: dict[str, Any], new: dict[str, Any], verdict: str
) -> None:
    rows, notes = modules["compare"].compare(old, new)
    assert notes == []
    assert {row.key: row.verdict(0.1) for row in rows} == {
        "case.ours.times_peer": verdict,
        "case.peer.times_peer": "same",
    }


def test_memory_answers_and_peers_are_judged_in_their_own_direction(modules: dict[str, ModuleType]) -> None:
    old = {"results": {"peak_mib": 10.0, "accuracy": 0.5, "reader": {"times_ours": 2.0}, "tokens": 5, "seconds": 1.0}}
    new = {"results": {"peak_mib": 20.0, "accuracy": 0.9, "reader": {"times_ours": 1.0}, "tokens": 9, "seconds": 9.0}}
    rows, notes = modules["compare"].compare(old, new)
    assert {row.key: row.verdict(0.1) for row in rows} == {
        "peak_mib": "worse",
        "accuracy": "better",
        "reader.times_ours": "worse",
    }
    assert [note for note in notes if "does not say with which arguments" in note] == notes
    timed, _ = modules["compare"].compare(old, new, seconds=True)
    assert {row.key: row.verdict(0.1) for row in timed}["seconds"] == "worse"


def test_other_runs_are_not_compared(modules: dict[str, ModuleType]) -> None:
    compare = modules["compare"]
    with pytest.raises(compare.CompareError, match="arguments differ"):
        compare.compare(result(1.0), {**result(1.0), "arguments": ["--quick"]})
    elsewhere = {**result(1.0), "hardware": {"cpu": "another", "cores": 64}}
    with pytest.raises(compare.CompareError, match=r"same machine, not an unknown processor .* and another with 64"):
        compare.compare(result(1.0), elsewhere, seconds=True)
    rows, notes = compare.compare(result(1.0), result(1.0, more={"size_mb": 1.0}))
    assert len(rows) == 2
    assert notes == ["more.size_mb is only in the newer result"]


def test_the_exit_code_says_whether_something_is_worse(
    modules: dict[str, ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {}
    for name, ratio in (("old", 1.0), ("same", 1.05), ("worse", 1.5)):
        files[name] = tmp_path / f"{name}.json"
        files[name].write_text(json.dumps(result(ratio)))

    def code(*places: Path, **options: Any) -> int:
        try:
            modules["compare"].main(list(places), **{"threshold": 0.1, "seconds": False, "show_all": False, **options})
        except typer.Exit as end:
            return end.exit_code
        return 0

    assert code(files["old"], files["same"]) == 0
    assert "nothing is worse" in capsys.readouterr().out
    assert code(files["old"], files["worse"]) == 1
    assert "case.ours.times_peer" in capsys.readouterr().out
    assert code(files["old"], files["worse"], threshold=0.6) == 0
    assert code(tmp_path, tmp_path) == 0
    capsys.readouterr()
    assert code(files["old"], tmp_path / "missing") == 2
    assert "missing does not exist" in capsys.readouterr().err
    files["old"].write_text("[]")
    assert code(files["old"], files["same"]) == 2
    assert "is no result of a benchmark" in capsys.readouterr().err
    # No result of this name was committed.
    assert code(files["same"]) == 2
    assert "there is no earlier result" in capsys.readouterr().out


def test_committed_results_are_as_they_were(modules: dict[str, ModuleType]) -> None:
    pairs = modules["compare"].find_pairs([REPOSITORY / "benchmarks" / "results" / "pllava_cpu.json"])
    ((name, (old, new)),) = pairs.items()
    assert name == "pllava_cpu.json"
    assert old is not None
    assert old.keys() == new.keys()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"arguments": "--foo 'x"}, '--arguments "--foo \'x": No closing quotation.'),
        ({"out": Path("/dev/null/results")}, "Not a directory: '/dev/null/results'"),
        ({"names": ["no_such"]}, "no_such"),
    ],
)
def test_wrong_options_of_the_runner_are_one_line(
    modules: dict[str, ModuleType], options: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = REPOSITORY / "benchmarks" / "__main__.py"
    spec = importlib.util.spec_from_file_location("benchmarks_runner", file)
    assert spec is not None
    assert spec.loader is not None
    runner = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runner)
    with pytest.raises(typer.Exit) as caught:
        runner.main(**{"names": ["startup"], "arguments": "", **options})
    assert caught.value.exit_code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_short_runs_of_all_benchmarks_work(tmp_path: Path, modules: dict[str, ModuleType]) -> None:
    """A benchmark that nobody runs for a month breaks unseen."""
    command = [sys.executable, "-m", "benchmarks", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    left_out = {line.partition(" ")[0] for line in done.stderr.splitlines() if " is left out: " in line}
    wanted = {
        found.result_name for name, found in modules["discovery"].find_benchmarks().items() if name not in left_out
    }
    assert {file.name for file in tmp_path.glob("*.json")} >= wanted
    assert wanted
