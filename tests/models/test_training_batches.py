"""What training asks of every design: whatever a batch holds, no parameter that is trained is left without gradient.

Distributed training (DDP without `find_unused_parameters`, FSDP2, ZeRO-3) stops where processes have batches of
different kinds. The tests of two processes are in `test_distributed.py`.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import invariants
import pytest
import torch
from every_design import every_design
from factory import (
    VIDEOLLAMA2_AV_CASES,
    VISION_TOWERS,
    DesignCase,
    collate,
    ftfv_case,
    iva_case,
    pllava_case,
    with_labels,
)
from torch import nn
from transformers import PreTrainedModel

from hf_videollm.models import blank_media, iva_queries, modeling_linvt, modeling_video_llm, modeling_videollama2_av

KINDS = {
    "text": [[], []],
    "images": [["i"], ["i", "i"]],
    "videos": [["v3"], ["v4", "v1"]],
    "a video beside text": [["v3"], []],
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def missing(model: PreTrainedModel, batch: dict[str, Any]) -> list[str]:
    """Trained parameters that a batch gives no gradient, or one that is not finite."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    found = invariants.gradients(model, batch)
    return sorted(name for name in trained if found[name] is None or not found[name].isfinite().all())


# Gradients


@every_design
@every_kind
def test_every_batch_gives_every_trained_parameter_a_gradient(case: DesignCase, kind: str) -> None:
    model = case.make_model()
    batch = case.make_batch(KINDS[kind])
    assert missing(model, batch) == []
    # The loss is what it is without gradients, where nothing runs beside the prompts.
    batch = with_labels(batch)
    loss = model(**batch, use_cache=False).loss
    with torch.no_grad():
        torch.testing.assert_close(loss, model(**batch, use_cache=False).loss, atol=1e-6, rtol=0)


@every_design
def test_the_blank_media_are_needed(case: DesignCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: without them, batches of text leave parts of every design without gradients."""
    for module in (modeling_video_llm, iva_queries, modeling_linvt, modeling_videollama2_av):
        monkeypatch.setattr(module, "reach", lambda states, tensors: states, raising=False)
        monkeypatch.setattr(module, "must_run", lambda modules: False, raising=False)
    assert missing(case.make_model(), case.make_batch(KINDS["text"]))


@every_design
def test_gradients_of_what_a_batch_does_not_hold_are_zero(case: DesignCase) -> None:
    """All of the design's own parts and of its tower: what they learn comes from media alone."""
    model = case.make_model()
    found = invariants.gradients(model, case.make_batch(KINDS["text"]))
    moved = [name for name, gradient in found.items() if gradient is not None and gradient.abs().max() > 0]
    assert moved
    assert all("language_model." in name or name.startswith("lm_head") for name in moved)


@pytest.mark.parametrize("kind", ["sounds", "images without a temporal token", "videos without sound"])
def test_batches_that_skip_a_part(kind: str) -> None:
    case = iva_case("llama", image_temporal_token=False) if "temporal" in kind else VIDEOLLAMA2_AV_CASES[0]
    rows = case.make_rows(KINDS["images"])
    if kind == "sounds":
        rows = [replace(row, ids=row.ids[row.ids != 100], images=()) for row in rows]
    elif kind == "videos without sound":
        rows = case.make_rows([["v3"], ["v3", "v3"]])
        assert not any(row.sounds for row in rows)
    assert missing(case.make_model(), collate(rows)) == []


@pytest.mark.filterwarnings("ignore::FutureWarning")
@every_design
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_with_gradient_checkpointing(case: DesignCase, use_reentrant: bool) -> None:
    model = case.make_model()
    expected = invariants.gradients(model, case.make_batch(KINDS["text"]))
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    if use_reentrant:
        model.enable_input_require_grads()
    found = invariants.gradients(model, case.make_batch(KINDS["text"]))
    for name, gradient in expected.items():
        assert (gradient is None) == (found[name] is None), name
        if gradient is not None:
            torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)


@every_design
def test_in_bfloat16(case: DesignCase) -> None:
    for kind in ("text", "videos"):
        assert missing(case.make_model().bfloat16(), case.make_batch(KINDS[kind])) == []


@every_design
def test_nothing_runs_for_parts_that_are_not_trained(case: DesignCase) -> None:
    """A frozen tower is not run for batches of text, nor anything outside of training."""
    model, batch = case.make_model(), case.make_batch(KINDS["text"])
    calls: list[str] = []
    for name, module in model.named_modules():
        if type(module) is nn.LayerNorm:
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    with torch.no_grad():
        model.train()(**batch)
    model.eval()(**batch)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("language_model." in name)
    model.train()(**batch)
    assert calls == []
    model.requires_grad_(True)
    model(**batch)
    assert calls, "Control: otherwise it runs"


