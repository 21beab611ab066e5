"""Which licences the sources of a checkpoint have, and whether a stated licence is looser than they are.

A checkpoint inherits the terms of its vision tower, its language model and its data. What is known of them stands in
`model_cards/sources.yaml`, with the place where it was read. Nothing here is legal advice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..known_models import bundled_checkpoints, bundled_name
from ..models.video_llm_option_names import did_you_mean
from ..origin import DATA_ROLE, SourceRecord, read_card_metadata, read_origin
from .card_files import load_facts
from .licence_terms import HUB_LICENCES, NON_COMMERCIAL, OTHER, UNKNOWN, terms_of

__all__ = [
    "DATA_ROLE",
    "LicenceChain",
    "LicenceError",
    "SourceLicence",
    "bundled_name",
    "check_licence",
    "known_sources",
    "licence_of",
    "quantized_from",
]

# In `sources.yaml`: the page of the source states no licence.
NONE_STATED = "none"


class LicenceError(ValueError):
    """A licence that the Hub does not know, or one that is looser than the licences of the sources."""


@dataclass(frozen=True)
class SourceLicence:
    """A source of a checkpoint with its licence.

    Attributes:
        role: what was taken from it.
        name: its id.
        licence: identifier of its licence; `None` if nobody read it, `"none"` if its page states none.
        also: terms that its page states besides.
        licence_name: name of a licence without an identifier.
        licence_link: where the licence stands.
        read: where this was read.
        note: what else is said there.
        is_data: whether it is a data set.
    """

    role: str
    name: str
    licence: str | None = None
    also: tuple[str, ...] = ()
    licence_name: str | None = None
    licence_link: str | None = None
    read: str | None = None
    note: str | None = None
    is_data: bool = False

    @property
    def terms(self) -> frozenset[str]:
        """The terms that have to be passed on, as far as they are known."""
        own = {f"the terms of {self.licence_name}"} if self.licence == OTHER and self.licence_name else set()
        return frozenset({*(terms_of(self.licence) or ()), *self.also, *own})

    @property
    def shown(self) -> str:
        """The licence in the words of a model card."""
        if self.licence is None:
            return "unknown"
        if self.licence == NONE_STATED:
            return "none stated"
        name = self.licence_name if self.licence == OTHER and self.licence_name else self.licence
        return ", ".join([name, *self.also])


@dataclass(frozen=True)
class LicenceChain:
    """The licences of everything that a checkpoint was made from.

    Attributes:
        sources: the sources, those that it was made from directly first.
        is_recorded: whether anything says what the checkpoint was made from.
    """

    sources: tuple[SourceLicence, ...]
    is_recorded: bool

    @property
    def terms(self) -> frozenset[str]:
        """All terms that have to be passed on."""
        return frozenset().union(*(source.terms for source in self.sources))

    @property
    def unknown(self) -> tuple[str, ...]:
        """Sources whose licence nobody read."""
        return tuple(source.name for source in self.sources if source.licence is None)

    @property
    def is_non_commercial(self) -> bool:
        """Whether a source forbids commercial use."""
        return NON_COMMERCIAL in self.terms

    @property
    def suggested(self) -> str:
        """The licence that follows from the sources: an identifier of the Hub.

        It is `unknown` if a model among the sources has no known licence, and `other` if no single licence has all
        terms.
        """
        models = [source for source in self.sources if not source.is_data]
        if not models or any(source.licence in (None, NONE_STATED, UNKNOWN) for source in models):
            return UNKNOWN
        found = list(dict.fromkeys(str(source.licence) for source in models))
        fitting = [name for name in found if name != OTHER and self.terms <= (terms_of(name) or frozenset())]
        # Among permissive licences, the Apache License asks for the most: notices, and its rule about patents.
        return "apache-2.0" if "apache-2.0" in fitting else (fitting[0] if fitting else OTHER)


def known_sources() -> dict[str, Any]:
    """What `model_cards/sources.yaml` says: `"models"` and `"datasets"`, each a mapping from ids to facts."""
    return load_facts("sources")


def quantized_from(folder: str | os.PathLike[str]) -> str | None:
    """Name of the small checkpoint of this package that a folder is a quantized variant of; `None` for any other."""
    from .quantize import REPORT_FILE

    file = Path(folder) / REPORT_FILE
    try:
        source = json.loads(file.read_text(encoding="utf-8")).get("source")
    except (OSError, ValueError, AttributeError):
        return None
    return source if source in bundled_checkpoints() else None


def licence_of(folder: str | os.PathLike[str], *, base_models: Sequence[str] = ()) -> LicenceChain:
    """Collect the licences of the sources of a checkpoint.

    The sources come from `base_models`, from the record that conversions and builds leave (`origin.json`), and from the
    metadata of a README.md in the folder. What these were made from themselves comes from `sources.yaml`.

    Args:
        folder: folder of the checkpoint.
        base_models: ids of models that the user names as sources.

    Raises:
        OriginError: the record in the folder is damaged.

    Example:
        >>> licence_of("converted-pllava", base_models=["ermu2001/pllava-7b"]).suggested   # doctest: +SKIP
        'unknown'
    """
    place = Path(folder)
    origin = read_origin(place)
    records = [SourceRecord("named by the publisher", name) for name in base_models]
    records += origin.sources if origin is not None else ()
    if (bundled := bundled_name(place) or quantized_from(place)) is not None:
        records.append(SourceRecord("this package", bundled))
    if not records:
        records = _records_of_card(place)
    return LicenceChain(tuple(_unique(_expand(records))), is_recorded=bool(records))


def check_licence(chain: LicenceChain, stated: str | None, override: bool = False, *, name: str | None = None) -> None:
    """Refuse a licence that is looser than the licences of the sources.

    Args:
        chain: the licences of the sources.
        stated: the licence of the checkpoint, as an identifier of the Hub; `None` if the one that follows from the
            sources is taken, which is never looser.
        override: accept a looser licence. Whoever publishes then answers for it.
        name: name of the licence, which `other` needs.

    Raises:
        LicenceError: the Hub does not know the licence, `other` has no name, or the licence is looser than a source's.
            The message names the source and the terms.
    """
    if stated is None:
        return
    if stated not in HUB_LICENCES:
        raise LicenceError(f"licence {stated!r} is unknown to the Hub: {did_you_mean(stated, HUB_LICENCES)}")
    if stated == OTHER and not name:
        raise LicenceError("licence 'other' needs the name of the licence: --licence-name NAME.")
    if override or stated in (OTHER, UNKNOWN):
        return
    terms = terms_of(stated) or frozenset()
    for source in chain.sources:
        if source.licence == NONE_STATED:
            raise LicenceError(
                f"{source.name} states no licence, so {stated} would give rights that nobody gave: ask its authors, "
                "and pass --licence-override if they agree."
            )
        if missing := sorted(source.terms - terms):
            raise LicenceError(
                f"{stated} is looser than {source.shown}, the licence of {source.name} ({', '.join(missing)}): state "
                "a licence with these terms, leave it out so that it follows from the sources, or pass "
                "--licence-override if you have the right to."
            )


def _records_of_card(folder: Path) -> list[SourceRecord]:
    """The sources that the metadata of a README.md in the folder names."""
    metadata = read_card_metadata(folder)

    def listed(field: str) -> list[str]:
        value = metadata.get(field)
        return [value] if isinstance(value, str) else [str(entry) for entry in value or ()]

    return [SourceRecord("base model", name) for name in listed("base_model")]


def _expand(records: Iterable[SourceRecord]) -> Iterator[SourceLicence]:
    """The sources, and what they were made from and trained on, as far as that is known."""
    for record in records:
        facts = (known_sources().get("models") or {}).get(record.name)
        if facts is None and record.licence is not None:
            facts = {
                "licence": record.licence,
                "licence_name": record.licence_name,
                "licence_link": record.licence_link,
                "read": "its model card" if "/" in record.name else f"the model card in the folder of {record.name}",
            }
        facts = facts or {}
        yield _source(record.role, record.name, facts, is_data=record.role == DATA_ROLE)
        for name in [*facts.get("made_of", ()), *record.base_models]:
            yield from _expand([SourceRecord(f"source of {record.name}", name)])
        for name in [*facts.get("data", ()), *record.datasets]:
            known = (known_sources().get("datasets") or {}).get(name) or {}
            yield _source(f"data of {record.name}", name, known, is_data=True)


def _source(role: str, name: str, facts: dict[str, Any], is_data: bool = False) -> SourceLicence:
    return SourceLicence(
        role=role,
        name=name,
        licence=facts.get("licence"),
        also=tuple(facts.get("also", ())),
        licence_name=facts.get("licence_name"),
        licence_link=facts.get("licence_link"),
        read=facts.get("read"),
        note=facts.get("note"),
        is_data=is_data,
    )


def _unique(sources: Iterable[SourceLicence]) -> Iterator[SourceLicence]:
    """Each source once."""
    seen: set[str] = set()
    for source in sources:
        if source.name not in seen:
            seen.add(source.name)
            yield source
