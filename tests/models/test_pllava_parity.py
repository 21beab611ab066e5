"""PLLaVA against tensors of the original code (magic-research/PLLaVA): every recorded case is accounted for.

A case is either matched, or named below with the reason why we depart from the original on purpose; then the test
shows what we do instead.
"""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hf_videollm.models.configuration_pllava import PllavaConfig
from hf_videollm.models.modeling_pllava import PllavaConnector, PllavaForConditionalGeneration

TOLERANCE = 2e-5
IMAGE = 100  # the only placeholder of the original, for videos too
UNUSED = 120  # our own placeholder of videos, outside the vocabulary of the recorded model

PROJECTOR_MATCHED = [
    "video_b1",
    "video_b2",
    "video_b1_two_videos",
    "video_pool_t2",
    "video_pool_identity",
    "video_pool_upsample",
    "video_use_pooling_false",
    "video_method_max",
    "image_nf1",
]
# The recording holds no output of these two; the rule written out below, which is checked on the others, stands in.
PROJECTOR_BY_RULE = ["video_pool_nondiv", "video_nonsquare"]
PROJECTOR_DEPARTURES = {
    "image_b1": "the original repeats an image until it is a video; for us it is one frame, (1, h, w) tokens",
    "fewer_1_of_4": "one frame is an image, as above",
    "image_b2_intended_num_videos1": "the original mixes the images of a batch; ours stay apart",
    "fewer_2_of_4": "the original repeats early frames more often; ours are spread evenly",
    "fewer_3_of_4": "the original drops the last frame; ours uses all",
    "image_b1_as_model_passes": "the original divides by zero",
    "fewer_2_of_4_as_model_passes": "the original divides by zero",
    "fewer_2_of_4_use_pooling_false": "the original stops at an assertion",
    "bad_5_of_4": "the original stops at an assertion; ours pools any frame count",
}

MODEL_MATCHED = [
    "video_b1",
    "video_b2_leftpad",
    "video_b2_rightpad",
    "two_videos_b1",
    "text_only",
    "image_nf1",
    "image_b2_nf1",
    # Recorded with a patched original; equal when the frames are repeated as it repeats them.
    "image_nf4_num_videos_fixed",
    "video_3frames_nf4_num_videos_fixed",
]
MODEL_DEPARTURES = {
    "image_nf4_official": "the original divides by zero; for us an image is one frame, whatever num_frames is",
    "video_1frame_nf4_official": "as above",
    "video_3frames_nf4_official": "the original divides by zero; ours pools the frames there are",
    "zero_pad_leftpad": "the original takes padding for an image when its embedding is zero; ours goes by ids",
    "zero_pad_rightpad": "as above",
}


class Recording:
    """One folder of reference tensors: `case.name` -> tensor, aliases followed."""

    def __init__(self, folder: Path) -> None:
        self.cases: dict[str, dict[str, Any]] = json.loads((folder / "meta.json").read_text())["cases"]
        self.meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
        self.tensors = load_file(folder / "tensors.safetensors")
        self.weights = load_file(folder / "state_dict.safetensors")

    def get(self, case: str, name: str) -> torch.Tensor | None:
        """A tensor of a case; `None` if the recording has none."""
        aliases = self.cases[case].get("tensor_alias", {})
        if "*" in aliases:
            return self.get(aliases["*"].split(".")[0], name)
        if name not in aliases:
            return self.tensors.get(f"{case}.{name}")
        key, _, end = aliases[name].partition("[:")
        tensor = self.get(*key.split("."))
        return tensor[: int(end[:-1])] if end else tensor


@pytest.fixture(scope="module")
def projector(goldens: Path) -> Recording:
    return Recording(goldens / "pllava" / "projector")


@pytest.fixture(scope="module")
def recorded(goldens: Path) -> Recording:
    return Recording(goldens / "pllava" / "model")


@pytest.fixture(scope="module")
def towers(goldens: Path) -> dict[str, dict[str, Any]]:
    config = json.loads((goldens / "pllava" / "model" / "config.save_pretrained.json").read_text())
    return {name: config[name] for name in ("vision_config", "text_config")}


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0.0)


def test_every_recorded_case_is_accounted_for(projector: Recording, recorded: Recording) -> None:
    accounted = [*PROJECTOR_MATCHED, *PROJECTOR_BY_RULE, *PROJECTOR_DEPARTURES]
    assert sorted(accounted) == sorted(projector.cases)
    assert sorted([*MODEL_MATCHED, *MODEL_DEPARTURES]) == sorted(recorded.cases)
    raising = {name for name, case in {**projector.cases, **recorded.cases}.items() if "raises" in case}
    assert raising <= {*PROJECTOR_DEPARTURES, *MODEL_DEPARTURES}


