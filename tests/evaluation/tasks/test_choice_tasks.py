"""Perception-Test, EgoSchema, NExT-QA, SEED-Bench, VideoVista, Video-Bench, MLVU, LongVideoBench: forms of files."""

import csv
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_videollm.evaluation.data_files import DataError
from hf_videollm.evaluation.items import Item
from hf_videollm.evaluation.tasks import find_task
from hf_videollm.evaluation.tasks.videovista import IMAGE_TYPE, REASONING, UNDERSTANDING
from hf_videollm.synthetic.benchmarks.choices import part_of
from hf_videollm.synthetic.benchmarks.media import known_questions, write_json, write_parquet

Load = Callable[[str, Path], list[Item]]
Folder = Callable[[str], Path]
Edit = Callable[[Path, Callable[[Any], Any]], None]


def facts(items: list[Item]) -> list[tuple[Any, ...]]:
    """All that does not depend on the form of the files."""
    return [(item.id, item.question, item.options, item.answer_index, item.media[0].path.name) for item in items]


# --- Perception-Test ---


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("perception_test", "mc_question/test-00000-of-00001.parquet"),
        ("perception_test_val", "PerceptionTest_Val/mc_question_val/validation-00000-of-00001.parquet"),
    ],
)
def test_perception_test_of_the_hub(copied: Folder, load: Load, name: str, place: str) -> None:
    folder = copied(name)
    before = load(name, folder)
    (path,) = folder.glob("mc_question_*.json")
    rows = [
        {"video_name": video, "question_id": question.pop("id"), **question}
        for video, value in json.loads(path.read_text()).items()
        for question in value["mc_question"]
    ]
    path.unlink()
    # The Hub's validation table has texts for numbers.
    write_parquet(folder / place, [{**row, "answer_id": str(row.get("answer_id"))} for row in rows])
    assert facts(load(name, folder)) == facts(before)


def test_perception_test_keeps_what_has_no_answer_secret(stand_in: Folder, load: Load) -> None:
    items = load("perception_test", stand_in("perception_test"))
    assert {item.answer_index for item in items} == {None}
    assert {len(item.options) for item in items} == {3}
    assert Counter(item.groups["area"] for item in items) == dict.fromkeys(
        ("memory", "abstraction", "physics", "semantics"), 5
    )


# --- EgoSchema ---


def test_egoschema_knows_the_public_answers(copied: Folder, load: Load) -> None:
    folder = copied("egoschema")
    items = load("egoschema", folder)
    assert [item.answer_index is not None for item in items] == [False] * 10 + [True] * 10
    (folder / "subset_answers.json").unlink()
    assert {item.answer_index for item in load("egoschema", folder)} == {None}


def test_egoschema_subset_has_the_public_ones_alone(stand_in: Folder, load: Load) -> None:
    folder = stand_in("egoschema_subset")
    items = load("egoschema_subset", folder)
    answers = json.loads((folder / "subset_answers.json").read_text())
    assert {item.id: item.answer_index for item in items} == answers
    assert len(load("egoschema", folder)) == 30


def test_egoschema_of_the_hub(copied: Folder, load: Load) -> None:
    folder = copied("egoschema")
    full, subset = load("egoschema", folder), load("egoschema_subset", folder)
    answers = json.loads((folder / "subset_answers.json").read_text())
    rows = [
        {
            "question_idx": str(number),
            "question": item.question,
            "video_idx": item.id,
            "option": [f"{letter}. {option}" for letter, option in zip("ABCDE", item.options, strict=True)],
            "answer": None,
        }
        for number, item in enumerate(full)
    ]
    known = [{**row, "answer": str(answers[row["video_idx"]])} for row in rows if row["video_idx"] in answers]
    (folder / "questions.json").unlink()
    (folder / "subset_answers.json").unlink()
    write_parquet(folder / "egoschema/MC/test-00000-of-00001.parquet", rows)
    write_parquet(folder / "egoschema/Subset/test-00000-of-00001.parquet", known)
    (folder / "good_clips_git").rename(folder / "videos")
    assert facts(load("egoschema", folder)) == facts(full)
    assert facts(load("egoschema_subset", folder)) == facts(subset)


# --- NExT-QA ---


@pytest.mark.parametrize("place", ["nextqa/test.csv", "dataset/nextqa/test.csv", "MC/test-00000-of-00001.parquet"])
def test_nextqa_in_other_places(copied: Folder, load: Load, place: str) -> None:
    folder = copied("nextqa")
    before = load("nextqa", folder)
    path = folder / "test.csv"
    if place.endswith(".parquet"):
        with path.open(newline="") as file:
            rows = [
                {**row, "answer": int(row["answer"]), "qid": int(row["qid"]), "video": int(row["video"])}
                for row in csv.DictReader(file)
            ]
        write_parquet(folder / place, rows)
        path.unlink()
    else:
        (folder / place).parent.mkdir(parents=True)
        path.rename(folder / place)
    assert facts(load("nextqa", folder)) == facts(before)


