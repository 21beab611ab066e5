"""Measures LinVT: scoring compared with torch's attention, more questions, training with less memory.

python benchmarks/bench_linvt.py --help
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from bench_tools import record, seconds_by_turns, with_ratios
from run_facts import in_mib
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_videollm.models.configuration_linvt import LinVTModuleConfig
from hf_videollm.models.linvt_layers import LinVTAttention
from hf_videollm.models.linvt_module import LinVTModule
from hf_videollm.models.transformers_compat import disable_checkpointing, enable_checkpointing

QUICK = ("--width", "64", "--frames", "8", "--positions", "16", "--selected", "64", "--repeats", "1")


class TorchScorer(nn.Module):
    """The scoring trunk built from torch's attention, with the weights of ours."""

    def __init__(self, module: LinVTModule) -> None:
        super().__init__()
        self.norms, self.attentions = nn.ModuleList(), nn.ModuleList()
        for layer in module.svr.layers:
            self.norms.extend([layer.norm_spatial, layer.norm_temporal])
            self.attentions.extend([self.copy(layer.spatial_attn), self.copy(layer.temporal_attn)])
        self.norm, self.score = module.svr.norm, module.svr.score

    @staticmethod
    def copy(ours: LinVTAttention) -> nn.MultiheadAttention:
        copied = nn.MultiheadAttention(ours.o_proj.out_features, ours.num_heads, batch_first=True)
        projections = (ours.q_proj, ours.k_proj, ours.v_proj)
        weights = {
            "in_proj_weight": torch.cat([part.weight for part in projections]),
            "in_proj_bias": torch.cat([part.bias for part in projections]),
            "out_proj.weight": ours.o_proj.weight,
            "out_proj.bias": ours.o_proj.bias,
        }
        copied.load_state_dict({name: weight.detach() for name, weight in weights.items()})
        return copied.to(ours.o_proj.weight)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """`(batch, T, N, width)` to scores `(batch, T, N)`."""
        for norm, attention in zip(self.norms, self.attentions, strict=True):
            sequences = states.flatten(0, 1)
            normed = norm(sequences)
            sequences = sequences + attention(normed, normed, normed, need_weights=False)[0]
            # Frames of positions, then positions of frames, and so on.
            states = sequences.unflatten(0, states.shape[:2]).transpose(1, 2)
        return self.score(self.norm(states))


class Holder(PreTrainedModel):
    """A model that holds the module, to switch gradient checkpointing on and off."""

    config_class = PreTrainedConfig
    supports_gradient_checkpointing = True

    def __init__(self, module: LinVTModule) -> None:
        super().__init__(PreTrainedConfig())
        self.linvt = module


def bench_scoring(module: LinVTModule, video: torch.Tensor, repeats: int) -> dict[str, float]:
    """Scores of one video: torch's attention, ours at once, and ours in chunks of an eighth."""
    peer, config = TorchScorer(module), module.config
    tolerance = 1e-4 if video.dtype == torch.float32 else 0.1
    # Without gradients, the scorer writes into its input.
    torch.testing.assert_close(module.svr(video.clone()), peer(video), atol=tolerance, rtol=tolerance)

    def in_chunks(limit: int | None) -> torch.Tensor:
        config.scorer_chunk_tokens = limit
        return module.svr(video.clone())

    eighth = video.shape[1] * video.shape[2] // 8
    times = seconds_by_turns(
        {
            "torch": lambda: peer(video.clone()),
            "ours": lambda: in_chunks(None),
            "ours_in_8_chunks": lambda: in_chunks(eighth),
        },
        repeats,
    )
    config.scorer_chunk_tokens = None
    return times


def bench_questions(module: LinVTModule, video: torch.Tensor, question: torch.Tensor, repeats: int) -> dict[str, float]:
    """A question on a new video, and another one on a video that was scored already."""
    selection = module.select(video)
    return seconds_by_turns(
        {
            "new_video": lambda: module(video, text_embeddings=question),
            "further_question": lambda: module.aggregate(selection, question),
        },
        repeats,
    )


