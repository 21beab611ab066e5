"""Makes the processor and the generation settings from the tokenizer of an official VideoLLaMA2 checkpoint."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from transformers import CLIPImageProcessor, GenerationConfig, PreTrainedConfig, SiglipImageProcessor

from ...models.chat_template_videollama2 import (
    MISTRAL_BODY,
    MISTRAL_SYSTEM_PROMPT,
    default_chat_template,
    wrap_chat_template,
)
from ...models.configuration_videollama2 import VideoLlama2Config
from ...models.configuration_videollama2_av import VideoLlama2AVConfig
from ...models.errors import CheckpointError, one_line
from ...models.feature_extraction_beats import BeatsFeatureExtractor
from ...models.processing_videollama2 import VideoLlama2Processor, processor_options
from ...models.processing_videollama2_av import VideoLlama2AVProcessor
from ...models.video_processing_videollama2 import VideoLlama2VideoProcessor
from ..configs import pixel_options, token_ids
from ..stream import read_json
from ..tokenizers import compare_eos, load_tokenizer
from .tokenizer import prepare_tokenizer

# For these language models, the official code begins every conversation with a system message. For the others, it uses
# only their chat template.
SYSTEM_PROMPTS = {"mistral": MISTRAL_SYSTEM_PROMPT, "mixtral": MISTRAL_SYSTEM_PROMPT}
CHATML_MARK = "<|im_start|>"


@dataclass(frozen=True)
class ProcessorResult:
    """A processor, `None` without a tokenizer, and the placeholder ids that the model must use.

    Attributes:
        token_ids: maps each modality to the id of its placeholder.
        tokenizer: tokenizer of the processor.
    """

    processor: Any
    token_ids: dict[str, int]
    tokenizer: Any = None
    notes: list[str] = field(default_factory=list)


def build_processor(config: VideoLlama2Config, language: str, tokenizer_folder: Path | None) -> ProcessorResult:
    """Make the processor of a converted checkpoint, and choose its placeholder ids.

    Args:
        config: converted configuration.
        language: name of the language model in transformers.
        tokenizer_folder: folder of the tokenizer. If it is `None`, there is no processor, and the ids come after the
            vocabulary.

    Raises:
        CheckpointError: the tokenizer cannot be read, or belongs to another model.
    """
    modalities = config.modalities
    vocab_size = config.text_config.vocab_size
    if tokenizer_folder is None:
        ids = {modality: vocab_size + number for number, modality in enumerate(modalities)}
        note = "no tokenizer found: processor files not written; pass --tokenizer FOLDER."
        return ProcessorResult(None, ids, notes=[note])
    # An empty configuration, so that tokenizer_config.json decides the class of the tokenizer. transformers does not
    # know the `model_type` of official checkpoints, and would choose another class for plain Mistral.
    loaded = load_tokenizer(tokenizer_folder, PreTrainedConfig())
    if len(loaded) > vocab_size:
        raise CheckpointError(
            f"The tokenizer in {tokenizer_folder} has {len(loaded)} tokens, the model only {vocab_size}: pass the "
            "tokenizer of this model (--tokenizer)."
        )
    had_padding = loaded.pad_token is not None
    try:
        tokenizer = prepare_tokenizer(loaded, [f"<{modality}>" for modality in modalities])
    except (AttributeError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"The tokenizer in {tokenizer_folder} cannot be used ({one_line(error, 200)}): pass the "
            "tokenizer of this model (--tokenizer)."
        ) from error
    chat_template, notes = _chat_template(tokenizer, language, modalities)
    if not had_padding:
        notes.append(f"the tokenizer had no padding token: {tokenizer.pad_token!r} is used.")
    ids = {modality: tokenizer.convert_tokens_to_ids(f"<{modality}>") for modality in modalities}
    pixels = pixel_options(config.vision_config)
    image_class = CLIPImageProcessor if config.vision_config.model_type == "clip_vision_model" else SiglipImageProcessor
    parts: dict[str, Any] = {
        "image_processor": image_class(**pixels),
        "tokenizer": tokenizer,
        "video_processor": VideoLlama2VideoProcessor(num_frames=config.num_frames, padding_mode="none", **pixels),
        "chat_template": chat_template,
        **processor_options(config),
    }
    processor_class: Any = VideoLlama2Processor
    if "audio" in modalities:
        # Only the configuration of AV has this field.
        audio = cast(VideoLlama2AVConfig, config).audio_config
        processor_class = VideoLlama2AVProcessor
        parts |= {
            "feature_extractor": BeatsFeatureExtractor(num_mel_bins=audio.num_mel_bins, patch_size=audio.patch_size),
            "audio_sampling": "clips",
            "missing_audio": "silence",
            "audio_patch_size": audio.patch_size,
        }
    return ProcessorResult(processor_class(**parts), ids, tokenizer, notes)


def _chat_template(tokenizer: Any, language: str, modalities: tuple[str, ...]) -> tuple[str, list[str]]:
    """The checkpoint's chat template, extended for media, and a note if it had to be replaced."""
    system_prompt = SYSTEM_PROMPTS.get(language)
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if template is None and system_prompt is not None:
        note = "the tokenizer had no chat template: [INST] ... [/INST] after the system message is used."
        return wrap_chat_template(MISTRAL_BODY, system_prompt, modalities), [note]
    if template is None and CHATML_MARK in tokenizer.get_vocab():
        return default_chat_template(modalities), ["the tokenizer had no chat template: ChatML of Qwen2 is used."]
    if template is None:
        raise CheckpointError(
            "The tokenizer has no chat template, and none is known for its language model: pass the tokenizer of "
            "the instruction-tuned model (--tokenizer)."
        )
    try:
        return wrap_chat_template(template, system_prompt, modalities), []
    except ValueError:
        note = (
            "the chat template of the tokenizer accepts no system message, but the official code gives one to this "
            "language model: [INST] ... [/INST] after the system message is used."
        )
        return wrap_chat_template(MISTRAL_BODY, system_prompt, modalities), [note]


def build_generation_config(
    source: Path, raw: dict[str, Any], config: VideoLlama2Config, tokenizer: Any
) -> tuple[GenerationConfig, list[str]]:
    """Settings for greedy decoding, as in the official inference, and notes on settings that are dropped.

    Args:
        source: checkpoint folder. Values in its generation_config.json override those in config.json.
        raw: content of the official config.json.
        config: converted configuration.
        tokenizer: the prepared tokenizer. Its padding token is used, and answers also end at its end-of-text token, as
            in the official code.

    Raises:
        CheckpointError: generation_config.json is damaged, or an id is not a token id.
    """
    ids = token_ids(source, raw, config.text_config)
    notes = []
    if tokenizer is not None:
        ids["pad_token_id"] = tokenizer.pad_token_id
        if ids["eos_token_id"] is None:
            ids["eos_token_id"] = tokenizer.eos_token_id
        elif extra := compare_eos(tokenizer, ids["eos_token_id"]):
            stored = ids["eos_token_id"]
            ids["eos_token_id"] = [*(stored if isinstance(stored, list) else [stored]), tokenizer.eos_token_id]
            notes.append(f"{extra[0][:-1]}: answers end at both, as in the original.")
    file = source / "generation_config.json"
    penalty = read_json(file).get("repetition_penalty", 1.0) if file.is_file() else 1.0
    if penalty != 1.0:
        notes.append(
            f"repetition_penalty {penalty} in {file} was dropped: here it would also count the prompt, in the official "
            "code only the answer."
        )
    return GenerationConfig(do_sample=False, **ids), notes


__all__ = ["ProcessorResult", "build_generation_config", "build_processor"]
