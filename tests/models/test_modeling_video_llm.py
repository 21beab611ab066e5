"""The shared base: errors, placeholders, freezing, positions, repetition of media, and strict loading."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from factory import (
    IMAGE,
    PLLAVA_CASES,
    TEXT_TOWERS,
    VIDEO,
    VISION_TOWERS,
    DesignCase,
    Row,
    collate,
    pllava_case,
    with_other_media,
)
from invariants import assert_moved, assert_same, generate, logits_of, media_of
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hf_videollm.models.errors import CheckpointError
from hf_videollm.models.modeling_pllava import PllavaForConditionalGeneration, PllavaModel
from hf_videollm.models.modeling_video_llm import VideoLlmForConditionalGeneration
from hf_videollm.models.video_llm_generation import repeat_media_per_row
from hf_videollm.models.video_llm_placeholders import check_tensor

CASE = PLLAVA_CASES[0]
HEAD = "lm_head.weight"
CONNECTOR = "model.connector.linear_1.weight"


@pytest.fixture
def model() -> VideoLlmForConditionalGeneration:
    return CASE.make_model()


# Placeholders and media


def test_placeholder_mask_finds_ids_and_embeddings(model: VideoLlmForConditionalGeneration) -> None:
    batch = CASE.make_batch([["v2", "i"], ["i"]])
    ids = batch["input_ids"]
    embeds = model.get_input_embeddings()(ids)
    for modality, token in (("image", IMAGE), ("video", VIDEO)):
        assert torch.equal(model.model.get_placeholder_mask(ids, None, modality), ids == token)
        assert torch.equal(model.model.get_placeholder_mask(None, embeds, modality), ids == token)


@pytest.mark.parametrize(("specs", "modality", "vectors"), [([["v2"]], "video", 8), ([["i"], ["i"]], "image", 8)])
@pytest.mark.parametrize("change", [-1, 1])
def test_wrong_number_of_placeholders_names_both_numbers(
    model: VideoLlmForConditionalGeneration, specs: list[list[str]], modality: str, vectors: int, change: int
) -> None:
    batch = CASE.make_batch(specs)
    token = VIDEO if modality == "video" else IMAGE
    places = (batch["input_ids"] == token).nonzero()
    row, column = places[0].tolist() if change < 0 else (0, 0)
    batch["input_ids"][row, column] = 5 if change < 0 else token
    with pytest.raises(ValueError, match=rf"{vectors + change} {modality} placeholders.* {vectors} vectors"):
        model(**batch)


def test_a_video_is_not_shared_between_two_rows(model: VideoLlmForConditionalGeneration) -> None:
    """The totals agree, the rows do not: the end of one video would stand in the next prompt."""
    batch = CASE.make_batch([["v2"], ["v2"]])
    first, second = (batch["input_ids"] == VIDEO).nonzero()[[0, -1]].tolist()
    batch["input_ids"][first[0], first[1]] = 5
    batch["input_ids"][second[0], 0] = VIDEO
    with pytest.raises(ValueError, match=r"rows hold \[7, 9\] video placeholders.* \[8, 8\] vectors"):
        model(**batch)


def test_media_without_placeholders_are_refused(model: VideoLlmForConditionalGeneration) -> None:
    text = CASE.make_batch([[]])
    with pytest.raises(ValueError, match="0 video placeholders"):
        model(**text, **media_of(CASE.make_batch([["v2"]])))


def test_training_on_prompts_whose_pixels_were_lost_is_refused(model: VideoLlmForConditionalGeneration) -> None:
    """A collator that keeps the ids alone would train a model that never sees a video, without a word."""
    batch = CASE.make_batch([["v2"], []])
    ids = {name: batch[name] for name in ("input_ids", "attention_mask")}
    lost = copy.deepcopy(model).train()
    with pytest.raises(ValueError, match="neither pixels nor sounds"):
        lost(**ids, labels=ids["input_ids"])
    # Text alone is fine, and so is the whole batch.
    lost(**CASE.make_batch([[], []]))
    lost(**batch)


def test_generating_without_the_pixels_is_refused(model: VideoLlmForConditionalGeneration) -> None:
    ids = CASE.make_batch([["v2"]])["input_ids"]
    with pytest.raises(ValueError, match="neither pixels nor sounds"):
        model.generate(input_ids=ids, max_new_tokens=2)
    text = CASE.make_batch([[]])
    assert model.generate(**text, max_new_tokens=2).shape[1] == text["input_ids"].shape[1] + 2


def test_ids_and_embeddings_exclude_each_other(model: VideoLlmForConditionalGeneration) -> None:
    ids = CASE.make_batch([[]])["input_ids"]
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model(input_ids=ids, inputs_embeds=model.get_input_embeddings()(ids))
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model(attention_mask=torch.ones_like(ids))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_video_frames": torch.tensor([2])}, r"\[2\] does not fit 2 videos"),
        ({"num_video_frames": torch.tensor([2, 9])}, r"at most 4 frames"),
        ({"num_video_frames": torch.tensor([0, 4])}, r"\[0, 4\]"),
        ({"pixel_values_videos": torch.zeros(8, 3, 16, 16)}, r"not of shape \(8, 3, 16, 16\)"),
    ],
)
def test_frame_counts_that_do_not_fit(
    model: VideoLlmForConditionalGeneration, change: dict[str, torch.Tensor], message: str
) -> None:
    batch = CASE.make_batch([["v2", "v4"]])
    with pytest.raises(ValueError, match=message):
        model(**{**batch, **change})


def test_missing_frame_counts_mean_that_all_frames_count(model: VideoLlmForConditionalGeneration) -> None:
    batch = CASE.make_batch([["v4", "v4"]])
    counted = logits_of(model, batch)
    batch.pop("num_video_frames")
    assert_same(logits_of(model, batch), counted, "no counts and full counts")
    batch["num_video_frames"] = torch.tensor([4, 2])
    assert_moved(logits_of(model, batch), counted, CASE, "second video shorter")


def test_placeholders_need_no_row_in_the_vocabulary(model: VideoLlmForConditionalGeneration) -> None:
    batch = CASE.make_batch([["v3", "i"], []])
    expected = logits_of(model, batch)
    model.config.image_token_id, model.config.video_token_id = 1000, 1001
    ids = batch["input_ids"]
    batch["input_ids"] = ids.masked_fill(ids == IMAGE, 1000).masked_fill(ids == VIDEO, 1001)
    assert_same(logits_of(model, batch), expected, "ids outside the vocabulary")
    with pytest.raises(IndexError):  # the control: such an id has no embedding
        model(input_ids=batch["input_ids"])


def test_features_have_one_tensor_for_each_item(model: VideoLlmForConditionalGeneration) -> None:
    batch = CASE.make_batch([["v3", "i"], ["v1", "v4"]])
    videos = model.get_video_features(batch["pixel_values_videos"], batch["num_video_frames"]).pooler_output
    assert [tuple(video.shape) for video in videos] == [(8, 32), (4, 32), (8, 32)]
    images = model.get_image_features(batch["pixel_values"]).pooler_output
    assert [tuple(image.shape) for image in images] == [(4, 32)]
    with torch.no_grad():
        output = model(**batch)
    assert_same(output.video_hidden_states, torch.cat(videos), "video_hidden_states")
    assert_same(output.image_hidden_states, torch.cat(images), "image_hidden_states")


def test_image_is_a_video_of_one_frame(model: VideoLlmForConditionalGeneration) -> None:
    frame = torch.randn(1, 3, 16, 16)
    image, video = model.get_image_features(frame), model.get_video_features(frame.unsqueeze(0))
    assert_same(image.pooler_output[0], video.pooler_output[0], "image and one frame")
    assert_moved(image.pooler_output[0], model.get_image_features(-frame).pooler_output[0], CASE, "negative image")


def test_several_feature_layers_are_concatenated() -> None:
    model = CASE.make_model(vision_feature_layer=[-2, -1])
    single = {layer: CASE.make_model(vision_feature_layer=layer) for layer in (-2, -1)}
    frames = torch.randn(3, 3, 16, 16)
    features = model.model.encode_frames(frames).last_hidden_state
    assert features.shape == (3, 16, 32)
    for part, layer in zip(features.chunk(2, -1), single, strict=True):
        tower = single[layer].model.vision_tower
        tower.load_state_dict(model.model.vision_tower.state_dict())
        assert_same(part, single[layer].model.encode_frames(frames).last_hidden_state, f"layer {layer}")
    assert_moved(*features.chunk(2, -1), CASE, "two layers")


# What is trained


@pytest.mark.parametrize(("layer", "num_frozen_layers"), [(-1, 0), (-2, 1), (1, 2), (0, 3), ([1, -2], 1)])
@pytest.mark.parametrize("case", PLLAVA_CASES[:2], ids=lambda case: case.name)
def test_what_lies_behind_the_feature_layer_is_frozen(case: DesignCase, layer: Any, num_frozen_layers: int) -> None:
    tower = case.make_model(vision_feature_layer=layer).model.vision_tower
    frozen = {name for name, parameter in tower.named_parameters() if not parameter.requires_grad}
    layers = {int(match[1]) for name in frozen if (match := re.search(r"layers\.(\d+)\.", name))}
    assert layers == set(range(3 - num_frozen_layers, 3))
    rest = {name for name in frozen if ".layers." not in name}
    assert rest, "the layer norm behind the last layer is never used"
    assert all(name.startswith(("post_layernorm", "head")) for name in rest)


@pytest.mark.parametrize("layer", [99, -99, [0, 99]])
def test_a_feature_layer_that_does_not_exist_is_refused(layer: Any) -> None:
    with pytest.raises(ValueError, match=r"vision_feature_layer .*99.* out of range"):
        CASE.make_model(vision_feature_layer=layer)


def test_loss_is_that_of_shifted_labels(model: VideoLlmForConditionalGeneration) -> None:
    batch = CASE.make_batch([["v2"], []])
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    labels = labels.masked_fill(batch["mm_token_type_ids"] > 0, -100)
    with torch.no_grad():
        output = model(**batch, labels=labels)
    expected = torch.nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert_same(output.loss, expected, "loss")
    with torch.no_grad():
        other = model(**batch, labels=labels.roll(1, -1)).loss
    assert abs(other - output.loss) > 0.01


# The language model inside


@pytest.mark.parametrize("name", TEXT_TOWERS)
def test_text_only_prompt_is_the_plain_language_model(name: str) -> None:
    """Logits of text equal those of the tower's own causal language model with the same weights.

    Gemma 2 squashes its logits behind the head; like transformers' own LLaVA, the base does not, hence `None`.
    """
    case = pllava_case(name, tie_word_embeddings=True)
    text_config = {**case.config["text_config"], "tie_word_embeddings": True}
    model = case.make_model(
        text_config={**text_config, **({"final_logit_softcapping": None} if "gemma" in name else {})}
    )
    plain = AutoModelForCausalLM.from_config(model.config.text_config).eval()
    plain.base_model.load_state_dict(model.model.language_model.state_dict())
    plain.tie_weights()
    batch = case.make_batch([[], [], []])
    batch.pop("mm_token_type_ids")
    mask = batch["attention_mask"].bool()
    expected = logits_of(plain, batch)[mask]
    assert_same(logits_of(model, batch)[mask], expected, "plain language model")
    assert_moved(logits_of(case.make_model(seed=1), batch)[mask], expected, case, "other weights")


def test_positions_are_seen_by_absolute_embeddings() -> None:
    """The case that guards position ids must notice a shift; rotary embeddings cannot."""
    batch = CASE.make_batch([["v2"]])
    positions = torch.arange(batch["input_ids"].shape[1]).unsqueeze(0)
    for case in PLLAVA_CASES:
        model = case.make_model()
        before, shifted = logits_of(model, batch), logits_of(model, {**batch, "position_ids": positions + 20})
        if case.absolute_positions:
            assert_moved(shifted, before, case, "shifted positions")
        else:
            assert_same(shifted, before, "shifted positions", 1e-3)


def test_four_dimensional_masks_pass_through(model: VideoLlmForConditionalGeneration) -> None:
    batch = CASE.make_batch([["v2"]])
    expected = logits_of(model, batch)
    length = batch["input_ids"].shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
    assert_same(logits_of(model, {**batch, "attention_mask": causal}), expected, "4-D mask")
    assert_moved(logits_of(model, {**batch, "attention_mask": causal.mT | causal}), expected, CASE, "no causality")


# Generation


def _encoded(lengths: list[int]) -> BaseModelOutputWithPooling:
    return BaseModelOutputWithPooling(pooler_output=[torch.full((n, 2), float(i)) for i, n in enumerate(lengths)])


@pytest.mark.parametrize(
    ("lengths", "per_row", "order"),
    [
        ([4, 4, 2], [8, 2], [0, 1, 0, 1, 2, 2]),
        ([3, 5], [0, 3, 0, 5, 0], [0, 0, 1, 1]),
        ([2, 2, 2], [6], [0, 1, 2, 0, 1, 2]),
        ([], [0, 0], []),
    ],
)
def test_media_are_repeated_with_their_rows(lengths: list[int], per_row: list[int], order: list[int]) -> None:
    repeated = repeat_media_per_row(_encoded(lengths), per_row, 2).pooler_output
    assert [int(vectors[0, 0]) for vectors in repeated] == order
    assert [len(vectors) for vectors in repeated] == [lengths[i] for i in order]


def test_media_that_cannot_be_dealt_out_are_refused() -> None:
    with pytest.raises(ValueError, match="9 placeholders, but the media give 8 vectors"):
        repeat_media_per_row(_encoded([4, 4]), [4, 5], 2)
    with pytest.raises(ValueError, match="divided between two rows"):
        repeat_media_per_row(_encoded([4, 4]), [3, 5], 2)


def test_media_are_encoded_once(model: VideoLlmForConditionalGeneration) -> None:
    """Neither beams nor later steps run the tower again."""
    frames: list[int] = []
    model.model.vision_tower.register_forward_pre_hook(
        lambda _, args, kwargs: frames.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    batch = CASE.make_batch([["v2", "v4"], ["i"]], padding_side="left")
    for options in ({}, {"num_beams": 3}, {"do_sample": True, "num_return_sequences": 3}, {"use_cache": False}):
        frames.clear()
        generate(model, batch, **options)
        assert sum(frames) == 7, options


def test_prompts_for_videos_may_use_the_image_placeholder(model: VideoLlmForConditionalGeneration) -> None:
    """As in the original, where `<image>` is the only placeholder; beams included."""
    rows = CASE.make_rows([["v2", "v4"], ["v3"]])
    as_images = [Row(row.ids.masked_fill(row.ids == VIDEO, IMAGE), row.videos) for row in rows]
    batch, other = collate(rows, "left"), collate(as_images, "left")
    assert not torch.equal(batch["input_ids"], other["input_ids"])
    expected = generate(model, batch, num_beams=2, num_return_sequences=2)
    found = generate(model, other, num_beams=2, num_return_sequences=2)
    assert_same(torch.stack(found.logits), torch.stack(expected.logits), "image placeholder for videos")
    swapped = generate(model, {**other, **media_of(collate(with_other_media(rows)))}, num_beams=2)
    assert_moved(swapped.logits[0], expected.logits[0], CASE, "other media")


def test_headless_model_cannot_generate_and_says_what_can() -> None:
    headless = PllavaModel(CASE.make_config())
    with pytest.raises(TypeError, match="AutoModelForImageTextToText"):
        headless.generate(**CASE.make_batch([["v2"]]))


# Loading


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    CASE.make_model().save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def _edit(folder: Path, **changes: torch.Tensor | None) -> None:
    """Replace tensors of a checkpoint, add them, or (None) remove them; `__` in a name stands for a dot."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for name, tensor in changes.items():
        key = name.replace("__", ".")
        tensors.pop(key, None)
        if tensor is not None:
            tensors[key] = tensor
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"model__connector__linear_1__weight": None}, [CONNECTOR, "1 tensors are missing"]),
        ({"model__connector__extra": torch.ones(2)}, ["model.connector.extra", "1 tensors are not part of the model"]),
        (
            {"model__connector__linear_1__weight": torch.ones(7, 16)},
            [f"{CONNECTOR} (7, 16) instead of (32, 16)", "of another shape"],
        ),
        ({"lm_head__weight": None}, [HEAD, "missing"]),
    ],
    ids=["missing", "unexpected", "shape", "head"],
)
def test_checkpoint_that_does_not_fit_is_refused(
    checkpoint: Path, changes: dict[str, torch.Tensor | None], parts: list[str]
) -> None:
    _edit(checkpoint, **changes)
    with pytest.raises(CheckpointError) as caught:
        PllavaForConditionalGeneration.from_pretrained(checkpoint)
    message = str(caught.value)
    for part in [*parts, str(checkpoint), "PllavaForConditionalGeneration"]:
        assert part in message
    assert "\n" not in message


