"""Which option the model finds likeliest: by the probability of its letter, or by that of its words.

All options of a question, and all questions on one video that follow each other, share one encoding of the video and,
where the design allows it, one run of the language model over it (`models/video_llm_kept_prompt.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from ..models.video_llm_kept_prompt import KeptPrompt
from ..models.video_llm_option_names import did_you_mean
from .asking import Inputs
from .encoded_rows import media_shapes
from .prompting import letter_of

__all__ = ["RANKINGS", "Continuation", "Ranker", "Ranking", "TokenFact", "continuations", "normalised"]

# "letters" compares the letters of the options, "mean" and "sum" the log-likelihoods of their texts, by token or whole.
Ranking = Literal["letters", "mean", "sum"]
RANKINGS: tuple[str, ...] = get_args(Ranking)


@dataclass(frozen=True)
class Continuation:
    """Tokens of an answer behind a prompt.

    Attributes:
        tokens: of the answer.
        dropped: tokens at the end of the prompt that are other ones when the answer follows.
    """

    tokens: tuple[int, ...]
    dropped: int = 0


class TokenFact(NamedTuple):
    """What the model thinks of one token of an answer.

    Attributes:
        log_probability: of the token.
        is_likeliest: whether no other token is likelier here.
    """

    log_probability: float
    is_likeliest: bool


class Ranker:
    """Scores of the options of questions.

    Example:
        >>> ranker = Ranker(model, processor, "mean")      # doctest: +SKIP
        >>> ranker.scores(inputs)                          # doctest: +SKIP
        [-0.21, -3.4, -2.9]
    """

    def __init__(self, model: Any, processor: Any, ranking: Ranking = "mean", media_options: Any = None) -> None:
        """Args:
        model: a model of this package with a head.
        processor: its processor.
        ranking: what is compared.
        media_options: options of the processor that the model must get, too.

        Raises:
            ValueError: an unknown ranking.
        """
        if ranking not in RANKINGS:
            raise ValueError(f"There is no ranking {ranking!r}: {did_you_mean(ranking, RANKINGS)}")
        self.ranking = ranking
        self.processor = processor
        self.kept = KeptPrompt(model, processor.PROMPT_KEYS, media_options or {})

    def scores(self, inputs: Inputs) -> list[float]:
        """One number for each option, a log-likelihood: the highest is the model's choice.

        Raises:
            ValueError: the item has no options, or the tokenizer cannot tell their letters apart.
        """
        item = inputs.ask.item
        if not item.options:
            raise ValueError(f"Item {item.id!r} has no options to compare: it cannot be answered by likelihood.")
        texts = list(map(letter_of, range(len(item.options))))
        answers = continuations(self.processor, inputs, texts if self.ranking == "letters" else item.options)
        if self.ranking == "letters" and len(set(answers)) < len(answers):
            raise ValueError(
                f"Item {item.id!r}: the tokenizer has the same tokens for several of the letters "
                f"{', '.join(texts)}, so they cannot be compared: take the ranking mean or sum."
            )
        by_token = self.token_scores(inputs, answers)
        return [sum(row) / len(row) if self.ranking == "mean" else sum(row) for row in by_token]

    def token_scores(self, inputs: Inputs, answers: Sequence[Continuation]) -> list[list[float]]:
        """Log-probability of each token of each answer."""
        return [[fact.log_probability for fact in row] for row in self.token_facts(inputs, answers)]

    def token_facts(self, inputs: Inputs, answers: Sequence[Continuation]) -> list[list[TokenFact]]:
        """What the model thinks of each token of each answer."""
        import torch

        with torch.inference_mode():
            prompt = self.kept.begin(inputs.row, repr((inputs.media, media_shapes(inputs.row, self.kept.prompt_keys))))
            behind_prompt = self.kept.logits(prompt)[-1].log_softmax(-1)
            facts = []
            for answer in answers:
                base = prompt[: len(prompt) - answer.dropped]
                first = behind_prompt if not answer.dropped else self.kept.logits(base)[-1].log_softmax(-1)
                row = [_fact(first, answer.tokens[0])]
                if len(answer.tokens) > 1:
                    logits = self.kept.logits([*base, *answer.tokens[:-1]], first=len(base)).log_softmax(-1)
                    row += [_fact(logits[place], token) for place, token in enumerate(answer.tokens[1:])]
                facts.append(row)
            return facts


def _fact(log_probabilities: Any, token: int) -> TokenFact:
    """Of one position, `(vocabulary,)`."""
    found = log_probabilities[token]
    return TokenFact(float(found), bool(found >= log_probabilities.max()))


def continuations(processor: Any, inputs: Inputs, texts: Sequence[str]) -> list[Continuation]:
    """The tokens of answers, as the model would write them behind the prompt.

    Prompt and answer are tokenized together, because a tokenizer may join the end of one and the beginning of the
    other. A blank before the answer is written where the chat template writes one.

    Args:
        processor: of the model.
        inputs: of the question.
        texts: of the answers.

    Raises:
        ValueError: an answer is empty.
    """
    tokenizer = processor.tokenizer
    blank = _blank(processor, inputs)
    alone = tokenizer(inputs.rendered, add_special_tokens=False)["input_ids"]
    found = []
    for text in texts:
        together = tokenizer(inputs.rendered + blank + text, add_special_tokens=False)["input_ids"]
        same = 0
        while same < min(len(alone), len(together)) and alone[same] == together[same]:
            same += 1
        if same == len(together):
            raise ValueError(f"Item {inputs.ask.item.id!r}: the option {text!r} has no tokens to compare.")
        found.append(Continuation(tuple(together[same:]), len(alone) - same))
    return found


def _blank(processor: Any, inputs: Inputs) -> str:
    """What the chat template writes between the prompt and an answer: nothing, or a blank."""
    prompt = inputs.ask.prompt
    if prompt.answer_prefix:
        return ""
    word = "answer"
    messages = prompt.messages(inputs.ask.item)
    messages.append({"role": "assistant", "content": [{"type": "text", "text": word}]})
    text = processor.apply_chat_template(messages, chat_template=prompt.chat_template, continue_final_message=True)
    before = text[: text.rfind(word)]
    blank = before[len(before.rstrip()) :]
    return "" if inputs.rendered.endswith(blank) else blank


def normalised(scores: Sequence[float]) -> list[float]:
    """Probabilities of the options, if the answer is one of them.

    Example:
        >>> normalised([-1.0, -1.0])
        [0.5, 0.5]
    """
    import math

    highest = max(scores)
    weights = [math.exp(score - highest) for score in scores]
    return [weight / sum(weights) for weight in weights]
