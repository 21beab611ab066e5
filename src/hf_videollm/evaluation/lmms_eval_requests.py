"""Requests of lmms-eval as questions of this package: what is asked, and how the answer is generated.

A chat task sends (context, doc_to_messages, gen_kwargs, doc_id, task, split), a simple one (context, gen_kwargs,
doc_to_visual, doc_id, task, split), and one of several rounds adds doc_to_text behind doc_to_visual. For likelihoods, a
continuation, or a function that gives it, stands where the simple form has gen_kwargs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from .items import Item
from .lmms_eval_messages import Turns, media_of
from .prompting import Prompt

__all__ = ["ChatPrompt", "Question", "Questions", "Request", "generate_options", "read_request"]

# Where a task does not say how long an answer may be.
MAX_NEW_TOKENS = 1024
# Names under which tasks say that.
LENGTHS = ("max_new_tokens", "max_gen_toks", "max_tokens")
OF_SAMPLING = ("temperature", "top_p", "top_k", "min_p")


@dataclass(frozen=True)
class Request:
    """The parts of a request, whichever form it has.

    Attributes:
        context: text of the question, as simple models get it.
        messages: function document -> messages, of chat tasks; None for simple ones.
        visual: function document -> media, of simple tasks; None for chat ones.
        text: function of simple tasks of several rounds, which gives the next question.
        gen_kwargs: how the answer is generated.
        continuation: whose likelihood is asked for, or a function document -> continuation.
        doc_id: number of the document.
        task: name of the task.
        split: of its dataset.
    """

    context: str
    doc_id: int
    task: str
    split: str
    messages: Callable[..., Any] | None = None
    visual: Callable[..., Any] | None = None
    text: Callable[..., Any] | None = None
    gen_kwargs: Mapping[str, Any] = field(default_factory=dict)
    continuation: Any = None

    @property
    def key(self) -> tuple[str, str, int, str]:
        """Equal for requests of the same question."""
        return self.task, self.split, self.doc_id, self.context


def read_request(arguments: Sequence[Any]) -> Request:
    """The parts of `Instance.args`.

    Raises:
        ValueError: it has none of the known forms.
    """
    if len(arguments) == 7:
        context, gen_kwargs, visual, text, doc_id, task, split = arguments
        return Request(context, doc_id, task, split, visual=visual, text=text, gen_kwargs=gen_kwargs)
    if len(arguments) != 6:
        raise ValueError(
            f"lmms-eval sends a request of {len(arguments)} parts, which a question on media does not have: leave out "
            "metrics that ask for answers without their question (acc_mutual_info)."
        )
    context, second, third, doc_id, task, split = arguments
    if isinstance(third, Mapping):
        return Request(context, doc_id, task, split, messages=second, gen_kwargs=third)
    if isinstance(second, Mapping):
        return Request(context, doc_id, task, split, visual=third, gen_kwargs=second)
    return Request(context, doc_id, task, split, visual=third, continuation=second)


def generate_options(
    given: Mapping[str, Any], known: frozenset[str]
) -> tuple[dict[str, Any], tuple[str, ...], set[str]]:
    """How a task wants an answer generated.

    Args:
        given: its `generation_kwargs`.
        known: names of options of `generate`.

    Returns:
        Options of `generate`; texts at which the answer ends; and names that are no option of `generate`.

    Example:
        >>> generate_options({"max_new_tokens": 8, "temperature": 0, "until": ["\\n"], "x": 1}, frozenset())
        ({'max_new_tokens': 8, 'do_sample': False}, ('\\n',), {'x'})
    """
    values = {name: value for name, value in given.items() if value is not None}
    until = values.pop("until", ())
    length = next((values[name] for name in LENGTHS if name in values), MAX_NEW_TOKENS)
    # A temperature of 0 means the likeliest token; `generate` has no other word for that than do_sample.
    temperature = float(values.get("temperature", 0))
    is_sampled = bool(values.get("do_sample", temperature > 0)) and values.get("temperature") != 0
    left_out = {*LENGTHS, "do_sample", *(() if is_sampled else OF_SAMPLING)}
    rest = {name: value for name, value in values.items() if name not in left_out}
    options = {name: value for name, value in rest.items() if name in {*known, *OF_SAMPLING}}
    stop = (until,) if isinstance(until, str) else tuple(until)
    return {"max_new_tokens": int(length), "do_sample": is_sampled, **options}, stop, set(rest) - set(options)


@dataclass(frozen=True)
class ChatPrompt(Prompt):
    """A prompt whose messages are there already.

    Attributes:
        turns: the messages.
    """

    turns: Turns = field(default_factory=list)

    def messages(self, item: Item) -> Turns:
        """The messages, in a list of their own."""
        return list(self.turns)


@dataclass(frozen=True)
class Question(Item):
    """A question of lmms-eval. It may be without media: some tasks are.

    Attributes:
        prompt: its messages, and how the answer is generated.
    """

    prompt: ChatPrompt = field(default_factory=lambda: ChatPrompt(""))

    def __post_init__(self) -> None:
        """lmms-eval says nothing of options and answers that could be checked."""

    @classmethod
    def of(
        cls, name: str, turns: Turns, options: Mapping[str, Any] | None = None, stop: Sequence[str] = ()
    ) -> Question:
        """A question of messages.

        Args:
            name: of the question, by which the random state of a sampled answer is found.
            turns: the messages.
            options: of `generate`.
            stop: texts at which the answer ends.
        """
        prompt = ChatPrompt("", stop=tuple(stop), generate_kwargs=dict(options or {}), turns=turns)
        return cls(name, media_of(turns, name), ("",), prompt=prompt)


class Questions(Sequence[Question]):
    """Questions that are made when they are asked: documents may hold pictures, and all at once are too many.

    Attributes:
        names: of the questions, each another one.
    """

    def __init__(self, requests: Sequence[Request], make: Callable[[Request, str], Question]) -> None:
        self._requests = requests
        self._make = make
        times: Counter[str] = Counter()
        self.names: list[str] = []
        for request in requests:
            name = f"{request.task}/{request.split}/{request.doc_id}"
            # A request that is repeated is another draw of a sampled answer.
            self.names.append(f"{name}#{times[name]}")
            times[name] += 1

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Question]:
        return (self[index] for index in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Question: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Question]: ...
    def __getitem__(self, index: int | slice) -> Question | Sequence[Question]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        return self._make(self._requests[index], self.names[index])
