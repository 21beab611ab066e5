"""The two scores of MSVC, as a module of `evaluate`."""

from collections.abc import Sequence
from typing import Any

import evaluate

from hf_videollm.evaluation.aggregate_judged import msvc_scores, scored_judgements
from hf_videollm.evaluation.metrics import aspect_features

DESCRIPTION = """The mean scores of VideoLLaMA2's captioning benchmark MSVC: correctness and detailedness."""

INPUTS = """
Args:
    aspects: what each score is about: "correctness" or "detailedness".
    scores: the judge's scores; None where there is none.
    failed: whether the judge's reply could not be read, or never came.
    policy: what failures count as, a key of hf_videollm.evaluation.judges.policies.POLICIES, "videollama2" by
        default.
Returns:
    aspects, macro, micro, share_of_good_scores, count, judge_failures, judge_failure_rate, missing_aspects and policy,
    as hf_videollm.evaluation.aggregate_judged.aspect_scores describes them.
"""


class Msvc(evaluate.Metric):
    """See `INPUTS`."""

    def _info(self) -> evaluate.MetricInfo:
        features = aspect_features()
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(
        self,
        predictions: None = None,
        references: None = None,
        *,
        aspects: Sequence[str],
        scores: Sequence[float | None],
        failed: Sequence[bool],
        policy: str = "videollama2",
    ) -> dict[str, Any]:
        return msvc_scores(aspects, scored_judgements(scores, failed), policy)
