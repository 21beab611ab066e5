"""A mix as a dataset: Parquet files with the media inside, a card, one commit; and back to records with files."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import load_dataset
from hub_server import Fault, HubServer, against, hub_server
from PIL import Image

from hf_videollm.data.embedded import COLUMNS, unpack_media
from hf_videollm.data.mix import load_mix
from hf_videollm.data.mix_plan import prepare_mix
from hf_videollm.data.parsed_files import DataError
from hf_videollm.hub.dataset_push import push_dataset
from hf_videollm.hub.push_errors import PushError
from hf_videollm.models.media_dataset_columns import without_decoding
from hf_videollm.models.media_video import load_video
from hf_videollm.synthetic.clips import generate_dataset
from hf_videollm.synthetic.tiny.pllava import build_tiny_pllava
from hf_videollm.training.collator import VideoDataCollator

LICENCE = "cc-by-4.0"


@pytest.fixture(scope="module")
def mix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips with parts of videos, and a row with two pictures."""
    folder = tmp_path_factory.mktemp("mix")
    generate_dataset(folder / "clips", 4, kind="motion", progress=False)
    Image.new("RGB", (8, 8), "red").save(folder / "a.png")
    shown = [{"type": "image", "path": "a.png"}, {"type": "image", "path": "a.png"}, {"type": "text", "text": "Same?"}]
    clip = next((folder / "clips").rglob("*.mp4")).relative_to(folder)
    part = [{"type": "video", "path": str(clip), "start": 0.5, "end": 1.5}, {"type": "audio"}]
    rows = [
        {"id": name, "split": split, "messages": [{"role": "user", "content": content}, answer]}
        for name, split, content in (("p", "train", shown), ("v", "test", part))
        for answer in [{"role": "assistant", "content": "yes"}]
    ]
    (folder / "other.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    sources = [{"annotation": "clips/records.jsonl", "source": "clips", "repeat": 2}, {"annotation": "other.jsonl"}]
    (folder / "mix.yaml").write_text(yaml.safe_dump({"sources": sources}))
    return folder / "mix.yaml"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with hub_server() as server, against(server, tmp_path / "hub-cache"):
        yield server


def plain(record: dict[str, Any]) -> dict[str, Any]:
    """A record without paths."""
    for message in record["messages"]:
        for block in message["content"]:
            block["path"] = None if block["path"] is None else Path(block["path"]).read_bytes()
    return record


def rows_of(mix: Path, cache: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in prepare_mix(load_mix(mix), str(cache)).rows(None)}


def test_a_dry_run_writes_a_dataset_that_gives_the_same_records(mix: Path, tmp_path: Path) -> None:
    report = push_dataset(
        mix, "me/clips", licence=LICENCE, dry_run=True, output=tmp_path / "out", max_shard_size="30KB"
    )
    expected = {name: plain(row) for name, row in rows_of(mix, tmp_path / "cache").items()}
    assert report.rows == {"train": len(expected) - 1, "test": 1}
    assert len([name for name in report.files if name.startswith("data/train-")]) > 1
    assert all("-of-" in name for name in report.files if name.startswith("data/"))
    # A file stands in each of its rows, but a repeated row once.
    for split in ("train", "test"):
        dataset = load_dataset(str(tmp_path / "out"), split=split, cache_dir=str(tmp_path / "cache"))
        assert type(dataset.features["videos"].feature).__name__ == "Video"
        assert type(dataset.features["audios"].feature).__name__ == "Audio"
        for record in unpack_media(dataset, tmp_path / "media"):
            assert plain(record) == expected.pop(record["id"])
    assert not expected


def test_a_video_with_several_rows_is_stored_once(tmp_path: Path) -> None:
    """Each row has its bytes, and the file hardly grows with the number of rows."""
    generate_dataset(tmp_path / "clips", 2, kind="motion", progress=False)
    clips = sorted((tmp_path / "clips" / "videos").glob("*.mp4"))
    sizes, total = [], sum(clip.stat().st_size for clip in clips)
    for number in (1, 30):
        rows = [{"q": f"Question {n}?", "a": "yes", "video_id": clip.stem} for n in range(number) for clip in clips]
        (tmp_path / "asked.json").write_text(json.dumps(rows))
        source = {"annotation": "asked.json", "format": "C", "root": "clips/videos"}
        (tmp_path / "mix.yaml").write_text(yaml.safe_dump({"sources": [source]}))
        out = tmp_path / f"out{number}"
        push_dataset(tmp_path / "mix.yaml", "me/clips", licence=LICENCE, dry_run=True, output=out)
        sizes.append(sum(file.stat().st_size for file in out.glob("data/*.parquet")))
        dataset = without_decoding(load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache")))
        assert len(dataset) == len(rows)
        found = {row["videos"][0]["path"]: row["videos"][0]["bytes"] for row in dataset}
        assert found == {clip.name: clip.read_bytes() for clip in clips}
    assert sizes[1] < sizes[0] + total / 2 + 10_000
    assert 30 * total > 4 * sizes[1]  # the control: once in each row would be far more


def test_folders_of_frames_are_published(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "frames" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (8, 8), (number * 80, 0, ord(name[0]))).save(tmp_path / "frames" / name / f"{number}.png")
            (tmp_path / "frames" / name / "notes.txt").write_text("no picture")
    turns = [{"from": "human", "value": "<video>\nDescribe it."}, {"from": "gpt", "value": "It brightens."}]
    rows = [{"id": name, "video": name, "conversations": turns} for name in ("one", "two", "one again")]
    rows[2]["video"] = "one"
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = {"annotation": "captions.jsonl", "format": "S", "root": "frames"}
    (tmp_path / "mix.yaml").write_text(yaml.safe_dump({"sources": [source]}))
    push_dataset(tmp_path / "mix.yaml", "me/frames", licence=LICENCE, dry_run=True, output=tmp_path / "out")
    dataset = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    expected = rows_of(tmp_path / "mix.yaml", tmp_path / "cache")
    records = {record["id"]: record for record in unpack_media(dataset, tmp_path / "media")}
    assert set(records) == set(expected)
    for name, record in records.items():
        folder, own = (Path(each["messages"][0]["content"][0]["path"]) for each in (record, expected[name]))
        pictures = sorted(own.glob("*.png"))
        assert [file.name for file in sorted(folder.iterdir())] == [file.name for file in pictures]
        assert all((folder / file.name).read_bytes() == file.read_bytes() for file in pictures)
        assert (load_video(str(folder))[0] == load_video(str(own))[0]).all()
    assert len(list((tmp_path / "media").iterdir())) == 2
    for picture in (tmp_path / "frames" / "two").glob("*.png"):
        picture.unlink()
    with pytest.raises(DataError, match="two"):
        push_dataset(tmp_path / "mix.yaml", "me/frames", licence=LICENCE, dry_run=True, output=tmp_path / "again")


def test_its_rows_are_trained_on_as_they_are(mix: Path, tmp_path: Path) -> None:
    push_dataset(mix, "me/clips", licence=LICENCE, dry_run=True, output=tmp_path / "out")
    collator = VideoDataCollator(build_tiny_pllava(num_frames=2, image_size=32, patch_size=8)[1])
    dataset = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    row = without_decoding(dataset).select([0])[0]
    expected = collator([rows_of(mix, tmp_path / "cache")[row["id"]]])
    found = collator([row])
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_nothing_of_the_folders_of_this_machine_is_published(mix: Path, tmp_path: Path) -> None:
    push_dataset(mix, "me/clips", licence=LICENCE, dry_run=True, output=tmp_path / "out")
    for file in (tmp_path / "out").rglob("*"):
        if file.is_file():
            assert str(mix.parent).encode() not in file.read_bytes(), file


def test_a_push_is_one_commit_and_is_loaded_from_the_hub(hub: HubServer, mix: Path, tmp_path: Path) -> None:
    report = push_dataset(mix, "me/clips", licence=LICENCE, private=True)
    assert hub.commits("datasets/me/clips") == ["Upload dataset with hf_videollm"]
    assert hub.store.repos["datasets/me/clips"].private
    assert report.url is not None
    assert report.url.startswith(f"{hub.url}/datasets/me/clips/tree/")
    card = hub.files("datasets/me/clips")["README.md"].decode()
    metadata = yaml.safe_load(card.split("---")[1])
    assert (metadata["license"], metadata["configs"][0]["data_files"][0]["split"]) == (LICENCE, "train")
    assert "| clips | this package's own |" in card
    dataset = load_dataset("me/clips", split="test", cache_dir=str(tmp_path / "cache"))
    (record,) = unpack_media(dataset, tmp_path / "media")
    block = record["messages"][0]["content"][0]
    assert record["messages"][0]["content"][1]["path"] is None
    own = rows_of(mix, tmp_path / "cache")["v"]["messages"][0]["content"][0]
    frames = [load_video(path["path"], num_frames=2, start=0.5, end=1.5)[0] for path in (block, own)]
    assert torch.equal(*map(torch.from_numpy, frames))


def test_files_of_an_earlier_push_go(hub: HubServer, mix: Path) -> None:
    push_dataset(mix, "me/clips", licence=LICENCE, max_shard_size="30KB")
    push_dataset(mix, "me/clips", licence=LICENCE)
    names = [name for name in hub.files("datasets/me/clips") if name.endswith(".parquet")]
    assert sorted(names) == ["data/test-00000-of-00001.parquet", "data/train-00000-of-00001.parquet"]


def test_a_refusal_of_the_hub_is_one_line(hub: HubServer, mix: Path) -> None:
    hub.faults.append(Fault("POST .*/commit/", status=403, times=9, message="no"))
    with pytest.raises(PushError, match=r"me/clips: your token may not write .* Nothing was published\.") as error:
        push_dataset(mix, "me/clips", licence=LICENCE)
    assert "\n" not in str(error.value)
    # No empty dataset is left behind; one that was there stays.
    assert "datasets/me/clips" not in hub.store.repos
    hub.faults.clear()
    push_dataset(mix, "me/clips", licence=LICENCE)
    hub.faults.append(Fault("POST .*/commit/", status=403, times=9, message="no"))
    with pytest.raises(PushError, match="Nothing was published"):
        push_dataset(mix, "me/clips", licence=LICENCE, max_shard_size="30KB")
    assert len(hub.commits("datasets/me/clips")) == 1


def test_a_private_push_never_goes_to_a_public_dataset(hub: HubServer, mix: Path) -> None:
    push_dataset(mix, "me/clips", licence=LICENCE, private=False)
    with pytest.raises(PushError, match="exists and is public"):
        push_dataset(mix, "me/clips", licence=LICENCE, private=True)
    assert len(hub.commits("datasets/me/clips")) == 1


def test_what_cannot_be_published_is_refused_before_anything_is_written(mix: Path, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "1.png")
    block = {"type": "video", "path": "empty", "kind": "frames", "fps": 3.0, "first": 1}
    turns = [{"role": "user", "content": [block]}, {"role": "assistant", "content": "a"}]
    (tmp_path / "r.jsonl").write_text(json.dumps({"id": "1", "messages": turns}))
    (tmp_path / "mix.yaml").write_text("sources: [{annotation: r.jsonl}]")
    out = tmp_path / "out"
    for given, options, message in (
        (tmp_path / "mix.yaml", {"licence": LICENCE}, "the folder holds no pictures"),
        (mix, {}, "licence must be given"),
        (mix, {"licence": LICENCE, "max_shard_size": "1"}, "max_shard_size '1' is no size"),
        (tmp_path / "gone.yaml", {"licence": LICENCE}, "the mix cannot be read"),
    ):
        with pytest.raises((DataError, ValueError), match=message):
            push_dataset(given, "me/clips", dry_run=True, output=out, **options)
        assert not out.exists()
    outside = {"type": "image", "path": str(folder / "1.png")}
    turns[0]["content"] = [outside]
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "r.jsonl").write_text(json.dumps({"id": "1", "messages": turns}))
    (tmp_path / "mix.yaml").write_text("sources: [{annotation: sub/r.jsonl}]")
    with pytest.raises(DataError, match="lies outside of the folder of media"):
        push_dataset(tmp_path / "mix.yaml", "me/clips", licence=LICENCE, dry_run=True, output=out)
    assert not out.exists()
    with pytest.raises(ValueError, match="names no owner"):
        push_dataset(mix, "clips", licence=LICENCE)
    with pytest.raises(ValueError, match="is for dry_run alone"):
        push_dataset(mix, "me/clips", licence=LICENCE, output=out)


def test_rows_whose_media_do_not_fit_their_blocks(tmp_path: Path) -> None:
    block = {"type": "video", "text": None}
    turns = [{"role": "user", "content": [block]}, {"role": "assistant", "content": [{"type": "text", "text": "a"}]}]
    medium = {"bytes": b"x", "path": "../../a.mp4"}
    row = {"id": "1", "messages": turns, **{column: [] for column in COLUMNS.values()}}
    with pytest.raises(DataError, match=r"row 0 \('1'\): a video block has no entry in videos"):
        list(unpack_media([row], tmp_path))
    with pytest.raises(DataError, match="videos has more entries"):
        list(unpack_media([{**row, "videos": [medium, medium]}], tmp_path))
    with pytest.raises(DataError, match="has no bytes"):
        list(unpack_media([{**row, "videos": [{"bytes": None, "path": "a.mp4"}]}], tmp_path))
    (record,) = unpack_media([{**row, "videos": [medium]}], tmp_path)
    assert Path(record["messages"][0]["content"][0]["path"]).parent == tmp_path
