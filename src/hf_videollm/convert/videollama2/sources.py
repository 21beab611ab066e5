"""Finds the tensors of an official VideoLLaMA2 checkpoint: in one folder, or also in a base and its towers."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...models.errors import CheckpointError
from ..pickle_reader import read_weight_file, scan_any_weights
from ..stream import read_json
from .config import can_hear
from .keys import PARTS, Contents, is_owner, sort_beats, sort_tensors, sort_vision

# Files that training writes instead of a complete model, and the part of the model in each.
ARTEFACTS = {"mm_projector": "connector", "mm_projector_a": "audio projector", "audio_tower": "audio tower"}
ADAPTER, ADAPTER_CONFIG, NOT_LORA = "adapter_model", "adapter_config.json", "non_lora_trainables"
SUFFIXES = (".safetensors", ".bin")
# Settings of LoRAs that do more than add scale * B A.
FOREIGN_LORA = ("use_dora", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "modules_to_save", "layer_replication")


@dataclass(frozen=True)
class Inputs:
    """The paths that the user passed, under the names of the options."""

    source: Path
    base: Path | None = None
    vision: Path | None = None
    vision_config: Path | None = None
    audio_tower: Path | None = None
    tokenizer: Path | None = None


@dataclass
class Sources:
    """All places from which tensors are taken.

    Attributes:
        kind: `"complete"`, `"projector"` or `"lora"`.
        places: first the checkpoint, then its base, a vision tower and a BEATs file if they are needed.
        base: folder of the base, if one is needed.
        lora_scale: the factor by which the product of the LoRA's factors is multiplied.
        ear_settings: settings in a BEATs file.
        notes: notes for the user, in sentences.
    """

    kind: str
    places: list[Contents]
    base: Path | None = None
    lora_scale: float | None = None
    ear_settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def owner(self, part: str) -> Contents | None:
        """The place from which a part of the model is taken; `None` if no place has it."""
        return next((place for place in self.places if is_owner(place, part)), None)

    @property
    def ear(self) -> Contents | None:
        """The place of the audio tower."""
        return self.owner("audio tower")


def collect_sources(inputs: Inputs, raw: dict[str, Any], workspace: Path) -> Sources:
    """Read the headers of all files that hold parts of the model.

    Args:
        inputs: what the user passed.
        raw: content of the official config.json.
        workspace: folder for copies of pickles, which must exist until the weights are written.

    Raises:
        CheckpointError: a part of the model is missing (the message names the option to pass it), or an option passes a
            part that the checkpoint already has.
    """
    sources = _read_checkpoint(inputs.source, workspace)
    _add_base(sources, inputs, raw, workspace)
    _add_vision(sources, inputs, raw, workspace)
    _add_ear(sources, inputs, raw, workspace)
    return sources


def _read_checkpoint(folder: Path, workspace: Path) -> Sources:
    adapter = _find(folder, ADAPTER)
    weights = scan_any_weights(folder, workspace)
    if adapter is not None and weights is not None:
        raise CheckpointError(
            f"{adapter} is a LoRA, but {folder} also holds complete weights: move away the files that do not belong "
            "here."
        )
    if adapter is not None:
        sources = _read_lora(folder, adapter, workspace)
    elif (stray := _find(folder, NOT_LORA)) is not None and weights is None:
        raise CheckpointError(f"{stray} belongs to a LoRA, whose {ADAPTER}{SUFFIXES[0]} is missing: download it, too.")
    elif weights is not None:
        sources = Sources("complete", [sort_tensors(weights.tensors, weights.origin)], notes=list(weights.notes))
        _refuse_lora(sources.places)
    else:
        sources = Sources("projector", [])
    for name, part in ARTEFACTS.items():
        if (file := _find(folder, name)) is None:
            continue
        if sources.owner(part) is not None:
            sources.notes.append(f"{file.name} was ignored: the other weights already hold the {part}.")
            continue
        sources.places.append(_read_artefact(file, part, sources, workspace))
    if not sources.places:
        raise CheckpointError(
            f"{folder} has no weights: expected model.safetensors or its shards, pytorch_model.bin, mm_projector.bin "
            "or a LoRA. Download the checkpoint again with all its files."
        )
    return sources


def _read_artefact(file: Path, part: str, sources: Sources, workspace: Path) -> Contents:
    """Read a file that training wrote. It must hold one part of the model and nothing else."""
    stored = read_weight_file(file, workspace)
    if part == "audio tower":
        sources.ear_settings = stored.settings
        contents = sort_beats(stored.tensors, file)
    else:
        contents = sort_tensors(stored.tensors, file)
    strangers = [tensor for name, tensor in contents.weights.items() if not name.startswith(PARTS[part])]
    if strangers or contents.lora:
        name = strangers[0].name if strangers else "a LoRA"
        raise CheckpointError(f"{file} should hold only the {part}, but holds {name}: download the file again.")
    return contents


def _read_lora(folder: Path, adapter: Path, workspace: Path) -> Sources:
    tensors = dict(read_weight_file(adapter, workspace).tensors)
    if (rest := _find(folder, NOT_LORA)) is not None:
        tensors |= read_weight_file(rest, workspace).tensors
    contents = sort_tensors(tensors, folder)
    if not contents.lora:
        raise CheckpointError(f"{adapter} holds no LoRA (no lora_A and lora_B): download the adapter again.")
    scale = lora_scale(folder / ADAPTER_CONFIG)
    return Sources("lora", [contents], lora_scale=scale, notes=["the LoRA was merged into the weights."])


def lora_scale(file: Path) -> float:
    """The factor by which the product of the LoRA's factors is multiplied, from an adapter_config.json.

    Raises:
        CheckpointError: the file is missing or damaged, or describes another kind of adapter.
    """
    settings = read_json(file)
    for name in FOREIGN_LORA:
        if settings.get(name):
            raise CheckpointError(
                f"{file}: {name}={settings[name]!r} cannot be converted: merge the adapter with peft."
            )
    if settings.get("bias", "none") != "none":
        raise CheckpointError(f"{file}: bias={settings['bias']!r} cannot be converted: merge the adapter with peft.")
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if not (isinstance(rank, int) and rank > 0 and isinstance(alpha, int | float) and math.isfinite(alpha)):
        raise CheckpointError(f"{file}: r {rank!r} and lora_alpha {alpha!r} are not a valid rank and alpha of a LoRA.")
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _add_base(sources: Sources, inputs: Inputs, raw: dict[str, Any], workspace: Path) -> None:
    if sources.owner("language model") is not None:
        if inputs.base is not None:
            raise CheckpointError(
                f"{inputs.source} holds a complete model, so the base {inputs.base} would not be used: leave it out."
            )
        return
    named = raw.get("_name_or_path")
    named = named if isinstance(named, str) else ""
    folder = inputs.base
    if folder is None and named and (local := Path(named)).is_dir() and local.resolve() != inputs.source.resolve():
        folder = local
        sources.notes.append(f"the base is {local}, because config.json names it.")
    if folder is None:
        what = "a LoRA" if sources.kind == "lora" else "projectors"
        said = f" (config.json says {named})" if named else ""
        raise CheckpointError(
            f"{inputs.source} holds only {what}: pass the folder of the model it was trained from{said}: --base FOLDER."
        )
    weights = scan_any_weights(folder, workspace)
    if weights is None:
        raise CheckpointError(f"The base {folder} has no weights: download it again with all its files.")
    contents = sort_tensors(weights.tensors, weights.origin)
    _refuse_lora([contents])
    sources.places.append(contents)
    sources.base = folder
    sources.notes += weights.notes


def _add_vision(sources: Sources, inputs: Inputs, raw: dict[str, Any], workspace: Path) -> None:
    if sources.owner("vision tower") is not None:
        if inputs.vision is not None:
            raise CheckpointError(
                f"{inputs.source} holds its vision tower, so {inputs.vision} would not be used: leave --vision out."
            )
        return
    if inputs.vision is None:
        raise CheckpointError(
            f"{inputs.source} does not hold its vision tower: pass the checkpoint of {raw['mm_vision_tower']} "
            "(--vision PATH)."
        )
    if inputs.vision.is_dir():
        weights = scan_any_weights(inputs.vision, workspace)
        if weights is None:
            raise CheckpointError(f"{inputs.vision} has no weights: pass the folder of a CLIP or SigLIP (--vision).")
        contents = sort_vision(weights.tensors, weights.origin)
        sources.notes += weights.notes
    else:
        contents = sort_vision(read_weight_file(inputs.vision, workspace).tensors, inputs.vision)
    if not contents.weights:
        raise CheckpointError(f"{contents.origin} holds no vision tower: pass a CLIP or SigLIP (--vision).")
    sources.places.append(contents)


def _add_ear(sources: Sources, inputs: Inputs, raw: dict[str, Any], workspace: Path) -> None:
    if not can_hear(raw):
        if inputs.audio_tower is not None:
            raise CheckpointError(
                f"{inputs.source} has no audio (no mm_audio_tower in its config.json): leave --audio-tower out."
            )
        return
    if sources.ear is not None:
        if inputs.audio_tower is not None:
            raise CheckpointError(
                f"{sources.ear.origin} holds the audio tower, so {inputs.audio_tower} would not be used: leave "
                "--audio-tower out."
            )
        return
    if inputs.audio_tower is None:
        raise CheckpointError(
            f"{inputs.source} does not hold its audio tower: pass the BEATs file (--audio-tower FILE, Microsoft's .pt "
            "or an audio_tower.bin)."
        )
    sources.places.append(_read_artefact(inputs.audio_tower, "audio tower", sources, workspace))


def _refuse_lora(places: Iterable[Contents]) -> None:
    for place in places:
        if place.lora:
            raise CheckpointError(
                f"{place.origin} holds a LoRA among its weights: merge it with peft, or pass the folder that training "
                f"wrote, with {ADAPTER}{SUFFIXES[0]}."
            )


def _find(folder: Path, stem: str) -> Path | None:
    """Find a file of weights by its name without suffix; safetensors are preferred to a pickle."""
    return next((file for suffix in SUFFIXES if (file := folder / (stem + suffix)).is_file()), None)


__all__ = ["Inputs", "Sources", "collect_sources", "lora_scale"]