def bench_variants(module: LinVTModule, video: torch.Tensor, question: torch.Tensor, repeats: int) -> dict[str, float]:
    """Aggregation of each variant, all with the same number of output tokens."""
    functions: dict[str, Callable[[], Any]] = {}
    for variant in ("multi_c", "multi_b", "multi_a", "single_a"):
        config = LinVTModuleConfig(**{**module.config.to_dict(), "variant": variant})
        other = LinVTModule(module.hidden_size, config).eval().to(video)
        selection = other.select(video)
        functions[variant] = lambda other=other, selection=selection: other.aggregate(selection, question)
    return seconds_by_turns(functions, repeats)


def bench_training(
    module: LinVTModule, video: torch.Tensor, question: torch.Tensor, repeats: int
) -> dict[str, dict[str, float]]:
    """A training step with activations kept and computed again: seconds, and MiB that wait for the backward pass."""
    model = Holder(module).train()
    module.config.scorer_chunk_tokens = video.shape[1] * video.shape[2] // 8
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def forward(checkpointing: bool) -> torch.Tensor:
        if checkpointing:
            enable_checkpointing(model, {"use_reentrant": False})
        else:
            disable_checkpointing(model)
        return module(video, text_embeddings=question).square().mean()

    def step(checkpointing: bool) -> None:
        model.zero_grad()
        forward(checkpointing).backward()

    ways = {"kept": False, "computed_again": True}
    weights = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    sizes = {}
    for name, checkpointing in ways.items():
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = forward(checkpointing)
        sizes[name] = in_mib(sum(size for pointer, size in kept.items() if pointer not in weights))
        del loss
    times = seconds_by_turns({name: partial(step, checkpointing) for name, checkpointing in ways.items()}, repeats)
    model.eval()
    return {name: {"seconds": round(times[name], 4), "mib_for_backward": sizes[name]} for name in ways}


def main(
    out: Annotated[Path | None, typer.Option(help="JSON file to write; the screen only by default.")] = None,
    machine: Annotated[str, typer.Option(help="Name of the machine, for the record.")] = "not named",
    width: Annotated[int, typer.Option(help="Width of the language model.")] = 256,
    frames: Annotated[int, typer.Option(help="Frames of the video; a multiple of 8.")] = 16,
    positions: Annotated[int, typer.Option(help="Visual tokens of a frame.")] = 196,
    selected: Annotated[int, typer.Option(help="k, tokens that are kept.")] = 1024,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    repeats: Annotated[int, typer.Option(help="Runs of each, after one to warm up.")] = 5,
) -> None:
    """Measure LinVT's module, with L = 4 and 8 heads as in the paper. Only ratios within one run are meaningful.

    Examples:

      python benchmarks/bench_linvt.py --width 64 --frames 8 --positions 16 --selected 64 --repeats 1

      python benchmarks/bench_linvt.py --out benchmarks/results/linvt_cpu.json --machine "2 shared cores"
    """
    torch.manual_seed(0)
    config = LinVTModuleConfig(num_selected_tokens=selected, scorer_chunk_tokens=None)
    module = LinVTModule(width, config).eval().to(device, getattr(torch, dtype))
    weight = next(module.parameters())
    video, question = torch.randn(1, frames, positions, width).to(weight), torch.randn(1, 16, width).to(weight)
    with torch.inference_mode():
        scoring = bench_scoring(module, video, repeats)
        questions = bench_questions(module, video, question, repeats)
        variants = bench_variants(module, video, question, repeats)
    results = {
        "scoring": with_ratios(scoring, "torch"),
        "questions": with_ratios(questions, "new_video"),
        "aggregation_of_variants": with_ratios(variants, "multi_c"),
        "training_step": bench_training(module, video, question, repeats),
    }
    sizes = {"width": width, "frames": frames, "positions": positions, "selected": selected, "dtype": dtype}
    record(results, out, machine, {"device": device, "sizes": sizes})


if __name__ == "__main__":
    typer.run(main)