def test_nextqa_with_the_names_of_vidor(copied: Folder, load: Load) -> None:
    folder = copied("nextqa")
    names = {}
    for number, path in enumerate(sorted((folder / "NExTVideo").glob("*.mp4"))):
        names[path.stem] = f"10{number}/{number}"
        (folder / f"NExTVideo/10{number}").mkdir()
        path.rename(folder / f"NExTVideo/{names[path.stem]}.mp4")
    assert not any(item.media[0].path.exists() for item in load("nextqa", folder))
    write_json(folder / "map_vid_vidorID.json", names)
    assert all(item.media[0].path.exists() for item in load("nextqa", folder))


def test_nextqa_kinds(stand_in: Folder, load: Load) -> None:
    items = load("nextqa", stand_in("nextqa"))
    letters = {"C": "causal", "T": "temporal", "D": "descriptive"}
    assert all(item.groups["kind"] == letters[item.groups["type"][0]] for item in items)
    assert {item.groups["kind"] for item in items} == set(letters.values())


# --- SEED-Bench ---


def test_seed_bench_counts_breakfast_in_frames(stand_in: Folder, load: Load) -> None:
    items = load("seed_bench_video", stand_in("seed_bench_video"))
    assert Counter(item.groups["dimension"] for item in items) == {"AR": 7, "AP": 7, "PU": 6}
    known = known_questions(20)
    for number, item in enumerate(items):
        medium, part = item.media[0], part_of(known[number])
        if item.groups["dimension"] == "AR":
            assert (medium.start, medium.end) == (None, None)
        elif item.groups["dimension"] == "AP":
            assert (medium.start, medium.end) == ((part.first + 0.4) / 8, (part.stop - 0.1) / 8)
        else:
            assert (medium.start, medium.end) == (part.first / 15, part.stop / 15)


def test_seed_bench_by_frames_of_its_own_archive(copied: Folder, load: Load) -> None:
    folder = copied("seed_bench_video")
    shutil.rmtree(folder / "BreakfastII_15fps_qvga_sync")
    items = load("seed_bench_video", folder)
    item = next(item for item in items if item.groups["dimension"] == "PU")
    # Without either, the missing video is what the run reports.
    assert item.media[0].path.suffix == ".avi"
    (folder / "v1_video" / item.id).mkdir(parents=True)
    medium = next(each for each in load("seed_bench_video", folder) if each.id == item.id).media[0]
    assert (medium.path, medium.start, medium.end) == (folder / "v1_video" / item.id, None, None)


def test_seed_bench_ranks_behind_the_bare_question(stand_in: Folder, load: Load) -> None:
    rules = find_task("seed_bench_video").prompts
    item = load("seed_bench_video", stand_in("seed_bench_video"))[0]
    assert rules["likelihood"](item, "Why?").text == "Why?"
    assert rules["lmms_eval_ppl"](item, "Why?").text == "Why? Answer :"
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", item.options, strict=True))
    letter = "Answer with the option's letter from the given choices directly."
    assert rules["lmms_eval"](item, "Why?").text == f"Why?\n{listed}\n{letter}"


# --- VideoVista ---


def test_videovista_kinds_and_pictures(stand_in: Folder, load: Load) -> None:
    assert (len(UNDERSTANDING), len(REASONING)) == (19, 8)
    items = load("videovista", stand_in("videovista"))
    assert Counter(item.groups["kind"] for item in items) == {"understanding": 19, "reasoning": 1}
    for item in items:
        types = [medium.type for medium in item.media]
        assert types == (["image", "video"] if item.groups["type"] == IMAGE_TYPE else ["video"])
    # The first video stands in the folder of another category than its row says.
    assert (items[0].groups["category"], items[0].media[0].path.parts[-3]) == ("Animals", "Sports")


def test_videovista_prompt_of_linvt(stand_in: Folder, load: Load) -> None:
    item = load("videovista", stand_in("videovista"))[0]
    listed = "\n".join(f"({letter}) {option}" for letter, option in zip("ABCD", item.options, strict=True))
    script = f"Why?\nOptions:\n{listed}\n"
    rules = find_task("videovista").prompts
    assert rules["linvt_script"](item, "Why?").text == script
    assert rules["linvt"](item, "Why?").text == f"{script}Only give the best option."


