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
from run_facts import in_mib
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, LlavaConfig

from hf_videollm import (
    FtfvConfig,
    IvaConfig,
    LinVTConfig,
    PllavaConfig,
    VideoLlama2AVConfig,
    VideoLlama2Config,
)
from hf_videollm.costs.memory import DTYPES, MemoryPrediction, make_inputs, predict_memory
from hf_videollm.hub.checkpoint import bundled_checkpoints
from hf_videollm.inference import load_design_config

QUICK = ("--only", "pllava-tiny")
# CLIP-L at 336 pixels and a language model of 2,048 channels, both with few layers.
TOWER = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 3,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
TEXT = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 2,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "vocab_size": 16032,
    "max_position_embeddings": 8192,
}
EAR = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 4, "num_attention_heads": 12}


def configs(text: Any) -> dict[str, Callable[[], Any]]:
    """The configuration of each design around a language model."""
    parts: dict[str, Any] = {"vision_config": TOWER, "text_config": text}
    heads = 16 if text["hidden_size"] % 16 == 0 else 8
    return {
        "pllava": lambda: PllavaConfig(**parts),
        "videollama2": lambda: VideoLlama2Config(**parts),
        "videollama2-av": lambda: VideoLlama2AVConfig(**parts, audio_config=EAR),
        "iva": lambda: IvaConfig(**parts, num_insertions=2),
        "ftfv": lambda: FtfvConfig(**parts, adapter_width=text["hidden_size"], adapter_num_heads=heads),
        "linvt": lambda: LinVTConfig(
            backbone_config=LlavaConfig(**parts, image_token_index=text["vocab_size"] - 1),
            linvt_config={"num_attention_heads": heads, "num_layers": 2},
        ),
    }


DESIGNS = tuple(configs(TEXT))
TEXT_TOKENS, SOUND_FRAMES, NEW_TOKENS = 64, 998, 2


def memory_of_process(name: str) -> int:
    """A value of Linux in bytes: `VmRSS` is the memory of this process now, `VmHWM` the most since the last reset."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def give_back() -> None:
    """Return free memory to the system, and let the peak begin at what is used now."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def predict(config: Any, dtype: torch.dtype, num_frames: int | None) -> MemoryPrediction:
    """The prediction for the inputs of this benchmark."""
    options: dict[str, Any] = {"text_tokens": TEXT_TOKENS, "sound_frames": sound_frames(config)}
    return predict_memory(config, dtype=dtype, num_frames=num_frames, **options)


def sound_frames(config: Any) -> int | None:
    """Ten seconds for designs that hear."""
    return SOUND_FRAMES if "audio" in config.modalities else None


