"""How a checkpoint was trained here, from the file `training.json` that endings of trainings write beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .card_facts import read_json

__all__ = ["TRAINING_FILE", "read_training", "training_rows"]

TRAINING_FILE = "training.json"


def read_training(folder: Path) -> dict[str, Any]:
    """The content of `training.json`; an empty dict if the folder has none."""
    return read_json(folder / TRAINING_FILE)


def training_rows(training: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a card says about a training: name and text of each row.

    Args:
        training: content of `training.json`; rows without a value are left out.
    """
    data, seeds = training.get("data") or {}, training.get("seeds") or {}
    loss, trained, total = (training.get(name) for name in ("last_loss", "trained_parameters", "parameters"))
    rows = [
        ("base model", training.get("base_model")),
        ("model options", _listed(training.get("model_options"))),
        ("language model", training.get("quantized")),
        ("trained", training.get("trained")),
        ("trained parameters", None if trained is None else f"{trained:,} of {total:,}"),
        ("data", data.get("name")),
        ("samples", None if data.get("rows") is None else f"{data['rows']:,}"),
        ("SHA-256 of the data", data.get("sha256")),
        ("seeds", _listed({name: seed for name, seed in seeds.items() if seed is not None})),
        ("steps", None if training.get("steps") is None else f"{training['steps']:,}"),
        ("last training loss", None if loss is None else f"{loss:.4g}"),
        ("ending", training.get("ending")),
        ("versions", _listed(training.get("versions"), " ")),
        ("git revision", training.get("git_revision")),
    ]
    return [(name, str(value).replace("|", "\\|")) for name, value in rows if value]


def _listed(values: Mapping[str, Any] | None, sign: str = "=") -> str | None:
    return ", ".join(f"{name}{sign}{value}" for name, value in values.items()) if values else None
