"""VideoLLaMA2 against tensors of the original code (DAMO-NLP-SG/VideoLLaMA2).

Not every run of the connectors was recorded with its output; for the others the rule written out below, in float64
and checked on the recorded ones, stands in.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from hf_videollm.models.configuration_videollama2 import VideoLlama2Config
from hf_videollm.models.modeling_videollama2 import VideoLlama2Connector, VideoLlama2ForCausalLM

TOLERANCE = 2e-5
OFFICIAL_PLACEHOLDERS = {-200: 448, -201: 449}  # image, video -> ours, outside the vocabulary of the recorded models
VISION_PREFIX = "model.vision_tower.vision_tower.vision_model."

CONNECTORS = [
    "stc_connector", "stc_connector_v35", "stp_connector", "spatial_conv", "spatial_pool", "mlp2x_gelu", "linear",
]  # fmt: skip
RUNS = ["t8_l36", "t5_l36", "t8_l49", "t5_l49", "t1_l36", "t4_h5w6"]
# One frame is less than the kernel; the original stops as well, with an error of torch.
TOO_SHORT = [("stc_connector_v35", "t1_l36"), ("stp_connector", "t1_l36")]
# Their official readers take the patches as a square; a run with another shape was not made.
NOT_RUN = [("mlp2x_gelu", "t4_h5w6"), ("linear", "t4_h5w6")]
every_connector = pytest.mark.parametrize("name", CONNECTORS)


def assert_close(found: torch.Tensor, expected: torch.Tensor, rtol: float = 0.0) -> None:
    torch.testing.assert_close(found, expected.to(found.dtype), atol=TOLERANCE, rtol=rtol)


# The connectors


class Recording:
    """The recorded connectors: runs, inputs, outputs and weights."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
        self.inputs = load_file(folder / "inputs.safetensors")

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        """Weights of a connector under our names: an MLP alone is our readout."""
        weights = load_file(self.folder / f"{name}.weights.safetensors")
        prefix = {"mlp2x_gelu": "readout.", "linear": "readout.0."}.get(name, "")
        return {prefix + key: tensor for key, tensor in weights.items()}

    def output(self, name: str, run: str) -> torch.Tensor | None:
        return load_file(self.folder / f"{name}.outputs.safetensors").get(run)

    def features(self, run: str) -> torch.Tensor:
        """Input `(clips, T, H, W, width)`."""
        features = self.inputs[f"{run}.d32"]
        if features.ndim == 5:
            return features
        side = round(features.shape[2] ** 0.5)
        return features.unflatten(2, (side, side))

    def connector(self, name: str, grid: tuple[int, int]) -> VideoLlama2Connector:
        config = make_config(name, grid, self.meta["cases"][name]["hidden_size"])
        connector = VideoLlama2Connector(config)
        connector.load_state_dict(self.weights(name))
        return connector.eval()


def make_config(name: str, grid: tuple[int, int], text_width: int = 48, **options: Any) -> VideoLlama2Config:
    """A configuration with the given connector behind a tower of `grid` patches."""
    config = VideoLlama2Config(
        vision_config={"model_type": "clip_vision_model", "hidden_size": 32, "num_attention_heads": 4, "patch_size": 4},
        text_config={"model_type": "llama", "hidden_size": text_width, "num_attention_heads": 4},
        connector_type=name,
        **options,
    )
    config.vision_config.image_size = (grid[0] * 4, grid[1] * 4)
    return config


@pytest.fixture(scope="module")
def recorded(goldens: Path) -> Recording:
    return Recording(goldens / "videollama2" / "stc")


