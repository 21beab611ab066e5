"""The models of this package for lmms-eval: `lmms-eval --model hf_videollm --model_args pretrained=./pllava-7b`.

The entry point `lmms_eval.models` of this package names `manifest`, so lmms-eval finds it wherever both are installed.
This file needs lmms-eval; everything that it does stands in `lmms_eval_model.py`, which does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmms_eval.api.instance import GenerationResult  # type: ignore[import-not-found]
from lmms_eval.api.model import lmms  # type: ignore[import-not-found]
from lmms_eval.models.registry_v2 import ModelManifest  # type: ignore[import-not-found]

from .lmms_eval_model import LmmsEvalModel

__all__ = ["HfVideoLlm", "HfVideoLlmSimple", "manifest"]


class HfVideoLlm(LmmsEvalModel, lmms):
    """For chat requests, which tell where the part of a video that is asked about begins and ends."""

    is_simple = False


class HfVideoLlmSimple(LmmsEvalModel, lmms):
    """For simple requests: lmms-eval asks for likelihoods in this form alone (`--force_simple`)."""

    is_simple = True

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """As `LmmsEvalModel.loglikelihood`, in the form that reaches the task."""
        # lmms-eval 0.7.3 makes a text of a plain (loss, is_greedy), and passes on what a GenerationResult holds.
        return [GenerationResult(text=result) for result in super().loglikelihood(requests)]


def manifest() -> ModelManifest:
    """What lmms-eval registers."""
    return ModelManifest(
        model_id="hf_videollm",
        simple_class_path=f"{__name__}.HfVideoLlmSimple",
        chat_class_path=f"{__name__}.HfVideoLlm",
        aliases=("hf-videollm",),
    )
