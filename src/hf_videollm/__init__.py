"""Video-language models as native transformers classes.

As soon as this package and transformers are both imported, in any order, every design is registered with the Auto
classes, and the task `"video-text-to-text"` with `pipeline`. Importing this package alone is quick: a public name is
imported when it is first used, because most of them need torch and transformers.
"""

import importlib
import importlib.util
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from .designs import DESIGNS, ENCODERS, Design, Encoder
from .moved import keep_old_names
from .registration import register_design, register_with_transformers
from .version import __version__

# These imports show type checkers and readers what `__getattr__` below imports.
if TYPE_CHECKING:
    from .build import build_checkpoint
    from .data.loading import load_data
    from .hub.checkpoint import save_checkpoint
    from .inference import load_pipeline
    from .known_models import default_checkpoint
    from .models.configuration_beats import BeatsConfig
    from .models.configuration_ftfv import FtfvConfig
    from .models.configuration_iva import IvaConfig
    from .models.configuration_linvt import LinVTConfig, LinVTModuleConfig
    from .models.configuration_pllava import PllavaConfig
    from .models.configuration_qwen_vl_vision import QwenVLVisionConfig
    from .models.configuration_videollama2 import VideoLlama2Config
    from .models.configuration_videollama2_av import VideoLlama2AVConfig
    from .models.configuration_xgen_mm import XgenMMConfig
    from .models.errors import (
        CheckpointError,
        CorruptMedia,
        MediaError,
        MediaNotFound,
        MediaTooLarge,
        MediaWarning,
        MissingBackend,
        NoAudioStream,
        NoVideoStream,
        UnsafeURL,
        UnsupportedMedia,
    )
    from .models.feature_extraction_beats import BeatsFeatureExtractor
    from .models.linvt_module import LinVTModule
    from .models.media_video import MediaLimits, load_audio, load_video
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
    from .models.video_llm_session import VideoSession
    from .models.video_llm_watched_media import MediaMemory
    from .models.video_processing_ftfv import FtfvVideoProcessor
    from .models.video_processing_iva import IvaVideoProcessor
    from .models.video_processing_linvt import LinVTVideoProcessor
    from .models.video_processing_pllava import PllavaVideoProcessor
    from .models.video_processing_videollama2 import VideoLlama2VideoProcessor
    from .training.dpo import dpo_config, make_dpo_trainer
    from .training.grpo import grpo_config, make_grpo_trainer
    from .training.plain_sft import make_trainer, sft_config
    from .training_outputs import load_trained

keep_old_names()
register_with_transformers()

# Maps the public names that are in no row of the table of designs to their modules.
_MODULES = {
    "CheckpointError": "models.errors",
    "CorruptMedia": "models.errors",
    "LinVTModule": "models.linvt_module",
    "LinVTModuleConfig": "models.configuration_linvt",
    "MediaError": "models.errors",
    "MediaLimits": "models.media_video",
    "MediaMemory": "models.video_llm_watched_media",
    "MediaNotFound": "models.errors",
    "MediaTooLarge": "models.errors",
    "MediaWarning": "models.errors",
    "MissingBackend": "models.errors",
    "NoAudioStream": "models.errors",
    "NoVideoStream": "models.errors",
    "UnsafeURL": "models.errors",
    "UnsupportedMedia": "models.errors",
    "VideoSession": "models.video_llm_session",
    "VideoTextToTextPipeline": "models.pipeline_video_text_to_text",
    "build_checkpoint": "build",
    "default_checkpoint": "known_models",
    "dpo_config": "training.dpo",
    "grpo_config": "training.grpo",
    "load_audio": "models.media_video",
    "load_data": "data.loading",
    "load_pipeline": "inference",
    "load_trained": "training_outputs",
    "load_video": "models.media_video",
    "make_dpo_trainer": "training.dpo",
    "make_grpo_trainer": "training.grpo",
    "make_trainer": "training.plain_sft",
    "save_checkpoint": "hub.checkpoint",
    "sft_config": "training.plain_sft",
}


def _reference(name: str) -> str | None:
    """The reference of a public name, `"package.module:name"`; `None` if there is no such name."""
    if name in _MODULES:
        return f"{__name__}.{_MODULES[name]}:{name}"
    rows: list[Design | Encoder] = [*DESIGNS.values(), *ENCODERS.values()]
    return next((found for row in rows if (found := row.classes().get(name)) is not None), None)


# Type checkers must not see this function: with it, they would accept every name, misspelt ones included.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a public name, or a module of the package, when it is first used."""
        if name in __all__ and (reference := _reference(name)) is not None:
            value = resolve_name(reference)
            globals()[name] = value
            return value
        if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}") is not None:
            return importlib.import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
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
