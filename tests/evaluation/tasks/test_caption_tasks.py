"""MSVC and Inter4K."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_videollm.evaluation.data_files import DataError
from hf_videollm.evaluation.items import Item
from hf_videollm.evaluation.prompting import Prompt
from hf_videollm.evaluation.tasks import find_task
from hf_videollm.synthetic.benchmarks.media import write_json

Load = Callable[[str, Path], list[Item]]
Folder = Callable[[str], Path]
Edit = Callable[[Path, Callable[[Any], Any]], None]
RECAPTION_SYSTEM = (
    "You are a powerful Video Magic ChatBot, a large vision-language assistant. \n"
    "You are able to understand the video content that the user provides and assist the user in a video recaptioning "
    "task.\n"
    "The user will provide you with the video and maybe some extra noisy information to help you out. Make use of the "
    "information in a proper way to be competent for the recaption job\n"
    "### INSTRUCTIONS:\n1. Follow the user's instruction.\n2. Be critical yet believe in yourself.\n"
)
RECAPTION_USER = (
    "You are to assist me in accomplishing a task about the input video. Reply to me with a precise yet detailed "
    "response. For how you would succeed in the recaptioning task, read the following Instructions section and Then, "
    "make your response with a elaborate paragraph.\n# Instructions\n"
    "1. Avoid providing over detailed information such as color, counts of any objects as you are terrible regarding "
    "observing these details\n"
    "2. Instead, you should carefully go over the provided video and reason about key information about the overall "
    "video\n"
    "3. If you are not sure about something, do not include it in you response.\n"
    "# Task\nDescribe the background, characters and the actions in the provided video.\n"
)


def test_all_captions_of_msvc_are_references(stand_in: Folder, load: Load) -> None:
    for item in load("msvc", stand_in("msvc")):
        assert len(item.references) == 2
        assert item.references[0] == item.answer


def test_ids_of_msvc_are_those_of_the_original(load: Load, tmp_path: Path) -> None:
    rows = [{"video_path": name, "question": "q", "captions": ["c"]} for name in ("a/x.mp4", "x.avi", "y.mp4")]
    write_json(tmp_path / "msvc.json", rows)
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/y.mp4").touch()
    items = load("msvc", tmp_path)
    assert [item.id for item in items] == ["x_0", "x_1", "y_0"]
    assert items[2].media[0].path == tmp_path / "videos/y.mp4"
    assert items[0].media[0].path == tmp_path / "a/x.mp4"


def test_msvc_is_asked_as_in_the_code_and_as_in_the_paper(stand_in: Folder, load: Load) -> None:
    item = load("msvc", stand_in("msvc"))[0]
    code, paper = (
        find_task("msvc").prompt_rule(name)(item, "Describe.") for name in ("videollama2", "videollama2_paper")
    )
    assert code.text == paper.text == "Describe."
    assert code.generate_kwargs == {"do_sample": False, "max_new_tokens": 2048}
    assert paper.generate_kwargs == {"do_sample": True, "temperature": 0.2, "max_new_tokens": 2048}


@pytest.mark.parametrize("captions", [[], [1], "one"])
def test_captions_of_msvc_that_are_none(copied: Folder, load: Load, edit: Edit, captions: Any) -> None:
    folder = copied("msvc")

    def change(rows: list[dict[str, Any]]) -> None:
        rows[2]["captions"] = captions

    edit(folder / "msvc.json", change)
    with pytest.raises(DataError, match=r"msvc\.json, row 2: captions"):
        load("msvc", folder)


def test_pllava_asks_for_new_captions(stand_in: Folder, load: Load, render: Callable[[Item, Prompt], str]) -> None:
    item = load("inter4k", stand_in("inter4k"))[0]
    prompt = find_task("inter4k").prompt_rule("pllava")(item, item.question)
    assert prompt.text == RECAPTION_USER
    # The one line break before the role of the assistant is the last of the user's text.
    assert render(item, prompt) == f"{RECAPTION_SYSTEM} USER: <video>\n USER: {RECAPTION_USER} ASSISTANT:"
    assert prompt.generate_kwargs["max_new_tokens"] == 400
    assert prompt.generate_kwargs["do_sample"] is False
    assert find_task("inter4k").prompt_rule()(item, item.question).generate_kwargs["max_new_tokens"] == 400


def test_inter4k_with_and_without_a_list(copied: Folder, load: Load, edit: Edit) -> None:
    folder = copied("inter4k")
    listed = load("inter4k", folder)
    (folder / "annotations.json").rename(folder / "kept.json")
    # Numbers, not texts: 2 comes before 10.
    assert load("inter4k", folder) == listed
    assert [item.id for item in listed] == [str(number) for number in range(1, 21)]
    (folder / "kept.json").rename(folder / "annotations.json")
    edit(folder / "annotations.json", lambda rows: rows[3:5])
    assert [item.id for item in load("inter4k", folder)] == ["4", "5"]
    edit(folder / "annotations.json", lambda rows: rows * 2)
    with pytest.raises(DataError, match=r"annotations\.json, row 2: video_name '4' stands already"):
        load("inter4k", folder)


def test_inter4k_in_any_folder_of_videos(stand_in: Folder, load: Load, tmp_path: Path) -> None:
    shutil.copytree(stand_in("inter4k") / "60fps/UHD", tmp_path / "videos")
    (tmp_path / "videos" / "b.mp4").touch()
    (tmp_path / "videos" / "notes.txt").touch()
    assert [item.id for item in load("inter4k", tmp_path)][-2:] == ["20", "b"]
