"""Joins by id, media in several folders, fixed subsets, and strictness of JSON files and tables."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_videollm.evaluation.data_files import DataError, DataFiles, Row
from hf_videollm.evaluation.items import Item, Medium
from hf_videollm.evaluation.row_joins import join_by_id, medium_in, rows_by_id
from hf_videollm.evaluation.subsets import fixed_subset

# Ids of an eighth of forty items.
KNOWN = ["10", "16", "31", "35", "39"]


def rows(file: str, ids: list[str | int], **values: str) -> list[Row]:
    return [Row({"id": name, **values}, f"{file}, row {number}") for number, name in enumerate(ids)]


@given(ids=st.lists(st.integers(0, 1000), unique=True), seed=st.integers(0, 100))
def test_the_order_of_answers_means_nothing(ids: list[int], seed: int) -> None:
    """Some files write ids as numbers, others as texts."""
    answers = [Row({"id": str(name), "answer": name * 2}, "a") for name in ids]
    random.Random(seed).shuffle(answers)
    joined = list(join_by_id(rows("q", list(ids)), answers, "id"))
    assert [name for name, _, _ in joined] == [str(name) for name in ids]
    assert [answer.values["answer"] for _, _, answer in joined] == [name * 2 for name in ids]


@pytest.mark.parametrize(
    ("questions", "answers", "words"),
    [
        (["a", "b"], ["a", "b", "c"], "A, row 2: there is no question to the answer with id 'c'"),
        (["a", "b"], ["a"], "Q, row 1: there is no answer to the question with id 'b'"),
        (["a", "a"], ["a"], "Q, row 1: id 'a' stands already in Q, row 0"),
        (["a"], ["a", "a"], "A, row 1: id 'a' stands already in A, row 0"),
        (["1"], [1, "1"], "A, row 1: id '1' stands already in A, row 0"),
    ],
)
def test_rows_without_a_partner_are_named(questions: list[str], answers: list[str | int], words: str) -> None:
    with pytest.raises(DataError, match=words):
        list(join_by_id(rows("Q", list(questions)), rows("A", answers), "id"))


def test_a_row_without_an_id() -> None:
    with pytest.raises(DataError, match="f, row 0: the field 'name' is missing"):
        rows_by_id(rows("f", ["a"]), "name")


def test_the_first_folder_that_has_a_medium(tmp_path: Path) -> None:
    data = DataFiles(tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/x.mkv").touch()
    assert medium_in(data, ("a", "b", ""), "x", (".mp4", ".mkv")) == tmp_path / "b/x.mkv"
    (tmp_path / "y.mp4").touch()
    assert medium_in(data, ("a", "b", ""), "y", (".mp4", ".mkv")) == tmp_path / "y.mp4"
    # The path that is named where there is none.
    assert medium_in(data, ("a", "b", ""), "z", (".mp4", ".mkv")) == tmp_path / "a/z.mp4"
    with pytest.raises(DataError, match="leads out of the folder"):
        medium_in(data, ("a",), "../../x", (".mp4",))


def items(count: int) -> list[Item]:
    return [Item(str(number), (Medium(Path("a.mp4")),), ("q",)) for number in range(count)]


@given(count=st.integers(1, 200), parts=st.integers(1, 20), seed=st.integers(0, 5))
def test_a_subset_has_its_share_and_keeps_the_order(count: int, parts: int, seed: int) -> None:
    everything = items(count)
    chosen = fixed_subset(everything, parts, seed)
    assert len(chosen) == max(1, round(count / parts))
    assert [int(item.id) for item in chosen] == sorted(int(item.id) for item in chosen)
    # The choice is one of items, not of places.
    backwards = fixed_subset(everything[::-1], parts, seed)
    assert {item.id for item in backwards} == {item.id for item in chosen}


def test_the_subset_never_changes() -> None:
    """Written down: another choice would make numbers of older runs incomparable."""
    assert [item.id for item in fixed_subset(items(40), 8)] == KNOWN
    assert [item.id for item in fixed_subset(items(40), 8, seed=1)] != KNOWN


def test_a_key_that_stands_twice_in_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"x": 1, "y": 2, "x": 3}]')
    with pytest.raises(DataError, match=r"a\.json: the key 'x' stands twice in the same object"):
        DataFiles(tmp_path).json("a.json")
    (tmp_path / "a.json").write_text('[{"x": 1, "y": 2}, {"x": 3}]')
    assert DataFiles(tmp_path).json("a.json") == [{"x": 1, "y": 2}, {"x": 3}]


def test_tables_without_a_header(tmp_path: Path) -> None:
    data = DataFiles(tmp_path)
    (tmp_path / "a.csv").write_text('x,"1,5"\ny,2\n')
    assert [row.values for row in data.csv_rows("a.csv", columns=("name", "value"), has_header=False)] == [
        {"name": "x", "value": "1,5"},
        {"name": "y", "value": "2"},
    ]
    (tmp_path / "a.csv").write_text("x,1\ny\n")
    with pytest.raises(DataError, match=r"a\.csv, line 2: expected 2 fields \(name, value\), got 1"):
        list(data.csv_rows("a.csv", columns=("name", "value"), has_header=False))
