"""Subtitles in prompts are those that are shown at the times of the frames that the model sees, in every design."""

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from media_corpus import number_picture, write_video
from PIL import Image

from hf_videollm.evaluation.asking import Ask, Asker
from hf_videollm.evaluation.data_files import DataError, DataFiles
from hf_videollm.evaluation.items import Item, Medium
from hf_videollm.evaluation.run_options import RunOptions
from hf_videollm.evaluation.runner import Runner
from hf_videollm.evaluation.subtitles import SubtitleLine, frame_times, lines_covering
from hf_videollm.evaluation.tasks import find_task
from hf_videollm.known_models import bundled_checkpoints
from hf_videollm.synthetic.benchmarks import write_stand_in

FPS, NUM_PICTURES = 8, 40
# Videos with a subtitle for each frame: at a constant rate, with pauses, and after half a second of sound alone.
STEADY = [number / FPS for number in range(NUM_PICTURES)]
UNSTEADY = [0.0, *np.cumsum([0.05 if number % 3 else 0.4 for number in range(1, NUM_PICTURES)]).tolist()]

every_checkpoint = pytest.mark.parametrize("name", bundled_checkpoints())


def lines_of(times: Sequence[float]) -> tuple[SubtitleLine, ...]:
    """Line i is shown while frame i is, and only then."""
    ends = [*times[1:], times[-1] + 1]
    return tuple(
        SubtitleLine(start - 0.01, end - 0.011, f"frame {number}", f"frame {number}")
        for number, (start, end) in enumerate(zip(times, ends, strict=True))
    )


def item_of(path: Path, times: Sequence[float], **bounds: Any) -> Item:
    return Item("1", (Medium(path, **bounds),), ("Why?",), ("a", "b"), extra={"subtitles": lines_of(times)})


def numbers(text: str) -> list[int]:
    return [int(line.removeprefix("frame ")) for line in text.splitlines() if line.startswith("frame ")]


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("steady") / "steady.mp4", NUM_PICTURES, rate=FPS)


@pytest.mark.parametrize("style", ["official", "linvt"])
@pytest.mark.parametrize("bounds", [{}, {"start": 1.0, "end": 3.0}])
@every_checkpoint
def test_the_lines_are_those_at_the_frames(
    bundled_pipe: Callable[[str], Any], steady: Path, name: str, bounds: dict[str, float], style: str
) -> None:
    rule = find_task("videomme_subtitles").prompt_rule(style)
    shown = []
    for num_frames in (4, 6):
        asker = Asker(bundled_pipe(name).processor, torch.float32, {"num_frames": num_frames}).for_thread()
        item = item_of(steady, STEADY, **bounds)
        prompt = rule(asker.as_seen(item), "Why?")
        frames = asker.inputs(Ask(item, 0, prompt)).media[0]["frames"]
        assert numbers(prompt.text) == frames
        assert len(frames) == num_frames
        shown.append(frames)
    # The control: with other frames, there are other lines.
    assert set(shown[0]) != set(shown[1])


@every_checkpoint
def test_a_designs_own_number_of_frames_counts(bundled_pipe: Callable[[str], Any], steady: Path, name: str) -> None:
    asker = Asker(bundled_pipe(name).processor, torch.float32).for_thread()
    item = item_of(steady, STEADY)
    prompt = find_task("videomme_subtitles").prompt_rule()(asker.as_seen(item), "Why?")
    assert numbers(prompt.text) == asker.inputs(Ask(item, 0, prompt)).media[0]["frames"]


def test_videollama2_takes_as_many_lines_as_it_sees_frames(bundled_pipe: Callable[[str], Any], steady: Path) -> None:
    """Its code rounds the times of subtitles in another way than those of frames."""
    rule = find_task("videomme_subtitles").prompt_rule("videollama2")
    for num_frames in (4, 8):
        asker = Asker(bundled_pipe("videollama2-av-tiny").processor, torch.float32, {"num_frames": num_frames})
        item = asker.as_seen(item_of(steady, STEADY))
        prompt = rule(item, "Why?")
        frames = asker.inputs(Ask(item, 0, prompt)).media[0]["frames"]
        assert len(numbers(prompt.text)) == num_frames
        assert max(abs(one - other) for one, other in zip(numbers(prompt.text), frames, strict=True)) <= 1


