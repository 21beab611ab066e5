"""The properties of docs/designs/iva.md#properties, each named after its number.

The equations of the adapter are in `test_iva_adapter.py`, those of the two tokens per frame here.
"""

from typing import Any

import pytest
import torch
from factory import QUERY, VIDEO, DesignCase, collate, iva_case, random_frames, with_labels
from torch import nn
from torch.nn import functional as F

from hf_videollm.models.configuration_iva import IvaConfig
from hf_videollm.models.iva_adapter import IvaAdapter
from hf_videollm.models.iva_frames import FrameBank, MediumFrames
from hf_videollm.models.modeling_iva import IvaConnector, IvaForConditionalGeneration, IvaModel, frame_positions

TEXTS = ["llama", "qwen2", "gemma2"]
every_text = pytest.mark.parametrize("text", TEXTS)


def one_video(case: DesignCase, num_frames: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    return case.make_batch([[f"v{num_frames}"]], seed)


def logits_of(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch).logits


def features_of(model: IvaForConditionalGeneration, batch: dict[str, torch.Tensor]) -> Any:
    with torch.no_grad():
        return model.get_video_features(batch["pixel_values_videos"], batch["num_video_frames"])


# 1


@every_text
def test_1_at_initialisation_the_logits_are_those_without_adapter(text: str) -> None:
    case = iva_case(text)
    torch.manual_seed(0)
    fresh = IvaForConditionalGeneration(case.make_config()).eval()
    model = case.make_model()
    model.model.adapter.load_state_dict(fresh.model.adapter.state_dict())
    batch = one_video(case)
    found = logits_of(model, batch)
    baseline = IvaForConditionalGeneration(case.make_config(num_insertions=0)).eval()
    weights = {name: w for name, w in model.state_dict().items() if ".adapter." not in name and "query" not in name}
    baseline.load_state_dict(weights)
    # The model without IVA has no query tokens; the same vectors go in as ordinary embeddings.
    embeds = model.get_input_embeddings()(batch["input_ids"])
    embeds[batch["input_ids"] == QUERY] = model.model.query_tokens.weight
    others = {name: value for name, value in batch.items() if name != "input_ids"}
    with torch.no_grad():
        assert torch.equal(found, baseline(inputs_embeds=embeds, **others).logits)
        model.model.adapter.output.weight.normal_()
    assert (logits_of(model, batch) - found).abs().max() > 0.1, "the adapter must matter as soon as W_out is not zero"


# 2


def test_2_a_changed_frame_changes_s_in_proportion_to_its_attention() -> None:
    case = iva_case("llama")
    selector = case.make_model().model.adapter.layers[0].selector
    torch.manual_seed(0)
    g, f, x = torch.randn(5, 16), torch.randn(5, 9, 16), torch.randn(1, 3, 24)
    visible, zero = torch.ones(1, 3, 5, dtype=torch.bool), torch.zeros(1, dtype=torch.long)
    change = torch.randn(9, 16)
    with torch.no_grad():
        before, weights = selector(x, visible, FrameBank([MediumFrames(g, [f])], zero, zero - 1))
        for frame in range(5):
            other = f.clone()
            other[frame] += change
            after, _ = selector(x, visible, FrameBank([MediumFrames(g, [other])], zero, zero - 1))
            expected = weights[0, :, frame, None, None] * change
            torch.testing.assert_close(after[0] - before[0], expected, rtol=1e-4, atol=1e-5)
    assert weights.min() < 0.5 * weights.max()


def test_2_with_one_hot_attention_the_interactor_sees_exactly_that_frame() -> None:
    case = iva_case("llama", num_adapter_layers=1, selector_temperature=1e-6)
    adapter = case.make_model().model.adapter
    torch.manual_seed(0)
    g, f, h = torch.randn(5, 16), torch.randn(5, 9, 16), torch.randn(1, 3, 32)
    zero = torch.zeros(1, dtype=torch.long)
    with torch.no_grad():
        bank = FrameBank([MediumFrames(g, [f])], zero, zero - 1)
        change, (weights,) = adapter(h, torch.ones(1, 3, 5, dtype=torch.bool), bank)
        chosen = weights[0].argmax(-1)
        assert (weights[0].amax(-1) == 1).all()
        assert len(chosen.unique()) > 1, "all queries chose the same frame: the test would see little"
        for query, frame in enumerate(chosen):
            alone = FrameBank([MediumFrames(g[frame, None], [f[frame, None]])], zero, zero - 1)
            expected, _ = adapter(h[:, query, None], torch.ones(1, 1, 1, dtype=torch.bool), alone)
            torch.testing.assert_close(change[:, query, None], expected, rtol=0, atol=1e-5)


# 3


def tokens_of_frames(tokens: torch.Tensor, order: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Global and temporal tokens."""
    return tokens.chunk(2) if order == "concatenated" else (tokens[::2], tokens[1::2])


@pytest.mark.parametrize("order", ["interleaved", "concatenated"])
def test_3_a_frame_changes_temporal_tokens_from_itself_on_and_its_own_global_token(order: str) -> None:
    case = iva_case("llama", frame_token_order=order, causal_num_layers=3)
    model, batch = case.make_model(), one_video(case)
    before = tokens_of_frames(features_of(model, batch).pooler_output[0], order)
    for frame in range(6):
        other = {**batch, "pixel_values_videos": batch["pixel_values_videos"].clone()}
        other["pixel_values_videos"][0, frame] = random_frames(1, torch.Generator().manual_seed(frame))[0]
        after = tokens_of_frames(features_of(model, other).pooler_output[0], order)
        moved = [(new - old).abs().amax(-1) for old, new in zip(before, after, strict=True)]
        is_frame = torch.arange(6) == frame
        assert (moved[0][is_frame] > 1e-2).all()
        assert (moved[0][~is_frame] < 1e-5).all()
        assert (moved[1][frame:] > 1e-3).all(), "every later frame sees it"
        assert (moved[1][:frame] < 1e-5).all(), "an earlier frame saw a later one"


def written_out_tokens(connector: IvaConnector, g: torch.Tensor, f: torch.Tensor, config: IvaConfig) -> Any:
    """Eq. 1 and 2 for one video: v and t."""
    weight = connector.pooling.weight
    x = torch.stack([(torch.softmax(frame @ weight.weight[0] + weight.bias, 0)[:, None] * frame).sum(0) for frame in f])
    x = x + frame_positions(*x.shape).to(x)
    heads, size = config.causal_num_heads, x.shape[1] // config.causal_num_heads
    for layer in connector.causal_layers:
        q, k, v = layer.qkv(layer.attention_norm(x)).chunk(3, -1)
        attended = torch.zeros_like(x)
        for frame in range(len(x)):
            for head in range(heads):
                part = slice(head * size, (head + 1) * size)
                logits = k[: frame + 1, part] @ q[frame, part] / size**0.5
                attended[frame, part] = torch.softmax(logits, 0) @ v[: frame + 1, part]
        x = x + F.linear(attended, layer.out.weight, layer.out.bias)
        inner = F.gelu(layer.mlp[0](layer.mlp_norm(x)))
        changed = layer.mlp[2](inner)
        x = x + changed if config.causal_mlp_residual else changed
    v_tokens = connector.global_mlp[2](F.gelu(connector.global_mlp[0](g)))
    return v_tokens, connector.temporal(x)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("order", ["interleaved", "concatenated"])
def test_video_tokens_equal_the_equations(order: str, residual: bool) -> None:
    case = iva_case("llama", frame_token_order=order, causal_mlp_residual=residual, causal_num_layers=2)
    connector, config = case.make_model().model.connector.double(), case.make_config()
    torch.manual_seed(0)
    counts = [5, 1, 3]
    g, f = torch.randn(9, 16).double(), torch.randn(9, 16, 16).double()
    with torch.no_grad():
        found = connector(g, connector.pooling(f), counts)
        for tokens, own_g, own_f in zip(found, g.split(counts), f.split(counts), strict=True):
            config.causal_mlp_residual = residual
            expected = written_out_tokens(connector, own_g, own_f, config)
            for have, want in zip(tokens_of_frames(tokens, order), expected, strict=True):
                torch.testing.assert_close(have, want, rtol=0, atol=1e-5)


def test_video_tokens_of_any_number_of_frames() -> None:
    positions = frame_positions(4000, 16)
    assert torch.isfinite(positions).all()
    assert len(positions.unique(dim=0)) == 4000
    assert torch.equal(frame_positions(7, 16), positions[:7])


# 4


def test_4_insertion_layers_are_those_of_table_3_and_share_one_set_of_parameters() -> None:
    expected = {4: [0, 8, 16, 24], 8: list(range(0, 32, 4)), 16: list(range(0, 32, 2))}
    sizes = set()
    for num_insertions, layers in expected.items():
        text = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 32, "num_attention_heads": 4}
        config = iva_case("llama", text_config=text, num_insertions=num_insertions).make_config()
        assert config.insertion_layers == layers
        with torch.device("meta"):
            model = IvaModel(config)
        sizes.add(sum(parameter.numel() for parameter in model.parameters()))
    assert len(sizes) == 1
    assert iva_case("llama", num_insertions=0).make_config().insertion_layers == []


def test_4_the_adapter_is_called_before_these_layers_and_changes_query_positions_only() -> None:
    text = {**iva_case("llama").config["text_config"], "num_hidden_layers": 6}
    case = iva_case("llama", text_config=text, num_insertions=3)
    model, batch = case.make_model(), one_video(case)
    is_query = (batch["input_ids"] == QUERY)[0]
    changed = {}
    for index, layer in enumerate(model.model.language_model.layers):
        inputs: dict[str, torch.Tensor] = {}
        # One hook before the adapter's, one behind it: `prepend` puts it first.
        first = lambda module, args, kwargs, inputs=inputs: inputs.update(before=args[0])  # noqa: E731
        layer.register_forward_pre_hook(first, with_kwargs=True, prepend=True)
        last = lambda module, args, kwargs, inputs=inputs: inputs.update(after=args[0], names=kwargs)  # noqa: E731
        layer.register_forward_pre_hook(last, with_kwargs=True)
        changed[index] = inputs
    logits_of(model, batch)
    for index, inputs in changed.items():
        moved = (inputs["after"] - inputs["before"])[0].abs().amax(-1)
        assert (moved[~is_query] == 0).all()
        assert (moved[is_query] > 1e-3).all() if index in (0, 2, 4) else (moved == 0).all()
        assert "iva_context" not in inputs["names"], "the layer and its attention kernel need not know"


# 5


def test_5_tau_divides_the_products_and_near_zero_the_selection_is_one_hot() -> None:
    torch.manual_seed(0)
    g, f, h = torch.randn(6, 16), torch.randn(6, 9, 16), torch.randn(1, 3, 32)
    zero, visible = torch.zeros(1, dtype=torch.long), torch.ones(1, 3, 6, dtype=torch.bool)
    selections = {}
    for tau in (2.0, 0.5, 0.1, 1e-4):
        adapter: IvaAdapter = iva_case("llama", selector_temperature=tau).make_model().model.adapter
        with torch.no_grad():
            selections[tau] = adapter(h, visible, FrameBank([MediumFrames(g, [f])], zero, zero - 1))[1][0]
    # Logarithms of A differ between frames by the products over tau.
    spread = {tau: (weights.log() - weights.log().mean(-1, keepdim=True)) for tau, weights in selections.items()}
    torch.testing.assert_close(spread[2.0] * 4, spread[0.5], rtol=1e-3, atol=1e-3)
    assert selections[2.0].amax(-1).max() < selections[0.1].amax(-1).min()
    assert (selections[1e-4].amax(-1) > 1 - 1e-6).all()


# 6


@every_text
@pytest.mark.parametrize("side", ["left", "right"])
def test_6_padded_frames_and_padded_text_change_nothing(text: str, side: str) -> None:
    case = iva_case(text, scale_interactor=True)
    model, rows = case.make_model(), case.make_rows([["v3"], ["v6"], [], ["v2", "i", "v4"]])
    # Padded frames are NaN.
    batch = collate(rows, side)
    together = logits_of(model, batch)
    for row, logits, mask in zip(rows, together, batch["attention_mask"].bool(), strict=True):
        alone = logits_of(model, collate([row]))[0]
        torch.testing.assert_close(logits[mask], alone, rtol=0, atol=1e-5 * max(1.0, alone.abs().max().item()))


# 7


def gradients(case: DesignCase, **options: Any) -> dict[str, torch.Tensor]:
    model = case.make_model().train()
    for name, value in options.items():
        with torch.no_grad():
            model.get_parameter(name).fill_(value)
    model(**with_labels(case.make_batch([["v4"], ["v2"]])), use_cache=False).loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@every_text
def test_7_gradients_reach_every_part(text: str) -> None:
    found = gradients(iva_case(text, scale_interactor=True))
    inert = {name for name in found if name.endswith((".pooling.weight.bias", ".key.bias"))}
    for name, gradient in found.items():
        if name.startswith(("model.connector", "model.adapter", "model.query_tokens")):
            assert gradient is not None, f"{name} gets no gradient, which DistributedDataParallel would wait for"
            # A softmax does not see what is added to all its logits.
            is_moved = gradient.abs().max() > 1e-6
            assert is_moved or name in inert, f"the gradient of {name} is zero"
            assert name not in inert or gradient.abs().max() < 1e-3


@every_text
def test_7_with_w_out_zero_no_gradient_passes_the_adapter(text: str) -> None:
    found = gradients(iva_case(text), **{"model.adapter.output.weight": 0.0})
    for name, gradient in found.items():
        if name.startswith("model.adapter") and name != "model.adapter.output.weight":
            assert not gradient.any(), f"{name} gets a gradient through a zero"
    assert found["model.adapter.output.weight"].any()
    assert found["model.query_tokens.weight"].any(), "the query tokens are positions of the prompt all the same"


# 8


@every_text
@pytest.mark.parametrize(("vision_chunk", "frames_per_chunk"), [(1, None), (2, 3), (4, 1), (64, 2)])
def test_8_streaming_equals_the_unchunked_result(text: str, vision_chunk: int, frames_per_chunk: int | None) -> None:
    case = iva_case(text, scale_interactor=True)
    batch = case.make_batch([["v7"], ["v3", "v5"]])
    whole = logits_of(case.make_model(vision_chunk_size=None, frames_per_chunk=None), batch)
    model = case.make_model(vision_chunk_size=vision_chunk, frames_per_chunk=frames_per_chunk)
    found = logits_of(model, batch)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-5 * whole.abs().max().item())
    sizes = [len(chunk) for medium in features_of(model, batch).frames for chunk in medium.chunks]
    assert max(sizes) <= vision_chunk
    assert sum(sizes) == 15


def test_8_the_folded_form_equals_the_equations_inside_the_model() -> None:
    """Logits with an adapter of the equations in place of ours; what the two are is in `test_iva_adapter.py`."""
    from test_iva_adapter import EncodedClip, written_out

    case = iva_case("llama")
    model, batch = case.make_model(), one_video(case)
    found = logits_of(model, batch)

    class WrittenOut(nn.Module):
        def __init__(self, adapter: IvaAdapter) -> None:
            super().__init__()
            self.adapter = adapter

        def forward(self, h: torch.Tensor, visible: torch.Tensor, frames: FrameBank) -> Any:
            clip = EncodedClip(frames.global_features, torch.cat(frames.chunks))
            return written_out(self.adapter, h[0], clip, case.make_config())[None], []

    model.model.adapter = WrittenOut(model.model.adapter)
    torch.testing.assert_close(logits_of(model, batch), found, rtol=0, atol=1e-5 * found.abs().max().item())


# Query tokens in the prompt


def test_the_prompt_ends_with_its_queries_and_the_answer_sees_them() -> None:
    case = iva_case("llama")
    model, batch = case.make_model(), one_video(case, 3)
    is_query = batch["input_ids"][0] == QUERY
    first = int(is_query.int().argmax())
    assert is_query.nonzero().flatten().tolist() == [first, first + 1, first + 2]
    before = logits_of(model, batch)
    with torch.no_grad():
        model.model.query_tokens.weight.add_(1.0)
    moved = (logits_of(model, batch) - before)[0].abs().amax(-1)
    assert (moved[:first] == 0).all(), "what stands before the queries does not see them"
    assert (moved[first:] > 1e-2).all()
    assert int((batch["input_ids"] == VIDEO).sum()) == 6, "two placeholders per frame"