def test_dropped_layers_of_the_audio_tower_have_a_gradient() -> None:
    case = VIDEOLLAMA2_AV_CASES[0]
    audio = {**case.config["audio_config"], "layerdrop": 1.0}
    assert missing(case.make_model(audio_config=audio), case.make_batch([["v2"], ["i"]])) == []


# What was forgotten


@every_design
def test_placeholders_without_their_media_are_refused_in_training(case: DesignCase) -> None:
    """Also where only one of several kinds of media is missing."""
    model = case.make_model().train()
    batch = with_labels(case.make_batch([["v4"], ["i"]]))
    model(**batch)
    names = {"pixel_values": ("pixel_values", "image_grid_thw", "image_sizes")}
    names["pixel_values_videos"] = tuple(
        name for name in batch if name.endswith("_videos") or name in ("num_video_frames", "video_frame_times")
    )
    names["input_features"] = ("input_features", "input_features_mask")
    for name, gone in names.items():
        if name not in batch:
            continue
        left = {key: value for key, value in batch.items() if key not in gone}
        with pytest.raises(ValueError, match="placeholders"):
            model(**left)
    with pytest.raises(ValueError, match="placeholders"):
        model(**{name: batch[name] for name in ("input_ids", "attention_mask", "labels")})


# Frozen parts


def save_and_load(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    model.save_pretrained(folder, save_original_format=False)
    return type(model).from_pretrained(folder)


def frozen(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


@every_design
def test_a_loaded_model_trains_what_a_new_one_trains(case: DesignCase, tmp_path: Path) -> None:
    model = case.make_model()
    loaded = save_and_load(model, tmp_path)
    assert frozen(model)
    assert frozen(loaded) == frozen(model)
    assert frozen(loaded.train()) == frozen(model)
    # The headless model, too.
    headless = type(loaded.base_model).from_pretrained(tmp_path)
    assert {f"model.{name}" for name in frozen(headless)} == frozen(model)
    # Whoever wants to train all of it can say so.
    assert frozen(loaded.requires_grad_(True).train().eval()) == set()


TOWERS: dict[str, dict[str, Any]] = {
    name: {"model_type": name}
    for name in ("dinov2", "dinov3_vit", "vit", "ijepa", "aimv2_vision_model", "mlcd_vision_model", "internvl_vision")
}
SQUARES = {"internvl_vision": {"image_size": [16, 16], "patch_size": [4, 4]}, "dinov3_vit": {"num_register_tokens": 0}}


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("layer", [-2, -1])
def test_what_is_frozen_of_a_tower_is_what_no_loss_can_reach(tower: str, layer: int) -> None:
    strategy = "full" if tower in ("ijepa", "aimv2_vision_model") else "default"
    vision = {**VISION_TOWERS["clip_vision_model"], **TOWERS[tower], **SQUARES.get(tower, {})}
    for make in (pllava_case, ftfv_case):
        case = make("llama", vision_config=vision, vision_feature_layer=layer, vision_feature_select_strategy=strategy)
        model, batch = case.make_model(), case.make_batch([["v3", "i"]])
        before = frozen(model)
        model.requires_grad_(True)
        gradients = invariants.gradients(model, batch)
        assert {name for name, gradient in gradients.items() if gradient is None} == before


# FSDP2


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[Any]:
    """A process group of one, over which FSDP2 shards as over many."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


@every_design
@pytest.mark.parametrize("more", [(), ("LinVTModule", "IvaAdapter", "FtfvConnector")], ids=["declared", "and others"])
def test_sharded_weights(case: DesignCase, more: tuple[str, ...], one_process: Any) -> None:
    """FSDP2 around every module that the model names, and around the whole."""
    from torch.distributed.fsdp import fully_shard

    model = case.make_model()
    units = {*(model._no_split_modules or ()), *more}
    batches = [case.make_batch(spec) for spec in (invariants.MIXED, KINDS["text"])]
    expected = [invariants.gradients(model, batch) for batch in batches]
    # Inner ones first.
    for module in reversed([module for module in model.modules() if type(module).__name__ in units]):
        fully_shard(module, mesh=one_process)
    fully_shard(model, mesh=one_process)
    for batch, wanted in zip(batches, expected, strict=True):
        found = invariants.gradients(model, batch)
        for name, gradient in wanted.items():
            if gradient is not None:
                torch.testing.assert_close(found[name].full_tensor(), gradient, atol=1e-5, rtol=1e-4)


def test_reach_changes_nothing_but_gradients() -> None:
    states, other = torch.randn(2, 3, requires_grad=True), torch.full((4, 5), float("nan"), requires_grad=True)
    reached = blank_media.reach(states, [other, torch.ones(3)])
    assert torch.equal(reached, states)
    reached.sum().backward()
    assert other.grad is not None
    assert other.grad.abs().max() == 0
