"""Records of killed runs are whole, those of several processes become one file, and other settings are refused."""

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from hf_videollm.evaluation.ranks import Ranks
from hf_videollm.evaluation.records import RecordFile, merge, numbered, read_records, record_files
from hf_videollm.evaluation.settings import SettingsChangedError, differences, keep_settings


def write(folder: Path, ids: list[str], ranks: Ranks | None = None, answer: str = "a") -> Path:
    with RecordFile(folder, ranks or Ranks()) as file:
        file.append({"id": id, "answers": [answer]} for id in ids)
    return file.path


def test_a_half_line_is_dropped_and_the_next_run_goes_on_behind_it(tmp_path: Path) -> None:
    path = write(tmp_path, ["1", "2"])
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        complete = whole[:length].count(b"\n")
        assert list(read_records(tmp_path)) == ["1", "2"][:complete]
        write(tmp_path, ["3"])
        assert list(read_records(tmp_path)) == [*["1", "2"][:complete], "3"]


def test_damage_in_the_middle_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, ["1"])
    path.write_bytes(b"{\n" + path.read_bytes())
    with pytest.raises(ValueError, match=r"records\.jsonl, line 1 is no record"):
        read_records(tmp_path)


def test_two_writers_of_one_file_are_refused(tmp_path: Path) -> None:
    with RecordFile(tmp_path, Ranks()), pytest.raises(RuntimeError, match="another run writes this file"):
        write(tmp_path, ["1"])
    write(tmp_path, ["1"])


def test_files_of_several_processes_become_what_one_would_have_written(tmp_path: Path) -> None:
    ids = [str(number) for number in range(7)]
    write(tmp_path / "one", ids)
    merge(tmp_path / "one", ids)
    for rank in (2, 0, 1):
        ranks = Ranks(rank, 3)
        write(tmp_path / "three", ranks.share(ids), ranks)
    assert len(record_files(tmp_path / "three")) == 3
    assert list(merge(tmp_path / "three", ids)) == ids
    assert [path.name for path in record_files(tmp_path / "three")] == ["records.jsonl"]
    assert (tmp_path / "three/records.jsonl").read_bytes() == (tmp_path / "one/records.jsonl").read_bytes()


def test_the_last_record_of_an_item_counts(tmp_path: Path) -> None:
    write(tmp_path, ["1", "2"])
    write(tmp_path, ["1"], answer="b")
    assert [record["answers"] for record in merge(tmp_path, ["1", "2"]).values()] == [["b"], ["a"]]
    # Items of a run with a larger limit are kept.
    assert list(merge(tmp_path, ["2"])) == ["2", "1"]


ERROR: dict[str, Any] = {"error": {"type": "MediaNotFound", "message": "gone"}}
OF_OTHERS = [Ranks(), Ranks(0, 2), Ranks(1, 4), Ranks(0, 10)]


def put(folder: Path, ranks: Ranks, *records: dict[str, Any], written: int | None = None) -> None:
    with RecordFile(folder, ranks) as file:
        file.append(records)
    if written is not None:
        os.utime(file.path, ns=(written, written))


@pytest.mark.parametrize("new", OF_OTHERS)
@pytest.mark.parametrize("old", OF_OTHERS)
@pytest.mark.parametrize("newer_file", [True, False])
def test_an_answer_counts_before_an_error_in_any_file(tmp_path: Path, old: Ranks, new: Ranks, newer_file: bool) -> None:
    put(tmp_path, old, {"id": "1", **ERROR}, written=10)
    put(tmp_path, new, {"id": "1", "answers": ["a"]}, written=20 if newer_file else 5)
    assert read_records(tmp_path)["1"] == {"id": "1", "answers": ["a"]}
    assert merge(tmp_path, ["1"])["1"]["answers"] == ["a"]


