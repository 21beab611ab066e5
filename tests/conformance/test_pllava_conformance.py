"""PLLaVA under the test mixins of transformers."""

import unittest
from typing import ClassVar

from conformance_base import ModelConformance, ProcessorConformance, VideoProcessorConformance

from hf_videollm import (
    PllavaConfig,
    PllavaForConditionalGeneration,
    PllavaModel,
    PllavaProcessor,
    PllavaVideoProcessor,
)

OPTIONS = {"pooling_shape": [2, 2, 2]}


class PllavaModelTest(ModelConformance, unittest.TestCase):
    config_class = PllavaConfig
    base_model_class = PllavaModel
    generating_model_class = PllavaForConditionalGeneration
    options: ClassVar = OPTIONS
    image_tokens, video_tokens = 4, 8


class PllavaProcessorTest(ProcessorConformance, unittest.TestCase):
    processor_class = PllavaProcessor
    video_processor_class = PllavaVideoProcessor
    options: ClassVar = OPTIONS
    skips: ClassVar = {
        "test_*audio*": "PLLaVA takes no sound",
        "test_apply_chat_template_tool_calls_no_content": "the prompt of the original has no tool calls",
    }


class PllavaVideoProcessorTest(VideoProcessorConformance, unittest.TestCase):
    fast_video_processing_class = PllavaVideoProcessor
