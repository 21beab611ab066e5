"""Accuracy of answers to multiple-choice questions, as a module of `evaluate`."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from hf_videollm.evaluation.aggregate import Groups, multiple_choice_accuracy

DESCRIPTION = """Accuracy of free texts that answer multiple-choice questions. Each text is read by a named rule: the
package's own ("robust") or one of the papers' evaluations. Answers that the rule cannot read are wrong and counted."""

INPUTS = """
Args:
    predictions: what the model wrote, one text for each question.
    references: numbers of the right options, counted from 0.
    options: texts of the options of each question, without letters.
    rule: key of hf_videollm.evaluation.multiple_choice.CHOICE_RULES, "robust" by default.
    fallback: what stands in for an answer that cannot be read: "none" (default), "random", "third", "first" or "last".
    seed: of the random fallback.
    keys: ids of the questions, which the random fallback needs.
    groups: name of a table -> one label for each question, e.g. {"duration": ["short", "long"]}.
Returns:
    accuracy, accuracy_of_parsed, count, correct, parse_failures, parse_failure_rate, failures, fallbacks, rules and
    groups, as hf_videollm.evaluation.aggregate.summarize_choices describes them.
"""


class McAccuracy(evaluate.Metric):
    """See `INPUTS`."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(
            {
                "predictions": datasets.Value("string"),
                "references": datasets.Value("int64"),
                "options": datasets.Sequence(datasets.Value("string")),
            }
        )
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[int],
        options: Sequence[Sequence[str]],
        rule: str = "robust",
        fallback: str = "none",
        seed: int = 0,
        keys: Sequence[str] | None = None,
        groups: Groups | None = None,
    ) -> dict[str, Any]:
        return multiple_choice_accuracy(
            predictions, references, options, rule=rule, fallback=fallback, seed=seed, keys=keys, groups=groups
        )
