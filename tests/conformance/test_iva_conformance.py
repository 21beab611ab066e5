"""IVA under the test mixins of transformers."""

import unittest
from typing import Any, ClassVar
from unittest import mock

import pytest
from conformance_base import (
    NUM_FRAMES,
    QUERY_TOKEN_ID,
    SIZES,
    ModelConformance,
    ProcessorConformance,
    VideoProcessorConformance,
    tiny_tokenizer,
)
from transformers import PreTrainedTokenizerFast
from transformers.video_utils import VideoMetadata

from hf_videollm import IvaConfig, IvaForConditionalGeneration, IvaModel, IvaProcessor, IvaVideoProcessor


class IvaModelTest(ModelConformance, unittest.TestCase):
    config_class = IvaConfig
    base_model_class = IvaModel
    generating_model_class = IvaForConditionalGeneration
    options: ClassVar = {
        "query_token_id": QUERY_TOKEN_ID,
        "num_query_tokens": 3,
        "num_insertions": 2,
        "num_adapter_layers": 2,
        "adapter_hidden_size": 32,
        "causal_num_layers": 1,
        "causal_num_heads": 4,
    }
    image_tokens, video_tokens = 2, 2 * NUM_FRAMES
    # The tower's features are kept once, in the portions in which the adapter looks at them (`frames`), and not a
    # second time as one tensor `last_hidden_state`, which would be 4 GB for an hour.
    skip_test_image_features_output_shape = True

    def setUp(self) -> None:
        super().setUp()
        if "rope" in self._testMethodName:
            # Prompts of any tokens, without media; query tokens among them would have nothing to look at.
            outside_of_the_vocabulary = 120
            self.enterContext(mock.patch.dict(self.options, query_token_id=outside_of_the_vocabulary))

    def test_get_image_features_hidden_states(self) -> None:
        # The mixin compares outputs to the last field, and cannot compare what is in `frames`.
        with mock.patch.dict(self.model_tester.options, num_insertions=0):
            super().test_get_image_features_hidden_states()

    def test_get_video_features_hidden_states(self) -> None:
        with mock.patch.dict(self.model_tester.options, num_insertions=0):
            super().test_get_video_features_hidden_states()


class IvaProcessorTest(ProcessorConformance, unittest.TestCase):
    processor_class = IvaProcessor
    video_processor_class = IvaVideoProcessor
    options: ClassVar = {"num_query_tokens": 3}
    skips: ClassVar = {
        "test_*audio*": "IVA takes no sound",
        "test_apply_chat_template_tool_calls_no_content": "Vicuna's conversations have no tool calls",
    }

    @classmethod
    def _setup_tokenizer(cls) -> PreTrainedTokenizerFast:
        tokenizer = tiny_tokenizer()
        tokenizer.add_tokens("<iva_query>", special_tokens=True)
        return tokenizer


class IvaVideoProcessorTest(VideoProcessorConformance, unittest.TestCase):
    fast_video_processing_class = IvaVideoProcessor

    def test_frames_by_the_second(self) -> None:
        """The design's own way, where the shared tests ask for a number of frames."""
        processor = IvaVideoProcessor(**SIZES)
        self.video_processor_tester.num_frames = 8
        video = self.video_processor_tester.prepare_video_inputs(return_tensors="torch")[0]
        known = VideoMetadata(duration=2.0, total_num_frames=8, fps=4)

        def num_frames(**kwargs: Any) -> int:
            return processor(video, return_tensors="pt", **kwargs)["pixel_values_videos"].shape[1]

        assert num_frames(video_metadata=known) == 2
        assert num_frames() == 8, "no rate: taken as they are"
        with pytest.raises(ValueError, match="frame rate"):
            num_frames(fps=3)
