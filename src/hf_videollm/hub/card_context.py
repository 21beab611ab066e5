"""What the template of a model card prints: facts, marked numbers, and the sentences that depend on the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..designs import DESIGNS
from ..origin import ORIGINAL, read_origin
from .card_facts import (
    ACCURACY,
    STORED_MEMORY,
    CardSource,
    accuracy_tables,
    cost_rows,
    pointed,
    read_json,
    settings_rows,
    variant_rows,
)
from .card_files import cards_folder
from .card_parity import paper_model, parity_rows
from .card_training import TRAINING_FILE, read_training, training_rows
from .licence_file import LICENCE_NAME, licence_link
from .licence_terms import UNKNOWN
from .licences import LicenceChain, LicenceError, SourceLicence, check_licence, known_sources
from .presets import find_preset
from .repo_names import UNKNOWN_OWNER

__all__ = ["CardOptions", "card_context", "pictures_of"]

TRAINING = "TRAINING.md"
# `quant_method` of config.json -> package on PyPI.
PACKAGES = {"bitsandbytes": "bitsandbytes", "torchao": "torchao"}


@dataclass(frozen=True, kw_only=True)
class CardOptions:
    """What a folder does not say about itself.

    Attributes:
        repo_id: id on the Hub, which the snippets name; OWNER and the name of the folder by default.
        folder_name: name of the folder, if it is written under a temporary name.
        revision: tag or commit that the snippets pin.
        variant: short name of a quantized variant, such as `nf4`.
        base_models: ids of the models that it was made from.
        licence: its licence, as an identifier of the Hub; by default it follows from the sources.
        licence_name: name of the licence, if `licence` is `other`.
        licence_link: address of its text, if it is not in the folder.
        licence_override: accept a licence that is looser than those of the sources.
        results: folders of `hf-videollm evaluate` with results of this checkpoint.
    """

    repo_id: str | None = None
    folder_name: str | None = None
    revision: str | None = None
    variant: str | None = None
    base_models: tuple[str, ...] = ()
    licence: str | None = None
    licence_name: str | None = None
    licence_link: str | None = None
    licence_override: bool = False
    results: tuple[str | Path, ...] = ()


def pictures_of(source: CardSource) -> dict[str, Path]:
    """The pictures of a card: their names in the repository, and their files."""
    named = {"architecture.png": f"{source.design}.png"}
    if source.bundled is not None:
        named["example.png"] = f"{source.bundled}-example.png"
    places = {name: cards_folder() / "pictures" / file for name, file in named.items()}
    return {name: file for name, file in places.items() if file.is_file()}


def card_context(
    source: CardSource, given: CardOptions, chain: LicenceChain, licence: str, measured: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that the template prints."""
    names = [given.repo_id or source.name, *(one.name for one in chain.sources if not one.is_data)]
    model = paper_model(source, names)
    pictures = pictures_of(source)
    costs = cost_rows(source)
    by_label = dict(costs)
    preset = find_preset(given.variant) if given.variant is not None else source.preset
    own_memory = by_label.get(STORED_MEMORY)
    example = _example(source) if "example.png" in pictures else None
    return {
        "name": source.book.name(names[0].split("/")[-1], "name of the repository"),
        "title": DESIGNS[source.design].title,
        "design": source.facts,
        "checkpoint": source.checkpoint,
        "cost": {
            "parameters": by_label["parameters"],
            "frames": by_label["frames of a video, by default"],
            "tokens": by_label["tokens of such a video"],
            "memory": own_memory or by_label["memory of the weights in bfloat16"],
            "memory_in": "as they are stored here" if own_memory else "in bfloat16",
            "has_lower_bounds": not own_memory,
            "cache": costs[-1][1],
        },
        "cost_rows": costs,
        "variant": None if preset is None else preset.variant,
        "variant_summary": "" if preset is None else source.book.name(preset.summary, "hub/presets.py"),
        "variant_rows": variant_rows(source),
        "quantized": preset is not None or source.is_variant,
        "packages": " ".join(["hf-videollm", *_quantizers(source)]),
        "pictures": {
            "architecture": "architecture.png" if "architecture.png" in pictures else "",
            "example": "example.png",
        },
        "example": example,
        "image_llms": _image_llms(source),
        "repo": given.repo_id or f"{UNKNOWN_OWNER}/{source.name}",
        "revision": given.revision or "main",
        "question": _recorded_example(source).get("question", "What happens in the video?"),
        "hears": source.info.tokens_per_sound is not None,
        "settings": settings_rows(source),
        "paper_model": source.book.name(model, "the paper's tables, as evaluation/tasks has them"),
        "paper_note": ", a model with other weights than this one" if source.bundled else "",
        "parity": parity_rows(source, model, measured),
        "tables": [] if not source.checkpoint else accuracy_tables(source),
        **_accuracy(source),
        "limits": [*source.checkpoint.get("limits", ()), *source.facts["limits"]],
        "made_by": _made_by(source),
        **_training(source),
        "whole_story": _whole_story(source),
        "licence": licence,
        "licence_name": source.book.name(given.licence_name or LICENCE_NAME, "the licence"),
        "licence_link": licence_link(source.folder, given, chain, licence),
        "has_own_licence": given.licence is not None and given.licence_name not in (None, LICENCE_NAME),
        "licence_reason": _licence_reason(given, chain, licence),
        "non_commercial": chain.is_non_commercial,
        "chain": [
            [
                source.book.name(cell, "model_cards/sources.yaml")
                for cell in (one.name, one.role, one.shown, _read_at(one))
            ]
            for one in chain.sources
        ],
    }


def _quantizers(source: CardSource) -> list[str]:
    """The package without which quantized weights cannot be loaded."""
    method = str((source.config.get("quantization_config") or {}).get("quant_method"))
    return [PACKAGES[method]] if method in PACKAGES else []


def _recorded_example(source: CardSource) -> dict[str, str]:
    """Question, answer and right answer that were recorded with the picture of a bundled checkpoint."""
    row = read_json(cards_folder() / "pictures" / "examples.json").get(str(source.bundled))
    return {str(name): str(text) for name, text in row.items()} if isinstance(row, dict) else {}


def _example(source: CardSource) -> dict[str, str] | None:
    row = _recorded_example(source)
    if not row:
        return None
    shown = {name: source.book.name(text, f"pictures/examples.json: {source.bundled}") for name, text in row.items()}
    verdict = "right" if row["answer"] == row["expected"] else f"wrong: {shown['expected']} is right"
    return {"model": f"`{source.bundled}`", "verdict": verdict, **shown}


def _image_llms(source: CardSource) -> list[dict[str, str]]:
    """The image-LLMs of LinVT's paper, with the numbers of LinVT's parameters."""
    rows = source.facts.get("image_llms")
    if not rows:
        return []
    from ..costs.linvt import linvt_table

    table = linvt_table()
    totals = {name: row.total for row in table.rows for name in row.image_llms}
    book = source.book
    return [
        {
            "title": book.name(row["title"], "model_cards/designs/linvt.yaml"),
            "id": book.name(row["id"], "model_cards/designs/linvt.yaml"),
            "parameters": book.add(partial(totals.__getitem__, row["table"]), "`hf-videollm info --design linvt`"),
            "licence": book.name(_known_licence(row["id"]), "model_cards/sources.yaml"),
            "loads": row["loads"],
        }
        for row in rows
    ]


def _known_licence(name: str) -> str:
    facts = (known_sources().get("models") or {}).get(name) or {}
    return SourceLicence("", name, facts.get("licence"), licence_name=facts.get("licence_name")).shown


def _accuracy(source: CardSource) -> dict[str, Any]:
    """The single numbers of a bundled checkpoint's accuracy.json, and how they were measured."""
    file = source.home(ACCURACY)
    if not source.checkpoint or not file.is_file():
        return {"accuracy_facts": [], "questions": "", "command": ""}
    shares = [(text, source.from_json(file, key, "percent")) for key, text in source.checkpoint.get("facts", ())]
    counts = [(text, source.from_json(file, key, "count")) for key, text in source.checkpoint.get("counts", ())]
    asked = pointed(source.json_of(file), "questions")
    if isinstance(asked, dict):
        parts = [f"{source.from_json(file, f'questions/{kind}', 'count')} questions about {kind}" for kind in asked]
    else:
        parts = [f"{source.from_json(file, 'questions', 'count')} questions"]
    split = source.from_json(file, "split", "plain")
    return {
        "accuracy_facts": [*shares, *counts],
        "questions": f"{' and '.join(parts)} of the split `{split}`",
        "command": source.from_json(file, "command", "plain"),
    }


def _whole_story(source: CardSource) -> str:
    """Where the training of a bundled checkpoint is told: beside the weights, or only in the package."""
    if (source.folder / TRAINING).is_file():
        return f"{TRAINING} beside the weights has the whole story."
    return f"{TRAINING} of `{source.book.name(str(source.bundled), 'its weights')}` in the package has the whole story."


def _made_by(source: CardSource) -> str:
    origin = read_origin(source.folder)
    if origin is None:
        return "How this checkpoint itself was made is not recorded in its folder."
    return f"This checkpoint was made by `{source.book.name(origin.made_by, 'origin.json')}`."


def _training(source: CardSource) -> dict[str, Any]:
    """How the checkpoint was trained, if that is recorded beside it."""
    rows = training_rows(read_training(source.folder))
    book, file = source.book, TRAINING_FILE
    marked = [(label, book.add(partial(_same, value), f"{file}: {label}", "plain")) for label, value in rows]
    base = dict(rows).get("base model")
    return {
        "training": marked,
        "training_base": "another model" if base is None else f"`{book.name(base, file)}`",
        "losses": (source.folder / "losses.png").is_file(),
    }


def _same(value: str) -> str:
    return value


def _licence_reason(given: CardOptions, chain: LicenceChain, licence: str) -> str:
    """Why this licence is stated, in sentences."""
    sentences = []
    if given.licence is not None:
        sentences.append(_stated_by(given, chain, licence))
    elif chain.is_recorded and licence != UNKNOWN:
        sentences.append("This follows from the sources that are recorded in its folder.")
    if not chain.is_recorded:
        sentences.append("Its folder does not record what it was made from.")
    if chain.unknown:
        sentences.append(
            f"The licence of these sources was not read: {', '.join(f'`{name}`' for name in chain.unknown)}."
        )
    if silent := [f"`{source.name}`" for source in chain.sources if source.licence == "none"]:
        sentences.append(f"The page of {', '.join(silent)} states no licence.")
    return " ".join(sentences)


def _stated_by(given: CardOptions, chain: LicenceChain, licence: str) -> str:
    """Who says that this is the licence."""
    by = "Its publisher states this licence"
    if _is_looser(given, chain):
        return f"{by}, although a source has a stricter one."
    original = next((one for one in chain.sources if one.role == ORIGINAL and one.licence == licence), None)
    return f"{by}." if original is None else f"This is the licence of the original, `{original.name}`."


def _is_looser(given: CardOptions, chain: LicenceChain) -> bool:
    try:
        check_licence(chain, given.licence, name=given.licence_name or LICENCE_NAME)
    except LicenceError:
        return True
    return False


def _read_at(source: SourceLicence) -> str:
    read = source.read or "not read"
    return f"{read}; {source.note}" if source.note else read
