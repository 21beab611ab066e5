"""The picture holds every number at its place, and tells what was measured from what papers print."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from finished_runs import choice_items, choice_task, judge, letters, open_items, write_run

from hf_videollm.evaluation.report.plot import LABELS, RIGHT, WIDTH, as_svg
from hf_videollm.evaluation.report.report import make_report
from hf_videollm.evaluation.tasks import find_task

NAMES = {"svg": "http://www.w3.org/2000/svg"}


def test_points_stand_where_their_numbers_are(tmp_path: Path) -> None:
    items = choice_items(8)
    for name, num_right in (("a", 8), ("b", 2)):
        answers = letters([number < num_right for number in range(8)], items)
        write_run(tmp_path / name, answers, items, choice_task(title="<Choices>"), model=name)
    picture = ElementTree.fromstring(as_svg(make_report([tmp_path])))
    places = [float(circle.get("cx", "")) for circle in picture.iterfind(".//svg:circle", NAMES)]
    room = WIDTH - LABELS - RIGHT
    assert places == pytest.approx([LABELS + room, LABELS + room / 4], abs=0.1)
    bars = picture.findall(".//svg:line[@class='bar']", NAMES)
    assert len(bars) == 2
    assert float(bars[1].get("x1", "")) < places[1] < float(bars[1].get("x2", ""))
    assert [text.text for text in picture.iterfind(".//svg:text[@class='title']", NAMES)] == ["<Choices>: accuracy (%)"]


def test_numbers_of_papers_are_open_and_named(tmp_path: Path) -> None:
    verdicts = {f"q{number}": (True, 4.0) for number in range(4)}
    write_run(tmp_path / "run", ["x"] * 4, open_items(), "msvd_qa", judge=judge(verdicts))
    alone, beside = (as_svg(make_report([tmp_path], papers=papers)) for papers in (False, True))
    assert "not measured here" not in alone
    assert "not measured here" in beside
    printed = ElementTree.fromstring(beside).findall(".//svg:path[@class='printed']/svg:title", NAMES)
    published = [number for models in find_task("msvd_qa").published.values() for number in models.values()]
    assert len(printed) == sum(len(numbers) for numbers in published)
    labels = [title.text for title in printed]
    # A model that is named after its paper needs no other name.
    assert {"PLLaVA 7B: 76.6", "IVA: Baseline (w/o IVA): 54.5"} <= set(labels)


def test_nothing_to_plot_is_told(tmp_path: Path) -> None:
    write_run(tmp_path / "run", ["x"] * 4, open_items(), "msvd_qa")
    with pytest.raises(ValueError, match="no run has a number"):
        as_svg(make_report([tmp_path]))


def test_values_stand_beside_the_points(tmp_path: Path) -> None:
    verdicts = {f"q{number}": (number < 3, 4.0) for number in range(4)}
    write_run(tmp_path / "run", ["x"] * 4, open_items(), "msvd_qa", judge=judge(verdicts))
    svg = as_svg(make_report([tmp_path], papers=True))
    assert all(f">{value}</text>" in svg for value in ("75.0", "4.00", "76.6", "4.1"))
