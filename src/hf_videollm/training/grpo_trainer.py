"""TRL's `GRPOTrainer` with media: in the rollouts, and in every forward that computes log-probabilities of answers.

TRL carries images from the rows to the model in arguments of its own, and knows no other media. Here the rows go
through TRL as text. Beside them, a list `rows` with the inputs of each prompt is shuffled and split as the rows are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from transformers import BatchFeature
from trl import GRPOTrainer

from ..models.video_llm_checked_processor import CheckedProcessor, cast_row
from .collator import VideoDataCollator
from .precision import Float32Mixin
from .preference_rows import prompt_row
from .prompt_inputs import PromptInputs, encode_prompts, join_media, token_fields
from .row_numbers import name_wrong_row
from .rows import MEDIA_COLUMNS
from .saving import SavingMixin

__all__ = ["VideoGRPOTrainer", "encode_rows"]


class VideoGRPOTrainer(SavingMixin, Float32Mixin, GRPOTrainer):
    """A `GRPOTrainer` whose rows have `prompt` and media."""

    def __init__(self, *args: Any, collator: VideoDataCollator, datasets: Mapping[str, Any], **kwargs: Any) -> None:
        """Args:
        collator: makes the inputs of prompts.
        datasets: what the rows come from, with names, for errors.
        kwargs: as in TRL.
        """
        self.collator, self.datasets = collator, datasets
        # The rows of the batch at hand, as they were given and as inputs.
        self._given: Sequence[Mapping[str, Any]] = []
        self._rows: Sequence[PromptInputs] = []
        super().__init__(*args, **kwargs)

    def _generate_and_score_completions(self, inputs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """As in TRL; the result also has `rows`, the inputs of each prompt."""
        self._given = inputs
        self._rows = name_wrong_row(partial(encode_rows, self.collator), inputs, self.datasets)
        columns = {column for pair in MEDIA_COLUMNS.values() for column in pair}
        # TRL looks for images in these columns and in the messages.
        texts = [
            {**{name: value for name, value in row.items() if name not in columns}, "prompt": _text(row["prompt"])}
            for row in inputs
        ]
        output: dict[str, Any] = super()._generate_and_score_completions(texts)
        return {**output, "rows": list(self._rows)}

    def _tokenize_prompts(self, prompts: Any) -> tuple[list[list[int]], None, dict[str, Any]]:
        """The inputs of the rows, which are encoded already."""
        tokens = dict.fromkeys(name for row in self._rows for name in row.tokens)
        # TRL pads lists of numbers as it pads the prompts.
        by_token = {name: [row.tokens.get(name, [0] * len(row.ids)) for row in self._rows] for name in tokens}
        return [row.ids for row in self._rows], None, {**by_token, **self._media_of(self._rows)}

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        """As in TRL, with the options that the model needs, too."""
        with _generating_with(self.accelerator.unwrap_model(self.model), self._rows[0].options):
            return super()._generate_single_turn(*args, **kwargs)

    def _calculate_rewards(self, inputs: Any, prompts: Any, *args: Any) -> Any:
        """As in TRL; reward functions get the rows as they were given, with their media."""
        return super()._calculate_rewards(self._given, [row["prompt"] for row in self._given], *args)

    def _compute_loss(self, model: Any, inputs: Mapping[str, Any]) -> Any:
        """As in TRL, with the media of these rows."""
        self._rows = inputs["rows"]
        return super()._compute_loss(model, inputs)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **options: Any,
    ) -> tuple[torch.Tensor | None, ...]:
        """As in TRL; each part of the batch comes with its media."""
        size = batch_size or len(input_ids)
        parts = []
        for start in range(0, len(input_ids), size):
            rows, chunk = self._rows[start : start + size], slice(start, start + size)
            media = {
                **self._media_of(rows),
                **token_fields(rows, input_ids.shape[1], logits_to_keep),
                **rows[0].options,
            }
            media = {name: _to(value, self.accelerator.device) for name, value in media.items()}
            parts.append(
                super()._get_per_token_logps_and_entropies(
                    partial(model, **media), input_ids[chunk], attention_mask[chunk], logits_to_keep, **options
                )
            )
        return tuple(_joined(values) for values in zip(*parts, strict=True))

    def _media_of(self, rows: Sequence[PromptInputs]) -> dict[str, torch.Tensor]:
        """The media of rows in the precision of the model."""
        processor = self.collator.processor
        exact = processor.EXACT_KEYS if isinstance(processor, CheckedProcessor) else ()
        return dict(cast_row(BatchFeature(join_media(rows)), self.model.dtype, exact))


def encode_rows(
    collator: VideoDataCollator, rows: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> list[PromptInputs]:
    """Encode rows with `prompt`.

    Args:
        collator: makes the inputs.
        rows: the rows.
        names: of the rows, for errors.

    Raises:
        ValueError: a row has no prompt, or is refused by the collator.
    """
    return encode_prompts(collator, [prompt_row(row, name) for row, name in zip(rows, names, strict=True)])


def _text(prompt: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages with the text of their blocks, for TRL's logs."""

    def text_of(content: Any) -> Any:
        if not isinstance(content, list | tuple):
            return content
        return "".join(str(block.get("text") or "") for block in content)

    return [{"role": message.get("role"), "content": text_of(message.get("content"))} for message in prompt]


@contextmanager
def _generating_with(model: Any, options: Mapping[str, Any]) -> Iterator[None]:
    """Let `model.generate` always get these options. TRL would make tensors of them."""
    if not options:
        yield
        return
    vars(model)["generate"] = partial(model.generate, **options)
    try:
        yield
    finally:
        del vars(model)["generate"]


def _to(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value


def _joined(values: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    """One tensor of those of the parts: entries of rows are joined, numbers are averaged."""
    tensors = [value for value in values if value is not None]
    if not tensors:
        return None
    return torch.cat(tensors) if tensors[0].ndim else torch.stack(tensors).mean()
