"""Synthetic video question answering: writes MP4 files, and questions about them with their answers.

    hf-videollm data clips clips/ --num-videos 200
    hf-videollm data clips held_out/ --split test --num-videos 100 --sound

`scene.py` defines scenes, and `render.py` draws them; this file writes data sets.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.progress import track

from ..data.records import VideoQARecord, make_record, write_jsonl
from ..moved import run_as_command
from .render import render_audio, render_scene, write_clip, write_scene_mp4
from .scene import (
    COLOURS,
    DEFAULT_SIZE,
    DIRECTIONS,
    KINDS,
    MIXED_KINDS,
    QA,
    QUESTION_KINDS,
    SHAPES,
    SPLIT_SEEDS,
    VIDEO_QUESTION_KINDS,
    Scene,
    SceneKind,
    Sprite,
    answer_vocabulary,
    make_scene,
    questions_for,
    split_of,
)

__all__ = [
    "COLOURS",
    "DIRECTIONS",
    "KINDS",
    "MIXED_KINDS",
    "QA",
    "QUESTION_KINDS",
    "SHAPES",
    "SPLIT_SEEDS",
    "VIDEO_QUESTION_KINDS",
    "Scene",
    "SceneKind",
    "Sprite",
    "answer_vocabulary",
    "claim_folder",
    "generate_dataset",
    "held_out_questions",
    "make_scene",
    "questions_for",
    "render_audio",
    "render_scene",
    "split_of",
    "write_clip",
    "write_scene_mp4",
]

RECORDS_NAME = "records.jsonl"
SETTINGS_NAME = "settings.json"
# This number is increased whenever the same seed gives another clip or question, so that old folders are not reused.
GENERATOR_VERSION = 1


class DatasetExistsError(ValueError):
    """The folder holds something else, or clips that were made with other settings."""


def generate_dataset(
    folder: str | os.PathLike[str],
    num_videos: int,
    seed: int = SPLIT_SEEDS["train"].start,
    kind: SceneKind | None = None,
    size: int = DEFAULT_SIZE,
    with_audio: bool = True,
    sound_questions: bool = False,
    details: bool = False,
    entries: bool = False,
    progress: bool = True,
) -> Path:
    """Write `num_videos` clips and their questions.

    The folder gets `videos/<seed>.mp4`, `records.jsonl` (one record per question) and `settings.json`. An interrupted
    run can be resumed, and clips can be added to a finished folder, because clips that exist are kept. Each clip
    appears complete or not at all, and the records are written last.

    Args:
        folder: folder to write; it is made if it does not exist.
        num_videos: number of clips, at least 1; clip i has the seed `seed + i`.
        seed: first seed. All seeds must be in one split of `SPLIT_SEEDS`.
        kind: write only scenes of this kind; None mixes all kinds.
        size: side of the frames in pixels.
        with_audio: write a sound track.
        sound_questions: also ask about the beeps; this needs `with_audio`.
        details: also ask for single properties of the shapes in order scenes, which helps training.
        entries: make three of ten clips entry scenes. About these, one can ask whether the sound comes before or after
            the shape.
        progress: show a progress bar.

    Returns:
        Path of `records.jsonl`.

    Raises:
        ValueError: an argument is out of range, or the seeds belong to two splits.
        DatasetExistsError: the folder was made with other settings.
    """
    folder = Path(folder)
    if num_videos < 1:
        raise ValueError(f"num_videos must be at least 1, got {num_videos}.")
    if sound_questions and not with_audio:
        raise ValueError("sound_questions needs with_audio: a silent clip cannot answer them.")
    if split_of(seed) != split_of(seed + num_videos - 1):
        raise ValueError(
            f"Seeds {seed} to {seed + num_videos - 1} are in two splits, {split_of(seed)!r} and "
            f"{split_of(seed + num_videos - 1)!r}; ask for fewer videos or begin at another seed."
        )
    settings = {
        "generator_version": GENERATOR_VERSION,
        "seed": seed,
        "kind": kind,
        "size": size,
        "with_audio": with_audio,
        "sound_questions": sound_questions,
        "details": details,
    }
    # `entries` is written only if it is set. So clips can still be added to folders that are older than this option.
    claim_folder(folder, {**settings, "entries": True} if entries else settings)
    records: list[VideoQARecord] = []
    seeds: Sequence[int] = range(seed, seed + num_videos)
    for scene_seed in track(seeds, description="Writing clips", disable=not progress):
        scene = make_scene(scene_seed, kind, entries=entries)
        name = f"videos/{scene_seed:07d}.mp4"
        if not (folder / name).exists():
            write_scene_mp4(scene, folder / name, with_audio=with_audio, size=size)
        records.extend(_records_of(scene, name, questions_for(scene, sound_questions, details)))
    return write_jsonl(records, folder / RECORDS_NAME)


def held_out_questions(per_kind: int = 100, split: str = "test", sound: bool = False) -> Iterator[tuple[Scene, QA]]:
    """Yield scenes, each with one question, until there are `per_kind` questions of each kind about the picture.

    The result is always the same: scenes come from `split` in the order of their seeds. Each scene has only one
    question, so that answers to different questions are independent.

    Args:
        per_kind: number of questions of each kind.
        split: a key of `SPLIT_SEEDS`.
        sound: also yield every kind of question about the sound; some of the scenes are then entry scenes.
    """
    wanted = dict.fromkeys(QUESTION_KINDS if sound else VIDEO_QUESTION_KINDS, per_kind)
    for seed in SPLIT_SEEDS[split]:
        if not any(wanted.values()):
            return
        scene = make_scene(seed, entries=sound)
        open_questions = [question for question in questions_for(scene, sound) if wanted[question.kind]]
        if open_questions:
            question = max(open_questions, key=lambda candidate: wanted[candidate.kind])
            wanted[question.kind] -= 1
            yield scene, question


def _records_of(scene: Scene, video: str, questions: list[QA]) -> list[VideoQARecord]:
    return [
        make_record(
            f"{scene.seed:07d}-{number}-{question.kind}",
            video,
            [(question.question, question.answer)],
            {"kind": question.kind, "seed": scene.seed, "scene": scene.kind},
        )
        for number, question in enumerate(questions)
    ]


def claim_folder(folder: Path, settings: dict[str, Any]) -> None:
    """Write the settings into a new folder, or check that an old folder was made with the same settings.

    Raises:
        DatasetExistsError: the folder was made with other settings, or holds something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SETTINGS_NAME
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DatasetExistsError(f"{path} is not readable JSON; delete the folder and start again.") from error
        if found != settings:
            raise DatasetExistsError(
                f"{folder} was made with other settings ({found}) than asked for now ({settings}); "
                "choose another folder or delete this one."
            )
    elif any(folder.iterdir()):
        raise DatasetExistsError(f"{folder} is not empty and not a synthetic data set; choose another folder.")
    else:
        temporary = path.with_name(f".{SETTINGS_NAME}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, path)


if __name__ == "__main__":
    run_as_command("data", "clips")
