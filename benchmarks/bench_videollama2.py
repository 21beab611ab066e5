"""Measures the speed of VideoLLaMA2's connector: batches of clips, still images, training with less memory.

python benchmarks/bench_videollama2.py --help
"""

from collections import OrderedDict
from pathlib import Path
from typing import Annotated

import torch
import typer
from bench_tools import record, seconds_by_turns, with_ratios
from torch import nn

from hf_videollm import VideoLlama2Config, VideoLlama2Model
from hf_videollm.models.modeling_videollama2 import VideoLlama2Connector
from hf_videollm.models.transformers_compat import disable_checkpointing, enable_checkpointing

try:
    import timm
    from timm.layers import LayerNorm2d
    from timm.models.regnet import RegStage
except ImportError:
    timm = None

QUICK = ("--width", "64", "--grid", "6", "--repeats", "1")


def make_config(width: int, grid: int) -> VideoLlama2Config:
    """A configuration with stc_connector_v35, the connector of VideoLLaMA2.1, and a small tower."""
    tower = {
        "model_type": "siglip_vision_model",
        "hidden_size": width // 2,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 6,
        "num_attention_heads": width // 64,
        "image_size": 14 * grid,
        "patch_size": 14,
    }
    text = {
        "model_type": "qwen2",
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 1,
        "num_attention_heads": width // 64,
        "num_key_value_heads": width // 64,
        "vocab_size": 100,
    }
    return VideoLlama2Config(
        vision_config=tower, text_config=text, vision_feature_select_strategy="full", image_token_id=4, video_token_id=5
    )


class TimmConnector(nn.Module):
    """The same connector built from timm's RegStage, for clips of equal length, as in the original."""

    def __init__(self, config: VideoLlama2Config, grid: int) -> None:
        super().__init__()
        in_width, width, self.grid = config.vision_config.hidden_size, config.text_config.hidden_size, grid
        options = {"act_layer": nn.SiLU, "norm_layer": LayerNorm2d}
        self.s1 = RegStage(config.connector_depth, in_width, width, 1, 1, **options)
        self.sampler = nn.Sequential(nn.Conv3d(width, width, 2, 2), nn.SiLU())
        self.s2 = RegStage(config.connector_depth, width, width, 1, 1, **options)
        layers = OrderedDict({"0": nn.Linear(width, width), "1": nn.GELU(), "2": nn.Linear(width, width)})
        self.readout = nn.Sequential(layers)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """`(clips, T, patches, width)` to `(clips, tokens, text_width)`."""
        num_clips, num_frames = clips.shape[:2]
        frames = clips.flatten(0, 1).transpose(1, 2).unflatten(2, (self.grid, self.grid))
        frames = self.s1(frames.contiguous()).unflatten(0, (num_clips, num_frames))
        volume = self.sampler(frames.transpose(1, 2).contiguous()).transpose(1, 2)
        frames = self.s2(volume.flatten(0, 1)).unflatten(0, volume.shape[:2])
        return self.readout(frames.transpose(1, 2).flatten(2).transpose(1, 2))


def bench_clips(
    connector: VideoLlama2Connector, peer: nn.Module | None, lengths: list[int], repeats: int
) -> dict[str, float]:
    """Turn the features of several clips into tokens: in one call, clip by clip, and with timm's blocks, in seconds."""
    weight = next(connector.parameters())
    patches, width = connector.patch_grid[0] * connector.patch_grid[1], connector.s1[0].conv1.conv.in_channels
    features = torch.randn(sum(lengths), patches, width).to(weight)

    def clip_by_clip() -> list[torch.Tensor]:
        return [connector(clip, [len(clip)])[0] for clip in features.split(lengths)]

    functions = {"clip_by_clip": clip_by_clip, "ours": lambda: connector(features, lengths)}
    if peer is not None:

        def timm_blocks() -> list[torch.Tensor]:
            if len(set(lengths)) == 1:
                return list(peer(features.unflatten(0, (len(lengths), lengths[0]))))
            return [peer(clip[None])[0] for clip in features.split(lengths)]

        for found, expected in zip(connector(features, lengths), timm_blocks(), strict=True):
            tolerance = {"atol": 2e-4, "rtol": 1e-4} if weight.dtype == torch.float32 else {"atol": 0.05, "rtol": 0.05}
            torch.testing.assert_close(found, expected.reshape(found.shape), **tolerance)
        functions["timm"] = timm_blocks
    return seconds_by_turns(functions, repeats)


