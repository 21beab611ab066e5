"""Mirrors of MSVD-QA, MSRVTT-QA and TGIF-QA on the Hub: every layout gives the questions of the original files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from hf_videollm.evaluation.data_files import DataError, DataFiles
from hf_videollm.evaluation.items import Item
from hf_videollm.evaluation.tasks import find_task
from hf_videollm.models.media_video import load_video
from hf_videollm.synthetic.benchmarks.media import known_questions, write_json, write_parquet, write_video
from hf_videollm.synthetic.benchmarks.open_qa_mirrors import LAYOUTS, write_mirror
from hf_videollm.synthetic.render import render_scene

Load = Callable[[str, Path], list[Item]]
TABLE = "data/test-00000-of-00001.parquet"
SETS = ("msvd", "msrvtt", "tgif")


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_questions(tmp_path: Path, load: Load, layout: str, name: str) -> None:
    write_mirror(tmp_path, name, layout)
    items = load(f"{name}_qa", tmp_path)
    known = known_questions(20)
    assert {(item.question, item.answer) for item in items} == {(each.qa.question, each.qa.answer) for each in known}
    assert len({item.id for item in items}) == len(items) == 20
    for item in items:
        each = next(each for each in known if each.clip == item.media[0].path.stem)
        frames, _ = load_video(item.media[0].path)
        # The clip of the question, whatever form it has: encoders change colours a little.
        assert abs(frames.astype(int) - render_scene(each.scene)).mean() < 6
        assert set(item.groups) == {"type" if name == "tgif" else "question_word"}


def test_the_original_files_count_more(tmp_path: Path, load: Load) -> None:
    write_mirror(tmp_path, "msvd", "conversations")
    write_json(tmp_path / "test_q.json", [{"video_name": "x", "question": "who?", "question_id": "1"}])
    write_json(tmp_path / "test_a.json", [{"answer": "a man", "question_id": "1"}])
    assert [item.question for item in load("msvd_qa", tmp_path)] == ["who?"]


def test_a_video_counts_more_than_its_frames(tmp_path: Path, load: Load) -> None:
    """Whoever has the videos gets the frames that the model asks for."""
    write_mirror(tmp_path, "msvd", "videos_in_rows")
    first = known_questions(1)[0]
    write_video(first.scene, tmp_path / f"YouTubeClips/{first.clip}.avi")
    items = load("msvd_qa", tmp_path)
    assert items[0].media[0].path.suffix == ".avi"
    assert items[-1].media[0].path.parent == tmp_path / "unpacked"


def test_frames_are_written_once(tmp_path: Path, load: Load) -> None:
    write_mirror(tmp_path, "msvd", "videos_in_rows", count=3)
    before = load("msvd_qa", tmp_path)
    place = before[0].media[0].path / "00000.png"
    time = place.stat().st_mtime_ns
    assert load("msvd_qa", tmp_path) == before
    assert place.stat().st_mtime_ns == time


def change_row(folder: Path, **fields: Any) -> None:
    rows = pyarrow.parquet.read_table(folder / TABLE).to_pylist()
    rows[0].update(fields)
    write_parquet(folder / TABLE, [{name: value for name, value in row.items() if value != "gone"} for row in rows])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"qa": [["why?"]]}, r"row 0: qa should hold pairs of question and answer, not \['why\?'\]"),
        ({"num_frames": 3}, r"row 0: binary_frames has .* bytes, which are no frames \(3, 64, 64, 3\)"),
        ({"channels": 1}, "row 0: binary_frames has"),
        ({"num_frames": -20, "height": -64}, "row 0: binary_frames has"),
        ({"video_path": "a/.."}, r"leads out of the folder|row 0"),
        ({"qa": [["why?", " "]]}, "row 0: answer is blank"),
    ],
)
def test_wrong_rows_with_videos(tmp_path: Path, load: Load, fields: dict[str, Any], words: str) -> None:
    write_mirror(tmp_path, "msvd", "videos_in_rows", count=2)
    change_row(tmp_path, **fields)
    with pytest.raises(DataError, match=words) as error:
        load("msvd_qa", tmp_path)
    assert "\n" not in str(error.value)


def test_columns_are_checked(tmp_path: Path, load: Load) -> None:
    write_mirror(tmp_path, "msrvtt", "table", count=2)
    rows = pyarrow.parquet.read_table(tmp_path / TABLE).to_pylist()
    write_parquet(
        tmp_path / TABLE, [{"questions" if n == "question" else n: v for n, v in row.items()} for row in rows]
    )
    with pytest.raises(DataError, match=r"lacks the column 'question': did you mean questions") as error:
        load("msrvtt_qa", tmp_path)
    assert "\n" not in str(error.value)


def test_an_id_that_stands_twice(tmp_path: Path, load: Load) -> None:
    write_mirror(tmp_path, "tgif", "table", count=2)
    rows = pyarrow.parquet.read_table(tmp_path / TABLE).to_pylist()
    write_parquet(tmp_path / TABLE, [rows[0], rows[0]])
    with pytest.raises(DataError, match=r"row 1: the id .* stands already in .*row 0"):
        load("tgif_qa", tmp_path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"id": "1", "video": "x", "conversations": [{"value": "why?"}]}, "line 1: conversations should be a question"),
        ({"id": "1", "video": "x", "conversations": ["why?", "so"]}, "line 1: conversations should be a question"),
        ({"id": "1", "conversations": [{"value": "a"}, {"value": "b"}]}, "line 1: the field 'video' is missing"),
        ({"video": "x", "conversations": [{"value": "a"}, {"value": "b"}]}, "line 1: the field 'idx' is missing"),
        ({"id": "1", "video": "../x", "conversations": [{"value": "a"}, {"value": "b"}]}, "leads out of the folder"),
    ],
)
def test_wrong_conversations(tmp_path: Path, load: Load, line: dict[str, Any], words: str) -> None:
    (tmp_path / "msvd.qa.official.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(DataError, match=words):
        load("msvd_qa", tmp_path)


def test_a_set_does_not_read_the_lines_of_another(tmp_path: Path) -> None:
    """One download of ShareGPTVideo holds all three."""
    for name in SETS:
        write_mirror(tmp_path, name, "conversations", count=2 + SETS.index(name))
    found = {name: len(list(find_task(f"{name}_qa").items(DataFiles(tmp_path)))) for name in SETS}
    assert found == {"msvd": 2, "msrvtt": 3, "tgif": 4}


def test_an_unknown_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no layout 'tables': did you mean table"):
        write_mirror(tmp_path, "msvd", "tables")
