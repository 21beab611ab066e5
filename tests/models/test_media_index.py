"""The index of a container, or a list that was kept, gives the same frames as reading all packets of the file."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from backends import read, record_decoded
from media_corpus import number_picture, read_numbers, write_video
from media_oddities import FILES, GROUPS, plain_decode, write

from hf_videollm.models import media_index, media_list_cache, media_pyav
from hf_videollm.models.errors import MediaLimits, MediaTooLarge
from hf_videollm.models.media_mp4_times import TrackTimes
from hf_videollm.models.media_pyav import PyAVReader
from hf_videollm.models.media_video import load_video, probe_video

HAS_INDEX = pytest.mark.skipif(
    not hasattr(av.video.stream.VideoStream, "index_entries"),
    reason="this PyAV has no indices: packets are read",
)


@pytest.fixture(autouse=True)
def _no_lists() -> Iterator[None]:
    media_list_cache.forget()
    yield
    media_list_cache.forget()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("indices")


OF_INDEX = (
    "plain mp4",
    "late mp4",
    "uneven mp4",
    "cut h264 mp4",
    "intra refresh mp4",
    "cut among B-frames",
    "cut mpeg4",
)
OF_PACKETS = ("fragments", "fragments of one frame", "edit list", "negative mp4", "plain mkv", "negative ts", "avi")


@HAS_INDEX
def test_the_index_is_used_where_it_suffices(folder: Path) -> None:
    """`test_media_frames.test_frame_i_is_one_picture` compares the frames, on the whole corpus."""
    used = [name for name in (*OF_INDEX, *OF_PACKETS) if read(str(FILES[name](folder)), [0])[0]]
    assert used == list(OF_INDEX)


@HAS_INDEX
def test_a_wrong_index_is_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: without the comparison with the packets, wrong offsets would give wrong frames."""
    path = str(FILES["plain mp4"](folder))
    right = plain_decode(Path(path))

    def with_wrong_offsets(handle: Any, track: int) -> TrackTimes:
        times = original(handle, track)
        assert times is not None
        late = 128 * (np.arange(len(times.offsets)) % 2)
        return TrackTimes(times.decoded, times.offsets + late, times.smallest)

    original = media_index.track_times
    monkeypatch.setattr(media_index, "track_times", with_wrong_offsets)
    is_from_index, _, frames = read(path)
    assert not is_from_index
    assert np.array_equal(frames, right)
    media_list_cache.forget()
    monkeypatch.setattr(media_pyav, "is_packet", lambda packets, position, packet: True)
    is_from_index, facts, _ = read(path, [0])
    assert is_from_index
    assert facts != read_facts(path, monkeypatch)