@pytest.mark.parametrize("new", OF_OTHERS)
@pytest.mark.parametrize("old", OF_OTHERS)
@pytest.mark.parametrize("kind", [{"answers": ["a"]}, ERROR])
def test_among_equals_the_newest_attempt_counts(tmp_path: Path, old: Ranks, new: Ranks, kind: dict[str, Any]) -> None:
    first = {"id": "1", "media": [], **kind}
    put(tmp_path, old, first, written=10)
    second = numbered({"id": "1", "media": ["new"], **kind}, read_records(tmp_path)["1"])
    # The older file: clocks of machines that share a disk differ.
    put(tmp_path, new, second, written=5)
    third = numbered({"id": "1", "media": ["newest"], **kind}, read_records(tmp_path)["1"])
    put(tmp_path, old, third, written=10)
    assert (second["attempt"], third["attempt"]) == (2, 3)
    assert read_records(tmp_path)["1"]["media"] == ["newest"]


@pytest.mark.parametrize(("newer", "expected"), [(Ranks(), "b"), (Ranks(1, 4), "a")])
def test_records_without_attempts_count_by_the_time_of_their_file(tmp_path: Path, newer: Ranks, expected: str) -> None:
    older = Ranks(1, 4) if newer == Ranks() else Ranks()
    put(tmp_path, older, {"id": "1", "answers": ["a" if older == Ranks(1, 4) else "b"]}, written=10)
    put(tmp_path, newer, {"id": "1", "answers": [expected]}, written=20)
    assert read_records(tmp_path)["1"]["answers"] == [expected]


def test_a_kill_between_merging_and_removing_changes_nothing(tmp_path: Path) -> None:
    put(tmp_path, Ranks(0, 2), {"id": "1", "answers": ["old"]})
    stale = (tmp_path / "records.rank0of2.jsonl").read_bytes()
    put(tmp_path, Ranks(), numbered({"id": "1", "answers": ["new"]}, read_records(tmp_path)["1"]))
    merge(tmp_path, ["1"])
    (tmp_path / "records.rank0of2.jsonl").write_bytes(stale)
    assert read_records(tmp_path)["1"]["answers"] == ["new"]


def killed_while_writing(folder: Path) -> None:
    with RecordFile(folder, Ranks()) as file:
        file.append([{"id": "1", "answers": ["a"]}])
        file._file.write(b'{"id": "2", "ans')
        file._file.flush()
        os.kill(os.getpid(), 9)


def test_a_process_that_is_killed_leaves_its_records_and_no_lock(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=killed_while_writing, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -9
    assert list(read_records(tmp_path)) == ["1"]
    write(tmp_path, ["2"])
    assert list(read_records(tmp_path)) == ["1", "2"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, Ranks()), ({"RANK": "1", "WORLD_SIZE": "3", "LOCAL_RANK": "1"}, Ranks(1, 3, 1)), ({"RANK": ""}, Ranks())],
)
def test_ranks_come_from_the_environment(environment: dict[str, str], expected: Ranks) -> None:
    assert Ranks.of_environment(environment) == expected


@pytest.mark.parametrize("environment", [{"RANK": "x"}, {"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "1"}])
def test_impossible_ranks_are_refused(environment: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="The environment says"):
        Ranks.of_environment(environment)


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_shares_hold_every_item_once(world_size: int) -> None:
    items = list(range(13))
    shares = [Ranks(rank, world_size).share(items) for rank in range(world_size)]
    assert sorted(item for share in shares for item in share) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


SETTINGS: dict[str, Any] = {"task": "clips", "model": {"dtype": "float32", "revision": "a"}, "limit": [1, 2]}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": {"dtype": "bfloat16", "revision": "a"}}, r'model\.dtype \(was "float32", is "bfloat16"\)'),
        ({"model": {"dtype": "float32"}}, r'model\.revision \(was "a", is null\)'),
        ({"task": "other"}, r'task \(was "clips", is "other"\)'),
        ({"new": 1}, r"new \(was null, is 1\)"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    keep_settings(tmp_path, SETTINGS)
    keep_settings(tmp_path, {**SETTINGS, "limit": (1, 2)})  # the same, once it is JSON
    with pytest.raises(SettingsChangedError, match=named):
        keep_settings(tmp_path, {**SETTINGS, **changes})
    assert json.loads((tmp_path / "settings.json").read_text()) == SETTINGS


def test_equal_settings_do_not_differ() -> None:
    assert differences(SETTINGS, dict(SETTINGS)) == []


def test_damaged_settings_are_named(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(ValueError, match=r"settings\.json cannot be read"):
        keep_settings(tmp_path, SETTINGS)
