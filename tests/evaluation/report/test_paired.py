"""Two runs item by item: the numbers are those of `compare_runs`, and only what is alike is compared."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from finished_runs import choice_items, judge, letters, open_items, write_run

from hf_videollm.evaluation.aggregate_judged import MSVC_ASPECTS
from hf_videollm.evaluation.macro_statistics import compare_macro
from hf_videollm.evaluation.report.loading import load_runs
from hf_videollm.evaluation.report.paired import Paired, compare_loaded
from hf_videollm.evaluation.report.report import make_report
from hf_videollm.evaluation.statistics import compare_runs
from hf_videollm.models.errors import MediaNotFound

FIRST = [True, True, True, False, True, False, False, False]
SECOND = [True, True, True, True, True, True, False, None]


def compared(first: Path, second: Path) -> list[Paired]:
    return compare_loaded(load_runs([first]), load_runs([second]))


def test_the_numbers_are_those_of_the_items(tmp_path: Path) -> None:
    items = choice_items(8)
    first = write_run(tmp_path / "a", letters(FIRST, items), items)
    second = write_run(tmp_path / "b", letters(SECOND, items), items)
    pair, by_duration = compared(first, second)
    videos = {item.id: str(item.media[0].path) for item in items}
    values = [
        {item.id: float(bool(right)) for item, right in zip(items, column, strict=True)} for column in (FIRST, SECOND)
    ]
    assert pair.comparison == compare_runs(*values, videos)
    assert (pair.over, by_duration.over) == (None, "duration")
    assert by_duration.comparison == compare_macro(
        *values, {item.id: item.groups["duration"] for item in items}, videos
    )
    assert (pair.comparison.only_first, pair.comparison.only_second) == (0, 2)
    assert (pair.number, pair.num_items, pair.left_out, pair.differing) == ("accuracy", 8, 0, ())
    assert compared(first, first)[0].comparison.p_value == 1.0


def test_items_without_answer_are_left_out_and_counted(tmp_path: Path) -> None:
    items = choice_items(8)
    answers: list[Any] = letters(FIRST, items)
    answers[0] = MediaNotFound("gone")
    first = write_run(tmp_path / "a", answers, items)
    second = write_run(tmp_path / "b", letters(SECOND, items), items, frames=(0,))
    pair, by_duration = compared(first, second)
    assert (by_duration.num_items, by_duration.left_out) == (7, 1)
    assert (pair.num_items, pair.left_out) == (7, 1)
    assert pair.differing == ("processor_options.num_frames", "frames")


def test_judged_runs_are_compared_by_accuracy_and_score(tmp_path: Path) -> None:
    """A judgement counts as the policy says: a failed one is wrong for PLLaVA, and left out for Video-ChatGPT."""
    verdicts = {"q0": (True, 5.0), "q1": (False, 1.0), "q2": (True, 4.5)}
    for policy, num_items, mean, points in (("pllava", 4, 0.5, 10.5 / 4), ("video_chatgpt", 3, 2 / 3, 10 / 3)):
        folders = [tmp_path / policy / name for name in ("a", "b")]
        for folder in folders:
            write_run(folder, ["x"] * 4, open_items(), "msvd_qa", judge=judge(verdicts), policy=policy)
        accuracy, score = compared(*folders)
        assert (accuracy.number, accuracy.num_items, accuracy.comparison.first) == ("accuracy", num_items, mean)
        assert (score.number, score.num_items, score.left_out) == ("score", num_items, 4 - num_items)
        assert score.comparison.first == pytest.approx(points)
        metrics = load_runs([folders[0]])[0].result["metrics"]
        assert (metrics["accuracy"], metrics["score"]) == pytest.approx((mean, points))
        assert metrics["intervals"]["score"]["estimate"] == pytest.approx(points)
        assert score.comparison.p_value is None


def test_only_the_same_items_are_compared(tmp_path: Path) -> None:
    items = choice_items(8)
    first = write_run(tmp_path / "a", letters(FIRST, items), items)
    fewer = write_run(tmp_path / "b", letters(FIRST[:4], items[:4]), items[:4])
    with pytest.raises(ValueError, match=r"do not have the same items: 'q4', 'q5', 'q6' and 1 more only in the first"):
        compared(first, fewer)
    others = [replace(items[0], questions=("Another?",)), *items[1:]]
    other = write_run(tmp_path / "c", letters(FIRST, others), others)
    with pytest.raises(ValueError, match="item 'q0' has other questions"):
        compared(first, other)
    foreign = write_run(tmp_path / "d", ["x"] * 4, open_items(), "msvd_qa")
    with pytest.raises(ValueError, match="no task in common: choices in the first, msvd_qa in the second"):
        compared(first, foreign)
    with pytest.raises(ValueError, match="are both of choices"):
        compare_loaded(load_runs([first, fewer]), load_runs([first]))


def test_a_report_tells_the_two_runs_apart(tmp_path: Path) -> None:
    items = choice_items(8)
    for name, right in (("a", FIRST), ("b", SECOND)):
        write_run(tmp_path / name / "choices", letters(right, items), items)
    report = make_report([], compare=[tmp_path / "a", tmp_path / "b"])
    pair, _ = report.pairs
    assert (pair.first, pair.second) == ("tiny (a)", "tiny (b)")
    assert len(report.runs) == 2


def test_aspects_are_compared_by_their_mean(tmp_path: Path) -> None:
    """VCG and MSVC judge an item several times; their number is the mean over the aspects."""
    items = [replace(item, references=(item.answer or "",)) for item in open_items(4)]
    folders = []
    for name, points in (("a", 2.0), ("b", 3.0)):
        verdicts = {f"{item.id}/{aspect}": (None, points) for item in items for aspect in MSVC_ASPECTS}
        folders.append(write_run(tmp_path / name, ["x"] * 4, items, "msvc", judge=judge(verdicts)))
    pairs = {pair.over: pair for pair in compared(*folders)}
    found = pairs["aspects"].comparison
    assert (found.first, found.second, found.difference.estimate) == (2.0, 3.0, 1.0)
    assert (found.difference.low, found.difference.high) == (1.0, 1.0)
    assert pairs["aspects"].num_items == 8
    metrics = load_runs([folders[0]])[0].result["metrics"]
    assert metrics["intervals"]["macro"]["estimate"] == metrics["macro"] == found.first


def test_aspects_without_a_judgement_are_not_compared(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, ["x"], open_items(1), "msvc", judge=judge({})) for name in ("a", "b")]
    assert compared(*folders) == []


def test_a_table_of_one_row_is_not_compared_again(tmp_path: Path) -> None:
    items = [replace(item, groups={"duration": "short"}) for item in choice_items(8)]
    folders = [write_run(tmp_path / name, letters(FIRST, items), items) for name in ("a", "b")]
    assert [pair.over for pair in compared(*folders)] == [None]
