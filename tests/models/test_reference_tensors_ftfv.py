"""FTFV against reference tensors that tools/reference_tensors/ftfv.py computed from paper and Qwen-VL's public code.

Covered: Qwen-VL's vision tower (fused projections per head, positions resized), the temporal code of section 3.2, the
cross-attention of Eq. 1 with its fixed positions, the weighted token sampler of Eq. 2 in both orders and with both ways
to join the heads, images.

Attention weights and resized positions are float32 whatever the weights are in: hence the tolerance.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from reference_files import (
    FLOAT32_STEPS,
    ROUNDING,
    Reference,
    assert_close,
    is_close,
    llama_config,
    unnoticed_changes,
)

from hf_videollm.models.configuration_ftfv import FtfvConfig
from hf_videollm.models.modeling_ftfv import FtfvModel, attention_peaks, choose_queries, sine_positions
from hf_videollm.models.modeling_qwen_vl_vision import resize_positions

REFERENCE = Reference("ftfv")
SIZES = REFERENCE.sizes
QUERIES = SIZES["query_grid"] ** 2
WAYS = [(reduction, order) for reduction in ("mean", "max") for order in ("score", "query")]

TOWER = {
    "conv1.weight": "patch_embedding.weight",
    "positional_embedding": "position_embedding",
    "ln_pre": "pre_layernorm",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def tower_states() -> dict[str, torch.Tensor]:
    """The tower's public names -> ours, the fused projection of each head taken apart."""
    states = {}
    heads = SIZES["vision_heads"]
    for name, tensor in REFERENCE.weights().items():
        if name.startswith("transformer.resblocks."):
            _, _, number, part, *rest = name.split(".")
            prefix, inner = f"layers.{number}.", ".".join([part, *rest])
        elif name.startswith(("conv1", "positional_embedding", "ln_pre")):
            prefix, inner = "", name
        else:
            continue
        stem, _, kind = inner.rpartition(".")
        if stem == "attn.in_proj":
            # Rows of head 0: its query, its key, its value; then those of head 1.
            per_head = tensor.unflatten(0, (heads, 3, -1))
            for index, part in enumerate("qkv"):
                states[f"{prefix}self_attn.{part}_proj.{kind}"] = per_head[:, index].flatten(0, 1)
        else:
            states[prefix + (TOWER[inner] if inner in TOWER else f"{TOWER[stem]}.{kind}")] = tensor
    return states


def connector_states() -> dict[str, torch.Tensor]:
    weights = REFERENCE.weights()
    states = {name.removeprefix("attn_pool."): weights[name] for name in weights if name.startswith("attn_pool.")}
    states |= {name: weights[name] for name in ("ln_post.weight", "ln_post.bias", "proj")}
    # Public checkpoints hold the fixed positions as well.
    states["pos_embed"] = REFERENCE["intermediate.query_positions"]
    states["temporal_embedding"] = weights["temporal_encoding"].unsqueeze(1)
    return states


def make_model(**options: Any) -> FtfvModel:
    language = {"width": SIZES["width"], "inner": 8, "layers": 1, "heads": 2, "kv_heads": 2, "vocab": 8}
    config = FtfvConfig(
        vision_config={
            "model_type": "qwen_vl_vision",
            "hidden_size": SIZES["vision_width"],
            "intermediate_size": SIZES["vision_inner"],
            "num_hidden_layers": SIZES["vision_layers"],
            "num_attention_heads": SIZES["vision_heads"],
            "image_size": SIZES["image"],
            "patch_size": SIZES["patch"],
            "position_grid_size": SIZES["position_grid"],
        },
        text_config=llama_config(language),
        num_frames=SIZES["code_frames"],
        num_queries=QUERIES,
        adapter_width=SIZES["width"],
        adapter_num_heads=SIZES["adapter_heads"],
        **{"num_tokens_per_frame": SIZES["kept"], **options},
    )
    model = FtfvModel(config).double().eval()
    model.vision_tower.load_state_dict(tower_states())
    model.connector.load_state_dict(connector_states())
    return model


@torch.no_grad()
def video_tokens(model: FtfvModel, frames: torch.Tensor | None = None) -> torch.Tensor:
    frames = REFERENCE["inputs.frames"] if frames is None else frames
    (tokens,) = model.get_video_features(frames[None]).pooler_output
    return tokens


def test_vision_tower_of_qwen_vl() -> None:
    """Positions of 3 x 3 resized to 4 x 4 patches, in float32."""
    with torch.no_grad():
        found = make_model().vision_tower(REFERENCE["inputs.frames"]).last_hidden_state
    assert_close(found, REFERENCE["outputs.patches"], FLOAT32_STEPS)


