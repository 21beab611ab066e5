"""The key-value cache is called `past_key_values` or `cache`; both names work everywhere, on every release."""

import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from factory import FTFV_CASES, IVA_CASES, PLLAVA_CASES, VIDEOLLAMA2_AV_CASES, VIDEOLLAMA2_CASES, DesignCase
from invariants import assert_same
from linvt_design_case import LINVT_CASES
from torch import nn
from transformers import Cache, DynamicCache, LlamaModel, StaticCache
from transformers.modeling_outputs import BaseModelOutputWithPast

from hf_videollm.models import transformers_compat as compat
from hf_videollm.models.modeling_video_llm import VideoLlmModelOutputWithPast

NAMES = ("cache", "past_key_values")
# Names that are no text and ids that are no media.
TEXT_ONLY = ("input_ids", "attention_mask", "mm_token_type_ids")
DESIGNS = {
    case.name: case
    for cases in (PLLAVA_CASES, VIDEOLLAMA2_CASES, VIDEOLLAMA2_AV_CASES, FTFV_CASES, IVA_CASES, LINVT_CASES)
    for case in cases[:1]
}
by_name = pytest.mark.parametrize("name", NAMES)
GREEDY = {"do_sample": False, "max_new_tokens": 4, "return_dict_in_generate": True, "output_logits": True}


@pytest.fixture(scope="module", params=DESIGNS)
def design(request: pytest.FixtureRequest) -> tuple[DesignCase, Any, dict[str, torch.Tensor]]:
    case = DESIGNS[request.param]
    return case, case.make_model(), case.make_batch([["v3"], ["v2", "v4"]], padding_side="left")


@pytest.fixture(autouse=True)
def _no_notices(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that is called here by its new or old name makes transformers speak of old names."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        warnings.simplefilter("error", DeprecationWarning)
        yield
    notices = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert not [notice for notice in notices if "past_key_values" in notice]


def continued(batch: dict[str, torch.Tensor], tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """The conversation with more tokens behind it."""
    ids = torch.cat([batch["input_ids"], tokens], 1)
    longer = {**batch, "input_ids": ids}
    for name, value in (("attention_mask", 1), ("mm_token_type_ids", 0)):
        if name in batch:
            longer[name] = torch.cat([batch[name], torch.full_like(tokens, value)], 1)
    return longer


@by_name
@torch.no_grad()
def test_forward_takes_and_gives_the_cache(design: Any, name: str) -> None:
    _, model, batch = design
    cache = DynamicCache()
    first = model(**batch, **{name: cache})
    assert first.cache is first.past_key_values is cache
    assert first.cache.get_seq_length() == batch["input_ids"].shape[1]
    longer = continued(batch, torch.tensor([[7], [9]]))
    step = model(input_ids=longer["input_ids"][:, -1:], attention_mask=longer["attention_mask"], **{name: cache})
    assert_same(step.logits[:, -1], model(**longer).logits[:, -1], "a step behind the cache")
    other = DynamicCache()
    base = model.base_model(**batch, **{name: other})
    assert base.cache is other


@torch.no_grad()
def test_one_of_two_names_is_enough(design: Any) -> None:
    _, model, batch = design
    cache = DynamicCache()
    model(**batch, cache=cache, past_key_values=cache)
    assert cache.get_seq_length() == batch["input_ids"].shape[1]
    for call in (model, model.base_model, model.generate):
        with pytest.raises(ValueError, match="cache and past_key_values are two names of the same"):
            call(**batch, cache=DynamicCache(), past_key_values=DynamicCache())
    # Positions of arguments are those of before: the cache is the fourth.
    again = DynamicCache()
    media = {key: value for key, value in batch.items() if key not in ("input_ids", "attention_mask")}
    model(batch["input_ids"], batch["attention_mask"], None, again, **media)
    assert again.get_seq_length() == batch["input_ids"].shape[1]


@by_name
@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_generate_uses_the_cache_that_is_given(design: Any, name: str, kind: str) -> None:
    _, model, batch = design
    expected = model.generate(**batch, **GREEDY)
    length = expected.sequences.shape[1]
    config = model.config.get_text_config(decoder=True)
    cache = DynamicCache() if kind == "dynamic" else StaticCache(config=config, max_cache_len=length)
    found = model.generate(**batch, **GREEDY, **{name: cache}, disable_compile=True)
    assert torch.equal(found.sequences, expected.sequences)
    assert_same(torch.stack(found.logits), torch.stack(expected.logits), "own cache")
    assert found.cache is cache
    assert cache.get_seq_length() == length - 1


@by_name
@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_a_second_question_behind_a_kept_cache(design: Any, name: str, kind: str) -> None:
    """The media are not passed again, and their tokens are not run again."""
    case, model, batch = design
    if case.name.startswith("iva"):
        pytest.skip("IVA's second question: tests/models/test_iva_model.py")
    config = model.config.get_text_config(decoder=True)
    size = batch["input_ids"].shape[1] + 12
    cache = DynamicCache() if kind == "dynamic" else StaticCache(config=config, max_cache_len=size)
    options = {**GREEDY, "disable_compile": True, name: cache}
    first = model.generate(**batch, **{**options, "max_new_tokens": 2})
    answer = first.sequences[:, batch["input_ids"].shape[1] :]
    longer = continued(batch, torch.cat([answer, torch.tensor([[5, 8], [6, 4]])], 1))
    lengths: list[int] = []
    inner = model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(
            next(kwargs[key].shape[1] for key in ("inputs_embeds", "input_ids") if kwargs.get(key) is not None)
        ),
        with_kwargs=True,
    )
    kept = {key: value for key, value in longer.items() if key in TEXT_ONLY or key == "image_grid_thw"}
    found = model.generate(**kept, **options)
    inner.remove()
    expected = model.generate(**longer, **GREEDY)
    assert torch.equal(found.sequences, expected.sequences)
    assert_same(torch.stack(found.logits), torch.stack(expected.logits), "behind the cache")
    assert lengths == [3, 1, 1, 1]


@by_name
def test_inputs_of_a_step_are_prepared_under_either_name(design: Any, name: str) -> None:
    _, model, batch = design
    cache = DynamicCache()
    ids, mask = batch["input_ids"], batch["attention_mask"]
    prepared = model.prepare_inputs_for_generation(
        ids, next_sequence_length=1, attention_mask=mask, use_cache=True, **{name: cache}
    )
    assert [prepared[key] for key in NAMES if key in prepared] == [cache]
    assert prepared["input_ids"].shape[1] == 1


def test_neither_name_is_moved_between_devices_or_gathered(design: Any) -> None:
    _, model, _ = design
    assert set(NAMES) <= set(model._skip_keys_device_placement)
    assert set(NAMES) <= set(model.base_model._skip_keys_device_placement)
    assert set(NAMES) <= set(model.config.keys_to_ignore_at_inference)


class OldNames(LlamaModel):
    """As code that came with a checkpoint before transformers 5.24."""

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
    ) -> BaseModelOutputWithPast:
        given = {compat.CACHE_NAME: past_key_values, "use_cache": use_cache}
        return super().forward(input_ids, attention_mask, position_ids, inputs_embeds=inputs_embeds, **given)


