"""What a session was made from: media and settings as they were when they were read, and the weights themselves."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hf_videollm
from hf_videollm import CheckpointError, MediaMemory, VideoSession
from hf_videollm.models.errors import MediaWarning
from hf_videollm.models.video_llm_identity import model_identity
from hf_videollm.models.video_llm_media_digests import MediaChangedError, MediaSources, media_identity
from hf_videollm.models.video_llm_model_stamp import ModelStamp

FRAMES = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
OTHERS = 255 - FRAMES


@pytest.fixture(scope="module")
def pipe() -> Any:
    return hf_videollm.load_pipeline("pllava-tiny", dtype="float32", device="cpu")


def pictures(folder: Path, frames: np.ndarray) -> list[str]:
    folder.mkdir(exist_ok=True)
    names = [str(folder / f"{number}.png") for number in range(len(frames))]
    for name, frame in zip(names, frames, strict=True):
        Image.fromarray(frame).save(name)
    return names


def array(folder: Path, clips: list[str]) -> tuple[Any, Callable[[], Any]]:
    frames = FRAMES.copy()
    return frames, lambda: np.copyto(frames, OTHERS)


def tensor(folder: Path, clips: list[str]) -> tuple[Any, Callable[[], Any]]:
    frames = torch.from_numpy(FRAMES.copy())
    return frames, lambda: frames.copy_(torch.from_numpy(OTHERS))


def opened_pictures(folder: Path, clips: list[str]) -> tuple[Any, Callable[[], Any]]:
    images = [Image.fromarray(frame) for frame in FRAMES]
    return images, lambda: [image.paste(Image.fromarray(frame)) for image, frame in zip(images, OTHERS, strict=True)]


def list_of_pictures(folder: Path, clips: list[str]) -> tuple[Any, Callable[[], Any]]:
    return pictures(folder / "frames", FRAMES), lambda: pictures(folder / "frames", OTHERS)


def folder_of_pictures(folder: Path, clips: list[str]) -> tuple[Any, Callable[[], Any]]:
    pictures(folder / "frames", FRAMES)
    return str(folder / "frames"), lambda: pictures(folder / "frames", OTHERS)


def longer_folder(folder: Path, clips: list[str]) -> tuple[Any, Callable[[], Any]]:
    pictures(folder / "frames", FRAMES)
    return str(folder / "frames"), lambda: Image.fromarray(OTHERS[0]).save(folder / "frames" / "9.png")


def file(folder: Path, clips: list[str]) -> tuple[Any, Callable[[], Any]]:
    path = shutil.copy(clips[0], folder / "clip.mp4")
    return Path(path), lambda: shutil.copy(clips[1], path)


def bytes_that_change(folder: Path, clips: list[str]) -> tuple[Any, Callable[[], Any]]:
    data = bytearray(Path(clips[0]).read_bytes())
    return data, lambda: data.__setitem__(slice(None), Path(clips[1]).read_bytes())


def stream(folder: Path, clips: list[str]) -> tuple[Any, Callable[[], Any]]:
    data = io.BytesIO(Path(clips[0]).read_bytes())
    return data, lambda: (data.seek(0), data.truncate(), data.write(Path(clips[1]).read_bytes()))


MEDIA = [
    array,
    tensor,
    opened_pictures,
    list_of_pictures,
    folder_of_pictures,
    longer_folder,
    file,
    bytes_that_change,
    stream,
]


@pytest.mark.parametrize("make", MEDIA)
def test_media_are_those_that_were_read(make: Any, pipe: Any, clips: list[str], tmp_path: Path) -> None:
    """Media that change after they were read are refused, at the latest by `open_saved`; what is as it was is not."""
    for is_changed in (False, True):
        folder = tmp_path / str(is_changed)
        folder.mkdir()
        video, change = make(folder, clips)
        session = pipe.open(video)
        if is_changed:
            change()
            with pytest.raises((MediaChangedError, CheckpointError), match=r"other media|has changed or is gone"):
                VideoSession.open_saved(session.save(folder / "s"), pipe.model, pipe.processor, video)
        else:
            assert VideoSession.open_saved(session.save(folder / "s"), pipe.model, pipe.processor, video)


def test_a_file_that_keeps_its_size_and_time(tmp_path: Path) -> None:
    """Only the time of its entry shows the change; a file that is only read is as it was."""
    import os

    path = tmp_path / "clip"
    path.write_bytes(b"1234")
    sources = MediaSources([{"type": "video", "video": str(path)}])
    known, found = sources.digests(), path.stat()
    path.read_bytes()
    assert sources.digests() == known
    path.write_bytes(b"4321")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    with pytest.raises(MediaChangedError, match="clip has changed"):
        sources.digests()
    path.unlink()
    with pytest.raises(MediaChangedError, match="is gone"):
        MediaSources([{"type": "video", "video": str(path)}]).digests() or sources.digests()


def test_a_stream_is_the_file_and_an_address_is_nothing(clips: list[str], pipe: Any, tmp_path: Path) -> None:
    by_name = media_identity([{"type": "video", "video": clips[0]}])
    with open(clips[0], "rb") as opened:
        opened.seek(7)
        assert media_identity([{"type": "video", "video": opened}]) == by_name
        assert opened.tell() == 7
        saved = pipe.open(opened).save(tmp_path / "s")
    assert VideoSession.open_saved(saved, pipe.model, pipe.processor, clips[0])

    class Unknown:
        """It can be read once, and has no bytes that could be compared."""

        def __init__(self) -> None:
            self.data = io.BytesIO(Path(clips[0]).read_bytes())
            self.closed = False
            self.read, self.seek, self.tell = self.data.read, self.data.seek, self.data.tell

    with pytest.warns(MediaWarning, match="will not say from which media"):
        saved = pipe.open(Unknown()).save(tmp_path / "t")
    assert VideoSession.open_saved(saved, pipe.model, pipe.processor)
    with pytest.raises(CheckpointError, match="does not say from which media"):
        VideoSession.open_saved(saved, pipe.model, pipe.processor, clips[0])


@pytest.mark.parametrize("setting", ["num_frames", "image_mean"])
def test_settings_are_those_that_were_used(setting: str, clips: list[str], tmp_path: Path) -> None:
    """A file of a session whose processor was set in another way since fits the processor as it was."""
    pipe = hf_videollm.load_pipeline("pllava-tiny", dtype="float32", device="cpu")
    session = pipe.open(clips[0])
    part = pipe.processor.video_processor
    before = getattr(part, setting)
    setattr(part, setting, 4 if setting == "num_frames" else [0.1, 0.1, 0.1])
    session.save(tmp_path / "s")
    with pytest.raises(CheckpointError, match="another processor"):
        VideoSession.open_saved(tmp_path / "s", pipe.model, pipe.processor)
    setattr(part, setting, before)
    assert VideoSession.open_saved(tmp_path / "s", pipe.model, pipe.processor).frames == session.frames


def counted_write(weight: torch.Tensor) -> None:
    with torch.no_grad():
        weight.mul_(-3)


def swapped(weight: torch.Tensor) -> None:
    with torch.no_grad():
        weight[[3, 4]] = weight[[4, 3]]


def hidden_write(weight: torch.Tensor) -> None:
    weight.data.mul_(-3)


def hidden_swap(weight: torch.Tensor) -> None:
    weight.data[[3, 4]] = weight.data[[4, 3]]


def hidden_shuffle(weight: torch.Tensor) -> None:
    flat = weight.data.view(-1)
    flat[65:128] = flat[65:128].flip(0)


def hidden_value(weight: torch.Tensor) -> None:
    weight.data[1, 1] += 1e-3


CHANGES = [counted_write, swapped, hidden_write, hidden_swap, hidden_shuffle, hidden_value]


@pytest.mark.parametrize("part", ["connector", "embed_tokens"])
def test_every_change_of_a_weight_is_seen_by_what_is_written_to_disk(part: str, pipe: Any) -> None:
    """Also one of places, and one that torch does not count; undoing it gives the first digest again."""
    weight = weight_of(pipe.model, part)
    values = weight.detach().clone()
    known = model_identity(pipe.model, every_value=True)
    assert model_identity(pipe.model, every_value=True) == known
    for change in CHANGES:
        change(weight)
        assert model_identity(pipe.model, every_value=True)["weights"] != known["weights"], change.__name__
        weight.data.copy_(values)
        assert model_identity(pipe.model, every_value=True) == known


def weight_of(model: Any, part: str) -> torch.Tensor:
    return next(
        weight
        for name, weight in model.named_parameters()
        if part in name and weight.ndim == 2 and weight.numel() > 9_000
    )


def test_a_change_that_torch_does_not_count(pipe: Any, clips: list[str]) -> None:
    """A session and a memory see it at once, unless it is one of few values (`video_llm_model_stamp.py`)."""
    asked = {"do_sample": False, "max_new_tokens": 2}
    weight = weight_of(pipe.model, "vision_tower")
    values = weight.detach().clone()
    pipe.memory = MediaMemory(64 << 20)
    try:
        session = pipe.open(clips[0])
        assert session.ask("What is it?", **asked) is not None
        pipe(clips[0], text="What is it?", **asked)
        assert (pipe.memory.num_found, pipe.memory.num_missed) == (1, 1)
        stamps = [ModelStamp(pipe.model) for _ in range(20)]
        assert all(stamp.fits(pipe.model) for stamp in stamps)
        weight.data.view(-1)[: weight.numel() // 4] *= -3
        assert not any(stamp.fits(pipe.model) for stamp in stamps)
        with pytest.raises(ValueError, match="have changed since the session watched"):
            session.ask("What is it?", **asked)
        pipe(clips[0], text="What is it?", **asked)
        assert (pipe.memory.num_found, pipe.memory.num_missed) == (1, 2)
    finally:
        pipe.memory = None
        weight.data.copy_(values)


def test_stamps_look_at_other_places_each_time(pipe: Any) -> None:
    """So a change of few values is seen sooner or later, and the user's random numbers stay as they are."""
    weight = weight_of(pipe.model, "embed_tokens")
    state = torch.random.get_rng_state()
    stamps = [ModelStamp(pipe.model) for _ in range(30)]
    assert torch.equal(torch.random.get_rng_state(), state)
    values = weight.detach().clone()
    weight.data.view(-1)[:: len(weight.view(-1)) // 100] += 1
    seen = [not stamp.fits(pipe.model) for stamp in stamps]
    weight.data.copy_(values)
    assert any(seen)
    assert all(stamp.fits(pipe.model) for stamp in stamps)
