"""Frames by shots: the allotment of docs/designs/linvt.md#shots, shots of real files, and PySceneDetect's door."""

import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_videollm.models.errors import MissingBackend, UnsupportedMedia
from hf_videollm.models.media_shots import allot_frames, find_shots_by_content, frames_of_shots, shot_sampler
from hf_videollm.models.media_video import load_video

draws = settings(max_examples=100, deadline=None, derandomize=True, database=None)
lengths_of_shots = st.lists(st.integers(1, 500), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("lengths", "num_frames", "expected"),
    [
        ([100], 8, [8]),
        ([10, 30], 4, [1, 3]),
        # One frame at least, which the longest pays.
        ([1, 1, 98], 6, [1, 1, 4]),
        # 2.67 of each are 3 of each, which is one too many.
        ([10, 10, 10], 8, [2, 3, 3]),
        # 1.33 of each are 1 of each, which is one too few.
        ([10, 10, 10], 4, [2, 1, 1]),
        # More shots than frames: the longest, the earlier of two equal ones.
        ([5, 9, 5, 7, 9], 3, [0, 1, 0, 1, 1]),
        ([5, 5, 5], 2, [1, 1, 0]),
        # Halves go up: 2.5 are 3 and 0.5 is 1, so the longest gives one back.
        ([5, 1], 3, [2, 1]),
    ],
)
def test_allotment_by_hand(lengths: list[int], num_frames: int, expected: list[int]) -> None:
    assert allot_frames(lengths, num_frames) == expected


@draws
@given(lengths_of_shots, st.integers(1, 64))
def test_allotment_in_general(lengths: list[int], num_frames: int) -> None:
    shares = allot_frames(lengths, num_frames)
    assert sum(shares) == num_frames
    if len(lengths) > num_frames:
        assert set(shares) <= {0, 1}
        left_out = [length for length, share in zip(lengths, shares, strict=True) if not share]
        assert max(left_out) <= min(length for length, share in zip(lengths, shares, strict=True) if share)
    else:
        assert min(shares) >= 1
        exact = [Fraction(num_frames * length, sum(lengths)) for length in lengths]
        rounded = [max(1, int(share + Fraction(1, 2))) for share in exact]
        changes = [share - before for share, before in zip(shares, rounded, strict=True)]
        assert len({change > 0 for change in changes if change}) <= 1, "only added or only taken away"


@draws
@given(lengths_of_shots, st.integers(1, 64))
def test_frames_are_middles_of_equal_parts_in_order(lengths: list[int], num_frames: int) -> None:
    edges = np.cumsum([0, *lengths]).tolist()
    frames = frames_of_shots(list(pairwise(edges)), num_frames)
    assert frames.dtype == np.int64
    assert (np.diff(frames) >= 0).all()
    position = 0
    for start, length, share in zip(edges, lengths, allot_frames(lengths, num_frames), strict=False):
        for part in range(share):
            exact = start + (part + 0.5) * length / share
            assert frames[position] == int(exact + 1e-9)
            assert start <= frames[position] < start + length
            position += 1
    assert position == num_frames


def test_without_shots_frames_are_uniform(clips: list[str]) -> None:
    """As the reader takes them."""
    _, uniform = load_video(clips[0], num_frames=5)
    _, by_shots = load_video(clips[0], sample_indices_fn=shot_sampler(clips[0], 5, lambda video: []))
    assert by_shots.frames_indices == uniform.frames_indices


def test_shots_choose_the_frames_of_a_file(clips: list[str]) -> None:
    """A finder of one's own, which is told the video and asked once; its shots may lie outside of the file."""
    asked: list[Any] = []

    def find(video: Any) -> list[tuple[int, int]]:
        asked.append(video)
        return [(10**6, 10**6 + 5), (4, 8), (0, 4)]

    sampler = shot_sampler(clips[0], 4, find)
    frames, metadata = load_video(clips[0], sample_indices_fn=sampler)
    assert list(metadata.frames_indices) == [1, 3, 5, 7]
    assert len(frames) == 4
    load_video(clips[1], sample_indices_fn=sampler)
    assert asked == [clips[0]]


def test_shots_are_cut_off_at_the_end() -> None:
    assert frames_of_shots([(0, 10), (10, 99)], 4, total_num_frames=20).tolist() == [2, 7, 12, 17]


@pytest.mark.parametrize("shots", [[(0, 5), (4, 8)], [(5, 3)], [(-2, 4)]])
def test_shots_that_cannot_be(shots: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="runs backwards, or begins before"):
        frames_of_shots(shots, 4)


@pytest.mark.parametrize(
    ("shots", "num_frames", "named"),
    [([(0, 5)], 0, "num_frames=0"), ([], 4, "at least one shot")],
)
def test_nothing_to_choose(shots: list[tuple[int, int]], num_frames: int, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        frames_of_shots(shots, num_frames)


# ----------------------------------------------------------------------------------------------------- PySceneDetect


def test_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, clips: list[str]) -> None:
    monkeypatch.setitem(sys.modules, "scenedetect", None)
    with pytest.raises(MissingBackend, match=r'pip install "hf-videollm\[shots\]"'):
        shot_sampler(clips[0], 4)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Calls that reach a stand-in with the names of PySceneDetect 0.6 and 0.7."""
    calls: list[tuple[Any, ...]] = []
    module = ModuleType("scenedetect")

    def detect(path: str, detector: Any, start_in_scene: bool = False) -> list[tuple[Any, Any]]:
        calls.append((path, detector.threshold, start_in_scene))
        return [(SimpleNamespace(frame_num=start), SimpleNamespace(frame_num=end)) for start, end in ((0, 3), (3, 12))]

    module.detect = detect  # type: ignore[attr-defined]
    module.ContentDetector = SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "scenedetect", module)
    return calls


def test_what_is_asked_of_the_library(stand_in: list[tuple[Any, ...]], clips: list[str]) -> None:
    assert find_shots_by_content(Path(clips[0]), threshold=30.5) == [(0, 3), (3, 12)]
    # A video without cuts is one scene, and not none.
    assert stand_in == [(clips[0], 30.5, True)]


@pytest.mark.parametrize("video", ["/nowhere/video.mp4", b"bytes", np.zeros((2, 4, 4, 3))])
def test_what_is_no_file_is_refused(stand_in: list[tuple[Any, ...]], video: Any) -> None:
    with pytest.raises(UnsupportedMedia, match="files on this machine only"):
        find_shots_by_content(video)
    assert stand_in == []


def test_a_real_cut_is_found(tmp_path: Path) -> None:
    """A dark half and a bright half, by the library itself where it is installed."""
    pytest.importorskip("scenedetect", reason='PySceneDetect is not installed: pip install "hf-videollm[shots]"')
    import av

    path = tmp_path / "cut.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=25)
        stream.width = stream.height = 64
        for frame in range(60):
            picture = np.full((64, 64, 3), 20 if frame < 20 else 220, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    assert find_shots_by_content(path) == [(0, 20), (20, 60)]
    _, metadata = load_video(path, sample_indices_fn=shot_sampler(path, 3))
    assert list(metadata.frames_indices) == [10, 30, 50]
