"""Language models that IVA's adapter reaches and those it does not, and what else is refused, with the way out."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from factory import QUERY, VIDEO, DesignCase, collate, iva_case
from invariants import assert_same
from transformers import DynamicCache, StaticCache
from transformers.cache_utils import DynamicLayer

from hf_videollm.models.configuration_iva import IvaConfig
from hf_videollm.models.iva_hooks import decoder_layers


def logits_of(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch).logits


# Language models


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 120}
SWALLOWERS = {
    "falcon": {**SMALL, "alibi": False},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "vocab_size": 120, "max_seq_len": 128},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 120},
}
GPTJ = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 120, "rotary_dim": 4, "n_positions": 128}
LLAMA_LIKE = {**SMALL, "intermediate_size": 48, "num_key_value_heads": 2}
REACHED = {
    "mistral": LLAMA_LIKE,
    "mixtral": {**LLAMA_LIKE, "num_local_experts": 3, "num_experts_per_tok": 2},
    "qwen3": {**LLAMA_LIKE, "head_dim": 8},
    "gemma": {**LLAMA_LIKE, "head_dim": 8},
    "gemma3_text": {**LLAMA_LIKE, "head_dim": 8},
    "phi3": {**LLAMA_LIKE, "pad_token_id": 0},
    "olmo2": LLAMA_LIKE,
    "stablelm": LLAMA_LIKE,
    "smollm3": {**LLAMA_LIKE, "pad_token_id": 0},
    "starcoder2": LLAMA_LIKE,
    "opt": {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 128},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "vocab_size": 120},
}


def case_of(family: str, config: dict[str, Any]) -> DesignCase:
    return iva_case("llama", text_config={"model_type": family, **config})


@pytest.mark.parametrize("family", REACHED)
def test_language_models_that_are_reached(family: str) -> None:
    case = case_of(family, REACHED[family])
    model, batch = case.make_model(), case.make_batch([["v3"], ["v2", "i"]])
    before = logits_of(model, batch)
    with torch.no_grad():
        model.model.adapter.output.weight.mul_(-1.0)
    assert (logits_of(model, batch) - before).abs().max() > 0.05


@pytest.mark.parametrize("family", SWALLOWERS)
def test_language_models_that_swallow_the_context_are_named(family: str) -> None:
    case = case_of(family, SWALLOWERS[family])
    model, batch = case.make_model(), case.make_batch([["v3"]])
    name = type(model.model.language_model).__name__
    with pytest.raises(ValueError, match=f"{name} called the adapter 0 times instead of 2"):
        model(**batch)
    # Without IVA they serve as well as others.
    baseline = case.make_model(num_insertions=0)
    (row,) = replace(case, config={**case.config, "num_insertions": 0}).make_rows([["v3"]])
    assert torch.isfinite(logits_of(baseline, collate([row]))).all()


def test_a_language_model_that_hands_on_in_some_releases_alone() -> None:
    """GPT-J before and since transformers 5.24: named, or served; never run without the adapter in silence."""
    case = case_of("gptj", GPTJ)
    model, batch = case.make_model(), case.make_batch([["v3"]])
    try:
        before = logits_of(model, batch)
    except ValueError as error:
        assert "GPTJModel called the adapter 0 times instead of 2" in str(error)  # noqa: PT017
        return
    with torch.no_grad():
        model.model.adapter.output.weight.mul_(-1.0)
    assert (logits_of(model, batch) - before).abs().max() > 0.05


def test_a_language_model_without_a_list_of_layers() -> None:
    with pytest.raises(ValueError, match="IVA found no list of 3 decoder layers in Linear"):
        decoder_layers(torch.nn.Linear(2, 2), 3)


# Errors


def test_configurations_that_cannot_be() -> None:
    for options, message in (
        ({"num_insertions": 3}, "num_insertions is 3, but the language model has 2 layers"),
        ({"num_insertions": -1}, "num_insertions must not be negative"),
        ({"num_query_tokens": 0}, "num_query_tokens must be at least 1"),
        ({"frames_per_chunk": 0}, "frames_per_chunk must be at least 1 or None"),
        ({"selector_temperature": 0.0}, "selector_temperature must be a number above 0"),
        ({"selector_temperature": float("nan")}, "selector_temperature must be a number above 0, not nan"),
        ({"causal_mlp_ratio": 0}, "causal_mlp_ratio must be at least 1"),
        ({"max_frames_on_device": -1}, "max_frames_on_device must not be negative"),
        ({"query_token_id": VIDEO}, "ids of their own, but some are the same: .*query_token_id"),
        ({"image_token_id": VIDEO, "num_insertions": 0}, "ids of their own, but some are the same: image_token_id"),
        ({"causal_num_heads": 3}, "multiple of causal_num_heads"),
        ({"query_placement": "first"}, "query_placement"),
        ({"frame_token_order": "random"}, "frame_token_order"),
    ):
        with pytest.raises(Exception, match=message):
            iva_case("llama").make_config(**options)
    with pytest.raises(Exception, match="siglip_vision_model has no class token: set"):
        iva_case("llama", "siglip_vision_model", vision_feature_select_strategy="default").make_config()


def test_defaults() -> None:
    """Those of the paper."""
    config = IvaConfig()
    assert (config.num_query_tokens, config.num_insertions, config.num_adapter_layers) == (16, 8, 4)
    assert (config.selector_temperature, config.causal_num_layers, config.adapter_hidden_size) == (0.5, 4, 1024)
    assert config.num_video_tokens(60) == 120
    assert IvaConfig(vision_config={"model_type": "siglip_vision_model"}).vision_feature_select_strategy == "full"


@pytest.mark.parametrize(("strategy", "problem"), [("default", "it has no class token"), ("full", "it has a class")])
def test_frames_without_the_class_token_that_was_promised(strategy: str, problem: str) -> None:
    """Of towers whose family does not tell."""
    case = iva_case("llama", vision_feature_select_strategy=strategy)
    model, batch = case.make_model(), case.make_batch([["v3"]])
    if strategy == "default":
        embeddings = model.model.vision_tower.embeddings
        embeddings.register_forward_hook(lambda module, args, output: output[:, 1:])
    with pytest.raises(ValueError, match=f"clip_vision_model gave 1[67] tokens for 16 patches: {problem}"):
        model(**batch)


def test_a_tower_with_register_tokens() -> None:
    registers = {"model_type": "dinov2_with_registers", "num_register_tokens": 4, "hidden_size": 32}
    with pytest.raises(Exception, match="dinov2_with_registers has num_register_tokens=4, but register tokens"):
        iva_case("llama").make_config(vision_config=registers)
    # Of a tower that does not tell: tokens that are no patches must not be looked at as if they were.
    case = iva_case("llama")
    model, batch = case.make_model(), case.make_batch([["v3"]])
    layers = model.model.vision_tower.embeddings
    layers.register_forward_hook(lambda module, args, output: torch.cat([output, output[:, :2]], 1))
    with pytest.raises(ValueError, match=r"gave 19 tokens a frame instead of 17 \(16 patches\)"):
        model(**batch)


def test_prefill_in_chunks_is_refused() -> None:
    case = iva_case("llama")
    model, batch = case.make_model(), case.make_batch([["v3"]])
    with pytest.raises(ValueError, match="prefill_chunk_size cuts the prompt, but IVA's adapter needs"):
        model.generate(**batch, max_new_tokens=2, prefill_chunk_size=4)
    model.generation_config.prefill_chunk_size = 4
    with pytest.raises(ValueError, match="prefill_chunk_size cuts the prompt"):
        model.generate(**batch, max_new_tokens=2)
    model.generate(**batch, max_new_tokens=2, prefill_chunk_size=None)


class ShrinkingLayer(DynamicLayer):
    """Says that it can be cut, and fails when it is."""

    def crop(self, tokens_to_remove: int) -> None:
        raise NotImplementedError


def make_cache(kind: str, config: Any) -> Any:
    if kind == "static":
        return StaticCache(config, max_cache_len=64)
    if kind == "failing":
        cache = DynamicCache()
        cache.layers = [ShrinkingLayer() for _ in range(config.num_hidden_layers)]
        return cache
    return DynamicCache(config=config) if kind == "own" else DynamicCache()


@pytest.mark.parametrize("kind", ["plain", "own", "static", "failing"])
@pytest.mark.parametrize("text", ["llama", "gemma2"])
def test_caches_are_cut_rightly_or_refused_untouched(text: str, kind: str) -> None:
    """Gemma 2 has layers whose window of 12 tokens is shorter than the prompt: of those, the start is forgotten."""
    case = iva_case(text)
    model, batch = case.make_model(), case.make_batch([["v3", "v3"]])
    cache = make_cache(kind, model.config.get_text_config())
    with torch.no_grad():
        model(**batch, cache=cache)
    # A number: a static cache gives the tensor that it counts with.
    length = int(cache.get_seq_length())
    assert length > 12
    try:
        kept = model.crop_to_queries(cache, batch["input_ids"])
    except ValueError as error:
        assert kind == "failing" or not (kind == "plain" or (text, kind) == ("llama", "own"))
        assert re.search(r"A cache of \w+.* cannot be cut .*past_key_values=DynamicCache\(\)", str(error))  # noqa: PT017
        assert cache.get_seq_length() == length
        return
    assert text == "llama" or kind == "plain"
    state = model.get_video_features(batch["pixel_values_videos"])
    rest = {"input_ids": batch["input_ids"][:, kept:], "position_ids": torch.arange(kept, length)[None]}
    with torch.no_grad():
        found = model(**rest, cache=cache, video_state=state).logits
    assert_same(found, logits_of(model, batch)[:, kept:], "behind the cut")


def test_prompts_and_media_that_do_not_fit() -> None:
    case = iva_case("llama")
    model, batch = case.make_model(), case.make_batch([["v3"], ["i"]])
    query = batch["input_ids"] == QUERY

    def changed(mask: torch.Tensor, token: int = 7) -> dict[str, torch.Tensor]:
        return {**batch, "input_ids": batch["input_ids"].masked_fill(mask, token)}

    second = torch.tensor([[False], [True]])
    with pytest.raises(ValueError, match=r"Prompts \[[01]\] hold (images|videos), but no query tokens"):
        model(**changed(query))
    with pytest.raises(ValueError, match=r"Prompts \[1\] hold images, but no query tokens \(token id 103\)"):
        model(**changed(query & second))
    one = query & (query.cumsum(-1) == 1)
    with pytest.raises(ValueError, match=r"hold \[2, 2\] query tokens .* in blocks of 3 \(num_query_tokens\)"):
        model(**changed(one))
    text = {"input_ids": torch.full((1, 3), QUERY)}
    with pytest.raises(ValueError, match=r"no video or image for them to look at\. If it is in the cache, pass"):
        model(**text)
    with pytest.raises(ValueError, match="num_insertions is 0: make them with this model's own processor"):
        case.make_model(num_insertions=0)(**batch)
    output = model.get_video_features(torch.randn(1, 2, 3, 16, 16))
    output.frames = None
    with pytest.raises(ValueError, match=r"mm_encoder_outputs\['video'\] lacks the frames"):
        model(input_ids=torch.tensor([[VIDEO] * 4 + [QUERY] * 3]), mm_encoder_outputs={"video": output})
    with pytest.raises(ValueError, match=r"Prompts \[0\] hold query tokens with no video or image before them"):
        model(input_ids=torch.tensor([[QUERY] * 3 + [VIDEO] * 4]), pixel_values_videos=torch.randn(1, 2, 3, 16, 16))
