"""Video-ChatGPT's benchmark: both forms of its files, pairs of questions, aspects, prompts, errors."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from hf_videollm.evaluation.aggregate_judged import VCG_ASPECTS
from hf_videollm.evaluation.data_files import DataError
from hf_videollm.evaluation.items import Item
from hf_videollm.evaluation.prompting import Prompt
from hf_videollm.evaluation.tasks import find_task
from hf_videollm.synthetic.benchmarks.media import write_json

Load = Callable[[str, Path], list[Item]]
Folder = Callable[[str], Path]
Edit = Callable[[Path, Callable[[Any], Any]], None]
SYSTEM = (
    "You are Video-ChatGPT, a large vision-language assistant. You are able to understand the video content that the "
    "user provides, and assist the user with a variety of tasks using natural language.Follow the instructions "
    "carefully and explain your answers in detail based on the provided video."
)


def test_parts_and_their_aspects(stand_in: Folder, load: Load) -> None:
    items = load("vcg", stand_in("vcg"))
    assert Counter(item.groups["part"] for item in items) == {"generic": 10, "temporal": 5, "consistency": 5}
    aspects = {item.groups["part"]: item.extra["aspects"] for item in items}
    assert sorted(sum(aspects.values(), ())) == sorted(VCG_ASPECTS)
    assert aspects["generic"] == ("correctness", "detail", "context")
    assert {len(item.questions) for item in items if item.groups["part"] == "consistency"} == {2}
    assert {len(item.questions) for item in items if item.groups["part"] != "consistency"} == {1}
    assert all(len(set(item.questions)) == len(item.questions) for item in items)


def test_ids_count_the_questions_of_a_video(load: Load, tmp_path: Path) -> None:
    rows = [{"Q": f"q{number}", "A": "a", "video_name": name} for number, name in enumerate(["v_x", "v_y", "v_x"])]
    write_json(tmp_path / "Benchmarking_QA/generic_qa.json", rows)
    write_json(tmp_path / "Benchmarking_QA/temporal_qa.json", rows[:1])
    pair = {"Q1": "q1", "Q2": "q2", "A": "a", "video_name": "v_z"}
    write_json(tmp_path / "Benchmarking_QA/consistency_qa.json", [pair])
    ids = [item.id for item in load("vcg", tmp_path)]
    assert ids[:4] == ["generic/v_x/0", "generic/v_y/0", "generic/v_x/1", "temporal/v_x/0"]
    assert len(ids) == 5


def test_pllava_prompts(stand_in: Folder, load: Load, render: Callable[[Item, Prompt], str]) -> None:
    item = load("vcg", stand_in("vcg"))[0]
    prompt = find_task("vcg").prompt_rule("pllava")(item, "What happens?")
    assert render(item, prompt) == f"{SYSTEM} USER: <video>\n USER: What happens? ASSISTANT:"
    assert prompt.generate_kwargs["max_new_tokens"] == 100
    large = find_task("vcg").prompt_rule("pllava_34b")(item, "What happens?")
    assert render(item, large) == (
        f"{SYSTEM}<|im_end|>\n<|im_start|>user\n<video>\n<|im_end|>\n"
        "<|im_start|>user\nWhat happens?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert find_task("vcg").prompt_rule("videollama2")(item, "What happens?").text == "What happens?"


def row(video: str, question: str = "None", first: str = "None", second: str = "None") -> dict[str, str]:
    return {"video_name": video, "question_1": first, "question_2": second, "question": question, "answer": "a"}


CONSISTENCY = [row("v_x", first="x1"), row("v_y", first="y1"), row("v_y", second="y2"), row("v_x", second="x2")]


def write_hub(folder: Path, consistency: list[dict[str, str]]) -> None:
    for config, rows in {
        "Generic": [row("v_x", "g0"), row("v_x", "g1")],
        "Temporal": [row("v_x", "t0")],
        "Consistency": consistency,
    }.items():
        (folder / config).mkdir(exist_ok=True, parents=True)
        path = folder / config / "test-00000-of-00001.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def test_files_of_the_hub(load: Load, tmp_path: Path) -> None:
    """A pair is two rows, which stand apart here."""
    write_hub(tmp_path, CONSISTENCY)
    items = load("vcg", tmp_path)
    assert [(item.id, item.questions) for item in items] == [
        ("generic/v_x/0", ("g0",)),
        ("generic/v_x/1", ("g1",)),
        ("temporal/v_x/0", ("t0",)),
        ("consistency/v_x/0", ("x1", "x2")),
        ("consistency/v_y/0", ("y1", "y2")),
    ]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (CONSISTENCY[:3], r"row 0: 'v_x' has 1 question_1 and 0 question_2; each pair needs both"),
        ([row("v_x", "g")], r"row 0: one of question_1 and question_2 should hold a question, not 0"),
        ([row("v_x", first="a", second="b")], r"row 0: one of question_1 and question_2 should hold a question, not 2"),
        (
            [CONSISTENCY[0], {**CONSISTENCY[3], "answer": "b"}],
            r"row 1: the answer differs from that of question_1 in .*row 0",
        ),
    ],
)
def test_pairs_that_are_none(load: Load, tmp_path: Path, rows: list[dict[str, str]], words: str) -> None:
    write_hub(tmp_path, rows)
    with pytest.raises(DataError, match=words):
        load("vcg", tmp_path)


def test_a_part_that_is_missing_on_the_hub(load: Load, tmp_path: Path) -> None:
    write_hub(tmp_path, CONSISTENCY)
    (tmp_path / "Temporal" / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"has no Temporal/test-\*\.parquet"):
        load("vcg", tmp_path)


@pytest.mark.parametrize(
    ("file", "field"), [("generic_qa.json", "Q"), ("consistency_qa.json", "Q2"), ("temporal_qa.json", "video_name")]
)
def test_missing_fields_are_named(copied: Folder, load: Load, edit: Edit, file: str, field: str) -> None:
    folder = copied("vcg")

    def drop(rows: list[dict[str, str]]) -> None:
        del rows[1][field]

    edit(folder / file, drop)
    with pytest.raises(DataError, match=rf"{file}, row 1: the field '{field}' is missing"):
        load("vcg", folder)
