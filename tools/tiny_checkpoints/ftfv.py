"""Make the small FTFV of the package, and measure what it answers with more and fewer tokens of each frame.

    python tools/tiny_checkpoints/ftfv.py                 # about 50 minutes on two shared CPU cores
    python tools/tiny_checkpoints/ftfv.py --only evaluate # measure the shipped one again, and print the table

Steps, each resumable: write clips and single frames of them, copy vision tower and language model of the small PLLaVA,
train with TRL's SFTTrainer on the frames, on questions of direction about the clips, then on all questions, save,
measure on held-out clips.
"""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import (
    ASSETS,
    Options,
    count_parameters,
    measurement,
    provenance,
    run_script,
    run_stages,
    saving,
)
from PIL import Image

import hf_videollm
from hf_videollm.data.records import ContentBlock, Message, VideoQARecord, read_jsonl, write_jsonl
from hf_videollm.models.modeling_ftfv import FtfvForConditionalGeneration
from hf_videollm.synthetic.check import accuracies, answer_questions, held_out_clips, one_answer
from hf_videollm.synthetic.clips import generate_dataset
from hf_videollm.synthetic.tiny.ftfv import build_tiny_ftfv, generate_with
from hf_videollm.synthetic.tiny.parts import take_over_weights
from hf_videollm.training.caches.frames import FrameCache
from hf_videollm.training.sft import load_recipe

STAGES = ("ftfv/stills", "ftfv/motion", "ftfv/videos")
# Questions that one frame answers.
STILL_KINDS = ("colour", "shape", "count")
STILLS_PER_CLIP = 2
TABLE_HEAD = "| K | tokens of a clip | {kinds} | all |\n|---|---|{rules}---|"

NOTES = """# The small FTFV of this package

{parameters} parameters. It can answer questions about synthetic clips of coloured shapes only. It lets users try
different numbers of tokens per frame offline, and tests show with it how the accuracy changes with this number.

Made by `python tools/tiny_checkpoints/ftfv.py` in three stages with TRL's SFTTrainer, without LoRA; the recipes in
`hf_videollm/synthetic/recipes` contain steps, learning rates and seeds:

1. `{stages[0]}`: single frames as images, which keep all N = {num_queries} tokens;
2. `{stages[1]}`: clips of {num_frames} frames, only questions about direction, one K of {motion_with} for each batch;
3. `{stages[2]}`: clips with all questions, one K of {trained_with} for each batch.

Afterwards, K is N/4 = {kept} unless a call says otherwise.

Vision tower and language model start with the weights of `pllava-tiny`, which was trained on clips of the same kind,
and are trained further; the tower is trained in the first stage only. The adapter and the temporal code start from
random weights, seed 0. Training clips have the seeds 0 to {last_seed}; the images of the first stage are {stills}
frames of each clip of moving shapes or of several. Losses and learning rates of every logged step are in
`training_log.jsonl`.

Measured on {questions} questions about clips of the split `{split}` (their seeds are not used in training), read from
MP4 files and answered by `generate`; an answer is right if it is exactly the expected one. All rows use the same
weights: `num_tokens_per_frame=K` is passed to the processor and to `generate`. Numbers, command and library versions
are in `accuracy.json`; the command was `{command}`.

{table}

The last row is the accuracy of always giving the most frequent answer (for `order`, the shape that the question names
first).

Questions about direction with the frames in random order, K = {kept}: {shuffled} right.
"""


def write_stills(clips: Path, processor: Any, work: Path) -> Path:
    """Write frames of the clips as PNG files, and the questions that one frame answers, asked about each.

    Args:
        clips: questions about the clips.
        processor: its video processor says which frames there are.
        work: folder for the frames.

    Returns:
        Path of the questions.
    """
    records = read_jsonl(clips)
    frames = FrameCache.build(
        [path for record in records for path in record.media()], processor.video_processor, work / "frames"
    )
    rng = random.Random(0)
    folder = work / "stills"
    folder.mkdir(parents=True, exist_ok=True)
    chosen: dict[str, list[Path]] = {}
    stills = []
    for record in records:
        if record.metadata["kind"] not in STILL_KINDS:
            continue
        (video,) = record.media()
        if video not in chosen:
            chosen[video] = _write_frames(frames[video], folder / Path(video).stem, rng)
        stills += [_about_still(record, path) for path in chosen[video]]
    return write_jsonl(stills, work / "stills.jsonl")


