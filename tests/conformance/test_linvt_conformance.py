"""LinVT under the test mixins of transformers, before a tiny LLaVA and a tiny Qwen2-VL."""

import unittest
from typing import Any, ClassVar
from unittest import mock

import torch
from conformance_base import (
    FIRST_TEXT_ID,
    IMAGE_SIZE,
    IMAGE_TOKEN_ID,
    TEXT_CONFIG,
    VIDEO_TOKEN_ID,
    VISION_CONFIG,
    ModelConformance,
    ProcessorConformance,
    TinyInputs,
    VideoProcessorConformance,
)
from conformance_media import url_to_local_path

from hf_videollm import (
    LinVTConfig,
    LinVTForCausalLM,
    LinVTModel,
    LinVTProcessor,
    LinVTVideoProcessor,
)

MODULE = {
    "num_layers": 1,
    "num_attention_heads": 2,
    "num_selected_tokens": 8,
    "num_queries": [2, 1],
    "pool_windows": [1, 2],
}
FRAMES_IN_LINE = "frames of all videos lie one behind the other, as images do; num_video_frames counts the videos"
PIXELS = "frames become pixels in the image processor, by its defaults"
VIDEO_TOKENS = sum(MODULE["num_queries"])
LLAVA = {
    "model_type": "llava",
    "vision_config": VISION_CONFIG,
    "vision_feature_layer": -1,
    "text_config": TEXT_CONFIG,
    "image_token_id": IMAGE_TOKEN_ID,
}
QWEN = {
    "model_type": "qwen2_vl",
    "vision_config": {
        "depth": 2,
        "num_heads": 2,
        "patch_size": 4,
        "spatial_merge_size": 1,
        "temporal_patch_size": 1,
        "embed_dim": 32,
        "hidden_size": 32,
        "mlp_ratio": 2,
    },
    "text_config": {
        **TEXT_CONFIG,
        "model_type": "qwen2_vl_text",
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
    },
    "image_token_id": IMAGE_TOKEN_ID,
    "video_token_id": VIDEO_TOKEN_ID,
}


CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% if message['content'] is string %}{{ message['content'] + ' ' }}{% else %}"
    "{% for block in message['content'] %}"
    "{% if block['type'] == 'image' %}{{ '<image>\n' }}{% elif block['type'] == 'text' %}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ block['text'] + '</s>' }}{% endgeneration %}"
    "{% else %}{{ block['text'] + ' ' }}{% endif %}{% endif %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


