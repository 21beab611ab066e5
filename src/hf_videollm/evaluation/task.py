"""A benchmark as one object: where its items come from, how papers ask them, and how answers become numbers.

Each benchmark is one file in `tasks/`, which ends with its `Task`. `tasks/__init__.py` finds them by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..models.video_llm_option_names import did_you_mean
from .data_files import DataError, DataFiles
from .items import Item
from .prompting import PromptRule

__all__ = ["Metric", "Scored", "Submission", "Task"]

# How an item's answers become numbers: `scoring.py` has one function for each.
Metric = Literal["multiple_choice", "exact_match", "judged_qa", "vcg", "msvc", "matched_choice", "none"]


@dataclass(frozen=True)
class Scored:
    """What one item's answers were worth.

    Attributes:
        correct: whether the answer is right; None where that is unknown or no question of right and wrong.
        score: points on the benchmark's scale; None where there is none.
        choice: number of the option that the parser read; None where it read none or there are no options.
        rule: which rule of the parser read it.
        parse_failed: no rule could read the answer.
        judge_failed: the judge gave no reading that its policy accepts.
        detail: what else a table or a submission needs, e.g. the judge's reply.
    """

    correct: bool | None = None
    score: float | None = None
    choice: int | None = None
    rule: str | None = None
    parse_failed: bool = False
    judge_failed: bool = False
    detail: Mapping[str, Any] = field(default_factory=dict)


# (items, answers of each item, what they were worth) -> {name of a file: its text}, in the form a server wants. An item
# that the model could not answer has no answers, and no choice unless a fallback was named.
Submission = Callable[[Sequence[Item], Sequence[Sequence[str]], Sequence[Scored]], dict[str, str]]


@dataclass(frozen=True)
class Task:
    """A benchmark.

    Attributes:
        name: on the command line, e.g. `msvd_qa`.
        title: in tables, e.g. `MSVD-QA`.
        load: reads the items from the benchmark's own files. Raises `DataError`, which names file, row and field.
        files: what `load` looks for below the data folder, one line each, for help texts and errors.
        hub_ids: ids of the dataset on the Hub, newest first; they are tried in order with `--download`.
        mirror_ids: ids of datasets that others have made of the benchmark; `--download` tries them after `hub_ids`.
            Results are not published under them.
        source: where the files come from, for people (address or paper).
        prompts: paper or tool -> its way of asking. Has "default".
        metric: how answers become numbers.
        choice_rules: paper or tool -> name of its rule in `multiple_choice.CHOICE_RULES`, for multiple choice.
        match_rules: paper or tool -> name of its rule in `exact_match.MATCH_RULES`, for `metric="exact_match"`.
        judge_texts: paper or tool -> name of the judge's text, for judged metrics.
        judge_policies: paper or tool -> name of its policy in `judges.policies.POLICIES`, for judged metrics.
        group_by: keys of `Item.groups` that get a table, in order.
        has_public_answers: False where only a server knows what is right; then there is no metric without a file of
            one's own, but a submission.
        has_alternative_answers: True where items have several right answers: a judge compares with the first, or with
            each (`alternative_answers.REFERENCES`).
        submission: writes the files that the benchmark's server takes.
        modalities: what the model must see or hear.
        published: paper -> {model: {metric: number}}, with the paper's own names, as printed.
        notes: what a reader of the numbers must know, e.g. which split a paper used.
    """

    name: str
    title: str
    load: Callable[[DataFiles], Iterable[Item]]
    files: tuple[str, ...]
    source: str
    prompts: Mapping[str, PromptRule]
    metric: Metric
    hub_ids: tuple[str, ...] = ()
    mirror_ids: tuple[str, ...] = ()
    choice_rules: Mapping[str, str] = field(default_factory=lambda: {"default": "robust"})
    match_rules: Mapping[str, str] = field(default_factory=dict)
    judge_texts: Mapping[str, str] = field(default_factory=dict)
    judge_policies: Mapping[str, str] = field(default_factory=dict)
    group_by: tuple[str, ...] = ()
    has_public_answers: bool = True
    has_alternative_answers: bool = False
    submission: Submission | None = None
    modalities: tuple[Literal["video", "image", "audio"], ...] = ("video",)
    published: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def download_ids(self) -> tuple[str, ...]:
        """Ids of datasets on the Hub that hold the benchmark, in the order in which they are tried."""
        return (*self.hub_ids, *self.mirror_ids)

    def items(self, data: DataFiles, limit: int | None = None) -> Iterator[Item]:
        """The items, each id once.

        Raises:
            DataError: two items have the same id, there is none, or the files are not as they should be.
        """
        seen: set[str] = set()
        number = -1
        for number, item in enumerate(self.load(data)):
            if limit is not None and number >= limit:
                return
            if item.id in seen:
                raise DataError(f"{self.title}: two items have the id {item.id!r}; ids must be unique.")
            seen.add(item.id)
            yield item
        if number < 0:
            raise DataError(f"{self.title}: the files in {data.root} hold no items: fetch them again.")

    def prompt_rule(self, style: str = "default") -> PromptRule:
        """How a paper asks.

        Raises:
            ValueError: this task does not know the style; the nearest one is named.
        """
        if style not in self.prompts:
            raise ValueError(f"{self.title} has no prompt style {style!r}: {did_you_mean(style, self.prompts)}")
        return self.prompts[style]
