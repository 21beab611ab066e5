"""Properties 1 to 7 of docs/designs/ftfv.md#properties, and the equations, against plain code written from the paper.

Property 8, Table 5, is a matter of counting and is tested with the counter (`hub/flops`).
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factory import IMAGE, QWEN_VL_VISION, VIDEO, DesignCase, collate, ftfv_case, randomise, with_labels
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_checkpoint import make_tokenizer
from torch import nn
from transformers import CLIPImageProcessor

from hf_videollm.models import modeling_ftfv
from hf_videollm.models.configuration_ftfv import FtfvConfig
from hf_videollm.models.modeling_ftfv import (
    FtfvConnector,
    FtfvForConditionalGeneration,
    attention_peaks,
    choose_queries,
    sine_positions,
)
from hf_videollm.models.modeling_qwen_vl_vision import resize_positions
from hf_videollm.models.processing_ftfv import FtfvProcessor, processor_options
from hf_videollm.models.transformers_compat import enable_checkpointing
from hf_videollm.models.video_processing_ftfv import FtfvVideoProcessor

PATCHES, WIDTH, QUERIES, KEPT = 16, 24, 9, 4
CASE = ftfv_case("llama")


def make_connector(**overrides: Any) -> FtfvConnector:
    """A connector whose queries look at different patches."""
    connector = FtfvConnector(ftfv_case("llama", **overrides).make_config())
    randomise(connector, seed=1)
    with torch.no_grad():
        connector.pos_embed.copy_(sine_positions(math.isqrt(QUERIES), WIDTH))
        # Peaks far above 1/16.
        connector.attn.in_proj_weight[: 2 * WIDTH] *= 2
    return connector.eval()


def make_features(num_frames: int, seed: int = 0) -> torch.Tensor:
    """Patches of a tower of width 16."""
    return torch.randn(num_frames, PATCHES, 16, generator=torch.Generator().manual_seed(seed))


class Spy:
    """Records what the sampler sees and chooses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.peaks: list[torch.Tensor] = []
        self.weights: list[torch.Tensor] = []
        self.chosen: list[torch.Tensor] = []
        reduce, choose = attention_peaks, choose_queries

        def spied_reduce(weights: torch.Tensor, reduction: str) -> torch.Tensor:
            self.weights.append(weights)
            return reduce(weights, reduction)

        def spied_choose(peaks: torch.Tensor, num_kept: int, order: str) -> torch.Tensor:
            self.peaks.append(peaks)
            self.chosen.append(choose(peaks, num_kept, order))
            return self.chosen[-1]

        monkeypatch.setattr(modeling_ftfv, "attention_peaks", spied_reduce)
        monkeypatch.setattr(modeling_ftfv, "choose_queries", spied_choose)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    return Spy(monkeypatch)


# ---------------------------------------------------------------------------------------------------- equations


@torch.no_grad()
def reference_tokens(
    connector: FtfvConnector, features: torch.Tensor, reduction: str = "mean"
) -> tuple[torch.Tensor, torch.Tensor]:
    """All tokens of each frame before sampling, and r, by torch's attention: `(T, N, text_width)` and `(T, N)`."""
    attention = nn.MultiheadAttention(WIDTH, connector.config.adapter_num_heads, batch_first=True)
    attention.load_state_dict(connector.attn.state_dict())
    layer_norm = nn.functional.layer_norm
    scale = {name: (module.weight, module.bias) for name, module in connector.named_children() if name[:2] == "ln"}
    query = layer_norm(connector.query, (WIDTH,), *scale["ln_q"], eps=1e-6) + connector.pos_embed
    patches = layer_norm(features @ connector.kv_proj.weight.T, (WIDTH,), *scale["ln_kv"], eps=1e-6)
    table = connector.pos_embed.T.reshape(1, WIDTH, 3, 3)
    places = nn.functional.interpolate(table, size=(4, 4), mode="bicubic", align_corners=False).reshape(WIDTH, -1).T
    attended, weights = attention(
        query.expand(len(features), -1, -1), patches + places, patches, average_attn_weights=reduction == "mean"
    )
    peaks = weights.max(-1).values if reduction == "mean" else weights.max(-1).values.max(1).values
    return layer_norm(attended, (WIDTH,), *scale["ln_post"], eps=1e-6) @ connector.proj, peaks