def test_all_problems_are_named_at_once(checkpoint: Path) -> None:
    _edit(
        checkpoint,
        model__connector__linear_1__weight=torch.ones(7, 16),
        model__connector__linear_2__bias=None,
        model__connector__extra=torch.ones(2),
    )
    with pytest.raises(CheckpointError, match=r"linear_2\.bias.*connector\.extra.*linear_1\.weight \(7, 16\)"):
        PllavaForConditionalGeneration.from_pretrained(checkpoint)


def test_lenient_loading_takes_what_fits(checkpoint: Path) -> None:
    kept = load_file(checkpoint / "model.safetensors")
    _edit(checkpoint, model__connector__linear_1__weight=None, model__connector__extra=torch.ones(2))
    model, info = PllavaForConditionalGeneration.from_pretrained(checkpoint, strict=False, output_loading_info=True)
    assert set(info["missing_keys"]) == {CONNECTOR}
    assert set(info["unexpected_keys"]) == {"model.connector.extra"}
    state = model.state_dict()
    assert {name for name, tensor in kept.items() if not torch.equal(state[name], tensor)} == {CONNECTOR}


def test_mismatched_sizes_may_be_ignored_on_request(checkpoint: Path) -> None:
    _edit(checkpoint, model__connector__linear_1__weight=torch.ones(7, 16))
    model = PllavaForConditionalGeneration.from_pretrained(checkpoint, ignore_mismatched_sizes=True)
    assert model.model.connector.linear_1.weight.shape == (32, 16)


