"""MSVD-QA, MSRVTT-QA, TGIF-QA and ActivityNet-QA: every published form of their files, prompts, and errors."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from hf_videollm.evaluation.data_files import DataError
from hf_videollm.evaluation.items import Item
from hf_videollm.evaluation.prompting import Prompt
from hf_videollm.evaluation.prompts_pllava import SETTINGS
from hf_videollm.evaluation.tasks import find_task
from hf_videollm.synthetic.benchmarks.media import known_questions, write_json, write_table

Load = Callable[[str, Path], list[Item]]
Folder = Callable[[str], Path]
Edit = Callable[[Path, Callable[[Any], Any]], None]
NAMES = ("msvd_qa", "msrvtt_qa", "tgif_qa", "activitynet_qa")
PRE = (
    "The input consists of a sequence of key frames from a video. Answer the question concisely first and followed by "
    "significant events, characters, or objects that appear throughout the frames. Question:"
)


@pytest.mark.parametrize("name", NAMES)
def test_answers_belong_to_their_questions(stand_in: Folder, load: Load, name: str) -> None:
    """The stand-in lists its answers from last to first: a join by position gives almost none of these."""
    items = load(name, stand_in(name))
    known = known_questions(len(items))
    assert [(item.question, item.answer) for item in items] == [(each.qa.question, each.qa.answer) for each in known]


@pytest.mark.parametrize("name", NAMES)
def test_pllava_prompt(stand_in: Folder, load: Load, render: Callable[[Item, Prompt], str], name: str) -> None:
    item = load(name, stand_in(name))[0]
    prompt = find_task(name).prompt_rule("pllava")(item, "who runs?")
    assert render(item, prompt) == f"USER: <video>\n {PRE} who runs? \n ASSISTANT:\nAnswer: In the video,"
    assert prompt.generate_kwargs["max_new_tokens"] == 100
    assert prompt.generate_kwargs["do_sample"] is False
    assert prompt.stop == SETTINGS["videoqabench"].stop_keywords
    large = find_task(name).prompt_rule("pllava_34b")(item, "who runs?")
    assert render(item, large) == (
        "<|im_start|>system\nAnswer the question.<|im_end|>\n"
        f"<|im_start|>user\n<video>\n {PRE} who runs? \n<|im_end|>\n<|im_start|>assistant\n\nAnswer: In the video,"
    )


@pytest.mark.parametrize("name", ["msvd_qa", "activitynet_qa"])
def test_videollama2_asks_the_bare_question(stand_in: Folder, load: Load, name: str) -> None:
    item = load(name, stand_in(name))[0]
    prompt = find_task(name).prompt_rule("videollama2")(item, "who runs?")
    assert (prompt.text, prompt.chat_template) == ("who runs?", None)
    assert prompt.generate_kwargs == {"do_sample": False, "max_new_tokens": 2048}


def test_lmms_eval_asks_activitynet_qa_in_its_own_words(stand_in: Folder, load: Load) -> None:
    item = load("activitynet_qa", stand_in("activitynet_qa"))[0]
    prompt = find_task("activitynet_qa").prompt_rule("lmms_eval")(item, "is the athlete wearing trousers")
    assert prompt.text == "Is the athlete wearing trousers? Answer the question using a single word or phrase."
    assert prompt.generate_kwargs == {"do_sample": False, "max_new_tokens": 64}


packed_folders = pytest.mark.parametrize(
    ("name", "inner"),
    [
        ("msvd_qa", "MSVD_Zero_Shot_QA"),
        ("msrvtt_qa", "MSRVTT_Zero_Shot_QA"),
        ("tgif_qa", "TGIF_Zero_Shot_QA"),
        ("tgif_qa", "TGIF_QA"),
        ("activitynet_qa", "dataset"),
        ("activitynet_qa", "ActivityNet"),
    ],
)


@packed_folders
def test_the_packed_folder_is_found(stand_in: Folder, load: Load, tmp_path: Path, name: str, inner: str) -> None:
    shutil.copytree(stand_in(name), tmp_path / inner)
    packed, plain = load(name, tmp_path), load(name, stand_in(name))
    assert [item.id for item in packed] == [item.id for item in plain]
    assert all(item.media[0].path.exists() for item in packed)


@packed_folders
def test_videos_may_lie_beside_the_folder_of_the_lists(
    copied: Folder, load: Load, tmp_path: Path, name: str, inner: str
) -> None:
    root = copied(name)
    (root / inner).mkdir()
    for file in [path for path in root.iterdir() if path.is_file()]:
        file.rename(root / inner / file.name)
    items = load(name, root)
    assert all(item.media[0].path.exists() for item in items)
    # Control: a video that is in neither folder.
    items[0].media[0].path.unlink()
    assert not load(name, root)[0].media[0].path.exists()


def original(questions: list[dict[str, Any]], answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lists of the zero-shot packaging as one list, as MSVD-QA and MSRVTT-QA were first released."""
    right = {answer["question_id"]: answer["answer"] for answer in answers}
    return [
        {"id": number, "video_id": number % 3, "question": row["question"], "answer": right[row["question_id"]]}
        for number, row in enumerate(questions)
    ]


