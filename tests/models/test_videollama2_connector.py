"""The connector of VideoLLaMA2 by itself: Table 1 of the paper, unequal widths, batches of clips, errors, training."""

from typing import Any

import pytest
import torch
from torch import nn

from hf_videollm.models.configuration_videollama2 import VideoLlama2Config, connector_grid, connector_preset
from hf_videollm.models.modeling_videollama2 import VideoLlama2Connector, VideoLlama2ForCausalLM
from hf_videollm.models.transformers_compat import enable_checkpointing
from hf_videollm.models.videollama2_regstage import RegBlock, RegStage

CONNECTORS = [
    "stc_connector", "stc_connector_v35", "stp_connector", "spatial_conv", "spatial_pool", "mlp3x_gelu", "linear",
]  # fmt: skip
every_connector = pytest.mark.parametrize("name", CONNECTORS)

# RegStage, down-sampling and tokens of the paper's Table 1 (8 frames of 24 x 24 patches).
TABLE_1: list[tuple[bool, str, tuple[int, int, int], int]] = [
    (False, "pool", (1, 2, 2), 1152),
    (False, "conv", (1, 2, 2), 1152),
    (False, "pool", (8, 1, 1), 576),
    (False, "pool", (2, 2, 2), 576),
    (False, "conv", (2, 2, 2), 576),
    (True, "pool", (1, 2, 2), 1152),
    (True, "conv", (1, 2, 2), 1152),
    (True, "pool", (2, 2, 2), 576),
    (True, "conv", (2, 2, 2), 576),
]


def make_config(
    name: str, grid: tuple[int, int] = (6, 6), width: int = 16, text_width: int = 24, **options: Any
) -> Any:
    config = VideoLlama2Config(
        vision_config={
            "model_type": "siglip_vision_model", "hidden_size": width, "intermediate_size": 32,
            "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4, "image_size": 4 * grid[0],
        },
        text_config={
            "model_type": "llama", "hidden_size": text_width, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 4, "vocab_size": 50,
        },
        vision_feature_select_strategy="full",
        image_token_id=40,
        video_token_id=41,
        connector_type=name,
        **options,
    )  # fmt: skip
    if grid[0] != grid[1]:  # for the connector alone: the tower itself takes squares only
        config.vision_config.image_size = (4 * grid[0], 4 * grid[1])
    return config


def make_connector(name: str, **options: Any) -> VideoLlama2Connector:
    """A connector with weights at which every part of it matters."""
    torch.manual_seed(0)
    connector = VideoLlama2Connector(make_config(name, **options)).eval()
    with torch.no_grad():
        for parameter in connector.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return connector


@pytest.mark.parametrize(("stages", "downsample", "kernel_size", "num_tokens"), TABLE_1)
@pytest.mark.parametrize("text_width", [16, 24])
def test_every_row_of_table_1_can_be_made(
    stages: bool, downsample: str, kernel_size: tuple[int, int, int], num_tokens: int, text_width: int
) -> None:
    config = make_config(
        "stc_connector_v35", grid=(24, 24), text_width=text_width, num_frames=8,
        connector_depth=4 if stages else 0, connector_downsample=downsample, connector_kernel_size=kernel_size,
    )  # fmt: skip
    assert config.num_video_tokens(8) == config.num_image_tokens() == num_tokens
    connector = VideoLlama2Connector(config).eval()
    modules = list(connector.modules())
    assert sum(isinstance(module, RegBlock) for module in modules) == (8 if stages else 0)
    assert any(isinstance(module, nn.Conv3d) for module in modules) == (downsample == "conv")
    with torch.no_grad():
        (tokens,) = connector(torch.randn(8, 24 * 24, 16), [8])
    assert tokens.shape == (num_tokens, text_width)
    assert torch.isfinite(tokens).all()


@every_connector
@pytest.mark.parametrize("text_width", [16, 24])
def test_widths_may_differ(name: str, text_width: int) -> None:
    """Also without RegStage, where the original needs equal widths; then the shapes are those of the original."""
    connector = make_connector(name, text_width=text_width)
    (tokens,) = connector(torch.randn(4, 36, 16), [4])
    assert tokens.shape == (make_config(name).num_video_tokens(4), text_width)
    if text_width == 16:
        weights = [parameter for key, parameter in connector.named_parameters() if key.startswith("readout")]
        assert all(weight.shape[-1] == 16 for weight in weights)


