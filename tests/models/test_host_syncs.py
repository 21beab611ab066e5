"""A GPU is never waited for in a decoding step: no design reads more values there than the bare LLM."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from every_design import DESIGNS, every_design
from factory import DesignCase
from host_syncs import HostSyncs
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, StaticCache

FEW, MANY = 3, 8
CACHES: dict[str, dict[str, Any]] = {
    "dynamic": {},
    "static": {"cache_implementation": "static", "disable_compile": True},
}
# A video, an image and padding: everything that a prompt may hold.
SPECS = [["v4", "i"], ["v2"]]
READERS: dict[str, Callable[[torch.Tensor], Any]] = {
    "item": lambda logits: logits[0, 0, 0].item(),
    "int": lambda logits: int(logits[0, 0, 0]),
    "bool": lambda logits: bool((logits > 0).any()),
    "tolist": lambda logits: logits[0, 0, :3].tolist(),
    "numpy": lambda logits: logits.numpy(),
    "nonzero": lambda logits: logits.nonzero(),
    "boolean index": lambda logits: logits[logits > 0],
    "boolean assignment": lambda logits: logits.clone().__setitem__(logits > 0, 0.0),
    "masked_select": lambda logits: logits.masked_select(logits > 0),
    "unique": lambda logits: logits.unique(),
    "equal": lambda logits: torch.equal(logits, logits),
}


def bare_language_model(case: DesignCase) -> Any:
    """The language model of a case, as a model of transformers without a video."""
    config = case.make_config()
    text = getattr(config, "backbone_config", config).text_config
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**text.to_dict())).eval()


def syncs_of_steps(model: Any, inputs: dict[str, Any], **options: Any) -> Counter[str]:
    """What `generate` reads in its decoding steps after the first ones: a difference of two runs."""
    counts = []
    for steps in (FEW, MANY):
        with HostSyncs() as syncs:
            model.generate(**inputs, **options, do_sample=False, max_new_tokens=steps)
        counts.append(syncs.counts)
    few, many = counts
    many.subtract(few)
    return +many


@every_design
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("options", [{}, {"num_beams": 2}], ids=["greedy", "beams"])
def test_a_decoding_step_reads_no_more_than_the_bare_language_model(
    case: DesignCase, cache: str, options: dict[str, Any]
) -> None:
    options = {**options, **CACHES[cache]}
    batch = case.make_batch(SPECS, padding_side="left")
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    text["input_ids"] = text["input_ids"].clamp(max=99)
    model, bare = case.make_model(), bare_language_model(case)
    bare.generation_config.suppress_tokens = model.generation_config.suppress_tokens
    allowed = syncs_of_steps(bare, text, **options)
    assert sum(allowed.values()) >= MANY - FEW, "transformers itself asks in every step on the CPU whether to stop"
    assert syncs_of_steps(model, batch, **options) <= allowed


@pytest.mark.parametrize("reader", READERS)
def test_a_value_that_is_read_in_a_step_would_be_seen(reader: str) -> None:
    """A control."""
    model, batch = DESIGNS[0].make_model(), DESIGNS[0].make_batch([["v4"]])
    allowed = syncs_of_steps(model, batch)

    def read_logits(module: torch.nn.Module, args: Any, logits: torch.Tensor) -> None:
        READERS[reader](logits)

    model.lm_head.register_forward_hook(read_logits)
    read = syncs_of_steps(model, batch)
    assert not read <= allowed
    assert read.total() >= allowed.total() + MANY - FEW


@every_design
def test_a_step_runs_where_there_are_no_values_to_read(case: DesignCase) -> None:
    """On the meta device tensors have no values, so reading one is an error."""
    config = case.make_config()
    text_config = getattr(config, "backbone_config", config).text_config
    model, batch = case.make_model(), case.make_batch([["v4"]])
    with torch.no_grad():
        cache = model(**batch, use_cache=True).cache
    length = batch["input_ids"].shape[1]
    dynamic, static = DynamicCache(), StaticCache(text_config, max_cache_len=length + 4)
    for number, layer in enumerate(cache.layers):
        states = layer.keys.to("meta"), layer.values.to("meta")
        dynamic.update(*states, number)
        # A static cache keeps its length in a tensor.
        static.update(*states, number)
    model.to("meta")
    # transformers itself reads the values of an attention mask. Positions replace it here.
    token, position = (torch.zeros(1, 1, dtype=torch.long, device="meta") for _ in range(2))
    with torch.no_grad():
        for kept in (dynamic, static):
            logits = model(input_ids=token, position_ids=position, cache=kept).logits
            assert logits.shape == (1, 1, text_config.vocab_size)
        with pytest.raises(RuntimeError, match="meta"):
            logits[0, 0, 0].item()


def parts_of(model: Any) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The vision tower and the language model."""
    base = model.model
    base = getattr(base, "backbone", base)
    return base.vision_tower, base.language_model


# IVA looks which frames stand before which query token. LinVT checks the lengths of its videos. The lengths of sounds
# are read from a copy on the CPU, which was made before.
AFTER_THE_TOWER = {"iva-llama-clip": 2, "linvt-llava": 1, "av-qwen2-clip": 2}


@every_design
def test_a_prompt_is_checked_before_the_tower_runs(case: DesignCase) -> None:
    """Between the tower and the language model next to nothing is read, so a GPU has no gap between them."""
    model, batch = case.make_model(), case.make_batch(SPECS)
    tower, language_model = parts_of(model)
    seen: list[int] = []
    with torch.no_grad(), HostSyncs() as syncs:
        handles = [
            tower.register_forward_hook(lambda *args: seen.append(syncs.total)),
            language_model.register_forward_pre_hook(lambda *args: seen.append(syncs.total)),
        ]
        model(**batch)
        for handle in handles:
            handle.remove()
    last_tower, language = seen[-2:]
    assert last_tower > 0, "placeholders are counted"
    assert language - last_tower <= AFTER_THE_TOWER.get(case.name, 0)
