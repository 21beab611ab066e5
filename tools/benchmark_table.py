"""Write `docs/benchmarks.md`: for each benchmark of the five papers, what this package has for it.

`python tools/benchmark_table.py`. Everything on the page is read from the tasks; `tests/test_benchmark_table.py` fails
when the page is old.
"""

from collections.abc import Mapping
from pathlib import Path

from hf_videollm.evaluation.delegated import DELEGATED, Delegated
from hf_videollm.evaluation.task import Task
from hf_videollm.evaluation.tasks import find_task, task_names
from hf_videollm.synthetic.benchmarks import STAND_INS

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
JUDGED = ("judged_qa", "vcg", "msvc", "matched_choice")
TEMPLATE = """# Benchmarks

`python tools/benchmark_table.py` writes this page from the tasks; do not edit it by hand.
`hf-videollm evaluate --list --tasks NAME` shows all about one of them.

## Benchmarks of this package

A name before a colon is a paper or a tool, and what follows is its prompt, its rule of reading, or its judge. `default`
is used if a command names nothing else.

| benchmark | task | prompts | reading of answers | judge | metric | submission | stand-in |
|---|---|---|---|---|---|---|---|
{own}

## Benchmarks that other tools run

lmms-eval and VLMEvalKit run these benchmarks well, so this package has no tasks for them.
[How to run lmms-eval](how_to/lmms_eval.md) tells how a model of this package is run there.

| benchmark | papers | lmms-eval | VLMEvalKit | metric | note |
|---|---|---|---|---|---|
{delegated}
"""


def by_origin(rules: Mapping[str, str]) -> str:
    """Rules and whose they are, those of one rule together."""
    origins: dict[str, list[str]] = {}
    for origin, rule in rules.items():
        origins.setdefault(rule, []).append(origin)
    return "; ".join(f"{', '.join(names)}: `{rule}`" for rule, names in origins.items())


def reading(task: Task) -> str:
    """How answers are read, or why they are not."""
    if task.metric == "multiple_choice":
        return by_origin(task.choice_rules)
    if task.metric == "exact_match":
        return by_origin(task.match_rules)
    return "captions are not scored" if task.metric == "none" else "the judge reads them"


def judge(task: Task) -> str:
    """Which text and policy the judge has, or why there is none."""
    if task.metric not in JUDGED:
        return "captions are not scored" if task.metric == "none" else "answers are compared, not judged"
    return f"texts: {by_origin(task.judge_texts)}; policies: {by_origin(task.judge_policies)}"


def submission(task: Task) -> str:
    """Whether files for a server are written, or why not."""
    if task.submission is not None:
        return "yes" if not task.has_public_answers else "yes; some answers are public"
    return "no server: answers are public" if task.metric != "none" else "no server: captions are not scored"


def own_row(task: Task) -> str:
    cells = [
        task.title,
        f"`{task.name}`",
        ", ".join(task.prompts),
        reading(task),
        judge(task),
        task.metric if task.metric != "none" else "none: there is no right caption",
        submission(task),
        "yes" if task.name in STAND_INS else "",
    ]
    return "| " + " | ".join(cells) + " |"


def delegated_row(row: Delegated) -> str:
    cells = [
        row.title,
        ", ".join(row.papers),
        ", ".join(f"`{name}`" for name in row.lmms_eval) or "does not have it",
        ", ".join(f"`{name}`" for name in row.vlmevalkit),
        row.metric,
        row.note or "none",
    ]
    return "| " + " | ".join(cells) + " |"


def page() -> str:
    """The whole page."""
    own = [own_row(find_task(name)) for name in task_names()]
    return TEMPLATE.format(own="\n".join(own), delegated="\n".join(map(delegated_row, DELEGATED.values())))


if __name__ == "__main__":
    DOCUMENT.write_text(page(), encoding="utf-8")
    print(f"Wrote {DOCUMENT}.")
