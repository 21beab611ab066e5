"""The card of a repository that is going to be published: the folder's own, or a new one."""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..known_models import bundled_checkpoints
from ..models.errors import CheckpointError, one_line
from ..origin import load_card_metadata, read_origin, save_origin, stated_licence
from .folder import CARD
from .licence_file import LICENCE_FILE
from .licence_terms import OTHER
from .repo_names import UNKNOWN_OWNER


@dataclass(frozen=True)
class CardWish:
    """What the publisher says about the card.

    Attributes:
        licence: licence of the repository; `None` takes the one that follows from the sources of the model.
        licence_name: name of the licence, if `licence` is `other`.
        licence_link: address of its text, if it is not in the folder.
        licence_override: publish although a source has a stricter licence.
        base_models: ids of the models that it was made from.
        tags: further tags.
        results: folders of `hf-videollm evaluate` with results of the checkpoint.
    """

    licence: str | None = None
    licence_name: str | None = None
    licence_link: str | None = None
    licence_override: bool = False
    base_models: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    results: tuple[str | Path, ...] = ()

    def of_variant(self, card: Path) -> "CardWish":
        """What holds for a quantized variant: it has the licence of the original.

        Args:
            card: card of the original.

        Raises:
            CheckpointError: the card states several licences.
        """
        from huggingface_hub import ModelCard

        text = card.read_text(encoding="utf-8")
        data = ModelCard(text).data
        if len(_licences(text)) != 1:
            raise CheckpointError(
                f"{CARD} states several licences ({', '.join(_licences(text))}), and the card of a variant states one: "
                "name it with --licence."
            )
        # The licence was checked for the original. The variant's record names its sources, see `name_original`.
        return replace(
            self,
            licence=_licences(text)[0],
            licence_name=data.get("license_name"),
            licence_link=data.get("license_link"),
            licence_override=True,
            base_models=(),
            # They were measured on the original.
            results=(),
        )


def name_original(variant: Path, repo_id: str, card: Path, base_models: Sequence[str]) -> None:
    """Let the record of a variant name the repository of its original instead of a folder of this machine.

    Args:
        variant: folder that `quantize` wrote.
        repo_id: the repository.
        card: card of the original.
        base_models: ids of models that the publisher names as the sources of the original.
    """
    origin = read_origin(variant)
    if origin is None:
        return
    original, *others = origin.sources
    data = load_card_metadata(card)
    # A bundled checkpoint has a name that everybody knows; the folder of a user has not.
    kept = (original.name,) if original.name in bundled_checkpoints() or "/" in original.name else original.base_models
    record = replace(
        original,
        name=repo_id,
        revision=None,
        licence=stated_licence(data),
        licence_name=data.get("license_name"),
        licence_link=data.get("license_link"),
        base_models=tuple(dict.fromkeys([*base_models, *kept])),
    )
    save_origin(variant, replace(origin, sources=(record, *others)))


def write_licence(folder: Path, own: Path | None, work: Path, wish: CardWish) -> dict[str, Path]:
    """Write the file LICENSE, if the folder has a new card, no such file, and the text is known.

    Args:
        folder: folder of the checkpoint.
        own: the card in this folder; if it has one, nothing is written.
        work: folder to write into.
        wish: what the publisher says.

    Returns:
        Path in the repository -> file; empty if no such file is needed.
    """
    from .card import CardOptions, card_licence

    text = None if own is not None else card_licence(folder, CardOptions(**_options(wish)), with_known=True)
    if text is None:
        return {}
    (work / LICENCE_FILE).write_text(text, encoding="utf-8")
    return {LICENCE_FILE: work / LICENCE_FILE}


