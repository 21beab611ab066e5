"""The modules of `evaluate`: loaded from the package's folders, without network, with the numbers of the functions."""

import socket
from pathlib import Path
from typing import Any

import evaluate
import pytest

from hf_videollm.evaluation.aggregate import exact_match_accuracy, multiple_choice_accuracy
from hf_videollm.evaluation.aggregate_judged import judged_accuracy, msvc_scores, vcg_scores
from hf_videollm.evaluation.judges.items import Judgement
from hf_videollm.evaluation.metrics import METRICS, load_metric, metric_path

OPTIONS = [["a dog", "a man"], ["red", "blue", "green"], ["yes", "no"]]
ANSWERS = {"predictions": ["(B) a man", "no idea", "yes"], "references": [1, 2, 1]}
GROUPS = {"task": ["x", "x", "y"]}
VERDICTS = {"predictions": ["yes", "yes", "yes", "no", ""], "scores": [5, 4, 4, 1, None], "failed": [0, 0, 0, 0, 1]}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a metric asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_multiple_choice() -> None:
    metric = load_metric("mc_accuracy")
    for options in ({}, {"rule": "videollama2", "fallback": "third"}, {"fallback": "random", "keys": list("abc")}):
        result = metric.compute(**ANSWERS, options=OPTIONS, groups=GROUPS, **options)
        assert result == multiple_choice_accuracy(*ANSWERS.values(), OPTIONS, groups=GROUPS, **options)
    assert result["parse_failures"] == 1


def test_batches_are_one_result() -> None:
    metric = load_metric("mc_accuracy")
    for index in range(3):
        columns = {name: column[index : index + 1] for name, column in {**ANSWERS, "options": OPTIONS}.items()}
        metric.add_batch(**columns)
    assert metric.compute() == multiple_choice_accuracy(*ANSWERS.values(), OPTIONS)


@pytest.mark.parametrize("references", [["guitar", "yes"], [["piano", "guitar"], ["yes"]]])
def test_exact_match(references: list[Any]) -> None:
    result = load_metric("exact_match_qa").compute(predictions=["Guitar.", "no"], references=references)
    assert result == exact_match_accuracy(["Guitar.", "no"], references)
    assert result["accuracy"] == 0.5


@pytest.mark.parametrize(("policy", "accuracy"), [("video_chatgpt", 0.75), ("pllava", 0.6), ("videollama2_av", 0.6)])
def test_judged(policy: str, accuracy: float) -> None:
    result = load_metric("judged_qa").compute(**VERDICTS, policy=policy)
    assert result["accuracy"] == accuracy
    rows = [
        Judgement(True, 5),
        Judgement(True, 4),
        Judgement(True, 4),
        Judgement(False, 1),
        Judgement(None, None, failed=True),
    ]
    assert result == judged_accuracy(rows, policy)


@pytest.mark.parametrize(
    ("name", "function", "aspects"),
    [("vcg", vcg_scores, ["correctness", "temporal"]), ("msvc", msvc_scores, ["correctness", "detailedness"])],
)
def test_aspects(name: str, function: Any, aspects: list[str]) -> None:
    result = load_metric(name).compute(aspects=aspects, scores=[4, None], failed=[False, True], policy="pllava")
    assert result == function(aspects, [Judgement(None, 4), Judgement(None, None, failed=True)], "pllava")


@pytest.mark.parametrize("name", METRICS)
def test_each_is_loaded_by_its_path_and_says_how_it_is_used(name: str) -> None:
    metric = evaluate.load(metric_path(name))
    assert metric.name == name
    assert "Args:" in metric.inputs_description
    assert "Returns:" in metric.inputs_description
    assert metric.description


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="did you mean mc_accuracy"):
        load_metric("mc_acuracy")


def test_every_folder_is_listed() -> None:
    folder = Path(metric_path("vcg")).parent
    assert {path.parent.name for path in folder.glob("*/*.py")} == set(METRICS)
    assert all((folder / name / f"{name}.py").is_file() for name in METRICS)
