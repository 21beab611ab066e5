"""LinVT's module: parity with the reference tensors and with plain code written from the equations, and its uses.

The properties of docs/designs/linvt.md#properties are in `test_linvt_properties.py`.
"""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_videollm.models.configuration_linvt import LinVTModuleConfig, num_windows
from hf_videollm.models.linvt_layers import LinVTAttention, pool_tokens, spread_weights, window_sizes
from hf_videollm.models.linvt_module import LinVTModule, choose_tokens, join_selections, sinusoidal_code
from hf_videollm.models.transformers_compat import enable_checkpointing

WIDTH = 16
VARIANTS = ("multi_c", "multi_b", "multi_a", "single_a")


def make_config(**overrides: Any) -> LinVTModuleConfig:
    """8, 4 and 2 queries over 12 tokens, in two layers."""
    sizes = {"num_layers": 2, "num_attention_heads": 4, "num_selected_tokens": 12, "num_queries": (8, 4, 2)}
    return LinVTModuleConfig(**{**sizes, **overrides})


def make_module(seed: int = 0, spread: float = 1.5, **overrides: Any) -> LinVTModule:
    """A module whose queries look at different tokens; the larger the spread of its weights, the fewer."""
    torch.manual_seed(seed)
    module = LinVTModule(WIDTH, make_config(**overrides))
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("queries"):
                parameter.normal_()
            elif parameter.dim() == 2:
                parameter.normal_(std=spread * WIDTH**-0.5)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


def make_tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------ reference tensors

CASES = ("b1", "b2_masked", "few_tokens", "overlap", "k11_ragged", "no_text")


