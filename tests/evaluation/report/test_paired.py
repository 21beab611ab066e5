"""Two runs item by item: the numbers are those of `compare_runs`, and only what is alike is compared."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from finished_runs import choice_items, judge, letters, open_items, write_run

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
    (pair,) = compared(first, second)
    videos = {item.id: str(item.media[0].path) for item in items}
    expected = compare_runs(
        {item.id: float(bool(right)) for item, right in zip(items, FIRST, strict=True)},
        {item.id: float(bool(right)) for item, right in zip(items, SECOND, strict=True)},
        videos,
    )
    assert pair.comparison == expected
    assert (pair.comparison.only_first, pair.comparison.only_second) == (0, 2)
    assert (pair.number, pair.num_items, pair.left_out, pair.differing) == ("accuracy", 8, 0, ())
    assert compared(first, first)[0].comparison.p_value == 1.0


def test_items_without_answer_are_left_out_and_counted(tmp_path: Path) -> None:
    items = choice_items(8)
    answers: list[Any] = letters(FIRST, items)
    answers[0] = MediaNotFound("gone")
    first = write_run(tmp_path / "a", answers, items)
    second = write_run(tmp_path / "b", letters(SECOND, items), items, frames=(0,))
    (pair,) = compared(first, second)
    assert (pair.num_items, pair.left_out) == (7, 1)
    assert pair.differing == ("processor_options.num_frames", "frames")


def test_judged_runs_are_compared_by_accuracy_and_score(tmp_path: Path) -> None:
    """A failed judgement counts as the policy says: wrong for PLLaVA, left out for Video-ChatGPT."""
    verdicts = {"q0": (True, 5.0), "q1": (False, 1.0), "q2": (True, 4.0)}
    for policy, num_items, mean in (("pllava", 4, 0.5), ("video_chatgpt", 3, 2 / 3)):
        folders = [tmp_path / policy / name for name in ("a", "b")]
        for folder in folders:
            write_run(folder, ["x"] * 4, open_items(), "msvd_qa", judge=judge(verdicts), policy=policy)
        accuracy, score = compared(*folders)
        assert (accuracy.number, accuracy.num_items, accuracy.comparison.first) == ("accuracy", num_items, mean)
        assert (score.number, score.num_items, score.left_out) == ("score", 3, 1)
        assert score.comparison.first == pytest.approx(10 / 3)
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
    (pair,) = report.pairs
    assert (str(tmp_path / "a") in pair.first, str(tmp_path / "b") in pair.second) == (True, True)
    assert len(report.runs) == 2