@every_checkpoint
def test_times_are_those_of_the_files_clock(bundled_pipe: Callable[[str], Any], tmp_path: Path, name: str) -> None:
    """Frames with pauses between them: a constant rate would give other lines."""
    path = write_video(tmp_path / "unsteady.mp4", NUM_PICTURES, times=[round(1000 * time) for time in UNSTEADY])
    asker = Asker(bundled_pipe(name).processor, torch.float32, {"num_frames": 5}).for_thread()
    item = item_of(path, UNSTEADY)
    prompt = find_task("videomme_subtitles").prompt_rule()(asker.as_seen(item), "Why?")
    frames = asker.inputs(Ask(item, 0, prompt)).media[0]["frames"]
    assert numbers(prompt.text) == frames
    mean = UNSTEADY[-1] / (NUM_PICTURES - 1)
    assert frame_times(asker.as_seen(item)) != pytest.approx([frame * mean for frame in frames], abs=0.01)


def test_frames_of_a_folder_have_the_times_of_the_folder(bundled_pipe: Callable[[str], Any], tmp_path: Path) -> None:
    for number in range(1, NUM_PICTURES + 1):
        Image.fromarray(number_picture(number)).save(tmp_path / f"{number:05d}.png")
    asker = Asker(bundled_pipe("pllava-tiny").processor, torch.float32, {"num_frames": 4}).for_thread()
    for bounds in ({}, {"start": 1.0, "end": 3.0}):
        item = item_of(tmp_path, STEADY, fps=float(FPS), **bounds)
        prompt = find_task("videomme_subtitles").prompt_rule()(asker.as_seen(item), "Why?")
        assert numbers(prompt.text) == asker.inputs(Ask(item, 0, prompt)).media[0]["frames"]
    # Without a rate, nobody knows when a frame is shown.
    assert frame_times(asker.as_seen(item_of(tmp_path, STEADY))) == ()


@every_checkpoint
def test_the_video_is_decoded_once_and_stays_the_same(
    bundled_pipe: Callable[[str], Any], steady: Path, name: str
) -> None:
    processor = copy.deepcopy(bundled_pipe(name).processor)
    decode, decoded = processor.video_processor.decode, []

    def counted(source: Any, *args: Any, **options: Any) -> Any:
        decoded.append(source)
        return decode(source, *args, **options)

    processor.video_processor.decode = counted
    item = item_of(steady, STEADY, start=1.0)
    asker = Asker(processor, torch.float32, {"num_frames": 4}).for_thread()
    prompt = find_task("videomme_subtitles").prompt_rule()(asker.as_seen(item), "Why?")
    row = asker.inputs(Ask(item, 0, prompt)).row
    assert decoded == [str(steady)]
    # The control decodes with the options of the processor alone.
    plain = Asker(bundled_pipe(name).processor, torch.float32, {"num_frames": 4}).inputs(Ask(item, 0, prompt)).row
    assert set(plain) == set(row)
    assert all(torch.equal(plain[key], row[key]) for key in plain)


def test_items_without_subtitles_are_left_alone(bundled_pipe: Callable[[str], Any]) -> None:
    item = Item("1", (Medium(Path("missing.mp4")),), ("Why?",))
    assert Asker(bundled_pipe("pllava-tiny").processor).as_seen(item) is item


