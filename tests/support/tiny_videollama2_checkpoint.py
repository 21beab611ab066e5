"""The bundled VideoLLaMA2-AV without its ears: a trained VideoLLaMA2 with its processor."""

from pathlib import Path

from transformers import AutoModelForImageTextToText, AutoProcessor

from hf_videollm import default_checkpoint, save_checkpoint
from hf_videollm.models.configuration_videollama2 import VideoLlama2Config
from hf_videollm.models.modeling_videollama2 import VideoLlama2ForCausalLM
from hf_videollm.models.processing_videollama2 import VideoLlama2Processor

OF_SOUND = ("audio_config", "audio_token_id", "audio_projector_depth")
OF_THE_CLASS = ("architectures", "auto_map", "custom_pipelines", "model_type", "transformers_version")


def write_videollama2(folder: Path) -> Path:
    """Write the checkpoint."""
    source = default_checkpoint("videollama2-av-tiny")
    hearing, whole = AutoModelForImageTextToText.from_pretrained(source), AutoProcessor.from_pretrained(source)
    content = hearing.config.to_dict()
    config = VideoLlama2Config(**{name: content[name] for name in content if name not in (*OF_SOUND, *OF_THE_CLASS)})
    model = VideoLlama2ForCausalLM(config)
    weights = {name: tensor for name, tensor in hearing.state_dict().items() if name in model.state_dict()}
    model.load_state_dict(weights)
    model.generation_config = hearing.generation_config
    processor = VideoLlama2Processor(
        image_processor=whole.image_processor,
        tokenizer=whole.tokenizer,
        video_processor=whole.video_processor,
        chat_template=whole.chat_template,
        **VideoLlama2Processor.options_from_config(config),
    )
    return save_checkpoint(model, processor, folder)
