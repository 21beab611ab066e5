"""Forwards also return what the encoders gave, under the names of transformers: `<modality>_outputs`."""

import weakref
from typing import Any

import pytest
import torch
from factory import FTFV_CASES, IVA_CASES, PLLAVA_CASES, VIDEOLLAMA2_AV_CASES, VIDEOLLAMA2_CASES, DesignCase
from invariants import assert_same
from linvt_design_case import LINVT_CASES
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hf_videollm.models import transformers_compat as compat
from hf_videollm.models.video_llm_vision_tower import vision_layers

DESIGNS = {
    case.name: case
    for cases in (PLLAVA_CASES, VIDEOLLAMA2_CASES, VIDEOLLAMA2_AV_CASES, FTFV_CASES, IVA_CASES)
    for case in cases[:1]
}
# Raw inputs of each modality, in the order in which `get_<modality>_features` takes them.
INPUTS = {
    "image": ("pixel_values",),
    "video": ("pixel_values_videos", "num_video_frames"),
    "audio": ("input_features", "input_features_mask"),
}
COMMON = ("last_hidden_state", "pooler_output", "hidden_states", "attentions")
PROMPTS = ([["v3"], ["v2", "v4"]], [["i"], []], [["v3", "i"], ["i", "i", "v2"]], [[], []])


@pytest.fixture(scope="module", params=DESIGNS)
def design(request: pytest.FixtureRequest) -> tuple[DesignCase, Any]:
    case = DESIGNS[request.param]
    model = case.make_model()
    model.set_attn_implementation("eager")  # the only one that gives attention weights
    return case, model


def assert_equal_parts(found: Any, expected: Any, what: str) -> None:
    """The same tensors in the same places."""
    if isinstance(expected, torch.Tensor):
        assert_same(found, expected, what)
    elif expected is None:
        assert found is None, what
    else:
        assert len(found) == len(expected), what
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_equal_parts(one, other, f"{what}[{number}]")


@pytest.mark.parametrize("prompts", PROMPTS)
@pytest.mark.parametrize("asked", [True, None])
@torch.no_grad()
def test_forward_returns_what_the_encoders_gave(design: Any, prompts: Any, asked: bool | None) -> None:
    case, model = design
    batch = case.make_batch(prompts)
    options = {"output_hidden_states": asked, "output_attentions": asked}
    with_head, without = model(**batch, **options), model.base_model(**batch, **options)
    for modality, names in INPUTS.items():
        found = getattr(with_head, f"{modality}_outputs")
        if batch.get(names[0]) is None:
            assert found is None
            assert getattr(without, f"{modality}_outputs") is None
            continue
        assert type(found) is BaseModelOutputWithPooling
        expected = getattr(model, f"get_{modality}_features")(*(batch[name] for name in names), **options)
        for name in COMMON:
            for output in (found, getattr(without, f"{modality}_outputs")):
                assert_equal_parts(getattr(output, name), getattr(expected, name), f"{modality} {name}")
        assert (found.hidden_states is not None) == (found.attentions is not None) == bool(asked)
        assert_same(getattr(with_head, f"{modality}_hidden_states"), torch.cat(found.pooler_output), modality)


@torch.no_grad()
def test_outputs_that_are_passed_in_come_out(design: Any) -> None:
    case, model = design
    media, text = model.base_model.encode_media(case.make_batch([["v3"], ["v2"]]))
    output = model(**text, mm_encoder_outputs=media)
    assert output.image_outputs is None
    assert_equal_parts(output.video_outputs.pooler_output, media["video"].pooler_output, "videos")


@pytest.mark.parametrize("prompts", PROMPTS)
@torch.no_grad()
def test_encode_media_splits_the_inputs_and_leaves_them_unchanged(design: Any, prompts: Any) -> None:
    case, model = design
    batch = case.make_batch(prompts)
    before = dict(batch)
    media, others = model.base_model.encode_media(batch)
    assert list(batch) == list(before)
    assert all(batch[name] is before[name] for name in before)
    of_media = {name for names in INPUTS.values() for name in names} | set(model.base_model.media_options)
    assert set(others) == set(before) - of_media
    assert all(others[name] is before[name] for name in others)
    assert {modality for modality, names in INPUTS.items() if before.get(names[0]) is not None} == set(media)
    # Media that are encoded already pass through.
    again, rest = model.base_model.encode_media({**others, "mm_encoder_outputs": media})
    assert list(again) == list(media)
    assert all(again[modality] is media[modality] for modality in media)
    assert set(rest) == set(others)


