"""A PLLaVA that was fine-tuned here, by PEFT, becomes a checkpoint whose alpha stays adjustable; and nothing that would
not load is ever written."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_checkpoint import make_model, make_processor
from tiny_iva_checkpoint import make_model as make_iva
from tiny_iva_checkpoint import make_processor as make_iva_processor

from hf_videollm import PllavaForConditionalGeneration, save_checkpoint
from hf_videollm.models.errors import CheckpointError

TARGETS = r".*language_model.*\.(q_proj|v_proj)"
# What people write: each of them is W0 + (alpha / r) B A in the end.
CONFIGS: dict[str, dict[str, Any]] = {
    "the projector as a whole": {"modules_to_save": ["connector"]},
    "all linear layers of the language model": {
        "target_modules": ["q_proj", "o_proj", "up_proj"],
        "exclude_modules": r".*vision.*",
    },
    "ranks and alphas of their own": {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"v_proj": 20}},
    "rank-stabilised": {"use_rslora": True},
    "biases": {"bias": "lora_only", "target_modules": r".*(language_model.*\.q_proj|connector\.linear_1)"},
    "a start that changes the weights": {"init_lora_weights": "pissa"},
    "the head as a whole": {"modules_to_save": ["lm_head"]},
}


def tune(name: str = "default", model: Any = None, **options: Any) -> Any:
    """PEFT's model as after a training: nothing in it is what it was at the start."""
    torch.manual_seed(0)
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": TARGETS, **options})
    tuned = get_peft_model(make_model() if model is None else model, config, adapter_name=name)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return tuned.eval()


def logits(model: Any) -> torch.Tensor:
    config = model.config
    num_tokens = config.num_video_tokens(2)
    ids = torch.tensor([[1, 20, *[config.video_token_id] * num_tokens, 21, 22]])
    side = config.vision_config.image_size
    pixels = torch.randn(1, 2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(input_ids=ids, pixel_values_videos=pixels.to(model.dtype)).logits


@pytest.mark.parametrize("wrapped", [True, False], ids=["PEFT model", "model inside"])
@pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS)
def test_a_fine_tune_becomes_a_checkpoint(options: dict[str, Any], wrapped: bool, tmp_path: Path) -> None:
    tuned = tune(**options)
    before = logits(tuned)
    assert (before - logits(make_model())).abs().max() > 1e-2
    save_checkpoint(tuned if wrapped else tuned.get_base_model(), make_processor(), tmp_path / "tuned")
    assert torch.equal(logits(tuned), before), "saving leaves the model as it was"
    again = PllavaForConditionalGeneration.from_pretrained(tmp_path / "tuned")
    torch.testing.assert_close(logits(again), before, atol=2e-5, rtol=0)
    assert (again.config.lora_alpha, again.config.lora_training_alpha) == (8, 8)
    # Alpha 0 is the model without its LoRA; a half of alpha is what PEFT makes of half a scale.
    again.set_lora_alpha(0)
    with tuned.disable_adapter():
        if "modules_to_save" not in options and "bias" not in options:
            torch.testing.assert_close(logits(again), logits(tuned), atol=2e-5, rtol=0)
    again.set_lora_alpha(4)
    tuned.get_base_model().set_lora_alpha(4)
    torch.testing.assert_close(logits(again), logits(tuned), atol=2e-5, rtol=0)
    assert (logits(again) - before).abs().max() > 1e-3
    # Saved anew, and merged, it stays what it is.
    save_checkpoint(again, make_processor(), tmp_path / "again")
    halved = PllavaForConditionalGeneration.from_pretrained(tmp_path / "again")
    torch.testing.assert_close(logits(halved), logits(again), atol=2e-5, rtol=0)
    save_checkpoint(tuned.get_base_model().merge_lora(), make_processor(), tmp_path / "merged")
    merged = PllavaForConditionalGeneration.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), logits(again), atol=5e-5, rtol=0)


def test_an_adapter_of_another_name_and_one_of_several(tmp_path: Path) -> None:
    tuned = tune("mine", modules_to_save=["connector"])
    save_checkpoint(tuned, make_processor(), tmp_path / "mine")
    again = PllavaForConditionalGeneration.from_pretrained(tmp_path / "mine", lora_alpha=8)
    torch.testing.assert_close(logits(again), logits(tuned), atol=2e-5, rtol=0)
    tuned.add_adapter("other", LoraConfig(r=2, lora_alpha=4, target_modules=TARGETS, init_lora_weights=False))
    tuned.set_adapter("other")
    save_checkpoint(tuned, make_processor(), tmp_path / "other")
    again = PllavaForConditionalGeneration.from_pretrained(tmp_path / "other")
    torch.testing.assert_close(logits(again), logits(tuned), atol=2e-5, rtol=0)
    assert again.config.lora_alpha == 4


def test_the_way_of_peft_stays_open(tmp_path: Path) -> None:
    merged = tune(modules_to_save=["connector"]).merge_and_unload()
    expected = logits(merged)
    save_checkpoint(merged, make_processor(), tmp_path / "merged")
    again = PllavaForConditionalGeneration.from_pretrained(tmp_path / "merged")
    assert torch.equal(logits(again), expected)
    assert again.config.lora_adapter is None


@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_bias": True, "init_lora_weights": True}], ids=str)
def test_what_no_alpha_can_adjust_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="merge it"):
        save_checkpoint(tune(**options), make_processor(), tmp_path / "tuned")
    assert list(tmp_path.iterdir()) == []


def test_a_lora_that_peft_merged_is_not_saved_twice(tmp_path: Path) -> None:
    tuned = tune()
    tuned.merge_adapter()
    with pytest.raises(ValueError, match="unmerge_adapter"):
        save_checkpoint(tuned, make_processor(), tmp_path / "tuned")
    tuned.unmerge_adapter()
    save_checkpoint(tuned, make_processor(), tmp_path / "tuned")


@pytest.mark.parametrize("wrapped", [True, False], ids=["PEFT model", "model inside"])
def test_layers_of_peft_in_other_designs_are_refused(wrapped: bool, tmp_path: Path) -> None:
    tuned = tune(model=make_iva())
    with pytest.raises(TypeError, match="merge_and_unload"):
        save_checkpoint(tuned if wrapped else tuned.get_base_model(), make_iva_processor(), tmp_path / "tuned")
    assert list(tmp_path.iterdir()) == []
    save_checkpoint(tuned.merge_and_unload(), make_iva_processor(), tmp_path / "merged")


def lose_a_tensor(model: Any) -> None:
    save = model.save_pretrained
    states = model.state_dict()
    states.pop("model.connector.linear_1.weight")
    model.save_pretrained = lambda folder, **kwargs: save(folder, state_dict=states, **kwargs)


def rename_a_part(model: Any) -> None:
    model.model.connector = torch.nn.Sequential(model.model.connector)


def spoil_the_configuration(model: Any) -> None:
    save = model.save_pretrained

    def save_and_spoil(folder: Path, **kwargs: Any) -> None:
        save(folder, **kwargs)
        Path(folder, "config.json").write_text("{")

    model.save_pretrained = save_and_spoil


def change_a_size(model: Any) -> None:
    model.config.text_config.intermediate_size += 1


@pytest.mark.parametrize("damage", [lose_a_tensor, rename_a_part, spoil_the_configuration, change_a_size])
def test_what_does_not_load_is_not_written(damage: Any, tmp_path: Path) -> None:
    model = make_model()
    damage(model)
    with pytest.raises(CheckpointError, match="would not load again"):
        save_checkpoint(model, make_processor(), tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []
