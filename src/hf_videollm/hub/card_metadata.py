"""The metadata of a model card: made by huggingface_hub's classes, and checked against the rules of the Hub.

The Hub checks cards itself when they are pushed; that check needs the network. The checks here need none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..models.errors import one_line
from ..origin import DATA_ROLE, ORIGINAL, read_origin
from .card_facts import ACCURACY, CardSource, pointed, read_json
from .licence_file import LICENCE_NAME, licence_link
from .licence_terms import HUB_LICENCES, OTHER, UNKNOWN
from .licences import LicenceChain
from .presets import find_preset
from .repo_names import is_repo_id

__all__ = ["LICENCE_NAME", "PIPELINE_TAG", "RELATIONS", "CardError", "metadata_of", "validate_card"]

PIPELINE_TAG, LIBRARY = "video-text-to-text", "transformers"
RELATIONS = ("finetune", "quantized", "adapter", "merge")
# A repository id of the Hub, or a name without an owner.
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z]+)*|multilingual|code")
_LICENCE_NAME = re.compile(r"[a-z0-9.-]+")


class CardError(ValueError):
    """A model card that cannot be published as it is."""


def metadata_of(
    source: CardSource, given: Any, chain: LicenceChain, licence: str, measured: Mapping[str, Any] | None = None
) -> str:
    """The metadata of a checkpoint's card as YAML, without the lines of dashes.

    Args:
        source: the checkpoint.
        given: `CardOptions`.
        chain: the licences of its sources.
        licence: the licence that the card states.
        measured: results of `hf-videollm evaluate`, see `load_measured`.
    """
    from huggingface_hub import ModelCardData

    name = (given.repo_id or source.name).split("/")[-1]
    bases, relation = _bases(source, given, chain)
    fields: dict[str, Any] = {
        "library_name": LIBRARY,
        "pipeline_tag": PIPELINE_TAG,
        "license": licence,
        "license_name": (given.licence_name or LICENCE_NAME) if licence == OTHER else None,
        "license_link": licence_link(source.folder, given, chain, licence),
        "language": ["en"],
        "base_model": bases,
        "base_model_relation": relation if bases else None,
        "datasets": _datasets(chain),
        "tags": ["hf_videollm", source.design.replace("_", "-"), *source.facts["tags"], "custom_code"],
    }
    results = _results(source) if given.variant is None and not source.is_variant else []
    if measured:
        from ..evaluation.report.hub import eval_results

        results += eval_results(list(measured.values()), partial=True)
    if results:
        fields |= {"eval_results": results, "model_name": name}
    text: str = ModelCardData(**{key: value for key, value in fields.items() if value}).to_yaml()
    return text


def _bases(source: CardSource, given: Any, chain: LicenceChain) -> tuple[list[str], str]:
    """Ids of the base models on the Hub, and the relation to them."""
    if given.variant is not None or source.info.quantization is not None:
        base = _original(given)
        recorded = [one.name for one in chain.sources if one.role == ORIGINAL and is_repo_id(one.name)]
        return ([base] if base else list(given.base_models) or recorded), "quantized"
    origin = read_origin(source.folder)
    direct = [] if origin is None else [record.name for record in origin.sources if record.role != DATA_ROLE]
    names = [*given.base_models, *direct] or [one.name for one in chain.sources if one.role == "base model"]
    relation = origin.relation if origin is not None else "finetune"
    return [name for name in dict.fromkeys(names) if is_repo_id(name)], relation


def _original(given: Any) -> str | None:
    """Id of the repository that a variant stands beside: `me/model-nf4` stands beside `me/model`."""
    if given.repo_id is None or given.variant is None:
        return None
    suffix = find_preset(given.variant).suffix
    return str(given.repo_id).removesuffix(suffix) if given.repo_id.endswith(suffix) else None


def _datasets(chain: LicenceChain) -> list[str]:
    """Ids of the data sets on the Hub. The files that a training here has read stand in the text alone."""
    data = (source for source in chain.sources if source.is_data and source.role != DATA_ROLE)
    return [source.name for source in data if _REPOSITORY.fullmatch(source.name)]


def _results(source: CardSource) -> list[Any]:
    """The accuracies of a bundled checkpoint in the form of the Hub."""
    from huggingface_hub import EvalResult

    file = source.home(ACCURACY)
    if not source.checkpoint or not file.is_file():
        return []
    shares = pointed(read_json(file), source.checkpoint["results"]) or {}
    return [
        EvalResult(
            task_type=PIPELINE_TAG,
            dataset_type="hf_videollm-synthetic",
            dataset_name="Synthetic clips of hf_videollm",
            dataset_split="test",
            metric_type="accuracy",
            metric_value=round(100 * share, 1),
            metric_name=f"Accuracy, {kind.replace('_', ' ')} (%)",
        )
        for kind, share in shares.items()
    ]


def validate_card(text: str, *, needs_licence: bool = True) -> None:
    """Check a model card against the rules of the Hub, without the network.

    A card that somebody wrote by hand needs a licence; its other fields are checked if they are there.

    Args:
        text: the card.
        needs_licence: refuse a card whose licence is `unknown`.

    Raises:
        CardError: the metadata is missing or damaged, has no licence, or has a field that the Hub does not allow. The
            message is one line.

    Example:
        >>> validate_card("---\\nlicense: mit\\n---\\n# A model\\n")
    """
    from huggingface_hub import ModelCard

    try:
        card = ModelCard(text)
        data: dict[str, Any] = card.data.to_dict()
    except Exception as error:  # The YAML parser raises errors of its own.
        reason = one_line(error, 200)
        raise CardError(f"the metadata of the card cannot be read: {reason}") from error
    if not data:
        raise CardError("the card has no metadata: it must begin with a block of YAML between two lines of ---.")
    _check_licence_fields(data, needs_licence)
    for field, allowed in (("pipeline_tag", (PIPELINE_TAG, "image-text-to-text", "visual-question-answering")),):
        if data.get(field) is not None and data[field] not in allowed:
            raise CardError(f"{field}: {data[field]!r} does not fit a video model: write {allowed[0]}.")
    if data.get("library_name") not in (None, LIBRARY):
        raise CardError(f"library_name: {data['library_name']!r} gives no snippet on the Hub: write {LIBRARY}.")
    _check_names(data)
    if not card.content.split("---", 2)[-1].strip():
        raise CardError("the card has metadata and no text.")


def _check_licence_fields(data: Mapping[str, Any], needs_licence: bool) -> None:
    licence = data.get("license")
    if licence is None or (needs_licence and licence in (UNKNOWN, [UNKNOWN])):
        raise CardError(
            "the card has no licence: name one with --licence, or the model that this one was made from with "
            "--base-model, so that it follows."
        )
    if not isinstance(licence, str | list) or not licence:
        raise CardError(f"license: {licence!r} is no name: write an identifier of the Hub, such as apache-2.0.")
    for one in [licence] if isinstance(licence, str) else licence:
        if one not in HUB_LICENCES:
            raise CardError(f"license: {one!r} is no licence of the Hub; write its identifier, such as apache-2.0.")
    if licence in (OTHER, [OTHER]) and not data.get("license_name"):
        raise CardError("license: other needs license_name, and the text of the licence in the file LICENSE.")
    name = data.get("license_name")
    if name is not None and not _LICENCE_NAME.fullmatch(str(name)):
        raise CardError(f"license_name: {name!r} may have only small letters, digits, dots and dashes.")


def _check_names(data: Mapping[str, Any]) -> None:
    bases = _listed(data.get("base_model"))
    relation = data.get("base_model_relation")
    if relation is not None and (relation not in RELATIONS or not bases):
        raise CardError(
            f"base_model_relation: {relation!r} must be one of {', '.join(RELATIONS)}, beside a base_model."
        )
    for field, names in (("base_model", bases), ("datasets", _listed(data.get("datasets")))):
        for name in names:
            if not _REPOSITORY.fullmatch(name):
                raise CardError(f"{field}: {name!r} is no id of the Hub: write OWNER/NAME.")
    for language in _listed(data.get("language")):
        if not _LANGUAGE.fullmatch(language):
            raise CardError(f"language: {language!r} is no code of a language, such as en.")


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(entry) for entry in value or ()]
