"""Reads the `adapter_config.json` of a LoRA, and checks it against the adapter's weights.

The file may come from an untrusted source. So the sizes in it are compared with those of the weights before memory is
allocated, and a regular expression that could take long to match is refused.
"""

import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from .errors import CheckpointError
from .video_llm_checkpoint_files import check_file, read_checkpoint_json
from .video_llm_option_names import MOST_NAMES_SHOWN

# Regular expressions that are accepted: they consist of letters, digits, "_", "\.", ".", ".*", "\d" and "\d+". The
# number of repetitions is limited, because each one multiplies the time that matching takes.
SIMPLE_PATTERN = re.compile(r"\^?(?:\w|\.\*|\\?\.|\\d\+?)*\$?")
MAX_REPETITIONS, MAX_LENGTH = 2, 200
# Fields of the file that are kept. The weights do not tell their values, and a loaded adapter needs them.
KEPT = ("task_type", "inference_mode", "r", "lora_alpha", "lora_dropout", "use_rslora", "fan_in_fan_out")
# Options of PEFT with which a layer computes something else than plain LoRA, or with which other parts of the model
# change.
NO_PLAIN_LORA = (
    "use_dora",
    "lora_bias",
    "target_parameters",
    "trainable_token_indices",
    "use_qalora",
    "use_bdlora",
    "layer_replication",
    "alora_invocation_tokens",
    "arrow_config",
    "velora_config",
    "monteclora_config",
    "megatron_config",
    "modules_to_save",
)


def describe_adapter(folder: Path) -> str | None:
    """What the adapter is that PEFT saved in a folder: its rank, its layers and its base model.

    Returns:
        A part of a sentence, as `"a LoRA adapter of rank 4 on q_proj, v_proj for the model start"`; `None` if there is
        no `adapter_config.json`.

    Raises:
        CheckpointError: the file is damaged, or is a link out of the folder.
    """
    file = folder / "adapter_config.json"
    if not os.path.lexists(file):
        return None
    raw = read_checkpoint_json(check_file(file, folder))
    kind = "LoRA" if raw.get("peft_type") == "LORA" else "PEFT"
    rank = f" of rank {raw['r']}" if type(raw.get("r")) is int else ""
    layers = f" on {_last_names(raw['target_modules'])}" if raw.get("target_modules") else ""
    whole = f" with its own {_last_names(raw['modules_to_save'])}" if raw.get("modules_to_save") else ""
    base = raw.get("base_model_name_or_path") or "that it was trained with"
    return f"a {kind} adapter{rank}{layers}{whole} for the model {base!s:.200}"


def _last_names(modules: Any) -> str:
    """The last parts of the names of modules, each once; a pattern as it is."""
    if not isinstance(modules, list):
        return f"{modules!s:.100}"
    names = sorted({str(module).rpartition(".")[2] for module in modules})
    return ", ".join(names[:MOST_NAMES_SHOWN]) + (", ..." if len(names) > MOST_NAMES_SHOWN else "")


def read_lora_options(file: str | os.PathLike[str]) -> dict[str, Any]:
    """Read an `adapter_config.json`, and check the types and ranges of its fields.

    Raises:
        CheckpointError: the file is damaged, or does not describe a plain LoRA.
    """
    raw = read_checkpoint_json(Path(file))
    if raw.get("peft_type") != "LORA":
        raise CheckpointError(f"{file} describes no LoRA: its peft_type is {raw.get('peft_type')!r:.50}.")
    rank, alpha, dropout = raw.get("r", 8), raw.get("lora_alpha", 8), raw.get("lora_dropout", 0.0)
    if type(rank) is not int or rank < 1:
        raise CheckpointError(f"{file}: r must be a whole number of at least 1, not {rank!r:.50}.")
    if not _is_number(alpha) or alpha <= 0:
        raise CheckpointError(f"{file}: lora_alpha must be a number above 0, not {alpha!r:.50}.")
    if not _is_number(dropout) or not 0 <= dropout < 1:
        raise CheckpointError(f"{file}: lora_dropout must be a number from 0 to 1, not {dropout!r:.50}.")
    if strange := [name for name in NO_PLAIN_LORA if raw.get(name)]:
        raise CheckpointError(f"{file} is no plain LoRA ({strange[0]}): attach it with PEFT itself.")
    for name in ("inference_mode", "use_rslora", "fan_in_fan_out"):
        if not isinstance(raw.get(name, False), bool):
            raise CheckpointError(f"{file}: {name} must be true or false, not {raw[name]!r:.50}.")
    return raw


