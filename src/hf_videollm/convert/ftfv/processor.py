"""Tokenizer of a language model -> `FtfvProcessor` and placeholder ids."""

from dataclasses import dataclass, field
from pathlib import Path

from transformers import CLIPImageProcessor

from ...models.configuration_ftfv import FtfvConfig
from ...models.processing_ftfv import FtfvProcessor, processor_options
from ...models.video_processing_ftfv import FtfvVideoProcessor
from ..tokenizers import tokenizer_with

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


__all__ = ["ProcessorResult", "build_processor"]
