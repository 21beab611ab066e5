"""Renders the model card of a checkpoint folder from one template, facts in `model_cards/`, and the folder's files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..atomic import atomic_files
from ..models.errors import CheckpointError
from .card_context import CardOptions, card_context, pictures_of
from .card_facts import CardSource
from .card_files import cards_folder
from .card_metadata import CardError, metadata_of, validate_card
from .card_numbers import CardNumberError, RenderedCard, check_numbers
from .card_parity import load_measured
from .licence_file import LICENCE_FILE, LICENCE_NAME, has_licence_file, known_text, licence_link, licence_text
from .licence_terms import OTHER
from .licences import LicenceError, check_licence, licence_of

__all__ = [
    "CardError",
    "CardNumberError",
    "CardOptions",
    "LicenceError",
    "card_licence",
    "card_pictures",
    "check_card",
    "make_card",
    "render_card",
    "validate_card",
    "write_card",
]


def render_card(
    folder: str | os.PathLike[str],
    *,
    repo_id: str | None = None,
    revision: str | None = None,
    variant: str | None = None,
    **options: Any,
) -> str:
    """The model card of a checkpoint folder: metadata and text.

    Args:
        folder: folder of the checkpoint.
        repo_id: id on the Hub, which the snippets name.
        revision: tag or commit that the snippets pin.
        variant: short name of a quantized variant, such as `nf4`.
        options: the other fields of `CardOptions`.

    Raises:
        CheckpointError: the folder is no checkpoint of a design.
        LicenceError: the licence is looser than those of the sources.
        CardNumberError: a fact or the template states a number that no file backs.

    Example:
        >>> from hf_videollm import default_checkpoint
        >>> render_card(default_checkpoint(), repo_id="me/pllava-tiny").splitlines()[0]   # doctest: +SKIP
        '---'
    """
    return make_card(folder, CardOptions(repo_id=repo_id, revision=revision, variant=variant, **options)).text


def make_card(folder: str | os.PathLike[str], options: CardOptions | None = None) -> RenderedCard:
    """The model card with the source of each of its numbers; see `render_card`."""
    given = options or CardOptions()
    place = Path(folder)
    if not (place / "config.json").is_file():
        raise CheckpointError(f"{place} is no checkpoint, because it has no config.json: give a checkpoint folder.")
    source = CardSource(place, given.folder_name)
    chain = licence_of(place, base_models=given.base_models)
    # Only where nothing else fits all sources does `other` have a name by itself.
    name = given.licence_name or (LICENCE_NAME if chain.suggested == OTHER else None)
    check_licence(chain, given.licence, given.licence_override, name=name)
    licence = given.licence or chain.suggested
    measured = load_measured(source, given.results)
    context = card_context(source, given, chain, licence, measured)
    metadata = f"---\n{metadata_of(source, given, chain, licence, measured)}\n---\n\n"
    return source.book.finish(_template().render(context), head=metadata)


def write_card(
    folder: str | os.PathLike[str], destination: str | os.PathLike[str], options: CardOptions | None = None
) -> list[Path]:
    """Write a card, its pictures, and the file LICENSE if the card links to one that the folder lacks.

    Args:
        folder: folder of the checkpoint.
        destination: file of the card; the others are written beside it.
        options: see `CardOptions`.

    Returns:
        The files.
    """
    target = Path(destination)
    card = make_card(folder, options)
    pictures = card_pictures(folder)
    files = {name: picture.read_bytes() for name, picture in pictures.items()}
    if (licence := card_licence(folder, options)) is not None:
        files[LICENCE_FILE] = licence.encode()
    with atomic_files(target.absolute().parent) as temporary:
        (temporary / target.name).write_text(card.text, encoding="utf-8")
        for name, content in files.items():
            (temporary / name).write_bytes(content)
    return [target, *(target.parent / name for name in files)]


def card_licence(
    folder: str | os.PathLike[str], options: CardOptions | None = None, *, with_known: bool = False
) -> str | None:
    """The text of the file LICENSE that a card needs and that the folder lacks; `None` if there is none to write.

    Args:
        folder: folder of the checkpoint.
        options: those of the card.
        with_known: also for a licence that the card does not link to, if this package has its text.
    """
    given, place = options or CardOptions(), Path(folder)
    if has_licence_file(place):
        return None
    chain = licence_of(place, base_models=given.base_models)
    licence = given.licence or chain.suggested
    if licence_link(place, given, chain, licence) == LICENCE_FILE:
        return licence_text(chain)
    return known_text(licence) if with_known else None


def check_card(text: str, folder: str | os.PathLike[str], options: CardOptions | None = None) -> None:
    """Check an existing card: its metadata, and that each of its numbers is what the files of the checkpoint say.

    Args:
        text: the card.
        folder: folder of the checkpoint.
        options: those with which the card was rendered.

    Raises:
        CardError: the metadata is wrong.
        CardNumberError: a number was changed or added that no file backs.
    """
    validate_card(text, needs_licence=False)
    check_numbers(text, make_card(folder, options))


def card_pictures(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """The pictures of a card: their names in the repository, and their files."""
    return pictures_of(CardSource(Path(folder)))


def _template() -> Any:
    import jinja2

    loader = jinja2.FileSystemLoader(cards_folder())
    # The card is Markdown, not HTML. An unknown name in the template is an error.
    environment = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, autoescape=False)
    return environment.get_template("card.md.jinja")
