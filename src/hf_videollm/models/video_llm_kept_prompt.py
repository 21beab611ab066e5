"""Logits of many texts on the same media: the media are encoded once, and what texts have in common is run once.

The key-value cache of the last text is kept. The next text cuts it back to the tokens that both begin with, and runs
the rest. So all options of a question share its prompt, and all questions on a video share the video's part of it.

IVA and LinVT depend on the question more than the others:

- IVA's adapter changes the hidden states of query tokens alone, which stand behind the question. The part before them
  is shared by all questions; the frames that the adapter looks at are passed again with each question.
- LinVT's visual tokens are made for one question. Questions share the encoding by the vision tower and the selection
  of tokens, and the options of one question share its prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import Cache

from .video_llm_kept_cache import KeptCache
from .video_llm_stored_values import slim

# Inputs of a prompt that belong to the question, not to the media.
QUESTION_KEYS = ("question_input_ids", "question_attention_mask")


@dataclass
class KeptPrompt:
    """Runs prompts through a model, and keeps what the next one can use.

    Attributes:
        model: a model of this package with a head.
        prompt_keys: keys of a row that belong to tokens, `processor.PROMPT_KEYS`.
        media_options: options for media that the model must get, e.g. `{"num_tokens_per_frame": 64}`.
        empty_cache: an empty cache, of which each cache is a copy; a plain `DynamicCache` if `None`.
        num_encoded: how often media were encoded.
        num_tokens_run: tokens that went through the language model.
        num_tokens_kept: tokens that did not, because the cache held them.
    """

    model: Any
    prompt_keys: Sequence[str]
    media_options: Mapping[str, Any] = field(default_factory=dict)
    empty_cache: Cache | None = None
    num_encoded: int = 0
    num_tokens_run: int = 0
    num_tokens_kept: int = 0

    def __post_init__(self) -> None:
        self._media_key: Any = None
        self._question: Any = None
        self.encoded: dict[str, Any] = {}
        self._row: Mapping[str, Any] = {}
        num_layers = getattr(self.model.config.get_text_config(decoder=True), "num_hidden_layers", None)
        self.kept = KeptCache(self.empty_cache, self.model.config.query_token_id, num_layers)

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
            self.encoded = {}
            self.encoded = self.encode(row)
            self._media_key = media_key
            self.kept.forget()
        question = tuple(tuple(row[name].flatten().tolist()) for name in QUESTION_KEYS if name in row)
        if question != self._question:
            # LinVT: the visual tokens in the cache were made for another question.
            self._question = question
            self.kept.forget()
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
        kept = self.kept.num_shared(ids, wanted)
        if kept <= self._last_media() or not self.kept.can_cut(kept):
            kept = 0
        self.kept.cut(kept)
        return self._run(list(ids), kept, len(ids) - wanted)

    def adopt(self, encoded: Mapping[str, Any], types: Mapping[str, Any]) -> None:
        """Take media that are encoded already, without the row that they came from.

        Args:
            encoded: from `encode`.
            types: types of the tokens of a prompt, under the names of the model's inputs.
        """
        self.encoded, self._row = dict(encoded), dict(types)

    def _last_media(self) -> int:
        """Position of the last placeholder of the prompt; -1 without media."""
        types = self._row.get("mm_token_type_ids")
        if types is None:
            return -1
        positions = types[0].nonzero().flatten().tolist()
        return positions[-1] if positions else -1

    def _run(self, ids: list[int], start: int, num_wanted: int) -> Any:
        """Run the tokens from `start` on, behind the cache, and give the logits of the last `num_wanted` of them."""
        device = self.model.device
        new = torch.tensor([ids[start:]], device=device)
        inputs: dict[str, Any] = {
            "input_ids": new,
            "attention_mask": torch.ones(1, len(ids), dtype=torch.long, device=device),
            "use_cache": True,
            "logits_to_keep": num_wanted,
        }
        if start == 0:
            self.kept.new()
            inputs |= self._media_inputs(len(ids))
        elif self.looks_again(new):
            inputs["video_state"] = self.encoded["mm_encoder_outputs"]
        try:
            outputs = self.model(**inputs, cache=self.kept.cache)
        except BaseException:
            # Some layers of the cache may be longer than others now.
            self.kept.forget()
            raise
        self.num_tokens_run += len(ids) - start
        self.num_tokens_kept += start
        self.kept.ids = list(ids)
        return outputs.logits[0].float()

    def looks_again(self, new: Any) -> bool:
        """Whether new tokens hold query tokens of IVA, whose adapter reads the frames."""
        query_id = self.model.config.query_token_id
        return query_id is not None and bool((new == query_id).any())

    def encode(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Encoded media, in the form of arguments of a forward."""
        media = {name: value for name, value in row.items() if name not in (*self.prompt_keys, *QUESTION_KEYS)}
        if not media:
            return {}
        self.num_encoded += 1
        if not self.model.reads_questions:
            features, others = self.model.base_model.encode_media({**media, **self.media_options})
            return {"mm_encoder_outputs": slim(features), **others}
        named = {name: value for name, value in media.items() if name.endswith("_videos")}
        times = {name: media[name] for name in ("num_video_frames", "video_frame_times") if name in media}
        images = {name: value for name, value in media.items() if name not in named and name not in times}
        if not named:
            return images
        return {"video_selections": self.model.select_videos(**times, **named), **images}

    def _media_inputs(self, length: int) -> dict[str, Any]:
        """Arguments of the forward that reads the media: they are as long as its tokens."""
        inputs = dict(self.encoded)
        for name in self.prompt_keys:
            if name in self._row and name not in ("input_ids", "attention_mask", "labels"):
                inputs[name] = _fitted(self._row[name], length)
        if "video_selections" in inputs:
            inputs |= {name: self._row[name] for name in QUESTION_KEYS if name in self._row}
        return inputs


def _fitted(types: Any, length: int) -> Any:
    """Types of tokens, cut or filled up with 0 (text) to a length."""
    # A negative number of columns cuts.
    return torch.nn.functional.pad(types, (0, length - types.shape[1]))


__all__ = ["QUESTION_KEYS", "KeptPrompt"]
