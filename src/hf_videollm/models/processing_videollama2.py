"""Processor of VideoLLaMA2: prompts of the official code, one placeholder per visual token."""

import math
from typing import Any, Literal

from .chat_template_videollama2 import default_chat_template
from .configuration_video_llm import patch_grid as patch_grid_of
from .configuration_videollama2 import connector_grid
from .processing_video_llm import VideoLlmProcessor, VideoLlmProcessorKwargs
from .transformers_compat import add_defaults
from .video_processing_videollama2 import VideoLlama2VideoProcessorKwargs


@add_defaults
class VideoLlama2ProcessorKwargs(VideoLlmProcessorKwargs, total=False):  # type: ignore[call-arg]
    """Keyword arguments of VideoLLaMA2's processor."""

    videos_kwargs: VideoLlama2VideoProcessorKwargs


class VideoLlama2Processor(VideoLlmProcessor):
    """Makes model inputs for VideoLLaMA2.

    Token ids are those of the original, which tokenises the text on both sides of a placeholder apart. This is the
    tokenizer's own doing: `hub.tokenizer_videollama2.prepare_tokenizer` makes one that does it.

    Images need `LlavaImageProcessor` where training padded them to squares (`do_pad=True`), otherwise any image
    processor of the tower. The pixels of the original are those of its PIL backend
    (`AutoProcessor.from_pretrained(folder, backend="pil")`); torchvision's differ by a level or two of 255.
    """

    valid_processor_kwargs = VideoLlama2ProcessorKwargs
    default_chat_template = default_chat_template()

    @classmethod
    def options_from_config(cls, config: Any) -> dict[str, Any]:
        """See the base."""
        return processor_options(config)

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        video_processor: Any = None,
        chat_template: str | dict[str, str] | None = None,
        image_token: str = "<image>",
        video_token: str = "<video>",
        patch_grid: tuple[int, int] | list[int] = (24, 24),
        connector_downsample: Literal["conv", "pool", "mean"] = "conv",
        connector_kernel_size: tuple[int, int, int] | list[int] = (2, 2, 2),
        connector_padding: int = 0,
        image_num_frames: int = 16,
        **sub_processors: Any,
    ) -> None:
        """Args:
        patch_grid: rows and columns of patches of one frame.
        connector_downsample: what the model's connector does; this and the next two decide the number of placeholders.
        connector_kernel_size: (time, height, width).
        connector_padding: zeros on both ends of each axis.
        image_num_frames: an image is a video of so many equal frames.

        `processor_options` takes the last five from a configuration.
        """
        super().__init__(
            image_processor, tokenizer, video_processor, chat_template, image_token, video_token, **sub_processors
        )
        self.patch_grid = list(patch_grid)
        self.connector_downsample = connector_downsample
        self.connector_kernel_size = list(connector_kernel_size)
        self.connector_padding = connector_padding
        self.image_num_frames = image_num_frames

    def num_image_tokens(self) -> int:
        """As many as a video of `image_num_frames` frames, which an image becomes in the model."""
        return self.num_video_tokens(self.image_num_frames)

    def num_video_tokens(self, num_frames: int) -> int:
        """Positions that the connector leaves, the same rule as in the model."""
        grid = connector_grid(
            num_frames,
            self.patch_grid,
            self.connector_downsample,
            self.connector_kernel_size,
            self.connector_padding,
        )
        return math.prod(grid)


def processor_options(config: Any) -> dict[str, Any]:
    """Arguments of `VideoLlama2Processor` that must fit the model.

    Args:
        config: a `VideoLlama2Config`.
    """
    return {
        "patch_grid": list(patch_grid_of(config.vision_config)),
        "connector_downsample": config.connector_downsample,
        "connector_kernel_size": list(config.connector_kernel_size),
        "connector_padding": config.connector_padding,
        "image_num_frames": config.num_frames,
    }


__all__ = ["VideoLlama2Processor", "VideoLlama2ProcessorKwargs", "processor_options"]
