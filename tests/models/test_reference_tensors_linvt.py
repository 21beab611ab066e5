"""LinVT against reference tensors that tools/reference_tensors/linvt.py computed from section 3.2 of the paper.

Covered: significance scores (SVR), the selection, multi-scale pooling (MTP), the conditioning of the queries on tokens
and text, the linear aggregation (TTA, all variants of Fig. 3) and its map M; with and without the time code and the
question (Table 5); padding.

The module keeps scores, weights and pooled tokens in float32 whatever its weights are in: hence the tolerance.
"""

from collections.abc import Callable

import pytest
import torch
from reference_files import FLOAT32_STEPS, Reference, assert_close, is_close, unnoticed_changes

from hf_videollm.models.configuration_linvt import LinVTModuleConfig
from hf_videollm.models.linvt_module import LinVTModule, LinVTSelection

REFERENCE = Reference("linvt")
SIZES = REFERENCE.sizes
CASES = ["paper", "time_code", "overlap"]
VARIANTS = ["single_a", "multi_a", "multi_b"]


def our_name(name: str) -> str:
    """`scorer.0.spatial.q_proj.weight` -> `svr.layers.0.spatial_attn.q_proj.weight`, and so on."""
    first, rest = name.split(".", 1)
    first = {"scorer": "svr", "aggregator": "tta"}[first]
    number, _, inner = rest.partition(".")
    if number in ("query", "key"):
        return f"{first}.aggregator.{number[0]}_proj.{inner}"
    if not number.isdigit():
        return f"{first}.{rest}"
    part, _, last = inner.partition(".")
    part = f"norm_{part.removesuffix('_norm')}" if part.endswith("_norm") else f"{part}_attn"
    return f"{first}.layers.{number}.{part}.{last}"


def make_module(case: str, variant: str = "multi_c") -> LinVTModule:
    config = LinVTModuleConfig(
        num_layers=SIZES["layers"],
        num_attention_heads=SIZES["heads"],
        num_selected_tokens=SIZES["top_k"],
        num_queries=SIZES["queries"],
        pool_windows=SIZES["windows"],
        overlapping_windows=case == "overlap",
        variant=variant,
        time_code="none" if case == "paper" else "sinusoidal",
    )
    module = LinVTModule(SIZES["width"], config).double().eval()
    weights = REFERENCE.weights()
    queries = [weights.pop(f"aggregator.queries.{scale}") for scale in range(len(SIZES["queries"]))]
    # Multi-A has the queries of the first scale alone.
    states = {"tta.queries": queries[0] if variant == "multi_a" else torch.cat(queries)}
    module.load_state_dict(states | {our_name(name): tensor for name, tensor in weights.items()})
    return module


def mask(lengths: list[int], length: int) -> torch.Tensor:
    return torch.arange(length) < torch.tensor(lengths)[:, None]


@torch.no_grad()
def tokenize(module: LinVTModule, swap: bool = False) -> tuple[LinVTSelection, torch.Tensor, torch.Tensor]:
    """Both videos with both questions in one batch, padded; with `swap`, each with the other's question."""
    videos, texts = REFERENCE["inputs.videos"], REFERENCE["inputs.texts"]
    text_mask = mask(SIZES["valid_text"], texts.shape[1])
    if swap:
        texts, text_mask = texts.flip(0), text_mask.flip(0)
    times = None if module.config.time_code == "none" else torch.tensor(SIZES["frame_times"])
    selection = module.select(videos, mask(SIZES["valid_frames"], videos.shape[1]), times)
    return selection, *module.aggregate(selection, texts, text_mask, return_map=True)


@pytest.mark.parametrize("case", CASES)
def test_section_3_2_1_scores_and_selection(case: str) -> None:
    """SVR: attention within frames, then across frames; the best tokens, in the order of time and place."""
    selection, _, _ = tokenize(make_module(case))
    for row, frames in enumerate(SIZES["valid_frames"]):
        assert_close(selection.scores[row, :frames], REFERENCE[f"intermediate.{case}.{row}.scores"], FLOAT32_STEPS)
        assert (selection.scores[row, frames:] == float("-inf")).all()
        indices = REFERENCE[f"intermediate.{case}.{row}.selected"].long()
        assert torch.equal(selection.indices[row][selection.mask[row]], indices)
        assert len(indices) == min(SIZES["top_k"], frames * SIZES["tokens_per_frame"])
    # One video has more tokens than are kept, the other one fewer.
    assert selection.mask.sum(1).tolist() == [13, 12]