def by_rule(name: str, weights: dict[str, torch.Tensor], features: torch.Tensor) -> torch.Tensor:
    """What docs/designs/videollama2.md says the original makes of one batch of clips `(clips, T, H, W, width)`."""
    weights = {key: tensor.double() for key, tensor in weights.items()}
    volume = features.double().permute(0, 4, 1, 2, 3)

    def norm(x: torch.Tensor, key: str) -> torch.Tensor:
        mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
        scale, shift = (weights[f"{key}.{part}"][:, None, None] for part in ("weight", "bias"))
        return (x - mean) / (variance + 1e-5).sqrt() * scale + shift

    def convolve(x: torch.Tensor, key: str, **options: Any) -> torch.Tensor:
        return norm(F.conv2d(x, weights[f"{key}.conv.weight"], **options), f"{key}.bn")

    def stage(volume: torch.Tensor, key: str) -> torch.Tensor:
        clips, _, frames = volume.shape[:3]
        x = volume.transpose(1, 2).flatten(0, 1)
        for block in (f"{key}.b{index}" for index in range(1, 5)):
            y = F.silu(convolve(x, f"{block}.conv1"))
            y = F.silu(convolve(y, f"{block}.conv2", padding=1, groups=y.shape[1]))
            squeezed = F.silu(
                y.mean((2, 3)) @ weights[f"{block}.se.fc1.weight"][..., 0, 0].T + weights[f"{block}.se.fc1.bias"]
            )
            gate = squeezed @ weights[f"{block}.se.fc2.weight"][..., 0, 0].T + weights[f"{block}.se.fc2.bias"]
            y = convolve(y * gate.sigmoid()[..., None, None], f"{block}.conv3")
            shortcut = convolve(x, f"{block}.downsample") if f"{block}.downsample.conv.weight" in weights else x
            x = F.silu(y + shortcut)
        return x.unflatten(0, (clips, frames)).transpose(1, 2)

    has_stages = name.startswith("st")
    volume = stage(volume, "s1") if has_stages else volume
    kernel = (1, 2, 2) if name.startswith("spatial") else (2, 2, 2)
    if "sampler.0.weight" in weights:
        padding = 0 if name == "stc_connector_v35" else 1
        volume = F.conv3d(volume, weights["sampler.0.weight"], weights["sampler.0.bias"], kernel, padding)
        volume = F.silu(volume)
    elif name in ("stp_connector", "spatial_pool"):
        volume = F.silu(F.avg_pool3d(volume, kernel))
    else:
        volume = volume.mean(2, keepdim=True)
    volume = stage(volume, "s2") if has_stages else volume
    tokens = volume.flatten(2).transpose(1, 2)
    tokens = tokens @ weights["readout.0.weight"].T + weights["readout.0.bias"]
    if name != "linear":
        tokens = F.gelu(tokens) @ weights["readout.2.weight"].T + weights["readout.2.bias"]
    return tokens


def test_every_recorded_run_is_accounted_for(recorded: Recording) -> None:
    assert list(recorded.meta["cases"]) == CONNECTORS
    for name, case in recorded.meta["cases"].items():
        assert set(case["runs"]) == {run for run in RUNS if (name, run) not in NOT_RUN}
        assert {run for run, run_meta in case["runs"].items() if "error" in run_meta} == {
            run for too_short, run in TOO_SHORT if too_short == name
        }
        assert recorded.output(name, "t8_l36") is not None
        assert len(recorded.weights(name)) == case["n_keys"]


@every_connector
@pytest.mark.parametrize("run", RUNS)
@torch.no_grad()
def test_connector_equals_the_original(recorded: Recording, name: str, run: str) -> None:
    features = recorded.features(run)
    clips, frames, height, width = features.shape[:4]
    connector = recorded.connector(name, (height, width))
    if (name, run) in TOO_SHORT:
        with pytest.raises(ValueError, match=r"1 x 6 x 6 patches .* is smaller than .* sample at least 2 frames"):
            connector(features.flatten(0, 1).flatten(1, 2), [frames] * clips)
        return
    found = torch.stack(connector(features.flatten(0, 1).flatten(1, 2), [frames] * clips))
    assert_close(found, by_rule(name, recorded.weights(name), features))
    if (name, run) not in NOT_RUN:
        assert list(found.shape) == recorded.meta["cases"][name]["runs"][run]["output_shape"]
    if (expected := recorded.output(name, run)) is not None:
        assert_close(found, expected)


def test_token_counts_equal_the_original(recorded: Recording) -> None:
    """The whole table of the recording: 8 and 16 frames of both real towers, and 1 and 32."""
    table = recorded.meta["token_counts"]
    assert {row["type"] for row in table} == set(CONNECTORS)
    assert {(row["grid"], row["frames"]) for row in table} >= {(24, 8), (24, 16), (27, 8), (27, 16)}
    for row in table:
        config = make_config(row["type"], (row["grid"], row["grid"]))
        if "error" in row:
            with pytest.raises(ValueError, match="sample at least 2 frames"):
                config.num_video_tokens(row["frames"])
            continue
        assert list(config.connector_grid(row["frames"])) == row["thw"], row
        assert config.num_video_tokens(row["frames"]) == row["tokens"], row
        config.num_frames = row["frames"]
        assert config.num_image_tokens() == row["tokens"], "an image is a video of num_frames equal frames"


# The whole model


def rename(key: str) -> str:
    """Name of an original tensor in our model."""
    for old, new in (
        (VISION_PREFIX, "model.vision_tower."),
        ("model.mm_projector.", "model.connector."),
        ("model.", "model.language_model."),
        ("lm_head.", "lm_head."),
    ):
        if key.startswith(old):
            return new + key.removeprefix(old)
    raise KeyError(key)


