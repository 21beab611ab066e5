"""Measures PLLaVA at 7B with random weights on a GPU, beside transformers' LLaVA-NeXT-Video, in less than 8 minutes.

Both models share tower and language model and get as many tokens: 16 frames become 2,304. Nothing is downloaded; the
weights are drawn on the device. Every step is written as soon as it is done, and a run that was stopped goes on with
what is missing.

python benchmarks/bench_gpu.py --help
"""

import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from bench_tools import BY_TURNS, record, seconds_by_turns, synchronize, with_ratios
from model_sizes import CLIP_L, LLAMA_7B
from run_facts import own_arguments, revision
from torch import nn
from transformers import CompileConfig, LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration

from hf_videollm import PllavaConfig, PllavaForConditionalGeneration

NEEDS = "gpu"
QUICK = ("--device", "cpu", "--tiny")
# CLIP-L at 336 and Vicuna 7B, with the two tokens for images and videos.
TOWER = {**CLIP_L, "projection_dim": 768}
TEXT = {**LLAMA_7B, "vocab_size": 32002, "max_position_embeddings": 4096, "pad_token_id": 0}
TINY_TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY_TEXT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
FRAMES, PROMPT = 16, 96
# The least time that is left for what comes after a step, in seconds.
RESERVES = {"against_llava_next_video": 180, "batches": 150, "compiled": 60, "nf4": 0}


