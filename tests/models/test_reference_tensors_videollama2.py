"""VideoLLaMA 2 against reference tensors that tools/reference_tensors/videollama2_*.py computed from public sources.

Covered: Algorithm 1 (STC connector) with both paddings, its RegStage, the order of the tokens; the audio branch:
Kaldi's filter bank, BEATs with its gated relative position bias and its padding, the audio projector.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from reference_files import FLOAT32_STEPS, ROUNDING, Reference, assert_close, is_close, llama_config, unnoticed_changes

from hf_videollm.models.configuration_videollama2 import VideoLlama2Config
from hf_videollm.models.configuration_videollama2_av import VideoLlama2AVConfig
from hf_videollm.models.feature_extraction_beats import BeatsFeatureExtractor, kaldi_fbank
from hf_videollm.models.modeling_beats import relative_position_buckets
from hf_videollm.models.modeling_videollama2 import VideoLlama2Connector
from hf_videollm.models.modeling_videollama2_av import VideoLlama2AVModel

VISUAL, AUDIO = Reference("videollama2_connector"), Reference("videollama2_audio")
CONNECTORS = sorted(VISUAL.sizes["padding"])
GRIDS = [tuple(grid) for grid in VISUAL.sizes["grids"]]


# ------------------------------------------------------------------------------------------------- the STC connector


def tower_config(width: int, grid: tuple[int, int]) -> dict[str, Any]:
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": width,
        "intermediate_size": 8,
        "image_size": 4 * grid[0],
        "patch_size": 4,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }


def make_connector(name: str, grid: tuple[int, int, int]) -> VideoLlama2Connector:
    language = {"width": VISUAL.sizes["width"], "inner": 8, "layers": 1, "heads": 2, "kv_heads": 2, "vocab": 8}
    config = VideoLlama2Config(
        vision_config=tower_config(VISUAL.sizes["vision_width"], grid[1:]),
        text_config=llama_config(language),
        vision_feature_select_strategy="full",
        connector_type=name,
    )
    # For the connector alone; the towers take squares.
    config.vision_config.image_size = (4 * grid[1], 4 * grid[2])
    connector = VideoLlama2Connector(config).double()
    # The names of the public checkpoints, without exception.
    connector.load_state_dict(VISUAL.weights())
    return connector


@torch.no_grad()
def connect(connector: VideoLlama2Connector, grid: tuple[int, int, int]) -> torch.Tensor:
    features = VISUAL["inputs." + "x".join(map(str, grid))]
    return torch.stack(connector(features.flatten(0, 1).flatten(1, 2), [grid[0]] * len(features)))


def expected_tokens(name: str, grid: tuple[int, int, int]) -> torch.Tensor:
    return VISUAL[f"outputs.{name}." + "x".join(map(str, grid))]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("name", CONNECTORS)
def test_algorithm_1_stc_connector(name: str, grid: tuple[int, int, int]) -> None:
    """Two videos of the first size; odd sizes, of which padding 0 drops the last; a grid that is not square."""
    assert_close(connect(make_connector(name, grid), grid), expected_tokens(name, grid), ROUNDING)


@pytest.mark.parametrize("name", CONNECTORS)
def test_steps_of_algorithm_1(name: str) -> None:
    """RegStage, 3D convolution and SiLU, RegStage, each by itself."""
    connector = make_connector(name, GRIDS[0])
    found: dict[str, torch.Tensor] = {}
    for part in ("s1", "sampler", "s2"):
        module = getattr(connector, part)
        module.register_forward_hook(lambda _, inputs, output, part=part: found.update({part: output}))
    connect(connector, GRIDS[0])
    frames = GRIDS[0][0]
    assert_close(found["s1"][:frames].permute(0, 2, 3, 1), VISUAL["intermediate.s1"], ROUNDING)
    sampled = VISUAL[f"intermediate.{name}.sampled"]
    assert_close(found["sampler"][0].permute(1, 2, 3, 0), sampled, ROUNDING)
    assert_close(found["s2"][: len(sampled)].permute(0, 2, 3, 1), VISUAL[f"intermediate.{name}.s2"], ROUNDING)


def test_the_paddings_are_not_the_same() -> None:
    """The control of the two names: 3 x 3 x 3 and 2 x 2 x 2 tokens of one input."""
    padded, plain = (expected_tokens(name, GRIDS[0]) for name in CONNECTORS)
    assert padded.shape[1] == 27
    assert plain.shape[1] == 8


def change_order(tokens: torch.Tensor, grid: tuple[int, ...], axes: tuple[int, int]) -> torch.Tensor:
    return tokens.unflatten(1, grid).transpose(*axes).flatten(1, 3)


@pytest.mark.parametrize("axes", [(1, 2), (2, 3), (1, 3)])
def test_another_order_of_the_tokens_is_noticed(axes: tuple[int, int]) -> None:
    """Principle 1 of section 2.1: the order in time and space stays."""
    name = "stc_connector_v35"
    found = connect(make_connector(name, GRIDS[0]), GRIDS[0])
    wrong = change_order(found, (2, 2, 2), axes)
    assert not is_close(wrong, expected_tokens(name, GRIDS[0]), FLOAT32_STEPS)


@pytest.mark.parametrize("name", CONNECTORS)
def test_every_changed_weight_of_the_connector_is_noticed(name: str) -> None:
    grid = GRIDS[-1]
    connector, expected = make_connector(name, grid), expected_tokens(name, grid)
    assert not unnoticed_changes(connector, lambda: is_close(connect(connector, grid), expected, FLOAT32_STEPS))


# -------------------------------------------------------------------------------------------------- the audio branch


def make_audio_model() -> VideoLlama2AVModel:
    sizes = AUDIO.sizes
    language = {"width": sizes["llm_width"], "inner": 8, "layers": 1, "heads": 1, "kv_heads": 1, "vocab": 8}
    config = VideoLlama2AVConfig(
        vision_config=tower_config(8, (4, 4)),
        text_config=llama_config(language),
        audio_config={
            "patch_embedding_dim": sizes["patch_width"],
            "hidden_size": sizes["width"],
            "num_hidden_layers": sizes["layers"],
            "num_attention_heads": sizes["heads"],
            "intermediate_size": sizes["inner"],
            "conv_pos_kernel": sizes["position_kernel"],
            "conv_pos_groups": sizes["position_groups"],
            "num_buckets": sizes["buckets"],
            "max_distance": sizes["max_distance"],
        },
        vision_feature_select_strategy="full",
    )
    model = VideoLlama2AVModel(config).double().eval()
    projector = AUDIO.weights("mm_projector_a.")
    weights = {name: tensor for name, tensor in AUDIO.weights().items() if not name.startswith("mm_projector_a.")}
    # Names of ours in place of the public ones; see the module of BEATs.
    for public, ours in (
        ("encoder.pos_conv.0.weight_g", "encoder.pos_conv.gain"),
        ("encoder.pos_conv.0.weight_v", "encoder.pos_conv.direction"),
        ("encoder.pos_conv.0.bias", "encoder.pos_conv.bias"),
        ("encoder.layers.0.self_attn.relative_attention_bias.weight", "encoder.relative_attention_bias.weight"),
    ):
        weights[ours] = weights.pop(public)
    model.audio_tower.load_state_dict(weights)
    model.audio_projector.load_state_dict(projector)
    return model


def features_and_mask(case: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    features = AUDIO["inputs.features"][None]
    if case == "whole":
        return features, None
    return features, torch.arange(features.shape[1])[None] < AUDIO.sizes["valid_frames"]


@torch.no_grad()
def hear(model: VideoLlama2AVModel, case: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Steps of BEATs, and the tokens of the language model, at the tokens that are no padding."""
    features, mask = features_and_mask(case)
    found: dict[str, torch.Tensor] = {}

    def note(_: Any, inputs: Any, output: Any, step: str) -> None:
        found[step] = output[0] if isinstance(output, tuple) else output

    tower = model.audio_tower
    parts = {"patches": tower.post_extract_proj, "positions": tower.encoder.layer_norm}
    parts["layer_0"] = tower.encoder.layers[0]
    hooks = [module.register_forward_hook(partial(note, step=step)) for step, module in parts.items()]
    found["encoded"] = tower(features, attention_mask=mask).last_hidden_state
    for hook in hooks:
        hook.remove()
    sound = AUDIO[f"intermediate.{case}.padding"] == 0
    tokens = model.audio_projector(found["encoded"])
    return {step: value[0, sound] for step, value in found.items()}, tokens[0, sound]