def test_headless_model_leaves_the_head_aside_and_nothing_else(checkpoint: Path) -> None:
    headless = PllavaModel.from_pretrained(checkpoint)
    assert not hasattr(headless, "lm_head")
    _edit(checkpoint, model__connector__extra=torch.ones(2))
    with pytest.raises(CheckpointError, match=r"connector\.extra"):
        PllavaModel.from_pretrained(checkpoint)


def test_model_with_head_refuses_a_headless_checkpoint(tmp_path: Path) -> None:
    PllavaModel(CASE.make_config()).save_pretrained(tmp_path)
    PllavaModel.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=HEAD):
        PllavaForConditionalGeneration.from_pretrained(tmp_path)


@pytest.mark.parametrize("text", ["llama", "gpt2"])
def test_tied_head_needs_no_tensor(tmp_path: Path, text: str) -> None:
    case = pllava_case(text, tie_word_embeddings=True)
    model = case.make_model()
    model.save_pretrained(tmp_path)
    assert HEAD not in load_file(tmp_path / "model.safetensors")
    reloaded = PllavaForConditionalGeneration.from_pretrained(tmp_path)
    assert reloaded.lm_head.weight is reloaded.get_input_embeddings().weight
    batch = case.make_batch([["v2", "i"]])
    assert torch.equal(logits_of(reloaded, batch), logits_of(model, batch))
    # The same file, but the head declared to be a matrix of its own.
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    with pytest.raises(CheckpointError, match=HEAD):
        PllavaForConditionalGeneration.from_pretrained(tmp_path)


