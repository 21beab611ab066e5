"""A run gives what the model knows, goes on where it was killed, and is the same with several processes."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ready_python
from evaluated_clips import COLOURS, TASKS, bare, load, make_task, write_benchmark

from hf_videollm.evaluation.answering import TooManyErrors
from hf_videollm.evaluation.changed_items import ItemChangedError
from hf_videollm.evaluation.data_files import DataError, DataFiles, MissingFilesError
from hf_videollm.evaluation.items import Item, Medium
from hf_videollm.evaluation.partial_runs import SmallerRunError
from hf_videollm.evaluation.prompting import Prompt
from hf_videollm.evaluation.provenance import command_line
from hf_videollm.evaluation.ranks import Ranks
from hf_videollm.evaluation.records import read_records
from hf_videollm.evaluation.result import read_runs
from hf_videollm.evaluation.run_options import RunOptions
from hf_videollm.evaluation.runner import Runner
from hf_videollm.evaluation.settings import SettingsChangedError
from hf_videollm.synthetic.check import ClipQuestion, accuracies, answer_questions

CLIPS, COLOURS_TASK = TASKS
PROGRAM = Path(__file__).parents[1] / "support" / "evaluated_clips.py"


@pytest.fixture
def benchmark(tmp_path: Path, questions: list[ClipQuestion]) -> DataFiles:
    return DataFiles(write_benchmark(tmp_path / "data", questions))


def runner(pipe: Any, **options: Any) -> Runner:
    return Runner(pipe, "the model", RunOptions(**{"batch_size": 4, **options}))


@pytest.mark.parametrize("name", ["pllava-tiny", "videollama2-av-tiny"])
def test_the_accuracy_is_that_of_the_check(
    bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion], benchmark: DataFiles, tmp_path: Path, name: str
) -> None:
    pipe = bundled_pipe(name)
    result = runner(pipe).run(CLIPS, benchmark, tmp_path / "run")
    assert result is not None
    expected = accuracies(answer_questions(pipe.model, pipe.processor, questions, progress=False))
    rows = result["metrics"]["groups"]["kind"]["rows"]
    assert {kind: row["accuracy"] for kind, row in rows.items()} == expected
    assert result["metrics"]["accuracy"] > 0.9


def test_the_result_says_how_it_came_about(
    bundled_pipe: Callable[[str], Any], benchmark: DataFiles, questions: list[ClipQuestion], tmp_path: Path
) -> None:
    task = make_task(notes=("A note.",))
    result = runner(bundled_pipe("pllava-tiny"), seed=5).run(task, benchmark, tmp_path / "run")
    assert result == json.loads((tmp_path / "run/result.json").read_text())
    assert result is not None
    model = result["model"]
    assert (model["model"], model["dtype"], model["design"]) == ("the model", "float32", "pllava")
    assert model["revision"].startswith("folder-")
    assert model["attention"] in ("sdpa", "eager")
    assert {"hf_videollm", "transformers", "torch", "av"} <= set(result["versions"])
    assert result["prompt"]["first_rendered"].endswith(f"{questions[0].question.question} ASSISTANT:")
    assert result["settings"]["prompt_style"] == "default"
    assert result["scoring"] == {"metric": "exact_match", "match_rule": "folded"}
    assert result["seeds"] == {"generation": 5, "fallback_and_bootstrap": 5}
    counts = result["counts"]
    assert (counts["items"], counts["answered"], counts["errors"], counts["parse_failures"]) == (20, 20, 0, 0)
    assert result["frames"] == {"videos": 20, "fewest": 8, "most": 8}
    assert 0 <= result["waiting_share"] <= 1
    (run,) = result["runs"]
    assert run["num_items"] == 20
    assert run["command"]
    assert result["notes"] == ["A note."]
    interval = result["metrics"]["intervals"]["accuracy"]
    assert interval["low"] <= result["metrics"]["accuracy"] <= interval["high"]
    assert interval["estimate"] == result["metrics"]["accuracy"]
    lines = [json.loads(line) for line in (tmp_path / "run/items.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [f"q{number}" for number in range(20)]
    assert all(len(line["media"][0]["frames"]) == 8 for line in lines)
    assert sum(line["correct"] for line in lines) == result["metrics"]["correct"]


def test_the_batch_size_changes_no_record(
    bundled_pipe: Callable[[str], Any], benchmark: DataFiles, tmp_path: Path
) -> None:
    pipe = bundled_pipe("pllava-tiny")
    for size, workers in ((1, 1), (7, 3)):
        Runner(pipe, "x", RunOptions(batch_size=size, workers=workers)).run(CLIPS, benchmark, tmp_path / str(size))
    assert (tmp_path / "1/records.jsonl").read_bytes() == (tmp_path / "7/records.jsonl").read_bytes()


def test_videos_that_cannot_be_read_are_counted_and_not_lost(
    bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion], tmp_path: Path
) -> None:
    data = write_benchmark(tmp_path / "data", questions[:4], missing=2)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(questions[0].path.read_bytes()[:300])
    with (data / "questions.jsonl").open("a") as file:
        row = {"id": "broken", "video": str(broken), "question": "What?", "answer": "x", "kind": "x"}
        file.write(json.dumps(row) + "\n")
    result = runner(bundled_pipe("pllava-tiny")).run(CLIPS, DataFiles(data), tmp_path / "run")
    assert result is not None
    counts, metrics = result["counts"], result["metrics"]
    assert (counts["items"], counts["answered"], counts["errors"]) == (7, 4, 3)
    assert counts["errors_by_type"]["MediaNotFound"] == 2
    assert metrics["count"] == 4
    assert metrics["accuracy_errors_wrong"] == pytest.approx(metrics["correct"] / 7)
    records = read_records(tmp_path / "run")
    assert "gone0.mp4" in records["gone0"]["error"]["message"]
    assert records["broken"]["media"][0]["path"] == str(broken)


def test_errors_are_asked_again_on_request(
    bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion], tmp_path: Path
) -> None:
    data = write_benchmark(tmp_path / "data", questions[:2], missing=1)
    pipe, folder = bundled_pipe("pllava-tiny"), tmp_path / "run"
    runner(pipe).run(CLIPS, DataFiles(data), folder)
    (data / "gone0.mp4").write_bytes(questions[0].path.read_bytes())
    kept = runner(pipe).run(CLIPS, DataFiles(data), folder)
    assert kept is not None
    assert kept["counts"]["errors"] == 1
    retried = runner(pipe, retry_errors=True).run(CLIPS, DataFiles(data), folder)
    assert retried is not None
    assert (retried["counts"]["errors"], retried["counts"]["answered"]) == (0, 3)
    assert retried["runs"][-1]["num_items"] == 1


def test_an_answer_after_an_error_of_several_processes_counts(
    bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion], tmp_path: Path
) -> None:
    data, folder = write_benchmark(tmp_path / "data", questions[:5], missing=3), tmp_path / "run"
    pipe = bundled_pipe("pllava-tiny")
    # Two of four processes come to their end, the others are killed.
    for rank in (0, 1):
        assert Runner(pipe, "x", RunOptions(batch_size=2), Ranks(rank, 4)).run(CLIPS, DataFiles(data), folder) is None
    errors = {id for id, record in read_records(folder).items() if "error" in record}
    assert errors == {"gone0"}, "the control: there is an error in a file of the four"
    for number in range(3):
        (data / f"gone{number}.mp4").write_bytes(questions[0].path.read_bytes())
    for rank in (0, 1):
        options = RunOptions(batch_size=2, retry_errors=True)
        result = Runner(pipe, "x", options, Ranks(rank, 2)).run(CLIPS, DataFiles(data), folder)
    assert result is not None
    assert (result["counts"]["errors"], result["counts"]["answered"]) == (0, 8)
    assert [path.name for path in folder.glob("records*")] == ["records.jsonl"]
    assert read_records(folder)["gone0"]["attempt"] == 2


def rewritten(data: Path, id: str, **changes: str) -> None:
    path = data / "questions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, **changes} if row["id"] == id else row) + "\n" for row in rows))


def test_old_answers_do_not_stand_under_new_questions(
    bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion], tmp_path: Path
) -> None:
    data, folder = write_benchmark(tmp_path / "data", questions[:4]), tmp_path / "run"
    first = runner(bundled_pipe("pllava-tiny"), limit=3)
    assert first.run(CLIPS, DataFiles(data), folder) is not None
    again = runner(bundled_pipe("pllava-tiny"))
    # The right answer may be corrected, and an item that nobody was asked yet may change.
    rewritten(data, "q1", answer="other")
    rewritten(data, "q3", question="Which colour?")
    assert first.run(CLIPS, DataFiles(data), folder) is not None
    for changes in ({"question": "Which colour?"}, {"video": "other.mp4"}):
        kept = (data / "questions.jsonl").read_text()
        rewritten(data, "q2", **changes)
        with pytest.raises(ItemChangedError, match=r"1 items of the benchmark have changed since \(q2\)"):
            again.run(CLIPS, DataFiles(data), folder)
        (data / "questions.jsonl").write_text(kept)
    # Records of earlier releases do not say what was asked.
    path = folder / "records.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**line, "item_digest": None}) + "\n" for line in lines))
    rewritten(data, "q2", question="Which colour?")
    assert again.run(CLIPS, DataFiles(data), folder) is not None


def test_ids_that_have_moved_are_refused(
    bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion], tmp_path: Path
) -> None:
    data, folder = write_benchmark(tmp_path / "data", questions[:4]), tmp_path / "run"
    run = runner(bundled_pipe("pllava-tiny"))
    run.run(CLIPS, DataFiles(data), folder)
    write_benchmark(data, [questions[0], *questions[2:5]])
    with pytest.raises(ItemChangedError, match=r"3 items of the benchmark have changed since \(q1, q2, q3\)"):
        run.run(CLIPS, DataFiles(data), folder)


def test_a_changed_item_without_an_answer_is_asked_again(
    bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion], tmp_path: Path
) -> None:
    data, folder = write_benchmark(tmp_path / "data", questions[:2], missing=1), tmp_path / "run"
    run = runner(bundled_pipe("pllava-tiny"))
    run.run(CLIPS, DataFiles(data), folder)
    rewritten(data, "gone0", video=str(questions[0].path))
    result = run.run(CLIPS, DataFiles(data), folder)
    assert result is not None
    assert (result["counts"]["errors"], result["counts"]["answered"]) == (0, 3)


@pytest.mark.parametrize(("share", "stops"), [(0.0, True), (0.4, True), (0.5, False), (None, False)])
def test_a_share_of_errors_may_stop_the_run(
    bundled_pipe: Callable[[str], Any],
    questions: list[ClipQuestion],
    tmp_path: Path,
    share: float | None,
    stops: bool,
) -> None:
    data = DataFiles(write_benchmark(tmp_path / "data", questions[:3], missing=3))
    chosen = runner(bundled_pipe("pllava-tiny"), max_errors=share)
    if not stops:
        assert chosen.run(CLIPS, data, tmp_path / "run") is not None
        return
    with pytest.raises(TooManyErrors, match="of 6 items have no answer, more than the share of"):
        chosen.run(CLIPS, data, tmp_path / "run")
    # What was answered is kept.
    assert {"q0", "q1", "q2"} <= set(read_records(tmp_path / "run"))


class StoppedError(Exception):
    pass


def test_a_run_goes_on_where_it_was(bundled_pipe: Callable[[str], Any], benchmark: DataFiles, tmp_path: Path) -> None:
    pipe = bundled_pipe("pllava-tiny")
    runner(pipe).run(CLIPS, benchmark, tmp_path / "whole")

    def stop(task: Any, state: Any) -> None:
        if state.num_done >= 8:
            raise StoppedError

    cut = Runner(pipe, "the model", RunOptions(batch_size=4), on_progress=stop)
    with pytest.raises(StoppedError):
        cut.run(CLIPS, benchmark, tmp_path / "cut")
    kept = len(read_records(tmp_path / "cut"))
    assert 4 <= kept <= 8
    with (tmp_path / "cut/records.jsonl").open("a") as file:
        file.write('{"id": "q9", "answ')
    asked: list[str] = []
    second = runner(pipe)
    second.on_progress = lambda task, state: asked.append(state.num_items)
    result = second.run(CLIPS, benchmark, tmp_path / "cut")
    assert result is not None
    assert set(asked) == {20 - kept}
    assert (tmp_path / "cut/records.jsonl").read_bytes() == (tmp_path / "whole/records.jsonl").read_bytes()
    assert len(result["runs"]) == 2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"processor_options": {"num_frames": 4}}, "processor_options.num_frames"),
        ({"generate_options": {"max_new_tokens": 3}}, "generate_options.max_new_tokens"),
        ({"prompt_style": "other"}, "prompt_style"),
        ({"seed": 1}, "seed"),
    ],
)
def test_other_settings_do_not_go_on(
    bundled_pipe: Callable[[str], Any],
    questions: list[ClipQuestion],
    tmp_path: Path,
    options: dict[str, Any],
    named: str,
) -> None:
    data = DataFiles(write_benchmark(tmp_path / "data", questions[:2]))
    task = make_task(prompts={"default": bare, "other": lambda item, text: Prompt(f"{text} Now.")})
    pipe = bundled_pipe("pllava-tiny")
    runner(pipe).run(task, data, tmp_path / "run")
    # Batch size, threads and limit change no answer.
    runner(pipe, batch_size=1, workers=2, limit=2).run(task, data, tmp_path / "run")
    with pytest.raises(SettingsChangedError, match=named):
        runner(pipe, **options).run(task, data, tmp_path / "run")
    with pytest.raises(SettingsChangedError, match=r"model\.path"):
        runner(bundled_pipe("ftfv-tiny")).run(task, data, tmp_path / "run")


def test_a_larger_limit_goes_on(bundled_pipe: Callable[[str], Any], benchmark: DataFiles, tmp_path: Path) -> None:
    pipe = bundled_pipe("pllava-tiny")
    first = runner(pipe, limit=3).run(CLIPS, benchmark, tmp_path / "run")
    more = runner(pipe, limit=5).run(CLIPS, benchmark, tmp_path / "run")
    assert first is not None
    assert more is not None
    assert (first["counts"]["items"], more["counts"]["items"]) == (3, 5)
    assert (first["partial"], more["partial"]) == ("the run has 3 of 20 items", "the run has 5 of 20 items")
    assert [run["num_items"] for run in more["runs"]] == [3, 2]


def test_a_smaller_limit_does_not_replace_a_larger_result(
    bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion], tmp_path: Path
) -> None:
    data, folder = DataFiles(write_benchmark(tmp_path / "data", questions[:4])), tmp_path / "run"
    pipe = bundled_pipe("pllava-tiny")
    whole = runner(pipe, limit=4).run(CLIPS, data, folder)
    assert whole is not None
    assert whole["partial"] is None
    kept = (folder / "result.json").read_bytes()
    with pytest.raises(SmallerRunError, match=r"result\.json is of 4 items, and a run with --limit 3 would replace"):
        runner(pipe, limit=3).run(CLIPS, data, folder)
    assert (folder / "result.json").read_bytes() == kept
    # The control: as many items are scored anew, and a smaller benchmark is one.
    assert runner(pipe, limit=4).run(CLIPS, data, folder) is not None
    write_benchmark(tmp_path / "data", questions[:3])
    fewer = runner(pipe).run(CLIPS, data, folder)
    assert fewer is not None
    assert fewer["counts"]["items"] == 3


def program(data: DataFiles, folder: Path, rank: int | None = None) -> ready_python.Job:
    """The program as it runs; it prints into `rank<RANK>.txt` beside its folder."""
    ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    with (folder.parent / f"rank{rank}.txt").open("wb") as out:
        environment = {**os.environ, **({} if rank is None else ranks)}
        return ready_python.start(PROGRAM, data.root, folder, env=environment, stdout=out)


def in_this_process(pipe: Any, data: DataFiles, folder: Path) -> str:
    """What the program does, and prints."""
    result = Runner(pipe, "pllava-tiny", RunOptions(batch_size=2)).run(CLIPS, data, folder)
    assert result is not None
    return json.dumps(result["metrics"]["accuracy"])


def test_a_killed_process_goes_on(bundled_pipe: Callable[[str], Any], benchmark: DataFiles, tmp_path: Path) -> None:
    cut = program(benchmark, tmp_path / "cut")
    records = tmp_path / "cut" / "records.jsonl"
    until = time.monotonic() + 300
    while not (records.exists() and records.stat().st_size) and time.monotonic() < until:
        time.sleep(0.005)
    cut.kill()
    assert cut.wait() == -9
    assert 0 < len(read_records(tmp_path / "cut")) < 20, "the control: it was killed before its end"
    # The settings that the killed process has written are those of this one, too.
    pipe = bundled_pipe("pllava-tiny")
    assert in_this_process(pipe, benchmark, tmp_path / "cut") == in_this_process(pipe, benchmark, tmp_path / "whole")
    assert records.read_bytes() == (tmp_path / "whole/records.jsonl").read_bytes()
    result = json.loads((tmp_path / "cut" / "result.json").read_text())
    killed, ended = result["runs"]
    assert (killed["ended"], killed["num_items"], killed["seconds"]) == (None, None, None)
    assert killed["command"] == [PROGRAM.name, str(benchmark.root), str(tmp_path / "cut")]
    assert ended["ended"] >= ended["started"] >= killed["started"]
    assert 0 < ended["num_items"] < 20
    assert result["waiting_share"] == round(ended["waited"] / ended["seconds"], 4)


def test_runs_of_earlier_versions_are_read(tmp_path: Path) -> None:
    lines = [{"rank": rank, "seconds": 1.0, "waited": 0.5} for rank in range(2)]
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"half')
    assert read_runs(tmp_path) == lines


@pytest.mark.parametrize(
    ("program", "written"),
    [
        ("/a/bin/hf-videollm", ["hf-videollm", "evaluate"]),
        ("/a/hf_videollm/__main__.py", ["python", "-m", "hf_videollm", "evaluate"]),
    ],
)
def test_the_command_is_as_one_would_write_it(
    monkeypatch: pytest.MonkeyPatch, program: str, written: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [program, "evaluate"])
    assert command_line() == written


def test_two_processes_give_what_one_gives(
    bundled_pipe: Callable[[str], Any], benchmark: DataFiles, tmp_path: Path
) -> None:
    two = [program(benchmark, tmp_path / "two", rank) for rank in range(2)]
    expected = in_this_process(bundled_pipe("pllava-tiny"), benchmark, tmp_path / "one")
    assert [process.wait(timeout=600) for process in two] == [0, 0]
    outputs = [(tmp_path / f"rank{rank}.txt").read_text() for rank in range(2)]
    assert sorted(out.strip() for out in outputs) == sorted([expected, "unfinished"])
    assert (tmp_path / "two/records.jsonl").read_bytes() == (tmp_path / "one/records.jsonl").read_bytes()
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two")]
    assert results[0]["metrics"] == results[1]["metrics"]
    assert sorted(run["num_items"] for run in results[1]["runs"]) == [10, 10]
    assert not list((tmp_path / "two").glob("records.rank*"))


def test_the_last_process_writes_the_result(
    bundled_pipe: Callable[[str], Any], benchmark: DataFiles, tmp_path: Path
) -> None:
    pipe, folder = bundled_pipe("pllava-tiny"), tmp_path / "run"
    ranks = [Ranks(rank, 2) for rank in range(2)]
    first = Runner(pipe, "x", RunOptions(batch_size=4), ranks[0]).run(CLIPS, benchmark, folder)
    assert first is None
    assert not (folder / "result.json").exists()
    assert Runner(pipe, "x", RunOptions(batch_size=4), ranks[1]).run(CLIPS, benchmark, folder) is not None
    # One process goes on with what two have left, and the other way round.
    (folder / "records.jsonl").write_bytes(
        b"".join((folder / "records.jsonl").read_bytes().splitlines(keepends=True)[:15])
    )
    assert Runner(pipe, "x", RunOptions(batch_size=4), ranks[1]).run(CLIPS, benchmark, folder) is None
    result = Runner(pipe, "x", RunOptions(batch_size=4)).run(CLIPS, benchmark, folder)
    assert result is not None
    assert result["counts"]["answered"] == 20


def test_choices_are_read_and_ranked(bundled_pipe: Callable[[str], Any], benchmark: DataFiles, tmp_path: Path) -> None:
    pipe = bundled_pipe("pllava-tiny")
    written = runner(pipe).run(COLOURS_TASK, benchmark, tmp_path / "written")
    ranked = runner(pipe, mode="likelihood").run(COLOURS_TASK, benchmark, tmp_path / "ranked")
    assert written is not None
    assert ranked is not None
    assert written["metrics"]["accuracy"] == ranked["metrics"]["accuracy"] == 1
    assert written["scoring"]["choice_rule"] == "robust"
    assert set(ranked["counts"]["rules"]) == {"likelihood"}
    assert ranked["settings"]["ranking"] == "mean"
    record = next(iter(read_records(tmp_path / "ranked").values()))
    assert len(record["likelihoods"][0]) == len(COLOURS)
    assert sum(record["probabilities"][0]) == pytest.approx(1)
    # Every colour is one token, so each question is one run, on a video of its own.
    assert ranked["runs"][0]["engine"]["media_encoded"] == ranked["counts"]["items"]


def test_an_item_of_two_questions_has_two_answers(
    bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion], benchmark: DataFiles, tmp_path: Path
) -> None:
    def pairs(data: DataFiles) -> Any:
        for number, item in enumerate(load(data)):
            texts = (item.question, "What color is the shape?")
            media = (Medium(Path("gone.mp4")),) if number == 2 else item.media
            yield Item(item.id, media, texts, answer=item.answer)

    task = make_task(load=pairs, metric="none")
    result = runner(bundled_pipe("pllava-tiny"), batch_size=3, limit=5).run(task, benchmark, tmp_path / "run")
    assert result is not None
    records = read_records(tmp_path / "run")
    assert [len(records[f"q{number}"].get("answers", ())) for number in range(5)] == [2, 2, 0, 2, 2]
    assert result["metrics"] == {}
    assert result["unscored_because"] == "This task has no metric."


def test_submissions_are_written(bundled_pipe: Callable[[str], Any], benchmark: DataFiles, tmp_path: Path) -> None:
    def files(items: Any, answers: Any, scored: Any) -> dict[str, str]:
        lines = [f"{item.id}={texts[0]}" for item, texts in zip(items, answers, strict=True)]
        return {"sub/answers.txt": "\n".join(lines)}

    chosen = runner(bundled_pipe("pllava-tiny"), limit=20)
    result = chosen.run(make_task(submission=files), benchmark, tmp_path / "run")
    assert result is not None
    assert result["no_submission"] is None
    text = (tmp_path / "run/submission/sub/answers.txt").read_text()
    assert text.splitlines()[0].startswith("q0=")
    bad = make_task(submission=lambda items, answers, scored: {"../x": ""})
    with pytest.raises(ValueError, match=r"'\.\./x' leads out"):
        chosen.run(bad, benchmark, tmp_path / "run")


def test_a_limit_that_leaves_items_out_writes_no_submission(
    bundled_pipe: Callable[[str], Any], benchmark: DataFiles, tmp_path: Path
) -> None:
    task = make_task(submission=lambda items, answers, scored: {"answers.txt": ""}, has_public_answers=False)
    chosen = runner(bundled_pipe("pllava-tiny"), limit=2)
    result = chosen.run(task, benchmark, tmp_path / "run")
    assert result is not None
    assert result["no_submission"] == "no submission: the run has 2 of 20 items"
    assert json.loads((tmp_path / "run/result.json").read_text())["no_submission"] == result["no_submission"]
    assert not (tmp_path / "run/submission").exists()
    # A wrong row behind the limit stops nothing, but the items cannot be counted.
    with (benchmark.root / "questions.jsonl").open("a") as file:
        file.write("{}\n")
    result = chosen.run(task, benchmark, tmp_path / "more")
    assert result is not None
    assert result["no_submission"] == "no submission: the run has only 2 items, because of --limit"


def test_what_cannot_work_is_told_before_any_answer(
    bundled_pipe: Callable[[str], Any], benchmark: DataFiles, tmp_path: Path
) -> None:
    pipe = bundled_pipe("pllava-tiny")
    with pytest.raises(MissingFilesError, match=r"has no questions\.jsonl"):
        runner(pipe).run(CLIPS, DataFiles(tmp_path), tmp_path / "run")
    with pytest.raises(DataError, match="hold no items"):
        runner(pipe).run(make_task(load=lambda data: iter(())), benchmark, tmp_path / "run")
    with pytest.raises(ValueError, match="Clips has no prompt style 'defualt': did you mean default"):
        runner(pipe, prompt_style="defualt").run(CLIPS, benchmark, tmp_path / "run")
    with pytest.raises(ValueError, match="Clips has no options whose likelihood could be compared"):
        runner(pipe, mode="likelihood").run(CLIPS, benchmark, tmp_path / "run")
    sounds = make_task(load=lambda data: [Item("1", (Medium(Path("a.wav"), "audio"),), ("What?",))])
    with pytest.raises(ValueError, match="is about sounds, and the model cannot hear"):
        runner(pipe).run(sounds, benchmark, tmp_path / "run")
    twice = make_task(load=lambda data: list(load(data))[:1] * 2)
    with pytest.raises(ValueError, match="two items have the id 'q0'"):
        runner(pipe).run(twice, benchmark, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "generat"}, "There is no mode 'generat': did you mean generate"),
        ({"ranking": "letter"}, "did you mean letters"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"max_errors": 2.0}, "between 0 and 1"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunOptions(**options)


def test_prompts_that_the_model_refuses_stop_the_run(
    bundled_pipe: Callable[[str], Any], benchmark: DataFiles, tmp_path: Path
) -> None:
    """IVA needs query tokens, which PLLaVA's chat template does not write: every question would fail."""
    from hf_videollm.evaluation.prompts_pllava import chat_template

    template = chat_template("eval_mvbench", "mvbench")
    task = make_task(prompts={"default": lambda item, text: Prompt(text, chat_template=template)})
    with pytest.raises(ValueError, match="query tokens"):
        runner(bundled_pipe("iva-tiny")).run(task, benchmark, tmp_path / "run")
