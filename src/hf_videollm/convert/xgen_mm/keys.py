"""Maps the tensors of an official XGen-MM v1.5 checkpoint to our tensors.

The names come from the public `modeling_xgenmm.py` and from the weight index of
Salesforce/xgen-mm-phi3-mini-base-r-v1.5, in a public copy of that repository. The index has 718 tensors with
17,437,028,876 bytes in float32; the shapes here add up to the same number. The rows for the tokens that were added to
the tokenizer last are in separate tensors (`additional_embedding`, `additional_fc`). Rows of the main tables after the
end of the original tokenizer are never used, and are dropped.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..stream import StoredTensor, StoredWeights
from ..tensors import misfits, refuse

TOWER, RESAMPLER = "model.vision_tower.", "model.multi_modal_projector."
LANGUAGE, HEAD = "model.language_model.", "lm_head."
EMBEDDING = LANGUAGE + "embed_tokens.weight"
# Our prefix -> the official prefix.
PREFIXES = {
    TOWER: "vlm.vision_encoder.",
    RESAMPLER: "vlm.vision_tokenizer.",
    LANGUAGE: "vlm.lang_model.model.",
    HEAD: "vlm.lang_model.lm_head.",
}
# Our names inside a layer of the resampler -> the official names. Officially, a layer is a list of attention (0) and
# MLP (1), and the parts of the MLP have numbers instead of names.
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
# Tensors that are dropped: SigLIP's pooling head, which XGen-MM does not use, and buffers that are computed from the
# configuration.
DROPPED = re.compile(r"vlm\.vision_encoder\.head\..+|.+\.(rotary_emb\.inv_freq|embeddings\.position_ids)")


@dataclass(frozen=True)
class ConversionPlan:
    """The source of every tensor of the converted checkpoint.

    Attributes:
        shapes: our name -> shape.
        pieces: our name -> stored tensors, each with the number of its first rows that are used (`None`: all rows). Our
            tensor is their concatenation.
        dropped: stored tensors that are dropped on purpose.
    """

    shapes: dict[str, tuple[int, ...]]
    pieces: dict[str, list[tuple[StoredTensor, int | None]]]
    dropped: list[StoredTensor]


def official_name(name: str) -> str:
    """The name of our tensor `name` in official checkpoints. If a table has two parts, this is the main part."""
    ours = next(prefix for prefix in PREFIXES if name.startswith(prefix))
    rest = name.removeprefix(ours)
    if ours == RESAMPLER and (match := RESAMPLER_LAYER.fullmatch(rest)):
        rest = f"layers.{match['number']}.{RESAMPLER_NAMES[match['part']]}.{match['kind']}"
    return PREFIXES[ours] + rest


def additional_name(name: str) -> str | None:
    """The name of the official tensor with the rows of the added tokens; `None` if our tensor has no such rows."""
    if name == EMBEDDING:
        return official_name(name).replace("weight", "additional_embedding.weight")
    return official_name(name).replace(HEAD, HEAD + "additional_fc.") if name.startswith(HEAD) else None


def plan_conversion(
    expected: Mapping[str, tuple[int, ...]], weights: StoredWeights, table_rows: int, num_added: int
) -> ConversionPlan:
    """Find the source of every tensor, and check that no tensor is missing, left over, or of another shape.

    Args:
        expected: our name -> shape, for the whole model.
        weights: tensors of the official checkpoint.
        table_rows: number of rows of the official main tables, including the unused ones.
        num_added: number of tokens whose rows are in separate tensors. They are the last tokens of our vocabulary.

    Raises:
        CheckpointError: a tensor does not fit; the message names the tensor and its file.
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
