"""Makes an `FtfvProcessor` from the tokenizer of a language model, and chooses the placeholder ids."""

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
    """A processor, `None` without a tokenizer, and the placeholder ids that the model must use.

    Attributes:
        token_ids: maps each modality to the id of its placeholder.
    """

    processor: FtfvProcessor | None
    token_ids: dict[str, int]
    notes: list[str] = field(default_factory=list)


def build_processor(config: FtfvConfig, tokenizer_folder: Path | None) -> ProcessorResult:
    """Make the processor of a converted checkpoint, and choose its placeholder ids.

    Placeholders that the tokenizer does not have get ids after the vocabulary; they need no row in the embedding.

    Args:
        config: converted configuration.
        tokenizer_folder: folder of the tokenizer. If it is `None`, there is no processor, and the ids come after the
            vocabulary.

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
