"""Maps the tensors of an official VideoLLaMA2 checkpoint to our tensors.

The tensors come from up to four places: the checkpoint, the base from which it was trained, a vision tower, and a BEATs
file. Each part of the model is taken as a whole from the first place that has it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ...models.errors import CheckpointError
from ..lora import LORA_TENSOR, LoraPair
from ..stream import StoredTensor, read_tensor
from ..tensors import FLOATS, misfits, refuse, shape_text

LANGUAGE, HEAD, TOWER, CONNECTOR = "model.language_model.", "lm_head.", "model.vision_tower.", "model.connector."
EAR, EAR_PROJECTOR = "model.audio_tower.", "model.audio_projector."
# The parts that may come from different places, with the prefixes of our names.
PARTS: dict[str, tuple[str, ...]] = {
    "language model": (LANGUAGE, HEAD),
    "vision tower": (TOWER,),
    "connector": (CONNECTOR,),
    "audio tower": (EAR,),
    "audio projector": (EAR_PROJECTOR,),
}
# Official prefix -> our prefix. The first prefix that matches is used. The dots distinguish mm_projector from
# mm_projector_a.
PREFIXES = (
    ("model.vision_tower.vision_tower.vision_model.", TOWER),
    ("model.vision_tower.vision_tower.", TOWER),
    ("model.mm_projector_a.", EAR_PROJECTOR),
    ("model.mm_projector.", CONNECTOR),
    ("model.audio_tower.", EAR),
    ("lm_head.", HEAD),
    ("model.", LANGUAGE),
)
# Other differences: patterns for the part of a name after our prefix. In the original, an MLP has no name, and a single
# linear layer has no number.
RENAMES: dict[str, tuple[tuple[str, str], ...]] = {
    CONNECTOR: ((r"(weight|bias)", r"readout.0.\1"), (r"(\d+)\.(weight|bias)", r"readout.\1.\2")),
    EAR_PROJECTOR: ((r"(weight|bias)", r"0.\1"),),
    LANGUAGE: ((r"(layers\.\d+)\.block_sparse_moe\.(.+)", r"\1.mlp.\2"),),
    EAR: (
        (r"encoder\.pos_conv\.0\.weight_g", "encoder.pos_conv.gain"),
        (r"encoder\.pos_conv\.0\.weight_v", "encoder.pos_conv.direction"),
        (r"encoder\.pos_conv\.0\.bias", "encoder.pos_conv.bias"),
        (r"encoder\.layers\.\d+\.self_attn\.relative_attention_bias\.weight", "encoder.relative_attention_bias.weight"),
    ),
}
# All layers share one table. Official files hold it once, or once for each layer.
SHARED_TABLE = EAR + "encoder.relative_attention_bias.weight"
# Tensors that are dropped on purpose: buffers that are computed from the configuration, and BEATs' classifier for
# AudioSet, which VideoLLaMA2 does not use.
DROPPED = re.compile(r".*(\.rotary_emb\.inv_freq|\.embeddings\.position_ids)|model\.audio_tower\.predictor\..+")
# Names of the vision tower in a complete CLIP or SigLIP, and of its other parts.
VISION_PREFIX = "vision_model."
VISION_NAMES = ("embeddings.", "encoder.", "pre_layrnorm.", "post_layernorm.", "head.")
NOT_VISION = re.compile(r"(text_model\.|text_projection\.|visual_projection\.|logit_scale|logit_bias).*")
# transformers 5 stores the experts of Mixtral in two tensors. In the first one, gate (w1) and up (w3) of each expert
# follow each other.
FUSED_EXPERTS = re.compile(r"(?P<stem>.+\.mlp\.experts)\.(?P<kind>gate_up_proj|down_proj)")


@dataclass
class Contents:
    """The tensors of one place, sorted by our names.

    Attributes:
        origin: path that messages name if a tensor is missing.
        weights: our name -> stored tensor.
        lora: our name of the adapted layer -> its factors.
        copies: additional copies of the table that BEATs' layers share.
        dropped: tensors that are dropped on purpose.
        unknown: tensors without a place in the model.
        official: maps our name to the name in this place.
    """

    origin: Path
    weights: dict[str, StoredTensor] = field(default_factory=dict)
    lora: dict[str, LoraPair] = field(default_factory=dict)
    copies: list[StoredTensor] = field(default_factory=list)
    dropped: list[StoredTensor] = field(default_factory=list)
    unknown: list[StoredTensor] = field(default_factory=list)
    official: Callable[[str], str] = lambda name: official_name(name)

    def part(self, part: str) -> dict[str, StoredTensor]:
        """The tensors of one part of the model."""
        return {name: tensor for name, tensor in self.weights.items() if name.startswith(PARTS[part])}


@dataclass(frozen=True)
class LoraFactors:
    """The factors of a LoRA for one weight, to which scale * B A is added."""

    a: StoredTensor
    b: StoredTensor
    scale: float


@dataclass(frozen=True)
class ConversionPlan:
    """The source of every tensor of the converted checkpoint.

    Attributes:
        shapes: our name -> shape.
        pieces: our name -> the stored tensors whose concatenation is our tensor.
        lora: stored tensor -> the LoRA that is added to it.
        tied: whether the head is the same tensor as the embedding, and is not stored.
        owners: part of the model -> the place from which it is taken.
    """

    shapes: dict[str, tuple[int, ...]]
    pieces: dict[str, list[StoredTensor]]
    lora: dict[StoredTensor, LoraFactors]
    tied: bool
    owners: dict[str, Contents]

    @property
    def tensors(self) -> list[StoredTensor]:
        """All stored tensors that are read."""
        return [tensor for pieces in self.pieces.values() for tensor in pieces]


def our_name(name: str) -> str | None:
    """Our name of an official tensor; `None` if it has none."""
    name = name.removeprefix("base_model.model.")
    if name.startswith(("model.model.", "model.lm_head.")):
        name = name.removeprefix("model.")
    prefix, ours = next(((old, new) for old, new in PREFIXES if name.startswith(old)), ("", ""))
    if not ours:
        return None
    rest = name.removeprefix(prefix)
    for pattern, replacement in RENAMES.get(ours, ()):
        if (match := re.fullmatch(pattern, rest)) is not None:
            return ours + match.expand(replacement)
    return ours + rest


def official_name(name: str) -> str:
    """The name of our tensor `name` in official checkpoints."""
    ours = next(prefix for prefixes in PARTS.values() for prefix in prefixes if name.startswith(prefix))
    official = next(old for old, new in PREFIXES if new == ours)
    rest = name.removeprefix(ours)
    if ours == LANGUAGE and ".mlp.experts." in name:
        rest = rest.replace(".mlp.", ".block_sparse_moe.")
    if ours == EAR:
        rest = rest.replace("pos_conv.", "pos_conv.0.").replace(".gain", ".weight_g").replace(".direction", ".weight_v")
        rest = rest.replace("encoder.relative", "encoder.layers.0.self_attn.relative")
    return official + rest


def sort_tensors(tensors: Mapping[str, StoredTensor], origin: Path) -> Contents:
    """Map every tensor of an official checkpoint, or of a plain language model, to its name in our model.

    Raises:
        CheckpointError: two tensors map to the same name, or the tensors already have our names.
    """
    contents = Contents(origin)
    if any(name.startswith((LANGUAGE, CONNECTOR)) for name in tensors):
        raise CheckpointError(
            f"{origin} is already converted, or belongs to another design: load it with from_pretrained."
        )
    for name, tensor in tensors.items():
        target = our_name(name)
        if DROPPED.fullmatch(name):
            contents.dropped.append(tensor)
        elif target is None:
            contents.unknown.append(tensor)
        elif (match := LORA_TENSOR.fullmatch(target)) is not None:
            pair = contents.lora.setdefault(match["layer"], LoraPair())
            setattr(pair, match["part"].lower(), tensor)
        elif target not in contents.weights:
            contents.weights[target] = tensor
        elif target == SHARED_TABLE:
            contents.copies.append(tensor)
        else:
            twin = contents.weights[target]
            raise CheckpointError(
                f"{twin.name} in {twin.place} and {name} in {tensor.place} are both meant for {target}: "
                "the folder mixes two checkpoints."
            )
    return contents


def sort_vision(tensors: Mapping[str, StoredTensor], origin: Path) -> Contents:
    """The vision tower of a CLIP or SigLIP checkpoint.

    The checkpoint may be complete, or hold only the tower, with the prefix `vision_model.` or without it.
    """
    has_prefix = any(name.startswith(VISION_PREFIX) for name in tensors)
    prefix = VISION_PREFIX if has_prefix else ""
    contents = Contents(origin, official=lambda name: prefix + name.removeprefix(TOWER))
    for name, tensor in tensors.items():
        if NOT_VISION.fullmatch(name) or DROPPED.fullmatch("." + name):
            contents.dropped.append(tensor)
        elif name.startswith(VISION_PREFIX if has_prefix else VISION_NAMES):
            contents.weights[TOWER + name.removeprefix(prefix)] = tensor
        else:
            contents.unknown.append(tensor)
    return contents


def sort_beats(tensors: Mapping[str, StoredTensor], origin: Path) -> Contents:
    """The tensors of a BEATs file: Microsoft's names have no prefix, those of an `audio_tower.bin` have the model's."""
    prefixed = {name if name.startswith(EAR) else EAR + name: tensor for name, tensor in tensors.items()}
    if len(prefixed) < len(tensors):
        raise CheckpointError(f"{origin} holds BEATs twice, with the prefix {EAR} and without: remove one of them.")
    contents = sort_tensors(prefixed, origin)
    has_prefix = any(name.startswith(EAR) for name in tensors)
    contents.official = lambda name: official_name(name) if has_prefix else official_name(name).removeprefix(EAR)
    return contents


def choose(places: Sequence[Contents]) -> tuple[dict[str, StoredTensor], dict[str, Contents]]:
    """Choose the tensors of the model, and the place of each part.

    Only the language model may come from two places: a LoRA checkpoint also holds the few layers that were trained
    completely.
    """
    owners = {part: next((place for place in places if is_owner(place, part)), None) for part in PARTS}
    weights: dict[str, StoredTensor] = {}
    for part, owner in owners.items():
        if owner is not None:
            weights |= owner.part(part)
    for place in reversed(places):
        if place.lora:
            weights |= place.part("language model")
    return weights, {part: owner for part, owner in owners.items() if owner is not None}


def is_owner(place: Contents, part: str) -> bool:
    """Whether a place has this part of the model. Single layers next to a LoRA are not a language model."""
    return bool(place.part(part)) and not (place.lora and part == "language model")


def plan_conversion(
    expected: Mapping[str, tuple[int, ...]],
    places: Sequence[Contents],
    lora_scale: float | None = None,
    is_tied: bool = False,
) -> ConversionPlan:
    """Find the source of every tensor, and check that no tensor is missing, left over, or of another shape.

    Args:
        expected: our name -> shape, for the whole model.
        places: the places that are searched, the checkpoint itself first.
        lora_scale: the factor by which the product of the LoRA's factors is multiplied.
        is_tied: whether the configuration says that embedding and head are the same tensor.

    Raises:
        CheckpointError: a tensor does not fit; the message names the tensor and its file.
    """
    weights, owners = choose(places)
    shapes = dict(expected)
    tied = is_tied and "lm_head.weight" not in weights
    if tied:
        del shapes["lm_head.weight"]
    piece_names, piece_shapes = split_experts(shapes, weights)

    def describe_missing(name: str) -> str:
        part = next(part for part, prefixes in PARTS.items() if name.startswith(prefixes))
        owner = owners.get(part, places[0])
        words = f"{owner.official(name)} is missing in {owner.origin}"
        # The readout has a name only in connectors that are more than an MLP.
        has_readout = any(".readout." in tensor.name for tensor in owner.part(part).values())
        return words if has_readout else words.replace(".readout.", ".")

    # A base or a vision tower may hold parts that are not needed from it. But a tensor without any place in the model
    # is an error in every place.
    unknown = [tensor for place in places for tensor in place.unknown]
    pairs = {layer: pair for place in places for layer, pair in place.lora.items()}
    problems = misfits(weights, piece_shapes, unknown, describe_missing, "VideoLLaMA2")
    refuse(problems + _lora_misfits(pairs, piece_shapes, places[0].origin))
    lora = {
        weights[f"{layer}.weight"]: LoraFactors(pair.a, pair.b, lora_scale)
        for layer, pair in pairs.items()
        if pair.a is not None and pair.b is not None and lora_scale is not None
    }
    pieces = {name: [weights[piece] for piece in piece_names[name]] for name in shapes}
    return ConversionPlan(shapes, pieces, lora, tied, owners)


def split_experts(
    expected: Mapping[str, tuple[int, ...]], weights: Mapping[str, StoredTensor]
) -> tuple[dict[str, list[str]], dict[str, tuple[int, ...]]]:
    """The stored pieces of every tensor, and the shapes of all pieces.

    A tensor is its own only piece, unless its experts are stored separately.
    """
    names: dict[str, list[str]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in expected.items():
        match = FUSED_EXPERTS.fullmatch(name)
        if match is None or name in weights:
            names[name], shapes[name] = [name], shape
            continue
        experts, rows, columns = shape
        kinds = ("w1", "w3") if match["kind"] == "gate_up_proj" else ("w2",)
        names[name] = [f"{match['stem']}.{expert}.{kind}.weight" for expert in range(experts) for kind in kinds]
        shapes |= dict.fromkeys(names[name], (rows // len(kinds), columns))
    return names, shapes


def check_copies(contents: Contents) -> None:
    """Check that all copies of the shared table are equal.

    Raises:
        CheckpointError: two copies differ; the message names them.
    """
    if not contents.copies:
        return
    first = contents.weights[SHARED_TABLE]
    table = read_tensor(first)
    for copy in contents.copies:
        if not torch.equal(read_tensor(copy), table):
            raise CheckpointError(
                f"{first.name} in {first.place} and {copy.name} in {copy.place} differ, but all layers of BEATs share "
                "one table: this is another model, or a damaged file."
            )


def _lora_misfits(pairs: Mapping[str, LoraPair], shapes: Mapping[str, tuple[int, ...]], origin: Path) -> list[str]:
    problems = []
    for layer, pair in pairs.items():
        shape = shapes.get(f"{layer}.weight", ())
        factors = {"A": pair.a, "B": pair.b}
        for part, tensor in factors.items():
            if tensor is None:
                problems.append(f"the factor {part} of the LoRA of {official_name(layer)} is missing in {origin}")
        if pair.a is None or pair.b is None:
            continue
        if len(shape) != 2 or pair.a.dtype not in FLOATS or pair.b.dtype not in FLOATS:
            problems.append(f"{pair.a.name} in {pair.a.place} adapts no linear layer of VideoLLaMA2")
        elif pair.a.shape != (pair.a.shape[0], shape[1]) or pair.b.shape != (shape[0], pair.a.shape[0]):
            problems.append(
                f"{pair.a.name} in {pair.a.place} is {shape_text(pair.a.shape)} and its B {shape_text(pair.b.shape)}, "
                f"not (rank, {shape[1]}) and ({shape[0]}, rank)"
            )
    return problems


__all__ = [
    "PARTS",
    "Contents",
    "ConversionPlan",
    "check_copies",
    "choose",
    "plan_conversion",
    "sort_beats",
    "sort_tensors",
    "sort_vision",
]
