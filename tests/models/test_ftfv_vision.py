"""Qwen-VL's vision tower against torch's own transformer layers, and other towers in its place."""

from pathlib import Path
from typing import Any

import pytest
import torch
from factory import FRAME_SIZE, QWEN_VL_VISION, VISION_TOWERS, ftfv_case, randomise
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModel

from hf_videollm.models.configuration_ftfv import FtfvConfig
from hf_videollm.models.configuration_qwen_vl_vision import QwenVLVisionConfig
from hf_videollm.models.configuration_video_llm import TOWERS_WITHOUT_CLASS_TOKEN
from hf_videollm.models.modeling_qwen_vl_vision import QwenVLVisionModel

WIDTH, HEADS, MLP = 16, 2, 32
OPTIONS = {name: value for name, value in QWEN_VL_VISION.items() if name != "model_type"}


def make_tower(**overrides: Any) -> QwenVLVisionModel:
    tower = QwenVLVisionModel(QwenVLVisionConfig(**{**OPTIONS, **overrides}))
    randomise(tower, seed=2)
    return tower.eval()


def make_frames(side: int = FRAME_SIZE, num_frames: int = 3) -> torch.Tensor:
    return torch.randn(num_frames, 3, side, side, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def reference(tower: QwenVLVisionModel, frames: torch.Tensor) -> list[torch.Tensor]:
    """States before the first and behind every layer, from the words of docs/designs/ftfv.md#vision-tower."""
    side = frames.shape[-1] // 4
    patches = nn.functional.conv2d(frames, tower.patch_embedding.weight, stride=4).flatten(2).transpose(1, 2)
    table = tower.position_embedding.T.reshape(1, WIDTH, 2, 2)
    positions = nn.functional.interpolate(table, size=(side, side), mode="bicubic", align_corners=False)
    norm = tower.pre_layernorm
    states = nn.functional.layer_norm(
        patches + positions.flatten(2).transpose(1, 2), (WIDTH,), norm.weight, norm.bias, 1e-6
    )
    found = [states]
    for layer in tower.layers:
        block = nn.TransformerEncoderLayer(
            WIDTH, HEADS, MLP, dropout=0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
        ).eval()
        attention = layer.self_attn
        for kind in ("weight", "bias"):
            fused = torch.cat([getattr(p, kind) for p in (attention.q_proj, attention.k_proj, attention.v_proj)])
            getattr(block.self_attn, f"in_proj_{kind}").copy_(fused)
            for ours, theirs in (
                (attention.out_proj, block.self_attn.out_proj),
                (layer.layer_norm1, block.norm1),
                (layer.layer_norm2, block.norm2),
                (layer.mlp.fc1, block.linear1),
                (layer.mlp.fc2, block.linear2),
            ):
                getattr(theirs, kind).copy_(getattr(ours, kind))
        found.append(block(found[-1]))
    return found


@pytest.mark.parametrize("side", [8, 16, 32])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_tower_equals_torch_layers(implementation: str, side: int) -> None:
    """Also for frames of other sizes than the configured one, whose positions are resized."""
    tower, frames = make_tower(), make_frames(side)
    tower.set_attn_implementation(implementation)
    with torch.no_grad():
        outputs = tower(frames, output_hidden_states=True)
    expected = reference(tower, frames)
    assert outputs.last_hidden_state.shape == (3, (side // 4) ** 2, WIDTH)
    assert outputs.last_hidden_state is outputs.hidden_states[-1], "no norm behind the last layer"
    for found, wanted in zip(outputs.hidden_states, expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)


def test_states_and_weights_are_given_only_on_request() -> None:
    tower, frames = make_tower(), make_frames()
    with torch.no_grad():
        plain, full = tower(frames), tower(frames, output_attentions=True, return_dict=True)
    assert plain.hidden_states is None
    assert plain.attentions is None
    assert [weights.shape for weights in full.attentions] == [(3, HEADS, 16, 16)] * 3
    for weights in full.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, HEADS, 16))
    torch.testing.assert_close(plain.last_hidden_state, full.last_hidden_state, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(1, 3, 16, 12), (1, 3, 18, 18), (3, 16, 16), (1, 3, 0, 0)], ids=str)
def test_frames_the_tower_cannot_take(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"takes \(frames, 3, side, side\) .* multiple of 4; resize them to 16 x 16"):
        make_tower()(torch.zeros(shape))


