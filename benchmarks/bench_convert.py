"""Measures what a conversion costs beside `cp` of the same checkpoint: CPU time, wall time and memory.

python benchmarks/bench_convert.py --help
"""

import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from bench_memory import give_back, in_a_fork, memory_of_process
from bench_tools import record
from run_facts import in_mib
from safetensors.torch import save_file

from hf_videollm.convert.pllava.config import build_config
from hf_videollm.convert.pllava.convert import convert_pllava
from hf_videollm.convert.pllava.keys import CONNECTOR, HEAD, LANGUAGE, TOWER, expected_shapes, is_adapted

QUICK = ("--layers", "1", "--width", "256", "--rounds", "1")
# The rank of the released LoRAs.
RANK = 128
# Our prefix -> the prefix in a released checkpoint.
RELEASED = {
    LANGUAGE: "language_model.base_model.model.model.",
    HEAD: "language_model.base_model.model.lm_head.",
    TOWER: "vision_tower.vision_model.",
    CONNECTOR: "multi_modal_projector.",
}
# Case -> type of the source, and options of the conversion.
CASES: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "convert": (torch.float16, {}),
    "float16_to_bfloat16": (torch.float16, {"dtype": "bfloat16"}),
    "float32_to_bfloat16": (torch.float32, {"dtype": "bfloat16"}),
    "merge": (torch.float16, {"merge": 4.0}),
    "merge_to_bfloat16": (torch.float16, {"merge": 4.0, "dtype": "bfloat16"}),
}


def official_config(width: int, layers: int) -> dict[str, Any]:
    """The config.json of a made-up official checkpoint, whose layers have the proportions of a LLaMA."""
    return {
        "architectures": ["PlavaForConditionalGeneration"],
        "model_type": "llava",
        "frame_shape": [24, 24],
        "pooling_shape": [16, 12, 12],
        "num_frames": 16,
        "pooling_method": "avg",
        "use_pooling": True,
        "image_token_index": 7900,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": width // 2,
            "intermediate_size": 2 * width,
            "num_attention_heads": width // 128,
            "num_hidden_layers": max(2, layers // 2),
            "image_size": 336,
            "patch_size": 14,
        },
        "text_config": {
            "model_type": "llama",
            "hidden_size": width,
            "intermediate_size": width * 11 // 4,
            "num_attention_heads": width // 128,
            "num_key_value_heads": width // 128,
            "num_hidden_layers": layers,
            "vocab_size": 8000,
            "pad_token_id": 0,
        },
    }


def official_name(name: str) -> str:
    """Our tensor's name in a released checkpoint."""
    ours = next(prefix for prefix in RELEASED if name.startswith(prefix))
    rest = name.removeprefix(ours)
    if is_adapted(name):
        rest = rest.removesuffix(".weight") + ".base_layer.weight"
    return RELEASED[ours] + rest