@torch.no_grad()
def test_the_layers_of_the_tower_are_kept_only_if_they_were_asked_for(design: Any) -> None:
    """Otherwise the memory of a long video would be that of all layers for all frames."""
    case, model = design
    model.config.vision_chunk_size, chunk_size = 1, model.config.vision_chunk_size
    first: list[weakref.ref] = []
    alive: list[bool] = []

    def watch(layer: Any, args: Any, output: Any) -> None:
        if first:
            alive.append(first[0]() is not None)
        else:
            first.append(weakref.ref(output[0] if isinstance(output, tuple) else output))

    hook = vision_layers(model.base_model.vision_tower)[0].register_forward_hook(watch)
    video = case.make_batch([["v3"]])["pixel_values_videos"]
    found = {}
    for asked in (True, None):
        first.clear()
        alive.clear()
        model.get_video_features(video, output_hidden_states=asked)
        found[asked] = list(alive)
    hook.remove()
    model.config.vision_chunk_size = chunk_size
    assert len(found[True]) == len(found[None]) >= 2
    assert all(found[True]), "control: the test sees that the layers are kept"
    assert not any(found[None][1:]), "the layers of the first frame are kept while later frames run"


def test_gradients_reach_the_towers_and_no_output_is_a_view(design: Any) -> None:
    """FSDP2 warns of views, whose change in place would lose its hooks."""
    case, model = design
    batch = case.make_batch([["v3", "i"], ["v2"]])
    output = model(**batch)
    for modality, names in INPUTS.items():
        if batch.get(names[0]) is None:
            continue
        model.zero_grad()
        parts = getattr(output, f"{modality}_outputs").pooler_output
        assert not [part for part in parts if part._is_view()]
        sum(part.square().sum() for part in parts).backward(retain_graph=True)
        tower = model.base_model.audio_tower if modality == "audio" else model.base_model.vision_tower
        assert any(weight.grad is not None and weight.grad.abs().max() > 0 for weight in tower.parameters())
    model.zero_grad()


@torch.no_grad()
def test_tuples_hold_tuples_behind_what_they_held_before(design: Any) -> None:
    case, model = design
    batch = case.make_batch([["v3", "i"]])
    output, values = model(**batch), model(**batch, return_dict=False)
    names = list(output)
    assert names[:2] == ["logits", compat.CACHE_NAME]
    first = next(index for index, name in enumerate(names) if name.endswith("_outputs"))
    assert names[first - 1].endswith("_hidden_states")
    assert all(name.endswith("_outputs") for name in names[first:])
    assert len(values) == len(names)
    for name, value in zip(names[first:], values[first:], strict=True):
        assert type(value) is tuple, name
        assert_equal_parts(value, output[name].to_tuple(), name)


def test_trainer_gathers_none_of_them(design: Any) -> None:
    _, model = design
    assert {f"{modality}_outputs" for modality in INPUTS} <= set(model.config.keys_to_ignore_at_inference)


@pytest.mark.parametrize("case", LINVT_CASES, ids=lambda case: case.name)
@torch.no_grad()
def test_linvt_returns_what_stands_in_the_prompt(case: Any) -> None:
    """Whatever form the image-LLM gives its features in, and also where it returns them under another name itself."""
    model = case.make_model()
    batch = case.make_batch([["v3", "i"], ["i", "v2"]])
    with_head, without = model(**batch), model.base_model(**batch)
    masks = model.base_model.placeholder_masks(batch["input_ids"], batch["mm_token_type_ids"])
    embeds = model.base_model.embed_prompt(**batch)["inputs_embeds"]
    for modality, mask in zip(("image", "video"), masks, strict=True):
        for output in (with_head, without):
            found = getattr(output, f"{modality}_outputs").pooler_output
            assert len(found) == 2
            assert_same(torch.cat(found), embeds[mask], modality)
            assert_same(getattr(output, f"{modality}_hidden_states"), embeds[mask], modality)
    assert isinstance(model(**batch, return_dict=False)[-1], tuple)
    text = case.make_batch([[], []])
    for output in (model(**text), model.base_model(**text)):
        assert getattr(output, "video_outputs", None) is None