class Golden:
    """The module of `goldens/linvt/spec_reference` and the tensors of one case."""

    def __init__(self, goldens: Path, case: str) -> None:
        folder = goldens / "linvt" / "spec_reference"
        meta = json.loads((folder / "meta.json").read_text())
        self.info = meta["cases"][case]
        tensors = load_file(folder / "tensors.safetensors")
        self.tensors = {
            name.removeprefix(f"{case}."): tensor for name, tensor in tensors.items() if name.startswith(f"{case}.")
        }
        weights = load_file(folder / "state_dict.safetensors")
        weights["tta.queries"] = torch.cat([weights.pop(f"tta.queries.{scale}") for scale in range(3)])
        config = LinVTModuleConfig(
            num_layers=meta["layers"],
            num_attention_heads=meta["heads"],
            num_selected_tokens=self.info["k"],
            num_queries=meta["queries"],
            pool_windows=meta["windows"],
            overlapping_windows=self.info["stride"] != "w",
            layer_norm_eps=meta["layer_norm_eps"],
            time_code="none",
        )
        self.module = LinVTModule(meta["D"], config).eval()
        self.module.load_state_dict(weights)

    def run(self) -> dict[str, torch.Tensor]:
        """All steps, under the names of the reference."""
        given, module = self.tensors, self.module
        queries: list[torch.Tensor] = []
        attention: list[torch.Tensor] = []

        def note(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            queries.append(inputs[0])
            attention.append(output)

        hook = module.tta.aggregator.register_forward_hook(note)
        with torch.no_grad():
            selection = module.select(given["visual"], given.get("frame_mask"))
            output, matrix = module.aggregate(selection, given.get("text"), given.get("text_mask"), return_map=True)
        hook.remove()
        found = {"scores": selection.scores, "indices": selection.indices, "selected": selection.tokens}
        found |= {"output": output, "map": matrix}
        for scale, (window, stride) in enumerate(module.config.windows()):
            found[f"scale{scale}.tokens"] = pool_tokens(selection.tokens, selection.mask, window, stride)
            found[f"scale{scale}.token_mask"] = window_sizes(selection.mask, window, stride) > 0
            found[f"scale{scale}.queries"] = queries[scale]
            found[f"scale{scale}.attention"] = attention[scale]
        return found


@pytest.mark.parametrize("case", CASES)
def test_parity_with_every_reference_tensor(goldens: Path, case: str) -> None:
    golden = Golden(goldens, case)
    found = golden.run()
    expected = {
        name: tensor
        for name, tensor in golden.tensors.items()
        if name not in ("visual", "text", "frame_mask", "text_mask")
    }
    # Of two cases the reference holds inputs and facts only.
    assert set(expected) == (set() if case in ("b2_masked", "k11_ragged") else set(found))
    for name, tensor in expected.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(
                found[name], tensor, atol=5e-6, rtol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
            )
        else:
            assert torch.equal(found[name], tensor.to(found[name].dtype)), name


@pytest.mark.parametrize("case", CASES)
def test_facts_of_the_reference(goldens: Path, case: str) -> None:
    """The gap between the last score that is kept and the next, and the shape of what comes out."""
    golden = Golden(goldens, case)
    found = golden.run()
    assert list(found["output"].shape) == golden.info["out"]
    ranked = found["scores"].flatten(1).sort(descending=True).values
    if golden.info["checks"]["min_score_gap"] is not None:
        gap = (ranked[:, golden.info["k"] - 1] - ranked[:, golden.info["k"]]).min().item()
        assert gap == pytest.approx(golden.info["checks"]["min_score_gap"], abs=3e-6)


@pytest.mark.parametrize("case", CASES)
def test_reference_inputs_through_plain_code(goldens: Path, case: str) -> None:
    """Also where the reference has inputs only; each sample by itself, its padding cut off."""
    golden = Golden(goldens, case)
    found, given = golden.run(), golden.tensors
    for row, visual in enumerate(given["visual"]):
        frames = given["frame_mask"][row].bool() if "frame_mask" in given else slice(None)
        text = given["text"][row] if "text" in given else None
        if "text_mask" in given:
            text = text[given["text_mask"][row].bool()]
        expected = plain_linvt(golden.module, visual[frames], text)
        torch.testing.assert_close(found["output"][row].double(), expected, atol=5e-6, rtol=1e-5)


# ------------------------------------------------------------------------------------- plain code, one video, float64


def plain_attention(layer: LinVTAttention, query: Any, key: Any, value: Any) -> torch.Tensor:
    """`(length, width)` each; one head after the other."""

    def project(linear: nn.Linear, states: torch.Tensor) -> torch.Tensor:
        return states @ linear.weight.double().T + linear.bias.double()

    q, k, v = project(layer.q_proj, query), project(layer.k_proj, key), project(layer.v_proj, value)
    width = q.shape[1] // layer.num_heads
    heads = []
    for head in range(layer.num_heads):
        part = slice(head * width, (head + 1) * width)
        heads.append(torch.softmax(q[:, part] @ k[:, part].T / math.sqrt(width), dim=1) @ v[:, part])
    return project(layer.o_proj, torch.cat(heads, dim=1))


def plain_norm(norm: nn.LayerNorm, states: torch.Tensor) -> torch.Tensor:
    centred = states - states.mean(-1, keepdim=True)
    scaled = centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + norm.eps)
    return scaled * norm.weight.double() + norm.bias.double()


def plain_windows(rows: torch.Tensor, window: int, stride: int) -> torch.Tensor:
    """Means of windows until one has reached the last row."""
    means, start = [], 0
    while True:
        means.append(rows[start : start + window].mean(0))
        if start + window >= len(rows):
            return torch.stack(means)
        start += stride