def test_language_models_that_know_one_name_alone() -> None:
    case = PLLAVA_CASES[0]
    model, batch = case.make_model(), case.make_batch([["v3"]])
    expected = model.generate(**batch, **GREEDY)
    old = OldNames(model.config.text_config).eval()
    old.load_state_dict(model.model.language_model.state_dict())
    assert compat.cache_argument(old) == "past_key_values"
    model.model.language_model, model.model.cache_argument = old, compat.cache_argument(old)
    found = model.generate(**batch, **GREEDY)
    assert torch.equal(found.sequences, expected.sequences)
    assert found.cache.get_seq_length() == expected.cache.get_seq_length()


def test_names_that_forwards_have() -> None:
    class New(nn.Module):
        def forward(self, inputs_embeds: Any, cache: Any = None) -> None: ...

    class Neither(nn.Module):
        def forward(self, **kwargs: Any) -> None: ...

    assert compat.cache_argument(New()) == "cache"
    assert compat.cache_argument(Neither()) == compat.CACHE_NAME


def test_outputs_hold_the_cache_once() -> None:
    """Two names, one entry: what counts outputs by position or key is as in transformers."""
    cache = DynamicCache()
    output = VideoLlmModelOutputWithPast(last_hidden_state=torch.zeros(1), **{compat.CACHE_NAME: cache})
    assert output.cache is output.past_key_values is output[1] is cache
    assert list(output) == ["last_hidden_state", compat.CACHE_NAME]
    assert VideoLlmModelOutputWithPast(last_hidden_state=torch.zeros(1)).cache is None


@torch.no_grad()
def test_who_asks_hears_of_the_old_name(design: Any) -> None:
    """Our forwards take it for as long as there is a release that has no other, and so only announce its end."""
    _, model, batch = design
    for called in (model, model.base_model):
        for name, is_old in {"past_key_values": compat.CACHE_NAME == "cache", "cache": False}.items():
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                called(**batch, **{name: DynamicCache()})
            announced = [warning for warning in caught if "`past_key_values` is deprecated" in str(warning.message)]
            assert [warning.category for warning in announced] == [PendingDeprecationWarning] * is_old
    with warnings.catch_warnings():
        warnings.simplefilter("error", PendingDeprecationWarning)
        model.generate(**batch, **GREEDY, past_key_values=DynamicCache())


@pytest.mark.skipif(compat.CACHE_NAME == "past_key_values", reason="the old name is the only one before 5.24")
def test_a_wrong_name_would_be_heard() -> None:
    """Control of `_no_notices`: transformers' own forward does warn of the old name."""
    model = PLLAVA_CASES[0].make_model().model.language_model
    with pytest.raises(FutureWarning, match="`past_key_values` is deprecated"):
        model(torch.tensor([[5]]), past_key_values=DynamicCache())
