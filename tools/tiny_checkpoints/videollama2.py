"""Make the small VideoLLaMA2 of the package, and measure what it answers.

    python tools/tiny_checkpoints/videollama2.py                 # about half an hour on one core
    python tools/tiny_checkpoints/videollama2.py --only evaluate # measure the shipped one again

Steps, each resumable: write clips, copy vision tower and language model of the small PLLaVA, train with TRL's
SFTTrainer, save, measure on held-out clips.
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

import hf_videollm
from hf_videollm.models.modeling_videollama2 import VideoLlama2ForCausalLM
from hf_videollm.synthetic.check import accuracies, answer_questions, held_out_clips, one_answer
from hf_videollm.synthetic.clips import generate_dataset
from hf_videollm.synthetic.tiny.parts import take_over_weights
from hf_videollm.synthetic.tiny.videollama2 import build_tiny_videollama2

STAGES = ("videollama2/videos",)
# Kinds of questions that need the order of the frames.
TIME_KINDS = ("direction", "order")

NOTES = """# The small VideoLLaMA2 of this package

{parameters} parameters. It can answer questions about synthetic clips of coloured shapes only. It lets users try the
design offline, and tests show with it that the design learns.

Made by `python tools/tiny_checkpoints/videollama2.py` with the recipe {stages} in `hf_videollm/synthetic/recipes` (it
contains steps, learning rate and seed), with TRL's SFTTrainer, without LoRA. Vision tower and language model start with
the weights of `pllava-tiny`, which was trained on clips of the same kind; the tower is not trained further. The
connector starts from random weights, seed 0. Training clips have the seeds 0 to {last_seed}. Losses and learning rates
of every logged step are in `training_log.jsonl`.

Measured on {questions} questions about clips of the split `{split}` (their seeds are not used in training), read from
MP4 files and answered by `generate`; an answer is right if it is exactly the expected one. Numbers, command and library
versions are in `accuracy.json`; the command was `{command}`. "One answer" is the accuracy of always giving the most
frequent answer (for `order`, the shape that the question names first).

| question | right | frames shuffled | one answer |
|---|---|---|---|
{rows}
"""


def train(options: Options) -> None:
    """Write the clips, and train on them."""
    records = generate_dataset(options.work / "clips", options.num_videos, with_audio=False, details=True)
    model, processor = build_tiny_videollama2(seed=0)
    take_over_weights(model, hf_videollm.default_checkpoint())
    print(f"{count_parameters(model)} parameters, {options.num_videos} clips", flush=True)
    run_stages(STAGES, model, processor, records, options.work)


def evaluate(model: Any, processor: Any, work: Path, per_kind: int, split: str = "test") -> dict[str, Any]:
    """Measure with the frames in order and, for questions that need it, with the frames shuffled."""
    clips = held_out_clips(work / f"held_out_{split}", per_kind, split)
    measured = accuracies(answer_questions(model, processor, clips))
    timed = [clip for clip in clips if clip.question.kind in TIME_KINDS]
    return {
        "split": split,
        "questions": len(clips),
        "accuracy": measured,
        "frames_shuffled": accuracies(answer_questions(model, processor, timed, shuffle_seed=0)),
        "one_answer": {kind: one_answer(kind, clips) for kind in measured},
        **provenance(),
    }


def describe(model: Any, result: dict[str, Any], num_videos: int) -> str:
    """Page that lies next to the checkpoint: what it is, how it was made, what it can do."""
    rows = []
    for kind, right in result["accuracy"].items():
        shuffled = result["frames_shuffled"].get(kind)
        cells = [f"{right:.1%}", "" if shuffled is None else f"{shuffled:.1%}", f"{result['one_answer'][kind]:.1%}"]
        rows.append(f"| {' | '.join([kind, *cells])} |")
    return NOTES.format(
        parameters=count_parameters(model),
        stages=list_recipes(STAGES),
        rows="\n".join(rows),
        last_seed=num_videos - 1,
        **{key: result[key] for key in ("questions", "split", "command")},
    )


if __name__ == "__main__":
    run_script(
        "Train and measure the small VideoLLaMA2.",
        Options(Path("runs/videollama2"), 9_000, ASSETS / "videollama2-tiny"),
        train,
        saving(VideoLlama2ForCausalLM, build_tiny_videollama2, STAGES),
        measurement(evaluate, describe),
    )