@every_connector
@torch.no_grad()
def test_clips_of_unequal_length_do_not_meet(name: str) -> None:
    """A batch of clips gives what its clips give alone, with one call of the sampler for each length."""
    connector = make_connector(name)
    lengths = [4, 2, 4, 3, 2]
    features = torch.randn(sum(lengths), 36, 16)
    calls: list[int] = []
    connector.sampler.register_forward_hook(lambda module, args, output: calls.append(len(args[0])))
    batch = connector(features, lengths)
    assert sorted(calls) == [1, 2, 2]
    for found, clip in zip(batch, features.split(lengths), strict=True):
        torch.testing.assert_close(found, connector(clip, [len(clip)])[0], atol=1e-5, rtol=1e-5)
    # The control: the first and third clip are equally long, but not the same.
    assert (batch[0] - batch[2]).abs().max() > 0.01


@every_connector
@torch.no_grad()
def test_repeated_frames_are_equal_frames(name: str) -> None:
    connector = make_connector(name)
    features = torch.randn(3, 36, 16)
    seen: list[int] = []
    connector.s1.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    found = connector(features, [1, 2], repeats=4)
    written_out = connector(features.repeat_interleave(4, 0), [4, 8])
    for left, right in zip(found, written_out, strict=True):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-5)
    assert seen == [3, 12], "what is done frame by frame is done once"


@pytest.mark.parametrize("name", ["stc_connector", "stc_connector_v35", "stp_connector"])
@torch.no_grad()
def test_tokens_stand_in_order_of_time_row_and_column(name: str) -> None:
    """With weights that only look at one pixel, another corner of the clip moves its own token and few others."""
    connector = make_connector(name, grid=(8, 10), connector_depth=0)
    features = torch.randn(4, 80, 16)
    before = connector(features, [4])[0]
    changed = features.clone()
    changed[2, 5 * 10 + 8] += 1.0
    moved = (connector(changed, [4])[0] - before).abs().amax(-1) > 1e-4
    time, height, width = make_config(name, grid=(8, 10)).connector_grid(4)
    padding = 1 if name == "stc_connector" else 0
    expected = ((2 + padding) // 2 * height + (5 + padding) // 2) * width + (8 + padding) // 2
    assert len(moved) == time * height * width
    assert moved.nonzero().flatten().tolist() == [expected]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_stays_near(dtype: torch.dtype) -> None:
    features = torch.randn(4, 36, 16)
    connector = make_connector("stc_connector")
    expected = connector(features, [4])[0]
    found = connector.to(dtype)(features.to(dtype), [4])[0]
    assert found.dtype == dtype
    assert (found.float() - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize(("in_width", "out_width"), [(32, 48), (34, 48), (24, 24)])
@torch.no_grad()
def test_stage_equals_timm(in_width: int, out_width: int) -> None:
    """timm's own stage, keys and all, where it is installed."""
    regnet = pytest.importorskip("timm.models.regnet")
    layers = pytest.importorskip("timm.layers")
    peer = regnet.RegStage(
        4, in_width, out_width, 1, 1, bottle_ratio=1.0, group_size=1, se_ratio=0.25, drop_path_rates=[0.0] * 4,
        norm_layer=layers.LayerNorm2d, act_layer=nn.SiLU,
    )  # fmt: skip
    torch.manual_seed(0)
    for parameter in peer.parameters():
        parameter.copy_(torch.randn_like(parameter) / 3)
    stage = RegStage(4, in_width, out_width)
    stage.load_state_dict(peer.state_dict())
    frames = torch.randn(2, in_width, 5, 6)
    torch.testing.assert_close(stage.eval()(frames), peer.eval()(frames), atol=2e-5, rtol=0.0)


# Configuration and errors


def test_unknown_connector_is_named_with_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"connector_type 'qformer' is unknown: choose one of stc_connector, .*mlp2x_gelu"
    ):
        make_config("qformer")
    for name in ("mlp0x_gelu", "mlp2x_relu", "mlpx_gelu"):
        with pytest.raises(ValueError, match="is unknown"):
            connector_preset(name)


def test_a_field_beats_the_name() -> None:
    config = make_config("stc_connector", connector_padding=0, connector_depth=2)
    assert (config.connector_padding, config.connector_depth) == (0, 2)
    assert config.connector_kernel_size == [2, 2, 2]
    again = VideoLlama2Config.from_dict(config.to_dict())
    assert again.connector_padding == 0
    assert again.to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"connector_kernel_size": [2, 2]}, "three positive numbers"),
        ({"connector_kernel_size": [2, 0, 2]}, "three positive numbers"),
        ({"connector_depth": -1}, "connector_depth must be at least 0"),
        ({"connector_mlp_depth": 0}, "connector_mlp_depth must be at least 1"),
        ({"connector_padding": -1}, "connector_padding must be at least 0"),
        ({"connector_downsample": "pool"}, "connector_padding 1 needs connector_downsample 'conv'"),
        ({"connector_downsample": "max"}, "connector_downsample"),
    ],
)
def test_impossible_configurations_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):  # a wrong type is an error of huggingface_hub
        make_config("stc_connector", **options)


