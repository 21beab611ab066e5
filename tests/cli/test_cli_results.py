"""`hf-videollm results`: forms, files, and options that do nothing are refused before anything is written."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from finished_runs import choice_items, letters, write_run

from hf_videollm.evaluation.ranks import Ranks
from hf_videollm.evaluation.records import RecordFile

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


def test_a_csv_file_holds_the_comparison(cli: Cli, runs: Path) -> None:
    command = ("results", "--compare", str(runs / "first"), str(runs / "second"))
    rows = list(csv.DictReader(io.StringIO(cli(*command, "--format", "csv")[1])))
    pairs = [row for row in rows if row["second_run"]]
    assert [(row["run"], row["second_run"], row["number"], row["group"]) for row in pairs] == [
        ("first", "second", "accuracy", ""),
        ("first", "second", "accuracy", "duration"),
    ]
    told = json.loads(cli(*command, "--format", "json")[1])["comparisons"][0]
    found, row = told["comparison"], pairs[0]
    assert float(row["difference"]) == pytest.approx(100 * found["difference"]["estimate"])
    assert float(row["difference_low"]) == pytest.approx(100 * found["difference"]["low"])
    assert (float(row["value"]), float(row["value_of_second"])) == (50.0, 75.0)
    assert (float(row["p"]), int(row["items"])) == (pytest.approx(found["p_value"]), 8)
    # The control: what was measured is in lines of its own, which compare nothing.
    assert all(not row["difference"] for row in rows if not row["second_run"])
    assert len(rows) > len(pairs)


def unfinished(folder: Path) -> None:
    """A run that was killed, and records that are no run."""
    for place, settings in ((folder / "msvd_qa", {"task": "msvd_qa", "model": {}}), (folder / "clips", {"seeds": 1})):
        with RecordFile(place, Ranks(1, 4)) as file:
            file.append({"id": str(number), "answers": ["x"]} for number in range(7))
            file.append([{"id": "8", "error": {}}])
        (place / "settings.json").write_text(json.dumps(settings))


def test_a_run_that_is_not_finished_is_told(cli: Cli, runs: Path) -> None:
    assert cli("results", str(runs))[2] == "", "the control: nothing is told of finished runs"
    unfinished(runs / "first")
    code, out, err = cli("results", str(runs), "--format", "json")
    assert code == 0
    assert "msvd_qa: 7 answers and 1 errors, not finished" in err.replace("\n", " ")
    (told,) = json.loads(out)["unfinished"]
    assert (told["task"], told["answers"], told["errors"]) == ("msvd_qa", 7, 1)
    code, _, err = cli("results", str(runs / "first/msvd_qa"))
    assert code
    assert "7 answers and 1 errors, not finished" in err.replace("\n", " ")


def test_a_partial_run_goes_to_the_hub_on_request(cli: Cli, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", letters([True] * 4, choice_items(4)), partial="the run has 4 of 20 items")
    command = ("results", str(run), "--hub", str(tmp_path / "index.yaml"))
    code, _, err = cli(*command)
    assert code
    assert "the run has 4 of 20 items" in err.replace("\n", " ")
    assert not (tmp_path / "index.yaml").exists()
    assert cli(*command, "--partial")[0] == 0
    assert "partial: the run has 4 of 20 items" in (tmp_path / "index.yaml").read_text()


def test_files_beside_the_report(cli: Cli, runs: Path, tmp_path: Path) -> None:
    plot, hub = tmp_path / "numbers.svg", tmp_path / "index.yaml"
    code, _, err = cli("results", str(runs / "first"), "--plot", str(plot), "--hub", str(hub))
    assert code == 0, err
    assert plot.read_text().startswith("<svg")
    assert hub.read_text().startswith("model-index:")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("RUNS", "--output", "res.pdf"), "no form has the suffix .pdf; the known ones are .md, .csv, .html"),
        (("RUNS", "--partial"), "--partial does nothing without --hub or --eval-results"),
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
