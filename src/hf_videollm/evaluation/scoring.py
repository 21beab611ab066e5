"""From answers to `Scored`: one function for each metric of `task.py`.

What a judge needs beyond question, answer and prediction stands in `Item.extra`:

- "vcg": `aspects`, names of `aggregate_judged.VCG_ASPECTS` that the item counts for. An item of two questions counts
  for "consistency" where nothing is said.
- "matched_choice": nothing; the judge reads the prompt as the model got it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ..models.video_llm_option_names import did_you_mean
from .aggregate_judged import MSVC_ASPECTS, VCG_ASPECTS
from .alternative_answers import answers_to_judge, best_judgement, reference_facts
from .exact_match import MATCH_RULES, answer_matches
from .items import Item
from .judges.items import JudgeItem, Judgement
from .judges.texts import get_text
from .multiple_choice import CHOICE_RULES, Choice, fall_back, parse_choice, score_choice
from .records import Record
from .task import Metric, Scored, Task

__all__ = ["JUDGED", "JudgeAll", "Scoring", "score_records", "vcg_aspects"]

# Metrics that need a judge.
JUDGED: tuple[Metric, ...] = ("judged_qa", "vcg", "msvc", "matched_choice")
# Judges many items; `judges.run.judge_items` with its policy, judge and cache bound.
JudgeAll = Callable[[Sequence[JudgeItem]], Sequence[Judgement]]


@dataclass(frozen=True)
class Scoring:
    """How the answers of a task are scored.

    Attributes:
        task: the benchmark.
        style: prompt style in which it was asked.
        choice_rule: key of `task.choice_rules` or of `multiple_choice.CHOICE_RULES`.
        fallback: what stands in for an answer that cannot be read, key of `multiple_choice.FALLBACKS`.
        match_rule: key of `task.match_rules` or of `exact_match.MATCH_RULES`.
        judge_text: key of `task.judge_texts` or name of a judge text.
        references: one of `alternative_answers.REFERENCES`: which right answers a judge compares with, where an item
            has several.
        judge: answers the judge items; without one, answers of judged metrics stay unscored.
        policy: name of the judge's policy, which decides how judgements are counted.
        reads_letters: for "matched_choice", read the answers by the choice rule instead of by a judge.
        names_rule_judge: for "matched_choice", whether the letters are read because the rule judge was asked for.
        seed: of the random fallback.
    """

    task: Task
    style: str = "default"
    choice_rule: str = "default"
    fallback: str = "none"
    match_rule: str = "default"
    judge_text: str = "default"
    references: str = "first"
    judge: JudgeAll | None = None
    policy: str = "robust"
    reads_letters: bool = False
    names_rule_judge: bool = False
    seed: int = 0

    @property
    def asks_judge(self) -> bool:
        """Whether the answers are scored by a judge."""
        return self.task.metric in JUDGED and not (self.task.metric == "matched_choice" and self.reads_letters)

    @property
    def lacks_judge(self) -> bool:
        """Whether nothing can be scored, because the judge is missing."""
        return self.asks_judge and self.judge is None

    def rule_of_choices(self) -> str:
        """Name of the rule in `CHOICE_RULES`.

        Raises:
            ValueError: there is no such rule.
        """
        return _resolved(self.choice_rule, self.task.choice_rules, CHOICE_RULES, "robust", "choice rule")

    def rule_of_matches(self) -> str:
        """Name of the rule in `MATCH_RULES`.

        Raises:
            ValueError: there is no such rule.
        """
        return _resolved(self.match_rule, self.task.match_rules, MATCH_RULES, "folded", "match rule")

    def text_of_judge(self) -> str:
        """Name of the judge text, or for aspects of its variant."""
        usual = {"vcg": "vcg_original", "msvc": "msvc", "matched_choice": "video_bench"}.get(self.task.metric, "qa")
        return self.task.judge_texts.get(self.judge_text, usual if self.judge_text == "default" else self.judge_text)

    def facts(self) -> dict[str, Any]:
        """What the result says of it."""
        facts: dict[str, Any] = {"metric": self.task.metric}
        if self.task.metric == "multiple_choice" or (self.task.metric == "matched_choice" and self.reads_letters):
            facts |= {"choice_rule": self.rule_of_choices(), "fallback": self.fallback}
        if self.task.metric == "matched_choice" and self.names_rule_judge:
            # It compares words and cannot match options: the choice rule does it in its place.
            facts |= {"judge": "rule"}
        if self.task.metric == "exact_match":
            facts |= {"match_rule": self.rule_of_matches()}
        if self.asks_judge:
            facts |= {"judge_text": self.text_of_judge(), "judge_policy": self.policy}
        if self.task.has_alternative_answers:
            facts |= {"references": self.references}
        return facts


def _resolved(name: str, by_paper: Mapping[str, str], rules: Mapping[str, Any], usual: str, kind: str) -> str:
    """A rule by the name of a paper, or by its own."""
    chosen = by_paper.get(name, usual if name == "default" else name)
    if chosen not in rules:
        raise ValueError(f"There is no {kind} {name!r}: {did_you_mean(name, {*by_paper, *rules})}")
    return chosen


def score_records(scoring: Scoring, items: Sequence[Item], records: Sequence[Record]) -> list[Scored]:
    """What the answers of items are worth.

    Args:
        scoring: the rules.
        items: with an answer.
        records: their records, in the same order.

    Raises:
        ValueError: a rule or a judge text is unknown, or an item lacks what the judge has to be told.
    """
    return SCORERS[scoring.task.metric](scoring, items, records)


def _multiple_choice(scoring: Scoring, items: Sequence[Item], records: Sequence[Record]) -> list[Scored]:
    rule = scoring.rule_of_choices()
    return [_choice_of(scoring, rule, item, record) for item, record in zip(items, records, strict=True)]


def _choice_of(scoring: Scoring, rule: str, item: Item, record: Record) -> Scored:
    if "choice" in record:
        return _likeliest(scoring, item, record["choice"][0])
    arguments: dict[str, Any] = {"rule": rule, "fallback": scoring.fallback, "seed": scoring.seed, "key": item.id}
    text, right = record["answers"][0], item.answer_index
    if right is None:
        choice, correct = parse_choice(text, item.options, **arguments), None
    else:
        choice, correct = score_choice(text, item.options, right, **arguments)
    detail = {"failure": choice.failure} if choice.failure else {}
    return Scored(correct, None, choice.index, choice.rule, bool(choice.failure), detail=detail)


def _likeliest(scoring: Scoring, item: Item, index: int | None) -> Scored:
    """What the likeliest option is worth; None where several were equally likely."""
    choice = Choice(index, "likelihood", "tied" if index is None else "")
    if not choice.parsed:
        choice = fall_back(choice, len(item.options), scoring.fallback, scoring.seed, item.id)
    correct = None if item.answer_index is None else choice.index == item.answer_index
    detail = {"failure": choice.failure} if choice.failure else {}
    return Scored(correct, None, choice.index, choice.rule, bool(choice.failure), detail=detail)


def _exact_match(scoring: Scoring, items: Sequence[Item], records: Sequence[Record]) -> list[Scored]:
    rule = scoring.rule_of_matches()
    scored = []
    for item, record in zip(items, records, strict=True):
        text = record["answers"][0]
        references = item.all_references
        correct = answer_matches(text, references, rule) if references else None
        scored.append(Scored(correct=correct, rule=rule, parse_failed=not text.strip()))
    return scored


def _judged_qa(scoring: Scoring, items: Sequence[Item], records: Sequence[Record]) -> list[Scored]:
    text = get_text(scoring.text_of_judge())
    asked = [
        [
            JudgeItem(name, text, _fields(text.fields, item, record, item.question, answer))
            for name, answer in answers_to_judge(item, scoring.references)
        ]
        for item, record in zip(items, records, strict=True)
    ]
    judgements = _judged(scoring, [judge_item for group in asked for judge_item in group])
    if not judgements:
        return [Scored() for _ in items]
    rest = iter(judgements)
    return [_compared(item, list(islice(rest, len(group)))) for item, group in zip(items, asked, strict=True)]


def _compared(item: Item, judgements: Sequence[Judgement]) -> Scored:
    """What an item is worth whose answer was compared with one right answer, or with several."""
    counted = judgements[best_judgement(judgements)]
    detail = {**_reply(counted), **reference_facts(item, judgements)}
    return Scored(correct=counted.pred, score=counted.score, judge_failed=counted.failed, detail=detail)


def _matched_choice(scoring: Scoring, items: Sequence[Item], records: Sequence[Record]) -> list[Scored]:
    if scoring.reads_letters:
        return _multiple_choice(scoring, items, records)
    text = get_text(scoring.text_of_judge())
    rule = scoring.task.prompt_rule(scoring.style)
    asked = [
        JudgeItem(item.id, text, _fields(text.fields, item, record, rule(item, item.question).text), item.options)
        for item, record in zip(items, records, strict=True)
    ]
    scored = []
    for item, judgement in zip(items, _judged(scoring, asked), strict=False):
        index = None if judgement.choice is None else ord(judgement.choice) - ord("A")
        if index is not None and not 0 <= index < len(item.options):
            index = None
        failed = judgement.failed or index is None
        known = item.answer_index is not None
        correct = index == item.answer_index if known else None
        detail = _reply(judgement)
        scored.append(Scored(correct, None, index, None if failed else "judge", judge_failed=failed, detail=detail))
    return scored or [Scored() for _ in items]


def _vcg(scoring: Scoring, items: Sequence[Item], records: Sequence[Record]) -> list[Scored]:
    variant = scoring.text_of_judge()

    def asked() -> Iterator[tuple[str, str, JudgeItem]]:
        for item, record in zip(items, records, strict=True):
            for aspect in vcg_aspects(item):
                text = get_text(f"{variant}_{aspect}")
                values = _fields(text.fields, item, record, item.questions[0])
                yield item.id, aspect, JudgeItem(f"{item.id}/{aspect}", text, values)

    return _by_aspect(scoring, items, list(asked()))


def _msvc(scoring: Scoring, items: Sequence[Item], records: Sequence[Record]) -> list[Scored]:
    variant = scoring.text_of_judge()
    texts = {aspect: get_text(f"{variant}_{aspect}") for aspect in MSVC_ASPECTS}
    asked = [
        (item.id, aspect, JudgeItem(f"{item.id}/{aspect}", text, _fields(text.fields, item, record, item.question)))
        for item, record in zip(items, records, strict=True)
        for aspect, text in texts.items()
    ]
    return _by_aspect(scoring, items, asked)


def _by_aspect(scoring: Scoring, items: Sequence[Item], asked: Sequence[tuple[str, str, JudgeItem]]) -> list[Scored]:
    """Items that are judged several times. The score is the mean of the aspects that were judged."""
    found: dict[str, dict[str, Any]] = {item.id: {} for item in items}
    judgements = _judged(scoring, [judge_item for _, _, judge_item in asked])
    if not judgements:
        return [Scored() for _ in items]
    for (item_id, aspect, _), judgement in zip(asked, judgements, strict=True):
        found[item_id][aspect] = {"score": judgement.score, "failed": judgement.failed, **_reply(judgement)}
    scored = []
    for item in items:
        aspects = found[item.id]
        scores = [entry["score"] for entry in aspects.values() if not entry["failed"]]
        failed = any(entry["failed"] for entry in aspects.values())
        mean = sum(scores) / len(scores) if scores else None
        scored.append(Scored(score=mean, judge_failed=failed, detail={"aspects": aspects}))
    return scored


def _none(scoring: Scoring, items: Sequence[Item], records: Sequence[Record]) -> list[Scored]:
    return [Scored() for _ in items]


SCORERS: dict[Metric, Callable[[Scoring, Sequence[Item], Sequence[Record]], list[Scored]]] = {
    "multiple_choice": _multiple_choice,
    "exact_match": _exact_match,
    "judged_qa": _judged_qa,
    "vcg": _vcg,
    "msvc": _msvc,
    "matched_choice": _matched_choice,
    "none": _none,
}


def vcg_aspects(item: Item) -> tuple[str, ...]:
    """The aspects of Video-ChatGPT's benchmark that an item counts for.

    Raises:
        ValueError: it does not say, or names an aspect that there is not.
    """
    aspects = item.extra.get("aspects", ("consistency",) if len(item.questions) == 2 else ())
    if not aspects:
        raise ValueError(f"Item {item.id!r} does not say which aspects it counts for: put them into extra['aspects'].")
    for aspect in aspects:
        if aspect not in VCG_ASPECTS:
            raise ValueError(f"Item {item.id!r}: there is no aspect {aspect!r}: {did_you_mean(aspect, VCG_ASPECTS)}")
    return tuple(aspects)


def _judged(scoring: Scoring, asked: Sequence[JudgeItem]) -> Sequence[Judgement]:
    """Judgements; none without a judge."""
    return scoring.judge(asked) if scoring.judge is not None else []


def _fields(
    names: Sequence[str], item: Item, record: Record, question: str, answer: str | None = None
) -> dict[str, Any]:
    """The fields of a judge text. The right answer is the item's own, unless another one is given.

    Raises:
        ValueError: the text needs something that the item has not.
    """
    answers: Sequence[str] = record["answers"]
    known: dict[str, Any] = {"question": question, "answer": answer or item.answer, "pred": answers[0]}
    known["refs"] = list(item.all_references) or None
    if len(answers) == 2:
        known |= {"question1": item.questions[0], "question2": item.questions[1]}
        known |= {"pred1": answers[0], "pred2": answers[1]}
    for name in names:
        if known.get(name) is None:
            raise ValueError(f"Item {item.id!r} has no {name!r}, which the judge has to be told.")
    return {name: known[name] for name in names}


def _reply(judgement: Judgement) -> dict[str, Any]:
    """What is kept of a judgement beside its numbers."""
    facts = {"reply": judgement.reply, "judge_error": judgement.error}
    return {name: value for name, value in facts.items() if value is not None}
