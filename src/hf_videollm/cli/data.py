"""`hf-videollm data clips | long`: synthetic videos with questions whose answers are known."""

import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from ..synthetic.scene import DEFAULT_SIZE, KINDS, LONG_FRAMES, SPLIT_SEEDS, SceneKind
from .app import Command, HintingGroup
from .options import AsJson
from .output import print_json

data_app = typer.Typer(cls=HintingGroup)


def _one_of(known: Collection[str]) -> Callable[[str | None], str | None]:
    """A check for an option that has only a few allowed values. `None`, the default, is always allowed."""

    def check(value: str | None) -> str | None:
        if value is not None and value not in known:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(known)}.")
        return value

    return check


Folder = Annotated[Path, typer.Argument(help="Folder to write; an interrupted run is resumed.")]
Split = Annotated[
    str,
    typer.Option(
        callback=_one_of(SPLIT_SEEDS), help="train, validation or test; their ranges of seeds do not overlap."
    ),
]
Offset = Annotated[int, typer.Option(min=0, help="Skip this many seeds of the split.")]
Size = Annotated[int, typer.Option(help="Side of the square frames in pixels (even).")]


@data_app.callback(invoke_without_command=True)
def data(context: typer.Context) -> None:
    """Write synthetic videos with questions and their answers, or look at data and publish them.

    Examples:

      hf-videollm data clips clips/ --num-videos 200

      hf-videollm data check mix.yaml
    """
    if context.invoked_subcommand is None:
        raise ValueError("No command is given: use hf-videollm data clips FOLDER, long, check or push (--help).")


@data_app.command(cls=Command)
def clips(
    folder: Folder,
    num_videos: Annotated[int, typer.Option(min=1, help="Number of clips.")] = 100,
    split: Split = "train",
    offset: Offset = 0,
    kind: Annotated[
        str | None,
        typer.Option(callback=_one_of(KINDS), help="Write only scenes of one kind: motion, order, count or entry."),
    ] = None,
    size: Size = DEFAULT_SIZE,
    with_audio: Annotated[bool, typer.Option("--audio/--no-audio", help="Write a sound track.")] = True,
    sound_questions: Annotated[bool, typer.Option("--sound/--no-sound", help="Also ask about the beeps.")] = False,
    details: Annotated[bool, typer.Option(help="Also ask about single properties, for training.")] = False,
    entries: Annotated[
        bool, typer.Option(help="In three of ten clips, a shape appears before or after a beep (entry scenes).")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write short synthetic clips (MP4, H.264 and AAC) with questions and their answers.

    Examples:

      hf-videollm data clips clips/ --num-videos 200

      hf-videollm data clips held_out/ --split test --num-videos 100 --sound --entries
    """
    from ..synthetic.clips import generate_dataset

    records = generate_dataset(
        folder,
        num_videos,
        seed=SPLIT_SEEDS[split].start + offset,
        kind=cast(SceneKind | None, kind),
        size=size,
        with_audio=with_audio,
        sound_questions=sound_questions,
        details=details,
        entries=entries,
        progress=not as_json and sys.stdout.isatty(),
    )
    _print_records(records, num_videos, "clips", as_json)


@data_app.command("long", cls=Command)
def long_videos(
    folder: Folder,
    num_videos: Annotated[int, typer.Option(min=1, help="Number of videos.")] = 100,
    split: Split = "train",
    offset: Offset = 0,
    shortest: Annotated[int, typer.Option(help="Shortest length in frames, one per second.")] = LONG_FRAMES[0],
    longest: Annotated[int, typer.Option(help="Longest length in frames.")] = LONG_FRAMES[1],
    questions_per_video: Annotated[
        int | None, typer.Option("--questions", help="Questions about each video, of all kinds alike; all by default.")
    ] = None,
    size: Size = DEFAULT_SIZE,
    as_json: AsJson = False,
) -> None:
    """Write long synthetic videos (MP4, one frame per second) with questions and their answers.

    Examples:

      hf-videollm data long long/ --num-videos 200

      hf-videollm data long held_out/ --split test --num-videos 50 --questions 4
    """
    from ..synthetic.long import generate_long_dataset

    seed = SPLIT_SEEDS[split].start + offset
    records = generate_long_dataset(
        folder,
        num_videos,
        seed,
        (shortest, longest),
        questions_per_video,
        size,
        progress=not as_json and sys.stdout.isatty(),
    )
    _print_records(records, num_videos, "videos", as_json)


def _print_records(records: Path, num_videos: int, what: str, as_json: bool) -> None:
    if as_json:
        facts: dict[str, Any] = {"records": str(records), "num_videos": num_videos}
        print_json(facts)
    else:
        print(f"{num_videos} {what}, questions in {records}")


__all__ = ["clips", "data", "data_app", "long_videos"]
