"""Tokenizer of a language model -> `FtfvProcessor`, placeholder ids, and the generation settings that go with it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import CLIPImageProcessor, GenerationConfig

from ..models.configuration_ftfv import FtfvConfig
from ..models.processing_ftfv import FtfvProcessor, processor_options
from ..models.video_processing_ftfv import FtfvVideoProcessor
from .conversion import token_ids
from .tokenizer_files import compare_eos, tokenizer_with

PLACEHOLDERS = {"image": "<image>", "video": "<video>"}


@dataclass(frozen=True)
class ProcessorResult:
    """A processor and the ids that the model must use with it; without a tokenizer there is no processor.

    Attributes:
        token_ids: modality -> id of its placeholder.
    """

    processor: FtfvProcessor | None
    token_ids: dict[str, int]
    notes: list[str] = field(default_factory=list)


def build_processor(config: FtfvConfig, tokenizer_folder: Path | None) -> ProcessorResult:
    """Processor of a converted checkpoint, and its placeholder ids.

    The placeholders follow the vocabulary where the tokenizer does not have them; they need no row in the embedding.

    Args:
        config: converted configuration.
        tokenizer_folder: where the tokenizer is; without one the ids follow the vocabulary.

    Raises:
        CheckpointError: the tokenizer cannot be read, or belongs to another model.
    """
    vocab_size = config.text_config.vocab_size
    if tokenizer_folder is None:
        ids = {modality: vocab_size + number for number, modality in enumerate(PLACEHOLDERS)}
        note = "no tokenizer found: processor files not written; pass --tokenizer FOLDER."
        return ProcessorResult(None, ids, [note])
    tokenizer, ids, notes = tokenizer_with(tokenizer_folder, PLACEHOLDERS, vocab_size)
    side = config.vision_config.image_size
    size = {"height": side, "width": side}
    processor = FtfvProcessor(
        image_processor=CLIPImageProcessor(size=size, do_center_crop=False),
        tokenizer=tokenizer,
        video_processor=FtfvVideoProcessor(num_frames=config.num_frames, size=size),
        image_token=PLACEHOLDERS["image"],
        video_token=PLACEHOLDERS["video"],
        **processor_options(config),
    )
    return ProcessorResult(processor, ids, notes)


def build_generation_config(
    folder: Path, raw: dict[str, Any], text_config: Any, tokenizer: Any
) -> tuple[GenerationConfig, list[str]]:
    """Greedy decoding with the ids of the language model, and notes on what does not fit its tokenizer.

    Args:
        folder: of the language model; its generation_config.json counts before config.json.
        raw: content of its config.json.
        tokenizer: of the processor, whose padding counts; `None` if there is none.

    Raises:
        CheckpointError: generation_config.json is damaged, or an id is no id.
    """
    ids = token_ids(folder, raw, text_config)
    notes = []
    if tokenizer is not None:
        ids["pad_token_id"] = tokenizer.pad_token_id
        if ids["eos_token_id"] is None:
            ids["eos_token_id"] = tokenizer.eos_token_id
        notes = compare_eos(tokenizer, ids["eos_token_id"])
    return GenerationConfig(do_sample=False, **ids), notes


__all__ = ["ProcessorResult", "build_generation_config", "build_processor"]
