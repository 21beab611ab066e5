"""LifeQA, Social-IQ 2.0 and WildQA: answers, options that are not shown, places of the files, errors."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_videollm.evaluation.data_files import DataError
from hf_videollm.evaluation.items import Item
from hf_videollm.evaluation.tasks import find_task
from hf_videollm.synthetic.benchmarks.media import known_questions

Load = Callable[[str, Path], list[Item]]
Folder = Callable[[str], Path]
Edit = Callable[[Path, Callable[[Any], Any]], None]
NAMES = ("lifeqa", "lifeqa_dev_test", "social_iq2", "wildqa", "wildqa_dev")


@pytest.mark.parametrize("name", NAMES)
def test_answers_belong_to_their_questions(stand_in: Folder, load: Load, name: str) -> None:
    items = load(name, stand_in(name))
    known = known_questions(len(items), seed=1 if name == "wildqa_dev" else 0)
    found = {(item.media[0].path.stem, item.question, item.answer) for item in items}
    assert found == {(each.clip, each.qa.question, each.qa.answer) for each in known}


@pytest.mark.parametrize("name", NAMES)
def test_the_question_is_asked_alone(stand_in: Folder, load: Load, name: str) -> None:
    """IVA has these sets answered freely: the options of the files are no part of the prompt."""
    for item in load(name, stand_in(name)):
        assert item.options == ()
        assert find_task(name).prompt_rule()(item, item.question).text == item.question
        if name in ("lifeqa", "social_iq2"):
            assert item.answer in item.extra["options"]
            assert len(item.extra["options"]) == 4


@pytest.mark.parametrize(
    ("name", "inner"),
    [("lifeqa", "data"), ("wildqa", "wildQA-data"), ("wildqa", "src/example_data/wildQA-data")],
)
def test_lists_in_folders_of_the_repositories(copied: Folder, load: Load, name: str, inner: str) -> None:
    folder = copied(name)
    plain = load(name, folder)
    (folder / inner).mkdir(parents=True)
    for file in folder.glob("*.json"):
        shutil.move(file, folder / inner / file.name)
    assert load(name, folder) == plain


def test_social_iq_without_its_outer_folders(stand_in: Folder, load: Load, tmp_path: Path) -> None:
    shutil.copytree(stand_in("social_iq2") / "siq2", tmp_path / "flat")
    items = load("social_iq2", tmp_path / "flat")
    assert all(item.media[0].path.exists() for item in items)
    assert [item.id for item in items] == [item.id for item in load("social_iq2", stand_in("social_iq2"))]


def test_dev_and_test_of_lifeqa_are_both_read(stand_in: Folder, load: Load) -> None:
    folder = stand_in("lifeqa_dev_test")
    split = set(json.loads((folder / "lqa_dev.json").read_text()))
    clips = [item.media[0].path.stem for item in load("lifeqa_dev_test", folder)]
    assert 0 < sum(clip in split for clip in clips) < len(clips)


def test_alternative_answers_of_wildqa_are_references(stand_in: Folder, load: Load) -> None:
    for item in load("wildqa", stand_in("wildqa")):
        assert item.references == (item.answer, f"the {item.answer}")
        assert item.answer == item.answer.strip()


def test_questions_of_wildqa_are_numbered_by_video(stand_in: Folder, load: Load) -> None:
    ids = [item.id for item in load("wildqa", stand_in("wildqa"))]
    assert ids[:4] == ["clip0000_0", "clip0001_0", "clip0001_1", "clip0001_2"]


def change_questions(function: Callable[[list[dict[str, Any]]], Any]) -> Callable[[Any], None]:
    def change(clips: dict[str, Any]) -> None:
        function(next(iter(clips.values()))["questions"])

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_questions(lambda rows: rows[0].pop("q_id")), r"clip 'clip0000', questions, row 0: the field 'q_id'"),
        (
            change_questions(lambda rows: rows[0].update(correct_index=4)),
            r"correct_index is 4, but there are 4 answers",
        ),
        (
            change_questions(lambda rows: rows.append(rows[0])),
            r"row \d: the id 'clip0000_0' stands already in",
        ),
        (change_questions(lambda rows: rows[0].update(correct_index=-1)), r"correct_index is -1, but there are 4"),
        (lambda clips: clips["clip0000"].pop("questions"), r"clip 'clip0000': the field 'questions' is missing"),
        (lambda clips: clips.update(clip0000=[1]), r"lqa_test\.json, clip 'clip0000': expected an object, got list"),
    ],
)
def test_wrong_lifeqa(copied: Folder, load: Load, edit: Edit, change: Callable[[Any], Any], words: str) -> None:
    folder = copied("lifeqa")

    def changed(clips: Any) -> None:
        change(clips)

    edit(folder / "lqa_test.json", changed)
    with pytest.raises(DataError, match=words):
        load("lifeqa", folder)


def test_a_clip_that_stands_twice_in_lifeqa_is_an_error(copied: Folder, load: Load) -> None:
    folder = copied("lifeqa")
    path = folder / "lqa_test.json"
    path.write_text(path.read_text().replace('"clip0001": {', '"clip0000": {', 1))
    with pytest.raises(DataError, match=r"lqa_test\.json: the key 'clip0000' stands twice"):
        load("lifeqa", folder)
    path.write_text("[]")
    with pytest.raises(DataError, match=r"lqa_test\.json should hold an object with a clip in each field"):
        load("lifeqa", folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[0].pop("ans_corr"), r"qa_val\.json, line 1: the field 'ans_corr' is missing"),
        (lambda rows: rows[0].pop("a3"), r"qa_val\.json, line 1: the field 'a3' is missing"),
        (lambda rows: rows.append(rows[0]), r"qa_val\.json, line 21: qid .* stands already in .*line 1;"),
    ],
)
def test_wrong_social_iq(copied: Folder, load: Load, change: Callable[[Any], Any], words: str) -> None:
    folder = copied("social_iq2")
    path = folder / "siq2/qa/qa_val.json"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows)
    path.write_text("\n".join(json.dumps(row) for row in rows))
    with pytest.raises(DataError, match=words):
        load("social_iq2", folder)
    path.write_text("{")
    with pytest.raises(DataError, match=r"qa_val\.json, line 1 cannot be read as JSON"):
        load("social_iq2", folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda row: row.pop("video_id"), r"test\.json, row 0: the field 'video_id' is missing"),
        (lambda row: row.update(answer=3), r"test\.json, row 0: answer is 3, which is no str"),
        (
            lambda row: row.update(alter_answers=[1]),
            r"row 0: alter_answers is \[1\], which is no list of texts",
        ),
    ],
)
def test_wrong_wildqa(copied: Folder, load: Load, edit: Edit, change: Callable[[Any], Any], words: str) -> None:
    folder = copied("wildqa")

    def changed(rows: Any) -> None:
        change(rows[0])

    edit(folder / "test.json", changed)
    with pytest.raises(DataError, match=words):
        load("wildqa", folder)