def test_videovista_type_that_no_list_has(copied: Folder, load: Load, edit: Edit) -> None:
    folder = copied("videovista")
    edit(folder / "VideoVista.json", lambda rows: rows[2].update(Type="Something New"))
    item = load("videovista", folder)[2]
    assert item.groups["type"] == "Something New"
    assert "kind" not in item.groups


# --- Video-Bench ---


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (2, "Why? A.a B.b \n Among the two options A, B above, the one closest to the correct answer is: "),
        (3, "Why? A.a B.b C.c \n Among the three options A, B, C above, the one closest to the correct answer is: "),
        (
            4,
            "Why? A.a B.b C.c D.d \n Among the four options A, B, C, D above, the one closest to the correct answer "
            "is:",
        ),
        (
            5,
            "Why? A.a B.b C.c D.d E.e \n Among the five options A, B, C, D, E above, the one closest to the correct "
            "answer is: ",
        ),
        (
            6,
            "Why?Choices: A.a B.b C.c D.d E.e F.f \n Among the six options A, B, C, D, E, F above, the one closest to "
            "the correct answer is:",
        ),
    ],
)
def test_video_bench_prompts(stand_in: Folder, load: Load, count: int, text: str) -> None:
    item = load("video_bench", stand_in("video_bench"))[0]
    options = tuple("abcdef"[:count])
    changed = Item(item.id, item.media, ("Why?",), options)
    assert find_task("video_bench").prompt_rule()(changed, "Why?").text == text


def test_video_bench_answers_are_private(copied: Folder, load: Load) -> None:
    folder = copied("video_bench")
    assert all(item.answer_index is not None for item in load("video_bench", folder))
    (folder / "answers.json").unlink()
    known = {item.extra["set"] for item in load("video_bench", folder) if item.answer_index is not None}
    assert known == {"MOT", "Driving-exam"}


def test_video_bench_lists_of_the_authors_machine(copied: Folder, load: Load, edit: Edit) -> None:
    folder = copied("video_bench")
    edit(
        folder / "Eval_QA/MOT_QA_new.json",
        lambda rows: (
            [row.update(vid_path=f"/remote-home/x/{Path(row['vid_path']).name}") for row in rows.values()] and None
        ),
    )
    (folder / "Eval_QA/MOT_QA_new.json").rename(folder / "Eval_QA/MOT_QA.json")
    items = [item for item in load("video_bench", folder) if item.extra["set"] == "MOT"]
    assert items
    assert all(item.media[0].path.exists() for item in items)


# --- MLVU and LongVideoBench ---


def test_mlvu_in_its_own_folder(copied: Folder, load: Load, tmp_path: Path) -> None:
    shutil.copytree(copied("mlvu"), tmp_path / "packed/MLVU")
    packed = load("mlvu", tmp_path / "packed")
    assert all(item.media[0].path.exists() for item in packed)
    assert Counter(item.groups["task"] for item in packed)["plotQA"] == 3
    rules, item = find_task("mlvu").prompts, packed[0]
    block = "Question: Why?\nOptions:\n" + "\n".join(
        f"({letter}) {option}" for letter, option in zip("ABCD", item.options, strict=True)
    )
    assert rules["linvt_script"](item, "Why?").text == block
    of_linvt = rules["linvt"](item, "Why?")
    assert of_linvt.text.endswith(f"\n\n{block}\nOnly give the best option.")
    assert of_linvt == find_task("mvbench").prompt_rule("linvt")(item, "Why?")
    official = rules["official"](item, "Why?")
    assert official.text == f"{block}\nOnly give the best option."
    assert official.system is not None
    assert official.system.startswith("Carefully watch this video and pay attention to every detail.")
    assert (official.answer_prefix, official.return_prefix) == ("Best Option: (", "(")


def test_longvideobench_of_the_hub(copied: Folder, load: Load) -> None:
    folder = copied("longvideobench")
    before = load("longvideobench", folder)
    rows = json.loads((folder / "lvb_val.json").read_text())
    for row in rows:
        candidates = row.pop("candidates")
        row |= {f"option{number}": (candidates + ["N/A"] * 5)[number] for number in range(5)}
    (folder / "lvb_val.json").unlink()
    write_parquet(folder / "data/validation-00000-of-00001.parquet", rows)
    assert facts(load("longvideobench", folder)) == facts(before)


