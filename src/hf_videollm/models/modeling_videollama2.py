"""VideoLLaMA2 (Cheng et al., 2024). Paper section 2: spatial-temporal convolution between the tower and the LLM.

    frames (T,3,H,W) -> vision tower, layer -2                  -> (T, h*w, Dv)
                     -> RegStage on every frame                 -> (T, D, h, w)
                     -> down-sampling over (t, h, w), SiLU      -> (t', D, h', w')
                     -> RegStage on every new frame, then MLP   -> (t'*h'*w', D)

The original code and the paper's Table 1 have further connectors, which omit some of these parts or use pooling instead
of convolution. `VideoLlama2Connector` makes all of them; the configuration chooses one.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from .configuration_video_llm import check_patch_grid, patch_grid
from .configuration_videollama2 import VideoLlama2Config
from .modeling_video_llm import VideoLlmForConditionalGeneration, VideoLlmModel
from .video_llm_chunks import frames_in_budget, join_parts
from .videollama2_regstage import RegStage


def build_mlp(in_width: int, out_width: int, depth: int) -> nn.Sequential:
    """`depth` linear layers with exact GELU between them."""
    layers: list[nn.Module] = [nn.Linear(in_width, out_width)]
    for _ in range(depth - 1):
        layers += [nn.GELU(), nn.Linear(out_width, out_width)]
    return nn.Sequential(*layers)


class FrameMean(nn.Module):
    """Mean of each patch over the frames. The number of patches does not change."""

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """`(N, C, T, H, W)` to `(N, C, 1, H, W)`."""
        return volume.mean(2, keepdim=True)


class VideoLlama2Connector(nn.Module):
    """RegStage, down-sampling over time and space, RegStage, MLP. The configuration can omit parts.

    The first part that has weights maps the tower's width to that of the language model. (In the original, connectors
    without RegStage do not map the width, and work only if both widths are equal.)
    """

    def __init__(self, config: VideoLlama2Config) -> None:
        super().__init__()
        depth, padding, mlp_depth = config.connector_depth, config.connector_padding, config.connector_mlp_depth
        # The configuration has filled in these fields from its `connector_type`.
        assert depth is not None
        assert padding is not None
        assert mlp_depth is not None
        assert config.connector_kernel_size is not None
        time, height, width = config.connector_kernel_size
        kernel_size = (time, height, width)
        self.connector_grid = config.connector_grid
        self.time_kernel, self.time_padding = time, padding if config.connector_downsample == "conv" else 0
        self.patch_grid = patch_grid(config.vision_config)

        num_layers = 1 if isinstance(config.vision_feature_layer, int) else len(config.vision_feature_layer)
        in_width = config.vision_config.hidden_size * num_layers
        self.out_width = out_width = config.text_config.hidden_size
        self.s1 = RegStage(depth, in_width, out_width)
        in_width = out_width if depth else in_width
        if config.connector_downsample == "conv":
            conv = nn.Conv3d(in_width, out_width, kernel_size, stride=kernel_size, padding=padding)
            self.sampler: nn.Module = nn.Sequential(conv, nn.SiLU())
            in_width = out_width
        elif config.connector_downsample == "pool":
            self.sampler = nn.Sequential(nn.AvgPool3d(kernel_size), nn.SiLU())
        else:
            self.sampler = FrameMean()
        self.s2 = RegStage(depth, in_width, out_width)
        self.readout = build_mlp(in_width, out_width, mlp_depth)

    def forward(self, frame_features: torch.Tensor, num_frames: list[int], repeats: int = 1) -> list[torch.Tensor]:
        """Visual tokens of each clip.

        Args:
            frame_features: `(sum(num_frames), patches, vision_width)`, patches in row-major order.
            num_frames: frame count of each clip.
            repeats: how many times each frame is repeated. A still image becomes a clip of equal frames. The first
                RegStage works on each frame separately, so it runs before the repetition.

        Returns:
            One `(t * h * w, text_width)` tensor per clip, ordered by time, then row, then column.

        Raises:
            ValueError: a clip has too few frames, or a frame does not have the configured number of patches.
        """
        lengths = [count * repeats for count in num_frames]
        times = [self.connector_grid(length)[0] for length in lengths]
        # `permute` copies nothing. In memory the channels remain the last dimension, which is fastest for the norms.
        frames = frame_features.unflatten(1, check_patch_grid(self.patch_grid, frame_features.shape[1])).permute(
            0, 3, 1, 2
        )
        values_per_frame = 8 * frame_features.shape[1] * max(frame_features.shape[2], self.out_width)
        limit = frames_in_budget(values_per_frame * frame_features.element_size(), 16)
        if sum(num_frames) > limit and repeats == 1:
            clips = zip(frames.split(lengths), times, strict=True)
            return [self.tokens_in_parts(clip, time, limit) for clip, time in clips]
        frames = self.s1(frames)
        if repeats > 1:
            frames = frames.repeat_interleave(repeats, 0)
        frames = self.s2(torch.cat(self.sample(list(frames.split(lengths)))))
        tokens = self.readout(frames.flatten(2).transpose(1, 2))
        return [clip.flatten(0, 1) for clip in tokens.split(times)]

    def tokens_in_parts(self, clip: torch.Tensor, num_new: int, limit: int) -> torch.Tensor:
        """The same as in `forward` for one clip of any length, about `limit` frames at a time.

        Args:
            clip: features of the frames, `(T, vision_width, rows, columns)`.
            num_new: number of new frames, which down-sampling makes of them.
            limit: frames at a time.
        """
        is_mean = isinstance(self.sampler, FrameMean)
        parts = self.mean_of_frames(clip, limit) if is_mean else self.parts(clip, num_new, limit)
        tokens = (self.readout(self.s2(part).flatten(2).transpose(1, 2)) for part in parts)
        return join_parts(tokens, num_new).flatten(0, 1)

    def mean_of_frames(self, clip: torch.Tensor, limit: int) -> Iterator[torch.Tensor]:
        """The one new frame of a connector that averages all frames, `(1, C, rows, columns)`."""
        total = sum(self.s1(frames).float().sum(0, keepdim=True) for frames in clip.split(limit))
        assert isinstance(total, torch.Tensor)
        yield (total / len(clip)).to(clip.dtype)

    def parts(self, clip: torch.Tensor, num_new: int, limit: int) -> Iterator[torch.Tensor]:
        """The new frames of a clip, `(some new frames, C, rows, columns)` at a time.

        New frame i is made of the frames from `i * kernel - padding` on, as many as the kernel is long. The convolution
        pads each part as if it were a whole clip, so a part begins some frames earlier than it has to, and the new
        frames that its padding reached are dropped.
        """
        kernel, padding = self.time_kernel, self.time_padding
        step, skipped = max(1, limit // kernel), -(-padding // kernel)
        done, held = 0, clip[:0]
        for first in range(0, num_new, step):
            last = min(first + step, num_new)
            end = len(clip) if last == num_new else last * kernel - padding
            states = self.s1(clip[done:end])
            states = torch.cat([held, states]) if len(held) else states
            skip = skipped if first else 0
            yield self.sample([states])[0][skip : skip + last - first]
            done, held = end, states[len(states) - (end - (last - skipped) * kernel) :] if last < num_new else clip[:0]
            del states

    def sample(self, clips: list[torch.Tensor]) -> list[torch.Tensor]:
        """Down-sample each clip `(T, C, H, W)` to `(t, C, h, w)`. Clips of equal length run as one batch."""
        indices_by_length: dict[int, list[int]] = {}
        for index, clip in enumerate(clips):
            indices_by_length.setdefault(len(clip), []).append(index)
        sampled = list(clips)
        for indices in indices_by_length.values():
            volume = torch.stack([clips[index] for index in indices]).transpose(1, 2)
            for index, clip in zip(indices, self.sampler(volume).transpose(1, 2), strict=True):
                sampled[index] = clip
        return sampled


class VideoLlama2Model(VideoLlmModel):
    """VideoLLaMA2 without a head: features for retrieval, serving engines and tests."""

    config_class = VideoLlama2Config
    connector_class = VideoLlama2Connector
    # Libraries must not split a block between devices, because its shortcut is added to the output of its convolutions.
    _no_split_modules = ("RegBlock",)

    def output_weights(self) -> dict[str, list[nn.Parameter]]:
        readout: Any = self.connector.readout
        return {"connector": [layer.weight for layer in readout[::2]]}

    @can_return_tuple
    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """As in the base class, but an image becomes a clip of `config.num_frames` equal frames.

        The tower encodes the image only once.
        """
        ones, repeats = [1] * len(pixel_values), {"repeats": self.config.num_frames}
        return self.get_frame_features(pixel_values, ones, connector_options=repeats, **kwargs)


class VideoLlama2ForCausalLM(VideoLlmForConditionalGeneration):
    """VideoLLaMA2 that answers questions on videos and images."""

    config_class = VideoLlama2Config
    model_class = VideoLlama2Model


__all__ = ["VideoLlama2Connector", "VideoLlama2ForCausalLM", "VideoLlama2Model", "build_mlp"]
