"""Share of short answers that agree with their reference, as a module of `evaluate`."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from hf_videollm.evaluation.aggregate import Groups, exact_match_accuracy

DESCRIPTION = """Share of short free answers that agree with the reference, or with one of several. What is left out of
account (case, punctuation, articles) is a named rule, because it differs from paper to paper."""

INPUTS = """
Args:
    predictions: what the model wrote, one text for each question.
    references: what is right; one text for each question, or for each question a list of acceptable ones.
    rule: key of hf_videollm.evaluation.exact_match.MATCH_RULES, "folded" by default.
    groups: name of a table -> one label for each question, e.g. {"type": ["Counting", "Location"]}.
Returns:
    accuracy, count, correct, empty, rule and groups, as hf_videollm.evaluation.aggregate.summarize_matches describes
    them.
"""


class ExactMatchQa(evaluate.Metric):
    """See `INPUTS`."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        # The first that fits is taken, and a text would fit where a list of texts is expected.
        features = [
            datasets.Features({"predictions": text, "references": text}),
            datasets.Features({"predictions": text, "references": datasets.Sequence(text)}),
        ]
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[str | Sequence[str]],
        rule: str = "folded",
        groups: Groups | None = None,
    ) -> dict[str, Any]:
        return exact_match_accuracy(predictions, references, rule=rule, groups=groups)
