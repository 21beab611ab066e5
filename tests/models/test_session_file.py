"""Saved sessions, and encoded media that later calls use again: equal answers, and refusals of whatever changed."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import hf_videollm
from hf_videollm import CheckpointError, VideoSession, VideoTextToTextPipeline
from hf_videollm.known_models import bundled_checkpoints
from hf_videollm.models.video_llm_identity import model_identity, processor_identity
from hf_videollm.models.video_llm_media_digests import media_identity
from hf_videollm.models.video_llm_watched_media import MediaMemory

QUESTIONS = ["What colour is the shape?", "In which direction does the shape move?"]
GREEDY = {"do_sample": False, "max_new_tokens": 6, "min_new_tokens": 6}


def load(name: str = "pllava-tiny") -> VideoTextToTextPipeline:
    return hf_videollm.load_pipeline(name, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def pipe() -> VideoTextToTextPipeline:
    return load()


@pytest.fixture(scope="module")
def saved(pipe: Any, clips: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pipe.open(clips[0]).save(tmp_path_factory.mktemp("saved") / "clip.session")


@pytest.mark.parametrize("name", list(bundled_checkpoints()))
def test_a_saved_session_answers_like_the_first(name: str, clips: list[str], tmp_path: Path) -> None:
    """Also in another process's model of the same weights, without the video, and again after saving it again."""
    pipe = load(name)
    session = pipe.open(clips[:2], num_frames=4)
    session.ask(QUESTIONS[1], **GREEDY)
    session.save(tmp_path / "one.session")
    expected = session.ask(QUESTIONS, **GREEDY)
    second = session.ask(QUESTIONS[0], **GREEDY), session.ask(QUESTIONS[1], follow_up=True, **GREEDY)
    other = load(name)
    towers = [module for part, module in other.model.named_modules() if part.endswith("vision_tower")]
    assert len(towers) == 1
    towers[0].register_forward_pre_hook(lambda *_: pytest.fail("the video was encoded again"))
    opened = VideoSession.open_saved(tmp_path / "one.session", other.model, other.processor)
    assert opened.frames == session.frames
    opened.save(tmp_path / "two.session")
    for path in ("one.session", "two.session"):
        opened = VideoSession.open_saved(tmp_path / path, other.model, other.processor, clips[:2])
        assert opened.ask(QUESTIONS, **GREEDY) == expected
        asked = opened.ask(QUESTIONS[0], **GREEDY), opened.ask(QUESTIONS[1], follow_up=True, **GREEDY)
        assert asked == second
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one.session", "two.session"]


def refused(words: str, path: Path, pipe: Any, *media: Any, model: Any = None) -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        VideoSession.open_saved(path, model or pipe.model, pipe.processor, *media)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_session_of_another_model(pipe: Any, saved: Path) -> None:
    refused("saved with a model of the design pllava, and this one is a ftfv", saved, load("ftfv-tiny"))
    refused("saved with a model in float32, and this one is in bfloat16", saved, load_in("bfloat16"))
    changed = load()
    assert VideoSession.open_saved(saved, changed.model, changed.processor).num_media_tokens
    changed.model.config.pooling_shape = [1, 1, 1]
    refused("another configuration", saved, changed)
    changed = load()
    weight = changed.model.lm_head.weight
    with torch.no_grad():
        weight[3, 5] += 1e-3
    refused("other weights", saved, changed)
    changed = load()
    changed.processor.video_processor.image_mean = [0.1, 0.1, 0.1]
    refused("another processor", saved, changed)


def load_in(dtype: str) -> Any:
    return hf_videollm.load_pipeline("pllava-tiny", dtype=dtype, device="cpu")


def test_a_session_of_another_video(pipe: Any, saved: Path, clips: list[str]) -> None:
    refused("was made from other media", saved, pipe, clips[1])
    assert VideoSession.open_saved(saved, pipe.model, pipe.processor, clips[0]).ask(QUESTIONS[0], **GREEDY)


def test_files_that_are_no_sessions(pipe: Any, saved: Path, tmp_path: Path) -> None:
    whole = saved.read_bytes()
    for size in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        cut = tmp_path / f"{size}.session"
        cut.write_bytes(whole[:size])
        refused("no whole session", cut, pipe)
    save_file({"a": torch.zeros(1)}, tmp_path / "weights.session")
    refused("no session of this release", tmp_path / "weights.session", pipe)
    with pytest.raises(FileNotFoundError, match="no such file"):
        VideoSession.open_saved(tmp_path / "absent.session", pipe.model, pipe.processor)


