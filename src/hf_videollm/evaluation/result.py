"""The files of a finished run: `result.json` (what came out, and how), `items.jsonl` (each item), submissions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..atomic import atomic_file, atomic_files
from .changed_items import DIGEST
from .choice_robust import equal_options
from .items import Item
from .provenance import git_revision, machine, now, package_versions
from .records import Record
from .scoring import Scoring, score_records
from .task import Scored
from .totals import totals

__all__ = ["Run", "read_runs", "write_result", "write_run"]

# The result names so many items that offer a text twice; `items.jsonl` marks all.
MOST_IDS = 100
RESULT, ITEMS, RUNS, SUBMISSION = "result.json", "items.jsonl", "runs.jsonl", "submission"


@dataclass(frozen=True)
class Run:
    """What one process did for a result.

    Attributes:
        token: random name of the process. It writes a line when it begins and one when it ends.
        started: when it began (ISO 8601).
        rank: of the process.
        world_size: number of processes.
        engine: of `Engine.facts`.
        command: command line.
        machine: of `provenance.machine`.
        num_items: items that it answered or failed to answer. Those of a killed process are in its records alone.
        seconds: from the first question to the last answer.
        waited: seconds of it in which the model waited for videos.
        ended: when it ended; None while it works, and for ever after a kill.
    """

    token: str
    started: str
    rank: int
    world_size: int
    engine: Mapping[str, Any]
    command: Sequence[str]
    machine: Mapping[str, Any]
    num_items: int | None = None
    seconds: float | None = None
    waited: float | None = None
    ended: str | None = None


def write_run(folder: Path, run: Run) -> None:
    """Append what is known of a process; several processes may do so at once."""
    line = json.dumps(vars(run), ensure_ascii=False) + "\n"
    with (folder / RUNS).open("ab", buffering=0) as file:
        file.write(line.encode())


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """What all processes did, the first one first. Half lines of killed processes are left out."""
    path = folder / RUNS
    runs: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else ()):
        try:
            run = json.loads(line)
        except ValueError:
            continue
        # Earlier versions wrote one line for each process, without a token.
        runs[run.get("token", str(number))] = run
    return list(runs.values())


def write_result(
    folder: Path,
    scoring: Scoring,
    items: Sequence[Item],
    records: Mapping[str, Record],
    settings: Mapping[str, Any],
    model: Mapping[str, Any],
    first_prompt: str,
    judge: Mapping[str, Any] | None = None,
    partial: str | None = None,
) -> dict[str, Any]:
    """Score all items and write the files of the result.

    Args:
        folder: of the run.
        scoring: how answers are scored.
        items: all items of the run.
        records: of all items.
        settings: of `answer_settings`.
        model: of `model_facts`.
        first_prompt: the rendered prompt of the first item.
        judge: of `describe_judge`.
        partial: of `partial_because`. Answers of a run that lacks items must not go to the benchmark's server, so
            there are no files for it then.

    Returns:
        What `result.json` holds.
    """
    no_submission = None if partial is None or scoring.task.submission is None else f"no submission: {partial}"
    answered = [item for item in items if "error" not in records[item.id]]
    scored = score_records(scoring, answered, [records[item.id] for item in answered])
    errors = [records[item.id]["error"] for item in items if "error" in records[item.id]]
    runs = read_runs(folder)
    unjudged = _unjudged(scored)
    result = {
        "task": scoring.task.name,
        "title": scoring.task.title,
        # A policy may count failures as wrong. Where nothing at all was judged, that would be a number of nobody.
        "metrics": {} if unjudged else totals(scoring, answered, scored, len(errors)),
        "unscored_because": unjudged or _unscored(scoring, answered, no_submission),
        "no_submission": no_submission,
        "partial": partial,
        "equal_options": _equal_options(items),
        "counts": _counts(items, [records[item.id] for item in items], scored, errors),
        "scoring": {**scoring.facts(), **({} if judge is None else dict(judge))},
        "model": dict(model),
        "settings": dict(settings),
        "prompt": {"style": scoring.style, "first_item": items[0].id, "first_rendered": first_prompt},
        "frames": _frames([records[item.id] for item in items]),
        "seeds": {"generation": settings.get("seed"), "fallback_and_bootstrap": scoring.seed},
        "waiting_share": _waiting(runs),
        "versions": package_versions(),
        "git_revision": git_revision(),
        "machine": machine(),
        "runs": runs,
        "notes": list(scoring.task.notes),
        "finished": now(),
    }
    worth = dict(zip((item.id for item in answered), scored, strict=True))
    lines = [_item_line(item, records[item.id], worth.get(item.id)) for item in items]
    with atomic_file(folder / ITEMS) as path:
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    if no_submission is None:
        _write_submission(folder, scoring, items, records, worth)
    with atomic_file(folder / RESULT) as path:
        path.write_text(json.dumps(result, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return result


def _unscored(scoring: Scoring, answered: Sequence[Item], no_submission: str | None) -> str | None:
    """Why there are no metrics; None where there are some."""
    if not answered:
        return "No item has an answer."
    if scoring.task.metric == "none":
        return "This task has no metric."
    if scoring.lacks_judge:
        return "No judge was chosen. The same command with --judge judges the answers that are there."
    if not scoring.task.has_public_answers and all(item.answer is None for item in answered):
        files = "the files of submission/" if no_submission is None else "only runs with all items"
        return f"The right answers are not public: the benchmark's server scores {files}."
    return None


def _unjudged(scored: Sequence[Scored]) -> str | None:
    """That the judge said nothing of any item; None where it judged one, or was not asked."""
    judged = [
        value for value in scored if not value.judge_failed or value.score is not None or value.choice is not None
    ]
    if judged or not scored:
        return None
    kept = [entry for value in scored for entry in (value.detail, *value.detail.get("aspects", {}).values())]
    why = "no readable reply" if any(entry.get("reply") is not None for entry in kept) else "no reply"
    last = next((entry["judge_error"] for entry in reversed(kept) if entry.get("judge_error")), None)
    return f"0 of {len(scored)} judged ({why})" + (f": {last}" if last else "") + "."


def _counts(
    items: Sequence[Item], records: Sequence[Record], scored: Sequence[Scored], errors: Sequence[Mapping[str, str]]
) -> dict[str, Any]:
    return {
        "items": len(items),
        "answered": len(items) - len(errors),
        "errors": len(errors),
        "repeated_items": len(items) - len({(item.media, item.questions, item.options, item.answer) for item in items}),
        "errors_by_type": dict(Counter(error["type"] for error in errors).most_common()),
        "parse_failures": sum(value.parse_failed for value in scored),
        "judge_failures": sum(value.judge_failed for value in scored),
        "shorter_than_annotated": _with_fact(records, "ends"),
        "unlike_annotation": _with_fact(records, "stated"),
        "rules": dict(Counter(value.rule for value in scored if value.rule is not None).most_common()),
    }


def _with_fact(records: Sequence[Record], name: str) -> int:
    """Items with a medium of which the records say something."""
    return sum(any(name in medium for medium in record["media"]) for record in records)


def _equal_options(items: Sequence[Item]) -> dict[str, Any]:
    """Items that offer the same text twice. They are scored by the option that the benchmark calls right.

    A model cannot know which of two equal options is meant: where one of them is the right one, a right answer may
    count as wrong. (Video-MME has such items: 119-1 and 321-2.)
    """
    found = {item.id: groups for item in items if (groups := equal_options(item.options))}
    right = [
        item.id for item in items if item.id in found and any(item.answer_index in group for group in found[item.id])
    ]
    return {"items": len(found), "with_the_right_one": len(right), "ids": list(found)[:MOST_IDS]}


def _frames(records: Sequence[Record]) -> dict[str, Any]:
    """How many frames the videos gave; the records hold the exact indices."""
    counts = [len(medium["frames"]) for record in records for medium in record["media"] if "frames" in medium]
    if not counts:
        return {"videos": 0}
    return {"videos": len(counts), "fewest": min(counts), "most": max(counts)}


def _waiting(runs: Sequence[Mapping[str, Any]]) -> float | None:
    """Share of the time in which models waited for videos, over all processes."""
    # Nobody knows it of a killed process.
    ended = [run for run in runs if run["seconds"] is not None]
    seconds = sum(run["seconds"] for run in ended)
    return round(sum(run["waited"] for run in ended) / seconds, 4) if seconds else None


def _item_line(item: Item, record: Record, scored: Scored | None) -> dict[str, Any]:
    """All that is known of one item, for tables and pages."""
    line: dict[str, Any] = {
        "id": item.id,
        "groups": dict(item.groups),
        "questions": list(item.questions),
        "options": list(item.options),
        "answer": item.answer,
        "answer_index": item.answer_index,
        "references": list(item.all_references),
        **({"equal_options": equal} if (equal := equal_options(item.options)) else {}),
        **{name: value for name, value in record.items() if name not in ("id", DIGEST)},
    }
    if scored is not None:
        line |= {name: getattr(scored, name) for name in ("correct", "score", "choice", "rule")}
        line |= {"parse_failed": scored.parse_failed, "judge_failed": scored.judge_failed}
        line["detail"] = dict(scored.detail)
    return line


def _write_submission(
    folder: Path, scoring: Scoring, items: Sequence[Item], records: Mapping[str, Record], worth: Mapping[str, Scored]
) -> None:
    """The files for the benchmark's server; names may hold folders, but not lead out."""
    if scoring.task.submission is None:
        return
    answers = [records[item.id].get("answers", ()) for item in items]
    scored = [worth[item.id] if item.id in worth else _without_answer(scoring, item) for item in items]
    files = scoring.task.submission(items, answers, scored)
    with atomic_files(folder / SUBMISSION) as place:
        for name, text in files.items():
            path = place / name
            if not path.resolve().is_relative_to(place.resolve()):
                raise ValueError(f"{scoring.task.name}: the submission file {name!r} leads out of its folder.")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")


def _without_answer(scoring: Scoring, item: Item) -> Scored:
    """What stands for an item that the model could not answer: nothing, unless the user has named a fallback."""
    if scoring.task.metric != "multiple_choice" or scoring.fallback == "none":
        return Scored()
    return score_records(scoring, [item], [{"id": item.id, "answers": [""]}])[0]