@pytest.mark.parametrize("reduction", ["mean", "max"])
def test_equation_1_and_2_against_torch_attention_and_numpy_argsort(reduction: str) -> None:
    connector = make_connector(attention_score_reduction=reduction)
    features = make_features(4)
    with torch.no_grad():
        found = connector(features, [4])[0].unflatten(0, (4, KEPT))
    tokens, peaks = reference_tokens(connector, features + connector.temporal_embedding, reduction)
    for frame in range(4):
        chosen = np.argsort(peaks[frame].numpy())[::-1][:KEPT].copy()
        torch.testing.assert_close(found[frame], tokens[frame, chosen], atol=1e-5, rtol=1e-4)
    other = make_connector(attention_score_reduction="max" if reduction == "mean" else "mean")
    with torch.no_grad():
        assert not torch.allclose(other(features, [4])[0], found.flatten(0, 1), atol=1e-3), "the reduction must matter"


def test_equation_2_order_of_queries() -> None:
    """`sampler_order="query"`: the same tokens, as their queries stand."""
    by_score, by_query = make_connector(), make_connector(sampler_order="query")
    features = make_features(4)
    with torch.no_grad():
        first, second = (connector(features, [4])[0].unflatten(0, (4, KEPT)) for connector in (by_score, by_query))
    _, peaks = reference_tokens(by_score, features + by_score.temporal_embedding)
    num_moved = 0
    for frame in range(4):
        ranking = peaks[frame].argsort(descending=True)[:KEPT]
        torch.testing.assert_close(second[frame], first[frame][ranking.argsort()], atol=1e-5, rtol=1e-4)
        num_moved += int(not torch.equal(ranking, ranking.sort().values))
    assert num_moved


@given(data=st.data(), num_queries=st.integers(1, 30), num_frames=st.integers(1, 4))
@settings(deadline=None)
def test_equation_2_on_any_peaks(data: st.DataObject, num_queries: int, num_frames: int) -> None:
    """Highest first, equal ones by their query; few distinct values, so that there are ties."""
    levels = st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.9]), min_size=num_queries, max_size=num_queries)
    rows = data.draw(st.lists(levels, min_size=num_frames, max_size=num_frames))
    num_kept = data.draw(st.integers(1, num_queries))
    expected = [sorted(range(num_queries), key=lambda i, row=row: (-row[i], i))[:num_kept] for row in rows]
    peaks = torch.tensor(rows)
    assert choose_queries(peaks, num_kept, "score").tolist() == expected
    assert choose_queries(peaks, num_kept, "query").tolist() == [sorted(row) for row in expected]


def test_equal_peaks_keep_the_first_queries(spy: Spy) -> None:
    connector = make_connector()
    with torch.no_grad():
        # All keys alike: every weight is 1/16.
        connector.attn.in_proj_weight[WIDTH : 2 * WIDTH] = 0
        connector(make_features(2), [2])
    assert spy.chosen[0].tolist() == [[0, 1, 2, 3]] * 2


def test_scores_are_float32_in_bfloat16_and_under_autocast(spy: Spy) -> None:
    connector = make_connector()
    features = make_features(3)
    with torch.no_grad():
        exact = connector(features, [3])[0]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert connector.kv_proj(features).dtype == torch.bfloat16
            cast = connector(features, [3])[0]
        low = connector.bfloat16()(features.bfloat16(), [3])[0]
    assert low.dtype == torch.bfloat16
    for weights in spy.weights:
        assert weights.dtype == torch.float32
        # Rows of a softmax in bfloat16 miss one by a thousandth.
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]), atol=1e-6, rtol=0)
    for other in (cast, low):
        assert torch.isfinite(other).all()
        assert other.shape == exact.shape


