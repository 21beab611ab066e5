"""Files that are shorter or longer than the annotations say: counted or refused, never silently cut."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluated_clips import make_task

from hf_videollm import load_pipeline
from hf_videollm.evaluation.asking import Ask, Asker
from hf_videollm.evaluation.data_files import DataError, DataFiles
from hf_videollm.evaluation.items import Item
from hf_videollm.evaluation.run_options import RunOptions
from hf_videollm.evaluation.runner import Runner
from hf_videollm.evaluation.tasks import find_task, task_names
from hf_videollm.known_models import bundled_checkpoints
from hf_videollm.models.media_video import probe_video

Load = Callable[[str, Path], list[Item]]
Folder = Callable[[str], Path]
# What the property tests go through is found, not listed; these are what is there today.
BOUNDED = {"mvbench", "seed_bench_video"}
STATED = {"mlvu", "longvideobench", "longvideobench_subtitles", "wildqa", "wildqa_dev", "nextqa", "nextqa_val"}


@pytest.fixture(scope="module")
def pipe() -> Callable[[str], Any]:
    pipes: dict[str, Any] = {}
    return lambda name: pipes.setdefault(name, load_pipeline(name, dtype="float32", device="cpu"))


def bounded(items: list[Item]) -> list[Item]:
    return [item for item in items if any(m.start is not None or m.end is not None for m in item.media)]


def stated(items: list[Item]) -> list[Item]:
    return [item for item in items if any(m.stated_seconds or m.stated_frames for m in item.media)]


@pytest.fixture(scope="module")
def found(stand_in: Folder) -> dict[str, list[Item]]:
    return {name: list(find_task(name).items(DataFiles(stand_in(name)))) for name in task_names()}


def length(item: Item) -> float:
    """Seconds of the item's file or folder."""
    medium = item.media[0]
    if (frames := medium.frame_files()) is not None:
        assert medium.fps is not None
        return len(frames) / medium.fps
    return float(probe_video(str(medium.path)).duration or 0)


def with_medium(item: Item, **changes: Any) -> Item:
    return replace(item, media=(replace(item.media[0], **changes), *item.media[1:]))


def facts_of(asker: Asker, item: Item) -> dict[str, Any]:
    prompt = find_task("mvbench").prompt_rule("bare")(item, item.question)
    return asker.inputs(Ask(item, 0, prompt)).media[0]


def test_the_tasks_with_bounds_and_lengths_are_these(found: dict[str, list[Item]]) -> None:
    assert {name for name, items in found.items() if bounded(items)} == BOUNDED
    assert {name for name, items in found.items() if stated(items)} == STATED


@pytest.mark.parametrize("checkpoint", bundled_checkpoints())
@pytest.mark.parametrize("name", sorted(BOUNDED))
def test_parts_that_the_file_does_not_have(
    pipe: Callable[[str], Any], found: dict[str, list[Item]], name: str, checkpoint: str
) -> None:
    asker = Asker(pipe(checkpoint).processor, torch.float32, {"num_frames": 4}).for_thread()
    items = bounded(found[name])
    assert items
    for item in items:
        end = length(item)
        # As the benchmark has it: nothing to tell.
        whole = facts_of(asker, item)
        assert "ends" not in whole, item.id
        # The part goes on behind the end of the file: the model sees what there is, and the records say so.
        cut = facts_of(asker, with_medium(item, end=end + 5))
        assert cut["ends"] == pytest.approx(end, abs=0.01), item.id
        assert cut["end"] == end + 5
        # The part begins behind it: there is nothing to see.
        for start in (end + 0.5, end + 500):
            with pytest.raises(ValueError, match=r"start=") as error:
                facts_of(asker, with_medium(item, start=start, end=start + 1))
            assert item.media[0].path.name in str(error.value)
            assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", sorted(STATED))
