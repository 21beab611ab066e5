"""Processor of FTFV: prompts for Vicuna, with K placeholders for each frame of a video, and N for an image.

N is `num_queries`, and K is `num_tokens_per_frame`.
"""

from typing import Any, ClassVar

from transformers.image_utils import make_flat_list_of_images
from transformers.processing_utils import ImagesKwargs, MultiModalData

from .chat_template_vicuna import CHAT_TEMPLATE
from .configuration_ftfv import tokens_per_frame
from .processing_video_llm import VideoLlmProcessor, VideoLlmProcessorKwargs
from .transformers_compat import add_defaults


class FtfvImagesKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    """Options of the image processor.

    num_tokens_per_frame (`int`): K, the number of placeholders of an image if `sample_images` is true.
    """

    num_tokens_per_frame: int | None


@add_defaults
class FtfvProcessorKwargs(VideoLlmProcessorKwargs, total=False):  # type: ignore[call-arg]
    """Keyword arguments of FTFV's processor."""

    images_kwargs: FtfvImagesKwargs


class FtfvProcessor(VideoLlmProcessor):
    """Makes model inputs for FTFV.

    A call takes `num_tokens_per_frame=K` besides the options of all designs. Pass the same K to the model.

    Images need an image processor that resizes as the video processor does: `CLIPImageProcessor(size={"height": 448,
    "width": 448}, do_center_crop=False)` for Qwen-VL's tower.
    """

    valid_processor_kwargs = FtfvProcessorKwargs
    default_chat_template = CHAT_TEMPLATE

    MODEL_OPTIONS: ClassVar[tuple[str, ...]] = ("num_tokens_per_frame",)

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
        num_queries: int = 256,
        num_tokens_per_frame: int = 128,
        sample_images: bool = False,
    ) -> None:
        """Args:
        num_queries: N, the number of placeholders of an image.
        num_tokens_per_frame: K, the number of placeholders of each frame of a video, if a call does not name another.
        sample_images: whether an image has K placeholders, too, instead of N.

        `processor_options` reads these three options from a configuration.

        Raises:
            ValueError: K is not a whole number from 1 to N.
        """
        tokens_per_frame(None, num_tokens_per_frame, num_queries)
        super().__init__(image_processor, tokenizer, video_processor, chat_template, image_token, video_token)
        self.num_queries = num_queries
        self.num_tokens_per_frame = num_tokens_per_frame
        self.sample_images = sample_images

    def num_image_tokens(self, num_tokens_per_frame: int | None = None) -> int:
        """N placeholders, or K with `sample_images`; the model uses the same rule."""
        kept = tokens_per_frame(num_tokens_per_frame, self.num_tokens_per_frame, self.num_queries)
        return kept if self.sample_images else self.num_queries

    def num_video_tokens(self, num_frames: int, num_tokens_per_frame: int | None = None) -> int:
        """K placeholders for each frame; the model uses the same rule."""
        return num_frames * tokens_per_frame(num_tokens_per_frame, self.num_tokens_per_frame, self.num_queries)

    def replace_video_token(
        self, video_inputs: dict, video_idx: int, num_tokens_per_frame: int | None = None, **kwargs: Any
    ) -> str:
        num_frames = int(video_inputs["num_video_frames"][video_idx])
        return self.video_token * self.num_video_tokens(num_frames, num_tokens_per_frame)

    def _process_images(
        self, images: Any, num_tokens_per_frame: int | None = None, **kwargs: Any
    ) -> tuple[Any, list[str]]:
        # The method of the base class passes all options to the image processor, which has no `num_tokens_per_frame`.
        processed = self.image_processor(images, **kwargs)
        placeholders = self.image_token * self.num_image_tokens(num_tokens_per_frame)
        return processed, [placeholders] * len(make_flat_list_of_images(images))

    def _get_num_multimodal_tokens(
        self,
        image_sizes: list | None = None,
        video_sizes: list | None = None,
        num_tokens_per_frame: int | None = None,
        **kwargs: Any,
    ) -> MultiModalData:
        """As in the base class, but for the K of a call."""
        data = super()._get_num_multimodal_tokens(image_sizes, video_sizes, **kwargs)
        if image_sizes is not None:
            data.num_image_tokens = [self.num_image_tokens(num_tokens_per_frame)] * len(image_sizes)
        if video_sizes is not None:
            data.num_video_tokens = [self.num_video_tokens(int(size[0]), num_tokens_per_frame) for size in video_sizes]
        return data


def processor_options(config: Any) -> dict[str, Any]:
    """Arguments of `FtfvProcessor` that must fit the model.

    Args:
        config: an `FtfvConfig`.
    """
    return {name: getattr(config, name) for name in ("num_queries", "num_tokens_per_frame", "sample_images")}


__all__ = ["FtfvProcessor", "FtfvProcessorKwargs", "processor_options"]
