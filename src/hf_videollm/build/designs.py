"""What a build has to know of each design: its classes, its new parts, and which of its sizes follow the sources."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..models.configuration_ftfv import FtfvConfig
from ..models.configuration_iva import IvaConfig
from ..models.configuration_linvt import LinVTConfig
from ..models.configuration_pllava import PllavaConfig
from ..models.configuration_video_llm import has_class_token
from ..models.configuration_videollama2 import VideoLlama2Config
from ..models.configuration_videollama2_av import VideoLlama2AVConfig
from ..models.modeling_ftfv import FtfvForConditionalGeneration
from ..models.modeling_iva import IvaForConditionalGeneration
from ..models.modeling_linvt import LinVTForCausalLM
from ..models.modeling_pllava import PllavaForConditionalGeneration
from ..models.modeling_videollama2 import VideoLlama2ForCausalLM
from ..models.modeling_videollama2_av import VideoLlama2AVForCausalLM
from ..models.processing_ftfv import FtfvProcessor
from ..models.processing_ftfv import processor_options as ftfv_options
from ..models.processing_iva import QUERY_TOKEN, IvaProcessor
from ..models.processing_iva import processor_options as iva_options
from ..models.processing_linvt import LinVTProcessor
from ..models.processing_pllava import PllavaProcessor
from ..models.processing_videollama2 import VideoLlama2Processor
from ..models.processing_videollama2 import processor_options as videollama2_options
from ..models.processing_videollama2_av import VideoLlama2AVProcessor
from ..models.video_processing_ftfv import FtfvVideoProcessor
from ..models.video_processing_iva import IvaVideoProcessor
from ..models.video_processing_linvt import LinVTVideoProcessor
from ..models.video_processing_pllava import PllavaVideoProcessor
from ..models.video_processing_videollama2 import VideoLlama2VideoProcessor

MEDIA = {"image": "<image>", "video": "<video>"}


@dataclass(frozen=True)
class Design:
    """One of the designs.

    Attributes:
        sources: what it is built from, by the names of `build_checkpoint`'s arguments.
        new_parts: modules of the base model that no source has, in the order in which they are drawn.
        placeholders: modality -> token.
        next_step: the training that comes first.
        follow: (vision_config, text_config) -> fields that depend on them, where nothing else is said.
        processor_options: configuration -> arguments of the processor that must fit it.
        crops: frames of a CLIP are cut to a square instead of squeezed into one.
    """

    config: Any
    model: Any
    processor: Any
    video_processor: Any
    next_step: str
    new_parts: tuple[str, ...] = ("connector",)
    placeholders: Mapping[str, str] = field(default_factory=lambda: MEDIA)
    sources: tuple[str, ...] = ("vision", "language_model")
    follow: Callable[[Any, Any], dict[str, Any]] = lambda vision, text: {}
    processor_options: Callable[[Any], dict[str, Any]] = lambda config: {}
    crops: bool = True


def patches_only(vision: Any, text: Any) -> dict[str, Any]:
    """Leave out the class token, where there is one."""
    return {"vision_feature_select_strategy": "default" if has_class_token(vision) else "full"}


def width_of_language(vision: Any, text: Any) -> dict[str, Any]:
    """FTFV's cross-attention is as wide as the language model (4,096 in the paper), with heads of 128 if that goes."""
    width = next(number for number in range(text.hidden_size, 0, -1) if number % 4 == 0)
    head = next(size for size in (128, 96, 64, 48, 32, 16, 8, 4) if width % size == 0)
    return {"adapter_width": width, "adapter_num_heads": width // head}


def without_adapter(vision: Any, text: Any) -> dict[str, Any]:
    """IVA's first two stages train without the adapter, which `model_options` of the third adds."""
    heads = next(count for count in (16, 12, 8, 6, 4, 3, 2, 1) if vision.hidden_size % count == 0)
    return {"num_insertions": 0, "causal_num_heads": heads}


DESIGNS: dict[str, Design] = {
    "pllava": Design(
        PllavaConfig,
        PllavaForConditionalGeneration,
        PllavaProcessor,
        PllavaVideoProcessor,
        "align the connector on image-text pairs (as LLaVA), then PLLaVA's LoRA on videos",
        follow=patches_only,
        processor_options=lambda config: {"pooling_shape": list(config.pooling_shape)},
    ),
    "videollama2": Design(
        VideoLlama2Config,
        VideoLlama2ForCausalLM,
        VideoLlama2Processor,
        VideoLlama2VideoProcessor,
        "train the connector alone (paper: video-text and image-text pretraining)",
        follow=patches_only,
        processor_options=videollama2_options,
    ),
    "videollama2_av": Design(
        VideoLlama2AVConfig,
        VideoLlama2AVForCausalLM,
        VideoLlama2AVProcessor,
        VideoLlama2VideoProcessor,
        "train the connector alone on videos, then the audio projector alone on sounds",
        new_parts=("connector", "audio_projector"),
        placeholders={**MEDIA, "audio": "<audio>"},
        sources=("vision", "language_model", "audio"),
        follow=patches_only,
        processor_options=lambda config: {
            **videollama2_options(config),
            "audio_patch_size": config.audio_config.patch_size,
        },
    ),
    "iva": Design(
        IvaConfig,
        IvaForConditionalGeneration,
        IvaProcessor,
        IvaVideoProcessor,
        "train connector.global_mlp on image-text pairs (recipe iva/align)",
        new_parts=("connector", "query_tokens", "adapter"),
        placeholders={**MEDIA, "query": QUERY_TOKEN},
        follow=without_adapter,
        processor_options=iva_options,
    ),
    "ftfv": Design(
        FtfvConfig,
        FtfvForConditionalGeneration,
        FtfvProcessor,
        FtfvVideoProcessor,
        "train the connector alone on image-text pairs (paper: align)",
        follow=width_of_language,
        processor_options=ftfv_options,
        crops=False,
    ),
    "linvt": Design(
        LinVTConfig,
        LinVTForCausalLM,
        LinVTProcessor,
        LinVTVideoProcessor,
        "train LinVT alone (paper: stage 1)",
        new_parts=("linvt",),
        placeholders={"image": "<image>"},
        follow=patches_only,
    ),
}

__all__ = ["DESIGNS", "Design"]
