"""Accuracy and score of answers that a judge has compared with the right ones, as a module of `evaluate`."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from hf_videollm.evaluation.aggregate import Groups
from hf_videollm.evaluation.aggregate_judged import judged_accuracy, judgement_of

DESCRIPTION = """Accuracy and mean score of a judge's verdicts on open answers. What a failed judgement counts as is a
named policy, because it differs from paper to paper. Failures are always counted."""

INPUTS = """
Args:
    predictions: the judge's verdicts, "yes" or "no" for each question; an empty text where there is none.
    scores: the judge's scores; None where there is none.
    failed: whether the judge's reply could not be read, or never came.
    policy: key of hf_videollm.evaluation.judges.policies.POLICIES, "video_chatgpt" by default.
    groups: name of a table -> one label for each question.
Returns:
    accuracy, score, both of them with failures left out and as wrong, count, yes, no, undecided, judge_failures,
    judge_failure_rate, policy and groups, as hf_videollm.evaluation.aggregate_judged.judged_accuracy describes them.
"""


class JudgedQa(evaluate.Metric):
    """See `INPUTS`."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(
            {
                "predictions": datasets.Value("string"),
                "scores": datasets.Value("float64"),
                "failed": datasets.Value("bool"),
            }
        )
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(
        self,
        predictions: Sequence[str],
        scores: Sequence[float | None],
        failed: Sequence[bool],
        policy: str = "video_chatgpt",
        groups: Groups | None = None,
    ) -> dict[str, Any]:
        return judged_accuracy(list(map(judgement_of, predictions, scores, failed)), policy, groups)
