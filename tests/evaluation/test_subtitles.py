"""Subtitles: what is read from an SRT file, and which lines belong to the frames."""

from pathlib import Path

import pytest

from hf_videollm.evaluation.data_files import DataError
from hf_videollm.evaluation.subtitles import SubtitleLine, lines_at, middle_times, read_srt, video_clock
from hf_videollm.models.media_video import probe_video
from hf_videollm.synthetic.benchmarks.media import known_questions, write_video

SRT = """1
00:00:01,500 --> 00:00:03,000
<font color="white" size=".72c">First</font>
<i>line.</i>

2
00:01:00,000 --> 01:00:00,250
{\\an8}Second.

3
00:00:09,000 --> 00:00:09,500

"""


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_entries_are_read(tmp_path: Path, mark: str, ends: str) -> None:
    path = tmp_path / "a.srt"
    path.write_bytes((mark + SRT.replace("\n", ends)).encode())
    lines = read_srt(path)
    assert [(line.start, line.end, line.text) for line in lines] == [
        (1.5, 3.0, "First line."),
        (60.0, 3600.25, "Second."),
        (9.0, 9.5, ""),
    ]
    assert lines[0].raw == '<font color="white" size=".72c">First</font> <i>line.</i>'


def test_an_empty_file_has_no_lines(tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_text("\n\n")
    assert read_srt(tmp_path / "a.srt") == ()


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"Hello\nworld\n", r"a\.srt has no line such as"), (b"\xff\xfe\x00", r"a\.srt cannot be read as subtitles")],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.srt").write_bytes(content)
    with pytest.raises(DataError, match=words) as error:
        read_srt(tmp_path / "a.srt")
    assert "\n" not in str(error.value)


def test_a_line_is_taken_once_for_each_frame_that_it_is_shown_at() -> None:
    lines = [SubtitleLine(0, 4, "a", "a"), SubtitleLine(3, 6, "b", "b"), SubtitleLine(8, 9, "c", "c")]
    assert [line.text for line in lines_at(lines, [1.0, 3.5, 5.0, 7.0, 8.0, 8.5])] == ["a", "a", "b", "c"]


def test_times_are_those_of_the_middles() -> None:
    # 9 frames, two parts of 4: 0 to 4 and 4 to 8.
    assert middle_times(2, (9, 2.0)) == [1.0, 3.0]
    times = middle_times(16, (300, 30.0))
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] < 10
    assert len(times) == 16


def test_the_clock_of_a_video(tmp_path: Path) -> None:
    known = known_questions(1)[0]
    write_video(known.scene, tmp_path / "a.mp4")
    assert video_clock(tmp_path / "a.mp4") == (known.scene.num_frames, float(known.scene.fps))
    assert probe_video(str(tmp_path / "a.mp4")).total_num_frames == known.scene.num_frames
    assert video_clock(tmp_path / "missing.mp4") is None