ROWS = [{"video_name": "x", "question": f"who {number}?", "question_id": str(number)} for number in range(5)]
ANSWERS = [{"answer": f"a{number}", "question_id": str(number)} for number in range(5)]


def test_msvd_as_first_released(load: Load, tmp_path: Path) -> None:
    write_json(tmp_path / "test_qa.json", original(ROWS, ANSWERS))
    mapping = tmp_path / "youtube_mapping.txt"
    mapping.write_text("-4wsuPCjDBc_5_15 vid0\nabc_1_2 vid1\ndef_3_4 vid2\n")
    (tmp_path / "YouTubeClips").mkdir()
    (tmp_path / "YouTubeClips" / "abc_1_2.avi").touch()
    items = load("msvd_qa", tmp_path)
    assert [item.answer for item in items] == ["a0", "a1", "a2", "a3", "a4"]
    assert items[1].media[0].path == tmp_path / "YouTubeClips" / "abc_1_2.avi"
    # A clip that is missing is no fault of the annotations.
    assert items[3].media[0].path == tmp_path / "videos" / "-4wsuPCjDBc_5_15.avi"
    mapping.write_text("abc_1_2 vid1\n")
    with pytest.raises(DataError, match=r"test_qa\.json, row 0: youtube_mapping\.txt has no video vid0"):
        load("msvd_qa", tmp_path)
    mapping.write_text("abc_1_2\n")
    with pytest.raises(DataError, match=r"youtube_mapping\.txt, line 1: expected the name of a clip and its number"):
        load("msvd_qa", tmp_path)
    mapping.unlink()
    with pytest.raises(DataError, match=r"has no youtube_mapping\.txt"):
        load("msvd_qa", tmp_path)


def test_msrvtt_as_first_released(load: Load, tmp_path: Path) -> None:
    write_json(tmp_path / "test_qa.json", original(ROWS, ANSWERS))
    items = load("msrvtt_qa", tmp_path)
    assert [item.media[0].path.name for item in items[:4]] == ["video0.mp4", "video1.mp4", "video2.mp4", "video0.mp4"]
    assert [item.groups["question_word"] for item in items] == ["who"] * 5


@pytest.mark.parametrize("name", ["msvd_qa", "msrvtt_qa"])
def test_an_id_that_stands_twice_in_the_first_release(load: Load, tmp_path: Path, name: str) -> None:
    write_json(tmp_path / "test_qa.json", original(ROWS, ANSWERS)[:1] * 2)
    (tmp_path / "youtube_mapping.txt").write_text("x vid0\n")
    with pytest.raises(DataError, match=r"test_qa\.json, row 1: id '0' stands already in .*row 0;"):
        load(name, tmp_path)


