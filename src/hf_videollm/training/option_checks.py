"""Checks options of `make_trainer` that transformers would look at only while a training runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ..models.video_llm_checked_processor import CheckedProcessor
from ..models.video_llm_checkpoint import freeze_unused_parameters
from ..models.video_llm_generation_options import GENERATE_OPTIONS
from ..models.video_llm_option_names import refuse_unknown
from .recipe_errors import is_number
from .recipe_settings import as_number
from .trainable import check_rate_patterns, compiled

__all__ = ["check_generate", "check_patterns", "check_processor_kwargs", "check_rates"]

_MORE_OPTIONS = {"max_new_tokens", "max_length"}


def check_rates(rates: Mapping[str, Any] | None) -> dict[str, float]:
    """The learning rates of parts as numbers. A text such as `1e-3`, which YAML makes of one, counts as its number.

    Raises:
        ValueError: a pattern is no regular expression, or a rate is no number.
    """
    checked = {}
    for pattern, given in (rates or {}).items():
        compiled(pattern, "learning_rates")
        rate = as_number(given)
        if not is_number(rate) or not math.isfinite(rate) or rate < 0:
            raise ValueError(f"learning_rates: the rate of {pattern!r} must be a number, 0 or more, not {given!r}.")
        checked[pattern] = float(rate)
    return checked


def check_patterns(patterns: Iterable[str], source: str) -> None:
    """Refuse patterns that match no parameter of a checkpoint, before its weights are read.

    Raises:
        ValueError: there is one.
    """
    from .sketch import config_for_training, sketch_model

    model = sketch_model(config_for_training(source))
    freeze_unused_parameters(model)
    check_rate_patterns(patterns, model)


def check_generate(options: Mapping[str, Any], processor: Any) -> None:
    """Refuse options that `model.generate` does not have.

    Args:
        options: of `model.generate`.
        processor: of the model; it names options that the design adds.

    Raises:
        TypeError: there is one; the message names a similar one.
    """
    own = set(processor.MODEL_OPTIONS) if isinstance(processor, CheckedProcessor) else set()
    refuse_unknown(options, GENERATE_OPTIONS | _MORE_OPTIONS | own, "model.generate (the argument generate)")


def check_processor_kwargs(processor: Any, options: Mapping[str, Any] | None) -> None:
    """Refuse options that the processor does not have.

    Raises:
        TypeError: there is one; the message names a similar one.
    """
    if isinstance(processor, CheckedProcessor):
        processor.check_options(options or {})
