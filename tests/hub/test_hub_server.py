"""The Hub on this machine answers the real client as the Hub does: other tests of pushing and loading rely on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from hub_server import Fault, HubServer, User, against, hub_server
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

# More than one part of an upload, and not a whole number of them.
LARGE = bytes(range(256)) * 20_000


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with hub_server() as server, against(server, tmp_path / "cache"):
        yield server


def add(path: str, content: bytes) -> CommitOperationAdd:
    return CommitOperationAdd(path, content)


def commit(hub: HubServer, *operations: CommitOperationAdd | CommitOperationDelete, revision: str = "main") -> str:
    api = HfApi()
    api.create_repo("me/model", exist_ok=True)
    return api.create_commit("me/model", list(operations), commit_message="files", revision=revision).oid


def test_files_come_back_as_they_were_sent(hub: HubServer, tmp_path: Path) -> None:
    oid = commit(hub, add("config.json", b"{}"), add("sub/model.safetensors", LARGE), add("small.safetensors", b"x"))
    folder = Path(snapshot_download("me/model"))
    assert folder.name == oid
    assert (folder / "sub/model.safetensors").read_bytes() == LARGE
    assert {file.path for file in HfApi().list_repo_tree("me/model", recursive=True)} >= {"sub", "config.json"}
    assert hub.uploaded() == len(LARGE) + 1
    assert sum("/parts/" in line for line in hub.log) == 3


def test_what_is_there_is_not_sent_again(hub: HubServer) -> None:
    first = commit(hub, add("config.json", b"{}"), add("model.safetensors", LARGE))
    hub.forget()
    assert commit(hub, add("config.json", b"{}"), add("model.safetensors", LARGE)) == first
    assert commit(hub, add("config.json", b"{1}"), add("model.safetensors", LARGE)) != first
    assert hub.uploaded() == 0
    assert hub.commits("me/model") == ["files", "files"]


def test_branches_tags_and_deletions(hub: HubServer) -> None:
    api = HfApi()
    first = commit(hub, add("one.txt", b"1"))
    api.create_branch("me/model", branch="next", exist_ok=True)
    api.create_branch("me/model", branch="next", exist_ok=True)
    api.create_tag("me/model", tag="v1", revision=first)
    second = commit(hub, add("two.txt", b"2"), CommitOperationDelete("one.txt"), revision="next")
    assert api.model_info("me/model", revision="v1").sha == api.model_info("me/model").sha == first
    assert api.model_info("me/model", revision="next").sha == second
    assert not api.file_exists("me/model", "one.txt", revision="next")
    assert [tag.name for tag in api.list_repo_refs("me/model").tags] == ["v1"]
    assert [item.commit_id for item in api.list_repo_commits("me/model", revision="next")][:2] == [second, first]


def test_a_commit_on_an_old_parent_is_refused(hub: HubServer) -> None:
    first = commit(hub, add("one.txt", b"1"))
    commit(hub, add("one.txt", b"2"))
    with pytest.raises(HfHubHTTPError, match="412"):
        HfApi().create_commit("me/model", [add("one.txt", b"3")], commit_message="late", parent_commit=first)


def test_what_is_missing_has_its_own_errors(hub: HubServer) -> None:
    commit(hub, add("one.txt", b"1"))
    with pytest.raises(RepositoryNotFoundError):
        HfApi().model_info("me/other")
    with pytest.raises(RevisionNotFoundError):
        HfApi().model_info("me/model", revision="gone")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("me/model", "two.txt")


def test_rights(hub: HubServer) -> None:
    api = HfApi()
    hub.store.users |= {
        "reader": User("me", role="read"),
        "other": User("you"),
        "fine": User("me", role="fineGrained", scopes=("lab",)),
    }
    api.create_repo("me/hidden", private=True)
    assert api.whoami()["name"] == "me"
    assert api.whoami(token="fine")["auth"]["accessToken"]["role"] == "fineGrained"
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("me/hidden", token="other")
    assert api.model_info("me/hidden", token="reader").private
    for token, name, status in [("reader", "me/new", 403), ("fine", "me/new", 403), ("wrong", "me/new", 401)]:
        with pytest.raises(HfHubHTTPError, match=str(status)):
            api.create_repo(name, token=token)
    assert api.create_repo("lab/new", token="fine").repo_id == "lab/new"
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("lab/new")


def test_collections(hub: HubServer) -> None:
    api = HfApi()
    api.create_repo("me/model")
    slug = api.create_collection("Model: variants", namespace="me", exists_ok=True).slug
    assert api.create_collection("Model: variants", namespace="me", exists_ok=True).slug == slug
    for _ in range(2):
        api.add_collection_item(slug, "me/model", "model", note="the model", exists_ok=True)
    assert [(item.item_id, item.note) for item in api.get_collection(slug).items] == [("me/model", "the model")]


def test_faults_strike_as_often_as_they_should(tmp_path: Path) -> None:
    with hub_server() as hub, against(hub, tmp_path) as waits:
        hub.faults = [
            Fault("PUT /storage/", status=500, times=2),
            Fault("preupload", status=429, headers={"Retry-After": "7"}),
            Fault("objects/batch", cut=True),
        ]
        commit(hub, add("model.safetensors", LARGE[:1000]))
        assert hub.files("me/model")["model.safetensors"] == LARGE[:1000]
        assert 8.0 in waits
        assert sum(line.startswith("PUT /storage/") for line in hub.log) == 3
        assert sum("objects/batch" in line for line in hub.log) == 2
        assert not hub.faults[0].strikes("PUT /storage/1")
        hub.faults = [Fault("/commit/", cut_after=True)]
        with pytest.raises(Exception, match="disconnected"):
            commit(hub, add("config.json", b"{}"))
        assert "config.json" in hub.files("me/model")


def test_a_part_of_a_file_can_be_asked_for(hub: HubServer) -> None:

    commit(hub, add("model.safetensors", LARGE))
    address = f"{hub.url}/me/model/resolve/main/model.safetensors"
    part = requests.get(address, headers={"Range": "bytes=10-19"}, timeout=10)
    assert (part.status_code, part.content) == (206, LARGE[10:20])
    assert part.headers["Content-Range"] == f"bytes 10-19/{len(LARGE)}"
    head = requests.head(address, timeout=10)
    assert head.status_code == 302
    assert head.headers["X-Linked-Size"] == str(len(LARGE))
