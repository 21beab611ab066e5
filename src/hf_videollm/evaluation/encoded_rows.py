"""Inputs of `generate` for a batch of questions: media that several questions are about are encoded once.

Benchmarks ask several questions on one video, mostly in a row. So the encoded media of the last questions are kept, up
to a number of bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..models.video_llm_watched_media import MediaMemory
from .asking import Inputs

__all__ = ["KEPT_BYTES", "EncodedRows", "encoded_rows", "media_shapes"]

# Memory of encoded media: about ten videos of a model of 7 billion parameters.
KEPT_BYTES = 256 << 20


@dataclass
class EncodedRows:
    """Encodes the media of questions, and keeps those of the last ones.

    Attributes:
        model: a model of this package with a head.
        processor: its processor.
        media_options: options for media that the model must get, e.g. `{"num_tokens_per_frame": 64}`.
        memory: encoded media of the last questions.
        identity: of everything that encoding depends on beside the media, if other runs use the memory, too.
        num_encoded: how often media were encoded.
    """

    model: Any
    processor: Any
    media_options: Mapping[str, Any] = field(default_factory=dict)
    memory: MediaMemory = field(default_factory=lambda: MediaMemory(KEPT_BYTES))
    identity: str = ""
    num_encoded: int = 0

    def inputs(self, questions: Sequence[Inputs]) -> dict[str, Any]:
        """Arguments of `generate` for one batch.

        Args:
            questions: the batch.
        """
        from transformers import BatchFeature

        of_batch: dict[str, dict[str, Any]] = {}
        rows, encoded = [], []
        for inputs in questions:
            key = self._key(inputs)
            if key not in of_batch:
                of_batch[key] = self._encoded(key, inputs.row)
            encoded.append(of_batch[key])
            rows.append(BatchFeature({**self._of_prompt(inputs.row), **self._unencoded(of_batch[key])}))
        together = dict(self.processor.collate(rows, padding_side="left").to(self.model.device))
        joined = _joined([media["mm_encoder_outputs"] for media in encoded if "mm_encoder_outputs" in media])
        if joined:
            together["mm_encoder_outputs"] = joined
        selections = [video for media in encoded for video in media.get("video_selections", ())]
        if selections:
            # The number of frames told `collate` which prompts have videos.
            together.pop("num_video_frames", None)
            together["video_selections"] = selections
        return together

    def _key(self, inputs: Inputs) -> str:
        """Equal for questions on the same media in the same form."""
        files = [(fact.get("path"), _stamp(fact.get("path"))) for fact in inputs.media] if self.identity else []
        return repr((self.identity, inputs.media, files, media_shapes(inputs.row, self.processor.PROMPT_KEYS)))

    def _encoded(self, key: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """The encoded media of a row."""
        from ..models.video_llm_kept_prompt import KeptPrompt

        known: dict[str, Any] | None = self.memory.get(key)
        if known is not None:
            return known
        kept = KeptPrompt(self.model, self.processor.PROMPT_KEYS, self.media_options)
        on_device = {name: value.to(self.model.device) for name, value in row.items()}
        encoded = kept.encode(on_device)
        if "video_selections" in encoded:
            encoded["num_video_frames"] = row["num_video_frames"]
        self.num_encoded += bool(encoded)
        self.memory.put(key, encoded, encoded)
        return encoded

    def _of_prompt(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The tensors of a row that belong to its prompt and its question."""
        from ..models.video_llm_kept_prompt import QUESTION_KEYS

        return {
            name: value.to(self.model.device)
            for name, value in row.items()
            if name in (*self.processor.PROMPT_KEYS, *QUESTION_KEYS)
        }

    def _unencoded(self, encoded: Mapping[str, Any]) -> dict[str, Any]:
        """Media that `generate` encodes itself: the images of LinVT."""
        return {name: value for name, value in encoded.items() if hasattr(value, "to")}


def encoded_rows(
    model: Any, processor: Any, processor_options: Mapping[str, Any], memory: MediaMemory | None = None
) -> EncodedRows:
    """What encodes the media of a run.

    Args:
        model: a model of this package with a head.
        processor: its processor.
        processor_options: of the run.
        memory: is used by other runs, too; one of its own when None.
    """
    from ..models.video_llm_identity import model_identity, processor_identity
    from ..models.video_llm_media_digests import digest_of

    shared = model.base_model.media_options
    media_options = {name: value for name, value in processor_options.items() if name in shared}
    if memory is None:
        return EncodedRows(model, processor, media_options)
    parts = [model_identity(model), str(model.device), processor_identity(processor), dict(processor_options)]
    return EncodedRows(model, processor, media_options, memory, digest_of(parts))


def _stamp(path: Any) -> tuple[int, int] | None:
    """Size and time of a file, which change when it is written to."""
    try:
        found = os.stat(path)
    except (OSError, TypeError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns


def _joined(outputs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The encoded media of several rows as one output for each modality."""
    joined: dict[str, Any] = {}
    for modality in dict.fromkeys(name for output in outputs for name in output):
        parts = [output[modality] for output in outputs if modality in output]
        fields = {"pooler_output": [vectors for part in parts for vectors in part.pooler_output]}
        if "frames" in parts[0]:
            fields["frames"] = [frames for part in parts for frames in part.frames]
        joined[modality] = type(parts[0])(**fields)
    return joined


def media_shapes(row: Any, prompt_keys: Sequence[str]) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the media of a row."""
    from ..models.video_llm_kept_prompt import QUESTION_KEYS

    others = (*prompt_keys, *QUESTION_KEYS)
    return sorted((name, tuple(value.shape)) for name, value in row.items() if name not in others)
