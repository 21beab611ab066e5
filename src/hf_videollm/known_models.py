"""Finds the model that a user names: a checkpoint that comes with the package, a folder, or a model on the Hub."""

import difflib
import filecmp
import os
from pathlib import Path
from typing import Any

from .designs import DESIGNS

DEFAULT_CHECKPOINT = "pllava-tiny"
# Seconds to wait for the Hub to answer whether a model exists. Downloads have timeouts of their own.
HUB_SECONDS = 10.0


def bundled_checkpoints() -> dict[str, Path]:
    """Maps the names of the small trained checkpoints in this package to their folders, the default one first."""
    assets = Path(__file__).parent / "assets"
    names = sorted(row.checkpoint for row in DESIGNS.values() if row.checkpoint is not None)
    there = [name for name in names if (assets / name / "config.json").is_file()]
    return {name: assets / name for name in sorted(there, key=lambda name: name != DEFAULT_CHECKPOINT)}


def default_checkpoint(name: str = DEFAULT_CHECKPOINT) -> str:
    """Folder of a small trained checkpoint that comes with the package. It was trained on synthetic clips only.

    Args:
        name: one of `bundled_checkpoints()`.

    Raises:
        FileNotFoundError: this installation has no such checkpoint; the message names those that it has.
    """
    there = bundled_checkpoints()
    if name not in there:
        raise FileNotFoundError(
            f"There is no bundled checkpoint {name!r}{_did_you_mean(name, there)}; this installation has "
            f"{', '.join(there) or 'none'}. Reinstall the package, or train it as tools/tiny_checkpoints describes."
        )
    return str(there[name])


def bundled_name(folder: str | os.PathLike[str]) -> str | None:
    """Name of the small checkpoint of this package that a folder is, or is a copy of; `None` for any other folder."""
    weights = Path(folder) / "model.safetensors"
    if not weights.is_file():
        return None
    for name, place in bundled_checkpoints().items():
        if filecmp.cmp(weights, place / weights.name, shallow=False):
            return name
    return None


def find_model(source: str | os.PathLike[str] | None) -> str:
    """Turn the name that a user gives to a model into a folder or a Hub id. A wrong name is an error within seconds.

    Args:
        source: a folder, the name of a bundled checkpoint (unless the working folder has a folder of this name), or a
            Hub id such as `org/name`. `None` gives the default checkpoint.

    Raises:
        ValueError: `source` is empty.
        FileNotFoundError: there is no such folder, and no such model on the Hub; the message names similar names.
        NotADirectoryError: `source` is a file.
        OSError: the Hub does not answer, or denies access to the model.
    """
    from .atomic import restore

    if source is None:
        return default_checkpoint()
    text = os.fspath(source)
    if not text.strip():
        raise ValueError(
            f"The name of the model is empty: give a folder, a Hub id or one of {', '.join(bundled_checkpoints())}."
        )
    # A run that was killed while it replaced the folder may have renamed the folder. This renames it back.
    restore(text)
    if os.path.isdir(text):
        return text
    if os.path.isfile(text):
        raise NotADirectoryError(f"{text} is a file: give the checkpoint folder that holds it.")
    bundled = bundled_checkpoints()
    if text in bundled:
        return str(bundled[text])
    parent = os.path.dirname(text.rstrip(os.sep)) or "."
    is_path = text.startswith((".", "~", os.sep)) or text.count("/") != 1 or os.path.isdir(text.split("/")[0])
    if is_path:
        names = {entry.name: entry for entry in os.scandir(parent) if entry.is_dir()} if os.path.isdir(parent) else {}
        hint = _did_you_mean(os.path.basename(text.rstrip(os.sep)), [*names, *(bundled if parent == "." else ())])
        kinds = "a checkpoint folder, a Hub id such as org/name"
        raise FileNotFoundError(f"{text}: no such folder{hint}. Give {kinds}, or one of {', '.join(bundled)}.")
    _ask_hub(text)
    return text


def _ask_hub(name: str) -> None:
    """Ask the Hub in one request whether it has a model. transformers would request each of its files, with retries."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return
        HfApi().model_info(name, timeout=HUB_SECONDS)
    except HFValidationError:
        raise FileNotFoundError(f"{name}: no such folder, and not a valid Hub id; check the name.") from None
    except GatedRepoError:
        raise PermissionError(
            f"{name}: access needs your consent on the Hub; visit the page of the model, then run hf auth login."
        ) from None
    except RepositoryNotFoundError:
        raise FileNotFoundError(
            f"{name}: no such folder, and the Hub has no such model (or it is private); check the name, or log in with "
            "hf auth login."
        ) from None
    except OfflineModeIsEnabled:
        raise FileNotFoundError(
            f"{name}: no such folder, not downloaded before, and HF_HUB_OFFLINE does not allow a request to the Hub."
        ) from None
    # The Hub's client passes on errors of several libraries.
    except Exception as error:
        from .models.errors import one_line

        raise OSError(
            f"{name}: no such folder, not downloaded before, and the Hub does not answer ({one_line(error, 120)}); "
            "check the name and the connection."
        ) from None


def _did_you_mean(name: str, known: object) -> str:
    found = difflib.get_close_matches(name.lower(), list(known), n=2)  # type: ignore[call-overload]
    return f" (did you mean {' or '.join(found)}?)" if found else ""


# Configurations of vision towers that released checkpoints use, as in the config.json of these towers.
KNOWN_TOWERS: dict[str, dict[str, Any]] = {
    "clip-vit-large-patch14-336": {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "projection_dim": 768,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_channels": 3,
        "image_size": 336,
        "patch_size": 14,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "attention_dropout": 0.0,
    },
    "siglip-so400m-patch14-384": {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "num_channels": 3,
        "image_size": 384,
        "patch_size": 14,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
        "attention_dropout": 0.0,
    },
}


__all__ = [
    "DEFAULT_CHECKPOINT",
    "KNOWN_TOWERS",
    "bundled_checkpoints",
    "default_checkpoint",
    "find_model",
]
