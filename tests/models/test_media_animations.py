"""An animation has the same times in every format, whether PIL opened it or its file is passed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media_corpus import number_picture, read_numbers
from PIL import Image

from hf_videollm.models.media_animations import FASTEST
from hf_videollm.models.media_video import (
    CorruptMedia,
    MediaError,
    MediaLimits,
    MediaTooLarge,
    UnsupportedMedia,
    load_video,
    probe_video,
)
from hf_videollm.models.video_processing_video_llm import VideoLlmVideoProcessor

DURATIONS = [100, 500, 100, 100]
SUFFIXES = {"GIF": ".gif", "WEBP": ".webp", "PNG": ".png"}
REQUESTS: list[dict[str, Any]] = [
    {},
    {"num_frames": 2},
    {"start": 0.1},
    {"start": 0.3, "end": 0.5},
    {"start": 0.3, "end": 0.65},
    {"end": 0.6},
    {"start": 0.6, "num_frames": 3},
]


def animation(form: str, durations: list[int] | int = DURATIONS, count: int = 4, **options: Any) -> bytes:
    pictures = [Image.fromarray(number_picture(number + 1)) for number in range(count)]
    target = io.BytesIO()
    lossless = {"lossless": True} if form == "WEBP" else {}
    times = {} if form == "TIFF" else {"duration": durations}
    pictures[0].save(target, form, save_all=True, append_images=pictures[1:], **times, **lossless, **options)
    return target.getvalue()


def sources(form: str, folder: Path) -> list[Any]:
    data = animation(form)
    path = folder / f"moves{SUFFIXES[form]}"
    path.write_bytes(data)
    opened = Image.open(path)
    opened.seek(2)  # where the picture stands does not matter
    return [path, str(path), data, io.BytesIO(data), opened, Image.open(io.BytesIO(data)), [Image.open(path)]]


@pytest.mark.parametrize("form", ["WEBP", "PNG"])
def test_an_animation_has_the_times_and_frames_of_the_same_gif(form: str, tmp_path: Path) -> None:
    gif = animation("GIF")
    for source in sources(form, tmp_path):
        about, expected = probe_video(source), probe_video(gif)
        np.testing.assert_allclose(about.frame_times, expected.frame_times)
        np.testing.assert_allclose(about.frame_times, [0, 0.1, 0.6, 0.7])
        assert (about.duration, about.fps) == pytest.approx((expected.duration, expected.fps))
        for request in REQUESTS:
            frames, metadata = load_video(source, **request)
            _, wanted = load_video(gif, **request)
            assert metadata.frames_indices == wanted.frames_indices, request
            assert read_numbers(frames) == [index + 1 for index in metadata.frames_indices]
            np.testing.assert_allclose(metadata.timestamps, wanted.timestamps)
        with pytest.raises(MediaError, match=r"after the end of the video at 0\.80 s"):
            load_video(source, start=0.9)


@pytest.mark.parametrize("form", ["WEBP", "PNG"])
def test_an_opened_animation_can_be_read_again_from_wherever_it_stands(form: str) -> None:
    picture = Image.open(io.BytesIO(animation(form)))
    for place in (2, 0, 1, 3, 1):
        picture.seek(place)
        picture.load()
        numbers = load_video(picture, sample_indices_fn=lambda metadata: [3, 1, 2, 0, 1])[0]
        assert read_numbers(numbers) == [4, 2, 3, 1, 2]
        assert read_numbers(load_video(picture, start=0.1, end=0.6)[0]) == [2]


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_other_durations_choose_other_frames(form: str) -> None:
    """The control: the times are those of the file, not those of a constant rate."""
    chosen = [load_video(animation(form, times), start=0.45)[1].frames_indices for times in (DURATIONS, 200)]
    assert chosen == [[2, 3], [3]]


@pytest.mark.parametrize("form", ["WEBP", "PNG"])
def test_the_processor_chooses_by_time_as_in_a_gif(form: str) -> None:
    processor = VideoLlmVideoProcessor(size={"height": 48, "width": 64}, num_frames=4)
    for request in ({"fps": 5.0}, {"start": 0.3, "end": 0.65, "num_frames": 2}, {"num_frames": 3}):
        chosen = [
            processor(videos=[source], return_metadata=True, return_tensors="pt", **request)["video_metadata"][0]
            for source in (Image.open(io.BytesIO(animation(form))), Image.open(io.BytesIO(animation("GIF"))))
        ]
        assert list(chosen[0].frames_indices) == list(chosen[1].frames_indices), request


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_a_still_picture_has_no_times(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"still{SUFFIXES[form]}"
    Image.fromarray(number_picture(1)).save(path, form)
    picture = Image.open(path)
    assert (probe_video(picture).fps, probe_video(picture).duration) == (None, None)
    with pytest.raises(ValueError, match="no times"):
        load_video(picture, start=0)
    if form != "GIF":
        with pytest.raises(UnsupportedMedia, match="picture, not a video"):
            load_video(path)


def test_pictures_without_durations_have_no_times() -> None:
    """The pages of a TIFF; and an APNG whose first picture is shown by viewers that know no animations."""
    for data in (animation("TIFF"), animation("PNG", default_image=True)):
        picture = Image.open(io.BytesIO(data))
        assert probe_video(picture).fps is None
        assert len(load_video(picture)[0]) == picture.n_frames
        with pytest.raises(ValueError, match="no times"):
            load_video(picture, start=0)
        with pytest.raises(MediaError):
            load_video(data)


@pytest.mark.parametrize("form", ["WEBP", "PNG"])
def test_a_frame_of_no_duration_is_shown_as_long_as_in_a_gif(form: str) -> None:
    times = [probe_video(animation(each, [100, 0, 100, 100])).frame_times for each in (form, "GIF")]
    np.testing.assert_allclose(times[0], times[1])
    assert times[0][2] - times[0][1] == pytest.approx(FASTEST)


@pytest.mark.parametrize("form", ["WEBP", "PNG"])
def test_a_damaged_or_large_animation_is_refused(form: str) -> None:
    data = animation(form)
    for source in (data, Image.open(io.BytesIO(data))):
        with pytest.raises(MediaTooLarge):
            load_video(source, limits=MediaLimits(max_pixels=1000))
        with pytest.raises(MediaTooLarge):
            load_video(source, limits=MediaLimits(timeout=1e-9))
    if form == "PNG":
        with pytest.raises((CorruptMedia, UnsupportedMedia)):
            load_video(data[: len(data) * 3 // 4])