def test_frames_of_a_wrong_size_are_an_error_of_the_whole_model() -> None:
    model = ftfv_case("llama").make_model()
    with pytest.raises(ValueError, match="resize them to 16 x 16"):
        model.get_video_features(torch.zeros(1, 2, 3, 16, 20))


def test_bfloat16_takes_frames_of_any_dtype() -> None:
    tower = make_tower().bfloat16()
    with torch.no_grad():
        found = tower(make_frames()).last_hidden_state
        cast = make_tower()(make_frames()).last_hidden_state
    assert found.dtype == torch.bfloat16
    assert (found.float() - cast).abs().mean() < 0.05 * cast.abs().mean()


def test_fresh_tower_has_no_random_scale() -> None:
    tower = QwenVLVisionModel(QwenVLVisionConfig(**{**OPTIONS, "hidden_size": 64, "position_grid_size": 8}))
    assert 0.1 < tower.position_embedding.std() < 0.15  # 64 ** -0.5 = 0.125
    assert torch.isfinite(tower(make_frames()).last_hidden_state).all()


def test_tower_alone_is_saved_and_found_by_the_auto_classes(tmp_path: Path) -> None:
    tower = make_tower()
    tower.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is QwenVLVisionModel
    assert type(AutoConfig.from_pretrained(tmp_path)) is QwenVLVisionConfig
    with torch.no_grad():
        torch.testing.assert_close(loaded(make_frames())[0], tower(make_frames())[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_attention_heads": 3}, r"hidden_size \(16\) must be a multiple of num_attention_heads \(3\)"),
        ({"image_size": 18}, r"image_size \(18\) must be a multiple of patch_size \(4\)"),
        ({"position_grid_size": 0}, "position_grid_size must be at least 1, not 0"),
    ],
)
def test_configurations_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(StrictDataclassError, match=message):
        QwenVLVisionConfig(**{**OPTIONS, **options})


# ------------------------------------------------------------------------------------------------- other towers


def test_nested_configuration_survives_saving(tmp_path: Path) -> None:
    config = ftfv_case("llama").make_config()
    assert type(config.vision_config) is QwenVLVisionConfig
    config.save_pretrained(tmp_path)
    loaded = FtfvConfig.from_pretrained(tmp_path)
    assert type(loaded.vision_config) is QwenVLVisionConfig
    assert loaded.to_dict() == config.to_dict()
    assert FtfvConfig().vision_config.to_dict() == QwenVLVisionConfig().to_dict()


def test_towers_without_class_token_are_real_model_types() -> None:
    """A name that no configuration has would match nothing, in silence."""
    for name in TOWERS_WITHOUT_CLASS_TOKEN:
        assert AutoConfig.for_model(name).model_type == name


def test_class_token_is_dropped_where_there_is_one() -> None:
    strategies = {
        vision: ftfv_case("llama", vision).make_config().vision_feature_select_strategy
        for vision in ("qwen_vl_vision", *VISION_TOWERS)
    }
    assert strategies == {"qwen_vl_vision": "full", "clip_vision_model": "default", "siglip_vision_model": "full"}


# A tower with a class token and a closing norm, which no other test uses.
DINOV2 = {**OPTIONS, "model_type": "dinov2"}


@pytest.mark.parametrize(
    "tower", [QWEN_VL_VISION, *VISION_TOWERS.values(), DINOV2], ids=lambda tower: tower["model_type"]
)
def test_any_tower_gives_its_last_hidden_state_without_class_token(tower: dict[str, Any]) -> None:
    model = ftfv_case("llama", vision_config=tower).make_model()
    with torch.no_grad():
        found = model.model.encode_frames(make_frames()).last_hidden_state
        given = model.model.vision_tower(pixel_values=make_frames()).last_hidden_state
    assert found.shape == (3, 16, WIDTH)
    torch.testing.assert_close(found, given[:, -16:])
    # Whatever norm the output goes through is trained with the tower; CLIP's pooled output is not ours.
    closing = getattr(model.model.vision_tower, "post_layernorm", getattr(model.model.vision_tower, "layernorm", None))
    if closing is not None:
        model.get_video_features(make_frames()[None]).pooler_output[0].sum().backward()
        is_reached = closing.weight.grad is not None
        assert closing.weight.requires_grad == is_reached == (tower["model_type"] != "clip_vision_model")


def test_class_token_among_the_patches_is_an_error() -> None:
    case = ftfv_case("llama", "clip_vision_model", vision_feature_select_strategy="full")
    with pytest.raises(ValueError, match=r"17 patches do not make a square.*vision_feature_select_strategy"):
        case.make_model()(**case.make_batch([["v2"]]))
