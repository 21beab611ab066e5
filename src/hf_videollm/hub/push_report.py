"""What a push published, or would publish: the files of each repository with their sizes."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Group

# What a file is for, by its name; the first pattern that fits decides.
PARTS = (
    ("card", ("README.md",)),
    ("licence", ("LICENSE*", "LICENCE*", "NOTICE*")),
    ("weights", ("*.safetensors", "*.safetensors.index.json")),
    ("chat template", ("chat_template.jinja", "additional_chat_templates/*")),
    ("generation config", ("generation_config.json",)),
    ("configuration", ("config.json", "adapter_config.json", "*/adapter_config.json")),
    ("processor", ("*processor_config.json", "token*", "vocab*", "merges.txt", "special_tokens_map.json")),
    ("code", ("*.py",)),
)


@dataclass(frozen=True)
class RepoReport:
    """One repository.

    Attributes:
        repo_id: its name.
        variant: short name of the quantized variant; `None` for the original weights.
        files: path in the repository -> size in bytes.
        tag: the revision that stands for exactly these files, apart from the card.
        left_out: what lies in the folder and is not published.
        folder: where `dry_run` wrote the files.
        url: address of the commit.
        commit: its hash; `None` if nothing was published.
        removed: files of an earlier commit that would disturb loading, and were removed in this one.
    """

    repo_id: str
    variant: str | None
    files: dict[str, int]
    tag: str
    left_out: tuple[str, ...] = ()
    folder: str | None = None
    url: str | None = None
    commit: str | None = None
    removed: tuple[str, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(self.files.values())

    def parts(self) -> dict[str, tuple[list[str], int]]:
        """What a file is for -> the files and their size together."""
        found: dict[str, tuple[list[str], int]] = {}
        for path, size in self.files.items():
            names, total = found.get(part_of(path), ([], 0))
            found[part_of(path)] = ([*names, path], total + size)
        order = [*(name for name, _ in PARTS), "other"]
        return dict(sorted(found.items(), key=lambda item: order.index(item[0])))

    def to_dict(self) -> dict[str, Any]:
        return {
            "repo_id": self.repo_id,
            "variant": self.variant,
            "tag": self.tag,
            "files": self.files,
            "bytes": self.num_bytes,
            "left_out": list(self.left_out),
            "folder": self.folder,
            "url": self.url,
            "commit": self.commit,
            "removed": list(self.removed),
        }


@dataclass(frozen=True)
class PushReport:
    """What `push` did.

    Attributes:
        repos: the repositories, the one with the original weights first.
        collection: address of the collection that holds them; `None` for a single repository.
        dry_run: nothing was published; the folders were written on this machine.
        branch: the branch that was pushed to.
        private: whether the repositories are private; `None` if the Hub's default was taken.
    """

    repos: tuple[RepoReport, ...]
    collection: str | None = None
    dry_run: bool = False
    branch: str = "main"
    private: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "dry_run": self.dry_run,
            "branch": self.branch,
            "private": self.private,
            "collection": self.collection,
            "repos": [repo.to_dict() for repo in self.repos],
        }

    def render(self) -> "Group":
        """Tables for a rich console."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        drawn: list[Any] = []
        for repo in self.repos:
            table = Table("part", "files", "size", box=None, title=Text(repo.repo_id), title_justify="left")
            for name, (files, size) in repo.parts().items():
                table.add_row(name, Text(_short(files)), Text(size_text(size), justify="right"))
            table.add_row("all", str(len(repo.files)), Text(size_text(repo.num_bytes), justify="right"))
            drawn += [table, *(Text(line, overflow="fold") for line in self._lines(repo)), Text()]
        if self.collection:
            drawn.append(Text(f"collection  {self.collection}", overflow="fold"))
        if self.dry_run:
            drawn.append(Text("Nothing was published (--dry-run)."))
        return Group(*drawn)

    def _lines(self, repo: RepoReport) -> list[str]:
        lines = [f"revision    {repo.tag} (a tag, on branch {self.branch})"]
        lines += [f"written to  {repo.folder}"] if repo.folder else []
        lines += [f"published   {repo.url}"] if repo.url else []
        lines += [f"left out    {', '.join(repo.left_out)}"] if repo.left_out else []
        lines += [f"removed     {', '.join(repo.removed)}"] if repo.removed else []
        return lines


def part_of(path: str) -> str:
    """What a file of a repository is for."""
    found = (name for name, patterns in PARTS if any(fnmatch(path, pattern) for pattern in patterns))
    return next(found, "other")


def sizes_of(files: Mapping[str, Path]) -> dict[str, int]:
    """Path in the repository -> size, in the order of the paths."""
    return {path: files[path].stat().st_size for path in sorted(files)}


def size_text(num_bytes: int) -> str:
    """A size with its unit, such as `4.8 MB`."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} B"


def _short(files: list[str]) -> str:
    return files[0] if len(files) == 1 else f"{len(files)}: {', '.join(files[:3])}{', ...' if len(files) > 3 else ''}"


__all__ = ["PushReport", "RepoReport", "part_of", "size_text", "sizes_of"]
