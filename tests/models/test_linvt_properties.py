"""The properties of docs/designs/linvt.md#properties, over shapes that hypothesis draws; each has its number there."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_linvt_module import VARIANTS, WIDTH, make_module, make_tokens

from hf_videollm.models.linvt_module import LinVTModule

# The same shapes in every run, and no deadline on a machine that others use.
draws = settings(max_examples=25, deadline=None, derandomize=True, database=None)


@dataclass
class Case:
    """A module and inputs for it. The mask leaves each video a first part of its frames, each question of its words."""

    module: LinVTModule
    video: torch.Tensor
    frame_mask: torch.Tensor
    text: torch.Tensor
    text_mask: torch.Tensor
    times: torch.Tensor

    def run(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Output and map."""
        with torch.no_grad():
            return self.module(
                self.video, self.frame_mask, self.text, self.text_mask, frame_times=self.times, return_map=True
            )

    def cut(self, row: int) -> "Case":
        """One video by itself, its padding cut off."""
        frames, words = int(self.frame_mask[row].sum()), int(self.text_mask[row].sum())
        kept = slice(row, row + 1)
        return Case(
            self.module,
            self.video[kept, :frames],
            self.frame_mask[kept, :frames],
            self.text[kept, :words],
            self.text_mask[kept, :words],
            self.times[kept, :frames],
        )


@st.composite
def cases(draw: st.DrawFn, batch_size: int | None = None, **overrides: Any) -> Case:
    """1 to 3 videos of 1 to 6 frames of 1 to 7 tokens, k from 1 to 30, windows as in the paper or others."""
    num_scales = draw(st.integers(1, 3))
    options: dict[str, Any] = {
        "num_selected_tokens": draw(st.integers(1, 30)),
        "num_queries": draw(st.lists(st.integers(1, 5), min_size=num_scales, max_size=num_scales)),
        "pool_windows": draw(st.lists(st.integers(1, 6), min_size=num_scales, max_size=num_scales)),
        "overlapping_windows": draw(st.booleans()),
        "variant": draw(st.sampled_from(["multi_c", "multi_b", "single_a"])),
        "time_code": draw(st.sampled_from(["sinusoidal", "none"])),
        "num_layers": draw(st.integers(1, 2)),
    }
    seed = draw(st.integers(0, 1000))
    module = make_module(seed, spread=0.7, **{**options, **overrides})
    rows = batch_size or draw(st.integers(1, 3))
    num_frames, num_positions, num_words = draw(st.integers(1, 6)), draw(st.integers(1, 7)), draw(st.integers(1, 5))
    frames = torch.tensor([num_frames, *(draw(st.integers(1, num_frames)) for _ in range(rows - 1))])
    words = torch.tensor([num_words, *(draw(st.integers(0, num_words)) for _ in range(rows - 1))])
    return Case(
        module,
        make_tokens(rows, num_frames, num_positions, seed=seed),
        torch.arange(num_frames) < frames[:, None],
        make_tokens(rows, num_words, seed=seed + 1),
        torch.arange(num_words) < words[:, None],
        torch.rand(rows, num_frames, generator=torch.Generator().manual_seed(seed)).cumsum(1) * 3,
    )


@draws
@given(cases())
def test_property_1_rows_of_the_map_are_weights_and_the_map_gives_the_output(case: Case) -> None:
    output, matrix = case.run()
    assert (matrix >= 0).all()
    assert (matrix.sum(-1) - 1).abs().max() < 1e-5
    torch.testing.assert_close(matrix @ case.video.flatten(1, 2), output, atol=1e-5, rtol=0)
    assert (matrix.abs().sum(1) > 0).sum(-1).max() <= case.module.config.num_selected_tokens


