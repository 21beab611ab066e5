"""The items of a task on the page of results: what was shown and asked, and what each run answered."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..prompting import letter_of
from .report import TaskReport
from .thumbnails import Strip, Thumbnails

__all__ = ["item_cards", "state_of"]

# How an answer is marked, by the word that the filter knows.
MARKS = {"right": "right", "wrong": "wrong", "error": "no answer", "unreadable": "unreadable", "unscored": "not scored"}
STYLES = {"right": "right", "wrong": "wrong"}


def state_of(item: Mapping[str, Any] | None) -> str:
    """What became of an item in a run, in one word: a key of `MARKS`, "failed" for a judge's failure, or "absent"."""
    if item is None:
        return "absent"
    if "error" in item:
        return "error"
    if item.get("judge_failed"):
        return "failed"
    if item.get("parse_failed") and item.get("choice") is None:
        return "unreadable"
    if item.get("correct") is None:
        return "unscored"
    return "right" if item["correct"] else "wrong"


def item_cards(task: TaskReport, limit: int, thumbnails: Thumbnails | None) -> tuple[list[str], int]:
    """The cards of the first items of a task.

    Args:
        task: the task.
        limit: most cards.
        thumbnails: reads the frames; the cards have none without it.

    Returns:
        The cards, and the number of all items.

    Raises:
        ValueError: the items of a run cannot be read.
    """
    by_run = [{str(item["id"]): item for item in run.items()} for run in task.runs]
    ids = list(dict.fromkeys(id for items in by_run for id in items))
    labels = [run.label for run in task.runs]
    cards = [_card(task.task, id, labels, [items.get(id) for items in by_run], thumbnails) for id in ids[:limit]]
    return cards, len(ids)


def _card(
    task: str,
    id: str,
    labels: Sequence[str],
    items: Sequence[Mapping[str, Any] | None],
    thumbnails: Thumbnails | None,
) -> str:
    first = next(item for item in items if item is not None)
    states = [state_of(item) for item in items]
    groups = ", ".join(f"{name}: {label}" for name, label in (first.get("groups") or {}).items())
    lines = [
        f'<article class="item" data-task="{_text(task)}" data-states="{" ".join(states)}">',
        f"<h3>{_text(id)}{f' <small>({_text(groups)})</small>' if groups else ''}</h3>",
    ]
    if thumbnails is not None:
        lines += _strips(labels, items, thumbnails)
    lines += [f'<p class="question">{_text(question)}</p>' for question in first["questions"]]
    if first.get("options"):
        right = first.get("answer_index")
        entries = [_option(number, option, number == right) for number, option in enumerate(first["options"])]
        lines.append(f"<ul>{''.join(entries)}</ul>")
    elif first.get("references"):
        lines.append(f'<p>Right: <span class="answer">{_text(" | ".join(first["references"]))}</span></p>')
    lines.append("<table><tr><th>run</th><th>answer</th><th></th></tr>")
    lines += [_answer_row(label, item, state) for label, item, state in zip(labels, items, states, strict=True)]
    lines.append("</table></article>")
    return "\n".join(lines)


def _option(number: int, option: str, is_right: bool) -> str:
    mark = ' class="right"' if is_right else ""
    return f"<li{mark}>({letter_of(number)}) {_text(option)}{' (right)' if is_right else ''}</li>"


def _answer_row(label: str, item: Mapping[str, Any] | None, state: str) -> str:
    """One run's answer, with all that is known of it."""
    if item is None:
        return f'<tr><td>{_text(label)}</td><td class="none">this run has no such item</td><td></td></tr>'
    if "error" in item:
        error = f"{item['error']['type']}: {item['error']['message']}"
        return f'<tr><td>{_text(label)}</td><td class="none">{_text(error)}</td><td class="none">no answer</td></tr>'
    answers = "\n".join(map(str, item["answers"]))
    facts = []
    if item.get("score") is not None:
        facts.append(f"score {item['score']:g}")
    if item.get("choice") is not None and state != "error":
        choice = item["choice"][0] if isinstance(item["choice"], list) else item["choice"]
        facts.append(f"read as ({letter_of(choice)})")
    if reply := (item.get("detail") or {}).get("reply"):
        facts.append(f"judge: {reply}")
    more = f'<br><span class="note">{_text("; ".join(facts))}</span>' if facts else ""
    mark = MARKS.get(state, "judge failed")
    style = STYLES.get(state, "none")
    return (
        f'<tr><td>{_text(label)}</td><td><span class="answer">{_text(answers)}</span>{more}</td>'
        f'<td class="{style}">{mark}</td></tr>'
    )


def _strips(labels: Sequence[str], items: Sequence[Mapping[str, Any] | None], thumbnails: Thumbnails) -> Iterator[str]:
    """The frames, once for all runs that saw the same ones."""
    seen: dict[tuple[Strip, ...], list[str]] = {}
    for label, item in zip(labels, items, strict=True):
        if item is not None:
            strips = tuple(thumbnails.strip(medium) for medium in item["media"])
            seen.setdefault(strips, []).append(label)
    for strips, runs in seen.items():
        for strip in strips:
            whose = f"{', '.join(runs)}: " if len(seen) > 1 else ""
            pictures = "".join(f'<img alt="" src="{url}">' for url in strip.urls)
            yield f'<div class="strip"><span class="note">{_text(whose + strip.caption)}</span><br>{pictures}</div>'


def _text(value: Any) -> str:
    return html.escape(str(value))