def _write_frames(frames: torch.Tensor, stem: Path, rng: random.Random) -> list[Path]:
    """Write frames (T, 3, H, W) uint8, drawn without repetition; those that exist are kept."""
    paths = []
    for number in sorted(rng.sample(range(len(frames)), STILLS_PER_CLIP)):
        path = stem.with_name(f"{stem.name}-{number}.png")
        if not path.exists():
            Image.fromarray(frames[number].permute(1, 2, 0).numpy()).save(path)
        paths.append(path)
    return paths


def _about_still(record: VideoQARecord, path: Path) -> VideoQARecord:
    """The record with an image in place of its video."""

    def with_image(block: ContentBlock) -> ContentBlock:
        return {"type": "image", "path": str(path.resolve())} if block["type"] == "video" else block

    messages: list[Message] = [
        {"role": message["role"], "content": [with_image(block) for block in message["content"]]}
        for message in record.messages
    ]
    return replace(record, id=f"{record.id}-{path.stem}", messages=messages)


def train(options: Options) -> None:
    """Write the clips, train on single frames, on questions of direction, then on all questions."""
    work = options.work
    clips = generate_dataset(work / "clips", options.num_videos, with_audio=False, details=True)
    model: Any
    model, processor = build_tiny_ftfv(seed=0)
    take_over_weights(model, hf_videollm.default_checkpoint())
    print(f"{count_parameters(model)} parameters, {options.num_videos} clips", flush=True)
    model = run_stages(STAGES[:1], model, processor, write_stills(clips, processor, work), work, cached=False)
    run_stages(STAGES[1:], model, processor, clips, work)


def trained_numbers(stage: str = STAGES[-1]) -> list[int]:
    """Numbers of tokens of a frame (K) that a stage trains with, the largest first."""
    return list((load_recipe(stage).vary or {})["num_tokens_per_frame"])


def evaluate(model: Any, processor: Any, work: Path, per_kind: int, split: str = "test") -> dict[str, Any]:
    """Measure with every number of tokens of a frame that training used, and with the frames shuffled."""
    clips = held_out_clips(work / f"held_out_{split}", per_kind, split)
    by_tokens = {}
    for kept in trained_numbers():
        options = {"num_tokens_per_frame": kept}
        with generate_with(model, **options):
            by_tokens[str(kept)] = accuracies(answer_questions(model, processor, clips, processor_kwargs=options))
    moving = [clip for clip in clips if clip.question.kind == "direction"]
    shuffled = answer_questions(model, processor, moving, shuffle_seed=0)
    return {
        "split": split,
        "questions": len(clips),
        "num_queries": model.config.num_queries,
        "num_frames": model.config.num_frames,
        "num_tokens_per_frame": model.config.num_tokens_per_frame,
        "accuracy": by_tokens,
        "one_answer": {kind: one_answer(kind, clips) for kind in by_tokens["1"]},
        "direction_with_shuffled_frames": accuracies(shuffled)["direction"],
        **provenance(),
    }


def table(result: dict[str, Any]) -> str:
    """Accuracy against K in Markdown; all kinds weigh the same in the last column."""

    def row(name: str, tokens: str, measured: dict[str, float]) -> str:
        shares = [*measured.values(), sum(measured.values()) / len(measured)]
        return f"| {' | '.join([name, tokens, *(f'{share:.1%}' for share in shares)])} |"

    kinds = list(result["one_answer"])
    rows = [TABLE_HEAD.format(kinds=" | ".join(kinds), rules="---|" * len(kinds))]
    for kept, measured in result["accuracy"].items():
        rows.append(row(kept, str(int(kept) * result["num_frames"]), measured))
    rows.append(row("one answer", "", result["one_answer"]))
    return "\n".join(rows)


def describe(model: Any, result: dict[str, Any], num_videos: int) -> str:
    """Page that lies next to the checkpoint: what it is, how it was made, what it can do."""
    return NOTES.format(
        parameters=count_parameters(model),
        stages=STAGES,
        kept=result["num_tokens_per_frame"],
        motion_with=", ".join(map(str, trained_numbers(STAGES[1]))),
        trained_with=", ".join(map(str, trained_numbers())),
        last_seed=num_videos - 1,
        stills=STILLS_PER_CLIP,
        table=table(result),
        shuffled=f"{result['direction_with_shuffled_frames']:.1%}",
        **{key: result[key] for key in ("questions", "split", "command", "num_queries", "num_frames")},
    )


if __name__ == "__main__":
    run_script(
        "Train and measure the small FTFV.",
        Options(Path("runs/ftfv"), 9_000, ASSETS / "ftfv-tiny"),
        train,
        saving(FtfvForConditionalGeneration, build_tiny_ftfv, STAGES),
        measurement(evaluate, describe),
    )