def fit_lora_options(
    raw: Mapping[str, Any],
    file: str | os.PathLike[str],
    modules: Mapping[str, Any],
    weights: Mapping[str, torch.Tensor],
) -> dict[str, Any]:
    """Make options for `peft.LoraConfig`. The layers and their ranks are taken from the adapter's weights.

    Args:
        raw: the result of `read_lora_options`.
        file: the `adapter_config.json`, for error messages.
        modules: the modules of the model, by name.
        weights: the weights of the adapter, by their names in the model (`LAYER.lora_A.weight`).

    Raises:
        CheckpointError: the file and the weights disagree about ranks, or the weights do not fit layers of the model.
    """
    names = {key.removesuffix(f".{part}.weight") for key in weights for part in ("lora_A", "lora_B")}
    layers = sorted(names & modules.keys())
    if not layers:
        raise CheckpointError(f"{file}: the weights in the same folder belong to no layer of this model.")
    ranks = {}
    for layer in layers:
        a, b = (weights.get(f"{layer}.{part}.weight") for part in ("lora_A", "lora_B"))
        rank = int(a.shape[0]) if a is not None and a.ndim == 2 else raw["r"]
        if a is None or a.ndim != 2 or (rank != raw["r"] and not raw.get("rank_pattern")):
            shape = "missing" if a is None else tuple(a.shape)
            raise CheckpointError(
                f"{file} says r={raw['r']!r:.20}, but {layer}.lora_A is {shape}: download the adapter again."
            )
        _check_sizes(file, layer, modules[layer], rank, a, b)
        ranks[layer] = rank
    own = {layer: rank for layer, rank in ranks.items() if rank != raw["r"]}
    return {
        **{name: raw[name] for name in KEPT if name in raw},
        "target_modules": layers,
        "rank_pattern": {re.escape(layer): rank for layer, rank in own.items()},
        "alpha_pattern": _read_alphas(raw, file),
    }


def expected_layers(raw: Mapping[str, Any], names: Iterable[str]) -> set[str] | None:
    """Names of the layers that `target_modules` of the file lists.

    `None` if the file does not simply list names; then the layers must be taken from the weights, because matching
    unknown patterns could take long.
    """
    targets = raw.get("target_modules")
    if any(raw.get(name) for name in ("exclude_modules", "layers_to_transform", "layers_pattern")):
        return None
    if isinstance(targets, list) and all(isinstance(target, str) for target in targets):
        endings = tuple(f".{target}" for target in targets)
        return {name for name in names if f".{name}".endswith(endings)}
    return None


def _check_sizes(file: Any, layer: str, module: Any, rank: int, a: torch.Tensor, b: torch.Tensor | None) -> None:
    """Refuse weights of one layer if they do not have the sizes that follow from the layer and the rank."""
    sizes = (getattr(module, "in_features", None), getattr(module, "out_features", None))
    if not all(isinstance(size, int) for size in sizes):
        raise CheckpointError(f"{file}: the weights in the same folder are for {layer}, which is no linear layer.")
    for part, tensor, wanted in (("lora_A", a, (rank, sizes[0])), ("lora_B", b, (sizes[1], rank))):
        if tensor is not None and tuple(tensor.shape) != wanted:
            raise CheckpointError(
                f"{file}: the weights do not fit: {layer}.{part} is {tuple(tensor.shape)} instead of {wanted}."
            )


def _read_alphas(raw: Mapping[str, Any], file: Any) -> dict[str, float]:
    alphas = raw.get("alpha_pattern") or {}
    if not isinstance(alphas, dict) or not all(_is_number(alpha) and alpha >= 0 for alpha in alphas.values()):
        raise CheckpointError(f"{file}: the values of alpha_pattern must be numbers of at least 0.")
    for pattern in alphas:
        repetitions = pattern.count("*") + pattern.count("+")
        if len(pattern) > MAX_LENGTH or repetitions > MAX_REPETITIONS or not SIMPLE_PATTERN.fullmatch(pattern):
            raise CheckpointError(
                f"{file}: alpha_pattern names layers by the pattern {pattern!r:.80}, which may take long to match: "
                "write their names instead."
            )
    return alphas


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer that is larger than every float
        return False


__all__ = ["describe_adapter", "expected_layers", "fit_lora_options", "read_lora_options"]
