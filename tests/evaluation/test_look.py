"""What was looked at is what the model computed with, and the picture marks it at the right place."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops
from torch.nn import functional as F

from hf_videollm.evaluation.look import Look, Seen, look_at
from hf_videollm.evaluation.look_picture import draw_look, heated, marked, shown_frames, write_look
from hf_videollm.models.iva_adapter import IvaInteractor

GRID = (8, 8)
QUESTION = "What color is the shape?"


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of eight frames with one white square, at row 5 and column 2 of the patches in frame 3 alone."""
    folder = tmp_path_factory.mktemp("look") / "frames"
    folder.mkdir()
    for number in range(8):
        frame = np.full((64, 64, 3), 18, dtype=np.uint8)
        if number == 3:
            frame[40:48, 16:24] = 255
        Image.fromarray(frame).save(folder / f"{number}.png")
    return folder


def test_linvt_marks_exactly_what_the_scorer_ranks_highest(
    bundled_pipe: Callable[[str], Any], video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = bundled_pipe("linvt-tiny")
    linvt = pipe.model.base_model.linvt
    # A scorer that knows one patch, and a selection of that one.
    scores = torch.zeros(1, 8, 64)
    scores[0, 3, 5 * 8 + 2] = 1.0
    monkeypatch.setattr(linvt.svr, "forward", lambda states, mask: scores)
    monkeypatch.setattr(linvt.config, "num_selected_tokens", 1)
    found = look_at(pipe, video, QUESTION, max_new_tokens=2)
    assert found.seen.chosen is not None
    assert found.seen.patches is not None
    assert np.argwhere(found.seen.chosen).tolist() == [[3, 5, 2]]
    assert found.seen.patches[3, 5, 2] == pytest.approx(1.0)
    assert found.seen.frames.tolist() == pytest.approx([0, 0, 0, 1, 0, 0, 0, 0])
    # The patch that is marked is the one with the square, in what the vision tower got.
    changed = (marked(found.pictures[3], found.seen.chosen[3]) != found.pictures[3]).any(-1)
    assert np.argwhere(changed).min(0).tolist() == [40, 16]
    assert np.argwhere(changed).max(0).tolist() == [47, 23]
    assert found.pictures[3, 44, 20].min() > 250
    assert found.pictures[3, 44, 30].max() < 25


def test_the_weights_of_linvt_are_those_of_its_vectors(bundled_pipe: Callable[[str], Any], video: Path) -> None:
    pipe = bundled_pipe("linvt-tiny")
    vectors: list[tuple[dict[str, Any], torch.Tensor]] = []
    hook = pipe.model.base_model.linvt.register_forward_hook(
        lambda module, args, kwargs, output: vectors.append((kwargs, output)), with_kwargs=True
    )
    found = look_at(pipe, video, QUESTION, max_new_tokens=2)
    hook.remove()
    kwargs, output = next(pair for pair in vectors if pair[0].get("selection") is not None)
    selection = kwargs["selection"]
    weights = torch.from_numpy(found.seen.patches).flatten()
    mean = weights[selection.indices[0]] @ selection.tokens[0]
    assert torch.allclose(mean, output[0].mean(0), atol=1e-5)
    assert found.seen.chosen.sum() == 256
    assert weights.sum() == pytest.approx(1.0, abs=1e-5)
    # The control: the weights depend on the question, and what is chosen does not.
    other = look_at(pipe, video, "Which shape moves up?", max_new_tokens=2)
    assert (other.seen.chosen == found.seen.chosen).all()
    assert not np.allclose(other.seen.patches, found.seen.patches, atol=1e-4)


def test_the_attention_of_iva_is_what_its_queries_read(bundled_pipe: Callable[[str], Any], video: Path) -> None:
    pipe = bundled_pipe("iva-tiny")
    read: list[tuple[torch.Tensor, torch.Tensor]] = []
    (interactor,) = [module for module in pipe.model.modules() if isinstance(module, IvaInteractor)]
    hook = interactor.trans.register_forward_hook(
        lambda module, args, output: read.append((args[0], output)) if isinstance(output, torch.Tensor) else None
    )
    found = look_at(pipe, video, QUESTION, processor_options={"num_frames": 8}, max_new_tokens=1)
    hook.remove()
    assert found.seen.patches is not None
    assert found.seen.patches.shape == (8, *GRID)
    assert found.seen.patches.sum() == pytest.approx(1.0, abs=1e-5)
    # Independently: the frames' features, weighted, are the mean of what Trans got in all calls.
    row = inputs_of(pipe, video, num_frames=8)
    (medium,) = pipe.model.base_model.get_video_features(
        row["pixel_values_videos"], row["num_video_frames"], return_dict=True
    ).frames
    features = torch.cat(medium.chunks).flatten(0, 1)
    mean = torch.from_numpy(found.seen.patches).flatten() @ features
    calls = pipe.model.config.num_insertions
    expected = torch.stack([vectors[0].mean(0) for vectors, _ in read[:calls]]).mean(0)
    assert torch.allclose(mean, expected, atol=1e-4)
    # The frames' shares are those of the model's own method.
    (attention,) = pipe.model.base_model.get_frame_attentions(**row)
    assert np.allclose(found.seen.frames, attention.mean((0, 1, 2)).numpy(), atol=1e-5)


def inputs_of(pipe: Any, video: Path, **options: Any) -> Any:
    content = [{"type": "video", "path": str(video)}, {"type": "text", "text": QUESTION}]
    return pipe.processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs=options,
    )


