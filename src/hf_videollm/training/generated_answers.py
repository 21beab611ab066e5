"""Lets a model answer the rows of an evaluation set during training, and compares with the answers of the rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from transformers import BatchFeature

from ..models.video_llm_checked_processor import CheckedProcessor, cast_row
from .collator import VideoDataCollator

__all__ = ["answer_rows", "exact_match"]


def answer_rows(
    model: Any,
    collator: VideoDataCollator,
    rows: Iterable[Mapping[str, Any]],
    batch_size: int,
    options: Mapping[str, Any],
    rank: int = 0,
    world_size: int = 1,
) -> tuple[list[str], list[str]]:
    """The model's answers to the last question of each row, and the answers of the rows.

    Args:
        model: the model, not wrapped for training on several devices; it is in evaluation mode meanwhile.
        collator: makes the prompts.
        rows: of the evaluation set.
        batch_size: rows that are answered at once.
        options: of `model.generate`; answers are greedy unless they say otherwise.
        rank: of this process, which answers each `world_size`-th row.
        world_size: number of processes.

    Returns:
        Answers and references, in the order of the rows of this process.
    """
    answers: list[str] = []
    references: list[str] = []
    was_training = model.training
    model.eval()
    try:
        for batch in _batches(islice(rows, rank, None, world_size), batch_size):
            inputs, expected = collator.prompts(batch)
            with torch.no_grad():
                tokens = model.generate(
                    **_for_model(inputs, model, collator.processor),
                    **{"do_sample": False, "use_cache": True, **options},
                )
            new = tokens[:, inputs["input_ids"].shape[1] :]
            answers += collator.processor.batch_decode(new, skip_special_tokens=True)
            references += expected
    finally:
        model.train(was_training)
    return [answer.strip() for answer in answers], [text.strip() for text in references]


def exact_match(answers: list[str], references: list[str]) -> float:
    """Share of the answers that are equal to their references.

    Example:
        >>> exact_match(["red", "a dog"], ["red", "A dog"])
        0.5
    """
    return sum(answer == text for answer, text in zip(answers, references, strict=True)) / len(answers)


def _batches(rows: Iterator[Mapping[str, Any]], size: int) -> Iterator[list[Mapping[str, Any]]]:
    while batch := list(islice(rows, size)):
        yield batch


def _for_model(inputs: Any, model: Any, processor: Any) -> dict[str, Any]:
    """The inputs on the model's device and in its precision."""
    exact = processor.EXACT_KEYS if isinstance(processor, CheckedProcessor) else ()
    cast = cast_row(BatchFeature(dict(inputs)), model.dtype, exact)
    return {name: value.to(model.device) if isinstance(value, torch.Tensor) else value for name, value in cast.items()}