@pytest.mark.parametrize("task", ["videomme_subtitles", "longvideobench_subtitles"])
def test_a_run_asks_with_the_lines_of_its_frames(
    bundled_pipe: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    write_stand_in(task, tmp_path / "data", count=6)
    asked: list[tuple[str, list[int]]] = []
    inputs = Asker.inputs

    def noted(self: Asker, ask: Ask) -> Any:
        found = inputs(self, ask)
        asked.append((ask.prompt.text, found.media[0]["frames"]))
        return found

    monkeypatch.setattr(Asker, "inputs", noted)
    options = RunOptions(batch_size=2, processor_options={"num_frames": 4})
    result = Runner(bundled_pipe("pllava-tiny"), "x", options).run(
        find_task(task), DataFiles(tmp_path / "data"), tmp_path / "run"
    )
    assert result is not None
    assert result["counts"]["answered"] == 6
    with_lines = [(text, frames) for text, frames in asked if "Half second" in text]
    assert with_lines
    for text, frames in with_lines:
        # Half a second has 4 frames; a line is not shown at the moment at which it begins.
        expected = [f"Half second {frame // 4 + 1}." for frame in frames if frame % 4]
        found = [line for line in text.splitlines() if line.startswith("Half second")]
        if task == "videomme_subtitles":
            assert found == expected
        else:
            # Lines of half a second count as shown for a whole one, and stand once.
            assert set(expected) <= set(found)
            assert len(set(found)) == len(found)
    first = "Half second" in asked[0][0]
    assert ("Half second" in result["prompt"]["first_rendered"]) == first


def test_a_first_video_that_is_missing_stops_no_run(bundled_pipe: Callable[[str], Any], tmp_path: Path) -> None:
    write_stand_in("longvideobench_subtitles", tmp_path / "data", count=3)
    task, data = find_task("longvideobench_subtitles"), DataFiles(tmp_path / "data")
    first = next(iter(task.items(data)))
    first.media[0].path.unlink()
    result = Runner(bundled_pipe("pllava-tiny"), "x").run(task, data, tmp_path / "run")
    assert result is not None
    assert result["counts"]["errors_by_type"] == {"MediaNotFound": result["counts"]["errors"]}
    assert "Half second" not in result["prompt"]["first_rendered"]


def test_lines_of_longvideobench() -> None:
    lines = [SubtitleLine(0, 2, "a", "a"), SubtitleLine(2, 2.2, "b", "b"), SubtitleLine(4, 9, "c", "c")]
    texts = [line.text for line in lines_covering(lines, [0.5, 1.0, 2.55, 9.0])]
    # The second of b's middle goes from 1.6 to 2.6; c ends at 9.
    assert texts == ["a", "b"]
    assert lines_covering(lines, []) == []


def test_both_forms_of_longvideobenchs_lists(tmp_path: Path) -> None:
    write_stand_in("longvideobench_subtitles", tmp_path, count=2)
    items = list(find_task("longvideobench_subtitles").items(DataFiles(tmp_path)))
    ours = [[(line.start, line.end, line.text) for line in item.extra["subtitles"]] for item in items]
    assert ours[0] == ours[1]
    assert ours[0][1] == (0.5, 1.0, "Half second 2.")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"start": "soon", "end": "00:00:01.000", "line": "x"}, r"row 0: start is 'soon', which is no time such as"),
        ({"timestamp": [1.0], "text": "x"}, r"row 0: timestamp is \[1.0\], which is no pair"),
        ({"timestamp": [1.0, 2.0]}, r"row 0: the field 'text' is missing"),
        ({"words": "x"}, r"row 0: the field 'line' is missing"),
    ],
)
def test_wrong_lists_of_longvideobench(tmp_path: Path, entry: dict[str, Any], words: str) -> None:
    write_stand_in("longvideobench_subtitles", tmp_path, count=1)
    (path,) = (tmp_path / "subtitles").iterdir()
    path.write_text(json.dumps([entry]))
    with pytest.raises(DataError, match=words) as error:
        list(find_task("longvideobench_subtitles").items(DataFiles(tmp_path)))
    assert path.name in str(error.value)


def test_the_last_line_of_a_list_may_have_no_end(tmp_path: Path) -> None:
    write_stand_in("longvideobench_subtitles", tmp_path, count=1)
    (path,) = (tmp_path / "subtitles").iterdir()
    path.write_text(json.dumps([{"timestamp": [101.0, None], "text": "x"}]))
    (item,) = find_task("longvideobench_subtitles").items(DataFiles(tmp_path))
    (line,) = item.extra["subtitles"]
    assert (line.start, line.end) == (1.0, 2.5)
