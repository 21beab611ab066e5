"""The memory of the visual parts does not grow with the frames of a video, beyond the features that are returned."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import LlavaConfig

from hf_videollm import (
    FtfvConfig,
    IvaConfig,
    LinVTConfig,
    PllavaConfig,
    VideoLlama2AVConfig,
    VideoLlama2Config,
)
from hf_videollm.costs.live_bytes import LiveBytes
from hf_videollm.models import video_llm_chunks
from hf_videollm.models.modeling_pllava import time_weights
from hf_videollm.models.video_llm_chunks import (
    RowJoiner,
    even_chunk_size,
    join_parts,
    tower_bytes_per_frame,
    tower_chunk_size,
)

TOWER = {
    "model_type": "clip_vision_model",
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 4,
}
TEXT = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 200,
}
PARTS: dict[str, Any] = {"vision_config": TOWER, "text_config": TEXT}
EAR = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
ADAPTER = {"num_insertions": 2, "adapter_hidden_size": 32, "num_adapter_layers": 1, "causal_num_layers": 1}
QUERIES = {"adapter_width": 64, "adapter_num_heads": 4, "num_queries": 16, "num_tokens_per_frame": 2}
LINVT = {"num_layers": 1, "num_attention_heads": 4, "scorer_chunk_tokens": 512}
DESIGNS = {
    "pllava": lambda: PllavaConfig(**PARTS, pooling_shape=[4, 4, 4]),
    "videollama2": lambda: VideoLlama2Config(**PARTS),
    "videollama2-av": lambda: VideoLlama2AVConfig(**PARTS, audio_config=EAR),
    "ftfv": lambda: FtfvConfig(**PARTS, **QUERIES),
    "iva": lambda: IvaConfig(**PARTS, **ADAPTER),
    "linvt": lambda: LinVTConfig(backbone_config=LlavaConfig(**PARTS, image_token_index=199), linvt_config=LINVT),
}
# Frames of one tower chunk: the budget below is that of a model of real width, divided by its activations.
BUDGET = 4 * 2**20
FEW, MANY = 64, 256
# Values of one frame that grow with the video: features of the tower, or the image-LLM's tokens with and without time.
FEATURES_PER_FRAME = {"linvt": 2 * 64 * 64}
PATCHES = 64 * 64


@pytest.fixture(autouse=True)
def small_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_llm_chunks, "CHUNK_BYTES", BUDGET)


def make_base(name: str) -> Any:
    from transformers import AutoModel

    torch.manual_seed(0)
    return AutoModel.from_config(DESIGNS[name]()).eval()


def encode(model: Any, frames: torch.Tensor) -> Any:
    """The visual tokens of one video, by the method that a forward calls."""
    counts = torch.tensor([len(frames)])
    if model.reads_questions:
        return model.get_video_features(num_video_frames=counts, pixel_values_videos=frames)
    return model.get_video_features(frames.unsqueeze(0), counts)


def peak(model: Any, num_frames: int) -> tuple[int, int]:
    """The most that is alive besides weights and frames, and the bytes of the visual tokens."""
    frames = torch.zeros(num_frames, 3, 32, 32)
    with torch.no_grad(), LiveBytes("cpu", [*model.parameters(), *model.buffers(), frames]) as counter:
        output = encode(model, frames)
    return counter.peak, sum(tokens.nbytes for tokens in output.pooler_output)


@pytest.mark.parametrize("name", DESIGNS)
def test_the_peak_of_the_vision_grows_by_the_features_alone(name: str) -> None:
    model = make_base(name)
    (few, tokens_of_few), (many, tokens_of_many) = peak(model, FEW), peak(model, MANY)
    features = 4 * FEATURES_PER_FRAME.get(name, PATCHES) * (MANY - FEW)
    # IVA's causal layers read one vector for each frame: they are the tenth.
    assert many - few <= 1.1 * (features + tokens_of_many - tokens_of_few) + BUDGET / 4
    # The control: with all frames at once, the tower alone needs several times the features.
    model.config.vision_chunk_size = MANY
    assert peak(model, MANY)[0] - few > 2 * features


@pytest.mark.parametrize("name", DESIGNS)
def test_the_number_of_frames_at_a_time_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """45 frames in chunks of 1 to 32: the chunks end elsewhere than the intervals and kernels of the connectors."""
    model, frames = make_base(name), torch.randn(45, 3, 32, 32)
    found = {}
    with torch.no_grad():
        for budget, least in ((2**40, 10**6), (2**20, 16), (1, 7), (1, 1)):
            monkeypatch.setattr(video_llm_chunks, "CHUNK_BYTES", budget)
            monkeypatch.setattr(video_llm_chunks, "MOST_FRAMES", least)
            found[budget, least] = encode(model, frames).pooler_output[0]
    whole, *others = found.values()
    for tokens in others:
        assert torch.allclose(tokens, whole, rtol=1e-4, atol=1e-5 * float(whole.abs().max()))


@pytest.mark.parametrize("connector", ["stc_connector_v35", "stp_connector", "spatial_conv", "spatial_pool", "linear"])
def test_every_connector_of_videollama2_takes_its_frames_in_parts(
    connector: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    from transformers import AutoModel

    model = AutoModel.from_config(VideoLlama2Config(**PARTS, connector_type=connector)).eval()
    features = torch.randn(38 + 5, 64, 64)
    with torch.no_grad():
        found = model.connector(features, [38, 5])
        monkeypatch.setattr(video_llm_chunks, "MOST_FRAMES", 10**6)
        monkeypatch.setattr(video_llm_chunks, "CHUNK_BYTES", 2**40)
        whole = model.connector(features, [38, 5])
    for part, expected in zip(found, whole, strict=True):
        assert part.shape == expected.shape
        assert torch.allclose(part, expected, rtol=1e-4, atol=1e-5)
    # The control: the frames at the border of two parts count.
    features[15:17] += 1
    with torch.no_grad():
        assert not torch.allclose(model.connector(features, [38, 5])[0], whole[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("frames", "means"), [(1, 1), (5, 16), (16, 16), (23, 16), (100, 7)])
def test_time_weights_are_those_of_adaptive_pooling(frames: int, means: int) -> None:
    values = torch.randn(3, frames)
    weights = time_weights(frames, means, values.device)
    assert torch.allclose(values @ weights.T, functional.adaptive_avg_pool1d(values, means), atol=1e-6)


def test_chunks_are_even_and_fit_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [even_chunk_size(*sizes) for sizes in ((16, 14), (28, 14), (3, 14), (0, 14), (29, 14))] == [8, 14, 3, 1, 10]
    config = PllavaConfig(**PARTS).vision_config
    shape = (1000, 3, 32, 32)
    frame = tower_bytes_per_frame(config, shape, torch.float32, 1000)
    monkeypatch.setattr(video_llm_chunks, "CHUNK_BYTES", 10 * frame)
    assert tower_chunk_size(config, shape, torch.float32, 1000) == 10
    # Half the width of numbers, twice the frames; a frame that is larger than the budget still runs.
    assert tower_chunk_size(config, shape, torch.bfloat16, 1000) == 20
    monkeypatch.setattr(video_llm_chunks, "CHUNK_BYTES", 1)
    assert tower_chunk_size(config, shape, torch.float32, 1000) == 1


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_estimate_of_a_frame_is_not_below_what_the_tower_holds(attention: str) -> None:
    model = make_base("pllava")
    model.vision_tower.set_attn_implementation(attention)
    frames = torch.zeros(8, 3, 32, 32)
    with torch.no_grad(), LiveBytes("cpu", [*model.parameters(), *model.buffers(), frames]) as counter:
        model.vision_tower(frames)
    estimate = 8 * tower_bytes_per_frame(model.vision_tower.config, frames.shape, torch.float32, 8)
    assert counter.peak <= estimate <= 3 * counter.peak


@pytest.mark.parametrize("sizes", [[5], [2, 3], [1, 1, 3]])
@pytest.mark.parametrize("has_gradients", [False, True])
def test_rows_are_joined_as_they_come(sizes: list[int], has_gradients: bool) -> None:
    layer = nn.Linear(3, 2)
    rows = torch.randn(5, 3)
    with torch.set_grad_enabled(has_gradients):
        joined = join_parts((layer(part) for part in rows.split(sizes)), 5)
        whole = layer(rows)
    assert joined.requires_grad == has_gradients
    assert torch.allclose(joined, whole, atol=1e-6)
    if has_gradients:
        joined.sum().backward()
        assert layer.weight.grad is not None
    joiner = RowJoiner(5)
    for part in rows.split(sizes):
        joiner.add(part)
    assert torch.equal(joiner.result(), rows)
