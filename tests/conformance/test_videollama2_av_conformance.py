"""VideoLLaMA2-AV under the test mixins of transformers."""

import unittest
from typing import Any, ClassVar

from conformance_base import AUDIO_TOKEN_ID, ModelConformance, ProcessorConformance
from upstream_tests.test_processing_common import MODALITY_INPUT_DATA

from hf_videollm import (
    BeatsFeatureExtractor,
    VideoLlama2AVConfig,
    VideoLlama2AVForCausalLM,
    VideoLlama2AVModel,
    VideoLlama2AVProcessor,
    VideoLlama2VideoProcessor,
)

AUDIO_CONFIG = {
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "patch_embedding_dim": 16,
    "conv_pos_kernel": 8,
    "conv_pos_groups": 4,
    "layerdrop": 0.0,
}


class VideoLlama2AVModelTest(ModelConformance, unittest.TestCase):
    config_class = VideoLlama2AVConfig
    base_model_class = VideoLlama2AVModel
    generating_model_class = VideoLlama2AVForCausalLM
    options: ClassVar = {
        "connector_type": "stc_connector_v35",
        "connector_depth": 1,
        "audio_config": AUDIO_CONFIG,
        "audio_token_id": AUDIO_TOKEN_ID,
    }
    image_tokens, video_tokens = 8, 8
    additional_model_inputs: ClassVar = [
        *ModelConformance.additional_model_inputs,
        "input_features",
        "input_features_mask",
    ]

    def setUp(self) -> None:
        super().setUp()
        self.model_tester.audio_config = AUDIO_CONFIG


class VideoLlama2AVProcessorTest(ProcessorConformance, unittest.TestCase):
    processor_class = VideoLlama2AVProcessor
    video_processor_class = VideoLlama2VideoProcessor
    # The mixin counts the sounds of prompts with videos, so those of videos are left out here.
    options: ClassVar = {
        "patch_grid": [4, 4],
        "connector_kernel_size": [1, 2, 2],
        "image_num_frames": 4,
        "use_audio_in_video": False,
    }
    skips: ClassVar = {
        "test_apply_chat_template_tool_calls_no_content": "the prompt of the original has no tool calls",
        "test_init_arguments_not_in_processor_kwargs": "how sound is used has a default in the checkpoint and can be "
        "changed in a call, like the options of image and video processors",
    }
    audio_unstructured_max_length = 200

    @classmethod
    def _setup_feature_extractor(cls) -> Any:
        # The mixin's sounds are shorter than a patch.
        return BeatsFeatureExtractor(max_seconds=1.0)

    def test_apply_chat_template_with_audio(self) -> None:
        # The mixin's own check, which it makes only where librosa is installed. Our decoder needs no such thing.
        sounds = MODALITY_INPUT_DATA["audio"]
        for batch_size in (1, 2):
            with self.subTest(batch_size=batch_size):
                self._test_apply_chat_template(
                    "audio", batch_size, "pt", "audio_input_name", "feature_extractor", sounds[:batch_size]
                )
