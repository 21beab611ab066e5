"""BEATs against the original's tensors, and each fact that docs/designs/videollama2.md#beats states about it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn import functional as F

from hf_videollm.models.configuration_beats import BeatsConfig, num_audio_tokens
from hf_videollm.models.errors import CheckpointError
from hf_videollm.models.modeling_beats import BeatsModel, relative_position_buckets, token_mask_from_frames
from hf_videollm.models.transformers_compat import enable_checkpointing

TOLERANCE = 2e-5
SIZES: dict[str, Any] = {
    "patch_embedding_dim": 32,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "conv_pos_kernel": 16,
    "conv_pos_groups": 4,
}
Tensors = dict[str, torch.Tensor]


class Original:
    """The original's tiny BEATs: weights, inputs, outputs and what was written down beside them."""

    def __init__(self, folder: Path) -> None:
        self.weights = load_file(folder / "beats.weights.safetensors")
        self.projector = load_file(folder / "mm_projector_a.weights.safetensors")
        self.inputs = load_file(folder / "inputs.safetensors")
        self.outputs = load_file(folder / "outputs.safetensors")
        self.meta = json.loads((folder / "meta.json").read_text())

    def heard(self, name: str) -> torch.Tensor:
        """Its padding masks mark padding, ours mark sound."""
        return (~self.inputs[f"padmask_{name}"]).long()


@pytest.fixture(scope="module")
def original(goldens: Path) -> Original:
    return Original(goldens / "videollama2" / "beats")


def rename(weights: Tensors) -> Tensors:
    """The map of the module's docstring."""
    renamed = {}
    for key, tensor in weights.items():
        key = key.replace("pos_conv.0.weight_g", "pos_conv.gain").replace("pos_conv.0.weight_v", "pos_conv.direction")
        key = key.replace("pos_conv.0.bias", "pos_conv.bias")
        if "relative_attention_bias" in key:
            key = "encoder.relative_attention_bias.weight"
        if not key.startswith("predictor."):
            renamed[key] = tensor
    return renamed


@pytest.fixture
def ported(original: Original) -> BeatsModel:
    """The original's weights in our model."""
    model = BeatsModel(BeatsConfig(**SIZES)).eval()
    model.load_state_dict(rename(original.weights))
    return model


def random_model(**changes: Any) -> BeatsModel:
    """A model whose gates and position table matter, which the initialisation leaves small."""
    model = BeatsModel(BeatsConfig(**{**SIZES, **changes})).eval()
    with torch.no_grad():
        model.encoder.relative_attention_bias.weight.normal_()
        for layer in model.encoder.layers:
            layer.self_attn.grep_a.normal_()
            layer.self_attn.grep_linear.weight.normal_()
    return model


