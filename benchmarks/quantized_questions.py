"""The questions that variants of a bundled checkpoint answer: only of the kinds that it was trained for."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_videollm.hub.card_facts import ACCURACY, pointed
from hf_videollm.hub.card_files import load_facts
from hf_videollm.known_models import find_model
from hf_videollm.synthetic.check import Answer, ClipQuestion, accuracies, answer_questions, held_out_clips
from hf_videollm.synthetic.clips import QUESTION_KINDS, VIDEO_QUESTION_KINDS
from hf_videollm.synthetic.long import LONG_KINDS, held_out_long_questions, write_long_mp4


def trained_kinds(checkpoint: str) -> dict[str, float]:
    """The kinds of questions about videos that a bundled checkpoint was trained for, with its recorded accuracies.

    They are in its accuracy.json, at the place that `results` in model_cards/checkpoints/NAME.yaml names.

    Raises:
        ValueError: the checkpoint has no such file.
    """
    recorded = json.loads((Path(find_model(checkpoint)) / ACCURACY).read_text(encoding="utf-8"))
    found = pointed(recorded, load_facts(f"checkpoints/{checkpoint}").get("results", ""))
    if not isinstance(found, dict):
        raise ValueError(f"model_cards/checkpoints/{checkpoint}.yaml does not say where the accuracies are.")
    return {str(kind): float(share) for kind, share in found.items()}


def make_questions(folder: Path, checkpoint: str, per_kind: int) -> list[ClipQuestion]:
    """Held-out synthetic videos, as files, with a question each: `per_kind` of each kind that was trained.

    Raises:
        ValueError: there are no held-out questions of some kind.
    """
    kinds = set(trained_kinds(checkpoint))
    if kinds <= set(LONG_KINDS):
        return [
            ClipQuestion(write_long_mp4(scene, folder / "long" / f"{scene.seed:07d}.mp4"), question)
            for scene, question in held_out_long_questions(per_kind)
            if question.kind in kinds
        ]
    if unknown := sorted(kinds - set(QUESTION_KINDS)):
        raise ValueError(f"{checkpoint} was trained for questions that no generator makes: {', '.join(unknown)}.")
    with_sound = not kinds <= set(VIDEO_QUESTION_KINDS)
    return held_out_clips(
        folder / ("sound" if with_sound else "clips"), per_kind, kinds=sorted(kinds), sound=with_sound
    )


def accuracy(model: Any, processor: Any, clips: Sequence[ClipQuestion]) -> dict[str, Any]:
    """Share of right answers to each kind of question, and their mean."""
    answers: list[Answer] = answer_questions(model, processor, clips, batch_size=10, progress=False)
    by_kind = accuracies(answers)
    mean = sum(by_kind.values()) / len(by_kind)
    return {
        "accuracy": round(mean, 4),
        "accuracy_by_kind": {kind: round(share, 4) for kind, share in by_kind.items()},
        "questions": len(clips),
    }
