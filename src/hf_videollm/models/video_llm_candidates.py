"""Assisted decoding without placeholders: no candidate that is guessed for the answer stands for a part of a video.

Prompt lookup guesses that the text behind words of the prompt comes again, and an assistant model may write any token.
The model reads these candidates together with the prompt, where it would count their placeholders as parts of videos.
"""

from collections.abc import Iterable
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.generation import CandidateGenerator, PromptLookupCandidateGenerator


class ForbidPlaceholders(LogitsProcessor):
    """Gives placeholders the score -inf, so that they do not become candidates.

    Args:
        token_ids: ids of the placeholders.
        covers_all: also give scores to placeholders whose ids lie outside the vocabulary. Prompt lookup reads the
            score of each id that it finds in the prompt, and would fail without one.
    """

    def __init__(self, token_ids: Iterable[int], covers_all: bool = False) -> None:
        self.token_ids = sorted(token_ids)
        self.covers_all = covers_all

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """As in transformers.

        Args:
            input_ids: `(batch, length)`, not used.
            scores: `(batch, vocab_size)`; this tensor is not changed.
        """
        missing = max(self.token_ids) + 1 - scores.shape[-1] if self.covers_all else 0
        if missing > 0:
            scores = torch.nn.functional.pad(scores, (0, missing), value=float("-inf"))
        present = [token_id for token_id in self.token_ids if token_id < scores.shape[-1]]
        return scores.index_fill(-1, torch.tensor(present, dtype=torch.long, device=scores.device), float("-inf"))


class BoundedLookup(CandidateGenerator):
    """A prompt lookup that leaves room for the token that the model adds to the candidates.

    transformers' lookup may guess beyond the maximal length, where a static cache has no room.

    Args:
        lookup: the prompt lookup of transformers.
    """

    def __init__(self, lookup: PromptLookupCandidateGenerator) -> None:
        self.lookup = lookup

    def get_candidates(self, input_ids: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As in transformers: the text so far with the candidates behind it; a lookup has no scores."""
        ids, scores = self.lookup.get_candidates(input_ids, **kwargs)
        return ids[:, : max(self.lookup.max_length - 1, input_ids.shape[1])], scores


def forbid_placeholders(candidate_generator: Any, token_ids: Iterable[int | None]) -> Any:
    """Make a candidate generator of transformers propose no placeholders, and no more tokens than there is room for.

    A prompt lookup that finds a placeholder ends its candidates there, and looks for another match if none are left.
    An assistant model writes its next best token instead.

    Args:
        candidate_generator: from `_get_candidate_generator`. Its processors are extended. The processors of the model
            that checks the candidates stay as they are, so that the tokens it chooses are the same.
        token_ids: ids of the placeholders; `None` stands for a placeholder that the model does not use.

    Returns:
        The candidate generator to use.
    """
    forbidden = {token_id for token_id in token_ids if token_id is not None}
    is_lookup = isinstance(candidate_generator, PromptLookupCandidateGenerator)
    if forbidden:
        own = ForbidPlaceholders(forbidden, covers_all=is_lookup)
        candidate_generator.logits_processor = LogitsProcessorList([*candidate_generator.logits_processor, own])
    return BoundedLookup(candidate_generator) if is_lookup else candidate_generator


__all__ = ["BoundedLookup", "ForbidPlaceholders", "forbid_placeholders"]
