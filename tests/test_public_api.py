"""The frozen surface: a change here is a change for users, and belongs in the CHANGELOG."""

import inspect

import pytest
import transformers
from transformers.pipelines import PIPELINE_REGISTRY

import hf_videollm

PUBLIC_NAMES = [
    "BeatsConfig",
    "BeatsFeatureExtractor",
    "BeatsModel",
    "CheckpointError",
    "CorruptMedia",
    "Design",
    "FtfvConfig",
    "FtfvForConditionalGeneration",
    "FtfvModel",
    "FtfvProcessor",
    "FtfvVideoProcessor",
    "IvaConfig",
    "IvaForConditionalGeneration",
    "IvaModel",
    "IvaProcessor",
    "IvaVideoProcessor",
    "LinVTConfig",
    "LinVTForCausalLM",
    "LinVTModel",
    "LinVTModule",
    "LinVTModuleConfig",
    "LinVTProcessor",
    "LinVTVideoProcessor",
    "MediaError",
    "MediaLimits",
    "MediaMemory",
    "MediaNotFound",
    "MediaTooLarge",
    "MediaWarning",
    "MissingBackend",
    "NoAudioStream",
    "NoVideoStream",
    "PllavaConfig",
    "PllavaForConditionalGeneration",
    "PllavaModel",
    "PllavaProcessor",
    "PllavaVideoProcessor",
    "QwenVLVisionConfig",
    "QwenVLVisionModel",
    "UnsafeURL",
    "UnsupportedMedia",
    "VideoLlama2AVConfig",
    "VideoLlama2AVForCausalLM",
    "VideoLlama2AVModel",
    "VideoLlama2AVProcessor",
    "VideoLlama2Config",
    "VideoLlama2ForCausalLM",
    "VideoLlama2Model",
    "VideoLlama2Processor",
    "VideoLlama2VideoProcessor",
    "VideoSession",
    "VideoTextToTextPipeline",
    "XgenMMConfig",
    "XgenMMForConditionalGeneration",
    "XgenMMModel",
    "XgenMMProcessor",
    "__version__",
    "build_checkpoint",
    "default_checkpoint",
    "dpo_config",
    "grpo_config",
    "load_audio",
    "load_data",
    "load_pipeline",
    "load_trained",
    "load_video",
    "make_dpo_trainer",
    "make_grpo_trainer",
    "make_trainer",
    "register_design",
    "save_checkpoint",
    "sft_config",
]

