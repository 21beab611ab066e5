"""Rows of every form that people have give the batch of the same chat, and what does not fit is told in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, Image, Video
from PIL import Image as Pictures

from hf_videollm.models.media_dataset_columns import without_decoding
from hf_videollm.synthetic.tiny.pllava import build_tiny_pllava
from hf_videollm.training.collator import IGNORE_INDEX, VideoDataCollator
from hf_videollm.training.rows import read_row

ASK, ANSWER = "What colour is the shape?", "red"
VIDEO = {"type": "video"}
USER = {"role": "user", "content": [VIDEO, {"type": "text", "text": ASK}]}
SAID = {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]}
TAGGED = {"role": "user", "content": f"<video>\n{ASK}"}


@pytest.fixture(scope="module")
def collator() -> VideoDataCollator:
    return VideoDataCollator(build_tiny_pllava(num_frames=2, image_size=32, patch_size=8, pooling_shape=(2, 2, 2))[1])


def named(path: str) -> dict[str, Any]:
    """The row that the others mean."""
    content = [{"type": "video", "path": path}, {"type": "text", "text": ASK}]
    return {"messages": [{"role": "user", "content": content}, SAID]}


FORMS: dict[str, Callable[[str], dict[str, Any]]] = {
    "bare block, videos": lambda path: {"messages": [USER, SAID], "videos": [path]},
    "bare block, video": lambda path: {"messages": [USER, SAID], "video": path},
    "other columns are empty": lambda path: {"messages": [USER, SAID], "videos": [path], "images": [], "audios": None},
    "token in a text": lambda path: {"messages": [TAGGED, SAID], "videos": [path]},
    "token in a block": lambda path: {
        "messages": [{"role": "user", "content": [{"type": "text", "text": f"<video>\n{ASK}"}]}, SAID],
        "videos": [path],
    },
    "neither": lambda path: {"messages": [{"role": "user", "content": ASK}, SAID], "videos": [path]},
    "prompt and completion": lambda path: {"prompt": [USER], "completion": [SAID], "videos": [path]},
    "prompt that names": lambda path: {"prompt": named(path)["messages"][:1], "completion": [SAID]},
    "LLaVA": lambda path: {
        "video": path,
        "conversations": [{"from": "human", "value": f"<video>\n{ASK}"}, {"from": "gpt", "value": ANSWER}],
    },
    "LLaVA that writes image": lambda path: {
        "video": path,
        "conversations": [{"from": "human", "value": f"<image>\n{ASK}"}, {"from": "gpt", "value": ANSWER}],
    },
    "bytes": lambda path: {
        "messages": [USER, SAID],
        "videos": [{"path": None, "bytes": Path(path).read_bytes()}],
    },
}


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_batch(collator: VideoDataCollator, clips: list[str], form: str) -> None:
    rows = [FORMS[form](path) for path in clips[:2]]
    expected = collator([named(path) for path in clips[:2]])
    assert same(collator(rows), expected)
    # The control: the other order of videos is another batch.
    assert not same(collator(rows[::-1]), expected)
    learned = expected["labels"][0][expected["labels"][0] != IGNORE_INDEX]
    assert collator.processor.tokenizer.convert_ids_to_tokens(learned.tolist()) == [ANSWER, "</s>"]


@pytest.mark.parametrize("form", ["bare block, videos", "bare block, video", "prompt and completion"])
def test_columns_of_datasets_are_read_in_any_state(collator: VideoDataCollator, clips: list[str], form: str) -> None:
    dataset = Dataset.from_list([FORMS[form](path) for path in clips[:2]])
    feature = [Video()] if form != "bare block, video" else Video()
    column = "video" if form == "bare block, video" else "videos"
    expected = collator([named(path) for path in clips[:2]])
    for data in (dataset, without_decoding(dataset.cast_column(column, feature))):
        assert same(collator(list(data)), expected)


def test_pictures_and_options_of_blocks_stay(collator: VideoDataCollator, clips: list[str]) -> None:
    picture = Pictures.new("RGB", (32, 32), "red")
    content = [{"type": "image"}, {"type": "video", "start": 0.5}, {"type": "text", "text": ASK}]
    row = {"messages": [{"role": "user", "content": content}, SAID], "images": [picture], "videos": [clips[0]]}
    dataset = Dataset.from_list([{"images": [picture]}]).cast_column("images", [Image()])
    found = read_row({**row, "images": dataset[0]["images"]}, "row").messages[0]["content"]
    assert [block["type"] for block in found] == ["image", "video", "text"]
    assert found[1] == {"type": "video", "start": 0.5, "video": clips[0]}
    batch = collator([row])
    assert batch["pixel_values"].shape[0] == 1
    assert not same(batch, collator([{**row, "images": [Pictures.new("RGB", (32, 32), "blue")]}]))


def test_answers_in_the_prompt_are_not_learned(collator: VideoDataCollator, clips: list[str]) -> None:
    turns = [USER, {"role": "assistant", "content": "blue"}, {"role": "user", "content": "How many?"}]
    last = {"role": "assistant", "content": "2"}
    whole = collator([{"messages": [*turns, last], "videos": [clips[0]]}])
    batch = collator([{"prompt": turns, "completion": [last], "videos": [clips[0]]}])
    assert torch.equal(whole["input_ids"], batch["input_ids"])

    def words(found: dict[str, Any]) -> list[str]:
        labels = found["labels"][0]
        return collator.processor.tokenizer.convert_ids_to_tokens(labels[labels != IGNORE_INDEX].tolist())

    assert words(batch) == ["2", "</s>"]
    assert words(whole) == ["blue", "</s>", "2", "</s>"]


def test_prompts_end_where_the_answer_begins(collator: VideoDataCollator, clips: list[str]) -> None:
    inputs, answers = collator.prompts([named(clips[0]), FORMS["prompt and completion"](clips[1])])
    assert answers == [ANSWER, ANSWER]
    assert "labels" not in inputs
    whole = collator([named(clips[0])])
    start = int((whole["labels"][0] != IGNORE_INDEX).nonzero()[0])
    assert torch.equal(inputs["input_ids"][0][inputs["attention_mask"][0].bool()], whole["input_ids"][0, :start])


WRONG = {
    "no form": ({"text": "a"}, "has id, text: give messages, or prompt and completion, or conversations"),
    "two forms": ({"messages": [USER, SAID], "conversations": []}, "only one of them"),
    "half a form": ({"prompt": [USER]}, "give messages, or prompt and completion"),
    "texts": ({"prompt": "<video> What?", "completion": "red"}, "prompt must be a list of messages"),
    "too few": (
        {"messages": [USER, USER, SAID], "videos": ["a.mp4"]},
        "2 blocks without a source of type video, but 1",
    ),
    "too many": ({"messages": [USER, SAID], "videos": ["a.mp4", "b.mp4"]}, "numbers must be the same"),
    "too few tokens": (
        {"messages": [TAGGED, SAID], "videos": ["a", "b"]},
        "none for 1 of type video",
    ),
    "too many tokens": (
        {"messages": [{"role": "user", "content": "<video><video>"}, SAID], "videos": ["a"]},
        "more <video> than the row has media",
    ),
    "other type": ({"messages": [USER, SAID], "images": ["a.png"]}, "1 blocks without a source of type video, but 0"),
    "twice": ({**named("a.mp4"), "videos": ["a.mp4"]}, "media of type video twice"),
    "both columns": ({"messages": [USER, SAID], "videos": ["a"], "video": "a"}, "has both videos and video"),
    "no list": ({"messages": [USER, SAID], "videos": "a.mp4"}, "videos must be a list of media"),
    "hole": ({"messages": [USER, SAID], "videos": [None]}, "videos holds an empty entry"),
    "speaker": ({"conversations": [{"from": "robot", "value": "a"}]}, r"conversations\[0\] must have from"),
    "nothing to learn": ({"prompt": [USER], "completion": [USER], "videos": ["a", "b"]}, "there is nothing to learn"),
    "nobody to show": ({"messages": [SAID], "videos": ["a"]}, "no message of a user"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_told_with_the_row(collator: VideoDataCollator, name: str) -> None:
    row, message = WRONG[name]
    with pytest.raises(ValueError, match=message) as caught:
        collator([{"id": "r7", **row}])
    assert "r7" in str(caught.value)
    assert "\n" not in str(caught.value)
