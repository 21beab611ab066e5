"""Which tensor of Qwen-VL's vision module, or of a language model, becomes which tensor of FTFV.

The layout of the vision module is public in two places, and both agree: `visual.py` of Qwen/Qwen-VL on the Hub, and
the loader in vLLM (`vllm/model_executor/models/qwen_vl.py`, classes `VisionTransformer`, `VisualAttention` and
`Resampler2`). The tower's `in_proj` holds the rows of one head after the other, for each its query, key and value; the
adapter's `attn.in_proj_weight` is that of `torch.nn.MultiheadAttention`, all queries, all keys, all values.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..stream import StoredTensor, StoredWeights
from ..tensors import misfits, refuse

VISUAL = "transformer.visual."
TOWER, CONNECTOR, LANGUAGE, HEAD = "model.vision_tower.", "model.connector.", "model.language_model.", "lm_head."
# The only tensor that no source has: Qwen-VL knows no time.
TEMPORAL = CONNECTOR + "temporal_embedding"
# Ours behind `model.vision_tower.` -> theirs behind `transformer.visual.`; the first pattern that fits counts.
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
# Buffers of older files that are computed from the configuration.
DROPPED = re.compile(r".+\.rotary_emb\.inv_freq")


@dataclass(frozen=True)
class Source:
    """Where the values of one of our tensors come from.

    Attributes:
        part: 0, 1 or 2 for query, key or value of the tower's `in_proj`; `None` where the tensor is taken as it is.
    """

    tensor: StoredTensor
    part: int | None = None


@dataclass(frozen=True)
class ConversionPlan:
    """Where every tensor of the converted checkpoint comes from.

    Attributes:
        shapes: our name -> shape, the temporal code included.
        sources: our name -> stored tensor, the temporal code excluded.
        tied: the head shares the embedding and has no tensor of its own.
    """

    shapes: dict[str, tuple[int, ...]]
    sources: dict[str, Source]
    tied: bool


def official_name(name: str, language_prefix: str) -> str:
    """The name of our tensor in Qwen-VL's checkpoint or in that of the language model.

    Args:
        name: ours; not the temporal code.
        language_prefix: what the tensors of the language model without its head begin with, such as `model.`.
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
    """Find the place of every tensor and check that none is missing, left over, or of another shape.

    Args:
        expected: our name -> shape, of the whole model.
        visual: tensors of Qwen-VL's vision module, and no others.
        language: tensors of the language model.
        language_prefix: see `official_name`.
        is_tied: the configuration shares embedding and head.

    Raises:
        CheckpointError: something does not fit; the tensor and its file are named.
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
    """Query (0), key (1) or value (2) rows of the tower's `in_proj`, weight or bias.

    Args:
        in_proj: `(3 * width, ...)`; head h owns rows 3 * d * h to 3 * d * (h + 1) as query, key, value of d rows each.

    Returns:
        `(width, ...)`, heads one after the other.
    """
    return in_proj.unflatten(0, (num_heads, 3, -1))[:, part].flatten(0, 1)


__all__ = ["TEMPORAL", "VISUAL", "ConversionPlan", "Source", "official_name", "plan_conversion", "take_part"]
