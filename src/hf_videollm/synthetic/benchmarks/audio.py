"""Stand-ins of the sets of sounds: Clotho-AQA, TUT2017 and VocalSound. The sounds are beeps."""

from __future__ import annotations

from pathlib import Path

from ...evaluation.tasks.tut2017 import LABELS as SCENES
from ...evaluation.tasks.vocalsound import LABELS as SOUNDS
from .media import known_questions, write_json, write_json_lines, write_table, write_wav

__all__ = ["write_clotho_aqa", "write_tut2017", "write_vocalsound"]

_SOUND_ALONE = ("beeps", "pitch")


def write_clotho_aqa(folder: Path, count: int = 20, seed: int = 0) -> None:
    """Questions about the beeps, three answers to each, of which the first or the last is wrong."""
    rows = [("file_name", "QuestionText", "answer", "confidence")]
    for number, each in enumerate(known_questions(count, seed, _SOUND_ALONE)):
        file, question, answer = f"{each.clip}.wav", each.qa.question, each.qa.answer
        write_wav(each.scene, folder / f"audio_files/{file}")
        given = [("unsure", "no"), (answer, "yes"), (answer, "yes")]
        rows += [(file, question, *each_given) for each_given in (given if number % 2 else given[::-1])]
    write_table(folder / "clotho_aqa_test.csv", rows)


def write_tut2017(folder: Path, count: int = 20, seed: int = 0) -> None:
    """Qwen-Audio's list. The set has its fixed places, which beeps do not tell: no model can know the answers."""
    rows = []
    for number, each in enumerate(known_questions(count, seed, _SOUND_ALONE, per_scene=1)):
        write_wav(each.scene, folder / f"audio/{number}.wav")
        rows.append({"audio": f"audio/{number}.wav", "gt": SCENES[number % len(SCENES)], "source": "tut2017"})
    write_json_lines(folder / "tut2017_eval.jsonl", rows)


def write_vocalsound(folder: Path, count: int = 20, seed: int = 0) -> None:
    """The list of the test split. The set has its fixed sounds, which beeps are not: no model can know the answers."""
    rows = []
    for number, each in enumerate(known_questions(count, seed, _SOUND_ALONE, per_scene=1)):
        sound = SOUNDS[number % len(SOUNDS)].lower().replace(" ", "")
        file = f"{'fm'[number % 2]}{number:04d}_0_{sound}.wav"
        write_wav(each.scene, folder / f"audio_16k/{file}")
        rows.append({"wav": f"/data/audio_16k/{file}", "labels": "/m/00000"})
    write_json(folder / "meta/te.json", {"data": rows})
