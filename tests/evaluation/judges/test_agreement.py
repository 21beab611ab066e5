"""Agreement of a judge with people: the numbers against values from elsewhere, files that are wrong, and the counts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge_server import Answer, Messages, judge_server
from rich.console import Console

from hf_videollm.evaluation.aggregate_judged import judged_accuracy
from hf_videollm.evaluation.judges.agreement import (
    cohen_kappa,
    compare_with_people,
    measure_agreement,
    pearson,
    spearman,
)
from hf_videollm.evaluation.judges.backends.openai import OpenAIJudge
from hf_videollm.evaluation.judges.backends.protocol import describe_judge
from hf_videollm.evaluation.judges.backends.rule import RuleJudge
from hf_videollm.evaluation.judges.human_labels import HumanLabel, HumanLabelError, read_human_labels
from hf_videollm.evaluation.judges.items import JudgeItem, Judgement
from hf_videollm.evaluation.judges.policies import get_policy
from hf_videollm.evaluation.judges.run import judge_items
from hf_videollm.evaluation.judges.texts import get_text

ROW: dict[str, Any] = {"id": "1", "question": "Who?", "answer": "a dog", "prediction": "a cat", "label": "no"}
FACTS = describe_judge(RuleJudge(), get_policy("robust"))


def test_kappa_of_a_textbook_table() -> None:
    """Both yes 20, both no 15, first alone 5, second alone 10: observed 0.7, expected 0.5 * 0.6 + 0.5 * 0.4 = 0.5."""
    pairs = [(True, True)] * 20 + [(False, False)] * 15 + [(True, False)] * 5 + [(False, True)] * 10
    assert cohen_kappa(pairs) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("pairs", "kappa"),
    [
        ([], None),
        ([(True, True)] * 3, None),  # chance gives this, too
        ([(True, True), (False, False)], 1.0),
        ([(True, False), (False, True)], -1.0),
        ([(True, True), (True, False), (False, True), (False, False)], 0.0),
    ],
)
def test_kappa_at_its_ends(pairs: list[tuple[bool, bool]], kappa: float | None) -> None:
    assert cohen_kappa(pairs) == kappa


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=3, max_size=12))
def test_correlations_are_those_of_numpy(pairs: list[tuple[float, float]]) -> None:
    first, second = (np.array(side, dtype=float) for side in zip(*pairs, strict=True))
    if len(set(first)) > 1 and len(set(second)) > 1:
        assert pearson(pairs) == pytest.approx(np.corrcoef(first, second)[0, 1], abs=1e-9)
        # The rank of a value: how many are smaller, and the middle of those that are equal.
        ranks = [[sum(side < x) + (sum(side == x) + 1) / 2 for x in side] for side in (first, second)]
        assert spearman(pairs) == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-9)
    else:
        assert pearson(pairs) is spearman(pairs) is None


def test_spearman_by_hand() -> None:
    """Without ties: 1 - 6 * sum(d^2) / (n * (n^2 - 1)), here with d = 1, 1, 1, 1, 0. With ties: sqrt(1/2)."""
    assert spearman([(1, 2), (2, 1), (3, 4), (4, 3), (5, 7)]) == pytest.approx(1 - 6 * 4 / (5 * 24))
    assert spearman([(1, 1), (2, 1), (2, 3), (4, 3)]) == pytest.approx(0.5**0.5)
    assert spearman([(1, 1)]) is pearson([(1, 1)]) is pearson([]) is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_correlations_lie_between_minus_one_and_one(pairs: list[tuple[float, float]]) -> None:
    for correlation in (pearson(pairs), spearman(pairs)):
        assert correlation is None or -1.000001 <= correlation <= 1.000001
    # The rank does not change when larger scores are stretched.
    stretched = [(first, second**3) for first, second in pairs]
    assert spearman(stretched) == spearman(pairs)


def make_label(number: int, label: bool, score: float | None = None) -> HumanLabel:
    return HumanLabel(str(number), "q", "a", "p", label, score)


def test_failures_agree_with_nobody_and_are_counted() -> None:
    labels = [make_label(0, True, 5), make_label(1, True, 4), make_label(2, False, 0), make_label(3, False)]
    judgements = [
        Judgement(True, 4),
        Judgement(None, None, failed=True),
        Judgement(True, 1),
        Judgement(None, 3),  # a score, and a verdict that is neither yes nor no
    ]
    report = compare_with_people(labels, judgements, FACTS)
    assert (report.items, report.judged, report.judge_errors) == (4, 2, 2)
    assert (report.accuracy, report.accuracy_with_errors, report.scored) == (0.5, 0.25, 2)
    assert report.confusion == {"yes": {"yes": 1, "no": 0, "error": 1}, "no": {"yes": 1, "no": 0, "error": 1}}
    assert report.pearson == pytest.approx(1.0)
    everything_failed = compare_with_people(labels[:1], judgements[1:2], FACTS)
    assert (everything_failed.accuracy, everything_failed.kappa, everything_failed.accuracy_with_errors) == (
        None,
        None,
        0.0,
    )
    json.dumps(report.to_dict())


def test_answers_without_a_verdict_are_named() -> None:
    labels = [make_label(number, True) for number in range(40)]
    failed = Judgement(None, None, failed=True, error="no reply [in] 5 seconds")
    report = compare_with_people(labels, [Judgement(True, 4), Judgement(None, 3), *[failed] * 38], FACTS)
    assert [failure["id"] for failure in report.to_dict()["failures"]] == [str(number) for number in range(1, 40)]
    assert report.failures[0]["error"] == "the reply gives no verdict"
    console = Console(record=True, width=100)
    console.print(report.render())
    text = console.export_text()
    assert "2: no reply [in] 5 seconds" in text
    assert "... and 19 more" in text
    # The control: without failures, nothing is said of them.
    console.print(compare_with_people(labels[:1], [Judgement(True, 4)], FACTS).render())
    assert "Without a verdict" not in console.export_text()


def test_a_judge_is_measured() -> None:
    labels = [HumanLabel(str(i), f"Is {i} even?", "yes", str(i), i % 2 == 0) for i in range(8)]

    def knows_small_numbers(messages: Messages) -> Answer:
        number = int(messages[-1]["content"].split("Is ")[1].split(" even?")[0])
        return Answer("?" if number == 7 else str({"pred": "no" if number % 2 or number > 5 else "yes", "score": 3}))

    with judge_server(reply=knows_small_numbers) as server:
        judge = OpenAIJudge("m", base_url=server.url, sleep=lambda _: None)
        report = measure_agreement(labels, get_text("qa"), get_policy("robust"), judge)
    assert report.confusion == {"yes": {"yes": 3, "no": 1, "error": 0}, "no": {"yes": 0, "no": 3, "error": 1}}
    assert report.accuracy == pytest.approx(6 / 7)
    assert (report.pearson, report.judge["judge"], report.judge["judge_model"]) == (None, "openai", "m")
    with pytest.raises(ValueError, match="judge_text=mmbench_video asks for no verdict"):
        measure_agreement(labels, get_text("mmbench_video"), get_policy("robust"), RuleJudge())


# Files


def write(folder: Path, *rows: Any) -> Path:
    path = folder / "labels.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_labels_are_read(tmp_path: Path) -> None:
    rows = [ROW, "", {**ROW, "id": "2", "label": True, "score": 4.5, "metadata": {"by": "me"}, "prediction": ""}]
    first, second = read_human_labels(write(tmp_path, *rows))
    assert first == HumanLabel("1", "Who?", "a dog", "a cat", False)
    assert (second.label, second.score, second.prediction) == (True, 4.5, "")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label": "maybe"}, "line 2: 'label' must be yes or no, not 'maybe'"),
        ({"label": None}, "'label' must be yes or no"),
        ({"label": 1}, "'label' must be yes or no"),
        ({"id": ""}, "'id' is empty"),
        ({"id": 7}, "'id' must be a text"),
        ({"id": "1"}, "line 2: the id '1' was already used on line 1"),
        ({"answer": None}, "'answer' must be a text"),
        ({"score": "4"}, "'score' must be a number, not '4'"),
        ({"score": True}, "'score' must be a number"),
        ({"pred": "x"}, "unknown key 'pred': known are answer, id, label"),
        ({"scores": 3}, "unknown key 'scores': did you mean score"),
        ("{", "line 2: not valid JSON"),
        ("[1]", "line 2: expected an object"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, row: Any, message: str) -> None:
    path = write(tmp_path, ROW, row if isinstance(row, str) else {**ROW, "id": "2", **row})
    with pytest.raises(HumanLabelError, match=message) as error:
        read_human_labels(path)
    assert str(error.value).startswith(f"{path}, line 2: ")


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file of human labels"):
        read_human_labels(tmp_path / "gone.jsonl")
    with pytest.raises(IsADirectoryError, match="give the file"):
        read_human_labels(tmp_path)
    with pytest.raises(HumanLabelError, match="holds no labels"):
        read_human_labels(write(tmp_path, "", " "))
    (tmp_path / "labels.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(HumanLabelError, match="not UTF-8"):
        read_human_labels(tmp_path / "labels.jsonl")


# Counting


@pytest.mark.parametrize(
    ("policy", "accuracy"),
    [("video_chatgpt", 0.75), ("pllava", 0.6), ("videollama2_av", 0.6), ("lmms_eval", 0.6), ("robust", 0.75)],
)
def test_three_yes_one_no_and_one_failure(policy: str, accuracy: float) -> None:
    def reply(messages: Messages) -> Answer:
        number = int(messages[-1]["content"].split("What is ")[1].split("?")[0])
        return Answer(("yes", "yes", "yes", "no", "none")[number] if number == 4 else _verdict(number))

    items = [
        JudgeItem(str(i), get_text("qa"), {"question": f"What is {i}?", "answer": "a", "pred": "p"}) for i in range(5)
    ]
    if policy == "videollama2_av":
        items = [JudgeItem(item.id, get_text("avqa_code"), item.values) for item in items]
    with judge_server(reply=reply) as server:
        judge = OpenAIJudge("m", base_url=server.url, sleep=lambda _: None)
        judgements = judge_items(items, get_policy(policy), judge)
    assert judged_accuracy(judgements, policy)["accuracy"] == pytest.approx(accuracy)


def _verdict(number: int) -> str:
    word = "yes" if number < 3 else "no"
    return str({"pred": word, "binary_pred": word, "score": 4})
