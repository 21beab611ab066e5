"""Which tensors of an official XGen-MM v1.5 checkpoint become which tensor of ours.

The names are those of the public `modeling_xgenmm.py`, and of the weight index of
Salesforce/xgen-mm-phi3-mini-base-r-v1.5 as a public copy of that repository has it: 718 tensors, 17,437,028,876 bytes
in float32, which is what the shapes here add up to. The tokens that the tokenizer was given last have rows of their own
(`additional_embedding`, `additional_fc`); rows of the main tables behind the tokenizer's end are never read, and are
left behind.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..stream import StoredTensor, StoredWeights
from ..tensors import misfits, refuse

TOWER, RESAMPLER = "model.vision_tower.", "model.multi_modal_projector."
LANGUAGE, HEAD = "model.language_model.", "lm_head."
EMBEDDING = LANGUAGE + "embed_tokens.weight"
# Our prefix -> theirs.
PREFIXES = {
    TOWER: "vlm.vision_encoder.",
    RESAMPLER: "vlm.vision_tokenizer.",
    LANGUAGE: "vlm.lang_model.model.",
    HEAD: "vlm.lang_model.lm_head.",
}
# What follows the prefix of a layer of the resampler: there it is attention (0) and MLP (1), unnamed in part.
RESAMPLER_NAMES = {
    "norm_media": "0.norm_media",
    "norm_latents": "0.norm_latents",
    "q_proj": "0.to_q",
    "kv_proj": "0.to_kv",
    "out_proj": "0.to_out",
    "norm_mlp": "1.0",
    "fc1": "1.1",
    "fc2": "1.3",
}
RESAMPLER_LAYER = re.compile(r"layers\.(?P<number>\d+)\.(?P<part>\w+)\.(?P<kind>weight|bias)")
# The pooling of SigLIP, which XGen-MM never asks for, and buffers that are computed from the configuration.
DROPPED = re.compile(r"vlm\.vision_encoder\.head\..+|.+\.(rotary_emb\.inv_freq|embeddings\.position_ids)")


@dataclass(frozen=True)
class ConversionPlan:
    """Where every tensor of the converted checkpoint comes from.

    Attributes:
        shapes: our name -> shape.
        pieces: our name -> stored tensors and how many of their first rows are taken (all where it is `None`); more
            than one are put one below the other.
        dropped: stored tensors that are knowingly left behind.
    """

    shapes: dict[str, tuple[int, ...]]
    pieces: dict[str, list[tuple[StoredTensor, int | None]]]
    dropped: list[StoredTensor]


def official_name(name: str) -> str:
    """How official checkpoints call our tensor `name`; of a table in two parts, the main one."""
    ours = next(prefix for prefix in PREFIXES if name.startswith(prefix))
    rest = name.removeprefix(ours)
    if ours == RESAMPLER and (match := RESAMPLER_LAYER.fullmatch(rest)):
        rest = f"layers.{match['number']}.{RESAMPLER_NAMES[match['part']]}.{match['kind']}"
    return PREFIXES[ours] + rest


def additional_name(name: str) -> str | None:
    """The official tensor with the rows of the added tokens; `None` where our tensor has none."""
    if name == EMBEDDING:
        return official_name(name).replace("weight", "additional_embedding.weight")
    return official_name(name).replace(HEAD, HEAD + "additional_fc.") if name.startswith(HEAD) else None


def plan_conversion(
    expected: Mapping[str, tuple[int, ...]], weights: StoredWeights, table_rows: int, num_added: int
) -> ConversionPlan:
    """Find the place of every tensor and check that none is missing, left over, or of another shape.

    Args:
        expected: our name -> shape, of the whole model.
        weights: the official checkpoint.
        table_rows: rows of the official main tables, read or not.
        num_added: tokens with rows of their own; they are the last ones of our vocabulary.

    Raises:
        CheckpointError: something does not fit; the tensor and its file are named.
    """
    wanted: dict[str, tuple[int, ...]] = {}
    places: dict[str, list[tuple[str, int | None]]] = {}
    for name, shape in expected.items():
        main, added = official_name(name), additional_name(name)
        if added is None:
            wanted[main] = shape
            places[name] = [(main, None)]
        else:
            wanted |= {main: (table_rows, *shape[1:]), added: (num_added, *shape[1:])}
            places[name] = [(main, shape[0] - num_added), (added, None)]
    dropped = [tensor for name, tensor in weights.tensors.items() if DROPPED.fullmatch(name)]
    stored = {name: tensor for name, tensor in weights.tensors.items() if not DROPPED.fullmatch(name)}
    refuse(misfits(stored, wanted, (), lambda name: f"{name} is missing in {weights.origin}", "XGen-MM"))
    pieces = {name: [(stored[theirs], rows) for theirs, rows in parts] for name, parts in places.items()}
    return ConversionPlan(dict(expected), pieces, dropped)


__all__ = ["HEAD", "PREFIXES", "ConversionPlan", "additional_name", "official_name", "plan_conversion"]
