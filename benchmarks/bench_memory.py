"""Measures the memory of each design while it answers, against the prediction of `hf-videollm info`.

python benchmarks/bench_memory.py --help
"""

import ctypes
import gc
import multiprocessing
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from bench_tools import record
from transformers import AutoModelForImageTextToText, LlavaConfig

from hf_videollm import (
    FtfvConfig,
    IvaConfig,
    LinVTConfig,
    PllavaConfig,
    VideoLlama2AVConfig,
    VideoLlama2Config,
)
from hf_videollm.costs.live_bytes import LiveBytes
from hf_videollm.costs.memory import MemoryPrediction, make_inputs, predict_memory
from hf_videollm.hub.checkpoint import bundled_checkpoints
from hf_videollm.inference import load_design_config

QUICK = ("--only", "pllava-tiny")
TOWER = {
    "model_type": "clip_vision_model",
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "image_size": 224,
    "patch_size": 16,
}
TEXT = {
    "model_type": "llama",
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "vocab_size": 8000,
    "max_position_embeddings": 8192,
}
EAR = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4}
PARTS: dict[str, Any] = {"vision_config": TOWER, "text_config": TEXT}
# Random models whose weights and activations are large beside the memory that libraries take now and then.
WIDE = {
    "wide-pllava": lambda: PllavaConfig(**PARTS),
    "wide-videollama2": lambda: VideoLlama2Config(**PARTS),
    "wide-videollama2-av": lambda: VideoLlama2AVConfig(**PARTS, audio_config=EAR),
    "wide-iva": lambda: IvaConfig(**PARTS, num_insertions=4),
    "wide-ftfv": lambda: FtfvConfig(**PARTS),
    "wide-linvt": lambda: LinVTConfig(backbone_config=LlavaConfig(**PARTS, image_token_index=7999)),
}
TEXT_TOKENS, SOUND_FRAMES, NEW_TOKENS = 64, 998, 4
MIB = 2**20


def memory_of_process(name: str) -> int:
    """A value of Linux in bytes: `VmRSS` is the memory of this process now, `VmHWM` the most since the last reset."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def give_back() -> None:
    """Return free memory to the system, and let the peak begin at what is used now."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def predict(config: Any) -> MemoryPrediction:
    """The prediction for the inputs of this benchmark."""
    return predict_memory(
        config, dtype=torch.float32, text_tokens=TEXT_TOKENS, sound_frames=sound_frames(config), weights=None
    )


def sound_frames(config: Any) -> int | None:
    """Ten seconds for designs that hear."""
    return SOUND_FRAMES if "audio" in config.modalities else None


def inputs_of(config: Any) -> dict[str, torch.Tensor]:
    """The same inputs as in the prediction, with values."""
    inputs = make_inputs(config, torch.float32, config.num_frames, TEXT_TOKENS, sound_frames(config))
    return {name: torch.randn(value.shape) if value.is_meta else value for name, value in inputs.items()}


def answer(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    """Generate a few tokens."""
    model.generate(**inputs, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False)


def measure(name: str, folder: str) -> dict[str, Any]:
    """Load a checkpoint in this process and let it answer; the sizes in bytes."""
    tiny = next(path for known, path in bundled_checkpoints().items() if known.startswith(family_of(name)))
    warm = AutoModelForImageTextToText.from_pretrained(tiny, dtype=torch.float32)
    answer(warm, inputs_of(warm.config))
    # The counter's own code is loaded here, too.
    with torch.no_grad(), LiveBytes("cpu"):
        torch.ones(1) + 1
    predicted = predict(load_design_config(folder))
    del warm
    give_back()
    before = memory_of_process("VmRSS")
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    loading = memory_of_process("VmHWM") - before
    inputs = inputs_of(model.config)
    give_back()
    answer(model, inputs)
    peak = memory_of_process("VmHWM") - before
    own = [*model.parameters(), *model.buffers(), *inputs.values()]
    with torch.no_grad(), LiveBytes("cpu", own) as tensors:
        model(**inputs, logits_to_keep=1, use_cache=True)
    of_tensors = predicted.weights + predicted.inputs + tensors.peak
    return {
        "frames": predicted.num_frames,
        "prompt_tokens": inputs["input_ids"].shape[1],
        "predicted_mib": in_mib(predicted.total),
        "tensors_mib": in_mib(of_tensors),
        "process_mib": in_mib(peak),
        "loading_mib": in_mib(loading),
        "libraries_mib": in_mib(before),
        "error_to_tensors": round(predicted.total / of_tensors - 1, 4),
        "error_to_process": round(predicted.total / peak - 1, 4),
        "error_with_libraries": round((predicted.total + before) / (peak + before) - 1, 4),
    }


def family_of(name: str) -> str:
    """The beginning of the name of the bundled checkpoint whose design comes closest."""
    family = name.removeprefix("wide-").removesuffix("-tiny")
    return "videollama2-av" if family == "videollama2" else family


def in_mib(size: int) -> float:
    return round(size / MIB, 1)


def in_a_fork(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a fork of this process: it has the libraries, and reuses no memory of another model."""
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def write_wide(name: str, folder: str) -> None:
    """Write a random model."""
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(WIDE[name](), dtype=torch.float32)
    model.save_pretrained(folder, save_original_format=False)


def measure_wide(name: str) -> dict[str, Any]:
    """Write a random model into a temporary folder, and measure it."""
    with tempfile.TemporaryDirectory(prefix="hf_videollm_") as folder:
        in_a_fork(write_wide, name, folder)
        return dict(in_a_fork(measure, name, folder))


def main(
    out: Annotated[Path | None, typer.Option(help="JSON file to write; the screen only by default.")] = None,
    machine: Annotated[str, typer.Option(help="Name of the machine, for the record.")] = "not named",
    only: Annotated[str | None, typer.Option(help="Names of the models, separated by commas; all by default.")] = None,
) -> None:
    """Measure the memory of each bundled checkpoint, and of a wider random model of each design (Linux only).

    Examples:

      python benchmarks/bench_memory.py --only pllava-tiny,wide-pllava

      python benchmarks/bench_memory.py --out benchmarks/results/memory_cpu.json
    """
    tiny = {name: str(path) for name, path in bundled_checkpoints().items()}
    names = [*tiny, *WIDE] if only is None else only.split(",")
    if unknown := [name for name in names if name not in {*tiny, *WIDE}]:
        raise typer.BadParameter(f"{unknown[0]} is unknown: take some of {', '.join([*tiny, *WIDE])}.")
    results = {}
    for name in names:
        results[name] = measure_wide(name) if name in WIDE else dict(in_a_fork(measure, name, tiny[name]))
        print(name, results[name], file=sys.stderr)
    record(results, out, machine, {"text_tokens": TEXT_TOKENS, "sound_frames": SOUND_FRAMES, "dtype": "float32"})


if __name__ == "__main__":
    typer.run(main)