@pytest.mark.parametrize("case", ["whole", "padded"])
def test_section_2_1_audio_branch(case: str) -> None:
    """Patches, position convolution, a layer, all layers, the projector.

    BEATs normalises the filter bank and the weights of its convolution in float32: hence the tolerance.
    """
    steps, tokens = hear(make_audio_model(), case)
    sound = AUDIO[f"intermediate.{case}.padding"] == 0
    for step in ("patches", "positions", "layer_0"):
        assert_close(steps[step], AUDIO[f"intermediate.{case}.{step}"][sound], FLOAT32_STEPS)
    assert_close(steps["encoded"], AUDIO[f"outputs.{case}.encoded"][sound], FLOAT32_STEPS)
    assert_close(tokens, AUDIO[f"outputs.{case}.tokens"][sound], FLOAT32_STEPS)


def test_the_model_gives_the_tokens_of_the_projector() -> None:
    """`get_audio_features` on a sound without padding."""
    with torch.no_grad():
        found = make_audio_model().get_audio_features(AUDIO["inputs.features"][None])
    assert_close(found.pooler_output[0], AUDIO["outputs.whole.tokens"], FLOAT32_STEPS)


def test_padding_is_noticed() -> None:
    """The control: the upper 4 bands of the second patch are padding, and the other tokens hear the difference."""
    padding = AUDIO["intermediate.padded.padding"]
    assert padding.tolist() == [0] * 12 + [1] * 4
    sound = padding == 0
    assert not is_close(AUDIO["outputs.whole.tokens"][sound], AUDIO["outputs.padded.tokens"][sound], FLOAT32_STEPS)