@pytest.mark.parametrize("case", CASES)
def test_section_3_2_1_multi_scale_pooling(case: str) -> None:
    """MTP: means over windows of neighbouring selected tokens, of the tokens without any time code."""
    module = make_module(case)
    groups = []
    module.tta.register_forward_pre_hook(lambda _, inputs: groups.extend(inputs[0]))
    tokenize(module)
    for scale, group in enumerate(groups):
        for row in range(SIZES["videos"]):
            expected = REFERENCE[f"intermediate.{case}.{row}.pooled_{scale}"]
            assert_close(group.tokens[row][group.mask[row]], expected, FLOAT32_STEPS)


@pytest.mark.parametrize("case", CASES)
def test_section_3_2_2_aggregation_and_its_map(case: str) -> None:
    """TTA: the outputs, finest scale first, and M, whose product with the input they are (linearity, section 3.1)."""
    _, tokens, matrix = tokenize(make_module(case))
    for row, frames in enumerate(SIZES["valid_frames"]):
        count = frames * SIZES["tokens_per_frame"]
        expected = REFERENCE[f"outputs.{case}.{row}.map"]
        assert_close(tokens[row], REFERENCE[f"outputs.{case}.{row}.tokens"], FLOAT32_STEPS)
        assert_close(matrix[row, :, :count], expected, FLOAT32_STEPS)
        assert not matrix[row, :, count:].any()
        assert ((expected > 0).sum(1) <= SIZES["top_k"]).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_figure_3_other_variants(variant: str) -> None:
    """Without scales; with scales of the outputs; with all scales for all queries."""
    _, tokens, matrix = tokenize(make_module("paper", variant))
    assert_close(tokens[0], REFERENCE[f"outputs.{variant}.0.tokens"], FLOAT32_STEPS)
    assert_close(matrix[0], REFERENCE[f"outputs.{variant}.0.map"], FLOAT32_STEPS)


def test_the_variants_are_not_the_same() -> None:
    """The control of the test above."""
    results = [REFERENCE[f"outputs.{name}.0.tokens"] for name in (*VARIANTS, "paper", "no_text")]
    for index, one in enumerate(results):
        assert not any(is_close(one, other, {"rtol": 0.01, "atol": 0.01}) for other in results[index + 1 :])


@torch.no_grad()
def test_table_5_without_a_question() -> None:
    """No text at all, and a text that is padding all over."""
    module, videos = make_module("paper"), REFERENCE["inputs.videos"][:1]
    expected = REFERENCE["outputs.no_text.0.tokens"]
    assert_close(module(videos)[0], expected, FLOAT32_STEPS)
    texts = REFERENCE["inputs.texts"][:1]
    nothing = torch.zeros(texts.shape[:2], dtype=torch.bool)
    assert_close(module(videos, text_embeddings=texts, text_mask=nothing)[0], expected, FLOAT32_STEPS)


def test_the_cases_are_not_the_same() -> None:
    """The control of time code and overlap."""
    for case, other in (("paper", "time_code"), ("time_code", "overlap")):
        found = tokenize(make_module(case))[1][0]
        assert not is_close(found, REFERENCE[f"outputs.{other}.0.tokens"], {"rtol": 0.01, "atol": 0.01})


def test_another_question_is_noticed() -> None:
    _, tokens, _ = tokenize(make_module("paper"), swap=True)
    for row in range(SIZES["videos"]):
        assert not is_close(tokens[row], REFERENCE[f"outputs.paper.{row}.tokens"], {"rtol": 0.001, "atol": 0.001})


@pytest.mark.parametrize(
    "wrong", [lambda tokens: tokens.flip(0), lambda tokens: tokens.flip(1), lambda tokens: tokens.roll(1, 1)]
)
def test_another_order_is_noticed(wrong: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Of the videos, of all outputs, of the scales."""
    tokens = wrong(tokenize(make_module("paper"))[1])
    assert not is_close(tokens[0], REFERENCE["outputs.paper.0.tokens"], FLOAT32_STEPS)


def test_every_changed_weight_is_noticed() -> None:
    """But the biases of keys: a softmax does not see what it adds to all keys of a query alike."""
    module = make_module("time_code")

    def agrees() -> bool:
        selection, tokens, matrix = tokenize(module)
        expected = REFERENCE["outputs.time_code.0.map"]
        return (
            is_close(selection.scores[0], REFERENCE["intermediate.time_code.0.scores"], FLOAT32_STEPS)
            and is_close(tokens[0], REFERENCE["outputs.time_code.0.tokens"], FLOAT32_STEPS)
            and is_close(matrix[0], expected, FLOAT32_STEPS)
        )

    unnoticed = unnoticed_changes(module, agrees)
    assert all(name.endswith("k_proj.bias") for name in unnoticed), unnoticed
    # Five attentions in each of the two layers, and that of the aggregation.
    assert len(unnoticed) == 5 * SIZES["layers"] + 1