# model_type -> Auto class -> our class
AUTO_MAPPINGS = {
    "pllava": {
        "AutoConfig": "PllavaConfig",
        "AutoModel": "PllavaModel",
        "AutoModelForImageTextToText": "PllavaForConditionalGeneration",
        "AutoModelForMultimodalLM": "PllavaForConditionalGeneration",
        "AutoModelForCausalLM": "PllavaForConditionalGeneration",
        "AutoProcessor": "PllavaProcessor",
        "AutoVideoProcessor": "PllavaVideoProcessor",
    },
    "videollama2": {
        "AutoConfig": "VideoLlama2Config",
        "AutoModel": "VideoLlama2Model",
        "AutoModelForImageTextToText": "VideoLlama2ForCausalLM",
        "AutoModelForMultimodalLM": "VideoLlama2ForCausalLM",
        "AutoModelForCausalLM": "VideoLlama2ForCausalLM",
        "AutoProcessor": "VideoLlama2Processor",
        "AutoVideoProcessor": "VideoLlama2VideoProcessor",
    },
    "videollama2_av": {
        "AutoConfig": "VideoLlama2AVConfig",
        "AutoModel": "VideoLlama2AVModel",
        "AutoModelForImageTextToText": "VideoLlama2AVForCausalLM",
        "AutoModelForMultimodalLM": "VideoLlama2AVForCausalLM",
        "AutoModelForCausalLM": "VideoLlama2AVForCausalLM",
        "AutoProcessor": "VideoLlama2AVProcessor",
        "AutoVideoProcessor": "VideoLlama2VideoProcessor",
        "AutoFeatureExtractor": "BeatsFeatureExtractor",
    },
    "linvt": {
        "AutoConfig": "LinVTConfig",
        "AutoModel": "LinVTModel",
        "AutoModelForImageTextToText": "LinVTForCausalLM",
        "AutoModelForMultimodalLM": "LinVTForCausalLM",
        "AutoModelForCausalLM": "LinVTForCausalLM",
        "AutoProcessor": "LinVTProcessor",
        "AutoVideoProcessor": "LinVTVideoProcessor",
    },
    "ftfv": {
        "AutoConfig": "FtfvConfig",
        "AutoModel": "FtfvModel",
        "AutoModelForImageTextToText": "FtfvForConditionalGeneration",
        "AutoModelForMultimodalLM": "FtfvForConditionalGeneration",
        "AutoModelForCausalLM": "FtfvForConditionalGeneration",
        "AutoProcessor": "FtfvProcessor",
        "AutoVideoProcessor": "FtfvVideoProcessor",
    },
    "iva": {
        "AutoConfig": "IvaConfig",
        "AutoModel": "IvaModel",
        "AutoModelForImageTextToText": "IvaForConditionalGeneration",
        "AutoModelForMultimodalLM": "IvaForConditionalGeneration",
        "AutoModelForCausalLM": "IvaForConditionalGeneration",
        "AutoProcessor": "IvaProcessor",
        "AutoVideoProcessor": "IvaVideoProcessor",
    },
    "xgen_mm": {
        "AutoConfig": "XgenMMConfig",
        "AutoModel": "XgenMMModel",
        "AutoModelForImageTextToText": "XgenMMForConditionalGeneration",
        "AutoModelForMultimodalLM": "XgenMMForConditionalGeneration",
        "AutoModelForCausalLM": "XgenMMForConditionalGeneration",
        "AutoProcessor": "XgenMMProcessor",
    },
}


def test_public_names() -> None:
    assert sorted(hf_videollm.__all__) == sorted(PUBLIC_NAMES)
    for name in PUBLIC_NAMES:
        assert hasattr(hf_videollm, name)


def test_everything_public_has_a_docstring() -> None:
    undocumented = []
    for name in PUBLIC_NAMES:
        item = getattr(hf_videollm, name)
        if not (inspect.isclass(item) or inspect.isfunction(item)):
            continue
        if not inspect.getdoc(item):
            undocumented.append(name)
    assert not undocumented


@pytest.mark.parametrize("model_type", AUTO_MAPPINGS)
def test_auto_mappings(model_type: str) -> None:
    expected = AUTO_MAPPINGS[model_type]
    config = transformers.AutoConfig.for_model(model_type)
    assert type(config).__name__ == expected["AutoConfig"]
    # What a saved checkpoint announces for remote code is the same list.
    announced = {name: reference.split(".")[1] for name, reference in config.auto_map.items()}
    assert announced == expected
    for name in expected:
        if name.startswith("AutoModel"):
            found = getattr(transformers, name)._model_mapping[type(config)]
            assert found.__name__ == expected[name], name


def test_audio_encoder_is_usable_alone() -> None:
    config = transformers.AutoConfig.for_model("beats", num_hidden_layers=1)
    assert type(transformers.AutoModel.from_config(config)) is hf_videollm.BeatsModel


def test_vision_tower_of_qwen_vl_is_usable_alone() -> None:
    config = transformers.AutoConfig.for_model(
        "qwen_vl_vision", num_hidden_layers=1, hidden_size=16, intermediate_size=16, num_attention_heads=2
    )
    assert type(transformers.AutoModel.from_config(config)) is hf_videollm.QwenVLVisionModel


def test_pipeline_task_is_registered_on_import() -> None:
    task, entry, _ = PIPELINE_REGISTRY.check_task("video-text-to-text")
    assert task == "video-text-to-text"
    assert entry["impl"] is hf_videollm.VideoTextToTextPipeline
