"""Generation without `generate`: every token from a forward over the whole prompt with its media, without a cache."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from factory import IMAGE, QUERY, VIDEO, DesignCase, Row, collate

STEPS = 4
PADDING = 0
Scores = torch.Tensor
# Prompt and tokens so far, `(1, length)`, and scores, `(1, vocabulary)` -> scores.
Processor = Callable[[torch.Tensor, Scores], Scores]


class ByHand:
    """A tiny model of a design with prompts of different lengths, and what it should write.

    Args:
        case: the design.
        specs: media of the prompts, as in `DesignCase.make_rows`.
        echo: the prompts end with the words before their first placeholders, and the model may write placeholders, so
            that nothing but the model itself keeps prompt lookup from guessing them.
    """

    def __init__(self, case: DesignCase, specs: Sequence[Sequence[str]], echo: bool = False) -> None:
        self.case, self.model = case, case.make_model()
        self.rows: list[Row] = case.make_rows(specs)
        if echo:
            self.rows = [echoed(row) for row in self.rows]
        self.batch = collate(self.rows, "left")
        self.seen: dict[tuple[int, tuple[int, ...]], torch.Tensor] = {}
        # Placeholders, which would be taken for media: the tiny models' own configuration suppresses them.
        self.unwritten = self.model.generation_config.suppress_tokens
        if echo:
            self.model.generation_config.suppress_tokens = None
            # IVA suppresses its placeholders itself.
            self.unwritten = [IMAGE, VIDEO, QUERY] if "query" in self.model.config.placeholder_ids() else []

    @torch.no_grad()
    def scores(self, row: int, tokens: Sequence[int]) -> Scores:
        """Logits of the token behind `tokens`, `(1, vocabulary)`."""
        key = (row, tuple(tokens))
        if key not in self.seen:
            batch = collate([self.rows[row]])
            more = torch.tensor([list(tokens)], dtype=torch.long)
            batch["input_ids"] = torch.cat([batch["input_ids"], more], 1)
            for name, value in (("attention_mask", 1), ("mm_token_type_ids", 0)):
                if name in batch:
                    batch[name] = torch.cat([batch[name], torch.full_like(more, value)], 1)
            self.seen[key] = self.model(**batch, use_cache=False).logits[:, -1]
        return self.seen[key]

    def unmarked(self, scores: Scores) -> Scores:
        """Scores without those of placeholders."""
        return scores.index_fill(1, torch.tensor(self.unwritten, dtype=torch.long), float("-inf"))

    @torch.no_grad()
    def text_scores(self, ids: torch.Tensor) -> Scores:
        """Logits behind ids without media, `(1, vocabulary)`."""
        return self.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[:, -1]

    def ids(self, row: int, tokens: Sequence[int] = ()) -> torch.Tensor:
        """Prompt and tokens, `(1, length)`."""
        return torch.cat([self.rows[row].ids, torch.tensor(list(tokens), dtype=torch.long)])[None]

    def write(
        self,
        make_processors: Callable[["ByHand", int], list[Processor]] = lambda by_hand, row: [],
        sample: bool = False,
        eos: int | None = None,
        steps: int = STEPS,
        rows: Sequence[int] | None = None,
    ) -> list[list[int]]:
        """Token by token.

        Args:
            make_processors: of a row; they change its scores, one after the other.
            sample: draw tokens, from seed 0; else take the best.
            eos: nothing but padding follows this one.
            steps: tokens at most.
            rows: numbers of the prompts; a prompt may come several times.
        """
        torch.manual_seed(0)
        numbers = list(range(len(self.rows))) if rows is None else list(rows)
        processors = [make_processors(self, row) for row in numbers]
        written: list[list[int]] = [[] for _ in numbers]
        for _ in range(steps):
            scores = []
            for place, row in enumerate(numbers):
                own = self.unmarked(self.scores(row, written[place]))
                for processor in processors[place]:
                    own = processor(self.ids(row, written[place]), own)
                scores.append(own)
            joined = torch.cat(scores)
            tokens = torch.multinomial(joined.softmax(-1), 1).squeeze(1) if sample else joined.argmax(-1)
            for tokens_of_row, token in zip(written, tokens.tolist(), strict=True):
                has_ended = eos is not None and eos in tokens_of_row
                tokens_of_row.append(PADDING if has_ended else token)
            if eos is not None and all(eos in tokens_of_row for tokens_of_row in written):
                break
        return written

    def search(self, num_beams: int, num_returned: int = 1) -> list[list[int]]:
        """Beam search: of all continuations of the best beams, the best go on. Sequences end with the last step."""
        found = []
        for row in range(len(self.rows)):
            beams: list[tuple[float, list[int]]] = [(0.0, [])]
            for _ in range(STEPS):
                grown = []
                for total, tokens in beams:
                    best = self.unmarked(self.scores(row, tokens).log_softmax(-1))[0].topk(num_beams)
                    for value, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                        grown.append((total + value, [*tokens, token]))
                beams = sorted(grown, key=lambda beam: -beam[0])[:num_beams]
            found += [tokens for _, tokens in beams[:num_returned]]
        return found


def echoed(row: Row) -> Row:
    """The prompt with the two tokens before its first placeholder again at its end."""
    start = int((row.ids >= IMAGE).int().argmax())
    return replace(row, ids=torch.cat([row.ids, row.ids[start - 2 : start]]))


def tokens_of(by_hand: ByHand, output: Any, length: int | None = None) -> list[list[int]]:
    """What `generate` wrote behind the prompts."""
    sequences = output if isinstance(output, torch.Tensor) else output.sequences
    start = by_hand.batch["input_ids"].shape[1] if length is None else length
    return sequences[:, start:].tolist()
