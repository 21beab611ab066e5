"""Makes configuration and processor from the config.json and the tokenizer of an official XGen-MM v1.5 checkpoint."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import GenerationConfig, PreTrainedConfig, SiglipImageProcessor

from ...known_models import KNOWN_TOWERS
from ...models.configuration_xgen_mm import XgenMMConfig
from ...models.errors import CheckpointError, one_line
from ...models.processing_xgen_mm import XgenMMProcessor
from ...models.transformers_compat import drop_pooling_head
from ..configs import token_ids, tower_config
from ..stream import read_json
from ..tokenizers import load_tokenizer, set_padding, with_token

OFFICIAL_TYPE = "xgenmm"
TOWER_TYPE = "siglip_vision_model"
DEFAULT_TOWER = "google/siglip-so400m-patch14-384"
DEFAULT_TOKENS = 128
# These tokens are added to the tokenizer of the language model in this order. The first is the placeholder of an image.
ADDED_TOKENS = ("<image>", "<image placeholder>", "<|endofchunk|>")
# This token ends an answer of the instruction-tuned checkpoints. Their files name only the end-of-text token.
END_OF_TURN = "<|end|>"
# A config.json leaves out fields that had the default of transformers 4.41, with which it was written.
PHI3_DEFAULTS: dict[str, Any] = {
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
}


@dataclass(frozen=True)
class Source:
    """The content of the official config.json.

    Attributes:
        config: our configuration.
        table_rows: number of rows of the official embedding and head.
        text: the official section about the language model.
    """

    config: XgenMMConfig
    table_rows: int
    text: dict[str, Any]


@dataclass(frozen=True)
class ProcessorResult:
    """The processor, and the settings that belong to it.

    Attributes:
        processor: the processor; `None` without a tokenizer.
        generation_config: the generation settings.
        notes: notes for the user, in sentences.
    """

    processor: XgenMMProcessor | None
    generation_config: GenerationConfig
    notes: list[str] = field(default_factory=list)


def read_source(folder: Path, vision_config: Path | None, has_head_bias: bool) -> Source:
    """Read the config.json of an official checkpoint, and make our configuration from it.

    Args:
        folder: folder of the official checkpoint.
        vision_config: JSON file with the configuration of a SigLIP, for a tower whose name is unknown.
        has_head_bias: whether the weights have a bias of the head.

    Raises:
        CheckpointError: the file is missing, damaged, already converted, or belongs to another model.
    """
    file = folder / "config.json"
    raw = read_json(file)
    model_type = raw.get("model_type")
    if model_type == XgenMMConfig.model_type:
        raise CheckpointError(f"{file} is already converted: load {folder} with from_pretrained.")
    if model_type != OFFICIAL_TYPE:
        raise CheckpointError(
            f"{file} is no configuration of XGen-MM v1.5 (model_type {model_type!r}, not {OFFICIAL_TYPE!r}). The first "
            "release (r-v1) has a vision tower of OpenCLIP, which is not supported."
        )
    text = _section(raw, "text_config", file)
    encoder, tokens = _section(raw, "vision_encoder_config", file), _section(raw, "vision_tokenizer_config", file)
    if text.get("model_type", "phi3") != "phi3":
        raise CheckpointError(f"{file}: the language model is {text['model_type']!r}; XGen-MM supports only phi3.")
    length: Any = text.get("initial_tokenizer_len")
    rows: Any = text.get("vocab_size", PHI3_DEFAULTS["vocab_size"])
    if not _is_whole(rows) or not _is_whole(length) or not 0 < length <= rows:
        raise CheckpointError(
            f"{file}: text_config.initial_tokenizer_len must be a whole number from 1 to vocab_size ({rows!r}), not "
            f"{length!r}."
        )
    tower = _tower(encoder, vision_config)
    width = tokens.get("vis_feature_dim", tower.hidden_size)
    if width != tower.hidden_size:
        raise CheckpointError(
            f"{file}: the resampler takes features of width {width}, but the vision tower has {tower.hidden_size}."
        )
    try:
        language = tower_config({**text, "vocab_size": length + len(ADDED_TOKENS)}, "phi3", PHI3_DEFAULTS)
        config = XgenMMConfig(
            vision_config=tower,
            text_config=language,
            image_token_id=length,
            num_query_tokens=tokens.get("num_vis_tokens", DEFAULT_TOKENS),
            lm_head_bias=has_head_bias,
            tie_word_embeddings=False,
        )
        config.validate()
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise CheckpointError(f"No XGen-MM can be built from {file}: {one_line(error)}") from error
    return Source(config, rows, text)


def _section(raw: dict[str, Any], name: str, file: Path) -> dict[str, Any]:
    section = raw.get(name)
    if not isinstance(section, dict):
        raise CheckpointError(f"{file} has no section {name!r}: download the checkpoint again with all its files.")
    return section


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _tower(encoder: dict[str, Any], description: Path | None) -> PreTrainedConfig:
    """The configuration of the vision tower, without its pooling head."""
    name = str(encoder.get("model_name") or DEFAULT_TOWER)
    section: Any = KNOWN_TOWERS.get(Path(name.lower()).name) if description is None else read_json(description)
    if section is None:
        raise CheckpointError(
            f"The vision tower {name!r} of config.json is not {DEFAULT_TOWER}: pass the configuration of a SigLIP "
            "(--vision-config FILE)."
        )
    section = section.get("vision_config", section)
    found = section.get("model_type", TOWER_TYPE)
    if found != TOWER_TYPE:
        raise CheckpointError(
            f"{description or name} describes a model of type {found!r}: XGen-MM v1.5 needs a SigLIP."
        )
    try:
        config = tower_config(section, TOWER_TYPE)
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise CheckpointError(f"{description} cannot be used: {one_line(error)}") from error
    drop_pooling_head(config)
    return config


def build_processor(folder: Path, source: Source, tokenizer_folder: Path | None) -> ProcessorResult:
    """Make the processor and the generation settings of a converted checkpoint.

    Args:
        folder: folder of the official checkpoint.
        source: content of its config.json.
        tokenizer_folder: folder of the tokenizer; `None` if there is none.

    Raises:
        CheckpointError: the tokenizer cannot be read or belongs to another model, or a file is damaged.
    """
    config = source.config
    ids = token_ids(folder, source.text, config.text_config)
    if tokenizer_folder is None:
        note = "no tokenizer found: processor files not written; pass --tokenizer FOLDER."
        return ProcessorResult(None, GenerationConfig(do_sample=False, **ids), [note])
    tokenizer = load_tokenizer(tokenizer_folder, config.text_config)
    for number, token in enumerate(ADDED_TOKENS):
        tokenizer, token_id = with_token(tokenizer, token)
        if token_id != config.image_token_id + number:
            raise CheckpointError(
                f"The tokenizer in {tokenizer_folder} gives {token} the id {token_id} instead of "
                f"{config.image_token_id + number}: pass the tokenizer of this model (--tokenizer)."
            )
    notes = set_padding(tokenizer, ids["pad_token_id"])
    ids["pad_token_id"] = tokenizer.pad_token_id
    ends = ids["eos_token_id"] if isinstance(ids["eos_token_id"], list) else [ids["eos_token_id"]]
    if (end := tokenizer.get_vocab().get(END_OF_TURN)) is not None and end not in ends:
        ids["eos_token_id"] = [*ends, end]
        notes.append(f"answers also end at {END_OF_TURN}, which the official files do not name.")
    side = config.vision_config.image_size
    processor = XgenMMProcessor(
        image_processor=SiglipImageProcessor(size={"height": side, "width": side}, **_pixel_options(folder)),
        tokenizer=tokenizer,
        image_token=ADDED_TOKENS[0],
        num_query_tokens=config.num_query_tokens,
    )
    return ProcessorResult(processor, GenerationConfig(do_sample=False, **ids), notes)


def _pixel_options(folder: Path) -> dict[str, Any]:
    """Mean and standard deviation of the pixels, if the official preprocessor_config.json has them."""
    file = folder / "preprocessor_config.json"
    stored = read_json(file) if file.is_file() else {}
    if stored.get("resize_mode", "squash") != "squash":
        raise CheckpointError(f"{file}: resize_mode {stored['resize_mode']!r} is not supported, only 'squash'.")
    options = {name: stored[name] for name in ("image_mean", "image_std") if stored.get(name) is not None}
    for name, value in options.items():
        if not isinstance(value, list) or len(value) != 3 or not all(isinstance(item, int | float) for item in value):
            raise CheckpointError(f"{file}: {name} must be three numbers, not {value!r}.")
    return options


__all__ = ["ADDED_TOKENS", "ProcessorResult", "Source", "build_processor", "read_source"]
