"""The file LICENSE of a repository whose licence has no identifier of the Hub: where it is, or what it says."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import Any

from .card_files import cards_folder
from .licence_terms import OTHER
from .licences import LicenceChain, LicenceError, SourceLicence

__all__ = [
    "LICENCE_FILE",
    "LICENCE_NAME",
    "LICENCE_PATTERNS",
    "has_licence_file",
    "known_text",
    "licence_link",
    "licence_text",
]

LICENCE_FILE = "LICENSE"
# Files with licences and notices, which travel with the weights.
LICENCE_PATTERNS = ("LICENSE*", "LICENCE*", "NOTICE*")
# For sources whose licences no single one covers.
LICENCE_NAME = "licences-of-the-sources"
HEAD = (
    "The weights were made from the sources below. No single licence has the terms of all of them, so all these terms "
    "hold together{commercial}. Read the texts of the licences at the addresses given. hf_videollm wrote this list "
    "from what these pages say; it is no legal advice."
)
WIDTH = 100
FOOT = """
The code in this repository (the *.py files) is part of hf_videollm and is under the Apache License 2.0,
https://www.apache.org/licenses/LICENSE-2.0. The terms above are about the weights.
"""


def licence_link(folder: Path, given: Any, chain: LicenceChain, licence: str) -> str | None:
    """Where the text of a licence without an identifier stands: an address, or a file of the repository.

    Args:
        folder: folder of the checkpoint.
        given: `CardOptions`.
        chain: the licences of the sources.
        licence: the licence that the card states.

    Raises:
        LicenceError: the licence is `other`, and nobody says what its text is; or a link is given for another licence.
    """
    if licence != OTHER:
        for option, value in (("--licence-link", given.licence_link), ("--licence-name", given.licence_name)):
            if value is not None:
                raise LicenceError(f"{option} {value} is for --licence other alone, and the licence is {licence}.")
        return None
    if given.licence_link is not None:
        return str(given.licence_link)
    if (file := _licence_file(folder)) is not None:
        return file
    if given.licence is None or given.licence_name in (None, LICENCE_NAME):
        return LICENCE_FILE
    links = [source.licence_link for source in chain.sources if source.licence_name == given.licence_name]
    if (link := next(filter(None, links), None)) is not None:
        return link
    raise LicenceError(
        f"The text of the licence {given.licence_name} is not known: put it into the folder as {LICENCE_FILE}, or name "
        "its address with --licence-link."
    )


def has_licence_file(folder: Path) -> bool:
    """Whether a folder has the text of a licence."""
    return _licence_file(folder) is not None


def known_text(licence: str) -> str | None:
    """The text of a licence that this package carries; `None` for all others, which have addresses on the Hub."""
    file = cards_folder() / f"{licence}.txt"
    return file.read_text(encoding="utf-8") if file.is_file() else None


def licence_text(chain: LicenceChain) -> str:
    """The file LICENSE for a checkpoint whose sources have no common licence: all of them, with links.

    Args:
        chain: the licences of the sources.
    """
    commercial = ", and commercial use is not allowed, because at least one source does not allow it"
    head = fill(HEAD.format(commercial=commercial if chain.is_non_commercial else ""), WIDTH)
    title = f"Licence of the weights in this repository: {LICENCE_NAME}"
    return f"{title}\n\n{head}\n" + "".join(f"\n{_entry(source)}" for source in chain.sources) + FOOT


def _licence_file(folder: Path) -> str | None:
    found = sorted(file.name for pattern in LICENCE_PATTERNS[:2] for file in folder.glob(pattern) if file.is_file())
    return LICENCE_FILE if LICENCE_FILE in found else next(iter(found), None)


def _entry(source: SourceLicence) -> str:
    rows = [
        ("what was taken from it", source.role),
        ("licence", "not known" if source.licence is None else source.shown),
        ("text of the licence", source.licence_link),
        ("read at", source.read or "not read"),
        ("its page says besides", source.note),
    ]
    lines = [f"  {name}: {value}" for name, value in rows if value]
    return "\n".join([source.name, *lines, ""])
