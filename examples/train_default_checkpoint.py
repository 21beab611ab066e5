"""Make the checkpoint that the package ships: a small PLLaVA, from random weights to measured answers.

    python examples/train_default_checkpoint.py                 # about an hour on two CPU cores
    python examples/train_default_checkpoint.py --only evaluate # measure the shipped one again

Steps, each resumable: write clips, train with TRL's SFTTrainer, measure on held-out clips, save.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import trl
import typer
from transformers.trainer_utils import get_last_checkpoint

import hf_videollm
from hf_videollm import PllavaForConditionalGeneration
from hf_videollm.data.synthetic import generate_dataset
from hf_videollm.training.sft import load_recipe, run_sft
from hf_videollm.training.synthetic_check import accuracies, answer_questions, held_out_clips
from hf_videollm.training.tiny import build_tiny_pllava

REPOSITORY = Path(__file__).resolve().parents[1]
ASSET = REPOSITORY / "src" / "hf_videollm" / "assets" / "pllava-tiny"


def train(work: Path, num_videos: int, max_steps: int | None) -> tuple[Any, Any]:
    """Write the clips, train, and return model and processor."""
    records = generate_dataset(work / "clips", num_videos, details=True)
    recipe = load_recipe("pllava_synthetic")
    arguments = {**recipe.arguments, "output_dir": str(work / "trainer")}
    if max_steps is not None:
        arguments["max_steps"] = max_steps
    recipe = replace(recipe, records=str(records), frame_cache=str(work / "frames"), arguments=arguments)
    model, processor = build_tiny_pllava(seed=0)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {num_videos} clips", flush=True)
    started = time.time()
    trainer = run_sft(recipe, model, processor)
    print(f"Trained for {trainer.state.global_step} steps; this run took {time.time() - started:.0f} s", flush=True)
    return trainer.model, processor


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
        "command": " ".join(["python", *sys.argv]),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "trl": trl.__version__,
        },
    }


def write_asset(model: Any, processor: Any, work: Path, output: Path) -> None:
    """Save the checkpoint and, next to it, the log of its training."""
    hf_videollm.save_checkpoint(model, processor, output, overwrite=True)
    state = json.loads((Path(get_last_checkpoint(str(work / "trainer"))) / "trainer_state.json").read_text())
    lines = [json.dumps(entry) for entry in state["log_history"]]
    (output / "training_log.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(
    work: Annotated[Path, typer.Option(help="Folder for clips and training checkpoints.")] = Path("runs/default"),
    num_videos: Annotated[int, typer.Option(help="Training clips.")] = 10_000,
    max_steps: Annotated[int | None, typer.Option(help="Steps; the recipe's number by default.")] = None,
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
    if only not in (None, "finish", "evaluate"):
        raise typer.BadParameter(f"{only!r} is neither finish nor evaluate.", param_hint="--only")
    if only is None:
        write_asset(*train(work, num_videos, max_steps), work, output)
    elif only == "finish":
        last = get_last_checkpoint(str(work / "trainer"))
        write_asset(PllavaForConditionalGeneration.from_pretrained(last), build_tiny_pllava()[1], work, output)
    # Measured as users will have it: loaded from the files.
    model = transformers.AutoModelForImageTextToText.from_pretrained(output)
    processor = transformers.AutoProcessor.from_pretrained(output)
    result = evaluate(model, processor, work, per_kind, split)
    print(json.dumps(result, indent=2))
    (output / "accuracy.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
