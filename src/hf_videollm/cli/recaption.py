"""`hf-videollm recaption`: captions for a folder or a list of videos."""

from pathlib import Path
from typing import Annotated

import typer

from .evaluate_options import AnsweringOptions, ModelOptions, load_model, run_progress
from .options import AsJson, spread_options
from .output import note, print_json

ALL_FAILED = 1


@spread_options
def recaption(
    videos: Annotated[Path, typer.Argument(help="Folder of videos, or a list of them: .txt, .json or .jsonl.")],
    *,
    output: Annotated[Path, typer.Option("--output", help="JSON lines to write, one for each video.")] = Path(
        "captions.jsonl"
    ),
    model: ModelOptions,
    answering: AnsweringOptions,
    as_json: AsJson = False,
) -> None:
    """Describe videos as PLLaVA describes Inter4K anew: 400 tokens, greedy.

    A run that was stopped goes on when the same command is given again.

    Examples:

      hf-videollm recaption ./Inter4K/60fps/UHD --model ./pllava-7b --output inter4k.jsonl

      hf-videollm recaption clips.txt --model ./pllava-34b --prompt-style pllava_34b --dtype bfloat16
    """
    from ..evaluation.ranks import Ranks
    from ..evaluation.recaption import find_videos, options_with_style, run_folder
    from ..evaluation.recaption import recaption as describe
    from ..evaluation.runner import Runner
    from ..evaluation.tasks.inter4k import TASKS as INTER4K

    if answering.mode != "generate":
        raise ValueError("--mode likelihood compares options, and captions have none: leave it out.")
    task = INTER4K[0]
    answering.prompt_styles().lacking([task])
    options = answering.run_options(model, task.name)
    found = find_videos(videos)
    ranks = Ranks.of_environment()
    pipe, source = load_model(model, ranks)
    options = options_with_style(options, pipe.model.config.model_type)
    with run_progress("Describing", ranks.rank, quiet=as_json) as show:
        result = describe(Runner(pipe, model.model or source, options, ranks, show, answering.memory()), found, output)
    if result is None:
        note("This process has done its share; the last one to finish writes the captions.")
        return
    counts = result["counts"]
    if as_json:
        facts = {"output": str(output), "videos": counts["items"], "errors": counts["errors"]}
        print_json({**facts, "errors_by_type": counts["errors_by_type"], "run": str(run_folder(output))})
    else:
        print(f"{counts['answered']} captions in {output}")
    if counts["errors"]:
        note(
            f"warning: {counts['errors']} of {counts['items']} videos have no caption; {output} has the error of each."
        )
    if not counts["answered"]:
        raise typer.Exit(ALL_FAILED)


__all__ = ["recaption"]
