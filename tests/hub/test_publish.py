"""Publishing prepared files on the Hub of this machine: one whole commit, whatever fails in between."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Fault, HubServer, User, against, environment_of, hub_server

from hf_videollm.hub.publish import Prepared, Publisher
from hf_videollm.hub.push_errors import PushError
from hf_videollm.hub.push_report import RepoReport, sizes_of

CONTENT = {"config.json": b"{}", "model-1.safetensors": b"\1" * 3000, "sub/model-2.safetensors": b"\2" * 5000}
LARGE_BYTES = 8000


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with hub_server() as server, against(server, tmp_path / "cache"):
        yield server


def prepare(folder: Path, name: str = "me/model", content: dict[str, bytes] = CONTENT) -> Prepared:
    """A repository of three files, two of them large."""
    files = {path: folder / name / path for path in content}
    for path, file in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content[path])
    return Prepared(RepoReport(name, None, sizes_of(files), "files-1"), files)


def published(hub: HubServer, name: str = "me/model", revision: str = "main") -> dict[str, bytes]:
    """What visitors see of a repository; nothing if it does not exist."""
    found = hub.files(name, revision) if name in hub.store.repos else {}
    return {path: content for path, content in found.items() if path != ".gitattributes"}


def test_a_repository_is_one_commit_with_a_tag(hub: HubServer, tmp_path: Path) -> None:
    (report,), collection = Publisher().publish([prepare(tmp_path)])
    assert published(hub) == published(hub, revision="files-1") == CONTENT
    assert hub.commits("me/model") == ["Upload checkpoint with hf_videollm"]
    assert report.commit == hub.store.repos["me/model"].branches["main"]
    assert report.url == f"{hub.url}/me/model/tree/{report.commit}"
    assert collection is None


def test_a_second_run_changes_and_sends_nothing(hub: HubServer, tmp_path: Path) -> None:
    first, _ = Publisher().publish([prepare(tmp_path)])
    hub.forget()
    second, _ = Publisher().publish([prepare(tmp_path)])
    assert second == first
    assert hub.uploaded() == 0
    assert len(hub.commits("me/model")) == 1


def test_several_repositories_are_gathered(hub: HubServer, tmp_path: Path) -> None:
    names = ["lab/model", "lab/model-nf4"]
    for _ in range(2):
        reports, collection = Publisher(private=True).publish([prepare(tmp_path, name) for name in names], "model")
    assert [report.repo_id for report in reports] == names
    (found,) = hub.store.collections.values()
    assert [item["id"] for item in found["items"]] == names
    assert found["private"]
    assert found["title"] == "model"
    assert collection == f"{hub.url}/collections/{found['slug']}"
    # All large files are there before anything is visible.
    lines = [line for line in hub.log if "/commit/" in line or line.startswith("PUT")]
    assert [line.startswith("PUT") for line in lines[:4]] == [True, True, False, False]


def test_weights_of_an_earlier_commit_are_removed(hub: HubServer, tmp_path: Path) -> None:
    old = {**CONTENT, "model.safetensors.index.json": b"{}", "notes.txt": b"mine", "sub/old.safetensors": b"\3"}
    Publisher().publish([prepare(tmp_path / "old", content=old)])
    (report,), _ = Publisher().publish([prepare(tmp_path / "new")])
    assert report.removed == ("model.safetensors.index.json",)
    assert published(hub).keys() == old.keys() - {"model.safetensors.index.json"}


def test_a_branch_leaves_the_main_one_as_it_is(hub: HubServer, tmp_path: Path) -> None:
    for _ in range(2):
        Publisher(branch="v2").publish([prepare(tmp_path)])
    assert published(hub) == {}
    assert published(hub, revision="v2") == CONTENT


def test_private_makes_new_repositories_private_and_changes_no_others(hub: HubServer, tmp_path: Path) -> None:
    Publisher(private=True).publish([prepare(tmp_path, "me/hidden")])
    assert hub.store.repos["me/hidden"].private
    Publisher().publish([prepare(tmp_path, "me/seen")])
    hub.forget()
    with pytest.raises(PushError, match=r"me/seen exists and is public.*Nothing was published"):
        Publisher(private=True).publish([prepare(tmp_path, "me/seen")])
    with pytest.raises(PushError, match=r"me/hidden exists and is private.*Nothing was published"):
        Publisher(private=False).publish([prepare(tmp_path, "me/hidden")])
    assert not [line for line in hub.log if "commit/" in line]


ALWAYS = 99
# What fails -> what the user is told.
LASTING = {
    "401": (Fault("preupload", 401, ALWAYS), "does not accept your token"),
    "403 create": (Fault("repos/create", 403, ALWAYS, message="no rights"), r"may not write to me/model \(no rights\)"),
    "403 commit": (Fault("/commit/", 403, ALWAYS), "may not write to me/model"),
    "404": (Fault("preupload", 404, ALWAYS), "no me/model, no such branch"),
    "409": (Fault("/commit/", 409, ALWAYS), "changed by someone else at the same time"),
    "412": (Fault("/commit/", 412, ALWAYS), "changed by someone else at the same time"),
    "413": (Fault("/commit/", 413, ALWAYS, message="too large"), r"refused a request with status 413 \(too large\)"),
    "429": (Fault("/commit/", 429, ALWAYS, headers={"Retry-After": "3600"}), "push again in 3600 seconds"),
    "500": (Fault("/commit/", 500, ALWAYS), "failed with status 500"),
    "500 storage": (Fault("PUT /storage", 500, ALWAYS), "failed with status 500"),
    "cut upload": (Fault("PUT /storage", times=ALWAYS, cut=True), "connection to .* failed or was lost"),
    "cut commit": (Fault("/commit/", times=ALWAYS, cut=True), "connection to .* failed or was lost"),
}


@pytest.mark.parametrize("name", LASTING)
def test_a_lasting_failure_publishes_nothing_and_the_next_run_completes(
    name: str, hub: HubServer, tmp_path: Path
) -> None:
    fault, told = LASTING[name]
    hub.faults = [fault]
    with pytest.raises(PushError, match=f"^me/model: .*{told}.*Nothing was published\\.") as caught:
        Publisher().publish([prepare(tmp_path)])
    assert "\n" not in str(caught.value)
    assert published(hub) == {}
    # An empty repository is left only if the next run can use what was uploaded to it, and the message says so.
    passes = name.split()[0] in ("429", "500", "cut")
    assert ("me/model" in hub.store.repos) is passes
    assert ("me/model stays empty on the Hub" in str(caught.value)) is passes
    hub.faults = []
    sent = sum(len(content) for content in hub.store.large.values())
    hub.forget()
    Publisher().publish([prepare(tmp_path)])
    assert published(hub) == CONTENT
    assert len(hub.commits("me/model")) == 1
    assert hub.uploaded() == LARGE_BYTES - sent


def test_only_an_empty_repository_of_this_run_is_removed(hub: HubServer, tmp_path: Path) -> None:
    """Not one that was there before, and not one that somebody has committed to meanwhile."""
    refused = {"where": "/commit/", "status": 403, "times": ALWAYS}
    hub.store.create("me/before", False)
    hub.faults = [Fault(**refused)]
    with pytest.raises(PushError, match=r"Nothing was published\.$"):
        Publisher().publish([prepare(tmp_path, "me/new"), prepare(tmp_path, "me/before")])
    assert hub.store.repos.keys() == {"me/before"}
    for branch in ("main", "v1"):

        def commit_meanwhile() -> None:
            repo = hub.store.repos["me/theirs"]
            repo.commit(branch, "theirs", repo.at("main").files)  # noqa: B023

        hub.faults = [Fault(**refused, then=commit_meanwhile)]
        with pytest.raises(PushError, match=r"Nothing was published\.$"):
            Publisher(branch=branch).publish([prepare(tmp_path, "me/theirs")])
        assert "theirs" in hub.commits("me/theirs", branch)
        del hub.store.repos["me/theirs"]


def test_a_repository_that_cannot_be_removed_is_named(hub: HubServer, tmp_path: Path) -> None:
    hub.faults = [Fault("/commit/", 403, ALWAYS), Fault("DELETE", 403, ALWAYS)]
    with pytest.raises(PushError, match=r"me/model stays empty on the Hub"):
        Publisher().publish([prepare(tmp_path)])
    assert published(hub) == {}


# One after the other, each kind of request fails once.
PASSING = [
    "whoami",
    "repos/create",
    "GET /api/models/me/model$",
    "preupload",
    "objects/batch",
    "PUT",
    "/commit/",
    "/tag/",
]


@pytest.mark.parametrize("how", [{"status": 500}, {"status": 429, "headers": {"Retry-After": "5"}}, {"cut": True}])
def test_what_passes_by_itself_is_waited_for(how: dict[str, object], tmp_path: Path) -> None:
    with hub_server() as hub, against(hub, tmp_path / "cache") as waits:
        hub.faults = [Fault(where, **how) for where in PASSING]
        Publisher().publish([prepare(tmp_path)])
        assert published(hub) == CONTENT
        assert len(hub.commits("me/model")) == 1
        assert not [fault.where for fault in hub.faults if fault.times]
        assert len(waits) == len(PASSING)
        if "status" in how and how["status"] == 429:
            assert min(waits) >= 5


def test_a_commit_whose_answer_is_lost_is_not_made_twice(hub: HubServer, tmp_path: Path) -> None:
    hub.faults = [Fault("/commit/", cut_after=True)]
    (report,), _ = Publisher().publish([prepare(tmp_path)])
    assert hub.commits("me/model") == ["Upload checkpoint with hf_videollm"]
    assert report.commit == hub.store.repos["me/model"].branches["main"]


def test_a_commit_of_someone_else_in_between_is_not_overwritten(hub: HubServer, tmp_path: Path) -> None:
    repo = hub.store.create("me/model", False)
    others = {"theirs.txt": next(iter(repo.at("main").files.values()))}
    hub.faults = [Fault("/commit/", then=lambda: repo.commit("main", "theirs", others))]
    with pytest.raises(PushError, match="changed by someone else"):
        Publisher().publish([prepare(tmp_path)])
    assert published(hub).keys() == {"theirs.txt"}


def test_the_second_repository_fails(hub: HubServer, tmp_path: Path) -> None:
    hub.faults = [Fault("me/two/commit", 500, ALWAYS)]
    repos = [prepare(tmp_path, "me/one"), prepare(tmp_path, "me/two")]
    with pytest.raises(PushError, match=r"^me/two: .*complete, is me/one; the same command goes on with the rest\."):
        Publisher().publish(repos)
    assert (published(hub, "me/one"), published(hub, "me/two")) == (CONTENT, {})
    hub.faults = []
    hub.forget()
    Publisher().publish(repos, "both")
    assert published(hub, "me/two") == CONTENT
    assert hub.uploaded() == 0


@pytest.mark.parametrize(
    ("token", "told"),
    [("wrong", "does not accept your token"), ("reader", "allows to read only"), ("", "not logged in to the Hub")],
)
def test_a_token_without_rights(token: str, told: str, tmp_path: Path) -> None:
    with hub_server() as hub, against(hub, tmp_path / "cache", token=token):
        hub.store.users["reader"] = User("me", role="read")
        with pytest.raises(PushError, match=f"{told}.*Nothing was published"):
            Publisher().publish([prepare(tmp_path)])
        assert hub.store.repos == {}


def test_someone_elses_namespace(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(PushError, match=r"may not write to you/model.*write access to you"):
        Publisher().publish([prepare(tmp_path, "you/model")])


def test_no_hub_at_all(hub: HubServer, tmp_path: Path) -> None:
    from unittest.mock import patch

    from huggingface_hub import constants

    with patch.object(constants, "ENDPOINT", "http://127.0.0.1:9"), pytest.raises(PushError, match="connection to"):
        Publisher().publish([prepare(tmp_path)])
    with patch.object(constants, "HF_HUB_OFFLINE", True), pytest.raises(PushError, match="HF_HUB_OFFLINE is set"):
        Publisher().publish([prepare(tmp_path)])


# A program of its own, which imports the client once. For each line that it reads, a fork of it tells its process id,
# and publishes a repository of this name.
RUNS = """
import os, sys
from pathlib import Path
from hf_videollm.hub.publish import Prepared, Publisher
from hf_videollm.hub.push_report import RepoReport, sizes_of
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_session
folder = Path(sys.argv[1])
files = {str(file.relative_to(folder)): file for file in folder.rglob("*.*")}
Publisher()
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        folder.with_name("pid").write_text(str(os.getpid()))
        Publisher().publish([Prepared(RepoReport(line.strip(), None, sizes_of(files), "files-1"), files)])
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
"""


def test_a_run_that_is_killed_publishes_nothing_or_all_and_the_next_one_completes(tmp_path: Path) -> None:
    """SIGKILL at every request of a push, before the server does what was asked."""
    for path, content in CONTENT.items():
        (tmp_path / "files" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "files" / path).write_bytes(content)

    def kill() -> None:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)

    with hub_server() as hub, against(hub, tmp_path / "cache"):
        Publisher().publish([prepare(tmp_path)])
        steps = list(hub.log)
        environment = environment_of(hub, tmp_path / "cache")
        command = [sys.executable, "-c", RUNS, str(tmp_path / "files")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=environment, **pipes) as program:  # type: ignore[call-overload]
            for moment, step in enumerate(steps):
                hub.store.large.clear()  # what the runs before have uploaded
                hub.faults = [Fault(".", skip=moment, then=kill, cut=True)]
                name = f"me/killed-{moment}"
                program.stdin.write(f"{name}\n")
                program.stdin.flush()
                assert int(program.stdout.readline()) == signal.SIGKILL, step
                assert published(hub, name) in ({}, CONTENT), step
                Publisher().publish([prepare(tmp_path, name)])
                assert published(hub, name) == CONTENT, step
                assert len(hub.commits(name)) == 1, step
            program.stdin.close()
        # Control: some runs were killed after the commit, and most before.
        assert steps[-1].startswith("POST /api/models/me/model/tag/")
