"""Defines what happens in a synthetic clip, and the questions about it with their answers. Nothing is drawn here.

A scene depends only on its seed. Positions and radii are fractions of the frame's side (0 = left or top, 1 = right or
bottom). There are four kinds of scenes. By default, the seed chooses one of the first three:

motion
    One shape drifts across the frame in one of four directions. At the same time it moves back and forth on the other
    axis. On both axes, its positions have the same uniform distribution over the same range, so the frames of a
    shuffled clip do not show the direction, not even whether the motion was horizontal.
order
    One shape, then another. Which of them a question mentions first does not depend on the right answer.
count
    One to five shapes, standing still.
entry
    An empty frame, then one shape. The sound is a single beep shortly before or after the shape appears. The time at
    which the shape appears does not show which of the two it is, and the time of the beep alone shows little. These
    scenes are made only on request, with `kind` or `entries`.

Scenes of the other kinds have a sound track with one to four beeps at equal distances, all high or all low.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

__all__ = [
    "BEEP_SECONDS",
    "COLOURS",
    "DETAIL_TEMPLATES",
    "DIRECTIONS",
    "KINDS",
    "MAX_BEEPS",
    "MAX_COUNT",
    "MIXED_KINDS",
    "PITCHES",
    "QA",
    "QUESTION_KINDS",
    "QUESTION_TEMPLATES",
    "SHAPES",
    "SOUND_QUESTION_KINDS",
    "SPLIT_SEEDS",
    "VIDEO_QUESTION_KINDS",
    "Scene",
    "SceneKind",
    "Sprite",
    "answer_vocabulary",
    "make_scene",
    "make_sprite",
    "pick",
    "questions_for",
    "split_of",
    "spread",
]

_T = TypeVar("_T")
SceneKind = Literal["motion", "order", "count", "entry"]
KINDS: tuple[SceneKind, ...] = get_args(SceneKind)
# The kinds from which a seed chooses. Entry scenes were added later; in this list, they would have changed the scenes
# of all seeds.
MIXED_KINDS: tuple[SceneKind, ...] = ("motion", "order", "count")
# The share of seeds that give an entry scene if `entries` is set.
ENTRY_SHARE = 0.3

# The hues are far apart, so that they stay distinguishable with H.264's halved colour resolution.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 35, 35),
    "green": (35, 185, 55),
    "blue": (50, 80, 235),
    "yellow": (240, 225, 40),
    "purple": (165, 45, 200),
    "orange": (245, 135, 20),
    "cyan": (40, 215, 225),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring")
DIRECTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
PITCHES = ("high", "low")
MAX_COUNT = 5
MAX_BEEPS = 4
BEEP_SECONDS = 0.12

VIDEO_QUESTION_KINDS = ("colour", "shape", "direction", "order", "count")
SOUND_QUESTION_KINDS = ("beeps", "pitch", "sound_order")
QUESTION_KINDS = VIDEO_QUESTION_KINDS + SOUND_QUESTION_KINDS
QUESTION_TEMPLATES: dict[str, tuple[str, ...]] = {
    "colour": ("What colour is the shape?", "What color is the shape?", "Which colour does the shape have?"),
    "shape": ("What shape is shown?", "Which shape is it?", "What kind of shape is this?"),
    "direction": (
        "In which direction does the shape move?",
        "Which way does the shape move?",
        "In what direction is the shape moving?",
    ),
    "order": (
        "Which came first, the {a} or the {b}?",
        "Which appeared first, the {a} or the {b}?",
        "What was shown first, the {a} or the {b}?",
    ),
    "count": ("How many shapes are there?", "How many shapes can you see?", "How many shapes are shown?"),
    "beeps": ("How many beeps are there?", "How many beeps can you hear?", "How many beeps are in the sound?"),
    "pitch": ("Are the beeps high or low?", "Is the sound high or low?", "Is the pitch of the beeps high or low?"),
    "sound_order": (
        "Does the sound come before or after the shape appears?",
        "Is the sound heard before or after the shape appears?",
        "Does the beep come before or after the shape?",
    ),
}

# Questions about order scenes that are asked in training only. The answer is one property of one of the two shapes. A
# small model learns these much sooner than the question of order, and needs them for it.
DETAIL_TEMPLATES = ("What {property} came {place}?", "Which {property} was shown {place}?")

# Splits are ranges of seeds, so a clip always belongs to the same split.
SPLIT_SEEDS: dict[str, range] = {
    "train": range(1_000_000),
    "validation": range(1_000_000, 2_000_000),
    "test": range(2_000_000, 3_000_000),
}

DEFAULT_SIZE = 64
DEFAULT_FPS = 8
# The shortest and the longest length of long videos, in frames and in seconds, because they have one frame per second.
LONG_FRAMES = (60, 120)
MIN_FRAMES, MAX_FRAMES = 16, 24
# All entry scenes have the same length, so the time of an event and its fraction of the clip say the same.
ENTRY_FRAMES = 24
# The shortest entry scene in seconds. In a shorter one, a beep would still sound when the shape appears.
MIN_ENTRY_SECONDS = 1.0


@dataclass(frozen=True)
class Sprite:
    """One coloured shape.

    Attributes:
        colour: a key of `COLOURS`.
        shape: one of `SHAPES`.
        rgb: its exact colour, a little off the nominal one.
        radius: half of its extent, as a fraction of the frame's side.
        first_frame: first frame in which it is visible.
        centres: (x, y) in each frame in which it is visible.
    """

    colour: str
    shape: str
    rgb: tuple[int, int, int]
    radius: float
    first_frame: int
    centres: tuple[tuple[float, float], ...]

    @property
    def name(self) -> str:
        """Its name in questions, such as "red circle"."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """The complete description of a clip.

    Attributes:
        seed: the seed from which it was made.
        kind: one of `KINDS`.
        num_frames: length of the clip in frames.
        fps: frames per second.
        background: colour of the background.
        noise: standard deviation of the background noise in grey levels; 0 means plain.
        sprites: the shapes, in order of appearance.
        direction: direction of the drift in a motion scene, else None.
        beep_times: middle of each beep of the sound track, as fractions of the clip.
        pitch: "high" or "low".
    """

    seed: int
    kind: SceneKind
    num_frames: int
    fps: int
    background: tuple[int, int, int]
    noise: float
    sprites: tuple[Sprite, ...]
    direction: str | None
    beep_times: tuple[float, ...]
    pitch: str

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.num_frames / self.fps

    @property
    def beeps(self) -> int:
        """Number of beeps."""
        return len(self.beep_times)

    @property
    def sound_order(self) -> str | None:
        """Whether the beep of an entry scene comes "before" or "after" its shape; None for other scenes."""
        if self.kind != "entry":
            return None
        return "before" if self.beep_times[0] < self.sprites[0].first_frame / self.num_frames else "after"


@dataclass(frozen=True)
class QA:
    """One question about a scene, with its answer of one or two words."""

    kind: str
    question: str
    answer: str


def split_of(seed: int) -> str:
    """Return the name of the split to which `seed` belongs.

    Raises:
        ValueError: it belongs to no split.
    """
    for name, seeds in SPLIT_SEEDS.items():
        if seed in seeds:
            return name
    last = max(seeds.stop for seeds in SPLIT_SEEDS.values()) - 1
    raise ValueError(f"Seed {seed} belongs to no split; seeds run from 0 to {last}.")


def make_scene(
    seed: int,
    kind: SceneKind | None = None,
    num_frames: int | None = None,
    fps: int = DEFAULT_FPS,
    entries: bool = False,
) -> Scene:
    """Make a random scene. The same arguments give the same scene on every machine.

    Args:
        seed: any non-negative integer; see `SPLIT_SEEDS` for the ranges of the splits.
        kind: "motion", "order", "count" or "entry"; None lets the seed choose from the first three.
        num_frames: length of the clip, at least 8. With None, the seed chooses from 16 to 24; an entry scene has 24.
        fps: frames per second.
        entries: without `kind`, three of ten seeds give an entry scene. The other seeds give the same scene as without
            this option.

    Raises:
        ValueError: an argument is out of range.
    """
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}.")
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind {kind!r} is not one of {KINDS}.")
    if num_frames is not None and num_frames < 8:
        raise ValueError(f"num_frames must be at least 8 so that motion and order stay visible, got {num_frames}.")
    if fps < 1:
        raise ValueError(f"fps must be at least 1, got {fps}.")
    # Python guarantees that random.Random(seed).random() gives the same numbers in every version. A text seed is hashed
    # with SHA-512, so neighbouring seeds give unrelated numbers.
    rng = random.Random(f"hf_videollm scene {seed}")
    drawn_kind: SceneKind = pick(rng, MIXED_KINDS)
    # A separate random generator is used here, so that the scenes of the other seeds do not change.
    if entries and random.Random(f"hf_videollm entry {seed}").random() < ENTRY_SHARE:
        drawn_kind = "entry"
    chosen_kind = drawn_kind if kind is None else kind
    length = num_frames or MIN_FRAMES + int(rng.random() * (MAX_FRAMES - MIN_FRAMES + 1))
    if chosen_kind == "entry":
        length = num_frames or ENTRY_FRAMES
        if length / fps < MIN_ENTRY_SECONDS:
            raise ValueError(
                f"An entry scene must last at least {MIN_ENTRY_SECONDS:g} s, but {length} frames at {fps} per second "
                f"are {length / fps:.2f} s: raise num_frames or lower fps."
            )
    grey = 12 + 50 * rng.random()
    background = (_level(grey + spread(rng, 8)), _level(grey + spread(rng, 8)), _level(grey + spread(rng, 8)))
    noise = 0.0 if rng.random() < 0.5 else 2 + 4 * rng.random()
    direction = pick(rng, tuple(DIRECTIONS)) if chosen_kind == "motion" else None
    if direction is not None:
        sprites = _motion_sprites(rng, length, direction)
    elif chosen_kind == "order":
        sprites = _order_sprites(rng, length)
    elif chosen_kind == "entry":
        sprites = _entry_sprites(rng, length)
    else:
        sprites = _count_sprites(rng, length)
    beeps = 1 + int(rng.random() * MAX_BEEPS)
    pitch = pick(rng, PITCHES)
    beep_times = [(number + 0.5) / beeps for number in range(beeps)]
    if chosen_kind == "entry":
        beep_times = [_entry_beep(rng, sprites[0].first_frame / length, length / fps)]
    return Scene(
        seed=seed,
        kind=chosen_kind,
        num_frames=length,
        fps=fps,
        background=background,
        noise=noise,
        sprites=sprites,
        direction=direction,
        beep_times=tuple(beep_times),
        pitch=pitch,
    )


def questions_for(scene: Scene, sound: bool = False, details: bool = False) -> list[QA]:
    """Return the questions that a scene answers, one per kind of question.

    Args:
        scene: the scene.
        sound: also ask about the beeps: how many there are (not in entry scenes, which always have one), whether they
            are high or low, and in entry scenes whether the beep comes before or after the shape.
        details: also ask for colour and form of the first and the last shape of an order scene (kind "detail").
    """
    rng = random.Random(f"hf_videollm questions {scene.seed}")
    answers: dict[str, str] = {}
    names = [sprite.name for sprite in scene.sprites[:2]]
    # This random number is drawn for every kind of scene, so that the wording of the questions does not depend on the
    # kind.
    if rng.random() < 0.5:
        names.reverse()
    if scene.kind == "motion":
        sprite = scene.sprites[0]
        answers = {"colour": sprite.colour, "shape": sprite.shape, "direction": str(scene.direction)}
    elif scene.kind == "order":
        answers = {"order": scene.sprites[0].name}
    elif scene.kind == "entry":
        answers = {"colour": scene.sprites[0].colour, "shape": scene.sprites[0].shape}
    else:
        answers = {"count": str(len(scene.sprites))}
    if sound:
        first = {"beeps": str(scene.beeps)} if scene.sound_order is None else {"sound_order": scene.sound_order}
        answers |= {**first, "pitch": scene.pitch}
    questions = []
    for kind, answer in answers.items():
        template = pick(rng, QUESTION_TEMPLATES[kind])
        question = template.format(a=names[0], b=names[-1]) if kind == "order" else template
        questions.append(QA(kind=kind, question=question, answer=answer))
    if details and scene.kind == "order":
        questions += _detail_questions(scene, rng)
    return questions


def answer_vocabulary(kind: str) -> list[str]:
    """Return every possible answer to one kind of question.

    Raises:
        ValueError: unknown kind.
    """
    answers: dict[str, list[str]] = {
        "colour": list(COLOURS),
        "shape": list(SHAPES),
        "direction": list(DIRECTIONS),
        "order": [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES],
        "count": [str(number) for number in range(1, MAX_COUNT + 1)],
        "beeps": [str(number) for number in range(1, MAX_BEEPS + 1)],
        "pitch": list(PITCHES),
        "sound_order": ["before", "after"],
    }
    if kind not in answers:
        raise ValueError(f"kind {kind!r} is not one of {QUESTION_KINDS}.")
    return answers[kind]


def _detail_questions(scene: Scene, rng: random.Random) -> list[QA]:
    questions = []
    for place, sprite in zip(("first", "last"), scene.sprites, strict=True):
        for name, answer in (("colour", sprite.colour), ("shape", sprite.shape)):
            question = pick(rng, DETAIL_TEMPLATES).format(property=name, place=place)
            questions.append(QA(kind="detail", question=question, answer=answer))
    return questions


def pick(rng: random.Random, items: Sequence[_T]) -> _T:
    """Return one of the items, all equally likely."""
    return items[int(rng.random() * len(items))]


def spread(rng: random.Random, width: float) -> float:
    """Return a number drawn evenly from -width/2 to width/2."""
    return (rng.random() - 0.5) * width


def _level(value: float) -> int:
    return max(0, min(255, round(value)))


def make_sprite(
    rng: random.Random, colour: str, shape: str, radius: float, first: int, centres: list[tuple[float, float]]
) -> Sprite:
    """Return a shape whose colour differs randomly a little from the nominal one. For the arguments see `Sprite`."""
    red, green, blue = (_level(level + spread(rng, 16)) for level in COLOURS[colour])
    return Sprite(
        colour=colour,
        shape=shape,
        rgb=(red, green, blue),
        radius=radius,
        first_frame=first,
        centres=tuple(centres),
    )


def _motion_sprites(rng: random.Random, length: int, direction: str) -> tuple[Sprite, ...]:
    radius = 0.17 + 0.03 * rng.random()
    reach = 0.19 + 0.09 * rng.random()
    room = 0.5 - radius - reach
    centre_x, centre_y = 0.5 + spread(rng, 2 * room), 0.5 + spread(rng, 2 * room)
    bounces = 1 + int(rng.random() * 2)
    sign = 1 if rng.random() < 0.5 else -1
    step_x, step_y = DIRECTIONS[direction]
    centres = []
    for frame in range(length):
        time = frame / (length - 1)
        drift = reach * (2 * time - 1)
        # The shape moves back and forth a whole number of times, so there is no net movement and no trend on this axis.
        # The wave is triangular, so the positions have the same uniform distribution as on the axis of the drift.
        bounce = sign * reach * (1 - 4 * abs(bounces * time % 1 - 0.5))
        x = centre_x + (step_x * drift if step_x else bounce)
        y = centre_y + (step_y * drift if step_y else bounce)
        centres.append((x, y))
    colour, shape = pick(rng, tuple(COLOURS)), pick(rng, SHAPES)
    return (make_sprite(rng, colour, shape, radius, 0, centres),)


def _order_sprites(rng: random.Random, length: int) -> tuple[Sprite, ...]:
    change = round(length * (0.4 + 0.2 * rng.random()))
    colours = [pick(rng, tuple(COLOURS))]
    colours.append(pick(rng, tuple(colour for colour in COLOURS if colour not in colours)))
    shapes = [pick(rng, SHAPES)]
    shapes.append(pick(rng, tuple(shape for shape in SHAPES if shape not in shapes)))
    sprites = []
    for colour, shape, first, last in zip(colours, shapes, (0, change), (change, length), strict=True):
        radius = 0.19 + 0.06 * rng.random()
        room = 1 - 2 * radius
        centre = (0.5 + spread(rng, room), 0.5 + spread(rng, room))
        sprites.append(make_sprite(rng, colour, shape, radius, first, [centre] * (last - first)))
    return tuple(sprites)


def _count_sprites(rng: random.Random, length: int) -> tuple[Sprite, ...]:
    number = 1 + int(rng.random() * MAX_COUNT)
    cells = [(column, row) for row in range(3) for column in range(3)]
    sprites = []
    for _ in range(number):
        column, row = cells.pop(int(rng.random() * len(cells)))
        radius = 0.11 + 0.025 * rng.random()
        centre = ((column + 0.5) / 3 + spread(rng, 0.05), (row + 0.5) / 3 + spread(rng, 0.05))
        colour, shape = pick(rng, tuple(COLOURS)), pick(rng, SHAPES)
        sprites.append(make_sprite(rng, colour, shape, radius, 0, [centre] * length))
    return tuple(sprites)


def _entry_sprites(rng: random.Random, length: int) -> tuple[Sprite, ...]:
    earliest, latest = math.ceil(length / 6), length - math.ceil(length / 6)
    first = earliest + int(rng.random() * (latest - earliest + 1))
    colour, shape = pick(rng, tuple(COLOURS)), pick(rng, SHAPES)
    radius = 0.19 + 0.06 * rng.random()
    room = 1 - 2 * radius
    centre = (0.5 + spread(rng, room), 0.5 + spread(rng, room))
    return (make_sprite(rng, colour, shape, radius, first, [centre] * (length - first)),)


def _entry_beep(rng: random.Random, appearance: float, seconds: float) -> float:
    """Choose the middle of the beep of an entry scene, as a fraction of the clip of that many seconds.

    Its distance from `appearance` is between a tenth and a bit more than a fifth of the clip. The distance is short,
    because the time of a beep that could be anywhere would mostly show whether it comes before or after.
    """
    before = rng.random() < 0.5
    room = (appearance if before else 1 - appearance) - BEEP_SECONDS / 2 / seconds
    distance = 0.1 + (min(room, 0.22) - 0.1) * rng.random()
    return appearance - distance if before else appearance + distance