def write_official(folder: Path, raw: dict[str, Any], dtype: torch.dtype, shards: int) -> None:
    """Write a checkpoint like the released ones: shards, an index, and a LoRA beside the layers that it adapts."""
    config, _ = build_config(raw, Path("config.json"))
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in expected_shapes(config).items():
        official = official_name(name)
        shapes[official] = shape
        if is_adapted(name):
            layer = official.removesuffix(".base_layer.weight")
            shapes[f"{layer}.lora_A.default.weight"] = (RANK, shape[1])
            shapes[f"{layer}.lora_B.default.weight"] = (shape[0], RANK)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**raw, "torch_dtype": str(dtype).removeprefix("torch.")}))
    generator = torch.Generator().manual_seed(0)
    parts: list[list[str]] = [[] for _ in range(shards)]
    total, done = sum(map(math.prod, shapes.values())), 0
    for name, shape in shapes.items():
        parts[done * shards // total].append(name)
        done += math.prod(shape)
    weight_map: dict[str, str] = {}
    for number, part in enumerate(parts):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        tensors = {name: (torch.randn(shapes[name], generator=generator) * 0.02).to(dtype) for name in part}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def cpu_seconds() -> float:
    """User and system time of all threads of this process, and of its children that have ended."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def copy(source: Path, destination: Path) -> None:
    """`cp -r`, and like a conversion, wait until everything is on the disk."""
    subprocess.run(["cp", "-r", source, destination], check=True)
    for file in (*destination.iterdir(), destination):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def read_once(folder: Path) -> None:
    """Bring the files into the cache of the system, so that nobody waits for the disk."""
    for file in folder.iterdir():
        with file.open("rb") as handle:
            while handle.read(2**24):
                pass


def by_turns(calls: dict[str, Callable[[Path], Any]], place: Path, rounds: int) -> dict[str, dict[str, list[float]]]:
    """CPU and wall seconds of every round of each, after a round that does not count. They run in turns."""
    found: dict[str, dict[str, list[float]]] = {name: {"cpu": [], "wall": []} for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            os.sync()
            cpu, wall = cpu_seconds(), time.perf_counter()
            call(place)
            cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
            shutil.rmtree(place)
            if turn:
                found[name]["cpu"].append(cpu)
                found[name]["wall"].append(wall)
        print(f"round {turn} of {rounds}", file=sys.stderr)
    return found


def peak(source: Path, place: Path, options: dict[str, Any]) -> int:
    """The most memory of this process beyond what it had before the conversion, in bytes."""
    give_back()
    before = memory_of_process("VmRSS")
    convert_pllava(source, place, max_shard_size=largest_file(source), **options)
    return memory_of_process("VmHWM") - before


def largest_file(folder: Path) -> int:
    return max(file.stat().st_size for file in folder.iterdir())


def measure(folder: Path, raw: dict[str, Any], shards: int, rounds: int) -> dict[str, Any]:
    """All cases, beside `cp` of a checkpoint as large as the result, and of the larger source in float32."""
    sources = {dtype: folder / str(dtype).removeprefix("torch.") for dtype, _ in CASES.values()}
    for dtype, source in sources.items():
        print(f"writing {source}", file=sys.stderr)
        in_a_fork(write_official, source, raw, dtype, shards)
        read_once(source)
    half, full = sources[torch.float16], sources[torch.float32]
    calls: dict[str, Callable[[Path], Any]] = {
        "cp": lambda place: copy(half, place),
        "cp_float32": lambda place: copy(full, place),
    }
    for name, (dtype, options) in CASES.items():
        calls[name] = lambda place, source=sources[dtype], options=options: convert_pllava(
            source, place, max_shard_size=largest_file(source), **options
        )
    times = by_turns(calls, folder / "result", rounds)
    results: dict[str, Any] = {"time": {name: with_shares(name, times) for name in times}, "memory": {}}
    for name, (dtype, options) in CASES.items():
        size, shard = in_a_fork(peak, sources[dtype], folder / "result", options), largest_file(sources[dtype])
        shutil.rmtree(folder / "result")
        results["memory"][name] = {
            "peak_mib": in_mib(size),
            "largest_shard_mib": in_mib(shard),
            "times_largest_shard": round(size / shard, 3),
        }
    size = sum(file.stat().st_size for file in half.iterdir())
    return {"mib_of_the_checkpoint_in_float16": in_mib(size), **results}


def with_shares(name: str, times: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """The median seconds, the rounds, and the ratios to `cp` of the same source: by CPU time and by the clock."""
    found = {unit: median(rounds) for unit, rounds in times[name].items()}
    is_full = name == "cp_float32" or (name in CASES and CASES[name][0] == torch.float32)
    reference = {unit: median(rounds) for unit, rounds in times["cp_float32" if is_full else "cp"].items()}
    return {
        "cpu_seconds": round(found["cpu"], 3),
        "seconds": round(found["wall"], 3),
        "times_cp": round(found["cpu"] / reference["cpu"], 3),
        "wall_times_cp": round(found["wall"] / reference["wall"], 3),
        "rounds": [round(value, 3) for value in times[name]["cpu"]],
    }


def main(
    out: Annotated[Path | None, typer.Option(help="JSON file to write; the screen only by default.")] = None,
    machine: Annotated[str, typer.Option(help="Name of the machine, for the record.")] = "not named",
    width: Annotated[int, typer.Option(min=256, help="Width of the language model, a multiple of 128.")] = 2048,
    layers: Annotated[int, typer.Option(min=1, help="Layers of the language model.")] = 8,
    shards: Annotated[int, typer.Option(min=1, help="Files of the checkpoint.")] = 3,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, after one to warm up.")] = 5,
    place: Annotated[Path | None, typer.Option(help="Folder for the files, which need 5 GB; temporary.")] = None,
) -> None:
    """Measure conversions of a made-up PLLaVA. Only ratios within one run are meaningful.

    Examples:

      python benchmarks/bench_convert.py --layers 1 --width 256 --rounds 1

      python benchmarks/bench_convert.py --out benchmarks/results/convert_cpu.json --machine "2 shared cores"
    """
    raw = official_config(width, layers)
    with tempfile.TemporaryDirectory(prefix="hf_videollm_convert_", dir=place) as folder:
        results = measure(Path(folder), raw, shards, rounds)
    method = {
        "order": "in turns; all files are in the cache of the system, and fsync is waited for",
        "clock": "cpu_seconds: user and system time of the process and its children; seconds: perf_counter",
        "value": "median of the rounds; times_cp is the ratio of CPU times",
        "warm_up_rounds": 1,
        "rounds": rounds,
    }
    record(results, out, machine, {"width": width, "layers": layers, "lora_rank": RANK}, method=method)


if __name__ == "__main__":
    typer.run(main)
