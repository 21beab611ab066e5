"""Measures the speed of PLLaVA: preparing frames, answering in batches, beams.

python benchmarks/bench_pllava.py --help
"""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import transformers
import typer
from bench_tools import record, seconds_by_turns, with_ratios

from hf_videollm import PllavaConfig, PllavaForConditionalGeneration, PllavaVideoProcessor

QUICK = ("--width", "64", "--rows", "2", "--repeats", "1")
VIDEO_ID, VOCABULARY = 5, 512


def make_model(width: int) -> PllavaForConditionalGeneration:
    """A random model whose tower is the most expensive part, as in the real model."""
    tower = {
        "model_type": "clip_vision_model",
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": 8,
        "num_attention_heads": width // 32,
        "image_size": 112,
        "patch_size": 14,
    }
    text = {
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": 4,
        "num_attention_heads": width // 32,
        "vocab_size": VOCABULARY,
        "pad_token_id": 0,
        "eos_token_id": None,
        "bos_token_id": 1,
    }
    config = PllavaConfig(
        vision_config=tower, text_config=text, image_token_id=4, video_token_id=VIDEO_ID, pooling_shape=[16, 4, 4]
    )
    torch.manual_seed(0)
    return PllavaForConditionalGeneration(config).eval()


def batch_of(model: PllavaForConditionalGeneration, rows: int) -> dict[str, torch.Tensor]:
    """`rows` prompts with one video of 16 frames each."""
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(10, VOCABULARY, (rows, 24), generator=generator)
    video = torch.full((rows, model.config.num_video_tokens(16)), VIDEO_ID)
    ids = torch.cat([text[:, :8], video, text[:, 8:]], dim=1)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values_videos": torch.randn(rows, 16, 3, 112, 112, generator=generator),
        "num_video_frames": torch.full((rows,), 16),
    }


def bench_frames(repeats: int) -> dict[str, float]:
    """16 decoded frames of 720p to pixel values, in seconds."""
    frames = np.random.default_rng(0).integers(0, 255, (16, 720, 1280, 3), np.uint8)
    size = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    ours = PllavaVideoProcessor(do_sample_frames=False, **size)
    peer = transformers.LlavaNextVideoVideoProcessor(do_center_crop=True, do_sample_frames=False, **size)
    calls = {
        "plain": lambda: ours([frames], return_tensors="pt"),
        "pllava": lambda: ours([frames], resize_mode="pllava", return_tensors="pt"),
        "transformers_llava_next_video": lambda: peer([frames], return_tensors="pt"),
    }
    return seconds_by_turns(calls, repeats)


def bench_answers(model: PllavaForConditionalGeneration, rows: int, repeats: int) -> dict[str, float]:
    """Greedy answers of 16 tokens: one by one, as in the original, and as a batch, in seconds."""
    batch = batch_of(model, rows)
    single = [{name: value[row : row + 1] for name, value in batch.items()} for row in range(rows)]
    options = {"max_new_tokens": 16, "do_sample": False}
    calls = {
        "one_by_one": lambda: [model.generate(**row, **options) for row in single],
        "as_a_batch": lambda: model.generate(**batch, **options),
    }
    return seconds_by_turns(calls, repeats)


def bench_beams(model: PllavaForConditionalGeneration, beams: int, repeats: int) -> dict[str, float]:
    """Beam search: videos are encoded once per row, or the inputs are repeated so that they are encoded once per
    beam."""
    batch = batch_of(model, 2)
    repeated = {name: value.repeat_interleave(beams, 0) for name, value in batch.items()}
    calls = {
        "beams": lambda: model.generate(**batch, num_beams=beams, max_new_tokens=8),
        "encode_once": lambda: model.model.encode_media(batch),
        "encode_every_beam": lambda: model.model.encode_media(repeated),
    }
    return seconds_by_turns(calls, repeats)


def bench_chunks(model: PllavaForConditionalGeneration, repeats: int) -> dict[str, float]:
    """128 frames through the tower, with different numbers of frames at a time, in seconds."""
    frames = torch.randn(128, 3, 112, 112)

    def encode(chunk_size: int) -> Any:
        model.config.vision_chunk_size = chunk_size
        return model.model.encode_frames(frames)

    return seconds_by_turns({f"chunks_of_{size}": partial(encode, size) for size in (8, 32, 128)}, repeats)


def main(
    out: Annotated[Path | None, typer.Option(help="JSON file to write; the screen only by default.")] = None,
    machine: Annotated[str, typer.Option(help="Name of the machine, for the record.")] = "not named",
    width: Annotated[int, typer.Option(help="Width of tower and language model.")] = 256,
    rows: Annotated[int, typer.Option(help="Questions in the batch.")] = 8,
    repeats: Annotated[int, typer.Option(help="Runs of each, after one to warm up.")] = 3,
) -> None:
    """Measure the speed of PLLaVA. Only ratios within one run are meaningful.

    Examples:

      python benchmarks/bench_pllava.py --width 64 --rows 2 --repeats 1

      python benchmarks/bench_pllava.py --out benchmarks/results/pllava_cpu.json --machine "2 shared cores"
    """
    model = make_model(width)
    with torch.inference_mode():
        results = {
            "frames_720p": with_ratios(bench_frames(repeats), "transformers_llava_next_video"),
            f"answers_to_{rows}_questions": with_ratios(bench_answers(model, rows, repeats), "one_by_one"),
            "beams_4": with_ratios(bench_beams(model, 4, repeats), "encode_once"),
            "vision_chunks": with_ratios(bench_chunks(model, repeats), "chunks_of_32"),
        }
    record(results, out, machine)


if __name__ == "__main__":
    typer.run(main)
