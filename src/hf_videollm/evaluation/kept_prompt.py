"""Logits of many texts on the same media: the media are encoded once, and what texts have in common is run once.

The key-value cache of the last text is kept. The next text cuts it back to the tokens that both begin with, and runs
the rest. So all options of a question share its prompt, and all questions on a video share the video's part of it.

IVA and LinVT depend on the question more than the others:

- IVA's adapter changes the hidden states of query tokens alone, which stand behind the question. The part before them
  is shared by all questions; the frames that the adapter looks at are passed again with each question.
- LinVT's visual tokens are made for one question. Questions share the encoding by the vision tower and the selection
  of tokens, and the options of one question share its prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["QUESTION_KEYS", "KeptPrompt"]

# Inputs of a prompt that belong to the question, not to the media.
QUESTION_KEYS = ("question_input_ids", "question_attention_mask")


@dataclass
class KeptPrompt:
    """Runs prompts through a model, and keeps what the next one can use.

    Attributes:
        model: a model of this package with a head.
        prompt_keys: keys of a row that belong to tokens, `processor.PROMPT_KEYS`.
        media_options: options for media that the model must get, e.g. `{"num_tokens_per_frame": 64}`.
        num_encoded: how often media were encoded.
        num_tokens_run: tokens that went through the language model.
        num_tokens_kept: tokens that did not, because the cache held them.
    """

    model: Any
    prompt_keys: Sequence[str]
    media_options: Mapping[str, Any] = field(default_factory=dict)
    num_encoded: int = 0
    num_tokens_run: int = 0
    num_tokens_kept: int = 0

    def __post_init__(self) -> None:
        self._media_key: Any = None
        self._question: Any = None
        self._encoded: dict[str, Any] = {}
        self._row: Mapping[str, Any] = {}
        self._forget()

    def begin(self, row: Mapping[str, Any], media_key: Any) -> list[int]:
        """Take up a question.

        Args:
            row: outputs of the processor for one prompt.
            media_key: equal for questions on the same media in the same form; None is equal to nothing.

        Returns:
            The ids of the prompt.
        """
        row = {name: value.to(self.model.device) for name, value in row.items()}
        if media_key is None or media_key != self._media_key:
            self._encoded = {}
            self._encoded = self._encode(row)
            self._media_key = media_key
            self._forget()
        question = tuple(tuple(row[name].flatten().tolist()) for name in QUESTION_KEYS if name in row)
        if question != self._question:
            # LinVT: the visual tokens in the cache were made for another question.
            self._question = question
            self._forget()
        self._row = row
        ids: list[int] = row["input_ids"][0].tolist()
        return ids

    def logits(self, ids: Sequence[int], first: int | None = None) -> Any:
        """Logits behind the last tokens of a text, `(tokens, vocabulary)` float32.

        Args:
            ids: a text that begins with the prompt of `begin`, or with the part of it that holds all media.
            first: position of the first token behind which logits are wanted; the last one when None.
        """
        wanted = len(ids) - 1 if first is None else first
        kept = min(_common(self._ids, ids), wanted)
        if kept <= self._last_media():
            kept = 0
        self._crop(kept)
        return self._run(list(ids), len(self._ids), len(ids) - wanted)

    def _last_media(self) -> int:
        """Position of the last placeholder of the prompt; -1 without media."""
        types = self._row.get("mm_token_type_ids")
        if types is None:
            return -1
        positions = types[0].nonzero().flatten().tolist()
        return positions[-1] if positions else -1

    def _forget(self) -> None:
        self._cache: Any = None
        self._ids: list[int] = []

    def _crop(self, length: int) -> None:
        """Cut the cache back to a number of tokens; drop it where that cannot be done."""
        from ..models.transformers_compat import why_not_croppable

        if length == 0 or self._cache is None or why_not_croppable(self._cache):
            self._forget()
            return
        if surplus := len(self._ids) - length:
            self._cache.crop(-surplus)
            self._ids = self._ids[:length]

    def _run(self, ids: list[int], start: int, num_wanted: int) -> Any:
        """Run the tokens from `start` on, behind the cache, and give the logits of the last `num_wanted` of them."""
        import torch
        from transformers import DynamicCache

        device = self.model.device
        new = torch.tensor([ids[start:]], device=device)
        inputs: dict[str, Any] = {
            "input_ids": new,
            "attention_mask": torch.ones(1, len(ids), dtype=torch.long, device=device),
            "use_cache": True,
            "logits_to_keep": num_wanted,
        }
        if start == 0:
            # A plain cache keeps all positions of layers with a sliding window, too, so it can be cut back.
            self._cache = DynamicCache()
            inputs |= self._media_inputs(len(ids))
        elif self._looks_again(new):
            inputs["video_state"] = self._encoded["mm_encoder_outputs"]
        try:
            outputs = self.model(**inputs, cache=self._cache)
        except BaseException:
            # Some layers of the cache may be longer than others now.
            self._forget()
            raise
        self.num_tokens_run += len(ids) - start
        self.num_tokens_kept += start
        self._ids = list(ids)
        return outputs.logits[0].float()

    def _looks_again(self, new: Any) -> bool:
        """Whether new tokens hold query tokens of IVA, whose adapter reads the frames."""
        query_id = self.model.config.query_token_id
        return query_id is not None and bool((new == query_id).any())

    def _encode(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Encoded media, in the form of arguments of a forward."""
        media = {name: value for name, value in row.items() if name not in (*self.prompt_keys, *QUESTION_KEYS)}
        if not media:
            return {}
        self.num_encoded += 1
        if not self.model.reads_questions:
            features, others = self.model.base_model.encode_media({**media, **self.media_options})
            return {"mm_encoder_outputs": features, **others}
        named = {name: value for name, value in media.items() if name.endswith("_videos")}
        times = {name: media[name] for name in ("num_video_frames", "video_frame_times") if name in media}
        images = {name: value for name, value in media.items() if name not in named and name not in times}
        if not named:
            return images
        return {"video_selections": self.model.select_videos(**times, **named), **images}

    def _media_inputs(self, length: int) -> dict[str, Any]:
        """Arguments of the forward that reads the media: they are as long as its tokens."""
        inputs = dict(self._encoded)
        for name in self.prompt_keys:
            if name in self._row and name not in ("input_ids", "attention_mask", "labels"):
                inputs[name] = _fitted(self._row[name], length)
        if "video_selections" in inputs:
            inputs |= {name: self._row[name] for name in QUESTION_KEYS if name in self._row}
        return inputs


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Number of tokens that both begin with."""
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count


def _fitted(types: Any, length: int) -> Any:
    """Types of tokens, cut or filled up with 0 (text) to a length."""
    from torch.nn.functional import pad

    return pad(types, (0, length - types.shape[1])) if types.shape[1] < length else types[:, :length]
