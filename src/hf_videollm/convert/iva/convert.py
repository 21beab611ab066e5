"""Makes an IVA checkpoint, ready for training, from a CLIP or SigLIP and a causal language model.

No IVA was released. The paper starts its training from these two models, and so does this package. transformers loads
both from safetensors (pickles are first copied to safetensors in a separate process). The folder appears complete or
not at all.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...atomic import atomic_folder
from ...models.configuration_iva import IvaConfig
from ...models.configuration_video_llm import has_tied_embeddings
from ...models.errors import CheckpointError, one_line
from ...models.modeling_iva import IvaForConditionalGeneration, IvaModel
from ...models.processing_iva import QUERY_TOKEN, IvaProcessor, processor_options
from ...models.video_llm_checkpoint_config import IMPOSSIBLE
from ...models.video_processing_iva import IvaVideoProcessor
from ...origin import write_origin
from .. import MAX_SHARD_SIZE
from ..configs import pixel_options
from ..options import (
    Source,
    check_write_options,
    optional_path,
)
from ..parts import (
    IMAGE_PROCESSORS,
    check_text,
    language_generation_config,
    load_language_model,
    load_tower,
    put_in,
    read_language_config,
    read_vision_config,
    start_parts,
)
from ..report import Rows, WrittenReport
from ..scales import size_outputs
from ..tokenizers import find_tokenizer_folder, tokenizer_with

PLACEHOLDERS = {"image": "<image>", "video": "<video>", "query": QUERY_TOKEN}


@dataclass(frozen=True, kw_only=True)
class IvaReport(WrittenReport):
    """What an IVA was made from.

    Attributes:
        vision: folder of the vision tower.
        language_model: folder of the language model.
        num_insertions: number of decoder layers before which the adapter is called; 0 without adapter.
        new_parameters: number of values that no source has.
        seed: random seed of these values.
    """

    vision: str
    language_model: str
    num_insertions: int
    new_parameters: int
    seed: int

    def source_rows(self) -> Rows:
        new = "connector, adapter, query tokens" if self.num_insertions else "connector"
        return [
            ("vision tower", self.vision),
            ("language model", self.language_model),
            (new, f"{self.new_parameters:,} random values, seed {self.seed}"),
        ]


def convert_iva(
    vision: str | os.PathLike[str],
    language_model: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    tokenizer: str | os.PathLike[str] | None = None,
    num_insertions: int = 8,
    num_query_tokens: int = 16,
    adapter_hidden_size: int = 1024,
    seed: int = 0,
    dtype: str | torch.dtype | None = None,
    max_shard_size: int = MAX_SHARD_SIZE,
    overwrite: bool = False,
) -> IvaReport:
    """Make an IVA checkpoint that is ready for training. Its connector, adapter and query tokens are random.

    The model is in memory only once.

    Args:
        vision: folder of a CLIP or SigLIP, or of its vision tower alone.
        language_model: folder of a causal language model, such as Vicuna 7B.
        destination: folder to write. Without `overwrite`, it must not exist or must be empty.
        tokenizer: folder of the tokenizer, if the language model's folder has none.
        num_insertions: NI in the paper; 0 for the first two training stages, which have no adapter.
        num_query_tokens: M in the documentation, LQ in the paper.
        adapter_hidden_size: width of the adapter.
        seed: random seed of the new parts. The global random state is not changed.
        dtype: type of all weights (`"float32"`, `"float16"`, `"bfloat16"`); by default the type of the language model.
        max_shard_size: maximum size of one weight file in bytes.
        overwrite: whether to replace a destination that is not empty.

    Returns:
        What was read and written.

    Raises:
        CheckpointError: a source is not what it should be, a file is missing or damaged, a tensor does not fit, or no
            IVA can be built from these sources and options.
        FileExistsError: the destination is not empty and `overwrite` is not set.
    """
    vision_folder, language_folder, tokenizer_folder = Path(vision), Path(language_model), optional_path(tokenizer)
    sources = [
        Source("vision tower", vision_folder, "the vision tower", needs_config=True),
        Source("language model", language_folder, "the language model", needs_config=True),
        Source("tokenizer", tokenizer_folder, "the tokenizer"),
    ]
    write = check_write_options(destination, sources, dtype=dtype, max_shard_size=max_shard_size, overwrite=overwrite)

    with (
        atomic_folder(write.destination, overwrite=overwrite) as folder,
        tempfile.TemporaryDirectory(dir=folder, prefix="pickles.") as workspace,
    ):
        text_config, raw = read_language_config(language_folder)
        words, ids, notes = _read_tokenizer(language_folder, tokenizer_folder, text_config.vocab_size)
        options = {f"{modality}_token_id": token_id for modality, token_id in ids.items()} | {
            "num_insertions": num_insertions,
            "num_query_tokens": num_query_tokens,
            "adapter_hidden_size": adapter_hidden_size,
        }
        config = _build_config(read_vision_config(vision_folder, IMAGE_PROCESSORS), text_config, options)
        generation_config, more = language_generation_config(language_folder, raw, text_config, words)
        language = load_language_model(language_folder, text_config, Path(workspace), write.dtype or "auto")
        tower = load_tower(vision_folder, config.vision_config, Path(workspace), language.dtype)
        model, new_parameters = _join(config, tower, language, seed)
        check_text(model, language, set(ids.values()))
        model.generation_config = generation_config
        model.save_pretrained(folder, save_original_format=False, max_shard_size=max_shard_size)
        _build_processor(config, words).save_pretrained(folder)
        places = [("vision tower", vision_folder), ("language model", language_folder)]
        write_origin(folder, "hf-videollm convert iva", places)
        files = sorted(folder.glob("*.safetensors"))
        parameters = {id(weight): weight for weight in model.parameters()}.values()
        return IvaReport(
            vision=str(vision),
            language_model=str(language_model),
            destination=str(destination),
            num_insertions=num_insertions,
            new_parameters=new_parameters,
            seed=seed,
            parameters=sum(weight.numel() for weight in parameters),
            weight_bytes=sum(weight.nbytes for weight in parameters),
            weight_files=[file.name for file in files],
            dtype=str(model.dtype).removeprefix("torch."),
            token_ids=ids,
            has_processor=True,
            notes=notes + more,
        )


def _read_tokenizer(folder: Path, tokenizer: Path | None, vocab_size: int) -> tuple[Any, dict[str, int], list[str]]:
    """The tokenizer with the placeholders, their ids, and notes."""
    place = find_tokenizer_folder(folder, tokenizer, None)
    if place is None:
        raise CheckpointError(f"{folder} has no tokenizer, but IVA needs one: pass --tokenizer FOLDER.")
    # All placeholders are added even without an adapter, because a later training stage may add the adapter.
    return tokenizer_with(place, PLACEHOLDERS, vocab_size)


def _build_config(vision: Any, language: Any, options: dict[str, Any]) -> IvaConfig:
    tied = has_tied_embeddings(language)
    try:
        config = IvaConfig(vision_config=vision, text_config=language, tie_word_embeddings=tied, **options)
        config.validate()
    except IMPOSSIBLE as error:
        raise CheckpointError(f"No IVA can be built from these sources and options: {one_line(error)}") from error
    return config


def _join(config: IvaConfig, tower: Any, language: Any, seed: int) -> tuple[IvaForConditionalGeneration, int]:
    """Make an IVA from its two parts; return it with the number of new values."""
    with torch.device("meta"):
        model = IvaForConditionalGeneration(config)
    put_in(model, tower, language)
    children = dict(model.model.named_children())
    parts = [children[name] for name in IvaModel.new_parts if name in children]
    new_parameters = start_parts(model.model, parts, seed, language.dtype, lambda: size_outputs(model.model))
    return model.eval(), new_parameters


def _build_processor(config: IvaConfig, tokenizer: Any) -> IvaProcessor:
    pixels = pixel_options(config.vision_config)
    return IvaProcessor(
        image_processor=IMAGE_PROCESSORS[config.vision_config.model_type](**pixels),
        tokenizer=tokenizer,
        video_processor=IvaVideoProcessor(**pixels),
        **processor_options(config),
    )


__all__ = ["IvaReport", "convert_iva"]