@pytest.mark.parametrize("variant", VARIANTS)
def test_property_1_for_the_variants(variant: str) -> None:
    module, video = make_module(variant=variant), make_tokens(2, 4, 5)
    output, matrix = module(video, text_embeddings=make_tokens(2, 3, seed=1), return_map=True)
    assert output.shape[1] == matrix.shape[1] == 14
    assert (matrix >= 0).all()
    assert (matrix.sum(-1) - 1).abs().max() < 1e-5
    torch.testing.assert_close(matrix @ video.flatten(1, 2), output, atol=1e-5, rtol=0)
    assert (matrix.abs().sum(1) > 0).sum(-1).max() <= 12


@draws
@given(cases())
def test_property_2_constant_input_comes_out_as_it_is(case: Case) -> None:
    constant = make_tokens(1, seed=5)
    case.video = constant.expand_as(case.video)
    output, _ = case.run()
    torch.testing.assert_close(output, constant.expand_as(output), atol=1e-6, rtol=1e-6)


@draws
@given(cases())
def test_property_3_no_channel_leaves_the_range_of_its_video(case: Case) -> None:
    output, _ = case.run()
    for row in range(len(output)):
        tokens = case.video[row][case.frame_mask[row]].flatten(0, 1)
        assert (output[row] >= tokens.min(0).values - 1e-6).all()
        assert (output[row] <= tokens.max(0).values + 1e-6).all()


@draws
@given(st.data())
def test_property_4_outputs_are_in_the_span_of_the_tokens(data: st.DataObject) -> None:
    """Few tokens, so that the span is not everything."""
    case = data.draw(cases(num_selected_tokens=data.draw(st.integers(1, 6))))
    with torch.no_grad():
        selection = case.module.select(case.video, case.frame_mask, case.times)
        output = case.module.aggregate(selection, case.text, case.text_mask)
    for row in range(len(output)):
        basis = selection.tokens[row][selection.mask[row]].double().T
        coefficients = torch.linalg.lstsq(basis, output[row].double().T).solution
        distance = (basis @ coefficients - output[row].double().T).norm() / output[row].norm()
        assert distance < 1e-6


def test_property_4_has_a_counterexample() -> None:
    """The distance is large for what is no mean of tokens, so the test above can fail."""
    basis = make_tokens(6).double().T
    other = make_tokens(1, seed=9).double().T
    assert (basis @ torch.linalg.lstsq(basis, other).solution - other).norm() / other.norm() > 0.3


@draws
@given(cases(batch_size=2))
def test_property_5_padding_changes_nothing(case: Case) -> None:
    """Whatever stands there."""
    output, matrix = case.run()
    case.video = case.video.masked_fill(~case.frame_mask[..., None, None], float("nan"))
    case.text = case.text.masked_fill(~case.text_mask[..., None], float("nan"))
    case.times = case.times.masked_fill(~case.frame_mask, float("nan"))
    with_garbage, _ = case.run()
    assert torch.equal(with_garbage, output)
    alone, alone_matrix = case.cut(1).run()
    torch.testing.assert_close(output[1:], alone, atol=1e-6, rtol=1e-6)
    columns = alone_matrix.shape[-1]
    torch.testing.assert_close(matrix[1:, :, :columns], alone_matrix, atol=1e-6, rtol=1e-6)
    assert (matrix[1:, :, columns:] == 0).all()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["video", "text", "times"])
def test_property_5_what_is_no_number_stays_in_the_padding(name: str, variant: str) -> None:
    frame_mask, text_mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    times = torch.arange(8.0).unflatten(0, (2, 4))
    text = make_tokens(2, 3, seed=1)
    case = Case(make_module(variant=variant), make_tokens(2, 4, 5), frame_mask, text, text_mask, times)
    output, _ = case.run()
    padding = (text_mask if name == "text" else frame_mask) == 0
    getattr(case, name)[padding] = float("nan")
    assert getattr(case, name).isnan().any()
    assert torch.equal(case.run()[0], output)