def test_a_failed_save_leaves_the_old_file(
    pipe: Any, clips: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "clip.session"
    path.write_bytes(b"old")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("hf_videollm.models.video_llm_session_file.save_file", fail)
    session = pipe.open(clips[0])
    with pytest.raises(OSError, match="disk full"):
        session.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["clip.session"]
    assert path.read_bytes() == b"old"
    session.close()
    with pytest.raises(ValueError, match="session is closed"):
        session.save(path)


def counting(pipe: Any) -> list[int]:
    """Numbers of frames that the tower has encoded, one for each call."""
    calls: list[int] = []
    tower = next(module for part, module in pipe.model.named_modules() if part.endswith("vision_tower"))
    tower.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(len(args[0] if args else kwargs["pixel_values"])), with_kwargs=True
    )
    return calls


@pytest.mark.parametrize("name", list(bundled_checkpoints()))
def test_a_memory_of_encoded_media(name: str, clips: list[str], tmp_path: Path) -> None:
    """Off by default; the same bytes under another name are found, and all that changes the result is not."""
    pipe = load(name)
    calls = counting(pipe)
    expected = pipe(clips[0], text=QUESTIONS[0], **GREEDY)
    first = list(calls)
    assert pipe(clips[0], text=QUESTIONS[0], **GREEDY) == expected
    assert calls == first * 2, "nothing is kept by default"
    pipe.memory = MediaMemory(64 << 20)
    calls.clear()
    copied = shutil.copy(clips[0], tmp_path / "copy.mp4")
    for video in (clips[0], str(copied), Path(copied)):
        assert pipe(video, text=QUESTIONS[0], **GREEDY) == expected
    assert pipe(clips[0], text=[QUESTIONS[0]] * 2, **GREEDY) == [expected] * 2
    assert pipe.open(clips[0]).ask(QUESTIONS[0], **GREEDY)
    assert calls == first
    assert (pipe.memory.num_found, pipe.memory.num_missed) == (4, 1)
    for change in ({"num_frames": 4}, {"end": 1.0}):
        calls.clear()
        changed = pipe(clips[0], text=QUESTIONS[0], **change, **GREEDY)
        assert calls
        memory, pipe.memory = pipe.memory, None
        assert pipe(clips[0], text=QUESTIONS[0], **change, **GREEDY) == changed
        pipe.memory = memory
    calls.clear()
    shutil.copy(clips[1], tmp_path / "copy.mp4")
    pipe(str(copied), text=QUESTIONS[0], **GREEDY)
    assert calls, "the file holds another video now"


def test_a_memory_forgets_what_the_weights_made(clips: list[str]) -> None:
    pipe = load()
    pipe.memory = MediaMemory(64 << 20)
    calls = counting(pipe)
    pipe(clips[0], text=QUESTIONS[0], **GREEDY)
    with torch.no_grad():
        pipe.model.model.connector.linear_1.weight[0, 0] += 1
    pipe(clips[0], text=QUESTIONS[0], **GREEDY)
    assert len(calls) == 2


def test_a_memory_is_bounded(pipe: Any, clips: list[str]) -> None:
    probe = MediaMemory(64 << 20)
    pipe.memory = probe
    try:
        for clip in clips:
            pipe(clip, text=QUESTIONS[0], **GREEDY)
        assert len(probe) == 3
        size = probe.num_bytes // 3
        assert size > 0
        pipe.memory = small = MediaMemory(2 * size)
        for clip in (clips[0], clips[1], clips[0], clips[2]):
            pipe(clip, text=QUESTIONS[0], **GREEDY)
        assert (len(small), small.num_found, small.num_bytes) == (2, 1, 2 * size)
        pipe(clips[0], text=QUESTIONS[0], **GREEDY)
        assert small.num_found == 2, "the least recently used video was dropped, and not this one"
        small.clear()
        assert len(small) == 0
        pipe.memory = tiny = MediaMemory(size - 1)
        pipe(clips[0], text=QUESTIONS[0], **GREEDY)
        assert len(tiny) == 0
    finally:
        pipe.memory = None
    with pytest.raises(ValueError, match="max_bytes=0"):
        MediaMemory(0)


def test_identities() -> None:
    one, other = load(), load()
    assert model_identity(one.model) == model_identity(other.model)
    assert processor_identity(one.processor) == processor_identity(other.processor)
    other.processor.chat_template = "other"
    assert processor_identity(one.processor) != processor_identity(other.processor)
    assert media_identity([{"type": "video", "video": "https://host/clip.mp4"}]) is None
    frames = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    same = media_identity([{"type": "video", "video": frames}])
    assert same == media_identity([{"type": "video", "video": frames.numpy()}])
    assert same != media_identity([{"type": "video", "video": frames + 1}])
    assert same != media_identity([{"type": "video", "video": frames.reshape(2, 4, 16, 3)}])