def test_tgif_as_first_released(load: Load, tmp_path: Path) -> None:
    header = ["gif_name", "question", "answer", "type", "vid_id"]
    rows = [["tumblr_a", "what is it", "dog", 0, 1], ["tumblr_a", "how many", "two", 1, 1], ["b", "where", "in", 3, 2]]
    write_table(tmp_path / "Test_frameqa_question.csv", [header, *rows], delimiter="\t")
    (tmp_path / "tgif_videos").mkdir()
    (tmp_path / "tgif_videos" / "b.gif").touch()
    items = load("tgif_qa", tmp_path)
    assert [item.id for item in items] == ["tumblr_a_0", "tumblr_a_1", "b_0"]
    assert [item.groups["type"] for item in items] == ["object", "number", "location"]
    assert items[2].media[0].path.name == "b.gif"
    write_table(tmp_path / "Test_frameqa_question.csv", [["gif_name", "question"], ["a", "b"]], delimiter="\t")
    with pytest.raises(DataError, match=r"Test_frameqa_question\.csv lacks the column 'answer'"):
        load("tgif_qa", tmp_path)


ACTIVITYNET_ROW = {"video_name": "abc", "question_id": "v_abc_0", "question": "what", "answer": "no", "type": "3"}


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.mark.parametrize("folder", ["", "Generation/"])
def test_activitynet_of_the_hub(load: Load, tmp_path: Path, folder: str) -> None:
    path = tmp_path / f"{folder}test-00000-of-00001.parquet"
    write_parquet(path, [ACTIVITYNET_ROW, {**ACTIVITYNET_ROW, "question_id": "v_abc_1", "type": "4"}])
    (tmp_path / "all_test").mkdir()
    (tmp_path / "all_test" / "v_abc.webm").touch()
    items = load("activitynet_qa", tmp_path)
    assert [(item.id, item.groups["type"]) for item in items] == [("v_abc_0", "yes/no"), ("v_abc_1", "color")]
    assert items[0].media[0].path.name == "v_abc.webm"
    write_parquet(path, [ACTIVITYNET_ROW, ACTIVITYNET_ROW])
    with pytest.raises(DataError, match=r"row 1: question_id 'v_abc_0' stands already in .*row 0"):
        load("activitynet_qa", tmp_path)
    write_parquet(path, [{"video_name": "abc", "Question": "what"}])
    with pytest.raises(DataError, match=r"parquet lacks the column 'question_id'"):
        load("activitynet_qa", tmp_path)


def test_pllavas_prefix_of_activitynet_names_is_no_second_one(copied: Folder, load: Load, edit: Edit) -> None:
    folder = copied("activitynet_qa")
    before = [item.media[0].path for item in load("activitynet_qa", folder)]

    def prefix(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["video_name"] = f"v_{row['video_name']}"

    edit(folder / "test_q.json", prefix)
    assert [item.media[0].path for item in load("activitynet_qa", folder)] == before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        (
            "test_q.json",
            lambda rows: [*rows, rows[0]],
            r"test_q\.json, row 20: question_id .* stands already",
        ),
        ("test_a.json", lambda rows: [*rows, rows[0]], r"test_a\.json, row 20: question_id .* stands already"),
        ("test_q.json", lambda rows: rows[1:], r"test_a\.json, row 19: there is no question to the answer with"),
        ("test_a.json", lambda rows: rows[1:], r"test_q\.json, row 19: there is no answer to the question with"),
        ("test_q.json", lambda rows: rows[0].pop("question"), r"row 0: the field 'question' is missing"),
        ("test_a.json", lambda rows: rows[0].pop("question_id"), r"row 0: the field 'question_id' is missing"),
        ("test_q.json", lambda rows: {"rows": rows}, r"test_q\.json should hold a list of objects, not a dict"),
        ("test_q.json", lambda rows: rows[0].update(video_name="a/../x"), r"'.*\.\./x' of a medium leads out"),
    ],
)
def test_wrong_files_are_named(
    copied: Folder, load: Load, edit: Edit, name: str, file: str, change: Callable[[Any], Any], words: str
) -> None:
    folder = copied(name)

    def changed(rows: Any) -> Any:
        result = change(rows)
        # What `pop` and `update` give back is not the new content.
        return result if isinstance(result, list | dict) else None

    edit(folder / file, changed)
    with pytest.raises(DataError, match=words) as error:
        load(name, folder)
    assert "\n" not in str(error.value)
