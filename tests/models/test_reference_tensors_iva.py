"""IVA against reference tensors that tools/reference_tensors/iva.py computed from section 3 of the paper.

Covered: self-weighted pooling (Eq. 1), the causal transformer (Eq. 2), the two tokens of each frame and their order,
selector and interactor (Eq. 3 and 4) in their literal form, and the adapter at the query tokens between the layers of a
LLaMA. The package computes Eq. 3 and 4 in a folded form that never projects a patch.

The pooling's softmax and parts of transformers' LLaMA compute in float32: hence the tolerance.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
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

from hf_videollm.models.configuration_iva import IvaConfig
from hf_videollm.models.iva_frames import FrameBank
from hf_videollm.models.modeling_iva import IvaForConditionalGeneration

REFERENCE = Reference("iva")
SIZES = REFERENCE.sizes
GRID = 2
IMAGE, VIDEO, QUERY = SIZES["vocab"], SIZES["video_token_id"], SIZES["query_token_id"]
assert SIZES["patches"] == GRID**2
# Every query may look at every frame.
ALL_VISIBLE = torch.ones(1, SIZES["queries"], SIZES["frames"], dtype=torch.bool)

# Parts of a pair in the reference -> ours.
PAIR = {
    "query": "selector.query",
    "key": "selector.key",
    "trans": "interactor.trans",
    "w1": "interactor.query",
    "w2": "interactor.key",
    "w3": "interactor.value",
    "mlp.0": "interactor.mlp.0",
    "mlp.2": "interactor.mlp.2",
}


def connector_states() -> dict[str, torch.Tensor]:
    weights = REFERENCE.weights()
    states = {f"pooling.weight.{kind}": weights[f"pool.{kind}"] for kind in ("weight", "bias")}
    for kind in ("weight", "bias"):
        states[f"temporal.{kind}"] = weights[f"temporal_proj.{kind}"]
        for layer in (0, 2):
            states[f"global_mlp.{layer}.{kind}"] = weights[f"global_mlp.{layer}.{kind}"]
        for number in range(SIZES["causal_layers"]):
            name = f"causal.{number}"
            ours = f"causal_layers.{number}"
            states[f"{ours}.qkv.{kind}"] = torch.cat([weights[f"{name}.{part}_proj.{kind}"] for part in "qkv"])
            for theirs, part in {
                "o_proj": "out",
                "norm_1": "attention_norm",
                "norm_2": "mlp_norm",
                "fc1": "mlp.0",
                "fc2": "mlp.2",
            }.items():
                states[f"{ours}.{part}.{kind}"] = weights[f"{name}.{theirs}.{kind}"]
    return states


def adapter_states() -> dict[str, torch.Tensor]:
    weights = REFERENCE.weights("adapter.")
    states = {"input.weight": weights["in_proj.weight"], "output.weight": weights["out_proj.weight"]}
    for kind in ("weight", "bias"):
        states[f"norm.{kind}"] = weights[f"norm.{kind}"]
        for number in range(SIZES["pairs"]):
            for theirs, ours in PAIR.items():
                states[f"layers.{number}.{ours}.{kind}"] = weights[f"pairs.{number}.{theirs}.{kind}"]
    return states


def make_model(**options: Any) -> IvaForConditionalGeneration:
    config = IvaConfig(
        vision_config=clip_config(SIZES["vision_width"], GRID),
        text_config=llama_config(SIZES),
        **{
            "adapter_hidden_size": SIZES["adapter_width"],
            "num_adapter_layers": SIZES["pairs"],
            "num_query_tokens": SIZES["queries"],
            "num_insertions": SIZES["insertions"],
            "causal_num_heads": SIZES["causal_heads"],
            "causal_num_layers": SIZES["causal_layers"],
            "selector_temperature": SIZES["temperature"],
            "image_token_id": IMAGE,
            "video_token_id": VIDEO,
            "query_token_id": QUERY,
            **options,
        },
    )
    model = IvaForConditionalGeneration(config).double().eval()
    model.model.connector.load_state_dict(connector_states())
    if config.num_insertions:
        model.model.adapter.load_state_dict(adapter_states())
        model.model.query_tokens.load_state_dict({"weight": REFERENCE["weights.query_tokens"]})
    load_language_model(model, REFERENCE)
    # The class token is the global feature of a frame and comes before its patches.
    features = [REFERENCE["inputs.global_features"].unsqueeze(1), REFERENCE["inputs.patches"]]
    model.model.vision_tower = RecordedTower(torch.cat(features, dim=1))
    return model


def encode(model: IvaForConditionalGeneration) -> Any:
    with torch.no_grad():
        return model.model.get_video_features(numbered_frames(1, SIZES["frames"], 4 * GRID))


@torch.no_grad()
def logits_of(model: IvaForConditionalGeneration) -> torch.Tensor:
    prompt = expand(SIZES["prompt"], {VIDEO: 2 * SIZES["frames"], QUERY: SIZES["queries"]})
    return model(input_ids=prompt, mm_encoder_outputs={"video": encode(model)}).logits[0]


@torch.no_grad()
def adapt(model: IvaForConditionalGeneration) -> torch.Tensor:
    """The adapter alone, on recorded hidden states of the query tokens."""
    added, _ = model.model.adapter(REFERENCE["inputs.hidden"][None], ALL_VISIBLE, frames_of(model))
    return added[0]


def frames_of(model: IvaForConditionalGeneration) -> FrameBank:
    """What the adapter looks at, as of one prompt with one video."""
    return FrameBank(encode(model).frames, torch.zeros(1, dtype=torch.long), torch.full((1,), -1))


def test_equation_1_self_weighted_pooling() -> None:
    with torch.no_grad():
        found = make_model().model.connector.pooling(REFERENCE["inputs.patches"])
    assert_close(found, REFERENCE["intermediate.pooled"], FLOAT32_STEPS)


def test_equation_2_and_the_two_tokens_of_each_frame() -> None:
    """Class token and patches of the layer before the last; causal transformer; v_1 t_1 v_2 t_2 and so on."""
    found = encode(make_model())
    (tokens,) = found.pooler_output
    assert_close(tokens, REFERENCE["outputs.video_tokens"], FLOAT32_STEPS)
    # The global tokens have no float32 step.
    assert_close(tokens[::2], REFERENCE["outputs.video_tokens"][::2], ROUNDING)


def test_equations_3_and_4_selector_and_interactor() -> None:
    """The first pair by itself: Trans of the mixed frames is what the literal selector gives."""
    model = make_model()
    adapter = model.model.adapter
    with torch.no_grad():
        x = adapter.input(adapter.norm(REFERENCE["inputs.hidden"][None]))
        mixed, _ = adapter.layers[0].selector(x, ALL_VISIBLE, frames_of(model))
        selected = adapter.layers[0].interactor.trans(mixed)
        interacted = adapter.layers[0].interactor(x, mixed)
    assert_close(selected[0], REFERENCE["intermediate.selected"], ROUNDING)
    assert_close(interacted[0], REFERENCE["intermediate.interacted"], ROUNDING)


def test_section_3_3_all_pairs_of_the_adapter() -> None:
    assert_close(adapt(make_model()), REFERENCE["outputs.adapter"], ROUNDING)


def test_tau_of_equation_3_is_noticed() -> None:
    model = make_model(selector_temperature=0.8 * SIZES["temperature"])
    assert not is_close(adapt(model), REFERENCE["outputs.adapter"], FLOAT32_STEPS)


def test_section_3_3_adapter_between_the_layers() -> None:
    """Before layers 0 and 2 of four (Table 3: every L / NI-th), at the query tokens, in prompt and answer."""
    model = make_model()
    assert model.config.insertion_layers == SIZES["insertion_layers"]
    found = logits_of(model)
    assert_close(found, REFERENCE["outputs.logits"], FLOAT32_STEPS)
    # The control: the answer, which comes after the queries, is another one without the adapter.
    without = REFERENCE["outputs.logits_without_adapter"]
    assert not is_close(found[-2:], without[-2:], {"rtol": 0.01, "atol": 0.01})
    # The positions before the queries do not change.
    last = len(found) - 2 - SIZES["queries"]
    assert_close(found[:last], without[:last], FLOAT32_STEPS)


def test_without_the_adapter() -> None:
    """What the adapter adds is 0 when its last matrix is."""
    model = make_model()
    torch.nn.init.zeros_(model.model.adapter.output.weight)
    assert_close(logits_of(model), REFERENCE["outputs.logits_without_adapter"], FLOAT32_STEPS)


@pytest.mark.parametrize("insertions", [1, 4])
def test_another_number_of_insertions_is_noticed(insertions: int) -> None:
    assert not is_close(logits_of(make_model(num_insertions=insertions)), REFERENCE["outputs.logits"], FLOAT32_STEPS)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda tokens: torch.cat([tokens[::2], tokens[1::2]]),  # all global tokens first
        lambda tokens: tokens.unflatten(0, (-1, 2)).flip(1).flatten(0, 1),  # t_1 v_1 t_2 v_2
        lambda tokens: tokens.unflatten(0, (-1, 2)).flip(0).flatten(0, 1),  # the frames backwards
    ],
)
def test_another_order_of_the_tokens_is_noticed(wrong: Callable[[torch.Tensor], torch.Tensor]) -> None:
    (tokens,) = encode(make_model()).pooler_output
    assert not is_close(wrong(tokens), REFERENCE["outputs.video_tokens"], FLOAT32_STEPS)


def test_every_changed_weight_is_noticed() -> None:
    """But biases that a softmax adds to all entries of a row alike: b of Eq. 1, b_k of Eq. 3, b_2 of Eq. 4."""
    model = make_model()
    unnoticed = unnoticed_changes(model, lambda: is_close(logits_of(model), REFERENCE["outputs.logits"], FLOAT32_STEPS))
    inert = {"model.connector.pooling.weight.bias"}
    for number in range(SIZES["pairs"]):
        layer = f"model.adapter.layers.{number}"
        inert |= {f"{layer}.selector.key.bias", f"{layer}.interactor.key.bias"}
    assert unnoticed == inert