@torch.no_grad()
def plain_linvt(
    module: LinVTModule, video: torch.Tensor, text: torch.Tensor | None, times: list[float] | None = None
) -> torch.Tensor:
    """The equations of docs/designs/linvt.md for one video `(T, N, D)` without padding, in float64: `(n, D)`."""
    config = module.config
    video = video.double()
    num_frames, num_positions, width = video.shape
    code = torch.zeros(num_frames, width, dtype=torch.float64)
    if config.time_code == "sinusoidal":
        size = video.square().mean().sqrt()
        for frame in range(num_frames):
            time = frame if times is None else times[frame]
            for channel in range(width):
                angle = time / 10000 ** ((channel - channel % 2) / width)
                code[frame, channel] = size * (math.cos(angle) if channel % 2 else math.sin(angle))
    states = video + code[:, None]
    for layer in module.svr.layers:
        for frame in range(num_frames):
            normed = plain_norm(layer.norm_spatial, states[frame])
            states[frame] = states[frame] + plain_attention(layer.spatial_attn, normed, normed, normed)
        for position in range(num_positions):
            normed = plain_norm(layer.norm_temporal, states[:, position])
            states[:, position] = states[:, position] + plain_attention(layer.temporal_attn, normed, normed, normed)
    scores = plain_norm(module.svr.norm, states) @ module.svr.score.weight[0].double() + module.svr.score.bias.double()
    ranked = sorted(range(scores.numel()), key=lambda index: (-scores.flatten()[index].item(), index))
    chosen = sorted(ranked[: config.num_selected_tokens])
    tokens = video.flatten(0, 1)[chosen]
    keys = tokens + code[[index // num_positions for index in chosen]]
    strides = [max(1, window // 2) if config.overlapping_windows else window for window in config.pool_windows]
    scales = list(zip(config.pool_windows, strides, strict=True))
    pooled = [(plain_windows(tokens, *scale), plain_windows(keys, *scale)) for scale in scales]
    groups = {
        "multi_c": pooled,
        "multi_b": [tuple(torch.cat(parts) for parts in zip(*pooled, strict=True))],
        "multi_a": [(tokens, keys)],
        "single_a": [(tokens, keys)],
    }[config.variant]
    outputs = []
    for queries, (values, group_keys) in zip(module.tta.queries.split(config.query_groups), groups, strict=True):
        queries = queries.double()
        for layer in module.tta.layers:
            queries = plain_norm(layer.norm_self, queries + plain_attention(layer.self_attn, queries, queries, queries))
            seen = plain_attention(layer.visual_attn, queries, group_keys, values)
            queries = plain_norm(layer.norm_visual, queries + seen)
            if text is not None:
                queries = queries + plain_attention(layer.text_attn, queries, text.double(), text.double())
            queries = plain_norm(layer.norm_text, queries)
        q, k = module.tta.aggregator.q_proj, module.tta.aggregator.k_proj
        left = queries @ q.weight.double().T + q.bias.double()
        right = group_keys @ k.weight.double().T + k.bias.double()
        outputs.append(torch.softmax(left @ right.T / math.sqrt(width), dim=1) @ values)
    output = torch.cat(outputs)
    return torch.cat([plain_windows(output, *scale) for scale in scales]) if config.variant == "multi_a" else output


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_against_plain_code(variant: str, overlapping: bool) -> None:
    """Each gives as many tokens; with times in seconds, a ragged last window, and a question."""
    queries = (8, 7, 3) if overlapping else (8, 4, 2)
    module = make_module(variant=variant, overlapping_windows=overlapping, num_queries=queries, num_selected_tokens=11)
    video, question, times = make_tokens(1, 4, 5), make_tokens(1, 3, seed=1), torch.tensor([[0.0, 0.7, 1.9, 8.0]])
    with torch.no_grad():
        output, matrix = module(video, text_embeddings=question, frame_times=times, return_map=True)
    assert output.shape == (1, module.config.num_output_tokens, WIDTH)
    expected = plain_linvt(module, video[0], question[0], times[0].tolist())
    torch.testing.assert_close(output[0].double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(matrix @ video.flatten(1, 2), output, atol=1e-5, rtol=0)
    assert (matrix != 0).any(1).sum() <= 11


def test_variants_differ() -> None:
    video = make_tokens(1, 4, 5)
    outputs = [make_module(variant=variant)(video) for variant in VARIANTS]
    for index, output in enumerate(outputs):
        assert all((output - other).abs().max() > 0.01 for other in outputs[:index])


# --------------------------------------------------------------------------------------------------------- the steps


def test_equal_scores_go_to_the_earlier_token() -> None:
    scores = torch.tensor([[0.0, 2.0, 1.0, 1.0, 1.0, 2.0]])
    indices, mask = choose_tokens(scores, 4)
    assert indices.tolist() == [[1, 2, 3, 5]]
    assert mask.all()


def test_tokens_that_are_none_stand_behind() -> None:
    """Padding in front, as in a batch that someone padded on the left."""
    scores = torch.tensor([[-math.inf, -math.inf, 0.0, 3.0, 2.0, 1.0]])
    indices, mask = choose_tokens(scores, 5)
    assert indices[mask].tolist() == [2, 3, 4, 5]
    assert mask.tolist() == [[True, True, True, True, False]]


@pytest.mark.parametrize(("length", "window", "stride"), [(7, 4, 4), (7, 4, 2), (3, 4, 4), (8, 2, 1), (1, 1, 1)])
def test_windows_by_hand(length: int, window: int, stride: int) -> None:
    """Rows of other lengths in the batch change nothing, and weights spread back give the same means."""
    tokens, mask = make_tokens(2, 9), torch.arange(9) < torch.tensor([[9], [length]])
    expected = plain_windows(tokens[1, :length], window, stride)
    pooled = pool_tokens(tokens, mask, window, stride)
    sizes = window_sizes(mask, window, stride)
    assert len(expected) == num_windows(length, window, stride) == (sizes[1] > 0).sum()
    torch.testing.assert_close(pooled[1, : len(expected)], expected)
    assert (pooled[1, len(expected) :] == 0).all()
    weights = torch.rand(2, 3, pooled.shape[1]) * (sizes > 0).unsqueeze(1)
    torch.testing.assert_close(spread_weights(weights, mask, window, stride) @ tokens, weights @ pooled)


def test_time_code_is_sine_and_cosine_by_turns() -> None:
    code = sinusoidal_code(torch.tensor([0.0, 2.5]), 5)
    angles = [2.5, 2.5 * 10000**-0.4, 2.5 * 10000**-0.8]
    expected = [math.sin(angles[0]), math.cos(angles[0]), math.sin(angles[1]), math.cos(angles[1]), math.sin(angles[2])]
    torch.testing.assert_close(code, torch.tensor([[0.0, 1.0, 0.0, 1.0, 0.0], expected]))


def test_time_code_is_as_large_as_the_tokens() -> None:
    """So the choice and the weights do not depend on the size of the features."""
    module = make_module(num_layers=1)
    small = module.select(make_tokens(1, 4, 3) * 0.02)
    assert small.frame_codes is not None
    # A sine and its cosine: half of the channels' power.
    assert small.frame_codes.square().mean().sqrt() == pytest.approx(0.02 * math.sqrt(0.5), rel=0.1)


def scores_of(module: LinVTModule, video: torch.Tensor, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Output of the module, and the scores that it was made by, which keep their gradient."""
    scores: list[torch.Tensor] = []
    keep = module.svr.register_forward_hook(lambda _, inputs, output: scores.append(output) or output.retain_grad())
    output = module(video, **options)
    keep.remove()
    return output, scores[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_get_the_gradient_of_weighing_their_tokens(variant: str) -> None:
    """What more weight for a token would do: the derivative of a softmax over M exp(standardised score)."""
    pools = (
        {"num_queries": (8, 4, 2)} if variant != "multi_a" else {"num_queries": (8, 4, 2), "pool_windows": (1, 2, 4)}
    )
    module, video = make_module(variant=variant, **pools), make_tokens(1, 4, 5)
    direction = make_tokens(1, 14, seed=3)
    output, scores = scores_of(module, video)
    (output * direction).sum().backward()
    with torch.no_grad():
        plain, linear_map = module(video, return_map=True)
    assert torch.equal(output, plain), "nothing but a gradient is added"
    own = scores.detach().flatten().requires_grad_()
    chosen = module.select(video).indices[0]
    kept = own[chosen]
    standardised = (kept - kept.mean()) / kept.std(correction=0)
    weights = linear_map[0, :, chosen] * (standardised - standardised.detach()).exp()
    weighed = (weights / weights.sum(-1, keepdim=True)) @ video.flatten(1, 2)[0, chosen]
    (weighed * direction[0]).sum().backward()
    assert own.grad is not None
    torch.testing.assert_close(scores.grad.flatten(), own.grad, atol=1e-5, rtol=1e-3)
    assert own.grad.abs().max() > 1e-2, "Control: there is a gradient to compare"


def test_tokens_that_were_not_chosen_get_no_gradient() -> None:
    module, video = make_module(), make_tokens(1, 4, 5)
    output, scores = scores_of(module, video)
    output.square().sum().backward()
    chosen = torch.zeros(20, dtype=torch.bool)
    chosen[module.select(video).indices[0]] = True
    assert scores.grad.flatten()[~chosen].abs().max() == 0
    assert scores.grad.flatten()[chosen].abs().min() > 0


@pytest.mark.parametrize(("level", "scale"), [(100.0, 1.0), (-30.0, 1.0), (0.0, 10.0), (0.0, 0.1)])
def test_level_and_scale_of_the_scores_teach_nothing(level: float, scale: float) -> None:
    """They mean nothing to the choice; with a gradient of their own they would drift until the scorer stops."""
    video, gradients = make_tokens(2, 4, 5), []
    for change in (False, True):
        module = make_module()
        head = module.svr.score
        if change:
            with torch.no_grad():
                head.weight.mul_(scale)
                head.bias.mul_(scale).add_(level)
        output, scores = scores_of(module, video, frame_mask=torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]))
        output.square().sum().backward()
        gradients.append(scores.grad * (scale if change else 1))
        size = scores.grad.abs().max()
        assert head.bias.grad.abs().max() < 1e-4 * size, "the level has no gradient"
        held = scores.detach().nan_to_num(neginf=0.0)
        assert (scores.grad * (held - held.mean())).sum().abs() < 1e-2 * size * held.std(), "nor has the scale"
    torch.testing.assert_close(gradients[1], gradients[0], atol=2e-3, rtol=2e-2)


def test_a_gate_on_the_tokens_would_teach_a_level() -> None:
    """Control: the usual straight-through factor is a sigmoid of the score, and moves all scores together."""
    module, video = make_module(), make_tokens(1, 4, 5)
    selection = module.select(video)
    scores = module.svr(video + selection.frame_codes.unsqueeze(2)).flatten(1).gather(1, selection.indices)
    gates = scores.sigmoid()
    tokens = selection.tokens * (1 + gates - gates.detach()).unsqueeze(-1)
    module.aggregate(replace(selection, tokens=tokens, score_changes=None)).square().sum().backward()
    assert module.svr.score.bias.grad.abs() > 0.1


@pytest.mark.parametrize("size", [0.02, 1.0])
def test_the_scorer_goes_on_learning(size: float) -> None:
    """Whatever the size of the tokens: fifty steps of AdamW, and its gradient is of the aggregator's order."""
    torch.manual_seed(0)
    module = make_module().train()
    tokens = size * (torch.randn(1, 4, 8, WIDTH) + 2 * torch.randn(WIDTH))
    question, wanted = size * torch.randn(1, 6, WIDTH), tokens.flatten(1, 2)[:, :14] * 3
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    for _ in range(51):
        optimizer.zero_grad()
        (module(tokens, text_embeddings=question) - wanted).square().mean().backward()
        scorer, aggregator = (
            sum(parameter.grad.square().sum() for parameter in part.parameters()).sqrt()
            for part in (module.svr, module.tta)
        )
        optimizer.step()
    assert scorer > 0.01 * aggregator


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_change_no_value(variant: str) -> None:
    module, video, question = make_module(variant=variant), make_tokens(2, 4, 5), make_tokens(2, 3, seed=1)
    options = {"frame_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]), "text_embeddings": question}
    found = module(video, return_map=True, **options)
    with torch.no_grad():
        expected = module(video, return_map=True, **options)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_videos_of_one_token_and_of_equal_tokens_give_finite_gradients() -> None:
    for video in (make_tokens(1, 1, 1), make_tokens(1, 1, 1).expand(1, 4, 5, WIDTH)):
        module = make_module(time_code="none")
        module(video).square().sum().backward()
        assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in module.parameters())


def test_selections_carry_the_way_back_to_their_scores() -> None:
    """Also for several questions on a video, and beside videos that were scored without gradients."""
    module, videos = make_module(), make_tokens(2, 4, 5)
    question = make_tokens(3, 6, seed=1)
    with torch.no_grad():
        plain = module.select(videos[1:])
    assert plain.score_changes is None
    trained = module.select(videos[:1])
    joined = join_selections([plain, trained.take(torch.tensor([0, 0]))])
    module.aggregate(joined, question)[1:].square().sum().backward(retain_graph=True)
    found = {name: parameter.grad for name, parameter in module.svr.named_parameters()}
    assert all(gradient is not None for gradient in found.values())
    assert found["score.weight"].abs().max() > 1e-3
    module.zero_grad()
    module.aggregate(joined.take(torch.tensor([0])), question[:1]).square().sum().backward()
    assert all(parameter.grad is None or parameter.grad.abs().max() == 0 for parameter in module.svr.parameters())


def test_rows_of_a_batch_are_the_selections_of_its_videos() -> None:
    """Cutting a batch into its videos and joining them again changes nothing; a video is as it is by itself."""
    module, lengths = make_module(), [2, 5, 3]
    videos = [make_tokens(length, 3, seed=length) for length in lengths]
    tokens = nn.utils.rnn.pad_sequence(videos, batch_first=True)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    with torch.no_grad():
        batch = module.select(tokens, mask)
        rows = [batch.row(number, length, 3) for number, length in enumerate(lengths)]
        alone = [module.select(video.unsqueeze(0)) for video in videos]
    for row, own in zip(rows, alone, strict=True):
        for name, value in vars(own).items():
            if value is not None:
                torch.testing.assert_close(getattr(row, name), value, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        whole, joined = module.aggregate(batch), module.aggregate(join_selections(rows))
        assert torch.equal(joined, whole)
        swapped = module.aggregate(join_selections(rows[::-1]))
    assert not torch.allclose(swapped, whole, atol=1e-3), "the order of the rows must count"


def test_noise_lets_other_tokens_in_while_training() -> None:
    module, video = make_module(selection_noise=1.0), make_tokens(1, 4, 5)
    best = module.select(video).indices
    assert torch.equal(module.select(video).indices, best), "not outside of training"
    module.train()
    drawn = [module.select(video, torch.tensor([[1, 1, 1, 0]])) for _ in range(5)]
    assert len({tuple(selection.indices[0].tolist()) for selection in drawn}) > 1
    assert all(selection.indices.max() < 15 for selection in drawn), "padding never comes in"
    module.config.selection_noise = 0.0
    assert torch.equal(module.select(video).indices, best)


def test_videos_without_a_question_leave_no_parameter_out() -> None:
    """In training: processes whose rows have a question would wait for those whose rows have none."""
    module, video = make_module().train(), make_tokens(2, 4, 5)
    output = module(video)
    output.square().sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert all(parameter.grad.abs().max() == 0 for parameter in module.tta.layers[0].text_attn.parameters())
    assert torch.equal(module.eval()(video), output), "and change no value"


# ---------------------------------------------------------------------------------------------------------- its uses


def test_a_video_is_scored_once_for_many_questions() -> None:
    module = make_module()
    video, questions = make_tokens(2, 4, 5), make_tokens(3, 6, seed=1)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    rows = torch.tensor([0, 0, 1])
    with torch.no_grad():
        taken = module.select(video, mask).take(rows)
        module.svr.forward = None  # type: ignore[assignment]  # nothing is scored from here on
        reused = module.aggregate(taken, questions)
        del module.svr.forward
        torch.testing.assert_close(reused, module(video[rows], mask[rows], questions), atol=1e-6, rtol=1e-5)
    assert (reused[0] - reused[1]).abs().max() > 1e-3


@pytest.mark.parametrize("limit", [1, 7, 10])
def test_chunks_change_nothing(limit: int) -> None:
    whole, chunked = make_module(scorer_chunk_tokens=None), make_module(scorer_chunk_tokens=limit)
    video, mask = make_tokens(2, 4, 5), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    torch.testing.assert_close(chunked.select(video, mask).scores, whole.select(video, mask).scores)


class Holder(PreTrainedModel):
    """A model that holds the module, for what transformers does to models."""

    config_class = PreTrainedConfig
    supports_gradient_checkpointing = True

    def __init__(self, module: LinVTModule) -> None:
        super().__init__(PreTrainedConfig())
        self.linvt = module


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant: bool) -> None:
    video, question = make_tokens(2, 4, 5), make_tokens(2, 3, seed=1)
    gradients, calls = [], []
    for checkpointing in (False, True):
        model = Holder(make_module(scorer_chunk_tokens=10)).train()
        if checkpointing:
            enable_checkpointing(model, {"use_reentrant": reentrant})
        attention = model.linvt.svr.layers[0].spatial_attn
        attention.register_forward_pre_hook(lambda *_, turn=checkpointing: calls.append(turn))
        model.linvt(video, text_embeddings=question).square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert calls.count(True) == 2 * calls.count(False), "every chunk is computed again"
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(
            gradients[1][name], gradient, atol=1e-5, rtol=1e-4, msg=lambda text, n=name: n + text
        )


def test_bfloat16_gives_what_float32_gives_to_its_precision() -> None:
    module = make_module(num_selected_tokens=64)
    video, question = make_tokens(1, 4, 5), make_tokens(1, 3, seed=1)
    with torch.no_grad():
        expected, matrix = module(video, text_embeddings=question, return_map=True)
        output, rough = module.bfloat16()(video.bfloat16(), text_embeddings=question.bfloat16(), return_map=True)
    assert output.dtype == torch.bfloat16
    assert rough.dtype == torch.float32
    assert (rough.sum(-1) - 1).abs().max() < 1e-5, "weights are softmaxed in float32"
    torch.testing.assert_close(rough, matrix, atol=0.02, rtol=0.2)
    torch.testing.assert_close(output.float(), expected, atol=0.1, rtol=0.05)
    mixed = rough @ video.bfloat16().float().flatten(1, 2)
    torch.testing.assert_close(output.float(), mixed, atol=1e-6, rtol=2**-8, msg="rounded once, at the end")


def test_scores_of_a_bfloat16_model_are_fine_enough_to_choose_by() -> None:
    """Rounded to bfloat16 half of them would be equal to another, and equal scores go to the earlier frame."""
    scores = make_module(num_layers=1).bfloat16().select(make_tokens(1, 20, 50).bfloat16()).scores
    assert scores.dtype == torch.float32
    assert len(scores.bfloat16().unique()) < 700 < 900 < len(scores.unique())


def test_autocast_keeps_scores_and_weights_in_float32() -> None:
    module = make_module(num_selected_tokens=64)
    video, question = make_tokens(1, 4, 5), make_tokens(1, 3, seed=1)
    expected = module(video, text_embeddings=question)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        selection = module.select(video)
        output, matrix = module.aggregate(selection, question, return_map=True)
    assert selection.scores.dtype == matrix.dtype == output.dtype == torch.float32
    torch.testing.assert_close(matrix @ video.flatten(1, 2), output, atol=1e-5, rtol=0)
    torch.testing.assert_close(output, expected, atol=0.06, rtol=0.05)
    output.square().sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_float32_module_before_a_bfloat16_model() -> None:
    """An adapter that trains in full precision: tokens and question come in bfloat16, and tokens go out so."""
    module = make_module()
    output = module(make_tokens(1, 4, 5).bfloat16(), text_embeddings=make_tokens(1, 3).bfloat16())
    assert output.dtype == torch.bfloat16


def test_compiles_to_one_graph() -> None:
    module = make_module()
    video, mask, question = make_tokens(2, 4, 5), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]), make_tokens(2, 3, seed=1)
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(video, mask, question), module(video, mask, question))
    output, matrix = compiled(video, mask, question, mask[:, :3], None, True)
    torch.testing.assert_close(matrix @ video.flatten(1, 2), output, atol=1e-5, rtol=0)


def test_parameter_counts_of_the_documentation() -> None:
    """docs/designs/linvt.md#parameters, in millions, for the widths of real language models."""
    expected = {896: 66.0, 1536: 193.8, 2048: 344.4, 2560: 538.0, 3072: 774.6, 3584: 1054, 4096: 1377}
    for width, millions in expected.items():
        with torch.device("meta"):
            module = LinVTModule(width, LinVTModuleConfig())
        count = sum(parameter.numel() for parameter in module.parameters())
        assert count / 1e6 == pytest.approx(millions, abs=0.5 if millions > 1000 else 0.05)
        # 82 D^2: 32 of the trunk, 48 of the queries' layers, 2 of the aggregation.
        parts = (module.svr, module.tta.layers, module.tta.aggregator)
        squares = [sum(p.numel() for p in part.parameters() if len(p) == width) // width**2 for part in parts]
        assert squares == [32, 48, 2]


def test_random_start() -> None:
    module = LinVTModule(64, LinVTModuleConfig(num_layers=1))
    assert module.tta.queries.std().item() == pytest.approx(0.02, rel=0.1)
    scores = module.select(torch.randn(1, 6, 9, 64)).scores
    assert 0.2 < scores.std() < 3, "the choice is none by chance of rounding"


# ----------------------------------------------------------------------------------------------------- configuration


def test_configuration_survives_json(tmp_path: Path) -> None:
    config = make_config(variant="multi_b", overlapping_windows=True, time_code="none")
    config.save_pretrained(tmp_path)
    loaded = LinVTModuleConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert loaded.windows() == [(1, 1), (2, 1), (4, 2)]


def test_defaults_are_those_of_the_paper() -> None:
    config = LinVTModuleConfig()
    assert (config.num_layers, config.num_attention_heads, config.num_selected_tokens) == (4, 8, 2048)
    assert (config.num_output_tokens, config.query_groups) == (112, [64, 32, 16])
    groups = {variant: LinVTModuleConfig(variant=variant).query_groups for variant in VARIANTS[1:]}
    assert groups == {"multi_b": [112], "multi_a": [64], "single_a": [112]}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_layers": 0}, "num_layers"),
        ({"num_selected_tokens": 0}, "num_selected_tokens"),
        ({"scorer_chunk_tokens": 0}, "scorer_chunk_tokens"),
        ({"selection_noise": -0.5}, "selection_noise"),
        ({"num_queries": (4, 2)}, "pool_windows"),
        ({"pool_windows": (1, 0, 4)}, "pool_windows"),
        ({"num_queries": (), "pool_windows": ()}, "num_queries"),
        ({"variant": "multi_a", "num_queries": (5, 3, 1)}, r"set num_queries=\[5, 3, 2\]"),
        ({"variant": "multi_d"}, "variant"),
    ],
)
def test_bad_configuration(options: dict[str, Any], named: str) -> None:
    with pytest.raises((StrictDataclassError, ValueError), match=named):
        make_config(**options)


def test_heads_that_do_not_divide_the_width() -> None:
    with pytest.raises(ValueError, match=r"width 20.*num_attention_heads \(8\)"):
        LinVTModule(20, LinVTModuleConfig())


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ({"tokens": torch.ones(4, 5, WIDTH)}, r"shape \(4, 5, 16\)"),
        ({"tokens": torch.ones(1, 4, 5, 8)}, r"shape \(1, 4, 5, 8\)"),
        ({"tokens": torch.ones(1, 0, 5, WIDTH)}, "at least one"),
        ({"frame_mask": torch.ones(1, 3)}, "frame_mask"),
        ({"frame_mask": torch.zeros(1, 4)}, "without frames"),
        ({"frame_times": torch.ones(4)}, "frame_times"),
        ({"text_embeddings": torch.ones(2, 3, WIDTH)}, "take"),
        ({"text_embeddings": torch.ones(1, 3, WIDTH), "text_mask": torch.ones(1, 2)}, "text_mask"),
    ],
)
def test_bad_input(inputs: dict[str, torch.Tensor], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make_module()(**{"tokens": torch.ones(1, 4, 5, WIDTH), **inputs})