@pytest.mark.parametrize("is_autocast", [False, True], ids=["bfloat16", "autocast"])
def test_training_in_bfloat16_with_gradient_checkpointing(is_autocast: bool) -> None:
    """Loss and gradients point where those of float32 do; a few tokens are others, as keys are rounded."""
    batch = with_labels(CASE.make_batch([["v3", "i"], ["v4"]]))

    def train(model: FtfvForConditionalGeneration) -> tuple[float, torch.Tensor]:
        loss = model.train()(**batch, use_cache=False).loss
        loss.backward()
        gradient = model.model.connector.kv_proj.weight.grad
        assert torch.isfinite(gradient).all()
        return loss.item(), gradient.float().flatten()

    expected, direction = train(CASE.make_model())
    model = CASE.make_model()
    enable_checkpointing(model, {"use_reentrant": False})
    assert model.model.connector.attn.gradient_checkpointing
    if not is_autocast:
        model.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_autocast):
        loss, found = train(model)
    assert abs(loss - expected) < 0.05 * expected
    assert nn.functional.cosine_similarity(found, direction, dim=0) > 0.8


def test_attention_in_portions_of_frames_is_the_same(monkeypatch: pytest.MonkeyPatch, spy: Spy) -> None:
    connector = make_connector()
    features = make_features(5)
    with torch.no_grad():
        whole = connector(features, [2, 3])
        assert len(spy.chosen) == 1
        monkeypatch.setattr(modeling_ftfv, "MAX_WEIGHTS_AT_A_TIME", 2 * 2 * QUERIES * PATCHES)
        parts = connector(features, [2, 3])
    assert [len(chosen) for chosen in spy.chosen] == [5, 2, 2, 1]
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)