def test_the_marks_of_ftfv_are_where_torch_has_the_peaks(bundled_pipe: Callable[[str], Any], video: Path) -> None:
    pipe = bundled_pipe("ftfv-tiny")
    calls: list[tuple[Any, ...]] = []
    attention = pipe.model.base_model.connector.attn
    hook = attention.register_forward_pre_hook(lambda module, args: calls.append(args))
    found = look_at(pipe, video, QUESTION, processor_options={"num_tokens_per_frame": 3}, max_new_tokens=1)
    hook.remove()
    assert found.seen.chosen is not None
    assert found.seen.patches is not None
    query, key, value, num_kept = calls[0]
    assert num_kept == 3
    frames = key.shape[0]
    _, weights = F.multi_head_attention_forward(
        query.unsqueeze(1).expand(-1, frames, -1),
        key.transpose(0, 1),
        value.transpose(0, 1),
        query.shape[-1],
        pipe.model.config.adapter_num_heads,
        attention.in_proj_weight,
        attention.in_proj_bias,
        None,
        None,
        False,
        0.0,
        attention.out_proj.weight,
        attention.out_proj.bias,
    )
    assert weights is not None
    peaks, places = weights.max(-1)
    for frame in range(frames):
        kept = peaks[frame].topk(3).indices
        expected = {divmod(int(places[frame, query]), 8) for query in kept}
        assert {tuple(place) for place in np.argwhere(found.seen.chosen[frame]).tolist()} == expected
        heat = weights[frame, kept].mean(0).view(*GRID) / frames
        assert np.allclose(found.seen.patches[frame], heat.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["pllava-tiny", "videollama2-av-tiny"])
def test_other_designs_are_told(bundled_pipe: Callable[[str], Any], video: Path, name: str) -> None:
    with pytest.raises(ValueError, match="nothing to look at: take a model of one of linvt, iva, ftfv"):
        look_at(bundled_pipe(name), video, QUESTION)


def made_look(chosen: tuple[int, int, int] | None = None) -> Look:
    mask = np.zeros((5, *GRID), dtype=bool)
    if chosen is not None:
        mask[chosen] = True
    patches = np.full((5, *GRID), 0.5)
    frames = np.array([0.1, 0.3, 0.1, 0.3, 0.2])
    pictures = np.full((5, 64, 64, 3), 200, dtype=np.uint8)
    seen = Seen("what it means", frames, patches, mask)
    return Look("Why?", "Because.", seen, pictures, (0, 5, 10, 15, 20), (0.0, 1.0, 2.0, 3.0, 4.0))


def test_one_patch_is_marked_in_one_tile_of_the_picture() -> None:
    bare = draw_look(made_look())
    boxes = []
    for place in ((1, 0, 0), (1, 7, 7), (3, 0, 0)):
        left, top, right, bottom = ImageChops.difference(bare, draw_look(made_look(place))).getbbox() or (0, 0, 0, 0)
        assert (right - left, bottom - top) == (28, 28), "one of eight patches of a tile"
        boxes.append((left, top))
    assert (boxes[1][0] - boxes[0][0], boxes[1][1] - boxes[0][1]) == (7 * 28, 7 * 28)
    assert boxes[2][0] > boxes[0][0]
    assert boxes[2][1] == boxes[0][1]
    assert bare.getpixel((boxes[0][0] + 1, boxes[0][1] + 1)) == (200, 200, 200)


def test_the_frames_that_count_most_are_shown_in_time() -> None:
    assert shown_frames(np.array([0.1, 0.3, 0.1, 0.3, 0.2]), 3) == [1, 3, 4]
    assert shown_frames(np.array([0.1, 0.1]), 5) == [0, 1]
    assert draw_look(made_look(), 1).height < draw_look(made_look(), 5).height


def test_heat_is_hottest_where_the_weight_is() -> None:
    weights = np.zeros(GRID)
    weights[2, 6] = 1.0
    picture = heated(np.full((64, 64, 3), 100, dtype=np.uint8), weights, 1.0).astype(int).sum(-1)
    assert (picture == picture.max()).sum() == 64
    assert (picture[16:24, 48:56] == picture.max()).all()
    # Grids that do not divide the frame are stretched over all of it.
    assert marked(np.zeros((50, 30, 3), dtype=np.uint8), np.ones((7, 4), dtype=bool)).min() > 0


def test_the_picture_is_written_whole(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "a.webp"):
        write_look(tmp_path / name, made_look())
        with Image.open(tmp_path / name) as picture:
            picture.load()
    with pytest.raises(ValueError, match=r"A picture is a file that ends with \.png"):
        write_look(tmp_path / "a.txt", made_look())
    assert not (tmp_path / "a.txt").exists()


def test_the_command_draws(cli: Callable[..., tuple[int, str, str]], video: Path, tmp_path: Path) -> None:
    line = ("look", str(video), QUESTION, "--device", "cpu", "--output")
    code, out, err = cli(*line, str(tmp_path / "a.png"), "--model", "ftfv-tiny", "--tokens-per-frame", "2")
    assert code == 0, err
    assert out.strip()
    assert "a.png is written." in " ".join(err.split())
    assert (tmp_path / "a.png").exists()
    for more, message in (
        (("a.gif",), "A picture is a file that ends with .png"),
        (("a.png", "--model", "pllava-tiny"), "take a model of one of linvt, iva, ftfv"),
        (("a.png", "--model", "iva-tiny", "--tokens-per-frame", "2"), "has no option --tokens-per-frame"),
    ):
        code, out, err = cli(*line, *more)
        assert (code, out) == (2, "")
        assert message in " ".join(err.split())
