"""The last part of the page next to a small checkpoint: how its training went, from the records of all stages."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from hf_videollm.training.run_record import RUN_FILE, read_run

HEADING = "## How this copy was made"
UNINTERRUPTED = "One uninterrupted run from scratch: no stage was stopped or resumed."


def read_stages(work: Path) -> dict[str, list[dict[str, Any]]]:
    """Sessions of every stage that was trained in a folder, in the order of time; a resumed stage has several."""
    found = {file.parent: read_run(file.parent).get("sessions", []) for file in Path(work).rglob(RUN_FILE)}
    ordered = sorted((sessions[0]["started"], folder, sessions) for folder, sessions in found.items() if sessions)
    return {folder.relative_to(work).as_posix(): sessions for _, folder, sessions in ordered}


def how_it_was_made(work: Path) -> str:
    """Date, machine, commit, and the steps and minutes of each stage; says so if a stage was stopped and resumed.

    Args:
        work: the folder that the stages were trained in.

    Returns:
        A section in Markdown.

    Raises:
        FileNotFoundError: the folder holds no record of a training.
    """
    stages = read_stages(work)
    if not stages:
        raise FileNotFoundError(f"{work} holds no {RUN_FILE} of a stage, so it cannot be told how this was trained.")
    sessions = [session for several in stages.values() for session in several]
    first = sessions[0]
    commits = sorted({str(session["git_revision"]) for session in sessions})
    device = f"{len(first['gpus'])} GPUs" if first["gpus"] else "no GPU"
    lines = [
        f"{HEADING}\n",
        f"{describe_stops(stages)}\nBegun on {first['started'][:10]}; {first['cpus']} CPU cores, {device}; commit "
        f"{', '.join(commits)}.\nLibraries: {', '.join(libraries(sessions))}.\n",
        "| stage | steps | minutes |",
        "|---|---|---|",
    ]
    for name, several in stages.items():
        lines.append(
            f"| {name.removeprefix('stages/')} | {several[-1]['last_step']:,} | {sum(map(minutes, several)):.0f} |"
        )
    return "\n".join(lines) + "\n"


def describe_stops(stages: dict[str, list[dict[str, Any]]]) -> str:
    """One sentence: whether one command trained all stages, and if not, where it was stopped."""
    resumed = {name: [session["first_step"] for session in several] for name, several in stages.items()}
    stops = [f"{name} at step {', '.join(map(str, firsts[1:]))}" for name, firsts in resumed.items() if len(firsts) > 1]
    if stops:
        return f"Not one run: it was stopped and resumed ({'; '.join(stops)})."
    sessions = [session for several in stages.values() for session in several]
    if len({(session["git_revision"], *session["command"]) for session in sessions}) > 1:
        return "Not one run: the stages were trained by several commands or at several commits."
    return UNINTERRUPTED


def libraries(sessions: Sequence[dict[str, Any]]) -> list[str]:
    """Names and versions of the libraries that training depends on most."""
    names = ("transformers", "trl", "torch")
    return sorted({f"{name} {session['versions'][name]}" for session in sessions for name in names})


def minutes(session: dict[str, Any]) -> float:
    """How long a session trained; one that was killed counts nothing, because nobody wrote down its end."""
    if "ended" not in session:
        return 0.0
    started, ended = (datetime.fromisoformat(session[name]) for name in ("started", "ended"))
    return (ended - started).total_seconds() / 60