def bench_images(model: VideoLlama2Model, repeats: int) -> dict[str, float]:
    """Four still images: encoded once, or as videos of equal frames, as in the original."""
    size, weight = model.config.vision_config.image_size, next(model.parameters())
    images = torch.randn(4, 3, size, size).to(weight)
    videos = images.unsqueeze(1).repeat_interleave(model.config.num_frames, 1)
    functions = {
        "as_videos": lambda: model.get_video_features(videos),
        "once": lambda: model.get_image_features(images),
    }
    return seconds_by_turns(functions, repeats)


def bench_training(model: VideoLlama2Model, repeats: int) -> dict[str, float]:
    """Gradients of the connector for one clip of 16 frames, with activations kept and computed again."""
    connector = model.connector.train()
    weight = next(connector.parameters())
    patches = connector.patch_grid[0] * connector.patch_grid[1]
    features = torch.randn(16, patches, model.config.vision_config.hidden_size).to(weight)

    def step() -> None:
        connector.zero_grad()
        connector(features, [16])[0].square().mean().backward()

    def step_with_checkpointing() -> None:
        enable_checkpointing(model, {"use_reentrant": False})
        step()
        disable_checkpointing(model)

    times = seconds_by_turns({"kept": step, "computed_again": step_with_checkpointing}, repeats)
    connector.eval()
    return times


def main(
    out: Annotated[Path | None, typer.Option(help="JSON file to write; the screen only by default.")] = None,
    machine: Annotated[str, typer.Option(help="Name of the machine, for the record.")] = "not named",
    width: Annotated[int, typer.Option(help="Width of the language model; the tower's is half of it.")] = 256,
    grid: Annotated[int, typer.Option(help="Rows and columns of patches.")] = 14,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    repeats: Annotated[int, typer.Option(help="Runs of each, after one to warm up.")] = 9,
) -> None:
    """Measure the speed of VideoLLaMA2's connector. Only ratios within one run are meaningful.

    timm's blocks are measured where timm is installed, with our weights, and must give our tokens.

    Examples:

      python benchmarks/bench_videollama2.py --width 64 --grid 6 --repeats 1

      python benchmarks/bench_videollama2.py --out benchmarks/results/videollama2_cpu.json --machine "2 shared cores"
    """
    torch.manual_seed(0)
    config = make_config(width, grid)
    model = VideoLlama2Model(config).eval().to(device, getattr(torch, dtype))
    connector = model.connector
    peer = None
    if timm is not None:
        peer = TimmConnector(config, grid).eval().to(next(connector.parameters()))
        peer.load_state_dict(connector.state_dict())
    with torch.inference_mode():
        equal = bench_clips(connector, peer, [8, 8, 8, 8], repeats)
        mixed = bench_clips(connector, peer, [8, 16, 4, 4, 8], repeats)
        images = bench_images(model, repeats)
    results = {
        "four_clips_of_8_frames": with_ratios(equal, "clip_by_clip"),
        "clips_of_8_16_4_4_8_frames": with_ratios(mixed, "clip_by_clip"),
        "four_images": with_ratios(images, "as_videos"),
        "training_step": with_ratios(bench_training(model, repeats), "kept"),
    }
    facts = {"device": device, "sizes": {"width": width, "grid": grid, "dtype": dtype}}
    record(results, out, machine, facts, {"timm": None if timm is None else timm.__version__})


if __name__ == "__main__":
    typer.run(main)
