"""What the Hub keeps: users with tokens, repositories with their commits, large files, collections."""

import hashlib
import json
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

# A new repository on the Hub has a .gitattributes with these patterns (and more); matching files are stored as LFS.
LFS_PATTERNS = ("*.safetensors", "*.parquet", "*.bin", "*.pt", "*.pth", "*.onnx", "*.npz", "*.zip", "*.tar", "*.mp4")
LARGEST_REGULAR = 10 * 2**20
GITATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LFS_PATTERNS).encode()
DATE = "2026-01-01T00:00:00.000Z"


class HubError(Exception):
    """An answer that is an error.

    Args:
        status: HTTP status.
        message: what went wrong.
        code: the Hub's name of the error (`X-Error-Code`), from which the client takes the type of its exception.
        body: further fields of the body.
    """

    def __init__(self, status: int, message: str, code: str | None = None, **body: Any) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, body


@dataclass(frozen=True)
class User:
    """Who has a token, and what it allows.

    Attributes:
        name: user name.
        role: "read" or "write", or "fineGrained", which may write where `scopes` says so.
        orgs: names of organizations that the user may write to.
        scopes: namespaces that a fine-grained token may write to.
    """

    name: str
    role: str = "write"
    orgs: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()

    def may_write(self, namespace: str) -> bool:
        allowed = self.scopes if self.role == "fineGrained" else (self.name, *self.orgs)
        return self.role != "read" and namespace in allowed


@dataclass(frozen=True)
class Blob:
    """One file of a commit. `oid` is git's; a large file also has `sha256`, and its content is that of the file."""

    content: bytes
    oid: str
    sha256: str | None = None

    @classmethod
    def of(cls, content: bytes, sha256: str | None = None) -> "Blob":
        stored = content
        if sha256 is not None:
            stored = (
                f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(content)}\n"
            ).encode()
        return cls(content, hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest(), sha256)


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    title: str
    files: dict[str, Blob]


@dataclass
class Repo:
    """A repository.

    Attributes:
        name: id with the namespace.
        private: hidden from all others.
        commits: all commits by their hash.
        branches: branch -> hash.
        tags: tag -> hash.
    """

    name: str
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, title: str, files: dict[str, Blob]) -> Commit:
        parent = self.branches.get(branch)
        listing = sorted((path, blob.oid) for path, blob in files.items())
        oid = hashlib.sha1(json.dumps([self.name, branch, parent, title, listing]).encode()).hexdigest()
        self.commits[oid] = commit = Commit(oid, parent, title, files)
        self.branches[branch] = oid
        return commit

    def at(self, revision: str) -> Commit:
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        if oid not in self.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def history(self, revision: str) -> list[Commit]:
        """The commits from the newest to the first."""
        found = [self.at(revision)]
        while (parent := found[-1].parent) is not None:
            found.append(self.commits[parent])
        return found


@dataclass
class Store:
    """Everything on the Hub.

    Attributes:
        users: token -> user.
        repos: id -> repository; that of a dataset begins with `datasets/`.
        large: SHA-256 -> content of the large files that were uploaded.
        collections: slug -> collection, as the Hub describes it.
    """

    users: dict[str, User] = field(default_factory=dict)
    repos: dict[str, Repo] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    collections: dict[str, dict[str, Any]] = field(default_factory=dict)

    def create(self, name: str, private: bool) -> Repo:
        self.repos[name] = repo = Repo(name, private)
        repo.commit("main", "initial commit", {".gitattributes": Blob.of(GITATTRIBUTES)})
        return repo

    def visible(self, name: str, user: User | None) -> Repo:
        """The repository, for a user who may see it. The Hub tells others that there is no such repository."""
        if not self.shows(name, user):
            raise HubError(401 if user is None else 404, "Repository not found", "RepoNotFound")
        return self.repos[name]

    def shows(self, name: str, user: User | None) -> bool:
        """Whether a user may see a repository."""
        if name not in self.repos:
            return False
        namespaces = () if user is None else (user.name, *user.orgs, *user.scopes)
        return not self.repos[name].private or namespace_of(name) in namespaces

    def writable(self, name: str, user: User | None) -> Repo:
        repo = self.visible(name, user)
        if user is None:
            raise HubError(401, "Invalid username or password.")
        if not user.may_write(namespace_of(name)):
            raise HubError(403, f"You don't have the rights to write to {name}")
        return repo


def namespace_of(name: str) -> str:
    """The user or organization of a repository. Names of datasets begin with `datasets/`."""
    return name.removeprefix("datasets/").split("/")[0]


def upload_mode(path: str, size: int, sample: bytes) -> str:
    """How the Hub wants a file: `lfs` or `regular`."""
    name = path.rsplit("/", 1)[-1]
    is_lfs = any(fnmatch(name, pattern) for pattern in LFS_PATTERNS) or size > LARGEST_REGULAR or b"\0" in sample
    return "lfs" if is_lfs else "regular"


__all__ = ["DATE", "Blob", "Commit", "HubError", "Repo", "Store", "User", "namespace_of", "upload_mode"]
