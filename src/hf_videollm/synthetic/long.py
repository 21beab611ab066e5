"""Long synthetic videos: one frame per second, one or two minutes, with short events that have small details.

    hf-videollm data long long/ --num-videos 200
    hf-videollm data long held_out/ --split test --num-videos 50

A video is a sequence of shots. Most shots show a few small shapes on dark grey. An event is a shot of two or three
seconds with a coloured backdrop, whose colour occurs only once in the video, and with four small shapes of four colours
and four forms. A question names the backdrop and one property of one shape, and asks for the other property: "What
shape is red on purple?". To answer, a model must find the few frames of this event, and the right shape in them; other
events have the same properties in other combinations. As a control, one kind of question asks which of two backdrops
came first, which needs no details.

There are also shorter videos (`SHORT_FRAMES`) and videos of a single frame (`STILL_FRAMES`), for the first stages of
training.

As in `scene.py`, everything depends only on the seed, and positions are fractions of the frame's side.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from rich.progress import track

from ..data.records import VideoQARecord, make_record, write_jsonl
from ..moved import run_as_command
from .clips import RECORDS_NAME, claim_folder
from .render import draw_sprite, empty_frames, to_bytes, write_clip
from .scene import (
    COLOURS,
    DEFAULT_SIZE,
    LONG_FRAMES,
    QA,
    SHAPES,
    SPLIT_SEEDS,
    Sprite,
    make_sprite,
    pick,
    split_of,
    spread,
)

__all__ = [
    "BACKDROPS",
    "LONG_FRAMES",
    "LONG_KINDS",
    "LONG_TEMPLATES",
    "SHORT_FRAMES",
    "STILL_FRAMES",
    "LongScene",
    "Shot",
    "generate_long_dataset",
    "held_out_long_questions",
    "long_questions",
    "make_long_scene",
    "render_long_scene",
    "write_long_mp4",
]

_T = TypeVar("_T")

# This number is increased whenever the same seed gives another video or question.
GENERATOR_VERSION = 1

# Lengths as in LONG_FRAMES, with less between the events, to learn from first.
SHORT_FRAMES = (8, 16)
STILL_FRAMES = (1, 1)
EVENT_FRAMES = (2, 3)
# White on bright or orange on yellow would be hard to tell apart, hence fewer colours than shapes have, and dimmed.
BACKDROPS = ("red", "green", "blue", "yellow", "purple", "cyan")
DIMMED = 0.4
DETAILS = 4

LONG_KINDS = ("detail_shape", "detail_colour", "backdrop_order")
LONG_TEMPLATES: dict[str, tuple[str, ...]] = {
    "detail_shape": ("What shape is {known} on {backdrop}?", "Which shape is {known} on {backdrop}?"),
    "detail_colour": ("What colour is the {known} on {backdrop}?", "Which colour is the {known} on {backdrop}?"),
    "backdrop_order": ("Which came first, {a} or {b}?", "Which was shown first, {a} or {b}?"),
}


@dataclass(frozen=True)
class Shot:
    """A number of frames with the same picture.

    Attributes:
        first_frame: number of its first frame.
        num_frames: length in frames.
        backdrop: colour of the backdrop of an event, one of `BACKDROPS`; None for a shot between events.
        rgb: exact colour of the backdrop.
        sprites: the small shapes on it.
    """

    first_frame: int
    num_frames: int
    backdrop: str | None
    rgb: tuple[int, int, int]
    sprites: tuple[Sprite, ...]

    @property
    def name(self) -> str:
        """The name of the backdrop in questions."""
        return self.backdrop or "grey"

    @property
    def frames(self) -> range:
        """The numbers of its frames."""
        return range(self.first_frame, self.first_frame + self.num_frames)


@dataclass(frozen=True)
class LongScene:
    """The complete description of a long video.

    Attributes:
        seed: the seed from which it was made.
        num_frames: length in frames.
        shots: its shots, in order and without gaps.
        fps: frames per second.
    """

    seed: int
    num_frames: int
    shots: tuple[Shot, ...]
    fps: int = 1

    @property
    def events(self) -> tuple[Shot, ...]:
        """The shots that questions are about. If a video has only one shot, it is an event with any backdrop."""
        return tuple(shot for shot in self.shots if shot.backdrop is not None or len(self.shots) == 1)

    def event(self, backdrop: str) -> Shot:
        """The event with this backdrop.

        Raises:
            ValueError: there is no such event.
        """
        for shot in self.events:
            if shot.name == backdrop:
                return shot
        raise ValueError(f"No event of this video has a {backdrop} backdrop.")


def make_long_scene(seed: int, num_frames: tuple[int, int] = LONG_FRAMES) -> LongScene:
    """Make a random long video. The same arguments give the same video on every machine.

    Args:
        seed: any non-negative integer; see `SPLIT_SEEDS` for the ranges of the splits.
        num_frames: shortest and longest length in frames. A video of 60 or more frames has four to six events, a
            shorter one two or three. `STILL_FRAMES` gives one shot of one to four shapes on a backdrop of any colour or
            grey.

    Raises:
        ValueError: an argument is out of range.
    """
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}.")
    shortest, longest = num_frames
    if tuple(num_frames) != STILL_FRAMES and not 8 <= shortest <= longest:
        raise ValueError(
            f"num_frames must be two numbers in ascending order, at least 8 each, or {STILL_FRAMES}, got {num_frames}."
        )
    rng = random.Random(f"hf_videollm long scene {seed} {shortest} {longest}")
    length = _between(rng, shortest, longest)
    if length == 1:
        backdrop = pick(rng, BACKDROPS) if rng.random() < 0.5 else None
        return LongScene(seed, 1, (_shot(rng, 0, 1, backdrop, _between(rng, 1, DETAILS)),))
    backdrops = _sample(rng, BACKDROPS, len(BACKDROPS))
    num_events = _between(rng, 4, 6) if length >= LONG_FRAMES[0] else 2 + int(length >= 12 and rng.random() < 0.5)
    lengths = [_between(rng, *EVENT_FRAMES) for _ in range(num_events)]
    shots: list[Shot] = []
    first = 0
    for number, gap in enumerate(_gaps(rng, length - sum(lengths), num_events + 1)):
        while gap:
            stretch = min(gap, _between(rng, 3, 8))
            shots.append(_shot(rng, first, stretch, None, _between(rng, 0, DETAILS)))
            first, gap = first + stretch, gap - stretch
        if number < num_events:
            shots.append(_shot(rng, first, lengths[number], backdrops[number], DETAILS))
            first += lengths[number]
    return LongScene(seed, length, tuple(shots))


def long_questions(scene: LongScene) -> list[QA]:
    """All questions about a video: two about each shape of every event, and one about each pair of events.

    The scene's seed determines their wording. The kinds are those of `LONG_KINDS`; every answer is one word.
    """
    rng = random.Random(f"hf_videollm long questions {scene.seed}")
    questions = []
    for event in scene.events:
        for sprite in event.sprites:
            for kind, known, answer in (
                ("detail_shape", sprite.colour, sprite.shape),
                ("detail_colour", sprite.shape, sprite.colour),
            ):
                text = pick(rng, LONG_TEMPLATES[kind]).format(known=known, backdrop=event.name)
                questions.append(QA(kind, text, answer))
    for number, event in enumerate(scene.events):
        for later in scene.events[number + 1 :]:
            # Which of the two is mentioned first is independent of the truth.
            a, b = (event, later) if rng.random() < 0.5 else (later, event)
            text = pick(rng, LONG_TEMPLATES["backdrop_order"]).format(a=a.name, b=b.name)
            questions.append(QA("backdrop_order", text, event.name))
    return questions


def render_long_scene(scene: LongScene, size: int = DEFAULT_SIZE) -> npt.NDArray[np.uint8]:
    """Draw a long video.

    Args:
        scene: what to draw.
        size: side of the square frames in pixels, even and at least 16.

    Returns:
        Frames (num_frames, size, size, 3), uint8 RGB.

    Raises:
        ValueError: `size` is odd or too small.
    """
    frames = empty_frames(scene.num_frames, size)
    for shot in scene.shots:
        frames[shot.first_frame : shot.first_frame + shot.num_frames] = shot.rgb
        for sprite in shot.sprites:
            draw_sprite(frames, sprite, size)
    return to_bytes(frames)


def write_long_mp4(scene: LongScene, path: str | os.PathLike[str], size: int = DEFAULT_SIZE) -> Path:
    """Draw a long video and write it as a silent MP4 file of one frame per second, complete or not at all.

    Args:
        scene: what to draw.
        path: the file to write; its folder is created if missing.
        size: side of the frames in pixels.

    Returns:
        The path written.
    """
    return write_clip(render_long_scene(scene, size), path, scene.fps)


def generate_long_dataset(
    folder: str | os.PathLike[str],
    num_videos: int,
    seed: int = SPLIT_SEEDS["train"].start,
    num_frames: tuple[int, int] = LONG_FRAMES,
    questions_per_video: int | None = None,
    size: int = DEFAULT_SIZE,
    progress: bool = True,
) -> Path:
    """Write long videos and their questions, as `clips.generate_dataset` does for clips.

    Args:
        folder: folder to write; it is made if it does not exist. An interrupted run is resumed, and videos can be added
            to a finished folder.
        num_videos: number of videos, at least 1; video i has the seed `seed + i`.
        seed: first seed. All seeds must be in one split of `SPLIT_SEEDS`.
        num_frames: shortest and longest length, as in `make_long_scene`.
        questions_per_video: number of questions about each video, chosen with its seed, of each kind as many as of the
            others; None asks all questions.
        size: side of the frames in pixels.
        progress: show a progress bar.

    Returns:
        Path of `records.jsonl`, one record per question.

    Raises:
        ValueError: an argument is out of range, or the seeds belong to two splits.
        DatasetExistsError: the folder was made with other settings.
    """
    folder = Path(folder)
    if num_videos < 1 or (questions_per_video is not None and questions_per_video < 1):
        raise ValueError(
            f"num_videos and questions_per_video must be at least 1, got {num_videos} and {questions_per_video}."
        )
    if split_of(seed) != split_of(seed + num_videos - 1):
        raise ValueError(
            f"Seeds {seed} to {seed + num_videos - 1} are in two splits, {split_of(seed)!r} and "
            f"{split_of(seed + num_videos - 1)!r}; ask for fewer videos or begin at another seed."
        )
    settings = {"long_generator_version": GENERATOR_VERSION, "seed": seed, "num_frames": list(num_frames), "size": size}
    claim_folder(folder, settings)
    records: list[VideoQARecord] = []
    for scene_seed in track(range(seed, seed + num_videos), description="Writing videos", disable=not progress):
        scene = make_long_scene(scene_seed, num_frames)
        name = f"videos/{scene_seed:07d}.mp4"
        if not (folder / name).exists():
            write_long_mp4(scene, folder / name, size)
        questions = list(enumerate(long_questions(scene)))
        if questions_per_video is not None:
            questions = _draw(scene_seed, questions, questions_per_video)
        records += [
            make_record(
                f"{scene_seed:07d}-{number}-{question.kind}",
                name,
                [(question.question, question.answer)],
                {"kind": question.kind, "seed": scene_seed},
            )
            for number, question in questions
        ]
    return write_jsonl(records, folder / RECORDS_NAME)


def held_out_long_questions(
    per_kind: int = 100, split: str = "test", num_frames: tuple[int, int] = LONG_FRAMES
) -> Iterator[tuple[LongScene, QA]]:
    """Yield videos with one question each, `per_kind` of every kind of question. The result is always the same.

    Args:
        per_kind: questions of each kind of `LONG_KINDS`.
        split: a key of `SPLIT_SEEDS`.
        num_frames: shortest and longest length, as in `make_long_scene`.
    """
    for number in range(per_kind * len(LONG_KINDS)):
        scene = make_long_scene(SPLIT_SEEDS[split].start + number, num_frames)
        kind = LONG_KINDS[number % len(LONG_KINDS)]
        candidates = [question for question in long_questions(scene) if question.kind == kind]
        yield scene, pick(random.Random(f"hf_videollm held-out question {scene.seed}"), candidates)


def _draw(seed: int, questions: list[tuple[int, QA]], count: int) -> list[tuple[int, QA]]:
    """Choose questions about one video, of each kind as many as of the others; none is chosen twice."""
    rng = random.Random(f"hf_videollm chosen questions {seed}")
    asked: Counter[str] = Counter()
    rounds = []
    for entry in _sample(rng, questions, len(questions)):
        rounds.append((asked[entry[1].kind], entry))
        asked[entry[1].kind] += 1
    # The first round has one question of each kind. The sort keeps the random order within a round.
    chosen = [entry for _, entry in sorted(rounds, key=lambda pair: pair[0])[:count]]
    return sorted(chosen, key=lambda entry: entry[0])


def _between(rng: random.Random, lowest: int, highest: int) -> int:
    return lowest + int(rng.random() * (highest - lowest + 1))


def _sample(rng: random.Random, items: Sequence[_T], number: int) -> list[_T]:
    """Choose without repetition, in random order. `Random.sample` is not used, because it may change with Python."""
    left = list(items)
    return [left.pop(int(rng.random() * len(left))) for _ in range(number)]


def _gaps(rng: random.Random, total: int, number: int) -> list[int]:
    """Cut `total` frames into `number` parts, those between two events not empty."""
    cuts = sorted(_between(rng, 0, total - (number - 2)) for _ in range(number - 1))
    edges = [0, *(cut + place for place, cut in enumerate(cuts)), total]
    return [end - start for start, end in pairwise(edges)]


def _shot(rng: random.Random, first: int, length: int, backdrop: str | None, number: int) -> Shot:
    """Make a shot with a number of shapes, all of different colours and forms."""
    grey = 12 + 50 * rng.random()
    base = (grey,) * 3 if backdrop is None else tuple(DIMMED * level for level in COLOURS[backdrop])
    red, green, blue = (max(0, round(level + spread(rng, 8))) for level in base)
    cells = _sample(rng, [(column, row) for row in range(3) for column in range(3)], number)
    colours = _sample(rng, [colour for colour in COLOURS if colour != backdrop], number)
    shapes = _sample(rng, SHAPES, number)
    sprites = []
    for (column, row), colour, shape in zip(cells, colours, shapes, strict=True):
        centre = ((column + 0.5) / 3 + spread(rng, 0.04), (row + 0.5) / 3 + spread(rng, 0.04))
        sprites.append(make_sprite(rng, colour, shape, 0.12 + 0.02 * rng.random(), first, [centre] * length))
    return Shot(first, length, backdrop, (red, green, blue), tuple(sprites))


if __name__ == "__main__":
    run_as_command("data", "long")
