"""Nothing is fetched without being asked for; names are tried in order; what fails is told once."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evaluated_clips import make_task

from hf_videollm.evaluation.archives import ArchiveError
from hf_videollm.evaluation.data_files import DataFiles, MissingFilesError
from hf_videollm.evaluation.download import download, missing_files_message

NAMES = ("new/set", "old/set", "older/set")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A Hub that has some sets, and notes what it is asked."""
    state: dict[str, Any] = {"has": set(), "asked": [], "files": {}}

    def fetch(name: str, repo_type: str, local_dir: Path) -> str:
        assert repo_type == "dataset"
        state["asked"].append(name)
        if name not in state["has"]:
            raise OSError(f"404:\n {name} is not here.")
        local_dir.mkdir(parents=True, exist_ok=True)
        (local_dir / "questions.jsonl").write_text("")
        for name, content in state["files"].items():
            (local_dir / name).parent.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(local_dir / name, "w") as archive:
                for inner, data in content.items():
                    archive.writestr(inner, data)
        return str(local_dir)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    return state


def test_names_are_tried_in_order(hub: dict[str, Any], tmp_path: Path) -> None:
    hub["has"] = {"old/set", "older/set"}
    assert download(make_task(hub_ids=NAMES), tmp_path / "clips") == "old/set"
    assert hub["asked"] == ["new/set", "old/set"]
    assert (tmp_path / "clips/questions.jsonl").exists()


def test_mirrors_come_last(hub: dict[str, Any], tmp_path: Path) -> None:
    """What others have made of a benchmark is fetched when its own dataset is not there."""
    hub["has"] = {"someones/mirror"}
    task = make_task(hub_ids=NAMES[:1], mirror_ids=("someones/mirror",))
    assert download(task, tmp_path / "clips") == "someones/mirror"
    assert hub["asked"] == ["new/set", "someones/mirror"]


def test_archives_are_unpacked_where_they_are(hub: dict[str, Any], tmp_path: Path) -> None:
    hub["has"] = {"new/set"}
    hub["files"] = {"videos.zip": {"videos/a.mp4": b"film"}, "more/parts.zip": {"b.mp4": b"another"}}
    told: list[tuple[str, int, int]] = []

    def progress(archive: Any) -> Callable[[int, int], None]:
        return lambda done, total: told.append((archive.name.name, done, total))

    download(make_task(hub_ids=NAMES), tmp_path / "clips", progress)
    assert (tmp_path / "clips/videos/a.mp4").read_bytes() == b"film"
    assert (tmp_path / "clips/more/b.mp4").read_bytes() == b"another"
    assert told == [("parts.zip", 0, 7), ("parts.zip", 7, 7), ("videos.zip", 0, 4), ("videos.zip", 4, 4)]
    # The same command once more has nothing to do.
    download(make_task(hub_ids=NAMES), tmp_path / "clips", progress)
    assert len(told) == 4


def test_a_hostile_archive_ends_the_download(hub: dict[str, Any], tmp_path: Path) -> None:
    hub["has"] = {"new/set"}
    hub["files"] = {"videos.zip": {"../../evil.sh": b"rm"}}
    with pytest.raises(ArchiveError, match=r"videos\.zip is not unpacked: the name '\.\./\.\./evil\.sh'"):
        download(make_task(hub_ids=NAMES), tmp_path / "in/clips")
    assert not list(tmp_path.rglob("evil.sh"))
    # Another name of the dataset would not help: nobody else is asked.
    assert hub["asked"] == ["new/set"]


def test_one_line_tells_why_none_could_be_fetched(hub: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Clips cannot be downloaded") as caught:
        download(make_task(hub_ids=NAMES), tmp_path)
    assert all(f"{name}: 404: {name} is not here" in str(caught.value) for name in NAMES)
    assert "\n" not in str(caught.value)


def test_the_real_client_is_offline_here(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Clips cannot be downloaded"):
        download(make_task(hub_ids=("org/never-there",)), tmp_path)


def test_what_is_not_on_the_hub_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Clips is not on the Hub.*comes from the synthetic generator"):
        download(make_task(), tmp_path)


def test_the_message_of_missing_files_says_what_to_do(tmp_path: Path) -> None:
    data = DataFiles(tmp_path)
    with pytest.raises(MissingFilesError) as caught:
        data.find("questions.jsonl")
    message = missing_files_message(make_task(hub_ids=NAMES), data, caught.value)
    assert "has no questions.jsonl" in message
    assert "the synthetic generator" in message
    assert "--download" in message
    assert "old/set" in message
    assert "--download" not in missing_files_message(make_task(), data, caught.value)
    (tmp_path / "video").mkdir()
    (tmp_path / "video/part1.zip").touch()
    assert "have to be unpacked: video/part1.zip" in missing_files_message(make_task(hub_ids=NAMES), data, caught.value)
    (tmp_path / "video/part1.zip").rename(tmp_path / "video/all.7z")
    assert "have to be unpacked: video/all.7z" in missing_files_message(make_task(hub_ids=NAMES), data, caught.value)