class RecordedModel:
    """One recorded model: our model with its weights, its inputs and outputs."""

    def __init__(self, folder: Path, name: str) -> None:
        self.meta = json.loads((folder / "meta_main.json").read_text())[name]["cases"]
        self.inputs = load_file(folder / name / "inputs.safetensors")
        self.outputs = load_file(folder / name / "outputs.safetensors")
        self.weights = load_file(folder / name / "weights.safetensors")
        config = json.loads((folder / name / "config.json").read_text())
        tower = json.loads((folder / name / "vision_config.json").read_text())
        text = {key: value for key, value in config.items() if key in TEXT_FIELDS}
        is_clip = config["mm_vision_tower"].startswith("clip")
        self.config = VideoLlama2Config(
            vision_config={"model_type": "clip_vision_model" if is_clip else "siglip_vision_model", **tower},
            text_config={**text, "model_type": name},
            connector_type=config["mm_projector_type"],
            num_frames=config["num_frames"],
            vision_feature_layer=config["mm_vision_select_layer"],
            vision_feature_select_strategy="default" if is_clip else "full",
            image_token_id=OFFICIAL_PLACEHOLDERS[-200],
            video_token_id=OFFICIAL_PLACEHOLDERS[-201],
        )

    def model(self) -> VideoLlama2ForCausalLM:
        model = VideoLlama2ForCausalLM(self.config)
        model.load_state_dict({rename(key): tensor for key, tensor in self.weights.items()})
        # Recorded without an end mark.
        model.generation_config.eos_token_id = None
        return model.eval()

    def ids(self, case: str) -> torch.Tensor:
        return self.inputs[f"{case}.input_ids"]

    def media(self, case: str) -> dict[str, torch.Tensor]:
        """Frames of a case as our model takes them."""
        if case == "image":
            return {"pixel_values": self.inputs["image"]}
        names = {"video": ["frames"], "text": [], "batch": ["frames", "frames2"]}[case]
        return {"pixel_values_videos": torch.stack([self.inputs[name] for name in names])} if names else {}

    def batch(self, case: str) -> dict[str, torch.Tensor]:
        ids = self.ids(case)
        return {"input_ids": self.spread(ids, ids), **self.media(case)}

    def spread(self, tensor: torch.Tensor, ids: torch.Tensor, media_value: int | None = None) -> torch.Tensor:
        """Write out the placeholders: `tensor` follows `ids`, with ours (or `media_value`) in their place."""
        num_tokens = self.config.num_video_tokens(self.config.num_frames)
        rows = []
        for values, row in zip(tensor, ids, strict=True):
            row_out = values.repeat_interleave(torch.where(row < 0, num_tokens, 1))
            for official, ours in OFFICIAL_PLACEHOLDERS.items():
                at = (row == official).repeat_interleave(torch.where(row < 0, num_tokens, 1))
                row_out = row_out.masked_fill(at, ours if media_value is None else media_value)
            rows.append(row_out)
        return torch.stack(rows)

    def labelled_batch(self) -> dict[str, torch.Tensor]:
        ids, mask, labels = (self.inputs[f"batch.{name}"] for name in ("input_ids", "attention_mask", "labels"))
        return {
            **self.batch("batch"),
            "attention_mask": self.spread(mask.long(), ids, 1),
            "labels": self.spread(labels, ids, -100),
        }


TEXT_FIELDS = {
    "attention_dropout", "bos_token_id", "eos_token_id", "hidden_act", "hidden_size", "initializer_range",
    "intermediate_size", "max_position_embeddings", "max_window_layers", "num_attention_heads", "num_hidden_layers",
    "num_key_value_heads", "rms_norm_eps", "rope_theta", "sliding_window", "tie_word_embeddings",
    "use_sliding_window", "vocab_size",
}  # fmt: skip
MODELS = ["mistral", "qwen2"]
every_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(scope="module")
def models(goldens: Path) -> Callable[[str], RecordedModel]:
    folder = goldens / "videollama2" / "lm"
    return {name: RecordedModel(folder, name) for name in MODELS}.__getitem__


@every_model
@torch.no_grad()
def test_features_equal_the_original(models: Callable[[str], RecordedModel], name: str) -> None:
    source = models(name)
    model, frames = source.model(), source.media("video")["pixel_values_videos"]
    output = model.get_video_features(frames)
    assert_close(output.last_hidden_state, source.outputs["vision_features_frames"])
    assert_close(torch.stack(output.pooler_output), source.outputs["projected_frames"])
    image = model.get_image_features(source.inputs["image"])
    assert_close(torch.stack(image.pooler_output), source.outputs["projected_image"])


@every_model
@torch.no_grad()
def test_an_image_is_a_video_of_equal_frames_and_is_encoded_once(
    models: Callable[[str], RecordedModel], name: str
) -> None:
    source = models(name)
    model, image = source.model(), source.inputs["image"]
    images = torch.cat([image, image.flip(-1)])
    found = model.get_image_features(images)
    assert found.last_hidden_state.shape[0] == 2
    as_video = model.get_video_features(images.unsqueeze(1).repeat_interleave(source.config.num_frames, 1))
    assert_close(torch.stack(found.pooler_output), torch.stack(as_video.pooler_output))
    assert (found.pooler_output[0] - found.pooler_output[1]).abs().max() > 100 * TOLERANCE


