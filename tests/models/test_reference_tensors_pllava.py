"""PLLaVA against reference tensors that tools/reference_tensors/pllava.py computed from the paper.

Covered: the projector before the pooling (section 3.3), Eq. 1 and 2, the order of the tokens, their place in the
prompt, Eq. 3 (LoRA of any alpha), all in one model with a LLaMA behind it.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from peft import LoraConfig
from reference_files import (
    FLOAT32_STEPS,
    ROUNDING,
    RecordedTower,
    Reference,
    assert_close,
    clip_config,
    expand,
    is_close,
    llama_config,
    load_language_model,
    numbered_frames,
    unnoticed_changes,
)
from safetensors.torch import save_file

from hf_videollm.models.configuration_pllava import PllavaConfig
from hf_videollm.models.modeling_pllava import PllavaConnector, PllavaForConditionalGeneration

REFERENCE = Reference("pllava")
SIZES = REFERENCE.sizes
SHAPES = [tuple(shape) for shape in SIZES["pooling_shapes"]]
IMAGE, VIDEO = SIZES["vocab"], SIZES["image_token_id"]


def make_config(shape: tuple[int, ...] = SHAPES[0]) -> PllavaConfig:
    return PllavaConfig(
        vision_config=clip_config(SIZES["vision_width"], SIZES["grid"]),
        text_config=llama_config(SIZES),
        pooling_shape=shape,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )


def make_connector(shape: tuple[int, ...] = SHAPES[0]) -> PllavaConnector:
    connector = PllavaConnector(make_config(shape)).double()
    connector.load_state_dict(REFERENCE.weights("projector."))
    return connector


def make_model(alpha: float | None = None) -> PllavaForConditionalGeneration:
    """The whole model, a recording in place of its tower; with an alpha, also the LoRA of the reference."""
    model = PllavaForConditionalGeneration(make_config()).double().eval()
    model.model.connector.load_state_dict(REFERENCE.weights("projector."))
    load_language_model(model, REFERENCE)
    model.model.vision_tower = RecordedTower(REFERENCE["inputs.hidden_states"])
    if alpha is not None:
        with TemporaryDirectory() as folder:
            model.load_lora(*write_adapter(Path(folder)), alpha)
    return model.eval()


def write_adapter(folder: Path) -> tuple[Path, Path]:
    """The LoRA of the reference as the two files of a PEFT adapter."""
    targets = r".*language_model\.layers\.\d+\.self_attn\.(q_proj|v_proj)"
    LoraConfig(r=SIZES["lora_rank"], lora_alpha=32, target_modules=targets).save_pretrained(str(folder))
    factors = {
        f"base_model.model.model.language_model.{name}.weight": tensor
        for name, tensor in REFERENCE.weights().items()
        if ".lora_" in name
    }
    save_file(factors, folder / "adapter_model.safetensors")
    return folder / "adapter_config.json", folder / "adapter_model.safetensors"


@torch.no_grad()
def tokens_of(connector: PllavaConnector, videos: int) -> torch.Tensor:
    features = REFERENCE["inputs.hidden_states"][: videos * SIZES["frames"], 1:]
    return torch.stack(connector(features, [SIZES["frames"]] * videos))


def expected_tokens(shape: tuple[int, ...]) -> torch.Tensor:
    return REFERENCE["outputs.tokens." + "x".join(map(str, shape))]


@torch.no_grad()
def logits_of(model: PllavaForConditionalGeneration) -> torch.Tensor:
    count = expected_tokens(SHAPES[0]).shape[1]
    prompt = expand(SIZES["prompt"], {VIDEO: count}).expand(SIZES["videos"], -1)
    pixels = numbered_frames(SIZES["videos"], SIZES["frames"], 4 * SIZES["grid"])
    return model(input_ids=prompt, pixel_values_videos=pixels).logits


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equation_2_adaptive_pooling(shape: tuple[int, ...]) -> None:
    """Windows that overlap, that do not, that copy; the last shape keeps all, the n-frame method of Eq. 1."""
    expected = expected_tokens(shape)
    assert_close(tokens_of(make_connector(shape), len(expected)), expected, ROUNDING)


def test_section_3_3_projector_runs_before_the_pooling() -> None:
    connector = make_connector(SHAPES[-1])
    projected = tokens_of(connector, 1)[0]
    assert_close(projected[:3], REFERENCE["intermediate.projected"][0], ROUNDING)
    # The control: pooling first gives something else.
    pooled_first = make_connector(SHAPES[0]).eval()
    features = REFERENCE["inputs.hidden_states"][: SIZES["frames"], 1:]
    volume = pooled_first.pool(features)
    with torch.no_grad():
        found = pooled_first.linear_2(pooled_first.act(pooled_first.linear_1(volume)))
    assert not is_close(found, expected_tokens(SHAPES[0])[0], {"rtol": 0.01, "atol": 0.01})


def test_tower_layer_class_token_and_place_in_the_prompt() -> None:
    """Hidden states of the layer before the last, without the class token, pooled, in the place of the placeholder."""
    model = make_model()
    pixels = numbered_frames(SIZES["videos"], SIZES["frames"], 4 * SIZES["grid"])
    prompt = expand(SIZES["prompt"], {VIDEO: expected_tokens(SHAPES[0]).shape[1]}).expand(SIZES["videos"], -1)
    with torch.no_grad():
        features = model.get_video_features(pixels)
        embedded, _ = model.model.embed_prompt(prompt, None, {"video": features})
    assert_close(torch.stack(list(features.pooler_output)), expected_tokens(SHAPES[0]), ROUNDING)
    assert_close(embedded, REFERENCE["intermediate.embedded"], ROUNDING)


@pytest.mark.parametrize("alpha", SIZES["lora_alphas"])
def test_equation_3_lora_of_any_alpha(alpha: float) -> None:
    """LLaMA of transformers computes its norms and rotations in float32: hence the tolerance."""
    expected = REFERENCE[f"outputs.logits.alpha_{alpha:g}"]
    model = make_model(alpha)
    assert_close(logits_of(model), expected, FLOAT32_STEPS)
    if alpha:
        model.set_lora_alpha(0.9 * alpha)
        assert not is_close(logits_of(model), expected, FLOAT32_STEPS)
        model.merge_lora(alpha)
    assert_close(logits_of(model), expected, FLOAT32_STEPS)


def test_without_lora_is_alpha_0() -> None:
    assert_close(logits_of(make_model()), REFERENCE["outputs.logits.alpha_0"], FLOAT32_STEPS)


def swapped_places(tokens: torch.Tensor) -> torch.Tensor:
    """Flattened with the height running fastest."""
    time, height, width = SHAPES[0]
    return tokens.unflatten(1, (time, height, width)).transpose(2, 3).flatten(1, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        swapped_places,
        lambda tokens: tokens.flip(0),  # the videos
        lambda tokens: tokens.flip(1),  # the time, rows and columns
        lambda tokens: tokens.unflatten(1, (SHAPES[0][0], -1)).transpose(1, 2).flatten(1, 2),  # time running fastest
    ],
)
def test_another_order_is_noticed(wrong: Callable[[torch.Tensor], torch.Tensor]) -> None:
    found = tokens_of(make_connector(), SIZES["videos"])
    assert not is_close(wrong(found), expected_tokens(SHAPES[0]), FLOAT32_STEPS)


def test_every_changed_weight_is_noticed() -> None:
    expected = REFERENCE["outputs.logits.alpha_32"]
    model = make_model(32.0)
    unnoticed = unnoticed_changes(model, lambda: is_close(logits_of(model), expected, FLOAT32_STEPS))
    assert not unnoticed
