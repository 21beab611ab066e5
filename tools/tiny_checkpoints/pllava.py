"""Make the checkpoint that the package ships: a small PLLaVA, from random weights to measured answers.

    python tools/tiny_checkpoints/pllava.py --threads 2     # about 50 minutes on two CPU cores
    python tools/tiny_checkpoints/pllava.py --only evaluate # measure the shipped one again

Steps, each resumable: write clips, train with TRL's SFTTrainer, measure on held-out clips, save.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from common import (
    ASSETS,
    count_parameters,
    list_recipes,
    make_or_measure,
    provenance,
    run_stages,
)

from hf_videollm import PllavaForConditionalGeneration
from hf_videollm.synthetic.check import accuracies, answer_questions, held_out_clips
from hf_videollm.synthetic.clips import generate_dataset
from hf_videollm.synthetic.tiny.pllava import build_tiny_pllava

STAGES = ("pllava/stills", "pllava/videos")
ASSET = ASSETS / "pllava-tiny"

NOTES = """# The small PLLaVA of this package

{parameters} parameters, trained from random weights on synthetic clips of coloured shapes. It knows these clips
and nothing else: it is here so that everything can be tried offline, and so that a test can see a model learn.

Made by `python tools/tiny_checkpoints/pllava.py` in two stages, recipes {stages} in
`hf_videollm/synthetic/recipes` (steps, learning rates and seeds stand there): single frames first, then clips, both
with TRL's SFTTrainer, without LoRA. Weights start from seed 0, training clips have the seeds 0 to 9999. Losses and
learning rates of every logged step are in `training_log.jsonl`.

Measured on {questions} questions about clips of the split `{split}` (other seeds than the training clips), read from
MP4 files and answered by `generate`; an answer counts if it is exactly the expected one. Numbers, command and library
versions are in `accuracy.json`; the command was `{command}`.

| question | right |
|---|---|
{rows}
| direction, frames shuffled | {shuffled} (chance: 25 %) |
"""


def train(work: Path, num_videos: int) -> tuple[Any, Any]:
    """Write the clips, train on single frames, then on clips, and return model and processor."""
    records = generate_dataset(work / "clips", num_videos, details=True)
    model, processor = build_tiny_pllava(seed=0)
    print(f"{count_parameters(model)} parameters, {num_videos} clips", flush=True)
    return run_stages(STAGES, model, processor, records, work), processor


def evaluate(model: Any, processor: Any, work: Path, per_kind: int, split: str = "test") -> dict[str, Any]:
    """Measure with the frames in order and, for questions of direction, with the frames shuffled."""
    clips = held_out_clips(work / f"held_out_{split}", per_kind, split)
    in_order = answer_questions(model, processor, clips)
    moving = [clip for clip in clips if clip.question.kind == "direction"]
    shuffled = answer_questions(model, processor, moving, shuffle_seed=0)
    return {
        "split": split,
        "questions": len(clips),
        "accuracy": accuracies(in_order),
        "direction_with_shuffled_frames": accuracies(shuffled)["direction"],
        **provenance(),
    }


def describe(model: Any, result: dict[str, Any]) -> str:
    """Page that lies next to the checkpoint: what it is, how it was made, what it can do."""
    rows = [f"| {kind} | {share:.1%} |" for kind, share in result["accuracy"].items()]
    return NOTES.format(
        parameters=count_parameters(model),
        stages=list_recipes(STAGES),
        rows="\n".join(rows),
        **{key: result[key] for key in ("questions", "split", "command")},
        shuffled=f"{result['direction_with_shuffled_frames']:.1%}",
    )


def main(
    work: Annotated[Path, typer.Option(help="Folder for clips and training checkpoints.")] = Path("runs/default"),
    num_videos: Annotated[int, typer.Option(help="Training clips.")] = 10_000,
    per_kind: Annotated[int, typer.Option(help="Held-out questions of each kind.")] = 100,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    output: Annotated[Path, typer.Option(help="Folder of the finished checkpoint.")] = ASSET,
    split: Annotated[str, typer.Option(help="Clips to measure on: test, or validation for decisions.")] = "test",
    only: Annotated[
        str | None,
        typer.Option(help="`finish`: save and measure the last training checkpoint; `evaluate`: measure --output."),
    ] = None,
) -> None:
    """Train and measure the default checkpoint of the package."""
    torch.set_num_threads(threads)
    make_or_measure(
        only,
        output,
        work,
        STAGES,
        lambda: train(work, num_videos),
        lambda checkpoint: (PllavaForConditionalGeneration.from_pretrained(checkpoint), build_tiny_pllava()[1]),
        lambda model, processor: evaluate(model, processor, work, per_kind, split),
        describe,
        lambda page, result: json.dumps(result, indent=2),
    )


if __name__ == "__main__":
    typer.run(main)
