"""Stand-ins of EgoSchema: questions with five options, of which some have public answers."""

from __future__ import annotations

from pathlib import Path

from .choices import FIVE_OPTIONS, options_for
from .media import known_questions, write_json, write_video

__all__ = ["write_egoschema", "write_egoschema_subset"]


def write_egoschema(folder: Path, count: int = 20, seed: int = 0) -> None:
    """The full set. Half of the answers are public."""
    _write(folder, count, count // 2, seed)


def write_egoschema_subset(folder: Path, count: int = 20, seed: int = 0) -> None:
    """Half as many questions more, whose answers are secret."""
    _write(folder, count + count // 2, count, seed)


def _write(folder: Path, count: int, known_answers: int, seed: int) -> None:
    rows, answers = [], {}
    for number, each in enumerate(known_questions(count, seed, FIVE_OPTIONS)):
        name = f"{each.clip}-{number:04d}"
        write_video(each.scene, folder / f"good_clips_git/{name}.mp4")
        options, right = options_for(each, 5)
        listed = {f"option {index}": option for index, option in enumerate(options)}
        rows.append({"q_uid": name, "google_drive_id": f"drive{number}", "question": each.qa.question, **listed})
        answers[name] = right
    write_json(folder / "questions.json", rows)
    # The public ones stand at the end, so that an order is nothing to rely on.
    write_json(folder / "subset_answers.json", dict(list(answers.items())[count - known_answers :]))