def test_positions_are_qwen_vls_table() -> None:
    """Column in the first half of the channels, row in the second; sines, then cosines."""
    side, width = 4, 16
    table = sine_positions(side, width)
    assert table.dtype == torch.float32
    for row in range(side):
        for column in range(side):
            halves = []
            for place in (column, row):
                angles = [place * 10000 ** (-i / (width / 4)) for i in range(width // 4)]
                halves += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
            torch.testing.assert_close(table[row * side + column], torch.tensor(halves), atol=1e-6, rtol=0)


def test_positions_are_resized_in_float32() -> None:
    table = sine_positions(4, 8)
    fine = resize_positions(table, 64)
    grid = table.T.reshape(1, 8, 4, 4)
    expected = nn.functional.interpolate(grid, size=(8, 8), mode="bicubic", align_corners=False)[0].flatten(1).T
    torch.testing.assert_close(fine, expected)
    assert not torch.allclose(fine, sine_positions(8, 8), atol=0.1), "interpolated, not computed anew"
    low = table.bfloat16()
    assert torch.equal(resize_positions(low, 64), resize_positions(low.float(), 64).bfloat16())
    assert resize_positions(table, 16) is table


def test_fresh_connector_starts_as_specified() -> None:
    model = FtfvForConditionalGeneration(ftfv_case("llama", num_queries=64, adapter_width=64).make_config())
    connector = model.model.connector
    assert torch.equal(connector.pos_embed, sine_positions(8, 64))
    assert not connector.pos_embed.requires_grad
    assert connector.query.abs().max() <= 2
    for parameter in (connector.query, connector.temporal_embedding):
        assert 0.014 < parameter.std() < 0.026
    assert not connector.attn.in_proj_bias.any()
    assert connector.temporal_embedding.shape == (4, 1, 16)


def test_public_checkpoint_has_a_place_for_every_number() -> None:
    """docs/designs/ftfv.md#vision-tower: 1,935,610,624 values, and the temporal code, which is FTFV's own."""
    with torch.device("meta"):
        model = FtfvForConditionalGeneration(FtfvConfig(text_config={"model_type": "llama", "num_hidden_layers": 1}))
    visual = [*model.model.vision_tower.parameters(), *model.model.connector.parameters()]
    temporal = model.model.connector.temporal_embedding
    assert temporal.shape == (8, 1, 1664)
    assert sum(parameter.numel() for parameter in visual) - temporal.numel() == 1_935_610_624


# --------------------------------------------------------------------------------------------------- properties


def test_property_1_all_queries_kept_is_the_unsampled_adapter() -> None:
    features = make_features(3)
    for order in ("score", "query"):
        connector = make_connector(num_tokens_per_frame=QUERIES, sampler_order=order)
        with torch.no_grad():
            found = connector(features, [3])[0].unflatten(0, (3, QUERIES))
            codes = connector.temporal_code(3)
            # Images are not sampled; with the codes added by hand they are the frames.
            whole = torch.stack(connector(features + codes, [1, 1, 1], is_video=False))
        _, peaks = reference_tokens(connector, features + codes)
        for frame in range(3):
            ranking = peaks[frame].argsort(descending=True) if order == "score" else torch.arange(QUERIES)
            torch.testing.assert_close(found[frame], whole[frame, ranking], atol=1e-5, rtol=1e-4)


def test_property_2_peaks_come_from_the_attention_of_their_own_frame(spy: Spy) -> None:
    connector = make_connector()
    features = make_features(4)
    other = features.clone()
    other[2] = make_features(1, seed=5)[0]
    with torch.no_grad():
        before = connector(features, [4])[0].unflatten(0, (4, KEPT))
        after = connector(other, [4])[0].unflatten(0, (4, KEPT))
    same = [0, 1, 3]
    torch.testing.assert_close(spy.peaks[0][same], spy.peaks[1][same])
    torch.testing.assert_close(before[same], after[same])
    assert (spy.peaks[0][2] - spy.peaks[1][2]).abs().max() > 0.01
    assert (before[2] - after[2]).abs().max() > 0.1


@given(seed=st.integers(0, 2**31), num_queries=st.integers(2, 40), data=st.data())
@settings(deadline=None)
def test_property_3_lowering_one_kept_query_swaps_exactly_that_one(
    seed: int, num_queries: int, data: st.DataObject
) -> None:
    num_kept = data.draw(st.integers(1, num_queries - 1))
    peaks = torch.rand(1, num_queries, generator=torch.Generator().manual_seed(seed))
    ranking = choose_queries(peaks, num_queries, "score")[0].tolist()
    lowered = ranking[data.draw(st.integers(0, num_kept - 1))]
    first_left_out = ranking[num_kept]
    changed = peaks.clone()
    changed[0, lowered] = changed[0, first_left_out] / 2 if num_kept + 1 == num_queries else peaks.min() / 2
    after = choose_queries(changed, num_kept, "score")[0].tolist()
    assert after == [query for query in ranking[:num_kept] if query != lowered] + [first_left_out]


def test_property_3_in_the_connector(spy: Spy) -> None:
    """A query that looks at nothing in particular loses its place to the next one, and no other token changes."""
    connector = make_connector(sampler_order="query")
    features = make_features(1)
    with torch.no_grad():
        before = connector(features, [1])[0]
        ranking = spy.peaks[0][0].argsort(descending=True).tolist()
        lowered, promoted = ranking[1], ranking[KEPT]
        for seed in range(200):
            generator = torch.Generator().manual_seed(seed)
            connector.query[lowered] = torch.randn(WIDTH, generator=generator)
            after = connector(features, [1])[0]
            if spy.peaks[-1][0, lowered] < spy.peaks[-1][0, promoted]:
                break
        else:
            pytest.fail("no query with a low peak was found")
    kept, others = spy.chosen[0][0].tolist(), spy.chosen[-1][0].tolist()
    assert set(kept) - set(others) == {lowered}
    assert set(others) - set(kept) == {promoted}
    for query in set(kept) & set(others):
        torch.testing.assert_close(before[kept.index(query)], after[others.index(query)], atol=1e-5, rtol=1e-4)


@given(num_frames=st.lists(st.integers(1, 7), min_size=1, max_size=3), num_kept=st.integers(1, QUERIES))
@settings(deadline=None, max_examples=25)
def test_property_4_tokens_are_frames_times_kept(num_frames: list[int], num_kept: int) -> None:
    connector = make_connector()
    parts = CLIPImageProcessor(), make_tokenizer(), FtfvVideoProcessor()
    processor = FtfvProcessor(*parts, **processor_options(connector.config))
    with torch.no_grad():
        clips = connector(make_features(sum(num_frames)), num_frames, num_kept)
    for clip, count in zip(clips, num_frames, strict=True):
        announced = processor.num_video_tokens(count, num_kept)
        assert announced == connector.config.num_video_tokens(count, num_kept) == count * num_kept
        assert clip.shape == (announced, 32)


def test_property_5_an_image_has_all_its_tokens_and_no_temporal_code() -> None:
    model = CASE.make_model().model
    image = torch.randn(2, 3, 16, 16)

    def features() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            images = model.get_image_features(image).pooler_output
            videos = model.get_video_features(image.unsqueeze(1)).pooler_output
        return torch.stack(images), torch.stack(videos)

    images, videos = features()
    assert images.shape[1] == model.config.num_image_tokens() == QUERIES
    assert videos.shape[1] == KEPT
    with torch.no_grad():
        model.connector.temporal_embedding += 1.0
    images_after, videos_after = features()
    assert torch.equal(images, images_after)
    assert (videos - videos_after).abs().max() > 0.1


def test_property_5_images_are_sampled_only_on_request() -> None:
    model = ftfv_case("llama", sample_images=True).make_model().model
    with torch.no_grad():
        for num_kept in (None, 2):
            tokens = model.get_image_features(torch.randn(1, 3, 16, 16), num_tokens_per_frame=num_kept).pooler_output
            assert len(tokens[0]) == model.config.num_image_tokens(num_kept) == (num_kept or KEPT)


def test_property_6_two_videos_are_each_alone() -> None:
    """Also of other lengths than in training, 4 frames; rows of a batch are compared in the invariants."""
    connector = make_connector()
    features = make_features(9)
    with torch.no_grad():
        together = connector(features, [6, 3])
        for clip, alone in zip(together, [features[:6], features[6:]], strict=True):
            torch.testing.assert_close(clip, connector(alone, [len(alone)])[0])


def test_property_6_temporal_code_of_other_lengths() -> None:
    connector = make_connector()
    code = connector.temporal_embedding.detach()
    assert torch.equal(connector.temporal_code(4), code)
    torch.testing.assert_close(connector.temporal_code(1), code[:1])
    torch.testing.assert_close(connector.temporal_code(2), code[[0, 3]])
    expected = torch.stack([code[0], (code[0] + code[1]) / 2, code[1], (code[1] + code[2]) / 2, code[2]])
    torch.testing.assert_close(connector.temporal_code(7)[:5], expected)


def test_property_7_gradients_reach_what_is_unfrozen_and_nothing_else() -> None:
    case = ftfv_case("llama", vision_config={**QWEN_VL_VISION, "num_hidden_layers": 5})
    model = case.make_model().train()
    model.requires_grad_(False)
    for module in (model.model.connector, *model.model.vision_tower.layers[-3:]):
        module.requires_grad_(True)
    model(**with_labels(case.make_batch([["v3", "i"], ["v4"]]))).loss.backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    zero = {
        name for name, parameter in model.named_parameters() if parameter.grad is not None and not parameter.grad.any()
    }
    unfrozen = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    # The table of positions is never trained, whatever a recipe says.
    assert reached == unfrozen - {"model.connector.pos_embed"}
    assert all(name.endswith("k_proj.bias") for name in zero)
    for name in ("connector.query", "connector.kv_proj.weight", "connector.temporal_embedding"):
        assert f"model.{name}" in reached
    layers = {name.split(".")[3] for name in reached if "vision_tower" in name}
    assert layers == {"2", "3", "4"}


# ------------------------------------------------------------------------------------------------ K in every call


def with_kept(case: DesignCase, num_kept: int) -> DesignCase:
    return ftfv_case("llama", **{**case.config, "num_tokens_per_frame": num_kept})


@pytest.mark.parametrize("num_kept", [1, 2, QUERIES])
def test_k_of_a_call_is_that_of_a_checkpoint_loaded_with_it(num_kept: int, tmp_path: Path) -> None:
    model = CASE.make_model()
    model.save_pretrained(tmp_path)
    loaded = FtfvForConditionalGeneration.from_pretrained(tmp_path, num_tokens_per_frame=num_kept).eval()
    assert loaded.config.num_tokens_per_frame == num_kept
    loaded.generation_config = model.generation_config
    rows = ftfv_case("llama", num_tokens_per_frame=num_kept).make_rows([["v3", "i"], ["v2", "v5"]])
    batch = collate(rows, "left")
    assert (batch["input_ids"] == VIDEO).sum() == 10 * num_kept
    assert (batch["input_ids"] == IMAGE).sum() == QUERIES
    options = {"num_tokens_per_frame": num_kept}
    with torch.no_grad():
        torch.testing.assert_close(model(**batch, **options).logits, loaded(**batch).logits)
        features = model.get_video_features(batch["pixel_values_videos"], batch["num_video_frames"], **options)
    assert [len(clip) for clip in features.pooler_output] == [count * num_kept for count in (3, 2, 5)]
    for search in ({}, {"num_beams": 2, "num_return_sequences": 2}, {"use_cache": False}):
        settings = {"max_new_tokens": 3, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        found = model.generate(**batch, **options, **settings, **search)
        expected = loaded.generate(**batch, **settings, **search)
        assert torch.equal(found.sequences, expected.sequences)
        torch.testing.assert_close(found.logits, expected.logits)


def test_k_out_of_range_is_an_error_when_a_checkpoint_is_loaded(tmp_path: Path) -> None:
    CASE.make_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"whole number from 1 to 9 .*, not 10"):
        FtfvForConditionalGeneration.from_pretrained(tmp_path, num_tokens_per_frame=10)


def test_k_of_the_configuration_can_be_changed_on_a_live_model() -> None:
    model = CASE.make_model()
    batch = ftfv_case("llama", num_tokens_per_frame=2).make_batch([["v3"]])
    with torch.no_grad():
        expected = model(**batch, num_tokens_per_frame=2).logits
        model.config.num_tokens_per_frame = 2
        assert torch.equal(model(**batch).logits, expected)


def test_k_is_no_concern_of_a_prompt_without_media() -> None:
    model = CASE.make_model()
    batch = CASE.make_batch([[]])
    with torch.no_grad():
        assert torch.equal(model(**batch, num_tokens_per_frame=2).logits, model(**batch).logits)


@pytest.mark.parametrize("num_beams", [1, 2])
@pytest.mark.parametrize("num_kept", [0, -1, QUERIES + 1, 2.5, True], ids=str)
def test_k_out_of_range_is_one_clear_error(num_kept: Any, num_beams: int) -> None:
    model, batch = CASE.make_model(), CASE.make_batch([["v2"]])
    message = f"num_tokens_per_frame must be a whole number from 1 to {QUERIES} .*, not {num_kept}"
    with pytest.raises(ValueError, match=message):
        model(**batch, num_tokens_per_frame=num_kept)
    with pytest.raises(ValueError, match=message):
        model.generate(**batch, num_tokens_per_frame=num_kept, num_beams=num_beams, max_new_tokens=2)


def test_placeholders_and_k_that_disagree_are_an_error() -> None:
    model, batch = CASE.make_model(), CASE.make_batch([["v2"]])
    beams = {"max_new_tokens": 2, "num_beams": 2}
    for call, options in ((model, {}), (model.generate, {"max_new_tokens": 2}), (model.generate, beams)):
        with pytest.raises(ValueError, match=r"8 (video )?placeholders.* give 6 vectors.*same num_tokens_per_frame"):
            call(**batch, num_tokens_per_frame=3, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_tokens_per_frame": 10}, "from 1 to 9 .*, not 10"),
        ({"num_tokens_per_frame": 0}, "from 1 to 9 .*, not 0"),
        ({"num_queries": 8}, "num_queries must be a square number"),
        ({"adapter_num_heads": 5}, r"adapter_width \(24\) must be a multiple of adapter_num_heads \(5\)"),
        ({"adapter_width": 6, "adapter_num_heads": 2}, "adapter_width must be a multiple of 4"),
    ],
)
def test_configurations_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(StrictDataclassError, match=message):
        ftfv_case("llama", **options).make_config()


def test_video_of_no_frames_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        CASE.make_config().num_video_tokens(0)
