"""`hf-videollm results`: forms, files, and options that do nothing are refused before anything is written."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from finished_runs import choice_items, letters, write_run

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    items = choice_items(8)
    for name, num_right in (("first", 4), ("second", 6)):
        answers = letters([number < num_right for number in range(8)], items)
        write_run(tmp_path / "evaluations" / name / "choices", answers, items, model=name)
    return tmp_path / "evaluations"


def test_the_table_on_the_terminal(cli: Cli, runs: Path) -> None:
    code, out, err = cli("results", str(runs))
    assert (code, err) == (0, "")
    assert all(word in out for word in ("Choices", "first", "second", "50.0", "75.0"))


@pytest.mark.parametrize(
    ("form", "suffix", "begin"),
    [
        ("markdown", ".md", "# Results"),
        ("csv", ".csv", "task,run"),
        ("html", ".html", "<!DOCTYPE html>"),
        ("json", ".json", "{"),
    ],
)
def test_every_form_to_stdout_and_into_a_file(
    cli: Cli, runs: Path, tmp_path: Path, form: str, suffix: str, begin: str
) -> None:
    """The suffix alone says the form, too."""
    code, out, _ = cli("results", str(runs), "--format", form)
    assert code == 0
    assert out.startswith(begin)
    path = tmp_path / "new" / f"report{suffix}"
    code, printed, err = cli("results", str(runs), "--output", str(path))
    assert (code, printed) == (0, "")
    assert str(path) in err.replace("\n", "")
    assert path.read_text() == out


def test_a_table_in_a_file_has_no_colours(cli: Cli, runs: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.txt"
    assert cli("results", str(runs), "--output", str(path))[0] == 0
    assert "\x1b" not in path.read_text()
    assert "75.0" in path.read_text()


def test_two_runs_item_by_item(cli: Cli, runs: Path) -> None:
    code, out, _ = cli("results", "--compare", str(runs / "first"), str(runs / "second"), "--format", "json")
    assert code == 0
    pair, by_duration = json.loads(out)["comparisons"]
    assert (pair["over"], by_duration["over"]) == (None, "duration")
    assert (pair["first"], pair["second"]) == ("first", "second")
    assert pair["comparison"]["difference"]["estimate"] == pytest.approx(0.25)
    code, out, _ = cli("results", "--compare", str(runs / "second"), str(runs / "first"), "--format", "markdown")
    assert code == 0
    assert "| -25.0 \\[" in out


def test_files_beside_the_report(cli: Cli, runs: Path, tmp_path: Path) -> None:
    plot, hub = tmp_path / "numbers.svg", tmp_path / "index.yaml"
    code, _, err = cli("results", str(runs / "first"), "--plot", str(plot), "--hub", str(hub))
    assert code == 0, err
    assert plot.read_text().startswith("<svg")
    assert hub.read_text().startswith("model-index:")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Say whose results"),
        (("gone",), "gone: there is no such folder"),
        (("RUNS", "--format", "htm"), "did you mean html?"),
        (("RUNS", "--items", "3"), "--items does something on the HTML page alone"),
        (("RUNS", "--no-pictures", "--format", "csv"), "--pictures does something on the HTML page alone"),
        (("RUNS", "--plot", "x.png"), "--plot draws an SVG"),
        (("RUNS", "--hub", "x.yaml", "--output", "x.md"), "about one model"),
        (("RUNS", "--eval-results", "x", "--output", "x.md", "--plot", "x.svg"), "about one model"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_written(
    cli: Cli, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = cli("results", *(str(runs) if word == "RUNS" else word for word in arguments))
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluations"]