def test_too_short_and_too_small_clips_are_refused_with_the_mend() -> None:
    connector = make_connector("stc_connector_v35")
    with pytest.raises(ValueError, match=r"1 x 6 x 6 patches .* kernel of 2 x 2 x 2: sample at least 2 frames"):
        connector(torch.randn(3, 36, 16), [2, 1])
    with pytest.raises(ValueError, match="a vision tower with more patches"):
        connector_grid(4, (1, 6), "conv", (2, 2, 2), 0)
    with pytest.raises(ValueError, match="at least one frame"):
        connector_grid(0, (6, 6), "mean", (1, 1, 1), 0)
    with pytest.raises(ValueError, match=r"sample at least 6 frames"):
        connector_grid(5, (6, 6), "conv", (8, 2, 2), 1)


def test_another_number_of_patches_names_the_settings() -> None:
    with pytest.raises(ValueError, match=r"37 patches a frame, but its configuration says 6 x 6.*class token"):
        make_connector("stc_connector")(torch.randn(2, 37, 16), [2])


# Training


def make_model(name: str = "stc_connector", **options: Any) -> VideoLlama2ForCausalLM:
    torch.manual_seed(0)
    return VideoLlama2ForCausalLM(make_config(name, **options))


@pytest.mark.parametrize("loaded", [False, True])
def test_new_weights_are_initialised(loaded: bool) -> None:
    """Kernels by the language model's rule, norms to one; also when a checkpoint that is loaded lacks them."""
    model = make_model()
    if loaded:
        model = VideoLlama2ForCausalLM.from_pretrained(None, config=model.config, state_dict={}, strict=False)
    connector = model.model.connector
    for key, parameter in connector.named_parameters():
        if key.endswith("bias"):
            assert parameter.abs().max() == 0, key
        elif ".bn." in key:
            assert (parameter == 1).all(), key
        elif parameter.numel() > 200:
            assert 0.015 < parameter.std() < 0.025, key
    with torch.no_grad():
        tokens = connector(torch.randn(4, 36, 16), [4])[0]
    assert torch.isfinite(tokens).all()
    assert tokens.std() > 1e-4


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_connector_learns_behind_a_frozen_tower_with_checkpointing(use_reentrant: bool) -> None:
    """The first stage of pre-training: nothing before the connector asks for gradients."""
    model = make_model(num_frames=2).train()
    model.model.vision_tower.requires_grad_(False)
    ids = torch.cat([torch.full((1, model.config.num_video_tokens(2)), 41), torch.tensor([[3, 5, 7]])], 1)
    batch = {
        "input_ids": ids,
        "labels": ids.masked_fill(ids == 41, -100),
        "pixel_values_videos": torch.randn(1, 2, 3, 24, 24),
    }
    calls: list[str] = []
    model.model.connector.s2.b1.conv1.conv.register_forward_pre_hook(lambda *args: calls.append("s2.b1"))

    def gradients() -> dict[str, torch.Tensor | None]:
        model.zero_grad()
        calls.clear()
        model(**batch, use_cache=False).loss.backward()
        return {key: parameter.grad for key, parameter in model.model.connector.named_parameters()}

    plain = {key: gradient.clone() for key, gradient in gradients().items() if gradient is not None}
    assert len(calls) == 1
    assert len(plain) == len(list(model.model.connector.parameters()))
    enable_checkpointing(model, {"use_reentrant": use_reentrant})
    for key, gradient in gradients().items():
        assert gradient is not None, f"{key} lost its gradient"
        torch.testing.assert_close(gradient, plain[key], atol=1e-6, rtol=1e-4)
    assert len(calls) == 2, "nothing was recomputed, checkpointing is off"


def test_blocks_are_never_split_between_devices() -> None:
    assert "RegBlock" in make_model()._no_split_modules
