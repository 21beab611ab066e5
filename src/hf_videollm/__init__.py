"""Video-language models as native transformers classes.

Importing the package registers every design with the Auto classes and the task `"video-text-to-text"`.
"""

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
from .models.video_processing_ftfv import FtfvVideoProcessor
from .models.video_processing_iva import IvaVideoProcessor
from .models.video_processing_linvt import LinVTVideoProcessor
from .models.video_processing_pllava import PllavaVideoProcessor
from .models.video_processing_videollama2 import VideoLlama2VideoProcessor
from .moved import keep_old_names
from .registration import register_all
from .version import __version__

keep_old_names()
register_all()

from .build import build_checkpoint  # noqa: E402
from .hub.checkpoint import default_checkpoint, save_checkpoint  # noqa: E402
from .inference import load_pipeline  # noqa: E402

__all__ = [
    "BeatsConfig",
    "BeatsFeatureExtractor",
    "BeatsModel",
    "CheckpointError",
    "CorruptMedia",
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
    "VideoTextToTextPipeline",
    "XgenMMConfig",
    "XgenMMForConditionalGeneration",
    "XgenMMModel",
    "XgenMMProcessor",
    "__version__",
    "build_checkpoint",
    "default_checkpoint",
    "load_audio",
    "load_pipeline",
    "load_video",
    "save_checkpoint",
]
