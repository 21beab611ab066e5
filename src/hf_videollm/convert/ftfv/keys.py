"""Maps the tensors of Qwen-VL's vision module and of a language model to the tensors of FTFV.

The layout of the vision module is public in two places, and both agree: `visual.py` of Qwen/Qwen-VL on the Hub, and
the loader in vLLM (`vllm/model_executor/models/qwen_vl.py`, classes `VisionTransformer`, `VisualAttention` and
`Resampler2`). The rows of the tower's `in_proj` are ordered by head: query, key and value of the first head, then of
the next. The adapter's `attn.in_proj_weight` has the order of `torch.nn.MultiheadAttention`: the queries of all heads,
then all keys, then all values.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..stream import StoredTensor, StoredWeights
from ..tensors import misfits, refuse

VISUAL = "transformer.visual."
TOWER, CONNECTOR, LANGUAGE, HEAD = "model.vision_tower.", "model.connector.", "model.language_model.", "lm_head."
# The only tensor that no source has, because Qwen-VL has no code for time.
TEMPORAL = CONNECTOR + "temporal_embedding"
# Our name after `model.vision_tower.` -> the official name after `transformer.visual.`. The first pattern that matches
# is used.
TOWER_NAMES = (
    (r"patch_embedding\.(.+)", r"conv1.\1"),
    (r"position_embedding", "positional_embedding"),
    (r"pre_layernorm\.(.+)", r"ln_pre.\1"),
    (r"layers\.(\d+)\.layer_norm([12])\.(.+)", r"transformer.resblocks.\1.ln_\2.\3"),
    (r"layers\.(\d+)\.self_attn\.[qkv]_proj\.(.+)", r"transformer.resblocks.\1.attn.in_proj.\2"),
    (r"layers\.(\d+)\.self_attn\.out_proj\.(.+)", r"transformer.resblocks.\1.attn.out_proj.\2"),
    (r"layers\.(\d+)\.mlp\.fc1\.(.+)", r"transformer.resblocks.\1.mlp.c_fc.\2"),
    (r"layers\.(\d+)\.mlp\.fc2\.(.+)", r"transformer.resblocks.\1.mlp.c_proj.\2"),
)
QKV = re.compile(re.escape(TOWER) + r"layers\.\d+\.self_attn\.([qkv])_proj\..+")
# Buffers in older files. They are not needed, because they are computed from the configuration.
DROPPED = re.compile(r".+\.rotary_emb\.inv_freq")


@dataclass(frozen=True)
class Source:
    """The stored tensor that holds the values of one of our tensors.

    Attributes:
        part: 0, 1 or 2 for query, key or value of the tower's `in_proj`; `None` if the stored tensor is used as it is.
    """

    tensor: StoredTensor
    part: int | None = None


@dataclass(frozen=True)
class ConversionPlan:
    """The source of every tensor of the converted checkpoint.

    Attributes:
        shapes: our name -> shape, the temporal code included.
        sources: our name -> stored tensor, the temporal code excluded.
        tied: whether the head is the same tensor as the embedding, and is not stored.
    """

    shapes: dict[str, tuple[int, ...]]
    sources: dict[str, Source]
    tied: bool


def official_name(name: str, language_prefix: str) -> str:
    """The name of our tensor in Qwen-VL's checkpoint or in that of the language model.

    Args:
        name: our name of a tensor that is not the temporal code.
        language_prefix: the prefix of all tensors of the language model except its head, such as `model.`.
    """
    if name.startswith(TOWER):
        rest = name.removeprefix(TOWER)
        matches = ((re.fullmatch(pattern, rest), theirs) for pattern, theirs in TOWER_NAMES)
        return VISUAL + next(match.expand(theirs) for match, theirs in matches if match)
    if name.startswith(CONNECTOR):
        rest = name.removeprefix(CONNECTOR)
        return VISUAL + (rest if rest.startswith(("ln_post.", "proj")) else f"attn_pool.{rest}")
    return name if name.startswith(HEAD) else language_prefix + name.removeprefix(LANGUAGE)


def plan_conversion(
    expected: Mapping[str, tuple[int, ...]],
    visual: StoredWeights,
    language: StoredWeights,
    language_prefix: str,
    is_tied: bool = False,
) -> ConversionPlan:
    """Find the source of every tensor, and check that no tensor is missing, left over, or of another shape.

    Args:
        expected: our name -> shape, for the whole model.
        visual: the tensors of Qwen-VL's vision module.
        language: tensors of the language model.
        language_prefix: see `official_name`.
        is_tied: whether the configuration says that embedding and head are the same tensor.

    Raises:
        CheckpointError: a tensor does not fit; the message names the tensor and its file.
    """
    stored = {
        **visual.tensors,
        **{name: item for name, item in language.tensors.items() if not DROPPED.fullmatch(name)},
    }
    shapes = dict(expected)
    tied = is_tied and "lm_head.weight" not in stored
    if tied:
        del shapes["lm_head.weight"]
    wanted: dict[str, tuple[int, ...]] = {}
    places: dict[str, tuple[str, int | None]] = {}
    for name, shape in shapes.items():
        if name == TEMPORAL:
            continue
        theirs, match = official_name(name, language_prefix), QKV.fullmatch(name)
        wanted[theirs] = (3 * shape[0], *shape[1:]) if match else shape
        places[name] = theirs, "qkv".index(match[1]) if match else None

    def describe_missing(name: str) -> str:
        return f"{name} is missing in {(visual if name.startswith(VISUAL) else language).origin}"

    refuse(misfits(stored, wanted, (), describe_missing, "FTFV"))
    return ConversionPlan(shapes, {name: Source(stored[theirs], part) for name, (theirs, part) in places.items()}, tied)


def take_part(in_proj: torch.Tensor, part: int, num_heads: int) -> torch.Tensor:
    """The rows of the tower's `in_proj` (weight or bias) for query (0), key (1) or value (2).

    Args:
        in_proj: `(3 * width, ...)`. Head h has the rows 3 * d * h to 3 * d * (h + 1): d rows each of query, key, value.
        part: 0, 1 or 2.
        num_heads: number of heads.

    Returns:
        `(width, ...)`, ordered by head.
    """
    return in_proj.unflatten(0, (num_heads, 3, -1))[:, part].flatten(0, 1)


__all__ = ["TEMPORAL", "VISUAL", "ConversionPlan", "Source", "official_name", "plan_conversion", "take_part"]