class LinVTInputs(TinyInputs):
    """A prompt with an image, a video of one frame (so that the first dimension is that of the batch), a question."""

    backbone: ClassVar[dict[str, Any]] = LLAVA

    def get_config(self) -> LinVTConfig:
        return LinVTConfig(backbone_config=self.backbone, linvt_config=MODULE, video_token_id=VIDEO_TOKEN_ID)

    def pictures(self) -> dict[str, torch.Tensor]:
        """One picture for each row, as the image processor gives it."""
        return {"pixel_values": torch.rand(self.batch_size, 3, IMAGE_SIZE, IMAGE_SIZE)}

    def prepare_config_and_inputs_for_common(self) -> tuple[LinVTConfig, dict[str, torch.Tensor]]:
        text = torch.randint(FIRST_TEXT_ID, TEXT_CONFIG["vocab_size"], (self.batch_size, self.seq_length))
        text[:, 1 : 1 + self.image_tokens] = IMAGE_TOKEN_ID
        text[:, 2 + self.image_tokens : 2 + self.image_tokens + self.video_tokens] = VIDEO_TOKEN_ID
        # Low ids, because the mixin also tries a smaller vocabulary, and knows of no ids but those of the prompt.
        question = torch.randint(FIRST_TEXT_ID, TEXT_CONFIG["vocab_size"] // 2, (self.batch_size, 4))
        return self.get_config(), {
            "input_ids": text,
            "attention_mask": torch.ones_like(text),
            **self.pictures(),
            **{f"{name}_videos": value for name, value in self.pictures().items()},
            "num_video_frames": torch.ones(self.batch_size, dtype=torch.long),
            "question_input_ids": question,
            "question_attention_mask": torch.ones_like(question),
        }


class QwenInputs(LinVTInputs):
    backbone = QWEN

    def pictures(self) -> dict[str, torch.Tensor]:
        # One patch, one token: the first dimension is that of the batch.
        grid = torch.ones(self.batch_size, 3, dtype=torch.long)
        return {"pixel_values": torch.rand(self.batch_size, 3 * 4 * 4), "image_grid_thw": grid}


class LinVTConformance(ModelConformance):
    config_class = LinVTConfig
    base_model_class = LinVTModel
    generating_model_class = LinVTForCausalLM
    video_tokens = VIDEO_TOKENS
    inputs_class: ClassVar[type[LinVTInputs]]
    additional_model_inputs: ClassVar = [
        *ModelConformance.additional_model_inputs,
        "image_grid_thw",
        "image_grid_thw_videos",
        "question_input_ids",
        "question_attention_mask",
    ]
    skips: ClassVar = {
        "test_inputs_embeds*": "LinVT finds the places of videos by ids, and says so where there are embeddings",
        "test_get_video_features_hidden_states": "the image-LLM's tower keeps its states to itself; what it gives are "
        "the tokens of frames, and what LinVT gives are mixtures of them",
        "test_get_video_features_attentions": "the image-LLM's tower keeps its attention to itself, and LinVT's is "
        "fused",
        "test_sdpa_can_dispatch_composite_models": "the parts of an image-LLM lie in the image-LLM",
    }

    def setUp(self) -> None:
        super().setUp()
        self.model_tester = self.inputs_class(self.config_class, {}, self.image_tokens, self.video_tokens)

    def test_tp_plan_matches_params(self) -> None:
        # The plan is that of the image-LLM's language model, one level deeper than the mixin looks for one.
        with mock.patch.object(LinVTConfig, "base_model_tp_plan", {}):
            super().test_tp_plan_matches_params()


class LinVTBeforeLlavaTest(LinVTConformance, unittest.TestCase):
    inputs_class = LinVTInputs
    image_tokens = 16


class LinVTBeforeQwen2VLTest(LinVTConformance, unittest.TestCase):
    inputs_class = QwenInputs
    image_tokens = 1


class LinVTProcessorTest(ProcessorConformance, unittest.TestCase):
    processor_class = LinVTProcessor
    video_processor_class = LinVTVideoProcessor
    options: ClassVar = {
        "image_llm_processor": {
            "processor_class": "LlavaProcessor",
            "image_token": "<image>",
            "patch_size": 4,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
        },
        "num_tokens_per_video": VIDEO_TOKENS,
        "video_token_id": VIDEO_TOKEN_ID,
        "chat_template": CHAT_TEMPLATE,
    }
    skips: ClassVar = {
        "test_*audio*": "no image-LLM takes sound",
        "test_apply_chat_template_tool_calls_no_content": "tool calls are the image-LLM's template's matter",
        "test_apply_chat_template_decoded_video_0": FRAMES_IN_LINE,
        "test_apply_chat_template_video_?": FRAMES_IN_LINE,
        "test_apply_chat_template_with_videos": FRAMES_IN_LINE,
        "test_subprocessor_defaults_2_videos": PIXELS,
        "test_subprocessor_defaults_preserved_by_kwargs_1_videos": PIXELS,
        "test_processor_to_json_string": "options of the image-LLM's processor become that processor",
        "test_tokenizer_decode_defaults": "LinVT's processor is nothing without that of an image-LLM",
        "test_replacement_offsets": "placeholders of images are written by the image-LLM's processor",
    }

    def test_apply_chat_template_video_frame_sampling(self) -> None:
        clip = url_to_local_path("https://example.com/tiny_video_320x240.mp4")
        for expectation in self.video_sampling_expectations:
            del expectation["expected_dim"]
            length = expectation.pop("output_length")
            assert len(self.pixels_of_chat(clip, **expectation)) == length


class LinVTVideoProcessorTest(VideoProcessorConformance, unittest.TestCase):
    fast_video_processing_class = LinVTVideoProcessor
