"""Configuration of VideoLLaMA2 (Cheng et al., 2024), and the rule for the shape of its visual tokens."""

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict

from .configuration_video_llm import VideoLlmConfig, patch_grid

# The connectors of the original code by name: the number of blocks in each of the two RegStages, the kind of
# downsampling, its kernel (which is also its stride) over (time, height, width), its padding of all three axes, and the
# number of layers of the final MLP.
# "linear" and the names that `MLP_NAME` matches keep every patch and take the mean over the frames.
CONNECTOR_TYPES: dict[str, dict[str, Any]] = {
    "stc_connector": {"depth": 4, "downsample": "conv", "kernel_size": (2, 2, 2), "padding": 1, "mlp_depth": 2},
    "stc_connector_v35": {"depth": 4, "downsample": "conv", "kernel_size": (2, 2, 2), "padding": 0, "mlp_depth": 2},
    "stp_connector": {"depth": 4, "downsample": "pool", "kernel_size": (2, 2, 2), "padding": 0, "mlp_depth": 2},
    "spatial_conv": {"depth": 0, "downsample": "conv", "kernel_size": (1, 2, 2), "padding": 1, "mlp_depth": 2},
    "spatial_pool": {"depth": 0, "downsample": "pool", "kernel_size": (1, 2, 2), "padding": 0, "mlp_depth": 2},
    "linear": {"depth": 0, "downsample": "mean", "kernel_size": (1, 1, 1), "padding": 0, "mlp_depth": 1},
}
MLP_NAME = re.compile(r"mlp([1-9]\d*)x_gelu")


def connector_preset(name: str) -> dict[str, Any]:
    """The values of the `connector_*` fields for a connector of the original code.

    Raises:
        ValueError: the name is unknown; the message lists the known names.
    """
    if name in CONNECTOR_TYPES:
        return CONNECTOR_TYPES[name]
    if match := MLP_NAME.fullmatch(name):
        return {**CONNECTOR_TYPES["linear"], "mlp_depth": int(match[1])}
    raise ValueError(
        f"connector_type {name!r} is unknown: choose one of {', '.join(CONNECTOR_TYPES)} or mlp<N>x_gelu, such as "
        "mlp2x_gelu."
    )


def connector_grid(
    num_frames: int, grid: Sequence[int], downsample: str, kernel_size: Sequence[int], padding: int
) -> tuple[int, int, int]:
    """Shape (t, h, w) of the visual tokens of one clip; the product of the three is its number of placeholders.

    Args:
        num_frames: number of frames of the clip.
        grid: rows and columns of patches of one frame.
        downsample: `"conv"`, `"pool"` or `"mean"` (the mean over the frames, for every patch).
        kernel_size: (time, height, width), also the stride.
        padding: zeros on both ends of each of the three axes.

    Raises:
        ValueError: the clip or the frames are smaller than the kernel.
    """
    if num_frames < 1:
        raise ValueError(f"A video needs at least one frame, got {num_frames}.")
    if downsample == "mean":
        return (1, grid[0], grid[1])
    sizes = (num_frames, grid[0], grid[1])
    time, height, width = (
        (size + 2 * padding - kernel) // kernel + 1 for size, kernel in zip(sizes, kernel_size, strict=True)
    )
    if min(time, height, width) < 1:
        fix = "use a vision tower with more patches, or a smaller connector_kernel_size"
        if time < 1:
            fix = f"sample at least {kernel_size[0] - 2 * padding} frames (num_frames), or repeat the frames"
        raise ValueError(
            f"A clip of {num_frames} x {grid[0]} x {grid[1]} patches (time, height, width) is smaller than the "
            f"connector's kernel of {' x '.join(map(str, kernel_size))}: {fix}."
        )
    return time, height, width