def inputs_of(config: Any, dtype: torch.dtype, num_frames: int | None = None) -> dict[str, torch.Tensor]:
    """The same inputs as in the prediction, with values; the words of the text differ from each other."""
    inputs = make_inputs(config, dtype, num_frames or config.num_frames, TEXT_TOKENS, sound_frames(config))
    real = {name: torch.randn(value.shape, dtype=dtype) if value.is_meta else value for name, value in inputs.items()}
    types, ids = real["mm_token_type_ids"], real["input_ids"]
    words = (types == 0) & (ids != config.query_token_id)
    vocabulary = config.get_text_config().vocab_size
    ids[words] = torch.arange(int(words.sum())) * (vocabulary // 2 // TEXT_TOKENS) % (vocabulary // 2) + 3
    return real


def answer(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    """Generate a few tokens."""
    model.generate(**inputs, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False)


def measure(name: str, folder: str, dtype: torch.dtype, num_frames: int | None) -> dict[str, Any]:
    """Load a checkpoint in this process and let it answer twice; the sizes in MiB."""
    tiny = next(path for known, path in bundled_checkpoints().items() if known.startswith(family_of(name)))
    warm = AutoModelForImageTextToText.from_pretrained(tiny, dtype=dtype)
    answer(warm, inputs_of(warm.config, dtype))
    predicted = predict(load_design_config(folder), dtype, num_frames)
    del warm
    give_back()
    before = memory_of_process("VmRSS")
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype)
    loading = memory_of_process("VmHWM") - before
    inputs = inputs_of(model.config, dtype, num_frames)
    answer(model, inputs)
    first = memory_of_process("VmHWM") - before
    give_back()
    answer(model, inputs)
    later = memory_of_process("VmHWM") - before
    sizes = {
        "weights": predicted.weights,
        "predicted": predicted.total,
        "predicted_first": predicted.cpu_first_answer,
        "first": first,
        "predicted_later": predicted.cpu_later_answers,
        "later": later,
        "loading": loading,
        "libraries": before,
    }
    return {
        "frames": predicted.num_frames,
        "prompt_tokens": inputs["input_ids"].shape[1],
        **{f"{key}_mib": in_mib(size) for key, size in sizes.items()},
        "error_first": round(predicted.cpu_first_answer / first - 1, 4),
        "error_later": round(predicted.cpu_later_answers / later - 1, 4),
        "error_first_with_libraries": round((predicted.cpu_first_answer + before) / (first + before) - 1, 4),
    }


def family_of(name: str) -> str:
    """The beginning of the name of the bundled checkpoint whose design comes closest."""
    design = name.removesuffix("-tiny").partition("-")[2] if name.startswith(("wide-", "real-")) else name
    return "videollama2-av" if design == "videollama2" else design.removesuffix("-tiny")


def in_a_fork(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a fork of this process: it has the libraries, and reuses no memory of another model."""
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def write_model(name: str, folder: str, dtype: torch.dtype, language_model: Path | None) -> None:
    """Write a model with random weights, or with those of a language model."""
    kind, _, design = name.partition("-")
    torch.manual_seed(0)
    if kind == "wide":
        model = AutoModelForImageTextToText.from_config(configs(TEXT)[design](), dtype=dtype)
    else:
        language = AutoModelForCausalLM.from_pretrained(language_model, dtype=dtype)
        model = AutoModelForImageTextToText.from_config(configs(language.config.to_dict())[design](), dtype=dtype)
        own = model.base_model.backbone.language_model if design == "linvt" else model.base_model.language_model
        own.load_state_dict(language.base_model.state_dict())
    model.save_pretrained(folder, save_original_format=False)


def measure_new(
    name: str, dtype: torch.dtype, num_frames: int | None, language_model: Path | None, scratch: Path | None
) -> dict[str, Any]:
    """Write a model into a temporary folder, and measure it."""
    with tempfile.TemporaryDirectory(prefix="hf_videollm_", dir=scratch) as folder:
        in_a_fork(write_model, name, folder, dtype, language_model)
        return dict(in_a_fork(measure, name, folder, dtype, num_frames))


def main(
    out: Annotated[Path | None, typer.Option(help="JSON file to write; the screen only by default.")] = None,
    machine: Annotated[str, typer.Option(help="Name of the machine, for the record.")] = "not named",
    only: Annotated[str | None, typer.Option(help="Names of the models, separated by commas; all by default.")] = None,
    dtype: Annotated[str, typer.Option(help="Type of weights and activations.")] = "float32",
    frames: Annotated[
        int | None, typer.Option(min=1, help="Frames of the video; the design's number by default.")
    ] = None,
    language_model: Annotated[
        Path | None, typer.Option(help="Folder of a language model (SmolLM2) for the models named real-...")
    ] = None,
    scratch: Annotated[Path | None, typer.Option(help="Folder for the models, which take up to 2 GB.")] = None,
) -> None:
    """Measure the memory of each bundled checkpoint, and of wider models of each design (Linux only).

    Examples:

      python benchmarks/bench_memory.py --only pllava-tiny,wide-pllava

      python benchmarks/bench_memory.py --out benchmarks/results/memory_cpu.json --language-model /tmp/smollm2
    """
    tiny = {name: str(path) for name, path in bundled_checkpoints().items()}
    kinds = ["wide"] if language_model is None else ["wide", "real"]
    known = [*tiny, *(f"{kind}-{design}" for kind in kinds for design in DESIGNS)]
    names = known if only is None else only.split(",")
    if unknown := [name for name in names if name not in known]:
        raise typer.BadParameter(f"{unknown[0]} is unknown: take some of {', '.join(known)}.")
    kind = DTYPES[dtype]
    results = {}
    for name in names:
        if name in tiny:
            results[name] = dict(in_a_fork(measure, name, tiny[name], kind, frames))
        else:
            results[name] = measure_new(name, kind, frames, language_model, scratch)
        print(name, results[name], file=sys.stderr, flush=True)
    facts = {"text_tokens": TEXT_TOKENS, "sound_frames": SOUND_FRAMES, "dtype": dtype}
    record(results, out, machine, facts)


if __name__ == "__main__":
    typer.run(main)
