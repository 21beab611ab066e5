"""Pages of the documentation as tests read them: blocks of code, links, headings."""

import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
# Folders that are made, not written.
MADE = frozenset({"site", "runs", "demo", "build", "dist"})
BLOCK = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>\w*)\n(?P<code>.*?)^ *(?P=fence)$", re.M | re.S)
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
HEADING = re.compile(r"^#{1,6} +(.*?) *#*$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        file: name of the file that holds it, where the line before it is that name in backticks and a colon.
    """

    language: str
    code: str
    file: str | None


def pages(root: Path = REPOSITORY) -> list[Path]:
    """All Markdown files that are written by hand or by a tool, none that is built."""
    found = []
    for path in sorted(root.rglob("*.md")):
        folders = path.relative_to(root).parts[:-1]
        if not any(part in MADE or (part.startswith(".") and part != ".github") for part in folders):
            found.append(path)
    return found


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page, in their order."""
    found = []
    for match in BLOCK.finditer(text):
        before = text[: match.start()].rstrip().rsplit("\n", 1)[-1]
        name = re.fullmatch(r"`([\w./-]+)`:", before)
        found.append(Block(match["language"], match["code"], name[1] if name else None))
    return found


def prose(text: str) -> str:
    """A page without its code, in which nothing is a link."""
    return re.sub(r"`[^`\n]+`", "`code`", BLOCK.sub("", text))


def links(text: str) -> list[str]:
    """Targets of all links and pictures of a page."""
    return LINK.findall(prose(text))


def anchors(text: str) -> set[str]:
    """Anchors of the headings of a page, as GitHub makes them."""
    found: set[str] = set()
    for heading in HEADING.findall(BLOCK.sub("", text)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        number = 0
        while (name := f"{anchor}-{number}" if number else anchor) in found:
            number += 1
        found.add(name)
    return found


def dead_links(page: Path) -> list[str]:
    """Links of a page that lead to no file, or to no heading of it; addresses on the web are not asked."""
    text = page.read_text(encoding="utf-8")
    dead = []
    for link in links(text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page if not name else (page.parent / name)
        if not target.exists() or (
            anchor and target.suffix == ".md" and anchor not in anchors(target.read_text(encoding="utf-8"))
        ):
            dead.append(link)
    return dead