def from_the_equations(weights: Tensors, fbank: torch.Tensor, padding: torch.Tensor | None = None) -> Tensors:
    """BEATs by docs/designs/videollama2.md, in float64, with official names; padding (B, T) is true for padding.

    Four heads, four groups. It shares no code with the model, and is itself compared with the original's tensors.
    """
    w = {key: tensor.double() for key, tensor in weights.items()}
    steps = {}
    x = (fbank.double() - 15.41663) / (2 * 6.55582)
    batch, frames, bins = x.shape
    patches = x[:, : frames // 16 * 16].reshape(batch, frames // 16, 16, bins // 16, 16).permute(0, 1, 3, 2, 4)
    x = patches.reshape(batch, -1, 256) @ w["patch_embedding.weight"].flatten(1).T
    x = F.layer_norm(x, x.shape[-1:], w["layer_norm.weight"], w["layer_norm.bias"])
    steps["after_patch_ln"] = x
    x = x @ w["post_extract_proj.weight"].T + w["post_extract_proj.bias"]
    steps["after_post_extract_proj"] = x
    tokens = x.shape[1]
    masked = None
    if padding is not None:
        whole = padding[:, : padding.shape[1] - padding.shape[1] % tokens]
        masked = whole.reshape(batch, tokens, -1).all(-1)
        x = x.masked_fill(masked[..., None], 0.0)
    v = w["encoder.pos_conv.0.weight_v"]
    kernel = w["encoder.pos_conv.0.weight_g"] * v / torch.sqrt((v**2).sum((0, 1), keepdim=True) + 1e-6)
    size = kernel.shape[-1]
    convolved = F.conv1d(x.mT, kernel, w["encoder.pos_conv.0.bias"], padding=size // 2, groups=4).mT[:, :-1]
    steps["pos_conv_out"] = F.gelu(convolved)
    x = x + steps["pos_conv_out"]
    x = F.layer_norm(x, x.shape[-1:], w["encoder.layer_norm.weight"], w["encoder.layer_norm.bias"])
    steps["encoder_input"] = x
    table = w["encoder.layers.0.self_attn.relative_attention_bias.weight"]
    rows = torch.tensor([[_bucket(key - query) for key in range(tokens)] for query in range(tokens)])
    bias = table[rows].permute(2, 0, 1)
    layers = 1 + max(int(key.split(".")[2]) for key in w if key.startswith("encoder.layers."))
    alpha = (2 * layers) ** 0.25
    for number in range(layers):
        at = f"encoder.layers.{number}."

        def linear(x: torch.Tensor, name: str, at: str = at) -> torch.Tensor:
            return x @ w[f"{at}{name}.weight"].T + w[f"{at}{name}.bias"]

        def norm(x: torch.Tensor, name: str, at: str = at) -> torch.Tensor:
            return F.layer_norm(x, x.shape[-1:], w[f"{at}{name}.weight"], w[f"{at}{name}.bias"])

        q, k, v = (linear(x, f"self_attn.{c}_proj").unflatten(-1, (4, -1)).transpose(1, 2) for c in "qkv")
        a, b = linear(q, "self_attn.grep_linear").unflatten(-1, (2, 4)).sum(-1).sigmoid().unbind(-1)
        gate = a * (b * w[f"{at}self_attn.grep_a"][..., 0] - 1) + 2
        scores = q @ k.mT / math.sqrt(q.shape[-1]) + gate[..., None] * bias
        if masked is not None:
            scores = scores.masked_fill(masked[:, None, None], -math.inf)
        attended = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = norm(alpha * x + linear(attended, "self_attn.out_proj"), "self_attn_layer_norm")
        x = norm(alpha * x + linear(F.gelu(linear(x, "fc1")), "fc2"), "final_layer_norm")
        steps[f"layer{number}"] = x
    return steps


def _bucket(relative: int) -> int:
    """80 exact distances, then 80 logarithmic ones up to 800; later keys in the upper half."""
    distance = abs(relative)
    if distance >= 80:
        distance = min(159, 80 + int(math.log(distance / 80) / math.log(10) * 80))
    return distance + (160 if relative > 0 else 0)


def furthest(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return (ours - theirs).abs().max().item()


# --- the original's tensors ----------------------------------------------------------------------------------------


@torch.no_grad()
def test_features_and_every_step(ported: BeatsModel, original: Original) -> None:
    steps: Tensors = {}

    def keep(name: str, module: torch.nn.Module) -> None:
        module.register_forward_hook(lambda _module, _inputs, output: steps.__setitem__(name, output))

    keep("after_patch_ln", ported.layer_norm)
    keep("after_post_extract_proj", ported.post_extract_proj)
    keep("pos_conv_out", ported.encoder.pos_conv)
    outputs = ported(original.inputs["fbank_T400"], output_hidden_states=True)
    steps.update(encoder_input=outputs.hidden_states[0], layer0=outputs.hidden_states[1])
    for name, ours in steps.items():
        assert furthest(ours, original.outputs[f"T400.{name}"]) < TOLERANCE, name
    assert len(steps) == 5
    assert furthest(outputs.last_hidden_state, original.outputs["T400.nomask.features"]) < TOLERANCE
    assert torch.equal(outputs.hidden_states[-1], outputs.last_hidden_state)


@torch.no_grad()
def test_batch_and_padding(ported: BeatsModel, original: Original) -> None:
    fbank = original.inputs["fbank_T101_b2"]
    plain = ported(fbank).last_hidden_state
    assert furthest(plain, original.outputs["T101_b2.nomask.features"]) < TOLERANCE
    padded = ported(fbank, attention_mask=original.heard("pad48")).last_hidden_state
    # Padded positions included, though they mean nothing.
    assert furthest(padded, original.outputs["T101_b2.pad48_mask2d.features"]) < TOLERANCE
    assert furthest(padded[1, :24], plain[1, :24]) > 0.01, "the mask must matter"
    ones = ported(fbank, attention_mask=torch.ones(2, 101)).last_hidden_state
    assert furthest(ones, plain) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("name", ["T400.nomask", "T101_b2.nomask", "T101_b2.pad48_mask2d"])
def test_original_projector_hears_the_same(ported: BeatsModel, original: Original, name: str) -> None:
    frames = name.removesuffix(".nomask").removesuffix(".pad48_mask2d")
    mask = original.heard("pad48") if "pad48" in name else None
    features = ported(original.inputs[f"fbank_{frames}"], attention_mask=mask).last_hidden_state
    p = original.projector
    projected = F.gelu(features @ p["0.weight"].T + p["0.bias"]) @ p["2.weight"].T + p["2.bias"]
    assert furthest(projected, original.outputs[f"{name}.projected"]) < TOLERANCE


@torch.no_grad()
def test_predictor_is_no_part_of_the_model(ported: BeatsModel, original: Original) -> None:
    """It can still be applied to the features, so nothing is lost by leaving it out."""
    assert not any("predictor" in key for key in ported.state_dict())
    features = ported(original.inputs["fbank_T400"]).last_hidden_state
    logits = features @ original.weights["predictor.weight"].T + original.weights["predictor.bias"]
    classes = logits.mean(dim=1).sigmoid()
    assert furthest(classes, original.outputs["T400.predictor_sigmoid"]) < TOLERANCE


def test_bucket_table(original: Original) -> None:
    theirs = original.outputs["relpos_bucket_-1495..1495"].long()
    assert torch.equal(relative_position_buckets(torch.arange(-1495, 1496), 320, 800), theirs)
    shorter = original.outputs["relpos_bucket_200x200_row0"]
    assert torch.equal(relative_position_buckets(torch.arange(-199, 200), 320, 800), shorter)
    assert [_bucket(distance) for distance in range(-1495, 1496)] == theirs.tolist()


def test_length_table(original: Original) -> None:
    model = random_model()
    for row in original.meta["length_table"]:
        frames, tokens = row["fbank_frames"], row["tokens"]
        assert num_audio_tokens(frames) == BeatsConfig().num_audio_tokens(frames) == tokens
        if frames <= 101:
            assert model(torch.randn(1, frames, 128)).last_hidden_state.shape == (1, tokens, 48)
    assert original.meta["length_table"][-1] == {"fbank_frames": 2998, "T": 187, "F": 8, "tokens": 1496}


def test_token_mask(original: Original) -> None:
    theirs = ~original.outputs["T101_b2.pad48.token_mask"]
    assert torch.equal(token_mask_from_frames(original.heard("pad48").bool(), 16, 8), theirs)


@torch.no_grad()
def test_equations_are_the_original(original: Original) -> None:
    """The reference of the tests below is itself right where the original's tensors reach."""
    steps = from_the_equations(original.weights, original.inputs["fbank_T400"])
    for name in ("after_patch_ln", "after_post_extract_proj", "pos_conv_out", "encoder_input", "layer0"):
        assert furthest(steps[name], original.outputs[f"T400.{name}"].double()) < TOLERANCE, name
    assert furthest(steps["layer2"], original.outputs["T400.nomask.features"].double()) < TOLERANCE
    padding = original.inputs["padmask_pad48"]
    steps = from_the_equations(original.weights, original.inputs["fbank_T101_b2"], padding)
    assert furthest(steps["layer2"], original.outputs["T101_b2.pad48_mask2d.features"].double()) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("mask", ["pad57", "holes", "one frame", "all but one"])
def test_any_mask_follows_the_equations(ported: BeatsModel, original: Original, mask: str) -> None:
    """No original features are at hand for these masks (for pad57 only the mask itself), so the equations judge."""
    if mask == "pad57":
        padding = original.inputs["padmask_pad57"]
        heard_tokens = token_mask_from_frames(~padding, 16, 8).sum(1)
        assert heard_tokens.tolist() == [48, 29]  # 57 frames: 28 pairs and half of one
    else:
        padding = torch.zeros(2, 101, dtype=torch.bool)
        padding[1] = {
            "holes": torch.arange(101) % 7 < 4,
            "one frame": torch.arange(101) != 50,
            "all but one": torch.arange(101) == 50,
        }[mask]
    fbank = original.inputs["fbank_T101_b2"]
    ours = ported(fbank, attention_mask=~padding).last_hidden_state
    assert furthest(ours.double(), from_the_equations(original.weights, fbank, padding)["layer2"]) < TOLERANCE


# --- facts of docs/designs/videollama2.md -----------------------------------------------------------------------------


def test_defaults_are_the_original_sizes(original: Original) -> None:
    theirs = original.meta["real_config_defaults_BEATsConfig()"]
    ours = BeatsConfig()
    names = {
        "input_patch_size": "patch_size",
        "embed_dim": "patch_embedding_dim",
        "encoder_layers": "num_hidden_layers",
        "encoder_embed_dim": "hidden_size",
        "encoder_ffn_embed_dim": "intermediate_size",
        "encoder_attention_heads": "num_attention_heads",
        "activation_fn": "hidden_act",
        "deep_norm": "deep_norm",
        "dropout": "hidden_dropout",
        "attention_dropout": "attention_dropout",
        "activation_dropout": "activation_dropout",
        "encoder_layerdrop": "layerdrop",
        "conv_pos": "conv_pos_kernel",
        "conv_pos_groups": "conv_pos_groups",
        "num_buckets": "num_buckets",
        "max_distance": "max_distance",
    }
    assert {name: getattr(ours, own) for name, own in names.items()} == {name: theirs[name] for name in names}
    # What the model has no switch for.
    assert not theirs["conv_bias"]
    assert not theirs["layer_norm_first"]
    assert theirs["relative_position_embedding"]
    assert theirs["gru_rel_pos"]
    constants = original.meta["fbank_normalisation"]
    assert (ours.fbank_mean, ours.fbank_std) == (constants["mean"], constants["std"])


def test_normalisation_is_inside_the_model() -> None:
    model, fbank = random_model(), torch.randn(1, 32, 128) * 5 + 15
    same = random_model(fbank_mean=0.0, fbank_std=0.5)
    same.load_state_dict(model.state_dict())
    normalised = (fbank - 15.41663) / (2 * 6.55582)
    assert furthest(model(fbank).last_hidden_state, same(normalised).last_hidden_state) < TOLERANCE


def test_tokens_go_through_time_and_within_it_through_frequency() -> None:
    model = random_model()
    seen = []
    model.post_extract_proj.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    fbank = torch.randn(1, 48, 128)
    model(fbank)
    fbank[0, 16:32, 32:48] += 1.0  # time patch 1, frequency patch 2
    model(fbank)
    changed = (seen[0] != seen[1]).any(-1)[0].nonzero().flatten()
    assert changed.tolist() == [1 * 8 + 2]
    assert model.patch_embedding.bias is None


def test_frames_behind_the_last_patch_are_not_heard() -> None:
    model, fbank = random_model(), torch.randn(1, 47, 128)
    assert torch.equal(model(fbank).last_hidden_state, model(fbank[:, :32]).last_hidden_state)


def test_position_convolution_is_even_and_loses_its_last_output() -> None:
    conv = random_model().encoder.pos_conv
    hidden = torch.randn(1, 20, 48)
    kernel = conv.gain * conv.direction * torch.rsqrt(conv.direction.pow(2).sum((0, 1), keepdim=True) + 1e-6)
    longer = F.conv1d(hidden.mT, kernel, conv.bias, padding=8, groups=4).mT
    assert longer.shape[1] == 21
    assert furthest(conv(hidden), F.gelu(longer[:, :20])) < TOLERANCE
    odd = random_model(conv_pos_kernel=15).encoder.pos_conv
    assert odd(hidden).shape == hidden.shape


def test_weight_norm_is_over_the_kernel_with_a_floor() -> None:
    """One length for each kernel position; the 1e-6 decides for small weights."""
    conv = random_model().encoder.pos_conv
    assert conv.gain.shape == (1, 1, 16)
    with torch.no_grad():
        conv.direction.mul_(1e-6)
    ours = conv(torch.ones(1, 20, 48))
    assert ours.isfinite().all()
    # Directions this small vanish beside the floor: without it they would be as long as the gain says.
    assert ours.abs().max() < 0.01
    torch_norm = torch._weight_norm(conv.direction, conv.gain, dim=2)
    unfloored = F.gelu(F.conv1d(torch.ones(1, 48, 20), torch_norm, conv.bias, padding=8, groups=4))
    assert unfloored.abs().max() > 0.05


def test_deep_norm_weighs_the_residual() -> None:
    weights = [layer.residual_weight for layer in BeatsModel(BeatsConfig(**SIZES)).encoder.layers]
    assert weights == [6**0.25] * 3
    with torch.device("meta"):
        real = BeatsModel(BeatsConfig())
    assert real.encoder.layers[0].residual_weight == pytest.approx(2.2134, abs=1e-4)
    assert BeatsModel(BeatsConfig(**SIZES, deep_norm=False)).encoder.layers[0].residual_weight == 1.0


def test_gate_reads_the_projected_query_unscaled() -> None:
    attention = random_model().encoder.layers[0].self_attn
    query = torch.randn(2, 4, 5, 12)
    out = F.linear(query, attention.grep_linear.weight, attention.grep_linear.bias)
    a, b = out[..., :4].sum(-1).sigmoid(), out[..., 4:].sum(-1).sigmoid()
    expected = a * (b * attention.grep_a[0, :, :, 0][None] - 1) + 2
    assert furthest(attention.position_gate(query)[..., 0], expected) < TOLERANCE
    seen = []
    attention.grep_linear.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    hidden = torch.randn(1, 5, 48)
    attention(hidden, torch.zeros(4, 5, 5), None, False)
    assert torch.equal(seen[0], attention.q_proj(hidden).view(1, 5, 4, 12).transpose(1, 2))


def test_position_bias_is_key_minus_query_and_computed_once() -> None:
    model = random_model()
    bias = model.encoder.position_bias(5, torch.device("cpu"))
    table = model.encoder.relative_attention_bias.weight
    for query in range(5):
        for key in range(5):
            assert torch.equal(bias[:, query, key], table[_bucket(key - query)])
    calls = []
    model.encoder.relative_attention_bias.register_forward_hook(lambda *_: calls.append(1))
    model(torch.randn(2, 48, 128))
    assert calls == [1]


def test_half_padded_time_patch_loses_its_upper_frequencies() -> None:
    heard = token_mask_from_frames(torch.arange(101)[None] < 57, 16, 8)[0]
    assert heard.view(6, 8).int().tolist() == [[1] * 8] * 3 + [[1] * 5 + [0] * 3] + [[0] * 8] * 2
    # Frames behind the last whole patch count for nothing, also where the original would let them.
    assert token_mask_from_frames(torch.arange(31)[None] < 16, 16, 8).all()
    # 16 frames for 5 tokens: a token is heard if one of the frames it touches is.
    assert token_mask_from_frames(torch.arange(16)[None] < 4, 16, 5)[0].tolist() == [True, True, False, False, False]


# --- padding, precision, training ----------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padded_is_unpadded(attention: str) -> None:
    model = random_model()
    model.set_attn_implementation(attention)
    lengths = [16, 31, 160, 101, 48]
    sounds = [torch.randn(frames, 128) * 5 + 15 for frames in lengths]
    batch = torch.randn(len(lengths), 160, 128) * 50  # what lies in the padding must not matter
    mask = torch.zeros(len(lengths), 160, dtype=torch.int64)
    for row, sound in enumerate(sounds):
        batch[row, : len(sound)] = sound
        mask[row, : len(sound) // 16 * 16] = 1
    together = model(batch, attention_mask=mask).last_hidden_state
    for row, sound in enumerate(sounds):
        alone = model(sound[None]).last_hidden_state[0]
        assert furthest(together[row, : len(alone)], alone) < TOLERANCE
        if len(sound) < 160:
            unmasked = model(batch[row : row + 1]).last_hidden_state[0]
            assert furthest(unmasked[: len(alone)], alone) > 1e-3, "without the mask, padding is heard"


def test_row_of_padding_alone_stays_finite() -> None:
    model = random_model()
    mask = torch.ones(2, 48)
    mask[1] = 0
    outputs = model(torch.randn(2, 48, 128), attention_mask=mask).last_hidden_state
    assert outputs.isfinite().all()
    outputs[0].sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


@torch.no_grad()
def test_eager_is_sdpa_and_gives_its_weights() -> None:
    model, fbank = random_model(), torch.randn(2, 64, 128)
    mask = torch.ones(2, 64)
    mask[1, 32:] = 0
    sdpa = model(fbank, attention_mask=mask)
    assert sdpa.attentions is None
    assert sdpa.hidden_states is None
    asked = model(fbank, attention_mask=mask, output_attentions=True)
    assert furthest(asked.last_hidden_state, sdpa.last_hidden_state) < TOLERANCE
    assert [tuple(weights.shape) for weights in asked.attentions] == [(2, 4, 32, 32)] * 3
    assert (asked.attentions[0].sum(-1) - 1).abs().max() < TOLERANCE
    assert asked.attentions[0][1, :, :, 16:].max() == 0.0
    model.set_attn_implementation("eager")
    eager = model(fbank, attention_mask=mask)
    assert eager.attentions is None
    assert torch.equal(eager.last_hidden_state, asked.last_hidden_state)
    as_tuple = model(fbank, attention_mask=mask, return_dict=False)
    assert torch.equal(as_tuple[0], eager.last_hidden_state)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["flash_attention_2", "flex_attention"])
def test_attention_without_a_bias_gives_way_to_sdpa(attention: str) -> None:
    """So that the language model beside it can have what it was asked to use."""
    config = BeatsConfig(**SIZES)
    config._attn_implementation = attention
    model = BeatsModel(config).eval()
    assert model.config._attn_implementation == "sdpa"
    model.set_attn_implementation("eager")
    eager = model(torch.ones(1, 32, 128)).last_hidden_state
    model.set_attn_implementation(attention)
    assert model.config._attn_implementation == "sdpa"
    assert furthest(model(torch.ones(1, 32, 128)).last_hidden_state, eager) < TOLERANCE
    with pytest.raises(ValueError, match="unheard_of"):
        model.set_attn_implementation("unheard_of")


@torch.no_grad()
def test_half_precision() -> None:
    model = random_model()
    fbank = torch.randn(2, 64, 128) * 5 + 15
    mask = torch.ones(2, 64)
    mask[1, 32:] = 0
    full = model(fbank, attention_mask=mask).last_hidden_state
    for dtype in (torch.bfloat16, torch.float16):
        half = model.to(dtype)(fbank, attention_mask=mask).last_hidden_state
        assert half.dtype == dtype
        assert half.isfinite().all()
        assert F.cosine_similarity(half.float(), full, dim=-1)[mask[:, ::2].bool()].min() > 0.99


def test_every_weight_learns() -> None:
    model = random_model().train()
    model.config.layerdrop = 0.0
    mask = torch.ones(2, 64)
    mask[1, 32:] = 0
    states = model(torch.randn(2, 64, 128), attention_mask=mask).last_hidden_state
    (states * torch.randn_like(states))[mask[:, ::2].bool()].sum().backward()
    still = [name for name, parameter in model.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert still == []


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(reentrant: bool) -> None:
    model = random_model().train()
    model.config.layerdrop = 0.0
    fbank = torch.randn(2, 64, 128)
    mask = torch.ones(2, 64)
    mask[1, 32:] = 0

    def gradients() -> Tensors:
        model.zero_grad()
        model(fbank, attention_mask=mask).last_hidden_state[mask[:, ::2].bool()].pow(3).sum().backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    plain = gradients()
    calls = []
    model.encoder.layers[0].fc1.register_forward_hook(lambda *_: calls.append(1))
    enable_checkpointing(model, {"use_reentrant": reentrant})
    saved = gradients()
    assert len(calls) == 2, "the layer runs again in the backward pass"
    assert max(furthest(saved[name], plain[name]) / (1 + plain[name].abs().max()) for name in plain) < TOLERANCE


def test_layerdrop_and_dropout_act_in_training_alone() -> None:
    fbank = torch.randn(1, 32, 128)
    model = random_model(layerdrop=1.0)
    heard = model(fbank).last_hidden_state
    dropped = model.train()(fbank, output_hidden_states=True, output_attentions=True)
    assert torch.equal(dropped.last_hidden_state, dropped.hidden_states[0])
    assert dropped.attentions == (None, None, None)
    assert furthest(dropped.last_hidden_state, heard) > 0.1
    for name in ("hidden_dropout", "attention_dropout", "activation_dropout"):
        model = random_model(layerdrop=0.0, **{name: 0.5})
        assert torch.equal(model(fbank).last_hidden_state, model(fbank).last_hidden_state)
        model.train()
        assert furthest(model(fbank).last_hidden_state, model(fbank).last_hidden_state) > 1e-3, name


def test_initialisation_follows_deep_norm() -> None:
    """The branches start smaller the more layers there are; the convolution with the length of its directions."""
    model = BeatsModel(BeatsConfig(num_hidden_layers=2))
    layer = model.encoder.layers[0]
    expected = (8 * 2) ** -0.25 * math.sqrt(2 / (768 + 768))
    assert layer.self_attn.v_proj.weight.std().item() == pytest.approx(expected, rel=0.02)
    assert layer.self_attn.q_proj.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert torch.equal(layer.self_attn.grep_a, torch.ones(1, 12, 1, 1))
    conv = model.encoder.pos_conv
    assert furthest(conv.gain, conv.direction.square().sum((0, 1), keepdim=True).sqrt()) == 0.0


# --- on disk, and errors -------------------------------------------------------------------------------------------


def test_saved_is_loaded_with_one_table(tmp_path: Path) -> None:
    model, fbank = random_model(), torch.randn(1, 48, 128)
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    assert set(tensors) == set(model.state_dict())
    assert [key for key in tensors if "relative_attention_bias" in key] == ["encoder.relative_attention_bias.weight"]
    large = [tensor for tensor in tensors.values() if tensor.numel() > 48 and tensor.unique().numel() > 1]
    duplicates = [
        (i, j) for i, a in enumerate(large) for j, b in enumerate(large) if i < j and a.shape == b.shape and a.equal(b)
    ]
    assert duplicates == []
    loaded = BeatsModel.from_pretrained(tmp_path)
    assert torch.equal(loaded(fbank).last_hidden_state, model(fbank).last_hidden_state)
    assert loaded.config.to_diff_dict() == model.config.to_diff_dict()


def test_loading_is_strict(tmp_path: Path, original: Original) -> None:
    model = random_model()
    model.save_pretrained(tmp_path)
    state = {**model.state_dict(), **{k: v for k, v in original.weights.items() if k.startswith("predictor.")}}
    model.save_pretrained(tmp_path / "more", state_dict=state)
    with pytest.raises(CheckpointError, match=r"predictor"):
        BeatsModel.from_pretrained(tmp_path / "more")
    less = {name: tensor for name, tensor in model.state_dict().items() if name != "encoder.pos_conv.gain"}
    model.save_pretrained(tmp_path / "less", state_dict=less)
    with pytest.raises(CheckpointError, match=r"missing .*encoder\.pos_conv\.gain"):
        BeatsModel.from_pretrained(tmp_path / "less")


def test_original_weights_fit_and_none_is_left_over(original: Original) -> None:
    renamed = rename(original.weights)
    with torch.device("meta"):
        shapes = {key: tuple(tensor.shape) for key, tensor in BeatsModel(BeatsConfig(**SIZES)).state_dict().items()}
    assert shapes == {key: tuple(tensor.shape) for key, tensor in renamed.items()}


def test_real_size_has_the_key_layout_of_the_released_checkpoint(goldens: Path) -> None:
    layout = json.loads((goldens / "videollama2/lm/key_layouts/VideoLLaMA2.1-7B-AV.json").read_text())
    prefix = "model.audio_tower."
    keys = layout.get("keys", layout)
    theirs = {key.removeprefix(prefix): torch.empty(*shape) for key, shape in keys.items() if key.startswith(prefix)}
    assert theirs
    with torch.device("meta"):
        ours = {key: tuple(tensor.shape) for key, tensor in BeatsModel(BeatsConfig()).state_dict().items()}
    assert ours == {key: tuple(tensor.shape) for key, tensor in rename(theirs).items()}


@pytest.mark.parametrize(
    ("shape", "mask", "message"),
    [
        ((1, 15, 128), None, "15 frames: a fbank shorter than one patch of 16 frames"),
        ((1, 0, 128), None, "0 frames: a fbank shorter than one patch"),
        ((1, 64, 80), None, r"shape \(1, 64, 80\): BEATs takes \(batch, frames, 128\)"),
        ((64, 128), None, r"shape \(64, 128\): BEATs takes"),
        ((2, 64, 128), (2, 32), r"attention_mask of shape \(2, 32\) does not fit"),
    ],
)
def test_wrong_inputs(shape: tuple[int, ...], mask: tuple[int, ...] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        random_model()(torch.zeros(shape), attention_mask=None if mask is None else torch.ones(mask))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_mel_bins": 100}, r"num_mel_bins \(100\) must be a multiple of patch_size \(16\)"),
        ({"hidden_size": 50}, r"hidden_size \(50\) must be a multiple of num_attention_heads \(4\)"),
        ({"conv_pos_groups": 5}, r"hidden_size \(48\) must be a multiple of conv_pos_groups \(5\)"),
        ({"patch_size": 0}, "patch_size must be at least 1, not 0"),
        ({"num_buckets": 10}, "num_buckets must be a multiple of 4"),
        ({"max_distance": 80}, "max_distance more than a quarter of it, not 320 and 80"),
    ],
)
def test_wrong_configurations(changes: dict[str, int], message: str) -> None:
    with pytest.raises(StrictDataclassError, match=message):
        BeatsConfig(**{**SIZES, **changes})


def test_the_extractors_own_mask_is_heard() -> None:
    """`model(**extractor(...))`: the mask has the extractor's name there."""
    model = random_model()
    features = torch.randn(2, 64, 128)
    mask = (torch.arange(64) < torch.tensor([[64], [32]])).long()
    with torch.no_grad():
        named = model(features, attention_mask=mask).last_hidden_state
        assert torch.equal(model(input_features=features, input_features_mask=mask).last_hidden_state, named)
        assert not torch.equal(model(features).last_hidden_state, named)
    with pytest.raises(ValueError, match="two names of one thing"):
        model(features, attention_mask=mask, input_features_mask=mask)
