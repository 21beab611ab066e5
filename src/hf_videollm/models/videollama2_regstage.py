"""RegStage: a stage of RegNetY blocks (Radosavovic et al., 2020), the spatial half of VideoLLaMA2's connector.

The original code imports RegStage from timm. This implementation does not need timm, so a checkpoint on the Hub loads
without it. The parameters have the same names as in timm. The 3 x 3 convolutions are depthwise, and the norms are layer
norms over the channels.
"""

from collections import OrderedDict

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

# The original code uses this epsilon. The usual epsilon of channel norms, 1e-6, would change the outputs by 6e-4.
NORM_EPS = 1e-5
SQUEEZE_RATIO = 0.25


class ChannelLayerNorm(nn.LayerNorm):
    """Layer norm over the channels of `(N, C, H, W)`.

    transformers initialises this class like a norm, because its name contains "LayerNorm".
    """

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return super().forward(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def convolution(in_width: int, out_width: int, kernel_size: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution that keeps height and width, then a norm. The norm has a bias, so the convolution has none."""
    conv = nn.Conv2d(in_width, out_width, kernel_size, padding=kernel_size // 2, groups=groups, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=ChannelLayerNorm(out_width, NORM_EPS)))


class SqueezeExcite(nn.Module):
    """Multiply each channel by a weight, which a small MLP computes from the channels' means over the frame."""

    def __init__(self, width: int, squeezed_width: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, squeezed_width, 1)
        self.act = nn.SiLU()
        self.fc2 = nn.Conv2d(squeezed_width, width, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        means = features.mean((2, 3), keepdim=True)
        return features * self.fc2(self.act(self.fc1(means))).sigmoid()


class RegBlock(GradientCheckpointingLayer):
    """1 x 1 convolution, depthwise 3 x 3, squeeze and excitation, 1 x 1, and the shortcut around them."""

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.conv1 = convolution(in_width, out_width)
        self.conv2 = convolution(out_width, out_width, kernel_size=3, groups=out_width)
        # The squeezed width is a quarter of the width of the block's input, not of its output.
        self.se = SqueezeExcite(out_width, round(in_width * SQUEEZE_RATIO))
        self.conv3 = convolution(out_width, out_width)
        self.downsample = nn.Identity() if in_width == out_width else convolution(in_width, out_width)
        self.act = nn.SiLU()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`(N, in_width, H, W)` to `(N, out_width, H, W)`."""
        hidden = self.act(self.conv1(features))
        hidden = self.act(self.conv2(hidden))
        hidden = self.conv3(self.se(hidden))
        return self.act(hidden + self.downsample(features))


class RegStage(nn.Sequential):
    """`depth` blocks, the first of which changes the width. With depth 0 the stage returns its input."""

    def __init__(self, depth: int, in_width: int, out_width: int) -> None:
        widths = [in_width] + [out_width] * depth
        super().__init__(
            OrderedDict((f"b{i + 1}", RegBlock(widths[i], widths[i + 1])) for i in range(depth)),
        )


__all__ = ["RegStage"]
