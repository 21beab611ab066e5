"""Beams and several return sequences read the prompt of their row once, and write the same tokens."""

from typing import Any

import pytest
import torch
from every_design import DESIGNS, every_design
from factory import DesignCase
from linvt_design_case import LINVT_CASES
from transformers import DynamicCache

from hf_videollm.models import video_llm_shared_prefill as shared

SPECS = [["v4", "i"], [], ["v2"]]
BEAMS: dict[str, Any] = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 4, "do_sample": False}
SAMPLES: dict[str, Any] = {"num_return_sequences": 3, "max_new_tokens": 4, "do_sample": True}
MORE: dict[str, Any] = {"return_dict_in_generate": True, "output_scores": True}


def rows_read(model: Any) -> list[tuple[int, int]]:
    """A list that gets the rows and the tokens of each call of the language model."""
    base = getattr(model.model, "backbone", model.model)
    read: list[tuple[int, int]] = []

    def note(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        embeds = kwargs.get("inputs_embeds")
        read.append(tuple((kwargs["input_ids"] if embeds is None else embeds).shape[:2]))

    base.language_model.register_forward_pre_hook(note, with_kwargs=True)
    return read


def frames_seen(model: Any) -> list[int]:
    """A list that gets the number of frames of each call of the vision tower."""
    base = getattr(model.model, "backbone", model.model)
    seen: list[int] = []
    tower = getattr(base, "vision_tower", None) or base.visual
    tower.register_forward_hook(lambda *args: seen.append(1))
    return seen


def run(model: Any, batch: dict[str, torch.Tensor], **options: Any) -> Any:
    torch.manual_seed(0)
    return model.generate(**batch, **MORE, **options)


@every_design
@pytest.mark.parametrize("options", [BEAMS, SAMPLES], ids=["beams", "samples"])
def test_the_prompt_is_read_once_and_the_tokens_are_the_same(
    case: DesignCase, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = case.make_model(), case.make_batch(SPECS, padding_side="left")
    read, seen = rows_read(model), frames_seen(model)
    with torch.no_grad():
        model(**batch)
    once, length = len(seen), batch["input_ids"].shape[1]
    read.clear()
    seen.clear()
    found = run(model, batch, **options)
    assert read[:2] == [(3, length), (9, 1)]
    assert len(seen) == once, "the tower runs as often as for one row"
    # Control: without sharing, each beam reads the prompt.
    monkeypatch.setattr(shared, "can_share", lambda cache, options: False)
    read.clear()
    expected = run(model, batch, **options)
    assert read[:2] == [(9, length), (9, 1)]
    assert torch.equal(found.sequences, expected.sequences)
    for one, other in zip(found.scores, expected.scores, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_spatial_positions_and_types(monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen2-VL has positions of four rows."""
    case = LINVT_CASES[1]
    model, batch = case.make_model(), case.make_batch(SPECS, padding_side="left")
    read = rows_read(model)
    found = run(model, batch, **BEAMS)
    assert read[0][0] == 3
    monkeypatch.setattr(shared, "can_share", lambda cache, options: False)
    assert torch.equal(found.sequences, run(model, batch, **BEAMS).sequences)


@pytest.mark.parametrize(
    "more",
    [
        {"cache_implementation": "static", "disable_compile": True},
        {"output_hidden_states": True},
        {"output_attentions": True},
        {"use_cache": False},
        {"prefill_chunk_size": 8},
    ],
    ids=lambda more: next(iter(more)),
)
def test_what_cannot_be_shared_is_not(more: dict[str, Any]) -> None:
    case = DESIGNS[0]
    model, batch = case.make_model(), case.make_batch(SPECS, padding_side="left")
    if "output_attentions" in more:
        model.set_attn_implementation("eager")
    read = rows_read(model)
    found = run(model, batch, **BEAMS, **more)
    assert read[0][0] == 9
    for states in found.get("decoder_hidden_states", None) or found.get("hidden_states", None) or ():
        assert len(states[0]) == 9
    read.clear()
    plain = run(model, batch, **BEAMS)
    assert read[0][0] == 3
    assert torch.equal(found.sequences, plain.sequences)


def test_a_kept_prefix_is_not_shared() -> None:
    """A cache that already holds tokens has its own rows."""
    cache = DynamicCache()
    assert shared.can_share(cache, {})
    cache.update(torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 4), 0)
    assert not shared.can_share(cache, {})
    assert not shared.can_share(None, {})
