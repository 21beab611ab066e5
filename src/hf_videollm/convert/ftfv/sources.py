"""Reads the two sources of an FTFV checkpoint: the vision module of a Qwen-VL folder, and a causal language model."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from ...models.configuration_ftfv import FtfvConfig
from ...models.configuration_qwen_vl_vision import QwenVLVisionConfig
from ...models.errors import CheckpointError, one_line
from ...models.video_llm_head import unknown_logit_field
from ..parts import read_language_config
from ..pickle_reader import PICKLE_INDEX, read_weight_file, scan_any_weights
from ..stream import StoredTensor, StoredWeights, has_safetensors, read_index, read_json
from .keys import VISUAL

# Constants in Qwen-VL's code: the side of the position grid (for images of 224 pixels), the width of one head of the
# adapter, and the default number of queries.
POSITION_GRID, ADAPTER_HEAD_WIDTH, DEFAULT_QUERIES = 16, 128, 256
VISUAL_FIELDS = ("width", "layers", "heads", "mlp_ratio", "image_size", "patch_size", "output_dim")


@dataclass(frozen=True)
class Visual:
    """The vision module of a Qwen-VL folder.

    Attributes:
        weights: the tensors of the vision module only.
        left_aside: number of the other tensors in the folder; they belong to Qwen-VL's language model.
    """

    weights: StoredWeights
    left_aside: int


@dataclass(frozen=True)
class Language:
    """A causal language model.

    Attributes:
        config: its configuration, as transformers reads it.
        raw: content of its config.json.
        weights: its stored tensors.
        prefix: prefix of the names of all its tensors except the head.
        notes: notes for the user, in sentences.
    """

    config: Any
    raw: dict[str, Any]
    weights: StoredWeights
    prefix: str
    notes: list[str] = field(default_factory=list)


def read_visual(folder: Path, workspace: Path) -> Visual:
    """Read the headers of the vision module.

    If the folder has pickled shards with an index, only the shards with parts of the vision module are opened. The
    other shards may be missing.

    Args:
        folder: a Qwen-VL checkpoint.
        workspace: folder for copies of pickles, which must exist until the weights are written.

    Raises:
        CheckpointError: there are no weights or no vision module, or a file is missing or damaged.
    """
    notes: list[str] = []
    tensors: dict[str, StoredTensor]
    if not has_safetensors(folder) and (folder / PICKLE_INDEX).is_file():
        index = read_index(folder / PICKLE_INDEX, ".bin")
        files = sorted({file for name, file in index.items() if name.startswith(VISUAL)})
        tensors = {}
        for file in files:
            tensors |= read_weight_file(folder / file, workspace).tensors
        origin, names = folder / PICKLE_INDEX, set(index) | set(tensors)
        notes.append(f"{', '.join(files)}: pickles, read in a separate process.")
    else:
        weights = scan_any_weights(folder, workspace)
        if weights is None:
            raise CheckpointError(f"{folder} has no weights: download the Qwen-VL checkpoint again with all its files.")
        tensors, origin, names = weights.tensors, weights.origin, set(weights.tensors)
        notes += weights.notes
    visual = {name: tensor for name, tensor in tensors.items() if name.startswith(VISUAL)}
    if not visual:
        found = ", ".join(sorted(names)[:2]) or "nothing"
        raise CheckpointError(
            f"{origin} has no tensors that begin with {VISUAL} (found {found}, ...): pass the folder of a Qwen-VL or "
            "Qwen-VL-Chat checkpoint. Qwen2-VL and later ones have another vision module."
        )
    return Visual(StoredWeights(visual, origin, notes), len(names) - len(visual))


def read_language(folder: Path, workspace: Path) -> Language:
    """Read the configuration and the headers of the language model. Code in the folder is never run.

    Raises:
        CheckpointError: the folder holds no causal language model of transformers, the model changes its logits in a
            way that FTFV does not support, or a file is missing or damaged.
    """
    config, raw = read_language_config(folder)
    # The weights are copied one by one, so the language model is never built, and its logits cannot be compared.
    if (name := unknown_logit_field(config)) is not None:
        raise CheckpointError(
            f"{folder / 'config.json'}: a model of type {config.model_type!r} does something to its logits ({name} is "
            f"{getattr(config, name)}) that FTFV does not support: use a LLaMA-like language model."
        )
    weights = scan_any_weights(folder, workspace)
    if weights is None:
        raise CheckpointError(f"{folder} has no weights: download the language model again with all its files.")
    prefix = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].base_model_prefix + "."
    return Language(config, raw, weights, prefix, list(weights.notes))


def build_config(folder: Path, language: Any, **options: Any) -> FtfvConfig:
    """Make the configuration of FTFV from the `visual` section of Qwen-VL's config.json.

    Args:
        folder: folder of the Qwen-VL checkpoint.
        language: configuration of the language model.
        options: other fields of `FtfvConfig`.

    Raises:
        CheckpointError: the section is missing or impossible, or the language model has another width than the vectors
            that the adapter gives.
    """
    file = folder / "config.json"
    section = read_json(file).get("visual")
    if not isinstance(section, dict):
        raise CheckpointError(
            f"{file} has no section 'visual': pass the folder of a Qwen-VL or Qwen-VL-Chat checkpoint with its "
            "config.json."
        )
    for name in VISUAL_FIELDS:
        value = section.get(name)
        kinds = (int, float) if name == "mlp_ratio" else int
        if not isinstance(value, kinds) or isinstance(value, bool) or not value > 0 or not math.isfinite(value):
            raise CheckpointError(f"{file}: visual.{name} must be a positive number, not {value!r}.")
    width, out_width = section["width"], section["output_dim"]
    if language.hidden_size != out_width:
        raise CheckpointError(
            f"The language model is {language.hidden_size} wide, but the vision module in {folder} gives vectors of "
            f"width {out_width}: choose a language model of that width, such as Vicuna 7B for Qwen-VL."
        )
    try:
        config = FtfvConfig(
            vision_config=QwenVLVisionConfig(
                hidden_size=width,
                intermediate_size=int(width * section["mlp_ratio"]),
                num_hidden_layers=section["layers"],
                num_attention_heads=section["heads"],
                image_size=section["image_size"],
                patch_size=section["patch_size"],
                position_grid_size=POSITION_GRID,
            ),
            text_config=language,
            num_queries=section.get("n_queries", DEFAULT_QUERIES),
            adapter_width=out_width,
            adapter_num_heads=out_width // ADAPTER_HEAD_WIDTH,
            **options,
        )
        config.validate()
    except (StrictDataclassError, ValueError, TypeError) as error:
        reason = one_line(error)
        raise CheckpointError(f"No FTFV can be built from {file} and these options: {reason}") from error
    return config


__all__ = ["Language", "Visual", "build_config", "read_language", "read_visual"]