def test_longvideobench_prompts(stand_in: Folder, load: Load) -> None:
    rules = find_task("longvideobench").prompts
    item = next(item for item in load("longvideobench", stand_in("longvideobench")) if len(item.options) == 2)
    a, b = item.options
    letter = "Answer with the option's letter from the given choices directly."
    assert rules["official"](item, "Why?").text == f"Question: Why?\nA. {a}\nB. {b}\n{letter}"
    assert rules["linvt"](item, "Why?").text == (
        f"Question: Why?\nOptions: A. {a}\nB. {b}\n"
        "Answer with the option\u2019s letter from the given choices directly."
    )


# --- Errors ---


def first(rows: Any) -> Any:
    return next(iter(rows.values())) if isinstance(rows, dict) else rows[0]


@pytest.mark.parametrize(
    ("name", "file", "change", "words"),
    [
        (
            "perception_test",
            "mc_question_test.json",
            lambda videos: first(videos)["mc_question"][0].pop("question"),
            r"mc_question_test\.json, video '.*', mc_question, row 0: the field 'question' is missing",
        ),
        ("perception_test", "mc_question_test.json", lambda videos: [], r"should hold an object with a video in each"),
        (
            "perception_test_val",
            "mc_question_valid.json",
            lambda videos: first(videos)["mc_question"][0].update(answer_id=3),
            r"row 0: answer_id is 3, but the options are 0 to 2",
        ),
        (
            "egoschema",
            "questions.json",
            lambda rows: rows[0].pop("option 4"),
            r"row 0: the field 'option 4' is missing",
        ),
        ("egoschema", "questions.json", lambda rows: [*rows, rows[0]], r"row 20: q_uid '.*' stands already in"),
        (
            "egoschema_subset",
            "subset_answers.json",
            lambda answers: {**answers, "nobody": 1},
            r"subset_answers\.json, question 'nobody': there is no question 'nobody' in questions\.json",
        ),
        ("egoschema_subset", "subset_answers.json", lambda answers: [1], r"should hold an object with the number"),
        (
            "seed_bench_video",
            "SEED-Bench.json",
            lambda value: value["questions"][3].update(segment=[5, 2]),
            r"questions, row 3: segment is \[5, 2\], which ends before it begins",
        ),
        (
            "seed_bench_video",
            "SEED-Bench.json",
            lambda value: value["questions"][3].update(segment=["a"]),
            r"questions, row 3: segment is \['a'\], which is no list of two numbers",
        ),
        ("seed_bench_video", "SEED-Bench.json", lambda value: [1], r"should hold an object with the field 'questions'"),
        (
            "videovista",
            "VideoVista.json",
            lambda rows: rows[0].update(video_name="clip.mp4"),
            r"row 0: video_name is 'clip\.mp4'; expected a name, its group and a suffix",
        ),
        (
            "videovista",
            "VideoVista.json",
            lambda rows: rows[0].update(Answer=4),
            r"row 0: Answer is 4, but the options",
        ),
        (
            "video_bench",
            "Eval_QA/MV_QA_new.json",
            lambda rows: first(rows)["choices"].pop("A"),
            r"MV_QA_new\.json, question '.*': choices has the letters B.*; expected A to at most F, in order",
        ),
        ("video_bench", "answers.json", lambda value: {"MSVDD": {}}, r"answers\.json: there is no set 'MSVDD'.*MSVD"),
        (
            "mlvu",
            "json/4_count.json",
            lambda rows: rows[0].update(answer="many"),
            r"4_count\.json, row 0: answer is 'many'",
        ),
        (
            "longvideobench",
            "lvb_val.json",
            lambda rows: rows[0].update(correct_choice=7),
            r"row 0: correct_choice is 7, but the options are 0 to",
        ),
    ],
)
def test_wrong_files_are_named(
    copied: Folder, load: Load, edit: Edit, name: str, file: str, change: Callable[[Any], Any], words: str
) -> None:
    folder = copied(name)

    def changed(value: Any) -> Any:
        result = change(value)
        # What `pop` and `update` give back is not the new content, unless it is a whole file.
        return result if isinstance(result, list | dict) and "question" not in result else None

    edit(folder / file, changed)
    with pytest.raises(DataError, match=words) as error:
        load(name, folder)
    assert "\n" not in str(error.value)


def test_wrong_tables_of_nextqa(copied: Folder, load: Load) -> None:
    path = copied("nextqa") / "test.csv"
    text = path.read_text()
    for old, new, words in (
        ("video,frame_count", "vid,frame_count", r"test\.csv lacks the column 'video'"),
        (",TN,", ",XN,", r"test\.csv, line \d+: type is 'XN', which begins with none of C, T, D"),
    ):
        path.write_text(text.replace(old, new))
        with pytest.raises(DataError, match=words):
            load("nextqa", path.parent)
    path.write_text(text)
    assert load("nextqa", path.parent)