class TimeOverError(Exception):
    """The time of a step is over."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Stop what runs in this block after some time."""

    def stop(*_: Any) -> None:
        raise TimeOverError(f"stopped after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def make_models(
    device: str, tiny: bool
) -> tuple[PllavaForConditionalGeneration, LlavaNextVideoForConditionalGeneration]:
    """Ours with random weights, and its peer, which has the same tower and language model."""
    tower = {**TOWER, "image_size": 112, **TINY_TOWER} if tiny else dict(TOWER)
    text = {**TEXT, **TINY_TEXT} if tiny else dict(TEXT)
    side = tower["image_size"] // tower["patch_size"] // 2
    ids = {"image": text["vocab_size"] - 2, "video": text["vocab_size"] - 1}
    config = PllavaConfig(
        vision_config=tower,
        text_config=text,
        image_token_id=ids["image"],
        video_token_id=ids["video"],
        pooling_shape=[FRAMES, side, side],
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = PllavaForConditionalGeneration._from_config(config, dtype=torch.bfloat16).eval()
    peer_config = LlavaNextVideoConfig(
        vision_config=tower, text_config=text, image_token_index=ids["image"], video_token_index=ids["video"]
    )
    with torch.device("meta"):
        peer = LlavaNextVideoForConditionalGeneration._from_config(peer_config, dtype=torch.bfloat16).eval()
    peer.model.vision_tower = model.model.vision_tower
    peer.model.language_model, peer.lm_head = model.model.language_model, model.lm_head
    peer.model.multi_modal_projector.to_empty(device=device)
    for weight in peer.model.multi_modal_projector.parameters():
        nn.init.normal_(weight, std=0.02)
    peer.model.image_newline = nn.Parameter(torch.zeros(text["hidden_size"], dtype=torch.bfloat16, device=device))
    for each in (model, peer):
        each.generation_config.eos_token_id, each.generation_config.pad_token_id = None, 0
    return model, peer


def batch_of(model: PllavaForConditionalGeneration, rows: int) -> dict[str, torch.Tensor]:
    """Prompts with one video each, for both models."""
    config, device = model.config, model.device
    text = torch.randint(3, config.text_config.vocab_size - 2, (rows, PROMPT), device=device)
    video = torch.full((rows, config.num_video_tokens(FRAMES)), config.video_token_id, device=device)
    ids = torch.cat([text[:, : PROMPT // 2], video, text[:, PROMPT // 2 :]], dim=1)
    size = config.vision_config.image_size
    pixels = torch.randn(rows, FRAMES, 3, size, size, dtype=torch.bfloat16, device=device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values_videos": pixels}


def answer(model: Any, batch: dict[str, torch.Tensor], tokens: int, **options: Any) -> torch.Tensor:
    """Generate exactly so many tokens."""
    found: torch.Tensor = model.generate(
        **batch, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, **options
    )
    assert found.shape[1] == batch["input_ids"].shape[1] + tokens
    return found


def reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_mb() -> float | None:
    """The most memory that torch had on the GPU since the last reset; `None` on a CPU."""
    return round(torch.cuda.max_memory_allocated() / 1e6, 1) if torch.cuda.is_available() else None


def speeds(
    calls: dict[str, Callable[[int], Any]], prompt: int, rows: int, tokens: int, rounds: int
) -> dict[str, dict[str, Any]]:
    """Prompt tokens and answer tokens in a second, of each way, in turns.

    Args:
        calls: name -> a function that generates so many tokens.
        prompt: tokens of a prompt.
        rows: prompts of a batch.
        tokens: tokens of an answer.
        rounds: rounds after one that does not count.
    """
    functions: dict[str, Callable[[], Any]] = {}
    for name, call in calls.items():
        functions[f"{name}: prefill"] = lambda call=call: call(1)
        functions[f"{name}: all"] = lambda call=call: call(tokens)
    times = seconds_by_turns(functions, rounds)
    found: dict[str, dict[str, Any]] = {}
    for name in calls:
        first, whole = times[f"{name}: prefill"], times[f"{name}: all"]
        step = median(a - b for a, b in zip(whole.wall, first.wall, strict=True))  # type: ignore[attr-defined]
        # On a busy machine, tiny models may take longer for one token than for several: that is no speed.
        is_sure = step > 0
        found[name] = {
            "prefill_seconds": round(float(first), 4),
            "prefill_tokens_per_second": round(rows * prompt / first, 1),
            "decode_tokens_per_second": round(rows * (tokens - 1) / step, 2) if is_sure else None,
            "ms_per_decoded_token": round(1000 * step / (tokens - 1), 3) if is_sure else None,
        }
    return found


def against_peer(model: Any, peer: Any, tokens: int, rounds: int) -> dict[str, Any]:
    """Ours beside transformers' LLaVA-NeXT-Video, on as many tokens."""
    batch = batch_of(model, 1)
    # Both models make the same number of features of one video, and each checks that they fill the placeholders.
    ways = {"ours": model, "llava_next_video": peer}
    prompt = batch["input_ids"].shape[1]
    found = speeds(
        {name: lambda count, way=way: answer(way, batch, count) for name, way in ways.items()},
        prompt,
        1,
        tokens,
        rounds,
    )
    for name in found:
        for unit, place in (("prefill_seconds", "in_prefill"), ("ms_per_decoded_token", "per_decoded_token")):
            one, other = found[name][unit], found["llava_next_video"][unit]
            found[name][f"times_llava_next_video_{place}"] = round(one / other, 3) if one and other else None
    tower = {
        name: lambda way=way: way.model.get_video_features(batch["pixel_values_videos"]) for name, way in ways.items()
    }
    vision = with_ratios(seconds_by_turns(tower, rounds), "llava_next_video")
    return {"prompt_tokens": prompt, "answer_tokens": tokens, "generate": found, "video_features": vision}


def batches(model: Any, tokens: int, rounds: int) -> dict[str, Any]:
    """Batches of 1, 2, 4 and 8: tokens per second of the whole batch, and the most memory."""
    results: dict[str, Any] = {}
    for rows in (1, 2, 4, 8):
        reset_peak()
        batch = batch_of(model, rows)
        calls = {"batch": lambda count, batch=batch: answer(model, batch, count)}
        found = speeds(calls, batch["input_ids"].shape[1], rows, tokens, rounds)["batch"]
        results[f"batch_of_{rows}"] = {**found, "peak_mb": peak_mb()}
    return results


def compiled(model: Any, tokens: int, rounds: int) -> dict[str, Any]:
    """Decoding with a static cache that `generate` compiles, beside the usual dynamic cache."""
    batch = batch_of(model, 1)
    on_gpu = model.device.type == "cuda"
    how = CompileConfig(fullgraph=False) if on_gpu else CompileConfig(backend="eager", fullgraph=False, mode=None)
    how._compile_all_devices = True
    static = {"cache_implementation": "static", "max_cache_len": batch["input_ids"].shape[1] + tokens}
    ways: dict[str, dict[str, Any]] = {
        "dynamic_cache": {},
        "static_cache": {**static, "disable_compile": True},
        "static_cache_compiled": {**static, "compile_config": how},
    }
    began = time.monotonic()
    answer(model, batch, tokens, **ways["static_cache_compiled"])
    synchronize()
    first = time.monotonic() - began
    calls = {name: lambda count, way=way: answer(model, batch, count, **way) for name, way in ways.items()}
    found = speeds(calls, batch["input_ids"].shape[1], 1, tokens, rounds)
    return {"seconds_of_the_first_call": round(first, 1), **found}


def nf4(model: Any, tokens: int, rounds: int) -> dict[str, Any]:
    """Memory and speed before and after the language model's layers are quantized to NF4, in place."""
    import bitsandbytes

    batch = batch_of(model, 1)
    results: dict[str, Any] = {}

    def measure(name: str) -> None:
        reset_peak()
        calls = {name: lambda count: answer(model, batch, count)}
        found = speeds(calls, batch["input_ids"].shape[1], 1, tokens, rounds)[name]
        weights = {weight.data_ptr(): weight.nbytes for weight in (*model.parameters(), *model.buffers())}
        results[name] = {"mb_weights": round(sum(weights.values()) / 1e6, 1), "peak_mb": peak_mb(), **found}

    measure("bfloat16")
    for layer in model.model.language_model.layers:
        for name, module in list(layer.named_modules()):
            if isinstance(module, nn.Linear):
                quantized = bitsandbytes.nn.Linear4bit(
                    module.in_features,
                    module.out_features,
                    bias=module.bias is not None,
                    compute_dtype=torch.bfloat16,
                    quant_type="nf4",
                    device="meta",
                )
                quantized.weight = bitsandbytes.nn.Params4bit(module.weight.data, requires_grad=False, quant_type="nf4")
                quantized.bias = module.bias
                layer.set_submodule(name, quantized.to(model.device))
    measure("nf4")
    results["nf4"]["weights_of_bfloat16"] = round(results["nf4"]["mb_weights"] / results["bfloat16"]["mb_weights"], 3)
    return results


def kept_steps(out: Path | None) -> dict[str, Any]:
    """The steps that an earlier run with the same arguments, on the same code, has finished."""
    try:
        content = json.loads(out.read_text(encoding="utf-8")) if out is not None else {}
    except (OSError, ValueError):
        return {}
    same = content.get("arguments") == own_arguments(sys.argv[1:]) and content.get("revision") == revision()
    return dict(content.get("results", {})) if same else {}


def main(
    out: Annotated[Path | None, typer.Option(help="JSON file to write; the screen only by default.")] = None,
    machine: Annotated[str, typer.Option(help="Name of the machine, for the record.")] = "not named",
    device: Annotated[str, typer.Option(help="cuda, or cpu with --tiny for a trial.")] = "cuda",
    tiny: Annotated[bool, typer.Option("--tiny", help="Tiny models: the numbers mean nothing.")] = False,
    seconds: Annotated[float, typer.Option(min=0, help="Time for everything; what does not fit is told.")] = 440.0,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of an answer.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each, after one to warm up.")] = 3,
) -> None:
    """Measure PLLaVA at 7B on a GPU.

    Examples:

      python benchmarks/bench_gpu.py --out benchmarks/results/gpu.json --machine "H200"

      python benchmarks/bench_gpu.py --device cpu --tiny
    """
    began = time.monotonic()
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here: use --device cpu --tiny for a trial.")
    if device == "cpu" and not tiny:
        raise SystemExit("A 7B model is too slow on a CPU: add --tiny for a trial.")
    if tiny:
        tokens, rounds = min(tokens, 4), 1
    results, not_measured = kept_steps(out), {}
    model, peer = make_models(device, tiny)
    synchronize()
    facts: dict[str, Any] = {"device": device, "tiny": tiny, "not_measured": not_measured}
    facts["seconds_to_build"] = round(time.monotonic() - began, 1)
    steps: dict[str, Callable[[], dict[str, Any]]] = {
        "against_llava_next_video": lambda: against_peer(model, peer, tokens, rounds),
        "batches": lambda: batches(model, tokens, rounds),
        "compiled": lambda: compiled(model, tokens, rounds),
        # The last one, because the model is another one afterwards.
        "nf4": lambda: nf4(model, tokens, rounds),
    }
    method = {**BY_TURNS, "clock": "perf_counter, after a synchronisation of the GPU", "rounds": rounds}
    for name, step in steps.items():
        left = seconds - (time.monotonic() - began) - (0 if tiny else RESERVES[name])
        if name in results:
            continue
        try:
            if left <= 0:
                raise TimeOverError("no time left")
            with torch.inference_mode(), time_limit(left):
                results[name] = step()
        # One step that fails must not cost the numbers of the others.
        except (TimeOverError, RuntimeError, ValueError, TypeError, ImportError, AssertionError) as error:
            not_measured[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        print(name, results.get(name, not_measured.get(name)), file=sys.stderr)
        with contextlib.redirect_stdout(None):
            record(results, out, machine, facts, method=method)
    record(results, out, machine, facts, method=method)


if __name__ == "__main__":
    typer.run(main)
