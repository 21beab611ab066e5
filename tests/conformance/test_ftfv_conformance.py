"""FTFV under the test mixins of transformers."""

import unittest
from typing import ClassVar

from conformance_base import IMAGE_SIZE, NUM_FRAMES, ModelConformance, ProcessorConformance, VideoProcessorConformance

from hf_videollm import (
    FtfvConfig,
    FtfvForConditionalGeneration,
    FtfvModel,
    FtfvProcessor,
    FtfvVideoProcessor,
)

OPTIONS = {"num_queries": 9, "num_tokens_per_frame": 2}


class FtfvModelTest(ModelConformance, unittest.TestCase):
    config_class = FtfvConfig
    base_model_class = FtfvModel
    generating_model_class = FtfvForConditionalGeneration
    options: ClassVar = {**OPTIONS, "adapter_width": 32, "adapter_num_heads": 4}
    # 2 of each of the 4 frames of a video, all of an image.
    image_tokens, video_tokens = 9, 8


class FtfvProcessorTest(ProcessorConformance, unittest.TestCase):
    processor_class = FtfvProcessor
    video_processor_class = FtfvVideoProcessor
    options: ClassVar = OPTIONS
    skips: ClassVar = {
        "test_*audio*": "FTFV takes no sound",
        "test_apply_chat_template_tool_calls_no_content": "Vicuna's conversations have no tool calls",
        "test_init_arguments_not_in_processor_kwargs": "the tokens of a frame are a setting of the checkpoint, as in "
        "the model's configuration, and may be others in a call",
    }

    @classmethod
    def _setup_video_processor(cls) -> FtfvVideoProcessor:
        # Frames become square without a crop, which sizes with a shortest edge would not make them.
        return FtfvVideoProcessor(num_frames=NUM_FRAMES, size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})


class FtfvVideoProcessorTest(VideoProcessorConformance, unittest.TestCase):
    fast_video_processing_class = FtfvVideoProcessor