def read_facts(path: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    monkeypatch.undo()
    media_list_cache.forget()
    return read(path)[1]


class Counted(io.BytesIO):
    """A file that counts the bytes that are read from it."""

    taken = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.taken += len(data)
        return data


@HAS_INDEX
def test_a_long_file_is_not_read_to_know_its_frames(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    noise = [random.integers(0, 255, (96, 128, 3), dtype=np.uint8) for _ in range(120)]
    path = write_video(tmp_path / "noise.mp4", noise, options={**GROUPS, "crf": "20"})
    size = path.stat().st_size
    by_index, by_packets = Counted(path.read_bytes()), Counted(path.read_bytes())
    assert read(by_index, [60])[0]
    read(by_packets, [60], trusts_index=False)
    assert by_index.taken < 0.6 * size
    assert by_packets.taken > size  # control


# --- kept lists ------------------------------------------------------------------------------------------------------


def packets_read(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A list that fills with the packets that readers read."""
    seen: list[Any] = []
    original = PyAVReader._packets

    def recording(self: Any) -> Iterator[Any]:
        for packet in original(self):
            seen.append(packet)
            yield packet

    monkeypatch.setattr(PyAVReader, "_packets", recording)
    return seen


@pytest.mark.parametrize("name", ["plain mkv", "plain mp4", "late ts", "cut h264 mkv", "avi h264", "cut with sound"])
def test_a_kept_list_gives_the_same_frames(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(media_list_cache, "_STEP_OF_CLOCK", 0.0)
    path = str(FILES[name](folder))
    seen = packets_read(monkeypatch)
    _, facts, frames = read(path)
    seen.clear()
    probe_video(path)
    assert not seen
    _, kept_facts, kept_frames = read(path)
    assert kept_facts == facts
    assert np.array_equal(kept_frames, frames)
    media_list_cache.forget()
    seen.clear()
    probe_video(path)
    assert seen  # control


def test_a_changed_file_is_listed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_list_cache, "_STEP_OF_CLOCK", 0.0)
    path = write(tmp_path, "changing.mkv", 20)
    assert probe_video(path).total_num_frames == 20
    write(tmp_path, "changing.mkv", 30)
    assert probe_video(path).total_num_frames == 30
    assert read_numbers(load_video(path)[0]) == list(range(30))
    # Control: a list that is kept by the path alone would be of the old file.
    for module in (media_list_cache, media_pyav):
        monkeypatch.setattr(module, "file_identity", lambda handle: (handle.path,))
    assert probe_video(path).total_num_frames == 30
    write(tmp_path, "changing.mkv", 10)
    assert probe_video(path).total_num_frames == 30


def test_a_file_that_was_just_written_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its next change might have the same time."""
    monkeypatch.setattr(media_list_cache, "_STEP_OF_CLOCK", 3600.0)
    probe_video(write(tmp_path, "new.mkv", 5))
    assert not media_list_cache._kept
    monkeypatch.setattr(media_list_cache, "_STEP_OF_CLOCK", 0.0)
    probe_video(tmp_path / "new.mkv")
    assert len(media_list_cache._kept) == 1  # control


def test_kept_lists_are_bounded_and_nobody_changes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_list_cache, "_STEP_OF_CLOCK", 0.0)
    paths = [write(tmp_path, f"{number}.mkv", 10) for number in range(4)]
    metadata = probe_video(paths[0])
    metadata.frame_times[:] = -1
    assert probe_video(paths[0]).frame_times[1] == pytest.approx(0.04)
    (one,) = media_list_cache._kept.values()
    monkeypatch.setattr(media_list_cache, "_MOST_BYTES", int(2.5 * one.nbytes))
    for path in paths[1:]:
        probe_video(path)
    assert [key[0] for key in media_list_cache._kept] == [str(path) for path in paths[2:]]
    probe_video(io.BytesIO(paths[0].read_bytes()))
    assert len(media_list_cache._kept) == 2


def test_limits_hold_for_kept_lists(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_list_cache, "_STEP_OF_CLOCK", 0.0)
    path = FILES["plain mkv"](folder)
    probe_video(path)
    for limits in (MediaLimits(max_duration=1), MediaLimits(max_pixels=100), MediaLimits(max_bytes=100)):
        with pytest.raises(MediaTooLarge):
            probe_video(path, limits=limits)


def test_threads_share_kept_lists(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_list_cache, "_STEP_OF_CLOCK", 0.0)
    paths = [FILES[name](folder) for name in ("plain mkv", "plain mp4")]
    numbers: list[list[int]] = []

    def work(path: Path) -> None:
        for wanted in ([1, 30], [12], [39]):
            numbers.append(read_numbers(load_video(path, sample_indices_fn=lambda metadata, w=wanted: w)[0]))

    threads = [threading.Thread(target=work, args=(path,)) for path in paths * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == sorted([[1, 30], [12], [39]] * 4)


# --- decoding ends at the last wanted packet -------------------------------------------------------------------------


def test_no_packet_after_the_wanted_one_is_decoded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(write(folder, "thirty.mp4", 60, options={**GROUPS, "g": "30"}))
    right = plain_decode(Path(path))
    read(path, [0])
    decoded = record_decoded(monkeypatch)
    for wanted in range(30, 60):
        decoded.clear()
        assert np.array_equal(read(path, [wanted])[2][0], right[wanted])
        # In the order of decoding, up to two frames that are shown later come before a wanted one.
        assert len(decoded) <= wanted - 30 + 3, wanted


def test_both_fields_of_an_interlaced_frame_are_decoded(folder: Path) -> None:
    pictures = [number_picture(i, 320, 96) for i in range(40)]
    for flags in ("+ildct+ilme", "+ilme"):
        path = write(folder, f"interlaced{len(flags)}.mp4", pictures, options={**GROUPS, "flags": flags})
        right = plain_decode(path)
        for wanted in ([0], [5], [13, 30], [39]):
            assert np.array_equal(read(str(path), wanted)[2], right[wanted])


def test_data_in_memory_are_read_like_the_file(clips: list[str]) -> None:
    """The header is read while the decoder is in the middle of the same stream."""
    for path in clips:
        frames, _ = load_video(path)
        again, _ = load_video(Path(path).read_bytes())
        assert np.array_equal(frames, again)