CASES = [("mistral", "video"), ("mistral", "image"), ("mistral", "text"), ("qwen2", "video"), ("qwen2", "text")]


@pytest.mark.parametrize(("name", "case"), CASES)
@torch.no_grad()
def test_logits_equal_the_original(models: Callable[[str], RecordedModel], name: str, case: str) -> None:
    source = models(name)
    model, batch = source.model(), source.batch(case)
    embedded: list[torch.Tensor] = []
    model.model.language_model.register_forward_pre_hook(
        lambda _, args, kwargs: embedded.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    logits = model(**batch).logits
    if case != "text":
        assert_close(embedded[0], source.outputs[f"{case}.inputs_embeds"])
    assert_close(logits, source.outputs[f"{case}.logits"])


# No tokens were recorded of the other model's video.
@pytest.mark.parametrize(("name", "case"), [case for case in CASES if case != ("qwen2", "video")])
@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_tokens_equal_the_original(
    models: Callable[[str], RecordedModel], name: str, case: str, use_cache: bool
) -> None:
    source = models(name)
    model, batch, generated = source.model(), source.batch(case), source.outputs[f"{case}.generated"]
    found = model.generate(
        **batch, max_new_tokens=generated.shape[1], do_sample=False, use_cache=use_cache, pad_token_id=0,
        output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    written = found.sequences[:, batch["input_ids"].shape[1] :]
    assert torch.equal(written, generated)
    assert source.meta[case]["generated"] == generated[0].tolist()
    if (scores := source.outputs.get(f"{case}.generate_scores")) is not None:
        assert_close(torch.stack(found.logits, 1), scores)


def test_batch_with_labels_equals_the_original(models: Callable[[str], RecordedModel]) -> None:
    """Logits (recorded in half precision) and loss of two rows of unequal length."""
    source = models("mistral")
    model, batch = source.model(), source.labelled_batch()
    assert torch.equal(batch["attention_mask"].bool(), source.outputs["batch.attention_mask_after"])
    assert torch.equal(batch["labels"], source.outputs["batch.labels_after"])
    with torch.no_grad():
        output = model(**batch)
    mask = batch["attention_mask"].bool()
    assert_close(output.logits[mask], source.outputs["batch.logits"][mask], rtol=5e-4)
    assert output.loss.item() == pytest.approx(source.meta["batch"]["loss"], abs=TOLERANCE)


@every_model
def test_gradients_equal_the_original(models: Callable[[str], RecordedModel], name: str) -> None:
    source = models(name)
    model = source.model()
    model.model.vision_tower.requires_grad_(False)
    model(**source.labelled_batch()).loss.backward()
    norms = source.meta["grad_norms"]
    assert len(norms) > 10
    parameters = dict(model.named_parameters())
    for key, norm in norms.items():
        assert parameters[rename(key)].grad.norm().item() == pytest.approx(norm, rel=1e-4), key
    without = {key for key, parameter in parameters.items() if parameter.grad is None}
    assert without == {key for key in parameters if key.startswith("model.vision_tower.")}


@pytest.mark.parametrize(
    ("checkpoint", "text", "vision", "connector"),
    [
        ("VideoLLaMA2-7B-16F", "mistral", "clip_vision_model", "stc_connector"),
        ("VideoLLaMA2.1-7B-16F", "qwen2", "siglip_vision_model", "stc_connector_v35"),
    ],
)
def test_real_checkpoints_have_our_tensors(
    goldens: Path, checkpoint: str, text: str, vision: str, connector: str
) -> None:
    """Every key and shape of the real layouts, without the weights themselves."""
    layout = json.loads((goldens / "videollama2" / "lm" / "key_layouts" / f"{checkpoint}.json").read_text())["keys"]
    texts: dict[str, Any] = {
        "mistral": {"hidden_size": 4096, "intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 32000},
        "qwen2": {
            "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
            "num_key_value_heads": 4, "vocab_size": 152064,
        },
    }  # fmt: skip
    towers: dict[str, Any] = {
        "clip_vision_model": {
            "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
            "image_size": 336, "patch_size": 14,
        },
        "siglip_vision_model": {
            "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
            "image_size": 384, "patch_size": 14,
        },
    }  # fmt: skip
    config = VideoLlama2Config(
        text_config={"model_type": text, **texts[text]},
        vision_config={"model_type": vision, **towers[vision]},
        connector_type=connector,
    )
    with torch.device("meta"):
        model = VideoLlama2ForCausalLM(config)
    found = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    assert found == {rename(key): shape for key, shape in layout.items()}