def test_property_5_padding_in_front() -> None:
    """A batch padded on the left, without times: frames are numbered from the first that is one."""
    module, video, text = make_module(spread=0.7), make_tokens(1, 3, 5), make_tokens(1, 4, seed=1)
    padded = torch.cat([torch.full((1, 2, 5, WIDTH), 7.0), video], dim=1)
    text_padded = torch.cat([torch.full((1, 3, WIDTH), 7.0), text], dim=1)
    mask, text_mask = torch.tensor([[0, 0, 1, 1, 1]]), torch.tensor([[0, 0, 0, 1, 1, 1, 1]])
    with torch.no_grad():
        found, expected = module(padded, mask, text_padded, text_mask), module(video, text_embeddings=text)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


@draws
@given(cases(batch_size=3))
def test_property_6_a_batch_is_its_rows(case: Case) -> None:
    """Three videos of different lengths with questions of different lengths, or none, are three batches of one."""
    output, _ = case.run()
    for row in range(3):
        torch.testing.assert_close(output[row : row + 1], case.cut(row).run()[0], atol=1e-6, rtol=1e-6)


def test_property_6_has_a_control() -> None:
    """Rows that get each other's video or question are not what they were."""
    module, video, text = make_module(), make_tokens(2, 4, 5), make_tokens(2, 3, seed=1)
    with torch.no_grad():
        output = module(video, text_embeddings=text)
        assert (module(video.flip(0), text_embeddings=text) - output).abs().max() > 0.1
        assert (module(video, text_embeddings=text.flip(0)) - output).abs().max() > 0.01