def test_buckets_of_the_relative_positions() -> None:
    expected = AUDIO["outputs.buckets"].long()
    first = AUDIO.sizes["first_distance"]
    distances = torch.arange(first, first + len(expected))
    found = relative_position_buckets(distances, AUDIO.sizes["buckets"], AUDIO.sizes["max_distance"])
    assert torch.equal(found, expected)
    # The control: distances the other way round.
    assert not torch.equal(found.flip(0), expected)


def test_filter_bank_of_kaldi() -> None:
    """In float64, and through the feature extractor, which rounds to float32 and, as the original, to bfloat16."""
    waveform, expected = AUDIO["inputs.waveform"].numpy(), AUDIO["outputs.log_mel"]
    assert expected.shape == (3, AUDIO.sizes["mel_bins"])
    assert_close(torch.from_numpy(kaldi_fbank(waveform * 2**15)), expected, ROUNDING)
    extractor = BeatsFeatureExtractor(pad_with_silence=True, max_seconds=0.2)
    rounded = extractor(waveform.astype(np.float32), return_tensors="pt")["input_features"][0, :3]
    assert_close(rounded, expected, {"rtol": 2**-8, "atol": 0.0})
    assert torch.equal(rounded, rounded.bfloat16().float())


@pytest.mark.parametrize("change", [lambda x: x.flip(0), lambda x: x.flip(1), lambda x: x + 0.001])
def test_another_filter_bank_is_noticed(change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    found = torch.from_numpy(kaldi_fbank(AUDIO["inputs.waveform"].numpy() * 2**15))
    assert not is_close(change(found), AUDIO["outputs.log_mel"], FLOAT32_STEPS)


def test_every_changed_weight_of_the_audio_branch_is_noticed() -> None:
    """But the biases of the keys: a softmax does not see what it adds to all keys of a query alike."""
    model, expected = make_audio_model(), AUDIO["outputs.whole.tokens"]
    for part in (model.vision_tower, model.connector, model.language_model):
        part.requires_grad_(False)
    heard = torch.nn.ModuleDict({"tower": model.audio_tower, "projector": model.audio_projector})
    unnoticed = unnoticed_changes(heard, lambda: is_close(hear(model, "whole")[1], expected, FLOAT32_STEPS))
    assert all(name.endswith("k_proj.bias") for name in unnoticed), unnoticed
    assert len(unnoticed) == AUDIO.sizes["layers"]
