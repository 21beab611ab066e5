"""A batch behind a prefix that exists once: the logits of copies of the prefix, without the copies."""

from typing import Any

import pytest
import torch
from factory import TEXT_TOWERS
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from hf_videollm.models.transformers_compat import CACHE_NAME
from hf_videollm.models.video_llm_kept_cache import KeptCache
from hf_videollm.models.video_llm_shared_prefix import (
    NAME,
    SharedPrefixUnsupported,
    attend,
    can_share_prefix,
    shared_prefix_cache,
)

FITTING = ("llama", "qwen2", "mistral", "mixtral", "gpt2")


def make_model(name: str, attention: str = "sdpa") -> Any:
    torch.manual_seed(0)
    options = dict(TEXT_TOWERS[name])
    config = AutoConfig.for_model(options.pop("model_type"), **options)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


def kept_prefix(model: Any, ids: torch.Tensor) -> KeptCache:
    kept = KeptCache()
    model(ids, **{CACHE_NAME: kept.new()}, use_cache=True)
    kept.ids = ids[0].tolist()
    return kept


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A prefix, three different continuations of it, and their mask: the first two begin with padding."""
    prefix = torch.randint(3, 90, (1, 20))
    rest = torch.randint(3, 90, (3, 6))
    mask = torch.ones(3, 26, dtype=torch.long)
    mask[0, 20:22] = mask[1, 20:21] = 0
    return prefix, rest, mask


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", FITTING)
def test_logits_are_those_of_copies(name: str, attention: str) -> None:
    """For several tokens at once, and then one by one; the way of attending is put back."""
    model = make_model(name, attention)
    assert can_share_prefix(model.base_model)
    prefix, rest, mask = batch()
    kept = kept_prefix(model, prefix)
    copies, shared = kept.copied(20, 3), shared_prefix_cache(kept.states(20))
    for columns in (slice(0, 4), slice(4, 5), slice(5, 6)):
        upto = mask[:, : 20 + columns.stop]
        given = {"attention_mask": upto, "position_ids": (upto.cumsum(-1) - 1)[:, 20 + columns.start :]}
        expected = model(rest[:, columns], **{CACHE_NAME: copies}, **given).logits
        with attend(model.base_model, shared):
            found = model(rest[:, columns], **{CACHE_NAME: shared}, **given).logits
        valid = upto[:, 20 + columns.start :].bool()
        torch.testing.assert_close(found[valid], expected[valid], rtol=1e-5, atol=1e-5)
    assert shared.get_seq_length() == 26
    assert {layer.keys.shape[2] for layer in shared.layers} == {6}
    assert model.config._attn_implementation == attention
    assert kept.cache.get_seq_length() == 20
    # Control: another prefix gives other logits.
    other = shared_prefix_cache(kept_prefix(model, prefix.flip(1)).states(20))
    with attend(model.base_model, other):
        wrong = model(rest[:, :4], **{CACHE_NAME: other}, attention_mask=mask[:, :24]).logits
    assert (
        wrong - model(rest[:, :4], **{CACHE_NAME: kept.copied(20, 3)}, attention_mask=mask[:, :24]).logits
    ).abs().max() > 1e-3


@torch.no_grad()
def test_long_continuations_are_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("llama")
    prefix, rest, mask = batch()
    kept = kept_prefix(model, prefix)
    results = []
    for most_bytes in (1 << 28, 1):
        monkeypatch.setattr("hf_videollm.models.video_llm_shared_prefix.SCORE_BYTES", most_bytes)
        cache = shared_prefix_cache(kept.states(20))
        with attend(model.base_model, cache):
            results.append(model(rest, **{CACHE_NAME: cache}, attention_mask=mask).logits)
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


def test_models_that_cannot_share() -> None:
    assert not can_share_prefix(make_model("gemma2", "eager").base_model), "a sliding window"
    model = make_model("llama")
    model.config.attn_logit_softcapping = 30.0
    assert not can_share_prefix(model.base_model)


@torch.no_grad()
def test_attention_of_its_own_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A language model whose attention does not ask `AttentionInterface` would see nothing of the video."""
    model = make_model("llama")
    prefix, rest, _ = batch()
    kept = kept_prefix(model, prefix)
    own = model.base_model.layers[1].self_attn

    def forward(hidden_states: torch.Tensor, **kwargs: Any) -> Any:
        states = own.k_proj(hidden_states).unflatten(-1, (-1, own.head_dim)).transpose(1, 2)
        kwargs[CACHE_NAME].update(states, states, 1)
        return hidden_states, None

    monkeypatch.setattr(own, "forward", forward)
    cache = shared_prefix_cache(kept.states(20))
    with pytest.raises(SharedPrefixUnsupported, match="code of its own"), attend(model.base_model, cache):
        model(rest, **{CACHE_NAME: cache})
    assert model.config._attn_implementation == "sdpa"


def test_caches_without_a_prefix_are_as_before() -> None:
    model = make_model("llama")
    ids = torch.randint(3, 90, (2, 7))
    expected = model(ids, **{CACHE_NAME: DynamicCache()}).logits
    model.base_model.set_attn_implementation(NAME)
    torch.testing.assert_close(model(ids, **{CACHE_NAME: DynamicCache()}).logits, expected)