def write_card(
    folder: Path,
    own: Path | None,
    work: Path,
    *,
    names: Collection[str],
    repo_id: str,
    revision: str,
    variant: str | None,
    wish: CardWish,
) -> dict[str, Path]:
    """Write the card, with its pictures if it is a new one.

    Args:
        folder: folder of the checkpoint.
        own: the card in this folder, which is kept; `None` writes a new one.
        work: folder to write into.
        names: the other files of the repository.
        repo_id: name of the repository, for the snippets.
        revision: tag that the snippets pin.
        variant: short name of a quantized variant.
        wish: what the publisher says.

    Returns:
        Path in the repository -> file.

    Raises:
        CheckpointError: the folder's own card is not valid, or has no licence.
        CardError: no licence is known for a new card.
        LicenceError: the licence is looser than that of a source.
    """
    from huggingface_hub import ModelCard

    from .card import card_pictures, render_card, validate_card
    from .licences import check_licence, licence_of

    if own is None:
        text = render_card(folder, repo_id=repo_id, revision=revision, variant=variant, **_options(wish))
        pictures = card_pictures(folder)
    else:
        stated = {"license": wish.licence, "license_name": wish.licence_name, "license_link": wish.licence_link}
        content = own.read_text(encoding="utf-8", errors="replace")
        _check_readable(content, repo_id)
        _check_own_licence(content, wish)
        if wish.results:
            raise CheckpointError(
                f"--results are for a new card, and the folder has {CARD}: write it with hf-videollm card --results, "
                "or remove it."
            )
        name = os.path.basename(os.path.abspath(folder))
        text, pictures = _with_metadata(_pinned(content, name, repo_id, revision), stated), {}
        if OTHER not in _licences(text) and (wish.licence_name or wish.licence_link):
            raise CheckpointError(
                f"--licence-name and --licence-link are for --licence other alone, and {CARD} states "
                f"{' and '.join(_licences(text)) or 'none'}."
            )
    text = _with_metadata(text, {}, wish.tags)
    try:
        # The publisher may say that the licence is unknown. Without a word of theirs, it must be known.
        validate_card(text, needs_licence=wish.licence != "unknown")
        _check_link(text, names)
    except ValueError as error:
        raise CheckpointError(f"{CARD} of {repo_id} cannot be published: {error}") from error
    if own is not None:
        chain = licence_of(folder, base_models=wish.base_models)
        # Whoever gets the model may choose one of several licences, so none may be looser than the sources' licences.
        for licence in _licences(text):
            check_licence(chain, licence, wish.licence_override, name=ModelCard(text).data.get("license_name"))
    card = work / CARD
    card.write_text(text, encoding="utf-8")
    return {**pictures, CARD: card}


def _check_readable(text: str, repo_id: str) -> None:
    from huggingface_hub import ModelCard

    try:
        ModelCard(text)
    except Exception as error:  # The YAML parser raises errors of its own.
        raise CheckpointError(
            f"{CARD} of {repo_id} cannot be published: its metadata cannot be read ({one_line(error, 200)})."
        ) from error


def _check_own_licence(text: str, wish: CardWish) -> None:
    """Refuse a wished licence that is looser than the one which the folder's own card states."""
    from huggingface_hub import ModelCard

    from .licences import LicenceChain, SourceLicence, check_licence

    name = ModelCard(text).data.get("license_name")
    stated = [SourceLicence("its card", f"the folder's {CARD}", one, licence_name=name) for one in _licences(text)]
    check_licence(LicenceChain(tuple(stated), True), wish.licence, wish.licence_override, name=wish.licence_name)


def _options(wish: CardWish) -> dict[str, Any]:
    """The options of the card that the publisher has chosen."""
    return {
        "licence": wish.licence,
        "licence_name": wish.licence_name,
        "licence_link": wish.licence_link,
        "licence_override": wish.licence_override,
        "base_models": wish.base_models,
        "results": wish.results,
    }


def _pinned(text: str, folder: str, repo_id: str, revision: str) -> str:
    """A card whose snippets name this repository and revision, where they name it, or the folder, and a revision.

    So it is with cards that `hf-videollm card` wrote before the revision was known, or that an earlier push wrote.
    """
    text = text.replace(f"{UNKNOWN_OWNER}/{folder}", repo_id)
    names = "|".join(re.escape(name) for name in dict.fromkeys((repo_id, folder)))
    return re.sub(
        rf'"(?:{names})", revision="(?:main|files-[0-9a-f]{{12}})"', f'"{repo_id}", revision="{revision}"', text
    )


def _check_link(text: str, names: Collection[str]) -> None:
    """Refuse a card that links to a text of its licence which the repository does not have."""
    from huggingface_hub import ModelCard

    data = ModelCard(text).data
    link = data.get("license_link") or LICENCE_FILE
    if OTHER in _licences(text) and link not in names and not link.startswith(("https://", "http://")):
        raise ValueError(
            f"it links to the text of its licence in {link}, which the folder does not have: add the file, or name an "
            "address with --licence-link"
        )


def _licences(text: str) -> tuple[str, ...]:
    """The licences that a card states; the Hub allows several."""
    from huggingface_hub import ModelCard

    found = ModelCard(text).data.get("license")
    return (found,) if isinstance(found, str) else tuple(map(str, found or ()))


def _with_metadata(text: str, fields: Mapping[str, str | None], tags: Sequence[str] = ()) -> str:
    """Set fields of the metadata, and add tags; if there are none, the text stays as it is, letter by letter."""
    from huggingface_hub import ModelCard

    changed: dict[str, Any] = {name: value for name, value in fields.items() if value is not None}
    if not changed and not tags:
        return text
    card = ModelCard(text)
    if tags:
        changed["tags"] = list(dict.fromkeys([*(card.data.get("tags") or []), *tags]))
    for name, value in changed.items():
        setattr(card.data, name, value)
    return str(card)


__all__ = ["CardWish", "write_card", "write_licence"]
