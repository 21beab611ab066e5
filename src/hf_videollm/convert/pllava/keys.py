"""Maps the tensors of an official PLLaVA checkpoint to our tensors.

There are three kinds of checkpoints. They are recognised by their tensors, because their config.json names other
models:

    released   all weights; PEFT wraps the language model, and the LoRA is next to its layers
    partial    only LoRA and projector; everything else comes from a LLaVA-NeXT base
    merged     all weights under plain names; the LoRA is already merged
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...models.configuration_pllava import PllavaConfig
from ...models.configuration_video_llm import has_tied_embeddings
from ...models.errors import CheckpointError
from ...models.modeling_pllava import PllavaForConditionalGeneration
from ...models.pllava_lora import LORA_TARGETS
from ..lora import LORA_TENSOR, LoraPair
from ..stream import StoredTensor, StoredWeights
from ..tensors import FLOATS, misfits, model_shapes, refuse, shape_text

LANGUAGE, HEAD, TOWER, CONNECTOR = "model.language_model.", "lm_head.", "model.vision_tower.", "model.connector."
# Official prefix -> our prefix. The first prefix that matches is used. The last five rows are the names that
# transformers 5 uses in memory, which some releases also wrote to files.
PREFIXES = (
    ("language_model.base_model.model.model.", LANGUAGE),
    ("language_model.base_model.model.lm_head.", HEAD),
    ("language_model.model.", LANGUAGE),
    ("language_model.lm_head.", HEAD),
    ("vision_tower.vision_model.", TOWER),
    ("vision_tower.", TOWER),
    ("multi_modal_projector.", CONNECTOR),
    ("model.language_model.", LANGUAGE),
    ("lm_head.", HEAD),
    ("model.vision_tower.vision_model.", TOWER),
    ("model.vision_tower.", TOWER),
    ("model.multi_modal_projector.", CONNECTOR),
)
# Buffers that older transformers wrote. They are not needed, because they are computed from the configuration.
HARMLESS = re.compile(r".*(\.rotary_emb\.inv_freq|\.embeddings\.position_ids)")
# Separates the rows of image tiles in LLaVA-NeXT. PLLaVA does not use it.
NEWLINES = ("image_newline", "model.image_newline")


@dataclass
class Contents:
    """The tensors of one folder, sorted by our names.

    Attributes:
        origin: path that messages name if a tensor is missing.
        weights: our name -> stored tensor.
        lora: our name of the adapted layer -> its factors.
        unknown: tensors without a place in the model.
        newline: the `image_newline` of a LLaVA-NeXT checkpoint, if there is one.
        prefixes: our prefix -> the prefix in this folder. Messages name missing tensors with it.
    """

    origin: Path
    weights: dict[str, StoredTensor] = field(default_factory=dict)
    lora: dict[str, LoraPair] = field(default_factory=dict)
    unknown: list[StoredTensor] = field(default_factory=list)
    newline: StoredTensor | None = None
    prefixes: dict[str, str] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether the folder holds a language model or a vision tower, and not only the parts that were trained."""
        return any(name.startswith((LANGUAGE, HEAD, TOWER)) for name in self.weights)

    def original_name(self, name: str) -> str:
        """The name of our tensor `name` in a checkpoint of this layout."""
        ours = next(prefix for prefix in (LANGUAGE, HEAD, TOWER, CONNECTOR) if name.startswith(prefix))
        usual = next(official for official, target in PREFIXES if target == ours)
        if ours == LANGUAGE and not self.lora:
            usual = "language_model.model."
        prefix = self.prefixes.get(ours, usual)
        rest = name.removeprefix(ours)
        if self.lora and is_adapted(name):
            rest = rest.removesuffix(".weight") + ".base_layer.weight"
        return prefix + rest

    def describe_missing(self, name: str) -> str:
        """The message that our tensor `name` is missing, with its name in this layout."""
        return f"{self.original_name(name)} is missing in {self.origin}"


