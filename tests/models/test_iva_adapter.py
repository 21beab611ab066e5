"""The adapter of IVA against its equations written out, patch by patch projected as the paper has them."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from hf_videollm.models.configuration_iva import IvaConfig
from hf_videollm.models.iva_adapter import IvaAdapter, IvaAdapterLayer, IvaProjection
from hf_videollm.models.iva_frames import FrameBank, MediumFrames
from hf_videollm.models.modeling_iva import IvaModel

QUERIES, PATCHES, VISION, WIDTH, TEXT = 5, 7, 10, 12, 16


def make_config(**options: Any) -> IvaConfig:
    return IvaConfig(
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": VISION,
            "num_attention_heads": 2,
            "intermediate_size": 8,
            "num_hidden_layers": 2,
            "image_size": 8,
            "patch_size": 4,
        },
        text_config={
            "model_type": "llama",
            "hidden_size": TEXT,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "intermediate_size": 8,
            "vocab_size": 50,
        },
        **{
            "adapter_hidden_size": WIDTH,
            "num_adapter_layers": 2,
            "num_query_tokens": QUERIES,
            "num_insertions": 2,
            "causal_num_heads": 2,
            "causal_num_layers": 1,
            **options,
        },
    )


def make_adapter(dtype: torch.dtype = torch.float64, **options: Any) -> IvaAdapter:
    """An adapter with weights and biases that matter."""
    adapter = IvaAdapter(make_config(**options)).to(dtype)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapter.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(noise * (0.6 * parameter.shape[1] ** -0.5 * 2 if parameter.ndim == 2 else 0.5))
    return adapter


@dataclass
class EncodedClip:
    """Features of the frames of one row."""

    g: torch.Tensor
    f: torch.Tensor

    def medium(self, *sizes: int) -> MediumFrames:
        """In chunks of `sizes` frames; in one if there are none."""
        return MediumFrames(self.g, self.f.split(sizes or (len(self.f),)))


def make_clip(num_frames: int, seed: int, dtype: torch.dtype = torch.float64) -> EncodedClip:
    generator = torch.Generator().manual_seed(seed)
    frame = torch.randn((num_frames, 1, VISION), generator=generator, dtype=torch.float64)
    patches = torch.randn((num_frames, PATCHES, VISION), generator=generator, dtype=torch.float64)
    g = torch.randn((num_frames, VISION), generator=generator, dtype=torch.float64)
    return EncodedClip(g.to(dtype), (frame + patches).to(dtype))


def make_bank(*media: MediumFrames, rows: list[int] | None = None) -> FrameBank:
    return FrameBank(media, torch.tensor(rows or [0] * len(media)), torch.full((len(media),), -1))


def see_own(bank: FrameBank, num_rows: int, num_queries: int = QUERIES) -> torch.Tensor:
    return (bank.rows == torch.arange(num_rows)[:, None, None]).expand(-1, num_queries, -1)


def make_queries(num_rows: int = 1, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(9)
    return torch.randn((num_rows, QUERIES, TEXT), generator=generator, dtype=torch.float64).to(dtype)


def linear(module: torch.nn.Module, values: torch.Tensor) -> torch.Tensor:
    return F.linear(values, module.weight, module.bias)


def written_out_selection(
    layer: IvaAdapterLayer, x: torch.Tensor, clip: EncodedClip, tau: float
) -> tuple[torch.Tensor, ...]:
    """Eq. 3: A, and S of every query, `(queries, patches, width)`."""
    q, k = linear(layer.selector.query, x), linear(layer.selector.key, clip.g)
    weights = torch.softmax(q @ k.T / tau, dim=-1)
    transported = linear(layer.interactor.trans, clip.f)
    return weights, torch.einsum("mn,npd->mpd", weights, transported)


def written_out(adapter: IvaAdapter, h: torch.Tensor, clip: EncodedClip, config: IvaConfig) -> torch.Tensor:
    """Eq. 3 and 4 for one row: what is added to h, `(queries, text_width)`."""
    x = F.layer_norm(h, h.shape[-1:], adapter.norm.weight, adapter.norm.bias) @ adapter.input.weight.T
    for layer in adapter.layers:
        _, selected = written_out_selection(layer, x, clip, config.selector_temperature)
        part = layer.interactor
        q, k, v = linear(part.query, x), linear(part.key, selected), linear(part.value, selected)
        logits = torch.einsum("md,mpd->mp", q, k)
        if config.scale_interactor:
            logits = logits / config.adapter_hidden_size**0.5
        c = torch.einsum("mp,mpd->md", torch.softmax(logits, dim=-1), v)
        output = linear(part.mlp[2], F.gelu(linear(part.mlp[0], c))) + c
        x = x + output if config.adapter_residual else output
    return x @ adapter.output.weight.T


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_folded_form_equals_the_equations(scale: bool, residual: bool) -> None:
    options = {"scale_interactor": scale, "adapter_residual": residual, "selector_temperature": 0.7}
    adapter, h, clip = make_adapter(**options), make_queries(), make_clip(6, 1)
    bank = make_bank(clip.medium(4, 2))
    change, selections = adapter(h, see_own(bank, 1), bank)
    expected = written_out(adapter, h[0], clip, make_config(**options))
    torch.testing.assert_close(change[0], expected, rtol=0, atol=1e-10)
    x = adapter.input(adapter.norm(h))
    torch.testing.assert_close(selections[0], written_out_selection(adapter.layers[0], x[0], clip, 0.7)[0][None])
    # Control: every option, and other frames, would show.
    for other in ({**options, "scale_interactor": not scale}, {**options, "adapter_residual": not residual}):
        assert (written_out(adapter, h[0], clip, make_config(**other)) - expected).abs().max() > 0.01
    assert (written_out(adapter, h[0], make_clip(6, 2), make_config(**options)) - expected).abs().max() > 0.01


def test_folded_form_in_float32() -> None:
    adapter, clip = make_adapter(torch.float32), make_clip(6, 1, torch.float32)
    bank = make_bank(clip.medium())
    change, _ = adapter(make_queries(dtype=torch.float32), see_own(bank, 1), bank)
    expected = written_out(adapter.double(), make_queries()[0], make_clip(6, 1), make_config())
    torch.testing.assert_close(change[0].double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("frames_per_chunk", [None, 1, 3, 64])
@pytest.mark.parametrize("sizes", [(11,), (4, 4, 3), (1,) * 11, (2, 9)], ids=str)
def test_chunks_of_frames_change_nothing(frames_per_chunk: int | None, sizes: tuple[int, ...]) -> None:
    adapter, h, clip = make_adapter(frames_per_chunk=frames_per_chunk), make_queries(), make_clip(11, 1)
    bank = make_bank(clip.medium(*sizes))
    change, _ = adapter(h, see_own(bank, 1), bank)
    torch.testing.assert_close(change[0], written_out(adapter, h[0], clip, make_config()), rtol=0, atol=1e-10)


def test_every_row_sees_its_own_frames() -> None:
    adapter, h = make_adapter(), make_queries(3)
    clips = [make_clip(3, 1), make_clip(5, 2), make_clip(2, 3)]
    # Row 0 has the second clip, row 2 the two others, row 1 none.
    bank = make_bank(clips[0].medium(2, 1), clips[1].medium(4, 1), clips[2].medium(), rows=[2, 0, 2])
    change, _ = adapter(h, see_own(bank, 3), bank)
    both = EncodedClip(torch.cat([clips[0].g, clips[2].g]), torch.cat([clips[0].f, clips[2].f]))
    for row, clip in ((0, clips[1]), (2, both)):
        torch.testing.assert_close(change[row], written_out(adapter, h[row], clip, make_config()), rtol=0, atol=1e-10)
    assert change[1].isfinite().all(), "a row without frames must not spoil a batch"
    clips[1].f.fill_(torch.nan)
    again, _ = adapter(h, see_own(bank, 3), bank)
    assert again[0].isnan().all()
    assert torch.equal(again[2], change[2]), "one row looked at the patches of another"


def test_queries_do_not_see_each_other() -> None:
    adapter, h, clip = make_adapter(), make_queries(), make_clip(6, 1)
    bank = make_bank(clip.medium())
    change, _ = adapter(h, see_own(bank, 1), bank)
    twice, _ = adapter(torch.cat([h[:, 2:], h], 1), see_own(bank, 1, 2 * QUERIES - 2), bank)
    torch.testing.assert_close(twice[:, QUERIES - 2 :], change, rtol=0, atol=1e-12)


def test_frames_that_a_query_must_not_see_are_as_if_absent() -> None:
    adapter, h, clip = make_adapter(), make_queries(), make_clip(6, 1)
    bank = make_bank(clip.medium())
    visible = see_own(bank, 1).clone()
    visible[:, :2, 4:] = False
    change, selections = adapter(h, visible, bank)
    first = EncodedClip(clip.g[:4], clip.f[:4])
    config = make_config()
    torch.testing.assert_close(change[0, :2], written_out(adapter, h[0], first, config)[:2], rtol=0, atol=1e-10)
    torch.testing.assert_close(change[0, 2:], written_out(adapter, h[0], clip, config)[2:], rtol=0, atol=1e-10)
    assert all((weights[0, :2, 4:] == 0).all() and (weights[0, 2:, 4:] > 0).all() for weights in selections)


def test_gradients_equal_those_of_the_equations() -> None:
    """For all parameters, queries and, where the vision tower is trained, features."""
    adapter, config = make_adapter(), make_config()
    results = []
    for form in ("folded", "written out"):
        h, clip = make_queries().requires_grad_(), make_clip(5, 1)
        clip.g.requires_grad_()
        clip.f.requires_grad_()
        adapter.zero_grad()
        if form == "folded":
            bank = make_bank(clip.medium(3, 2))
            change = adapter(h, see_own(bank, 1), bank)[0][0]
        else:
            change = written_out(adapter, h[0], clip, config)
        (change * torch.arange(change.numel()).reshape(change.shape)).sum().backward()
        found = {name: parameter.grad.clone() for name, parameter in adapter.named_parameters()}
        results.append({**found, "h": h.grad, "g": clip.g.grad, "f": clip.f.grad})
    for name, expected in results[1].items():
        torch.testing.assert_close(results[0][name], expected, rtol=1e-8, atol=1e-8, msg=name)
        inert = name.endswith("key.bias")
        assert (expected.abs().max() > 1e-3) != inert, f"{name}: {expected.abs().max()}"


def test_a_projection_seen_from_its_queries() -> None:
    projection = IvaProjection(4, 6).double()
    with torch.no_grad():
        projection.weight.normal_()
        projection.bias.normal_()
    queries, keys = torch.randn(3, 6).double(), torch.randn(5, 4).double()
    folded, offset = projection(queries, of_queries=True)
    torch.testing.assert_close(folded @ keys.T + offset, queries @ projection(keys).T)


def test_long_videos_in_half_precision() -> None:
    """Thousands of small shares in bfloat16: summed up in bfloat16 they would stop growing."""
    adapter = make_adapter(torch.bfloat16, frames_per_chunk=1)
    num_frames = 2000
    medium = MediumFrames(
        torch.zeros(num_frames, VISION, dtype=torch.bfloat16),
        [torch.ones(num_frames, PATCHES, VISION, dtype=torch.bfloat16)],
    )
    bank = make_bank(medium)
    with torch.no_grad():
        x = adapter.input(adapter.norm(make_queries(dtype=torch.bfloat16)))
        mixed, weights = adapter.layers[0].selector(x, see_own(bank, 1), bank)
    assert (mixed.float() - 1).abs().max() < 0.01
    assert weights.dtype == torch.float32
    total = torch.zeros((), dtype=torch.bfloat16)
    for _ in range(num_frames):
        total = total + torch.tensor(1 / num_frames, dtype=torch.bfloat16)
    assert total < 0.9, "the control: bfloat16 cannot add them up"


def test_sizes_of_the_paper() -> None:
    """67.2 million parameters with the query tokens, 14.7 million a pair."""
    vision = {"model_type": "clip_vision_model", "hidden_size": 1024, "num_attention_heads": 16}
    text = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32}
    config = IvaConfig(vision_config=vision, text_config=text)
    with torch.device("meta"):
        adapter = IvaAdapter(config)
    pair = sum(parameter.numel() for parameter in adapter.layers[0].parameters())
    assert round(pair / 1e6, 1) == 14.7
    total = sum(parameter.numel() for parameter in adapter.parameters())
    assert round((total + config.num_query_tokens * 4096) / 1e6, 1) == 67.2


def test_initial_weights() -> None:
    """The output is zero; products of the selector have about variance 1 behind tau, at any width."""
    for width, vision in ((64, 32), (256, 512)):
        config = make_config(adapter_hidden_size=width)
        config.vision_config.hidden_size = vision
        torch.manual_seed(0)
        model = IvaModel(config)
        adapter = model.adapter
        assert not adapter.output.weight.any()
        assert abs(adapter.input.weight.std() * TEXT**0.5 - 1) < 0.1
        assert abs(adapter.layers[0].interactor.trans.weight.std() * vision**0.5 - 1) < 0.1
        assert not any(p.any() for n, p in adapter.named_parameters() if n.endswith("bias"))
        selector = adapter.layers[1].selector
        with torch.no_grad():
            q, k = selector.query(torch.randn(500, width)), selector.key(torch.randn(500, vision))
        variance = (q @ k.T / config.selector_temperature).var()
        assert 0.5 < variance < 2, f"width {width}: {variance}"
        assert 0.015 < model.query_tokens.weight.std() < 0.025