def test_lengths_that_the_file_does_not_have(
    pipe: Callable[[str], Any], found: dict[str, list[Item]], name: str
) -> None:
    asker = Asker(pipe("pllava-tiny").processor, torch.float32, {"num_frames": 2}).for_thread()
    for item in stated(found[name])[:4]:
        medium = item.media[0]
        assert "stated" not in facts_of(asker, item), item.id
        for factor in (0.3, 3):
            changes: dict[str, Any] = {}
            if medium.stated_seconds is not None:
                changes["stated_seconds"] = medium.stated_seconds * factor
            if medium.stated_frames is not None:
                changes["stated_frames"] = int(medium.stated_frames * factor)
            fact = facts_of(asker, with_medium(item, **changes))
            assert set(fact["stated"]) == set(fact["found"]) == {name.removeprefix("stated_") for name in changes}
            assert list(fact["stated"].values()) == list(changes.values())
        # Rounding to whole seconds is no difference.
        if medium.stated_seconds is not None:
            assert "stated" not in facts_of(asker, with_medium(item, stated_seconds=round(medium.stated_seconds)))


def test_a_run_counts_them(pipe: Callable[[str], Any], copied: Folder) -> None:
    """Of MVBench: one part goes on behind the file, one begins behind it, and the first item is the latter."""
    folder = copied("mvbench")
    changed = 0
    for path in sorted((folder / "json").iterdir()):
        rows = json.loads(path.read_text())
        if rows and "start" in rows[0] and changed < 3:
            rows[0] |= [{"start": 500.0, "end": 501.0}, {"end": 500.0}, {"start": 500.0, "end": 501.0}][changed]
            path.write_text(json.dumps(rows))
            changed += 1
    assert changed == 3
    result = Runner(pipe("pllava-tiny"), "x", RunOptions(processor_options={"num_frames": 2})).run(
        find_task("mvbench"), DataFiles(folder), folder / "run"
    )
    assert result is not None
    counts = result["counts"]
    assert (counts["items"], counts["errors"], counts["shorter_than_annotated"]) == (20, 2, 1)
    assert counts["errors_by_type"] == {"ValueError": 2}
    assert result["prompt"]["first_rendered"]


def test_a_run_counts_other_lengths(pipe: Callable[[str], Any], copied: Folder) -> None:
    folder = copied("longvideobench")
    path = folder / "lvb_val.json"
    rows = json.loads(path.read_text())
    for row in rows[:3]:
        row["duration"] = 600.0
    path.write_text(json.dumps(rows))
    result = Runner(pipe("pllava-tiny"), "x", RunOptions(processor_options={"num_frames": 2})).run(
        find_task("longvideobench"), DataFiles(folder), folder / "run"
    )
    assert result is not None
    assert (result["counts"]["unlike_annotation"], result["counts"]["errors"]) == (3, 0)
    (line, *_) = map(json.loads, (folder / "run/items.jsonl").read_text().splitlines())
    assert line["media"][0]["stated"] == {"seconds": 600.0}
    assert 2 <= line["media"][0]["found"]["seconds"] <= 3


def test_a_first_item_without_its_part_stops_no_run(
    pipe: Callable[[str], Any], found: dict[str, list[Item]], tmp_path: Path
) -> None:
    """The prompt of the first item is written into the result, also where a folder does not hold its part."""
    item = next(item for item in bounded(found["mvbench"]) if item.media[0].path.is_dir())
    task = make_task(
        load=lambda data: [with_medium(item, start=900.0, end=901.0)], prompts=find_task("mvbench").prompts
    )
    result = Runner(pipe("pllava-tiny"), "x").run(task, DataFiles(item.media[0].path.parent), tmp_path)
    assert result is not None
    assert result["counts"]["errors"] == 1
    assert item.question in result["prompt"]["first_rendered"]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-1.0"])
@pytest.mark.parametrize("field", ["start", "end"])
def test_seconds_that_no_video_has(copied: Folder, load: Load, field: str, value: str) -> None:
    folder = copied("mvbench")
    path = folder / "json/action_sequence.json"
    rows = json.loads(path.read_text())
    rows[0] |= {"start": 0.5, "end": 1.5, field: "HERE"}
    path.write_text(json.dumps(rows).replace('"HERE"', value))
    with pytest.raises(DataError, match=rf"row 0: .*{field} is .*no (second of a video|finite number)"):
        load("mvbench", folder)