def test_fixed_positions_of_queries_and_keys() -> None:
    found = sine_positions(SIZES["query_grid"], SIZES["width"]).double()
    assert_close(found, REFERENCE["intermediate.query_positions"], {"rtol": 1e-6, "atol": 1e-7})
    expected = REFERENCE["intermediate.key_positions"]
    assert_close(resize_positions(found, len(expected)), expected, FLOAT32_STEPS)
    # The control: a table that is made anew for the keys' grid is another one.
    anew = sine_positions(SIZES["image"] // SIZES["patch"], SIZES["width"])
    assert not is_close(anew, expected, {"rtol": 0.01, "atol": 0.01})


def test_section_3_2_temporal_code_of_any_length() -> None:
    connector = make_model().connector
    with torch.no_grad():
        for frames, expected in (
            (SIZES["code_frames"], REFERENCE["weights.temporal_encoding"]),
            (SIZES["long_frames"], REFERENCE["intermediate.temporal_code_long"]),
            (1, REFERENCE["weights.temporal_encoding"][:1]),
        ):
            assert_close(connector.temporal_code(frames).squeeze(1), expected, FLOAT32_STEPS)


def test_equation_1_all_tokens_of_each_frame() -> None:
    """K = N in the order of the queries is the adapter without a sampler."""
    found = video_tokens(make_model(num_tokens_per_frame=QUERIES, sampler_order="query"))
    assert_close(found.unflatten(0, (SIZES["frames"], QUERIES)), REFERENCE["outputs.video_tokens"], FLOAT32_STEPS)


@pytest.mark.parametrize(("reduction", "order"), WAYS)
def test_equation_2_weighted_token_sampler(reduction: str, order: str) -> None:
    """T K tokens, the frames in their order."""
    found = video_tokens(make_model(attention_score_reduction=reduction, sampler_order=order))
    assert_close(found, REFERENCE[f"outputs.sampled.{reduction}.{order}"], FLOAT32_STEPS)


@pytest.mark.parametrize(("reduction", "order"), WAYS)
def test_equation_2_by_itself(reduction: str, order: str) -> None:
    """r and idx from recorded attention weights."""
    peaks = attention_peaks(REFERENCE["intermediate.video_attention"], reduction)
    assert_close(peaks, REFERENCE[f"intermediate.responses.{reduction}"], ROUNDING)
    chosen = choose_queries(peaks, SIZES["kept"], order)
    tokens = REFERENCE["outputs.video_tokens"].gather(1, chosen.unsqueeze(-1).expand(-1, -1, SIZES["width"]))
    assert torch.equal(tokens.flatten(0, 1), REFERENCE[f"outputs.sampled.{reduction}.{order}"])


def test_the_ways_to_sample_are_not_the_same() -> None:
    """The control of the four cases above."""
    results = [REFERENCE[f"outputs.sampled.{reduction}.{order}"] for reduction, order in WAYS]
    for index, one in enumerate(results):
        assert not any(is_close(one, other, FLOAT32_STEPS) for other in results[index + 1 :])


def test_images_keep_all_tokens_and_have_no_temporal_code() -> None:
    model = make_model()
    with torch.no_grad():
        (found,) = model.get_image_features(REFERENCE["inputs.frames"][:1]).pooler_output
    assert_close(found, REFERENCE["outputs.image_tokens"], FLOAT32_STEPS)
    # The control: the same frame as one of a video.
    as_video = REFERENCE["outputs.video_tokens"][0]
    assert not is_close(found, as_video, {"rtol": 0.001, "atol": 0.001})


@pytest.mark.parametrize("wrong", [lambda x: x.flip(0), lambda x: x.flip(-1), lambda x: x.transpose(-1, -2)])
def test_other_frames_are_noticed(wrong: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Backwards in time, mirrored, rows for columns."""
    found = video_tokens(make_model(), wrong(REFERENCE["inputs.frames"]))
    assert not is_close(found, REFERENCE["outputs.sampled.mean.score"], FLOAT32_STEPS)


def test_every_changed_weight_is_noticed() -> None:
    """But the biases of keys: a softmax does not see what it adds to all keys of a query alike."""
    model = make_model()
    model.language_model = torch.nn.Identity()
    expected = REFERENCE["outputs.sampled.mean.score"]
    unnoticed = unnoticed_changes(model, lambda: is_close(video_tokens(model), expected, FLOAT32_STEPS))
    assert unnoticed == {f"vision_tower.layers.{number}.self_attn.k_proj.bias" for number in range(2)}
