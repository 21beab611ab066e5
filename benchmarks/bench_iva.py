"""Measures IVA: memory of a prefill by the length of the video, and the adapter against its literal equations.

python benchmarks/bench_iva.py --help
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from bench_tools import record, seconds_by_turns, with_ratios
from run_facts import in_mib

from hf_videollm import IvaConfig, IvaForConditionalGeneration
from hf_videollm.costs.counter import measure as count
from hf_videollm.models.iva_adapter import IvaAdapter, IvaAdapterLayer
from hf_videollm.models.iva_frames import FrameBank, MediumFrames

QUICK = ("--lengths", "60,120", "--width", "64", "--repeats", "1")
VIDEO_ID, QUERY_ID, VOCABULARY = 5, 6, 256
PATCHES, VISION_WIDTH, IMAGE_SIZE = 64, 128, 32
WAYS = {
    "streamed": {"vision_chunk_size": 64, "frames_per_chunk": 64},
    "all_frames_at_once": {"vision_chunk_size": 10**6, "frames_per_chunk": None},
}


def make_model(way: str) -> IvaForConditionalGeneration:
    """A random model with few parameters, but with enough patches and channels that their memory can be measured."""
    tower = {
        "model_type": "clip_vision_model",
        "hidden_size": VISION_WIDTH,
        "intermediate_size": 2 * VISION_WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": IMAGE_SIZE,
        "patch_size": IMAGE_SIZE // 8,
    }
    text = {
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 16_384,
    }
    config = IvaConfig(
        vision_config=tower,
        text_config=text,
        image_token_id=4,
        video_token_id=VIDEO_ID,
        query_token_id=QUERY_ID,
        num_insertions=4,
        adapter_hidden_size=64,
        causal_num_layers=2,
        causal_num_heads=4,
        **WAYS[way],
    )
    torch.manual_seed(0)
    return IvaForConditionalGeneration(config).eval()


def prompt_of(model: IvaForConditionalGeneration, frames: int) -> dict[str, torch.Tensor]:
    """A question on one video."""
    text = torch.randint(10, VOCABULARY, (1, 16))
    video = torch.full((1, model.config.num_video_tokens(frames)), VIDEO_ID)
    queries = torch.full((1, model.config.num_query_tokens), QUERY_ID)
    return {
        "input_ids": torch.cat([text[:, :4], video, text[:, 4:], queries], dim=1),
        "pixel_values_videos": torch.randn(1, frames, 3, IMAGE_SIZE, IMAGE_SIZE),
    }


def memory_in_kib(name: str) -> int:
    """A value from Linux's status of this process: `VmRSS` is the memory now, `VmHWM` the peak since the last reset."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def measure_prefill(way: str, frames: int) -> dict[str, float]:
    """The memory of a prefill in this process, in MiB, without that of model, pixels and libraries."""
    model = make_model(way)
    with torch.inference_mode():
        # A first call loads parts of libraries, whose memory does not depend on the video.
        model(**prompt_of(model, 8), logits_to_keep=1)
        batch = prompt_of(model, frames)
        before = memory_in_kib("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        model(**batch, use_cache=True, logits_to_keep=1)
    features = frames * PATCHES * VISION_WIDTH * 4
    return {
        "mib": round((memory_in_kib("VmHWM") - before) / 1024, 1),
        "mib_of_patch_features_once": in_mib(features),
        "mib_of_pixels_not_counted": in_mib(batch["pixel_values_videos"].nbytes),
    }


def bench_memory(lengths: list[int]) -> dict[str, dict[str, dict[str, float]]]:
    """Measure each video in a separate process, so that none reuses memory of another one."""
    results: dict[str, dict[str, dict[str, float]]] = {}
    for way in WAYS:
        for frames in lengths:
            command = [sys.executable, __file__, "--measure", f"{way}:{frames}"]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            results.setdefault(way, {})[str(frames)] = json.loads(output.splitlines()[-1])
    return results


def plot_memory(results: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    """Plot the peak memory for the numbers of frames; needs matplotlib (pip install "hf-videollm[dev]")."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4))
    for way, by_frames in results.items():
        points = [(int(frames), found["mib"]) for frames, found in by_frames.items()]
        axes.plot(*zip(*points, strict=True), marker="o", label=way.replace("_", " "))
    points = [(int(frames), found["mib_of_patch_features_once"]) for frames, found in results["streamed"].items()]
    axes.plot(*zip(*points, strict=True), linestyle="--", color="grey", label="patch features, held once")
    axes.set(xlabel="frames (1 a second)", ylabel="MiB on top of model and pixels", title="IVA: memory of a prefill")
    axes.legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


# The adapter as the paper prints it, in two ways. Both give the same result as the folded form of the package.


def selected_frames(layer: IvaAdapterLayer, states: torch.Tensor, frames: FrameBank) -> torch.Tensor:
    """A of Eq. 3, `(batch, queries, frames)`."""
    selector = layer.selector
    products = selector.query(states) @ selector.key(frames.global_features).transpose(-1, -2)
    return (products / selector.temperature).softmax(-1)


def interact(layer: IvaAdapterLayer, states: torch.Tensor, selected: torch.Tensor) -> torch.Tensor:
    """Eq. 4 on S, `(batch, queries, patches, width)`, every patch projected to a key and a value."""
    part = layer.interactor
    products = part.query(states).unsqueeze(-2) @ part.key(selected).transpose(-1, -2)
    seen = ((products * part.scale).softmax(-1) @ part.value(selected)).squeeze(-2)
    return part.mlp(seen) + seen


def mix(weights: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
    """`(batch, queries, frames)` and `(frames, patches, width)` to `(batch, queries, patches, width)`."""
    return (weights @ patches.flatten(1)).unflatten(-1, patches.shape[1:])


def calls_of(adapter: IvaAdapter, frames: FrameBank, states: torch.Tensor, calls: int) -> dict[str, Callable[[], Any]]:
    """All calls for one prompt, in the three ways. Each call starts from the same states."""
    patches = torch.cat(frames.chunks)
    visible = torch.ones(*states.shape[:2], len(patches), dtype=torch.bool, device=states.device)
    begin = adapter.input(adapter.norm(states))

    def folded() -> torch.Tensor:
        for _ in range(calls):
            change, _ = adapter(states, visible, frames)
        return change

    def one_call(selected_of: Callable[[int, torch.Tensor], torch.Tensor]) -> torch.Tensor:
        current = begin
        for number, layer in enumerate(adapter.layers):
            selected = selected_of(number, selected_frames(layer, current, frames))
            current = interact(layer, current, selected)
        return adapter.output(current)

    def project_first() -> torch.Tensor:
        projected = [layer.interactor.trans(patches) for layer in adapter.layers]
        for _ in range(calls):
            change = one_call(lambda number, weights: mix(weights, projected[number]))
        return change

    def mix_first() -> torch.Tensor:
        for _ in range(calls):
            change = one_call(lambda number, weights: adapter.layers[number].interactor.trans(mix(weights, patches)))
        return change

    return {"folded": folded, "every_frame_projected_once": project_first, "frames_mixed_then_projected": mix_first}


def make_adapter(width: int, frames: int, patches: int, queries: int, **options: Any) -> Any:
    """Adapter, frames and states, all of the same width, on the current default device."""
    config = IvaConfig(
        vision_config={"model_type": "clip_vision_model", "hidden_size": width, "num_attention_heads": 16},
        text_config={"model_type": "llama", "hidden_size": 4 * width, "num_hidden_layers": 32},
        adapter_hidden_size=width,
        **options,
    )
    adapter = IvaAdapter(config)
    for name, parameter in adapter.named_parameters():
        scale = 0.02 if ".query." in name or ".key." in name else parameter.shape[-1] ** -0.5
        torch.nn.init.normal_(parameter, std=scale)
    medium = MediumFrames(torch.randn(frames, width), [torch.randn(frames, patches, width)])
    bank = FrameBank([medium], torch.zeros(1, dtype=torch.long), torch.full((1,), -1))
    return adapter, bank, torch.randn(1, queries, 4 * width)


def count_operations(frames: int) -> dict[str, float]:
    """Multiply-adds (10^9) of the 8 calls for one prompt at the paper's size, counted on the meta device."""
    with torch.device("meta"):
        adapter, bank, states = make_adapter(1024, frames, 576, 16, frames_per_chunk=None)
        ways = calls_of(adapter, bank, states, calls=8)
        return {name: round(count(adapter, way)[0].total / 2e9, 1) for name, way in ways.items()}


def bench_adapter(width: int, frames: int, repeats: int) -> dict[str, float]:
    """Seconds of the 8 calls for one prompt in each way, and of the folded form in chunks of 16 frames."""
    torch.manual_seed(0)
    adapter, bank, states = make_adapter(width, frames, 144, 16, frames_per_chunk=None)
    ways = calls_of(adapter, bank, states, calls=8)

    def in_chunks() -> torch.Tensor:
        for layer in adapter.layers:
            layer.selector.frames_per_chunk = 16
        change = ways["folded"]()
        for layer in adapter.layers:
            layer.selector.frames_per_chunk = None
        return change

    functions = {**ways, "folded_in_chunks_of_16_frames": in_chunks}
    results = [function() for function in functions.values()]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], atol=1e-4, rtol=1e-4)
    return seconds_by_turns(functions, repeats)


