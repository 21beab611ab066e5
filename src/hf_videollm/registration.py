"""Makes the designs known to transformers: Auto classes, pipeline task, and the code that travels with checkpoints."""

from typing import Any

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    AutoVideoProcessor,
)
from transformers.pipelines import PIPELINE_REGISTRY

from .models.configuration_beats import BeatsConfig
from .models.configuration_ftfv import FtfvConfig
from .models.configuration_iva import IvaConfig
from .models.configuration_linvt import LinVTConfig
from .models.configuration_pllava import PllavaConfig
from .models.configuration_qwen_vl_vision import QwenVLVisionConfig
from .models.configuration_video_llm import PIPELINE_TASK
from .models.configuration_videollama2 import VideoLlama2Config
from .models.configuration_videollama2_av import VideoLlama2AVConfig
from .models.configuration_xgen_mm import XgenMMConfig
from .models.feature_extraction_beats import BeatsFeatureExtractor
from .models.modeling_beats import BeatsModel
from .models.modeling_ftfv import FtfvForConditionalGeneration, FtfvModel
from .models.modeling_iva import IvaForConditionalGeneration, IvaModel
from .models.modeling_linvt import LinVTForCausalLM, LinVTModel
from .models.modeling_pllava import PllavaForConditionalGeneration, PllavaModel
from .models.modeling_qwen_vl_vision import QwenVLVisionModel
from .models.modeling_videollama2 import VideoLlama2ForCausalLM, VideoLlama2Model
from .models.modeling_videollama2_av import VideoLlama2AVForCausalLM, VideoLlama2AVModel
from .models.modeling_xgen_mm import XgenMMForConditionalGeneration, XgenMMModel
from .models.pipeline_video_text_to_text import VideoTextToTextPipeline
from .models.processing_ftfv import FtfvProcessor
from .models.processing_iva import IvaProcessor
from .models.processing_linvt import LinVTProcessor
from .models.processing_pllava import PllavaProcessor
from .models.processing_videollama2 import VideoLlama2Processor
from .models.processing_videollama2_av import VideoLlama2AVProcessor
from .models.processing_xgen_mm import XgenMMProcessor
from .models.video_processing_ftfv import FtfvVideoProcessor
from .models.video_processing_iva import IvaVideoProcessor
from .models.video_processing_linvt import LinVTVideoProcessor
from .models.video_processing_pllava import PllavaVideoProcessor
from .models.video_processing_videollama2 import VideoLlama2VideoProcessor

GENERATING_AUTO_CLASSES = (AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoModelForCausalLM)


def register_design(
    config: Any,
    model: Any,
    generating_model: Any,
    processor: Any,
    video_processor: Any = None,
    feature_extractor: Any = None,
) -> None:
    """Register one design with every Auto class, and its files to be copied next to its checkpoints.

    Args:
        config: configuration class.
        model: class without a head.
        generating_model: class with a head.
        processor: processor class.
        video_processor: video processor class; none for an image-LLM.
        feature_extractor: feature extractor class of a design that hears.
    """
    AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModel.register(config, model, exist_ok=True)
    for auto_class in GENERATING_AUTO_CLASSES:
        auto_class.register(config, generating_model, exist_ok=True)
    AutoProcessor.register(config, processor, exist_ok=True)
    if video_processor is not None:
        AutoVideoProcessor.register(config, video_processor, exist_ok=True)
        video_processor.register_for_auto_class()
    if feature_extractor is not None:
        AutoFeatureExtractor.register(config, feature_extractor, exist_ok=True)

    config.register_for_auto_class()
    model.register_for_auto_class("AutoModel")
    generating_model.register_for_auto_class("AutoModelForImageTextToText")
    processor.register_for_auto_class()


def register_encoder(config: Any, model: Any, feature_extractor: Any = None) -> None:
    """Register an encoder that is part of a design and also of use alone, with the features it takes if it hears."""
    AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModel.register(config, model, exist_ok=True)
    config.register_for_auto_class()
    model.register_for_auto_class("AutoModel")
    if feature_extractor is not None:
        AutoFeatureExtractor.register(config, feature_extractor, exist_ok=True)
        feature_extractor.register_for_auto_class()


def register_all() -> None:
    """Register every design and the pipeline task; importing the package does this once."""
    register_design(PllavaConfig, PllavaModel, PllavaForConditionalGeneration, PllavaProcessor, PllavaVideoProcessor)
    register_design(
        VideoLlama2Config, VideoLlama2Model, VideoLlama2ForCausalLM, VideoLlama2Processor, VideoLlama2VideoProcessor
    )
    register_design(
        VideoLlama2AVConfig,
        VideoLlama2AVModel,
        VideoLlama2AVForCausalLM,
        VideoLlama2AVProcessor,
        VideoLlama2VideoProcessor,
        BeatsFeatureExtractor,
    )
    register_design(FtfvConfig, FtfvModel, FtfvForConditionalGeneration, FtfvProcessor, FtfvVideoProcessor)
    register_design(IvaConfig, IvaModel, IvaForConditionalGeneration, IvaProcessor, IvaVideoProcessor)
    register_design(XgenMMConfig, XgenMMModel, XgenMMForConditionalGeneration, XgenMMProcessor)
    register_design(LinVTConfig, LinVTModel, LinVTForCausalLM, LinVTProcessor, LinVTVideoProcessor)
    register_encoder(BeatsConfig, BeatsModel, BeatsFeatureExtractor)
    register_encoder(QwenVLVisionConfig, QwenVLVisionModel)
    PIPELINE_REGISTRY.register_pipeline(
        PIPELINE_TASK,
        pipeline_class=VideoTextToTextPipeline,
        pt_model=(AutoModelForImageTextToText,),
        type="multimodal",
    )