@dataclass(frozen=True)
class ConversionPlan:
    """The source of every tensor of the converted checkpoint.

    Attributes:
        kind: `"released"`, `"partial"` or `"merged"`.
        weights: our name -> stored tensor.
        lora: our name of the adapted layer -> its factors, all of the same rank; empty for merged checkpoints.
        rank: rank of the LoRA; `None` without a LoRA.
        tied: whether the head is the same tensor as the embedding, and is not stored.
    """

    kind: str
    weights: dict[str, StoredTensor]
    lora: dict[str, tuple[StoredTensor, StoredTensor]]
    rank: int | None
    tied: bool
    notes: list[str]


def is_adapted(name: str) -> bool:
    """Whether our tensor `name` is the weight of a layer that the LoRA of the paper adapts."""
    return name.endswith(".weight") and re.fullmatch(LORA_TARGETS, name.removesuffix(".weight")) is not None


def sort_tensors(weights: StoredWeights) -> Contents:
    """Map every tensor of a folder to its name in our model.

    Raises:
        CheckpointError: two tensors map to the same name.
    """
    contents = Contents(weights.origin)
    taken: dict[str, StoredTensor] = {}
    for name, tensor in weights.tensors.items():
        if name in NEWLINES:
            contents.newline = tensor
            continue
        if HARMLESS.fullmatch(name):
            continue
        prefix, ours = next(((old, new) for old, new in PREFIXES if name.startswith(old)), ("", ""))
        if not ours:
            contents.unknown.append(tensor)
            continue
        target = ours + name.removeprefix(prefix).replace(".base_layer.", ".")
        if (twin := taken.get(target)) is not None:
            raise CheckpointError(
                f"{twin.name} in {twin.file} and {name} in {tensor.file} are both meant for {target}: "
                "the folder mixes two checkpoints."
            )
        taken[target] = tensor
        if (match := LORA_TENSOR.fullmatch(target)) is not None:
            pair = contents.lora.setdefault(match["layer"], LoraPair())
            setattr(pair, match["part"].lower(), tensor)
        else:
            contents.weights[target] = tensor
            contents.prefixes.setdefault(ours, prefix)
    return contents


def plan_conversion(config: PllavaConfig, source: StoredWeights, base: StoredWeights | None = None) -> ConversionPlan:
    """Find the source of every tensor, and check that no tensor is missing, left over, or of another shape.

    Args:
        config: converted configuration, which determines the tensors of the model.
        source: tensors of the PLLaVA checkpoint.
        base: tensors of the LLaVA-NeXT base of a partial checkpoint.

    Raises:
        CheckpointError: a tensor does not fit; the message names the tensor and its file.
    """
    found = sort_tensors(source)
    kind = _kind(found)
    notes = list(source.notes)
    weights, owner = dict(found.weights), lambda name: found
    if kind == "partial":
        base_found = _check_base(found, base)
        notes += base.notes if base is not None else []
        if base_found.newline is None:
            notes.append(
                f"{base_found.origin} has no image_newline, which LLaVA-NeXT checkpoints have. If it is a LLaVA 1.5, "
                "the answers will be wrong."
            )
        weights |= {name: tensor for name, tensor in base_found.weights.items() if not name.startswith(CONNECTOR)}
        # The projector was fine-tuned, so the projector of the base must never be used.
        owner = lambda name: found if name.startswith(CONNECTOR) else base_found  # noqa: E731
        unknown = found.unknown + base_found.unknown
    else:
        if base is not None:
            raise CheckpointError(
                f"{found.origin} holds a complete model, so the base {base.origin} would not be used: leave it out."
            )
        unknown = found.unknown
    if found.newline is not None:
        # PLLaVA never saves this tensor, so these are weights of LLaVA-NeXT with the configuration of PLLaVA.
        unknown = [*unknown, found.newline]
    expected = expected_shapes(config, source.folder / "config.json")
    tied = "lm_head.weight" not in weights and _ties_embeddings(config)
    if tied:
        del expected["lm_head.weight"]
    problems = misfits(weights, expected, unknown, lambda name: owner(name).describe_missing(name), "PLLaVA")
    refuse(problems + (_lora_misfits(found, expected) if found.lora else []))
    pairs = {layer: (pair.a, pair.b) for layer, pair in found.lora.items() if pair.a is not None and pair.b is not None}
    rank = _common_rank(pairs) if pairs else None
    return ConversionPlan(kind, {name: weights[name] for name in expected}, pairs, rank, tied, notes)