# The connector


def make_connector(recording: Recording, case: str) -> PllavaConnector:
    """The recorded projector with the frame and pooling shape of a case."""
    height, width = recording.cases[case]["frame_shape"]
    config = PllavaConfig(
        vision_config={"model_type": "clip_vision_model", "hidden_size": 32, "num_attention_heads": 4},
        text_config={"model_type": "llama", "hidden_size": 48, "num_attention_heads": 4},
        pooling_shape=recording.cases[case]["pooling_shape"],
    )
    config.vision_config.image_size, config.vision_config.patch_size = (height * 4, width * 4), 4
    connector = PllavaConnector(config)
    connector.load_state_dict(recording.weights)
    return connector.eval()


def connect(recording: Recording, case: str, features: torch.Tensor, num_frames: list[int]) -> list[torch.Tensor]:
    with torch.no_grad():
        return make_connector(recording, case)(features, num_frames)


def recorded_input(recording: Recording, case: str) -> torch.Tensor:
    """The recorded input, or one of its shape if it is missing."""
    name = recording.cases[case]["input"]
    return recording.tensors.get(name, torch.randn(recording.cases[case]["input_shape"]))


@torch.no_grad()
def connect_by_rule(
    recording: Recording, case: str, features: torch.Tensor, pooling_shape: list[int] | None = None
) -> torch.Tensor:
    """One clip through the recorded weights: cell i of n averages positions floor(iN/n) to ceil((i+1)N/n)."""
    weights, meta = recording.weights, recording.cases[case]
    hidden = features @ weights["linear_1.weight"].T + weights["linear_1.bias"]
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
    volume = (hidden @ weights["linear_2.weight"].T + weights["linear_2.bias"]).unflatten(1, meta["frame_shape"])
    sizes, shape = volume.shape[:3], pooling_shape or meta["pooling_shape"]

    def window(axis: int, cell: int) -> slice:
        size, cells = sizes[axis], shape[axis]
        return slice(cell * size // cells, -(-(cell + 1) * size // cells))

    cells = [(t, y, x) for t in range(shape[0]) for y in range(shape[1]) for x in range(shape[2])]
    return torch.stack([volume[tuple(map(window, range(3), cell))].mean((0, 1, 2)) for cell in cells])


@pytest.mark.parametrize("case", PROJECTOR_MATCHED)
def test_connector_equals_the_original(projector: Recording, case: str) -> None:
    meta = projector.cases[case]
    expected = projector.tensors[meta["output"]]
    features = recorded_input(projector, case)
    found = connect(projector, case, features, [meta["num_frames"]] * len(expected))
    assert_close(torch.stack(found), expected)
    by_rule = [connect_by_rule(projector, case, clip) for clip in features.split(meta["num_frames"])]
    assert_close(torch.stack(by_rule), expected)


@pytest.mark.parametrize("case", PROJECTOR_BY_RULE)
def test_connector_equals_the_rule_written_out(projector: Recording, case: str) -> None:
    features = recorded_input(projector, case)
    (found,) = connect(projector, case, features, [len(features)])
    assert found.shape == tuple(projector.cases[case]["output_shape"][1:])
    assert_close(found, connect_by_rule(projector, case, features))


@pytest.mark.parametrize("case", ["image_b1", "fewer_1_of_4"])
def test_image_is_one_time_step_of_the_original(projector: Recording, case: str) -> None:
    """The original gives the same 16 tokens four times over; we give them once."""
    (found,) = connect(projector, case, recorded_input(projector, case), [1])
    assert found.shape == (16, 48)
    for step in projector.tensors[f"{case}.y"].unflatten(1, (4, 16))[0]:
        assert_close(found, step)


def test_images_of_a_batch_stay_apart(projector: Recording) -> None:
    """The original alternates both images within each clip; each of ours is one of its time steps."""
    case = "image_b2_intended_num_videos1"
    found = connect(projector, case, recorded_input(projector, case), [1, 1])
    for clip in projector.tensors[f"{case}.y"].unflatten(1, (4, 16)):
        for step, image in zip(clip, [0, 1, 0, 1], strict=True):
            assert_close(step, found[image])


@pytest.mark.parametrize("num_frames", [2, 3])
def test_short_video_uses_all_of_its_frames(projector: Recording, num_frames: int) -> None:
    """Frames repeated as in the original give its output; frames as they are do not lose the last one."""
    case = f"fewer_{num_frames}_of_4"
    features, expected = recorded_input(projector, case), projector.tensors[f"{case}.y"][0]
    repeats = projector.meta["repeat_table"]["4"][str(num_frames)]
    (as_original,) = connect(projector, case, features[repeats], [4])
    assert_close(as_original, expected)
    (found,) = connect(projector, case, features, [num_frames])
    assert_close(found, connect_by_rule(projector, case, features))
    assert (found - expected).abs().max() > 100 * TOLERANCE
    changed = torch.cat([features[:-1], features[-1:] + 1.0])
    moved = (connect(projector, case, changed, [num_frames])[0] - found).abs().amax(-1).unflatten(0, (4, 16))
    assert moved[-1].min() > 100 * TOLERANCE
    assert moved[0].max() == 0


@pytest.mark.parametrize(
    "case", [name for name in PROJECTOR_DEPARTURES if name.endswith(("passes", "false", "5_of_4"))]
)
def test_connector_runs_where_the_original_stops(projector: Recording, case: str) -> None:
    features = recorded_input(projector, case)
    (found,) = connect(projector, case, features, [len(features)])
    steps = 1 if len(features) == 1 else 4
    assert_close(found, connect_by_rule(projector, case, features, [steps, 4, 4]))


# The whole model


def rename(key: str) -> str:
    """Name of an original tensor in our model."""
    for old, new in (
        ("vision_tower.vision_model.", "model.vision_tower."),
        ("multi_modal_projector.", "model.connector."),
        ("language_model.lm_head.", "lm_head."),
        ("language_model.model.", "model.language_model."),
    ):
        if key.startswith(old):
            return new + key.removeprefix(old)
    raise KeyError(key)


def make_model(recording: Recording, towers: dict[str, Any], case: str) -> PllavaForConditionalGeneration:
    meta = recording.cases[case]
    config = PllavaConfig(
        **towers,
        image_token_id=IMAGE,
        video_token_id=UNUSED,
        num_frames=meta["num_frames"],
        pooling_shape=meta["pooling_shape"],
    )
    model = PllavaForConditionalGeneration(config)
    model.load_state_dict({rename(key): tensor for key, tensor in recording.weights.items()})
    return model.eval()


def spread(tensor: torch.Tensor, ids: torch.Tensor, times: int) -> torch.Tensor:
    """Repeat the columns of the placeholders `times` times; every row has equally many of them."""
    rows = [row.repeat_interleave(torch.where(i == IMAGE, times, 1)) for row, i in zip(tensor, ids, strict=True)]
    return torch.stack(rows)


def make_inputs(recording: Recording, case: str, as_image: bool, repeats: list[int] | None = None) -> dict[str, Any]:
    """Our inputs for a recorded case: placeholders written out, frames grouped into videos."""
    meta = recording.cases[case]
    ids, mask = recording.get(case, "input_ids"), recording.get(case, "attention_mask")
    mask = torch.ones_like(ids) if mask is None else mask
    pixels, labels = recording.get(case, "pixel_values"), recording.get(case, "labels")
    height, width = meta["pooling_shape"][1:]
    times = height * width * (1 if as_image else meta["pooling_shape"][0])
    inputs = {"input_ids": spread(ids, ids, times), "attention_mask": spread(mask, ids, times)}
    if pixels is not None and as_image:
        inputs["pixel_values"] = pixels
    elif pixels is not None:
        pixels = pixels if repeats is None else pixels[repeats]
        inputs["pixel_values_videos"] = pixels.unflatten(0, (-1, meta["num_frames"]))
    if labels is not None:
        spread_labels = spread(labels, ids, times)
        inputs["labels"] = spread_labels.masked_fill(inputs["input_ids"] == IMAGE, -100)
    return inputs


def inputs_of(recording: Recording, case: str) -> dict[str, Any]:
    """Inputs of a matched case, frames repeated as the (patched) original does."""
    repeats = {"image_nf4_num_videos_fixed": [0, 0, 0, 0], "video_3frames_nf4_num_videos_fixed": [0, 0, 1, 1]}
    return make_inputs(recording, case, recording.cases[case]["num_frames"] == 1, repeats.get(case))


@pytest.mark.parametrize("case", MODEL_MATCHED)
def test_logits_and_loss_equal_the_original(recorded: Recording, towers: dict[str, Any], case: str) -> None:
    # Of these two prompts only the right-padded run has its logits recorded; padding does not change them.
    source = "video_b2_rightpad" if case == "video_b2_leftpad" else case
    model, inputs = make_model(recorded, towers, case), inputs_of(recorded, case)
    if case == "video_b2_leftpad":
        inputs["labels"] = _moved_to_the_right(make_inputs(recorded, source, False)["labels"], inputs)
    with torch.no_grad():
        output = model(**inputs)
    expected = recorded.get(source, "logits")
    if expected is not None:
        mask = recorded.get(source, "merged_mask")
        mask = inputs["attention_mask"] if mask is None else mask
        assert_close(output.logits[inputs["attention_mask"].bool()], expected[mask.bool()])
    else:  # two videos in a row: tokens and loss only, see below
        assert case == "two_videos_b1"
    loss = recorded.cases[case]["loss"]
    if isinstance(loss, float):
        assert output.loss.item() == pytest.approx(loss, abs=TOLERANCE)
    else:
        assert output.loss is None, "no labels, no loss (the original says nan)"


def _moved_to_the_right(labels: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Labels of right-padded rows, for the same rows padded on the left."""
    moved = torch.full_like(inputs["input_ids"], -100)
    for row, source, length in zip(moved, labels, inputs["attention_mask"].sum(-1).tolist(), strict=True):
        row[-length:] = source[:length]
    return moved


@pytest.mark.parametrize("case", MODEL_MATCHED)
def test_intermediate_tensors_equal_the_original(recorded: Recording, towers: dict[str, Any], case: str) -> None:
    """Tower, connector and merged labels; what is recorded of them."""
    source = "video_b2_rightpad" if case == "video_b2_leftpad" else case
    model, inputs = make_model(recorded, towers, case), inputs_of(recorded, source)
    pixels, selected = recorded.get(source, "pixel_values"), recorded.get(source, "vision_selected")
    if selected is None:
        assert case in ("text_only", "two_videos_b1")
        return
    with torch.no_grad():
        assert_close(model.model.encode_frames(pixels).last_hidden_state, selected)
        output = model(**inputs)
    found = output.video_hidden_states if output.image_hidden_states is None else output.image_hidden_states
    assert_close(found, recorded.get(source, "image_features").flatten(0, 1))
    merged_labels, mask = recorded.get(source, "merged_labels"), recorded.get(source, "merged_mask").bool()
    assert torch.equal(inputs["labels"][inputs["attention_mask"].bool()], merged_labels[mask])


@pytest.mark.parametrize("case", [name for name in MODEL_MATCHED if name != "video_b2_rightpad"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_tokens_equal_the_original(
    recorded: Recording, towers: dict[str, Any], case: str, use_cache: bool
) -> None:
    expected = torch.tensor(recorded.cases[case]["greedy_new_tokens"])
    model, inputs = make_model(recorded, towers, case), inputs_of(recorded, case)
    inputs.pop("labels", None)
    # Recorded without an end mark. A token written that equals a placeholder is text, also for the original.
    model.generation_config.eos_token_id = None
    found = model.generate(**inputs, max_new_tokens=expected.shape[1], do_sample=False, use_cache=use_cache)
    assert torch.equal(found[:, inputs["input_ids"].shape[1] :], expected)


@pytest.mark.parametrize("case", ["image_nf4_official", "video_1frame_nf4_official"])
def test_one_frame_answers_as_an_image(recorded: Recording, towers: dict[str, Any], case: str) -> None:
    """Where the original divides by zero, one frame gives what the original gives in its one-frame configuration."""
    model, inputs = make_model(recorded, towers, case), make_inputs(recorded, case, as_image=True)
    if case.startswith("video"):
        inputs["pixel_values_videos"] = inputs.pop("pixel_values").unsqueeze(0)
    with torch.no_grad():
        assert_close(model(**inputs).logits, recorded.get("image_nf1", "logits"))


def test_three_frames_are_pooled_to_four_steps(recorded: Recording, towers: dict[str, Any]) -> None:
    """Where the original divides by zero: 64 tokens, to which the last frame contributes."""
    case = "video_3frames_nf4_official"
    model, inputs = make_model(recorded, towers, case), make_inputs(recorded, "video_b1", as_image=False)
    inputs.pop("labels")
    pixels = recorded.get(case, "pixel_values")
    assert len(pixels) == 3
    with torch.no_grad():
        logits = model(**{**inputs, "pixel_values_videos": pixels.unsqueeze(0)}).logits
        other = model(**{**inputs, "pixel_values_videos": pixels[[0, 1, 1]].unsqueeze(0)}).logits
    assert logits.shape == recorded.get("video_b1", "logits").shape
    assert torch.isfinite(logits).all()
    assert (logits - other).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize("case", ["zero_pad_leftpad", "zero_pad_rightpad"])
def test_padding_with_a_zero_embedding_is_padding(recorded: Recording, towers: dict[str, Any], case: str) -> None:
    model, inputs = make_model(recorded, towers, case), make_inputs(recorded, case, as_image=False)
    inputs.pop("labels", None)
    with torch.no_grad():
        model.get_input_embeddings().weight[0] = 0.0
        logits = model(**inputs).logits[inputs["attention_mask"].bool()]
    mask = recorded.get("video_b2_rightpad", "merged_mask").bool()
    assert_close(logits, recorded.get("video_b2_rightpad", "logits")[mask])
