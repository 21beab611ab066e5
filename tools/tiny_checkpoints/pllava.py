"""Make the checkpoint that the package ships: a small PLLaVA, from random weights to measured answers.

    python tools/tiny_checkpoints/pllava.py --threads 2     # about 50 minutes on two CPU cores
    python tools/tiny_checkpoints/pllava.py --only evaluate # measure the shipped one again

Steps, each resumable: write clips, train with TRL's SFTTrainer, measure on held-out clips, save.
"""

from pathlib import Path
from typing import Any

from common import (
    ASSETS,
    Options,
    count_parameters,
    list_recipes,
    measurement,
    provenance,
    run_script,
    run_stages,
    saving,
)

from hf_videollm import PllavaForConditionalGeneration
from hf_videollm.synthetic.check import accuracies, answer_questions, held_out_clips
from hf_videollm.synthetic.clips import generate_dataset
from hf_videollm.synthetic.tiny.pllava import build_tiny_pllava

STAGES = ("pllava/stills", "pllava/videos")

NOTES = """# The small PLLaVA of this package

{parameters} parameters, trained from random weights on synthetic clips of coloured shapes. It can answer questions
about such clips only. It lets users try everything offline, and tests show with it that the design learns.

Made by `python tools/tiny_checkpoints/pllava.py` in two stages, recipes {stages} in `hf_videollm/synthetic/recipes`
(they contain steps, learning rates and seeds): single frames first, then clips, both with TRL's SFTTrainer, without
LoRA. The seed of the initial weights is 0; the training clips have the seeds 0 to {last_seed}. Losses and learning
rates of every logged step are in `training_log.jsonl`.

Measured on {questions} questions about clips of the split `{split}` (their seeds are not used in training), read from
MP4 files and answered by `generate`; an answer is right if it is exactly the expected one. Numbers, command and library
versions are in `accuracy.json`; the command was `{command}`.

| question | right |
|---|---|
{rows}
| direction, frames shuffled | {shuffled} (chance: 25 %) |
"""


def train(options: Options) -> None:
    """Write the clips, train on single frames, then on clips."""
    records = generate_dataset(options.work / "clips", options.num_videos, details=True)
    model, processor = build_tiny_pllava(seed=0)
    print(f"{count_parameters(model)} parameters, {options.num_videos} clips", flush=True)
    run_stages(STAGES, model, processor, records, options.work)


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


def describe(model: Any, result: dict[str, Any], num_videos: int) -> str:
    """Page that lies next to the checkpoint: what it is, how it was made, what it can do."""
    rows = [f"| {kind} | {share:.1%} |" for kind, share in result["accuracy"].items()]
    return NOTES.format(
        parameters=count_parameters(model),
        stages=list_recipes(STAGES),
        rows="\n".join(rows),
        last_seed=num_videos - 1,
        **{key: result[key] for key in ("questions", "split", "command")},
        shuffled=f"{result['direction_with_shuffled_frames']:.1%}",
    )


if __name__ == "__main__":
    run_script(
        "Train and measure the default checkpoint of the package.",
        Options(Path("runs/default"), 10_000, ASSETS / "pllava-tiny"),
        train,
        saving(PllavaForConditionalGeneration, build_tiny_pllava, STAGES),
        measurement(evaluate, describe),
        prints_numbers=True,
    )
