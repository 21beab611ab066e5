"""Runs side by side: every number is that of its run, the papers' stand apart, and what differs is told."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from finished_runs import choice_items, choice_task, judge, letters, open_items, write_run

from hf_videollm.evaluation.aggregate_judged import MSVC_ASPECTS
from hf_videollm.evaluation.report.loading import load_runs
from hf_videollm.evaluation.report.report import make_report
from hf_videollm.evaluation.report.sheets import NOT_MEASURED, task_sheets
from hf_videollm.evaluation.report.text_forms import as_csv, as_json, as_markdown, as_plain
from hf_videollm.evaluation.tasks import find_task
from hf_videollm.models.errors import MediaNotFound

RIGHT = [True, True, True, False, True, None, False, False]


def two_runs(folder: Path) -> Path:
    items = choice_items(8)
    write_run(folder / "a/choices", letters(RIGHT, items), items)
    broken = [*letters(RIGHT, items)[:-1], MediaNotFound("clip3.mp4: no such file")]
    write_run(folder / "b/choices", broken, items, model="./models/other", frames=(0, 2, 4, 6))
    return folder


def test_every_number_is_that_of_its_run(tmp_path: Path) -> None:
    report = make_report([two_runs(tmp_path)])
    (task,) = report.tasks
    assert [run.label for run in task.runs] == ["tiny", "other"]
    first, second = as_dict(report)["tasks"][0]["runs"]
    stored = json.loads((tmp_path / "a/choices/result.json").read_text())
    (number,) = first["numbers"]
    assert (number["name"], number["value"], number["unit"]) == ("accuracy", 50.0, "%")
    interval = stored["metrics"]["intervals"]["accuracy"]
    assert (number["low"], number["high"]) == pytest.approx((interval["low"] * 100, interval["high"] * 100))
    assert (first["counts"]["errors"], first["counts"]["parse_failures"]) == (0, 1)
    assert (second["counts"]["errors"], second["counts"]["items"]) == (1, 8)
    assert second["numbers"][0]["value"] == pytest.approx(400 / 7)
    assert first["groups"]["duration"]["rows"]["short"] == {"value": 75.0, "count": 4}


def test_the_mean_of_a_table_has_its_interval_in_every_form(tmp_path: Path) -> None:
    report = make_report([two_runs(tmp_path) / "a"])
    stored = json.loads((tmp_path / "a/choices/result.json").read_text())["metrics"]["groups"]["duration"]
    interval = stored["macro_intervals"]["accuracy"]
    assert interval["by_video"] is True
    assert interval["estimate"] == stored["macro"]["accuracy"]
    expected = [100 * interval[end] for end in ("estimate", "low", "high")]
    macro = as_dict(report)["tasks"][0]["runs"][0]["groups"]["duration"]["macro"]
    assert [macro["value"], macro["low"], macro["high"]] == pytest.approx(expected)
    row = next(row for row in csv.DictReader(io.StringIO(as_csv(report))) if row["label"] == "mean of the rows")
    assert [float(row[name]) for name in ("value", "low", "high")] == pytest.approx(expected)
    value, low, high = (f"{number:.1f}" for number in expected)
    assert f"| mean of the rows |  | {value} \\[{low}, {high}\\] |" in as_markdown(report)


def as_dict(report: Any) -> dict[str, Any]:
    return json.loads(as_json(report))


def test_settings_that_differ_are_told_and_no_others(tmp_path: Path) -> None:
    (task,) = make_report([two_runs(tmp_path)]).tasks
    assert task.differing == {"processor_options.num_frames": [2, 4], "frames": ["2", "4"]}
    items = choice_items(8)
    write_run(tmp_path / "c/choices", letters(RIGHT, items), items, choice_rule="pllava")
    (task,) = make_report([tmp_path / "a", tmp_path / "c"]).tasks
    assert task.differing == {"scoring.choice_rule": ["robust", "pllava"]}
    (alone,) = make_report([tmp_path / "a"]).tasks
    assert alone.differing == {}


def test_runs_of_one_model_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    answers = letters(RIGHT, choice_items(8))
    write_run(tmp_path / "few/choices", answers)
    write_run(tmp_path / "many/choices", answers)
    labels = [run.label for run in load_runs([tmp_path])]
    assert labels == ["tiny (few)", "tiny (many)"]
    # Named twice, a run is there once, and needs no other name.
    assert [run.label for run in load_runs([tmp_path / "few", tmp_path / "few/choices"])] == ["tiny"]


@pytest.mark.parametrize("form", [as_plain, as_markdown])
def test_numbers_of_papers_stand_apart(tmp_path: Path, form: Any) -> None:
    """Only when asked for, in a table of their own under a title that says so."""
    task = find_task("msvd_qa")
    verdicts = {f"q{number}": (number < 3, 4.0) for number in range(4)}
    write_run(tmp_path / "msvd_qa", ["x"] * 4, open_items(), task, judge=judge(verdicts), policy="robust")
    without, text = form(make_report([tmp_path])), form(make_report([tmp_path], papers=True))
    assert "PLLaVA 7B" not in without
    assert NOT_MEASURED not in without
    before, after = text.split(NOT_MEASURED, 1)
    assert "75.0" in before
    assert "PLLaVA" not in before
    for model, numbers in task.published["pllava"].items():
        (line,) = [line for line in after.splitlines() if f"{model} " in line]
        assert f"{numbers['accuracy']:.1f}" in line
        assert f"{numbers['score']:.1f}" in line


def test_numbers_that_few_papers_print_get_a_line_each(tmp_path: Path) -> None:
    """MVBench has twenty sub-tasks, which one paper prints; the average stands with those of the others."""
    items = choice_items(2)
    write_run(tmp_path / "mvbench", letters([True, True], items), items, find_task("mvbench"))
    (task,) = make_report([tmp_path], papers=True).tasks
    whole, details = [sheet for sheet in task_sheets(task) if sheet.title.startswith(NOT_MEASURED)]
    assert whole.header == ("paper", "model", "accuracy")
    assert details.header[:2] == ("number", "PLLaVA 7B")
    published = find_task("mvbench").published["pllava"]["PLLaVA 7B"]
    assert {row[0]: float(row[1]) for row in details.rows} == {
        name: number for name, number in published.items() if name != "accuracy"
    }


def test_csv_has_other_columns_for_papers(tmp_path: Path) -> None:
    task = find_task("msvd_qa")
    verdicts = {f"q{number}": (number < 3, 4.0) for number in range(3)}
    write_run(tmp_path / "msvd_qa", ["x"] * 4, open_items(), task, judge=judge(verdicts), policy="pllava")
    rows = list(csv.DictReader(io.StringIO(as_csv(make_report([tmp_path], papers=True)))))
    ours = [row for row in rows if row["run"]]
    assert [(row["number"], row["value"], row["unit"]) for row in ours] == [
        ("accuracy", "75.0", "%"),
        ("score", "3.0", ""),
    ]
    assert {row["judge_failures"] for row in ours} == {"1"}
    printed = [row for row in rows if row["paper"]]
    assert printed
    assert all(row["printed_in_paper"] and not row["value"] and not row["run"] for row in printed)
    assert not any(row["printed_in_paper"] for row in ours)


def test_a_run_without_judge_says_why_it_has_no_number(tmp_path: Path) -> None:
    write_run(tmp_path / "msvd_qa", ["x"] * 4, open_items(), "msvd_qa")
    report = make_report([tmp_path])
    (sheet, *_) = task_sheets(report.tasks[0])
    assert sheet.rows == (("tiny", "4", "-"),)
    assert "No judge was chosen" in sheet.footnotes[0]
    assert len(as_csv(report).splitlines()) == 2


def test_aspects_are_numbers_of_their_own(tmp_path: Path) -> None:
    """MSVC has two; the judge gives them the same score here."""
    items = open_items(2)

    def judge_all(asked: Any) -> Any:
        return judge({item.id: (None, 3.0) for item in asked})(asked)

    write_run(tmp_path / "msvc", ["x", "y"], items, "msvc", judge=judge_all, policy="robust")
    names = [number["name"] for number in as_dict(make_report([tmp_path]))["tasks"][0]["runs"][0]["numbers"]]
    assert names == ["macro", "micro", "correctness", "detailedness"]


def test_many_numbers_have_a_row_each(tmp_path: Path) -> None:
    """A table with a column for each aspect fits on no terminal."""
    verdicts = {f"q0/{aspect}": (None, 3.0) for aspect in MSVC_ASPECTS}
    for name in ("a", "b"):
        write_run(tmp_path / name / "msvc", ["x"], open_items(1), "msvc", judge=judge(verdicts), policy="robust")
    (sheet, *_) = task_sheets(make_report([tmp_path]).tasks[0])
    assert sheet.header == ("run", "tiny (a)", "tiny (b)")
    assert [row[0] for row in sheet.rows] == ["macro", "micro", *MSVC_ASPECTS, "items", "of these"]
    assert sheet.rows[2] == ("correctness", "3.00", "3.00")


def test_how_numbers_came_about_stands_below_them(tmp_path: Path) -> None:
    """Above all, who judged: a comparison of words is not what the papers print."""
    verdicts = {f"q{number}": (True, 4.0) for number in range(4)}
    for name in ("a", "b"):
        write_run(tmp_path / name, ["x"] * 4, open_items(), "msvd_qa", judge=judge(verdicts), policy="pllava")
    (sheet, *_) = task_sheets(make_report([tmp_path]).tasks[0])
    assert "Asked and scored with: prompt style default, judge policy pllava, frames 2." in sheet.footnotes
    write_run(tmp_path / "b", ["x"] * 4, open_items(), "msvd_qa", judge=judge(verdicts), policy="robust")
    (sheet, *_) = task_sheets(make_report([tmp_path]).tasks[0])
    # What differs stands in a table of its own.
    assert "Asked and scored with: prompt style default, frames 2." in sheet.footnotes


def test_what_spoils_a_number_stands_beside_it(tmp_path: Path) -> None:
    (task,) = make_report([two_runs(tmp_path)]).tasks
    (sheet, *_) = task_sheets(task)
    assert [row[-1] for row in sheet.rows] == ["1 unreadable", "1 without answer, 1 unreadable"]


def test_a_run_of_fewer_items_says_so_in_every_form(tmp_path: Path) -> None:
    items = choice_items(8)
    lacking = "the run has 8 of 4000 items"
    write_run(tmp_path / "a/choices", letters(RIGHT, items), items, partial=lacking)
    write_run(tmp_path / "b/choices", letters(RIGHT, items), items, model="./models/other")
    report = make_report([tmp_path])
    for form in (as_plain, as_markdown):
        assert f"tiny is partial: {lacking}." in " ".join(form(report).split())
    rows = list(csv.DictReader(io.StringIO(as_csv(report))))
    assert {row["partial"] for row in rows if row["run"] == "tiny" and row["errors"]} == {lacking}
    assert {row["partial"] for row in rows if row["run"] == "other"} == {""}
    assert "other is partial" not in as_plain(report)


def test_an_interval_without_width_is_explained(tmp_path: Path) -> None:
    write_run(tmp_path / "all", letters([True] * 8, choice_items(8)))
    write_run(tmp_path / "some", letters(RIGHT, choice_items(8)))
    words = "An interval without width"
    for name, is_there in (("all", True), ("some", False)):
        (sheet, *_) = task_sheets(make_report([tmp_path / name]).tasks[0])
        assert any(note.startswith(words) for note in sheet.footnotes) == is_there


def test_models_differ_in_more_than_their_chat_templates(tmp_path: Path) -> None:
    """Every model has its own; two runs of one model do not."""
    answers = letters(RIGHT, choice_items(8))
    for name, model, template in (("a", "./one", "1"), ("b", "./other", "2"), ("c", "./one", "3")):
        write_run(tmp_path / name, answers, model=model, settings={"chat_template": template})
    assert make_report([tmp_path / "a", tmp_path / "b"]).tasks[0].differing == {}
    assert make_report([tmp_path / "a", tmp_path / "c"]).tasks[0].differing == {"chat_template": ["1", "3"]}


def test_markdown_shows_names_as_they_are(tmp_path: Path) -> None:
    """Signs that mean something in Markdown or HTML mean nothing in a name."""
    title = "Choices|<b>*x*"
    write_run(tmp_path / "run", letters(RIGHT, choice_items(8)), task=choice_task(title=title), model="a_b|c")
    text = as_markdown(make_report([tmp_path / "run"]))
    assert "## Choices\\|&lt;b&gt;\\*x\\*" in text
    assert "| a\\_b\\|c |" in text
    assert "- A note." in text


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("absent", "there is no such folder"),
        ("empty", "holds no result.json"),
        ("unfinished", "a run that is not finished"),
        ("file", "is a file"),
        ("broken", "cannot be read"),
        ("foreign", "has no 'title'"),
    ],
)
def test_what_is_no_result_is_told(tmp_path: Path, damage: str, message: str) -> None:
    folder = tmp_path / "run"
    if damage == "file":
        folder.write_text("x")
    elif damage != "absent":
        folder.mkdir()
    if damage == "unfinished":
        (folder / "records.jsonl").write_text('{"id": "1", "answers": ["x"]}\n')
    if damage in ("broken", "foreign"):
        (folder / "result.json").write_text("{" if damage == "broken" else '{"task": "x"}')
    with pytest.raises(ValueError, match=message) as told:
        load_runs([folder])
    assert str(folder) in str(told.value)


def test_items_that_are_damaged_are_told(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", letters(RIGHT, choice_items(8)))
    (run,) = load_runs([folder])
    assert len(run.items()) == 8
    (folder / "items.jsonl").write_text('{"id": "1"}\n{"name": 2}\n')
    with pytest.raises(ValueError, match=r"items\.jsonl, line 2 is no item"):
        run.items()
    (folder / "items.jsonl").unlink()
    with pytest.raises(ValueError, match=r"items\.jsonl is missing"):
        run.items()