@strict
class VideoLlama2Config(VideoLlmConfig):
    r"""
    Configuration of a VideoLLaMA2 model. `connector_type` names a connector of the original code, which sets the other
    connector fields; a field that is passed explicitly overrides it. With these fields, all connectors in Table 1 of
    the paper can be built.

    connector_type (`str`):
        `stc_connector` (VideoLLaMA2), `stc_connector_v35` (2.1), `stp_connector`, `spatial_conv`, `spatial_pool`,
        `linear`, or `mlp2x_gelu` with any number of layers in place of 2.
    connector_depth (`int`, *optional*):
        Blocks in each of the two RegStages, before and after downsampling; 0 leaves them out.
    connector_downsample (`str`, *optional*):
        `"conv"` (Conv3d), `"pool"` (average pooling) or `"mean"` (the mean over the frames, for every patch).
    connector_kernel_size (`list[int]`, *optional*):
        Kernel and stride (time, height, width) of the downsampling; (1, 2, 2) is called "2D" in the paper.
    connector_padding (`int`, *optional*):
        Zeros on both ends of time, height and width before a convolution.
    connector_mlp_depth (`int`, *optional*):
        Number of linear layers after the second RegStage, with GELU between them.

    Example:

    ```python
    >>> from hf_videollm import VideoLlama2Config
    >>> config = VideoLlama2Config(
    ...     vision_config={"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14},
    ...     connector_type="stc_connector", num_frames=8)
    >>> config.num_video_tokens(8), config.num_image_tokens()
    (845, 845)

    ```"""

    model_type = "videollama2"
    has_fixed_grid: ClassVar[bool] = True
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_videollama2.VideoLlama2Config",
        "AutoModel": "modeling_videollama2.VideoLlama2Model",
        "AutoModelForImageTextToText": "modeling_videollama2.VideoLlama2ForCausalLM",
        "AutoModelForMultimodalLM": "modeling_videollama2.VideoLlama2ForCausalLM",
        "AutoModelForCausalLM": "modeling_videollama2.VideoLlama2ForCausalLM",
        "AutoProcessor": "processing_videollama2.VideoLlama2Processor",
        "AutoVideoProcessor": "video_processing_videollama2.VideoLlama2VideoProcessor",
    }

    connector_type: str = "stc_connector_v35"
    connector_depth: int | None = None
    connector_downsample: Literal["conv", "pool", "mean"] | None = None
    connector_kernel_size: list[int] | tuple[int, ...] | None = None
    connector_padding: int | None = None
    connector_mlp_depth: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        for field, value in connector_preset(self.connector_type).items():
            if getattr(self, f"connector_{field}") is None:
                setattr(self, f"connector_{field}", value)
        # JSON turns tuples into lists. With a list, a config that was saved and loaded equals the original one.
        self.connector_kernel_size = list(self.connector_kernel_size or ())

    def validate_architecture(self) -> None:
        super().validate_architecture()
        kernel_size = self.connector_kernel_size or ()
        if len(kernel_size) != 3 or min(kernel_size) < 1:
            raise ValueError(
                f"connector_kernel_size must be three positive numbers (time, height, width), not {kernel_size}."
            )
        for field, least in (("depth", 0), ("padding", 0), ("mlp_depth", 1)):
            if (value := getattr(self, f"connector_{field}")) < least:
                raise ValueError(f"connector_{field} must be at least {least}, not {value}.")
        if self.connector_padding and self.connector_downsample != "conv":
            raise ValueError(
                f"connector_padding {self.connector_padding} needs connector_downsample 'conv', not "
                f"{self.connector_downsample!r}: zeros would be averaged with the features."
            )

    def connector_grid(self, num_frames: int) -> tuple[int, int, int]:
        """Shape (t, h, w) of the visual tokens of a video of `num_frames` frames."""
        assert self.connector_downsample is not None
        assert self.connector_kernel_size is not None
        assert self.connector_padding is not None
        return connector_grid(
            num_frames,
            patch_grid(self.vision_config),
            self.connector_downsample,
            self.connector_kernel_size,
            self.connector_padding,
        )

    def num_video_tokens(self, num_frames: int) -> int:
        time, height, width = self.connector_grid(num_frames)
        return time * height * width

    def num_image_tokens(self) -> int:
        """As in the original code, an image is repeated to a video of `num_frames` equal frames."""
        return self.num_video_tokens(self.num_frames)


__all__ = ["VideoLlama2Config", "connector_grid", "connector_preset"]
