"""VideoLLaMA2 under the test mixins of transformers."""

import unittest
from typing import ClassVar

import pytest
from conformance_base import ModelConformance, ProcessorConformance, VideoProcessorConformance

from hf_videollm import (
    VideoLlama2Config,
    VideoLlama2ForCausalLM,
    VideoLlama2Model,
    VideoLlama2Processor,
    VideoLlama2VideoProcessor,
)


class VideoLlama2ModelTest(ModelConformance, unittest.TestCase):
    config_class = VideoLlama2Config
    base_model_class = VideoLlama2Model
    generating_model_class = VideoLlama2ForCausalLM
    options: ClassVar = {"connector_type": "stc_connector_v35", "connector_depth": 1}
    # 4 frames of 4 x 4 patches, halved three times; an image is 4 equal frames.
    image_tokens, video_tokens = 8, 8


class VideoLlama2ProcessorTest(ProcessorConformance, unittest.TestCase):
    processor_class = VideoLlama2Processor
    video_processor_class = VideoLlama2VideoProcessor
    options: ClassVar = {"patch_grid": [4, 4], "connector_kernel_size": [1, 2, 2], "image_num_frames": 4}
    skips: ClassVar = {
        "test_*audio*": "VideoLLaMA2 takes no sound; VideoLLaMA2-AV does",
        "test_apply_chat_template_tool_calls_no_content": "the prompt of the original has no tool calls",
    }


class VideoLlama2VideoProcessorTest(VideoProcessorConformance, unittest.TestCase):
    fast_video_processing_class = VideoLlama2VideoProcessor

    def test_call_sample_frames(self) -> None:
        """As in the base, less its rule for `fps`: the original takes every n-th frame, n rounded down."""
        processor = self.fast_video_processing_class(**self.video_processor_dict)
        self.video_processor_tester.num_frames = 8
        video = self.video_processor_tester.prepare_video_inputs(return_tensors="torch")[0]
        known = [{"duration": 2.0, "total_num_frames": 8, "fps": 4}]
        for expected, options in (
            (8, {"do_sample_frames": False, "num_frames": 3}),
            (3, {"num_frames": 3}),
            (10, {"num_frames": 10}),
            (8, {"fps": 3, "video_metadata": known}),
            (4, {"fps": 2, "video_metadata": known}),
        ):
            assert processor(video, return_tensors="pt", **options)[self.input_name].shape[1] == expected, options
        with pytest.raises(ValueError, match="frame rate"):
            processor(video, return_tensors="pt", fps=3)
