"""Folders and lists of videos become captions, one JSON line each."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_videollm.evaluation.data_files import DataError
from hf_videollm.evaluation.recaption import find_videos, options_with_style, recaption, run_folder
from hf_videollm.evaluation.records import read_records
from hf_videollm.evaluation.run_options import RunOptions
from hf_videollm.evaluation.runner import Runner
from hf_videollm.evaluation.settings import SettingsChangedError
from hf_videollm.synthetic.check import ClipQuestion


@pytest.fixture
def folder(tmp_path: Path, questions: list[ClipQuestion]) -> Path:
    videos = tmp_path / "videos"
    (videos / "more").mkdir(parents=True)
    for number, place in enumerate(("a.mp4", "more/b.mp4", "more/.hidden.mp4", "notes.txt")):
        shutil.copy(questions[number].path, videos / place)
    return videos


def test_a_folder_is_searched_by_name(folder: Path) -> None:
    assert [name for name, _ in find_videos(folder)] == ["a.mp4", "more/b.mp4"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", "a.mp4\n\n more/b.mp4\n"),
        ("list.json", '["a.mp4", "more/b.mp4"]'),
        ("inter4k.json", '[{"video_name": "a"}, {"video_name": "more/b"}]'),
        ("list.jsonl", '{"video": "a.mp4"}\n{"video": "more/b.mp4"}\n'),
    ],
)
def test_lists_name_files_beside_them(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    assert [path for _, path in find_videos(folder / name)] == [folder / "a.mp4", folder / "more/b.mp4"]


def test_what_holds_no_videos_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder or list"):
        find_videos(tmp_path / "gone")
    with pytest.raises(DataError, match="holds no videos"):
        find_videos(tmp_path)
    (tmp_path / "list.csv").write_text("a")
    with pytest.raises(DataError, match=r"is \.txt, \.json or \.jsonl"):
        find_videos(tmp_path / "list.csv")
    (tmp_path / "list.jsonl").write_text('{"vidoe": "a"}\n')
    with pytest.raises(DataError, match=r"list\.jsonl, line 1: the field 'video_name' is missing"):
        find_videos(tmp_path / "list.jsonl")


def test_captions_go_on_and_are_complete(bundled_pipe: Callable[[str], Any], folder: Path, tmp_path: Path) -> None:
    pipe, output = bundled_pipe("pllava-tiny"), tmp_path / "out" / "captions.jsonl"
    videos = [*find_videos(folder), ("gone.mp4", folder / "gone.mp4")]
    options = options_with_style(RunOptions(generate_options={"max_new_tokens": 4}), "pllava")
    assert options.prompt_style == "pllava"
    result = recaption(Runner(pipe, "x", options), videos, output)
    assert result is not None
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["video"] for line in lines] == ["a.mp4", "more/b.mp4", "gone.mp4"]
    assert all(isinstance(line["caption"], str) and len(line["frames"]) == 8 for line in lines[:2])
    assert "no such file" in lines[2]["error"]
    rendered = result["prompt"]["first_rendered"]
    assert rendered.startswith("You are a powerful Video Magic ChatBot")
    assert rendered.endswith("Describe the background, characters and the actions in the provided video.\n ASSISTANT:")
    # The same again asks nothing; another setting is refused.
    assert recaption(Runner(pipe, "x", options), videos, output) is not None
    assert len(read_records(run_folder(output))) == 3
    assert len(json.loads((run_folder(output) / "result.json").read_text())["runs"]) == 1
    other = options_with_style(RunOptions(generate_options={"max_new_tokens": 5}), "pllava")
    with pytest.raises(SettingsChangedError, match="max_new_tokens"):
        recaption(Runner(pipe, "x", other), videos, output)


def test_other_designs_keep_their_chat_template() -> None:
    assert options_with_style(RunOptions(), "iva").prompt_style == "default"
    assert options_with_style(RunOptions(prompt_style="pllava_34b"), "pllava").prompt_style == "pllava_34b"
