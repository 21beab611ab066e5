"""Processor of VideoLLaMA2: makes the same prompts as the official code, with one placeholder per visual token."""

import math
from typing import Any, Literal

from .chat_template_videollama2 import default_chat_template
from .configuration_video_llm import patch_grid as patch_grid_of
from .configuration_videollama2 import connector_grid
from .processing_video_llm import VideoLlmProcessor, VideoLlmProcessorKwargs

VideoLlama2ProcessorKwargs = VideoLlmProcessorKwargs


class VideoLlama2Processor(VideoLlmProcessor):
    """Makes model inputs for VideoLLaMA2.

    Token ids are the same as in the original, which tokenises the texts before and after a placeholder separately. The
    tokenizer does this, if `hub.tokenizer_videollama2.prepare_tokenizer` has prepared it.

    If training padded images to squares (`do_pad=True`), the image processor is a `LlavaImageProcessor`; otherwise it
    is any image processor of the tower. To get the same pixels as the original, use the PIL backend
    (`AutoProcessor.from_pretrained(folder, backend="pil")`). Pixels of torchvision differ by 1 or 2 of 255.
    """

    default_chat_template = default_chat_template()

    @classmethod
    def options_from_config(cls, config: Any) -> dict[str, Any]:
        """See `processor_options`."""
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
        connector_downsample: how the model's connector down-samples. The number of placeholders follows from this
            option, the next two and `patch_grid`.
        connector_kernel_size: (time, height, width).
        connector_padding: zeros on both ends of each axis.
        image_num_frames: number of equal frames of the video that the model makes from an image.

        `processor_options` reads these five options from a configuration.
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
        """The number for a video of `image_num_frames` frames, because the model turns an image into such a video."""
        return self.num_video_tokens(self.image_num_frames)

    def num_video_tokens(self, num_frames: int) -> int:
        """The number of visual tokens that the connector returns; the model uses the same rule."""
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
