"""VideoLLaMA2-AV against tensors of the original code (branch audio_visual): the tiny Qwen2 model."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from videollama2_goldens import BEATS_TINY, official_state_dict_to_ours, qwen2_configs

from hf_videollm.models.configuration_videollama2_av import VideoLlama2AVConfig
from hf_videollm.models.modeling_videollama2_av import VideoLlama2AVForCausalLM

TOLERANCE = 2e-5
IMAGE, VIDEO, AUDIO = 500, 501, 502  # outside the vocabulary of 448
OFFICIAL_PLACEHOLDERS = {-200: IMAGE, -201: VIDEO, -202: AUDIO}
VIDEO_TOKENS, AUDIO_TOKENS = 8, 48


@pytest.fixture(scope="module")
def recording(goldens: Path) -> Path:
    return goldens / "videollama2" / "lm"


@pytest.fixture(scope="module")
def model(recording: Path) -> VideoLlama2AVForCausalLM:
    vision_config, text_config = qwen2_configs(recording / "qwen2")
    config = VideoLlama2AVConfig(
        vision_config=vision_config,
        text_config=text_config,
        audio_config=BEATS_TINY,
        connector_type="stc_connector_v35",
        vision_feature_select_strategy="full",
        num_frames=4,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        audio_token_id=AUDIO,
    )
    model = VideoLlama2AVForCausalLM(config).eval()
    weights = load_file(recording / "qwen2" / "weights.safetensors")
    weights |= load_file(recording / "qwen2_av" / "audio_extra_weights.safetensors")
    model.load_state_dict(official_state_dict_to_ours(weights), strict=True)
    return model


@pytest.fixture(scope="module")
def inputs(recording: Path) -> dict[str, torch.Tensor]:
    return load_file(recording / "qwen2" / "inputs.safetensors") | load_file(
        recording / "qwen2_av" / "inputs.safetensors"
    )


@pytest.fixture(scope="module")
def outputs(recording: Path) -> dict[str, torch.Tensor]:
    return load_file(recording / "qwen2_av" / "outputs.safetensors")


def expand(ids: torch.Tensor, with_sound: bool = False) -> torch.Tensor:
    """The original's row of ids, one negative id for each medium, with as many placeholders as there are vectors."""
    expanded: list[int] = []
    for token in ids.tolist():
        if token == -202:
            expanded += [AUDIO] * AUDIO_TOKENS
        elif token in OFFICIAL_PLACEHOLDERS:
            expanded += [OFFICIAL_PLACEHOLDERS[token]] * VIDEO_TOKENS + [AUDIO] * (AUDIO_TOKENS if with_sound else 0)
        else:
            expanded.append(token)
    return torch.tensor([expanded])


@torch.no_grad()
def test_audio_features(model, inputs, outputs) -> None:
    """Fbank -> BEATs -> mm_projector_a."""
    features = model.get_audio_features(inputs["fbank"])
    torch.testing.assert_close(features.last_hidden_state, outputs["beats_features"], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(features.pooler_output[0], outputs["projected_audio"][0], atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_video_features_are_those_of_the_video_model(model, inputs, outputs) -> None:
    features = model.get_video_features(inputs["frames"][None]).pooler_output[0]
    torch.testing.assert_close(features, outputs["projected_video"][0], atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_audio_alone(model, inputs, outputs) -> None:
    ids = expand(inputs["audio_only.input_ids"][0])
    logits = model(input_ids=ids, input_features=inputs["fbank"]).logits
    torch.testing.assert_close(logits, outputs["audio_only.logits"], atol=TOLERANCE, rtol=0)
    written = model.generate(ids, input_features=inputs["fbank"], max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert written[:, ids.shape[1] :].tolist() == outputs["audio_only.generated"].tolist()


@torch.no_grad()
def test_video_alone(model, inputs, outputs) -> None:
    """Also what the original gives after `audio_tower = None`."""
    ids = expand(inputs["video_only_in_av_model.input_ids"][0])
    pixels = inputs["frames"][None]
    logits = model(input_ids=ids, pixel_values_videos=pixels).logits
    torch.testing.assert_close(logits, outputs["video_only_in_av_model.logits"], atol=TOLERANCE, rtol=0)
    written = model.generate(ids, pixel_values_videos=pixels, max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert written[:, ids.shape[1] :].tolist() == outputs["video_only_in_av_model.generated"].tolist()


@torch.no_grad()
def test_video_tokens_stand_before_audio_tokens(model, recording: Path, inputs, outputs) -> None:
    """`text[:19] + 8 video tokens + 48 audio tokens + text`; the merged sequence is recorded by its parts."""
    ids = expand(inputs["av.input_ids"][0], with_sound=True)
    case = json.loads((recording / "meta_av.json").read_text())["cases"]["av"]
    assert ids.shape[1] == case["logits_shape"][1]
    media = {"pixel_values_videos": inputs["frames"][None], "input_features": inputs["fbank"]}
    text = model.get_input_embeddings()(inputs["av.input_ids"][:, :19])
    tail = model.get_input_embeddings()(inputs["av.input_ids"][:, 20:])
    merged = torch.cat([text, outputs["projected_video"], outputs["projected_audio"], tail], dim=1)
    expected = model(inputs_embeds=merged).logits
    torch.testing.assert_close(model(input_ids=ids, **media).logits, expected, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_batch_of_three_kinds(model, recording: Path, inputs) -> None:
    """Video with sound, video, sound, padded on the right as in the original: equal to the rows alone."""
    case = json.loads((recording / "meta_av.json").read_text())["cases"]["batch_av_video_audio"]
    official = inputs["batch_av_video_audio.input_ids"]
    rows = [expand(ids[ids != 400], with_sound=index == 0) for index, ids in enumerate(official)]
    lengths = [row.shape[1] for row in rows]
    assert lengths == case["attention_mask_after"]
    frames, fbank = inputs["frames"], inputs["fbank"]
    media = [
        {"pixel_values_videos": frames[None], "input_features": fbank},
        {"pixel_values_videos": inputs["frames2"][None]},
        {"input_features": inputs["fbank2"]},
    ]
    batch = torch.nn.utils.rnn.pad_sequence([row[0] for row in rows], batch_first=True, padding_value=400)
    together = model(
        input_ids=batch,
        attention_mask=(torch.arange(batch.shape[1]) < torch.tensor(lengths)[:, None]).long(),
        pixel_values_videos=torch.stack([frames, inputs["frames2"]]),
        input_features=torch.cat([fbank, inputs["fbank2"]]),
    ).logits
    for index, (row, medium) in enumerate(zip(rows, media, strict=True)):
        alone = model(input_ids=row, **medium).logits
        torch.testing.assert_close(together[index : index + 1, : lengths[index]], alone, atol=TOLERANCE, rtol=0)
