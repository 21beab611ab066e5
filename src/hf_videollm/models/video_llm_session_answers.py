"""Inputs of `generate` for prompts about the same media, which stand behind a kept key-value cache.

    one prompt           the kept cache itself, cut back to what the prompt shares with the last one
    several prompts      a batch behind what they share, which exists once (`video_llm_shared_prefix.py`) or, where the
                         language model does not allow that, in a copy for each row; padding stands between what the
                         prompts share and what they do not

LinVT's visual tokens depend on the question. Prompts with videos then run whole, from the kept selection of tokens;
only prompts with the same question, as those of one conversation, share a cache.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import BatchFeature

from .transformers_compat import CACHE_NAME
from .video_llm_kept_cache import refuse_uncuttable
from .video_llm_kept_prompt import QUESTION_KEYS, KeptPrompt
from .video_llm_session_prompts import SessionPrompt
from .video_llm_shared_prefix import SharedPrefixUnsupported, attend, can_share_prefix, is_shared, shared_prefix_cache
from .video_llm_watched_media import WatchedMedia

# Inputs that are passed with every prompt of a conversation, because they say which positions its tokens have.
POSITION_INPUTS = ("image_grid_thw",)


class SessionAnswers:
    """The encoded media of a session, the kept cache, and inputs of `generate`."""

    def __init__(self, kept: KeptPrompt, processor: Any, watched: WatchedMedia, head_ids: Sequence[int]) -> None:
        """Args:
        kept: holds the encoded media.
        processor: of the model.
        watched: the media.
        head_ids: the ids before every question.
        """
        self.kept = kept
        self.processor = processor
        self.head_ids = list(head_ids)
        self.types = watched.types
        self._first_ids = watched.first_ids
        self._question: Any = None
        language_model = getattr(kept.model.base_model, "language_model", None)
        self.copies_prefix = language_model is None or not can_share_prefix(language_model)

    @property
    def is_conditioned(self) -> bool:
        """Whether the visual tokens depend on the question."""
        return "video_selections" in self.kept.encoded

    @property
    def shares_prefix(self) -> bool:
        """Whether what the language model computes for the media is the same for every question."""
        image_llm = getattr(self.kept.model.base_model, "image_llm", None)
        # In such a family (PaliGemma) all tokens of the prompt attend to each other.
        reads_ahead = image_llm is not None and image_llm.splits_prompt_from_answer
        return not self.is_conditioned and not reads_ahead

    @property
    def may_pad(self) -> bool:
        """Whether padding may stand between the kept cache and the questions of a batch.

        A layer with a sliding window counts padding, and image-LLMs may count positions in their own ways.
        """
        model = self.kept.model
        return self.is_conditioned or not (model.reads_questions or has_window(model))

    @torch.no_grad()
    def prepare(self) -> None:
        """Run the language model over the media, if its cache does not hold them, and check that it can be cut.

        Raises:
            ValueError: the cache cannot be cut.
        """
        if not self.shares_prefix or len(self.kept.kept.ids) >= len(self.head_ids):
            return
        self.kept.logits(self._first_ids)
        refuse_uncuttable(self.kept.kept.cache)
        self.kept.kept.cut(len(self.head_ids))

    def inputs(
        self,
        prompts: Sequence[SessionPrompt],
        copies: int = 1,
        in_place: bool = False,
        share: bool = False,
        uses_cache: bool = True,
    ) -> dict[str, Any]:
        """Arguments of `generate`.

        Args:
            prompts: of the questions, which are answered as one batch.
            copies: rows that `generate` makes of each prompt (beams, several answers).
            in_place: use the kept cache itself; then call `take` with the result, or `forget` after an error. It
                needs a single prompt and `copies=1`.
            share: the rows may share what they begin with; see `run`.
            uses_cache: `False` if the prompts run whole, from the encoded media.
        """
        if not uses_cache:
            return self._whole(prompts)
        question = _key(prompts[0])
        if not self.is_conditioned:
            self.prepare()
        elif in_place and question != self._question:
            self.kept.kept.forget()
            self._question = question
        if not self._continues(prompts):
            inputs = self._whole(prompts)
            return {**inputs, CACHE_NAME: self.kept.kept.new()} if in_place else inputs
        return self._behind_cache(prompts, copies, in_place, share)

    def run(
        self,
        prompts: Sequence[SessionPrompt],
        copies: int,
        generate: Callable[[dict[str, Any]], Any],
        uses_cache: bool = True,
    ) -> tuple[Any, int]:
        """Answer prompts as one batch; the kept cache does not change.

        Args:
            prompts: of the questions.
            copies: see `inputs`.
            generate: gets arguments of `generate`, and may run twice.
            uses_cache: see `inputs`.

        Returns:
            What `generate` returned, and the length of the padded prompts.
        """
        inputs = self.inputs(prompts, copies, share=True, uses_cache=uses_cache)
        cache = inputs.get(CACHE_NAME)
        length = inputs["input_ids"].shape[1]
        if not is_shared(cache):
            return generate(inputs), length
        try:
            with attend(self.kept.model.base_model.language_model, cache):
                return generate(inputs), length
        except SharedPrefixUnsupported:
            self.copies_prefix = True
        return generate(self.inputs(prompts, copies)), length

    def take(self, sequence: torch.Tensor) -> None:
        """Note what the kept cache holds after `generate` used it.

        Args:
            sequence: `(length,)`, ids of the prompt and the answer.
        """
        kept = self.kept.kept
        length = int(kept.cache.get_seq_length())
        if length > len(sequence):
            self.forget()
            raise RuntimeError(
                f"The answer has {len(sequence)} tokens with its prompt, but the cache holds {length}: a part of the "
                "prompt was run twice, so the answer is wrong. Leave out the last options of generate."
            )
        kept.ids = sequence[:length].tolist()

    def recover(self, prompt: Sequence[int]) -> None:
        """Cut the kept cache back to its prompt, after an answer that was stopped or has failed."""
        self.kept.kept.recover(prompt)

    def forget(self) -> None:
        """Drop the kept cache, after an error has left it in an unknown state."""
        self.kept.kept.forget()

    def _continues(self, prompts: Sequence[SessionPrompt]) -> bool:
        """Whether prompts can continue the kept cache."""
        if not self.shares_prefix and not (
            self.is_conditioned and all(_key(prompt) == self._question for prompt in prompts)
        ):
            return False
        return self._num_shared(prompts) >= len(self.head_ids)

    def _num_shared(self, prompts: Sequence[SessionPrompt]) -> int:
        kept = self.kept.kept
        return min(kept.num_shared(prompt.ids, len(prompt.ids) - 1) for prompt in prompts)

    def _behind_cache(
        self, prompts: Sequence[SessionPrompt], copies: int, in_place: bool, share: bool
    ) -> dict[str, Any]:
        shared = self._num_shared(prompts)
        kept, device = self.kept.kept, self.kept.model.device
        length = max(len(prompt.ids) for prompt in prompts)
        padding = self.processor.tokenizer.pad_token_id or 0
        rows, masks = [], []
        for prompt in prompts:
            missing = length - len(prompt.ids)
            rows.append([*prompt.ids[:shared], *[padding] * missing, *prompt.ids[shared:]])
            masks.append([1] * shared + [0] * missing + [1] * (len(prompt.ids) - shared))
        inputs: dict[str, Any] = {
            "input_ids": torch.tensor(rows, device=device),
            "attention_mask": torch.tensor(masks, device=device),
        }
        for name, types in self.types.items():
            fitted = torch.nn.functional.pad(types[:, : len(self.head_ids)], (0, length - len(self.head_ids)))
            inputs[name] = fitted.expand(len(prompts), -1)
        inputs |= {
            name: torch.cat([self.kept.encoded[name]] * len(prompts))
            for name in POSITION_INPUTS
            if name in self.kept.encoded
        }
        if self.kept.looks_again(inputs["input_ids"][:, shared:]):
            first = torch.tensor([self._first_ids], device=device)
            state = self.kept.model.base_model.make_video_state(self.kept.encoded["mm_encoder_outputs"], first)
            inputs["video_state"] = state.repeat(len(prompts))
        if in_place:
            kept.cut(shared)
            inputs[CACHE_NAME] = kept.cache
        else:
            inputs[CACHE_NAME] = self._batch_cache(shared, len(prompts) * copies, share)
        return inputs

    def _batch_cache(self, shared: int, rows: int, share: bool) -> Any:
        """A cache for a batch, which begins with the first tokens of the kept one."""
        kept = self.kept.kept
        if self.copies_prefix or rows == 1 or not share:
            return kept.copied(shared, rows)
        return shared_prefix_cache(kept.states(shared))

    def _whole(self, prompts: Sequence[SessionPrompt]) -> dict[str, Any]:
        """Prompts that run from their first token on."""
        encoded = dict(self.kept.encoded)
        selections = encoded.pop("video_selections", None)
        rows = []
        for prompt in prompts:
            row = {"input_ids": torch.tensor([prompt.ids], device=self.kept.model.device)}
            row["attention_mask"] = torch.ones_like(row["input_ids"])
            missing = len(prompt.ids) - len(self.head_ids)
            for name, types in self.types.items():
                row[name] = torch.nn.functional.pad(types[:, : len(self.head_ids)], (0, missing))
            row |= {name: value.to(self.kept.model.device) for name, value in prompt.question.items()}
            rows.append(BatchFeature({**row, **encoded}))
        inputs = dict(self.processor.collate(rows, padding_side="left"))
        if selections is not None:
            inputs["video_selections"] = list(selections) * len(prompts)
        return inputs


def question_batches(
    answers: SessionAnswers, prompts: Sequence[SessionPrompt], size: int, unpadded: bool = False
) -> list[list[int]]:
    """Numbers of the prompts that are answered at once, at most `size` of them.

    Args:
        answers: of the session.
        prompts: of the questions.
        size: the largest number of prompts.
        unpadded: only prompts of equal length are answered at once.
    """
    groups: dict[int, list[int]] = {}
    for number, prompt in enumerate(prompts):
        groups.setdefault(0 if answers.may_pad and not unpadded else len(prompt.ids), []).append(number)
    return [members[first : first + size] for members in groups.values() for first in range(0, len(members), size)]


def has_window(model: Any) -> bool:
    """Whether a layer of the language model attends only to the last tokens before it."""
    config = model.config.get_text_config(decoder=True)
    return bool(getattr(config, "sliding_window", None)) and bool(getattr(config, "use_sliding_window", True))


def _key(prompt: SessionPrompt) -> Any:
    """Equal for prompts with the same question on the videos."""
    return tuple(tuple(prompt.question[name].flatten().tolist()) for name in QUESTION_KEYS if name in prompt.question)


__all__ = ["SessionAnswers", "has_window", "question_batches"]