def main(
    out: Annotated[Path | None, typer.Option(help="JSON file to write; the screen only by default.")] = None,
    machine: Annotated[str, typer.Option(help="Name of the machine, for the record.")] = "not named",
    lengths: Annotated[str, typer.Option(help="Frames of the videos, separated by commas.")] = "60,300,900,1800,3600",
    width: Annotated[int, typer.Option(help="Width of the timed adapter; the paper's is 1024.")] = 256,
    frames: Annotated[int, typer.Option(help="Frames of its video.")] = 60,
    repeats: Annotated[int, typer.Option(help="Runs of each, after one to warm up.")] = 5,
    plot: Annotated[Path | None, typer.Option(help="PNG file for the memory.")] = None,
    measure: Annotated[str | None, typer.Option(help="WAY:FRAMES of one prefill in this process.", hidden=True)] = None,
) -> None:
    """Measure IVA's memory (Linux only) and its adapter. Only ratios within one run are meaningful.

    Examples:

      python benchmarks/bench_iva.py --lengths 60,120 --width 64 --repeats 1

      python benchmarks/bench_iva.py --out benchmarks/results/iva_cpu.json --plot docs/measured/iva_memory.png
    """
    if measure is not None:
        way, _, count = measure.partition(":")
        print(json.dumps(measure_prefill(way, int(count))))
        return
    with torch.inference_mode():
        times = bench_adapter(width, frames, repeats)
    memory = bench_memory([int(length) for length in lengths.split(",")])
    results = {
        "memory_of_a_prefill": memory,
        "gmac_of_8_calls_at_width_1024_and_60_frames": count_operations(60),
        "seconds_of_8_calls": with_ratios(times, "folded"),
    }
    sizes = {"patches": PATCHES, "vision_width": VISION_WIDTH, "width_of_timed_adapter": width, "frames_of_it": frames}
    record(results, out, machine, {"sizes": sizes})
    if plot is not None:
        plot_memory(memory, plot)


if __name__ == "__main__":
    typer.run(main)
