"""Puts prepared repositories on the Hub: first all large files, then one commit for each repository.

Nobody sees a file of a repository before its commit, and a commit has all files. If the run ends in between, what was
uploaded stays in the Hub's storage, and the next run sends only the rest. A repository that this run made and that is
still empty is removed again, unless it holds uploads that the next run can use.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..version import __version__
from .push_errors import PushError, explain, patiently, will_pass
from .push_report import RepoReport

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

T = TypeVar("T")
MAIN = "main"
# Files that would be loaded together with the new weights, or instead of them.
WEIGHT_PATTERNS = ("*.safetensors", "*.safetensors.index*.json", "*.bin", "*.bin.index*.json")
LONGEST_TITLE = 59


@dataclass(frozen=True)
class Prepared:
    """A repository that is ready to be published.

    Attributes:
        report: its name, files and tag.
        files: path in the repository -> file on this machine.
        digests: path in the repository -> SHA-256 of the file, as far as it was computed already.
    """

    report: RepoReport
    files: dict[str, Path]
    digests: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Publisher:
    """Publishes repositories.

    Attributes:
        token: token of the user; `None` takes the one that the user logged in with.
        private: make new repositories private; `None` leaves it to the Hub.
        branch: branch to commit to.
        message: title of the commit.
        description: text of the commit.
        done: the repositories that were published so far.
    """

    token: str | None = None
    private: bool | None = None
    branch: str = MAIN
    message: str = "Upload checkpoint with hf_videollm"
    description: str | None = None
    done: list[RepoReport] = field(default_factory=list)

    def __post_init__(self) -> None:
        from huggingface_hub import HfApi

        self.api: HfApi = HfApi(token=self.token, library_name="hf_videollm", library_version=__version__)
        self._adds: dict[str, list[CommitOperationAdd]] = {}
        # Repositories that this run made and that have no commit yet -> the commit with which the Hub begins them.
        self._empty: dict[str, str] = {}
        self._has_uploads: set[str] = set()

    def user(self) -> str:
        """Name of the user whom the token belongs to.

        Raises:
            PushError: there is no token, it is not valid, or it allows to read only.
        """
        found = self._ask(None, self.api.whoami)
        if found.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise PushError(
                f"The token of {found['name']} allows to read only: make one that may write "
                f"({self.api.endpoint}/settings/tokens), then run hf auth login or set HF_TOKEN. Nothing was published."
            )
        return str(found["name"])

    def publish(self, repos: Sequence[Prepared], title: str | None = None) -> tuple[list[RepoReport], str | None]:
        """Publish repositories, each in one commit.

        Args:
            repos: the repositories.
            title: title of the collection that gathers them; `None` for none.

        Returns:
            The reports with the addresses of the commits, and the address of the collection.

        Raises:
            PushError: it failed; the message says what is published.
        """
        self.user()
        try:
            for repo in repos:
                self._make(repo.report.repo_id)
            for repo in repos:
                self._upload(repo)
            for repo in repos:
                self.done.append(self._commit(repo))
        except BaseException as error:
            kept = self._remove_empty(passes=not isinstance(error, Exception) or will_pass(error.__cause__))
            if isinstance(error, PushError) and kept:
                raise PushError(f"{error} {_kept_text(kept)}") from error.__cause__
            raise
        return self.done, None if title is None else self._gather(title, [repo.report for repo in repos])

    def _make(self, repo_id: str) -> None:
        """Make the repository and the branch unless they exist."""
        is_new = self._ask(repo_id, partial(self._create, repo_id))
        info = self._ask(repo_id, lambda: self.api.model_info(repo_id))
        if is_new:
            self._empty[repo_id] = str(info.sha)
        is_private = info.private
        if self.private is not None and self.private != is_private:
            raise PushError(
                f"{repo_id} exists and is {'private' if is_private else 'public'}, which a push does not change: do "
                f"that on its page, choose another name, or leave out private={self.private}. "
                f"{self._published()}"
            )
        if self.branch != MAIN:
            self._ask(repo_id, lambda: self.api.create_branch(repo_id, branch=self.branch, exist_ok=True))

    def _create(self, repo_id: str) -> bool:
        """Make a repository; False if it exists."""
        from huggingface_hub.errors import HfHubHTTPError

        try:
            self.api.create_repo(repo_id, private=self.private)
        except HfHubHTTPError as error:
            if error.response.status_code not in (401, 402, 403, 409):
                raise
            # It exists, or the client finds out whether it does although this token may make none.
            self.api.create_repo(repo_id, private=self.private, exist_ok=True)
            return False
        return True

    def _remove_empty(self, passes: bool) -> list[str]:
        """Remove the repositories that this run made and nobody has committed to; return the names of those that stay.

        Args:
            passes: the failure passes by itself, so that the next run can use what was uploaded.
        """
        kept = []
        for repo_id, first in self._empty.items():
            try:
                if passes and repo_id in self._has_uploads:
                    kept.append(repo_id)
                elif {ref.target_commit for ref in self.api.list_repo_refs(repo_id).branches} <= {first}:
                    self.api.delete_repo(repo_id)
            # The error that led here says more than this one.
            except Exception:
                kept.append(repo_id)
        return kept

    def _upload(self, repo: Prepared) -> None:
        """Send the large files to the Hub's storage."""
        from huggingface_hub import CommitOperationAdd

        repo_id = repo.report.repo_id
        self._adds[repo_id] = adds = [CommitOperationAdd(path, str(file)) for path, file in repo.files.items()]
        for add in adds:
            if (digest := repo.digests.get(add.path_in_repo)) is not None:
                add.upload_info.sha256 = digest
        self._has_uploads.add(repo_id)
        self._ask(repo_id, lambda: self.api.preupload_lfs_files(repo_id, adds, revision=self.branch, free_memory=False))

    def _commit(self, repo: Prepared) -> RepoReport:
        from huggingface_hub import CommitOperationDelete

        repo_id = repo.report.repo_id
        removed: tuple[str, ...] = ()
        adds = self._adds[repo_id]

        def commit() -> Any:
            # Asked anew in every try: if the answer to a commit was lost, the commit may have been made all the same.
            nonlocal removed, adds
            head = self.api.model_info(repo_id, revision=self.branch)
            there = [str(sibling.rfilename) for sibling in head.siblings or []]
            stale = tuple(sorted(path for path in there if _is_stale(path, repo.files)))
            removed = removed or stale
            deletions = [CommitOperationDelete(path) for path in stale]
            operations: list[CommitOperationAdd | CommitOperationDelete] = [*deletions, *adds]
            adds = [_fresh(used) for used in adds]
            return self.api.create_commit(
                repo_id,
                operations,
                commit_message=self.message,
                commit_description=self.description,
                revision=self.branch,
                parent_commit=head.sha,
            )

        made = self._ask(repo_id, commit)
        self._empty.pop(repo_id, None)
        tag = repo.report.tag
        self._ask(repo_id, lambda: self.api.create_tag(repo_id, tag=tag, revision=made.oid, exist_ok=True))
        url = f"{self.api.endpoint}/{repo_id}/tree/{made.oid}"
        return replace(repo.report, commit=made.oid, url=url, removed=removed)

    def _gather(self, title: str, reports: Sequence[RepoReport]) -> str:
        """Put the repositories into one collection, which is made unless it exists."""
        first = reports[0].repo_id
        owner = first.split("/")[0]
        collection = self._ask(
            first,
            lambda: self.api.create_collection(
                title[:LONGEST_TITLE], namespace=owner, private=bool(self.private), exists_ok=True
            ),
        )
        for report in reports:
            add = partial(self.api.add_collection_item, collection.slug, report.repo_id, "model", exists_ok=True)
            self._ask(report.repo_id, add)
        return str(collection.url)

    def _ask(self, repo_id: str | None, call: Callable[[], T]) -> T:
        try:
            return patiently(call)
        # The client passes on errors of several libraries.
        except Exception as error:
            meaning = explain(error, repo_id or "this Hub", self.api.endpoint)
            if meaning is None:
                raise
            said = f"{meaning[0].upper()}{meaning[1:]}" if repo_id is None else f"{repo_id}: {meaning}"
            raise PushError(f"{said}. {self._published()}") from error

    def _published(self) -> str:
        """What is published so far, for an error message."""
        if not self.done:
            return "Nothing was published."
        names = ", ".join(report.repo_id for report in self.done)
        return f"Published, and complete, is {names}; the same command goes on with the rest."


def _kept_text(names: Sequence[str]) -> str:
    stays = "stays" if len(names) == 1 else "stay"
    return f"{', '.join(names)} {stays} empty on the Hub, so that the same command can go on there."


def _fresh(used: "CommitOperationAdd") -> "CommitOperationAdd":
    """The same operation for another try: the client remembers in used ones what the repository had at that time."""
    fresh = type(used)(used.path_in_repo, used.path_or_fileobj)
    fresh.upload_info = used.upload_info  # has the hash of the file, which takes long to compute
    return fresh


def _is_stale(path: str, files: Mapping[str, Path]) -> bool:
    is_weight = "/" not in path and any(fnmatch(path, pattern) for pattern in WEIGHT_PATTERNS)
    return is_weight and path not in files


__all__ = ["MAIN", "Prepared", "Publisher"]