def _kind(found: Contents) -> str:
    if found.is_complete:
        return "released" if found.lora else "merged"
    if found.lora:
        return "partial"
    raise CheckpointError(
        f"{found.origin} holds neither a language model nor a LoRA, so it is no PLLaVA checkpoint: "
        "pass the folder with all weights."
    )


def _check_base(found: Contents, base: StoredWeights | None) -> Contents:
    if base is None:
        raise CheckpointError(
            f"{found.origin} holds only LoRA and projector: pass its base as well, the LLaVA-NeXT folder from which it "
            "was trained (--base, for example llava-hf/llava-v1.6-vicuna-7b-hf)."
        )
    contents = sort_tensors(base)
    if contents.lora:
        raise CheckpointError(
            f"{contents.origin} holds a LoRA, so it is a PLLaVA checkpoint: the base must be the plain LLaVA-NeXT "
            "folder from which the training started (llava-hf/llava-v1.6-...)."
        )
    return contents


def expected_shapes(config: PllavaConfig, file: Path = Path("config.json")) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors of the model, which is built without memory for its weights.

    Raises:
        CheckpointError: no model can be built from this configuration; the message names `file`.
    """
    return model_shapes(config, PllavaForConditionalGeneration, file)


def _ties_embeddings(config: PllavaConfig) -> bool:
    return has_tied_embeddings(config.text_config)


def _lora_misfits(found: Contents, expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    problems = []
    for name in filter(is_adapted, expected):
        layer = name.removesuffix(".weight")
        pair = found.lora.get(layer, LoraPair())
        prefix = "language_model.base_model.model.model." + layer.removeprefix(LANGUAGE)
        for part, tensor, axis, width in (("A", pair.a, 1, expected[name][1]), ("B", pair.b, 0, expected[name][0])):
            if tensor is None:
                problems.append(f"{prefix}.lora_{part}.default.weight is missing in {found.origin}")
            elif len(tensor.shape) != 2 or tensor.shape[axis] != width or tensor.dtype not in FLOATS:
                wanted = f"(rank, {width})" if part == "A" else f"({width}, rank)"
                problems.append(
                    f"{tensor.name} in {tensor.file} is {shape_text(tensor.shape)} {tensor.dtype}, not {wanted} floats"
                )
    for layer, pair in found.lora.items():
        if f"{layer}.weight" not in expected or not is_adapted(f"{layer}.weight"):
            problems += [
                f"{tensor.name} in {tensor.file} has no place in PLLaVA, whose LoRA adapts q_proj and v_proj only"
                for tensor in (pair.a, pair.b)
                if tensor is not None
            ]
    return problems


def _common_rank(pairs: Mapping[str, tuple[StoredTensor, StoredTensor]]) -> int:
    """The rank of all factors. It is not stored anywhere except in their shapes."""
    first = next(iter(pairs.values()))[0]
    for pair in pairs.values():
        for tensor, axis in zip(pair, (0, 1), strict=True):
            if tensor.shape[axis] != first.shape[0]:
                raise CheckpointError(
                    f"{tensor.name} in {tensor.file} has rank {tensor.shape[axis]}, but {first.name} has rank "
                    f"{first.shape[0]}: one adapter has one rank."
                )
    if first.shape[0] < 1:
        raise CheckpointError(f"{first.name} in {first.file} has rank 0: the file holds an empty LoRA.")
    return first.shape[0]


__all__ = ["ConversionPlan", "expected_shapes", "is_adapted", "plan_conversion", "sort_tensors"]