def test_sharded_checkpoint_is_read_back(tmp_path: Path) -> None:
    model, batch = CASE.make_model(), CASE.make_batch([["v2", "i"]])
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert torch.equal(
        logits_of(PllavaForConditionalGeneration.from_pretrained(tmp_path), batch), logits_of(model, batch)
    )


@pytest.mark.parametrize("size", [(8, 32), (16, 24), (32, 32)])
def test_frames_of_a_wrong_size_are_refused(size: tuple[int, int]) -> None:
    """(8, 32) has as many patches as (16, 16): SigLIP alone would put them in wrong places."""
    model = pllava_case("llama", "siglip_vision_model").make_model()
    with pytest.raises(
        ValueError, match=f"{size[0]} x {size[1]} pixels do not fit the vision tower, which takes 16 x 16"
    ):
        model.get_video_features(torch.randn(1, 2, 3, *size))


@pytest.mark.parametrize("vision", VISION_TOWERS)
def test_frames_of_one_channel_are_refused(vision: str) -> None:
    model = pllava_case("llama", vision).make_model()
    with pytest.raises(ValueError, match=r"Frames must be \(frames, 3, height, width\), not of shape"):
        model.get_video_features(torch.randn(1, 2, 1, 16, 16))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_check_of_the_inputs_holds_in_a_compiled_graph(backend: str) -> None:
    """The plain call says what is wrong; a compiled graph stops, too, and is not broken by the check."""

    def doubled(values: torch.Tensor) -> torch.Tensor:
        check_tensor((values > 0).all(), "a value is not positive")
        check_tensor((values < 9).all(), "a value is too large")
        return 2 * values

    compiled = torch.compile(doubled, backend=backend, fullgraph=True)
    right, wrong = torch.tensor([1.0, 2.0]), torch.tensor([1.0, -2.0])
    assert torch.equal(compiled(right), doubled(right))
    with pytest.raises(ValueError, match="a value is not positive"):
        doubled(wrong)
    with pytest.raises(RuntimeError, match=r"without torch\.compile"):
        compiled(wrong)