@pytest.mark.parametrize(("num_frames", "num_positions"), [(1, 5), (5, 1), (1, 1), (2, 3)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_property_7_fewer_tokens_than_k(variant: str, num_frames: int, num_positions: int) -> None:
    """One frame, one token a frame, one token: all are kept, and the output has its size."""
    module, video = make_module(variant=variant), make_tokens(1, num_frames, num_positions)
    with torch.no_grad():
        selection = module.select(video)
        output = module.aggregate(selection)
    assert selection.indices.tolist() == [list(range(num_frames * num_positions))]
    assert output.shape == (1, 14, WIDTH)
    if video.numel() == WIDTH:
        torch.testing.assert_close(output, video[:, 0].expand_as(output), atol=1e-6, rtol=1e-6)


@draws
@given(cases())
def test_property_8_columns_of_tokens_not_chosen_are_zero(case: Case) -> None:
    _, matrix = case.run()
    with torch.no_grad():
        selection = case.module.select(case.video, case.frame_mask, case.times)
    for row in range(len(matrix)):
        chosen = torch.zeros(matrix.shape[-1], dtype=torch.bool)
        chosen[selection.indices[row][selection.mask[row]]] = True
        assert (matrix[row, :, ~chosen] == 0).all()
        scores = selection.scores[row].flatten()
        assert chosen.all() or scores[chosen].min() >= scores[~chosen].max()


@pytest.mark.parametrize("variant", VARIANTS)
def test_property_9_every_parameter_learns(variant: str) -> None:
    module = make_module(variant=variant)
    direction = make_tokens(2, 14, seed=4)
    (module(make_tokens(2, 4, 5), text_embeddings=make_tokens(2, 3, seed=1)) * direction).sum().backward()
    # A shift of all keys cancels in a softmax, and one of all scores means nothing to the choice.
    silent = ("k_proj.bias", "svr.norm.bias", "svr.score.bias")
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert name.endswith(silent) or parameter.grad.norm() > 1e-6, name
    for queries in module.tta.queries.grad.split(module.config.query_groups):
        assert queries.norm() > 1e-6


def permuted(module: LinVTModule, video: torch.Tensor, order: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs for a video and for the video with its frames in another order."""
    text = make_tokens(1, 3, seed=1)
    with torch.no_grad():
        return module(video, text_embeddings=text), module(video[:, order], text_embeddings=text)


@draws
@given(st.data())
def test_property_10_without_time_code_the_finest_scale_knows_no_order(data: st.DataObject) -> None:
    num_frames = data.draw(st.integers(2, 6))
    order = data.draw(st.permutations(range(num_frames)))
    module = make_module(data.draw(st.integers(0, 1000)), spread=0.7, time_code="none")
    before, after = permuted(module, make_tokens(1, num_frames, 5), list(order))
    torch.testing.assert_close(after[:, :8], before[:, :8], atol=1e-6, rtol=1e-6)


@draws
@given(st.data())
def test_property_10_without_time_code_whole_windows_know_no_order_either(data: st.DataObject) -> None:
    """All tokens are kept, and each frame has a multiple of 4."""
    num_frames = data.draw(st.integers(2, 4))
    order = data.draw(st.permutations(range(num_frames)))
    num_positions = 4 * data.draw(st.integers(1, 2))
    module = make_module(data.draw(st.integers(0, 1000)), spread=0.7, time_code="none", num_selected_tokens=64)
    before, after = permuted(module, make_tokens(1, num_frames, num_positions), list(order))
    torch.testing.assert_close(after, before, atol=1e-6, rtol=1e-6)


def test_property_10_with_time_code_order_counts() -> None:
    """Reversed, with or without seconds, whatever the size of the features: more than a tenth, in each scale."""
    for size in (0.02, 1.0, 30.0):
        before, after = permuted(make_module(), make_tokens(1, 6, 5) * size, [5, 4, 3, 2, 1, 0])
        for scale in (slice(0, 8), slice(8, 12), slice(12, 14)):
            assert (after[:, scale] - before[:, scale]).norm() / before[:, scale].norm() > 0.1


def test_property_10_seconds_count() -> None:
    module, video = make_module(), make_tokens(1, 6, 5)
    numbers = torch.arange(6.0)[None]
    with torch.no_grad():
        assert torch.equal(module(video, frame_times=numbers), module(video)), "without seconds, frames are numbered"
        assert (module(video, frame_times=3 * numbers) - module(video)).norm() / module(video).norm() > 0.05


@pytest.mark.parametrize("scale", range(3))
def test_property_11_scales_do_not_see_each_other(scale: int) -> None:
    module, video, text = make_module(), make_tokens(1, 4, 5), make_tokens(1, 3, seed=1)
    sizes = module.config.num_queries
    with torch.no_grad():
        before = module(video, text_embeddings=text).split(sizes, dim=1)
        module.tta.queries.split(sizes)[scale].normal_()
        after = module(video, text_embeddings=text).split(sizes, dim=1)
    for other in range(3):
        if other == scale:
            assert (after[other] - before[other]).abs().max() > 1e-3
        else:
            assert torch.equal(after[other], before[other])


@draws
@given(cases(batch_size=1))
def test_property_11_the_question_counts_for_the_weights_and_not_for_the_choice(case: Case) -> None:
    output, matrix = case.run()
    case.text = make_tokens(1, case.text.shape[1], seed=2000)
    other, other_matrix = case.run()
    assert torch.equal((matrix != 0).any(1), (other_matrix != 0).any(1))
    if (matrix != 0).any(1).sum() > max(case.module.config.pool_windows):
        assert (other - output).abs().max() > 1e-5


def test_property_11_no_question_is_not_an_empty_sum_of_words() -> None:
    """Without text, with text of no words, and with words that are all padding: the same."""
    module, video = make_module(), make_tokens(1, 4, 5)
    with torch.no_grad():
        expected = module(video)
        assert torch.equal(module(video, text_embeddings=torch.zeros(1, 0, WIDTH)), expected)
        masked = module(video, text_embeddings=make_tokens(1, 3), text_mask=torch.zeros(1, 3))
        assert torch.equal(masked, expected)
        assert (module(video, text_embeddings=make_tokens(1, 3)) - expected).abs().max() > 1e-3
