"""A damaged file of a processor ends in one line of `CheckpointError` that names it, for every design and way in."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoProcessor

import hf_videollm
from hf_videollm import CheckpointError, load_pipeline
from hf_videollm.hub.checkpoint import bundled_checkpoints
from hf_videollm.training.loading import load_for_training

DESIGNS = sorted(bundled_checkpoints())
DAMAGES = {
    "empty": b"",
    "list": b"[]",
    "number": b"7",
    "null": b"null",
    "truncated": b'{"a": [1, ',
    "too deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "not UTF-8": b'{"a": "\xff\xfe"}',
}
JSON_FILES = [
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.json",
]


@pytest.fixture(params=DESIGNS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundled_checkpoints()[request.param], tmp_path / "checkpoint"))


@pytest.fixture
def pllava(tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundled_checkpoints()["pllava-tiny"], tmp_path / "checkpoint"))


def processor_class(folder: Path) -> Any:
    return getattr(hf_videollm, json.loads((folder / "processor_config.json").read_text())["processor_class"])


def refused(loader: Callable[[str], Any], folder: Path, file: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        loader(str(folder))
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_damaged_file_is_named(folder: Path) -> None:
    loader = processor_class(folder).from_pretrained
    loader(str(folder))  # the control
    for name in JSON_FILES:
        before = (folder / name).read_bytes() if (folder / name).exists() else None
        for damage in DAMAGES.values():
            (folder / name).write_bytes(damage)
            refused(loader, folder, name)
        (folder / name).unlink() if before is None else (folder / name).write_bytes(before)
    loader(str(folder))


@pytest.mark.parametrize("name", ["processor_config.json", "tokenizer.json", "generation_config.json"])
@pytest.mark.parametrize("way_in", [load_pipeline, load_for_training])
def test_loading_a_model_with_its_processor_names_it_too(pllava: Path, name: str, way_in: Callable[[str], Any]) -> None:
    way_in(str(pllava))
    for damage in ("empty", "list", "too deep"):
        (pllava / name).write_bytes(DAMAGES[damage])
        refused(way_in, pllava, name)


def test_objects_that_describe_no_processor_are_refused(folder: Path) -> None:
    """They are whole JSON objects, so only building the processor shows what they lack."""
    loader = processor_class(folder).from_pretrained
    for name, content in [
        ("tokenizer.json", "{}"),
        ("tokenizer.json", '{"added_tokens": [], "model": {"type": "none"}}'),
        ("tokenizer.json", '{"added_tokens": 5}'),
        ("processor_config.json", "{}"),
        ("processor_config.json", '{"video_processor": 5}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": [5]}'),
    ]:
        before = (folder / name).read_bytes()
        (folder / name).write_text(content)
        refused(loader, folder, name)
        (folder / name).write_bytes(before)
    loader(str(folder))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"[]", "never reads the variable messages"),
        (b'\n{"error": "no such file"}', "never reads the variable messages"),
        (b"<!DOCTYPE html><p>Sign in</p>", "never reads the variable messages"),
        (b"{% for message in messages %}", "no chat template"),
        (b"{{ messages }}\xff", "no readable text"),
        (b"{{ messages " + b"(" * 100_000, "no chat template"),
    ],
)
def test_a_damaged_chat_template_is_refused(folder: Path, content: bytes, words: str) -> None:
    (folder / "chat_template.jinja").write_bytes(content)
    assert words in refused(processor_class(folder).from_pretrained, folder, "chat_template.jinja")


def test_a_template_without_the_conversation_loads_and_is_refused_when_it_is_used(folder: Path) -> None:
    """transformers loads any text as a template, so the text alone is no damage. To lose a question is."""
    (folder / "chat_template.jinja").write_text("a fixed text")
    processor = processor_class(folder).from_pretrained(str(folder))
    chat = [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}]
    with pytest.raises(ValueError, match="it never reads the variable messages"):
        processor.apply_chat_template(chat)
    # Control: the caller may choose such a text for one call.
    assert processor.apply_chat_template(chat, chat_template="a fixed text") == "a fixed text"


def test_a_wrong_option_is_not_blamed_on_the_files(pllava: Path) -> None:
    """The files are whole, so the error is the one about the option."""
    with pytest.raises(Exception, match="backend") as caught:
        processor_class(pllava).from_pretrained(str(pllava), backend="nothing")
    assert not isinstance(caught.value, CheckpointError)


def test_a_folder_without_a_processor_is_still_an_os_error(pllava: Path) -> None:
    loader = processor_class(pllava).from_pretrained
    (pllava / "empty").mkdir()
    with pytest.raises(OSError, match="empty"):
        loader(str(pllava / "empty"))


def test_the_auto_class_refuses_what_its_first_look_leaves(pllava: Path) -> None:
    """AutoProcessor reads processor_config.json itself. For other files, its errors are those of the class."""
    (pllava / "tokenizer.json").write_text("{}")
    refused(AutoProcessor.from_pretrained, pllava, "tokenizer.json")
