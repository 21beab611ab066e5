"""`hf-videollm evaluate` and `recaption`: what they write, how they go on, and what they say of mistakes."""

import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from evaluated_clips import TASKS, bare, clip_questions, load, make_task, write_benchmark
from judge_server import Answer, judge_server

from hf_videollm.cli import evaluate_run
from hf_videollm.cli.evaluate_options import AnsweringOptions, ModelOptions, ScoringOptions
from hf_videollm.cli.judge_options import JudgeOptions
from hf_videollm.evaluation import tasks as task_table
from hf_videollm.evaluation.data_files import DataFiles
from hf_videollm.evaluation.run_options import RunOptions

Cli = Callable[..., tuple[int, str, str]]


def broken(data: DataFiles) -> Any:
    raise KeyError("column")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with two tasks: one has a question about a video that is not there."""
    folder = tmp_path_factory.mktemp("data")
    clips = clip_questions(folder / "clips", 1)
    write_benchmark(folder / "clips", clips, missing=1)
    for name in ("colours", "judged", "sent", "other", "broken"):
        write_benchmark(folder / name, clips)
    return folder


@pytest.fixture(autouse=True)
def _known_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tasks instead of the package's own."""
    judged = make_task("judged", metric="judged_qa", judge_texts={"default": "qa"})
    sent = make_task("sent", submission=lambda items, answers, scored: {"answers.txt": ""})
    other = make_task("other", prompts={"default": bare, "curt": bare})
    added = [
        *TASKS,
        judged,
        sent,
        other,
        make_task("broken", load=broken),
        make_task("absent", hub_ids=("org/absent",)),
    ]
    module = ModuleType("hf_videollm.evaluation.tasks.of_tests")
    module.TASKS = added  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(task_table, "TASK_FILES", {task.name: "of_tests" for task in added})


def line(data: Path, output: Path, tasks: str, *more: str) -> Sequence[str]:
    base = ("evaluate", "--model", "pllava-tiny", "--device", "cpu", "--dtype", "float32")
    return (*base, "--tasks", tasks, "--data", str(data), "--output", str(output), *more)


def test_results_are_shown_and_written(cli: Cli, data: Path, tmp_path: Path) -> None:
    code, out, err = cli(*line(data, tmp_path, "clips,colours"))
    assert code == 0
    assert re.search(r"clips .*accuracy 100\.0 % .*100\.0 to 100\.0 .* 6 .*1 without answer", out)
    assert re.search(r"colours .*accuracy 100\.0 %", out)
    assert "warning: clips: 1 of 6 items have no answer (MediaNotFound 1)" in " ".join(err.split())
    result = json.loads((tmp_path / "clips/result.json").read_text())
    assert result["counts"]["answered"] == 5
    assert result["model"]["model"] == "pllava-tiny"
    # Once more: nothing is asked again.
    code, out, _ = cli(*line(data, tmp_path, "clips", "--json"))
    assert code == 0
    (run,) = json.loads(out)["results"]["clips"]["runs"]
    assert run["num_items"] == 6


def test_one_broken_task_does_not_lose_the_others(cli: Cli, data: Path, tmp_path: Path) -> None:
    code, out, err = cli(*line(data, tmp_path, "broken,absent,colours", "--json"))
    assert code == 1
    report = json.loads(out)
    assert list(report["results"]) == ["colours"]
    assert list(report["failed"]) == ["broken", "absent"]
    assert "2 of 3 tasks failed:" in err
    assert "KeyError" in report["failed"]["broken"]
    absent = report["failed"]["absent"]
    assert "has no questions.jsonl" in absent
    assert "the synthetic generator" in absent
    assert "--download fetches and unpacks them from the Hub (org/absent)" in absent


def test_all_takes_every_task(cli: Cli, data: Path, tmp_path: Path) -> None:
    code, out, _ = cli(*line(data, tmp_path, "all", "--limit", "1", "--json"))
    assert code == 1
    report = json.loads(out)
    assert list(report["results"]) == ["clips", "colours", "judged", "sent", "other"]
    assert report["results"]["judged"]["metrics"] == {}


def test_a_limit_leaves_no_half_submission(cli: Cli, data: Path, tmp_path: Path) -> None:
    code, _, err = cli(*line(data, tmp_path, "sent", "--limit", "3"))
    assert code == 0
    assert "warning: sent: no submission: the run has 3 of 5 items." in " ".join(err.split())
    assert not (tmp_path / "sent/submission").exists()
    code, _, err = cli(*line(data, tmp_path, "sent"))
    assert "no submission" not in err
    assert (tmp_path / "sent/submission/answers.txt").exists()
    code, _, err = cli(*line(data, tmp_path, "sent", "--limit", "3"))
    assert code == 1
    assert "is of 5 items, and a run with --limit 3 would replace it" in " ".join(err.split())
    # The files of an earlier run are told where nothing else is left of it.
    (tmp_path / "sent/result.json").unlink()
    _, _, err = cli(*line(data, tmp_path, "sent", "--limit", "3"))
    assert "submission are of an earlier run" in " ".join(err.split())


def test_a_prompt_style_that_tasks_lack_is_told_before_the_model_is_loaded(
    cli: Cli, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_model(*arguments: object) -> None:
        raise ValueError("the model would be loaded now")

    monkeypatch.setattr(evaluate_run, "load_model", load_model)
    code, _, err = cli(*line(data, tmp_path, "clips,other", "--prompt-style", "curt"))
    assert code != 0
    warning, loading = "warning: clips: no prompt style 'curt'", "the model would be loaded now"
    assert warning in (text := " ".join(err.split()))
    assert text.index(warning) < text.index(loading)
    run = evaluate_run.EvaluateRun(
        ModelOptions(), AnsweringOptions(prompt_style=["curt"]), ScoringOptions(), JudgeOptions(), data
    )
    ready, failed = run._with_data([task_table.find_task(name) for name in ("clips", "other")])
    assert [task.name for task in ready] == ["other"]
    assert failed == {"clips": "Clips has no prompt style 'curt': known are default."}
    # A style that no task has stops the command without a model.
    code, _, err = cli(*line(data, tmp_path, "clips,judged", "--prompt-style", "curt"))
    assert code != 0
    assert "There is no prompt style 'curt' for clips, judged: known are default." in " ".join(err.split())


def styles_of(output: Path) -> dict[str, tuple[str, str]]:
    """Task -> its style by the settings, and by the prompt of the result."""
    results = {path.parent.name: json.loads(path.read_text()) for path in output.glob("*/result.json")}
    return {name: (value["settings"]["prompt_style"], value["prompt"]["style"]) for name, value in results.items()}


@pytest.mark.parametrize(
    ("given", "of_clips", "of_other"),
    [
        (("other=curt",), "default", "curt"),
        (("clips=default,other=curt",), "default", "curt"),
        (("clips=default", "other=curt"), "default", "curt"),
        (("default,other=curt",), "default", "curt"),
        (("other=curt", "other=curt"), "default", "curt"),
        # The control: without a style of its own, the task has its default.
        ((), "default", "default"),
    ],
)
def test_each_task_may_have_its_own_prompt_style(
    cli: Cli, data: Path, tmp_path: Path, given: tuple[str, ...], of_clips: str, of_other: str
) -> None:
    styles = [word for text in given for word in ("--prompt-style", text)]
    command = line(data, tmp_path, "clips,other", "--limit", "1", *styles)
    code, _, err = cli(*command)
    assert code == 0, err
    assert styles_of(tmp_path) == {"clips": (of_clips, of_clips), "other": (of_other, of_other)}
    # Continued with the same styles, it goes on; another style of one task is refused for that task alone.
    assert cli(*command)[0] == 0
    changed = "default" if of_other == "curt" else "curt"
    code, _, err = cli(*line(data, tmp_path, "clips,other", "--limit", "1", "--prompt-style", f"other={changed}"))
    assert code == 1
    assert f'prompt_style (was "{of_other}", is "{changed}")' in " ".join(err.split())
    assert "1 of 2 tasks failed" in err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("othr=curt",), "othr=curt is for a task that this run does not have: did you mean other?"),
        (("colours=default",), "colours=default is for a task that this run does not have: known are clips, other."),
        (("other=crut",), "Other has no prompt style 'crut': did you mean curt?"),
        (("clips=curt",), "Clips has no prompt style 'curt': known are default."),
        (("other=curt", "other=default"), "There are two prompt styles for other, curt and default: keep one."),
        (("default", "curt"), "There are two prompt styles for all tasks, default and curt: keep one."),
        (("default,clips=default,other=curt",), "The prompt style 'default' is for no task"),
        (("other=",), "A prompt style is STYLE, or TASK=STYLE for one task, not 'other='."),
        (("=curt",), "A prompt style is STYLE, or TASK=STYLE for one task, not '=curt'."),
        (("other=curt,",), "A prompt style is STYLE, or TASK=STYLE for one task, not 'other=curt,'."),
    ],
)
def test_a_wrong_prompt_style_of_a_task_is_told_before_the_model_is_loaded(
    cli: Cli, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr(evaluate_run, "load_model", lambda *arguments: pytest.fail("the model is loaded"))
    styles = [word for text in given for word in ("--prompt-style", text)]
    code, out, err = cli(*line(data, tmp_path, "clips,other", *styles))
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_an_unknown_task_points_to_the_list(cli: Cli, data: Path, tmp_path: Path) -> None:
    code, _, err = cli(*line(data, tmp_path, "xyzzy"))
    assert code != 0
    assert "There is no task 'xyzzy': `hf-videollm evaluate --list` shows the names." in " ".join(err.split())
    # Control: a name that is near is named.
    assert "did you mean clips?" in " ".join(cli(*line(data, tmp_path, "clip"))[2].split())


def test_the_rule_judge_is_named_where_the_choice_rule_stands_in_for_it(data: Path) -> None:
    task = make_task("matched", metric="matched_choice")
    run = evaluate_run.EvaluateRun(
        ModelOptions(), AnsweringOptions(), ScoringOptions(), JudgeOptions(judge="rule"), data
    )
    scoring, _ = run._scoring(task, RunOptions(), data)
    assert scoring.facts() == {
        "metric": "matched_choice",
        "choice_rule": "robust",
        "fallback": "none",
        "judge": "rule",
    }
    # Control: ranked options need no judge, so none is named.
    run.judging = JudgeOptions()
    scoring, _ = run._scoring(task, RunOptions(mode="likelihood"), data)
    assert "judge" not in scoring.facts()


def test_answers_are_judged_when_a_judge_is_named(cli: Cli, data: Path, tmp_path: Path) -> None:
    code, _, err = cli(*line(data, tmp_path, "judged"))
    assert code == 0
    assert "No judge was chosen. The same command with --judge judges" in " ".join(err.split())
    code, out, _ = cli(*line(data, tmp_path, "judged", "--judge", "rule", "--judge-policy", "pllava", "--json"))
    assert code == 0
    result = json.loads(out)["results"]["judged"]
    assert result["metrics"]["accuracy"] == 1
    assert (result["scoring"]["judge"], result["scoring"]["policy"]["name"]) == ("rule", "pllava")
    # Only the judge ran in the second command.
    assert len(result["runs"]) == 1


def test_the_best_of_several_right_answers_counts(
    cli: Cli, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_others(data: DataFiles) -> Any:
        for item in load(data):
            # The first answer is always wrong; what the clip shows stands behind it.
            yield replace(item, answer="none of these", references=("none of these", str(item.answer)))

    task = make_task(
        "judged", load=with_others, metric="judged_qa", judge_texts={"default": "qa"}, has_alternative_answers=True
    )
    monkeypatch.setattr(sys.modules["hf_videollm.evaluation.tasks.of_tests"], "TASKS", [task])
    accuracies = {}
    for references in ("first", "best"):
        more = ("--judge", "rule", "--references", references, "--json")
        code, out, err = cli(*line(data, tmp_path, "judged", *more))
        assert code == 0, err
        result = json.loads(out)["results"]["judged"]
        assert result["scoring"]["references"] == references
        accuracies[references] = result["metrics"]["accuracy"]
    assert accuracies == {"first": 0, "best": 1}


def test_an_endpoint_judges_and_its_replies_are_kept(
    cli: Cli, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with judge_server() as server:
        server.script = [Answer(status=500), Answer(content="no idea")]
        judge = ("--judge", "openai", "--judge-model", "m", "--judge-url", server.url, "--judge-policy", "pllava")
        code, out, err = cli(*line(data, tmp_path, "judged", *judge, "--judge-concurrency", "1", "--json"))
        assert code == 0, err
        result = json.loads(out)["results"]["judged"]
        assert (result["counts"]["judge_failures"], result["metrics"]["accuracy"]) == (1, 0.8)
        calls = server.calls
        again = json.loads(cli(*line(data, tmp_path, "judged", *judge, "--json"))[1])["results"]["judged"]
        assert server.calls == calls
    assert again["metrics"] == result["metrics"]
    written = "".join(path.read_text() for path in (tmp_path / "judged").iterdir() if path.is_file())
    assert "secret" not in written


def test_an_endpoint_without_any_reply_gives_no_number(
    cli: Cli, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with judge_server(reply=lambda _: Answer(status=400)) as server:
        # Its failures count as wrong by this policy: 0 % would be a number of nobody.
        judge = ("--judge", "openai", "--judge-model", "m", "--judge-url", server.url, "--judge-policy", "pllava")
        code, out, err = cli(*line(data, tmp_path, "judged", *judge, "--json"))
    assert code == 0
    result = json.loads(out)["results"]["judged"]
    assert result["metrics"] == {}
    assert result["counts"]["judge_failures"] == 5
    assert "judged: 0 of 5 judged (no reply):" in " ".join(err.split())


def test_a_judge_that_stops_loses_no_answer(
    cli: Cli, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with judge_server() as server:
        server.reply = lambda messages: Answer(status=401, error={"message": "wrong key"})
        judge = ("--judge", "openai", "--judge-model", "m", "--judge-url", server.url)
        code, _, err = cli(*line(data, tmp_path, "judged,colours", *judge))
    assert code == 1
    assert "1 of 2 tasks failed" in err
    assert (tmp_path / "colours/result.json").exists()
    code, out, _ = cli(*line(data, tmp_path, "judged", "--judge", "rule", "--json"))
    result = json.loads(out)["results"]["judged"]
    assert (code, result["metrics"]["accuracy"], len(result["runs"])) == (0, 1.0, 1)


def test_options_ranked_by_likelihood(cli: Cli, data: Path, tmp_path: Path) -> None:
    more = ("--mode", "likelihood", "--ranking", "sum", "--json")
    code, out, _ = cli(*line(data, tmp_path, "colours", *more))
    assert code == 0
    result = json.loads(out)["results"]["colours"]
    assert result["metrics"]["accuracy"] == 1
    assert result["settings"]["ranking"] == "sum"


def test_other_settings_in_the_same_folder_are_refused(cli: Cli, data: Path, tmp_path: Path) -> None:
    assert cli(*line(data, tmp_path, "colours"))[0] == 0
    code, _, err = cli(*line(data, tmp_path, "colours", "--frames", "4"))
    assert code == 1
    assert "processor_options.num_frames (was null, is 4)" in err


def test_a_task_without_any_answer_has_failed(cli: Cli, data: Path, tmp_path: Path) -> None:
    clips = clip_questions(data / "clips", 1)
    lost = tmp_path / "data"
    write_benchmark(lost / "clips", clips[:0] or clips[:1], missing=0)
    (lost / "clips/questions.jsonl").write_text(
        '{"id": "1", "video": "gone.mp4", "question": "What?", "answer": "x", "kind": "x"}\n'
    )
    code, _, err = cli(*line(lost, tmp_path / "out", "clips"))
    assert code == 1
    assert "no item has an answer (MediaNotFound 1)" in err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--tasks", "clisp"), "There is no task 'clisp': did you mean clips?"),
        (("--tasks", ","), "Say what to evaluate on"),
        (("--tasks", "clips", "--batch-size", "many"), "--batch-size is a number or auto, not 'many'"),
        (("--tasks", "clips", "--batch-size", "0"), "--batch-size must be at least 1"),
        (("--tasks", "clips", "--mode", "genrate"), "There is no mode 'genrate': did you mean generate"),
        (("--tasks", "clips", "--ranking", "sum"), "--ranking does nothing without --mode likelihood"),
        (("--tasks", "colours", "--mode", "likelihood", "--max-new-tokens", "3"), "--max-new-tokens does nothing"),
        (("--tasks", "clips", "--frames", "2", "--fps", "2"), "exclude each other"),
        (("--tasks", "clips", "--choice-rule", "pllava"), "--choice-rule does nothing for clips"),
        (("--tasks", "colours", "--match-rule", "vqa"), "--match-rule does nothing for colours"),
        (("--tasks", "colours", "--fallback", "frist"), "There is no fallback 'frist': did you mean first"),
        (("--tasks", "clips", "--judge", "rule"), "--judge does nothing for clips"),
        (("--tasks", "judged", "--references", "best"), "--references does nothing for judged: leave it out"),
        (("--tasks", "judged", "--references", "bset"), "There is no choice of references 'bset': did you mean best?"),
        (("--tasks", "judged", "--judge", "rlue"), "--judge rlue is none: take openai, local or rule"),
        (("--tasks", "judged", "--judge-policy", "pllava"), "--judge must be given"),
        (("--tasks", "clips", "--model", "gone/model"), "gone/model"),
        (("--tasks", "clips", "--tokens-per-frame", "2"), "pllava-tiny has no option --tokens-per-frame: leave it out"),
    ],
)
def test_mistakes_are_told_in_one_line(
    cli: Cli, data: Path, tmp_path: Path, more: tuple[str, ...], message: str
) -> None:
    code, out, err = cli("evaluate", "--data", str(data), "--output", str(tmp_path), "--device", "cpu", *more)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_list_shows_every_task(cli: Cli) -> None:
    code, out, _ = cli("evaluate", "--list")
    assert code == 0
    assert all(name in out for name in ("clips", "colours", "judged"))
    code, out, _ = cli("evaluate", "--list", "--json")
    facts = {task["name"]: task for task in json.loads(out)["tasks"]}
    assert facts["absent"]["hub_ids"] == ["org/absent"]
    code, out, _ = cli("evaluate", "--list", "--tasks", "absent")
    assert "files: questions.jsonl" in out
    assert "source: the synthetic generator" in out


def test_downloads_are_asked_for_and_their_failure_is_told(cli: Cli, data: Path, tmp_path: Path) -> None:
    code, _, err = cli(*line(tmp_path, tmp_path / "out", "absent", "--download"))
    assert code == 1
    assert "Absent cannot be downloaded (org/absent:" in err


def test_videos_are_described(cli: Cli, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "captions.jsonl"
    videos = data / "clips" / "videos"
    command = ("recaption", str(videos), "--output", str(output), "--device", "cpu", "--max-new-tokens", "3")
    code, out, _ = cli(*command, "--json")
    assert code == 0
    lines = [json.loads(text) for text in output.read_text().splitlines()]
    assert json.loads(out)["videos"] == len(lines) == len(list(videos.glob("*.mp4")))
    assert all(entry["caption"] for entry in lines)
    code, out, _ = cli(*command)
    assert (code, out) == (0, f"{len(lines)} captions in {output}\n")
    code, _, err = cli("recaption", str(tmp_path / "gone"))
    assert code == 2
    assert "no such folder or list of videos" in err


def test_a_list_of_lost_videos_has_no_captions(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("gone.mp4\n")
    output = tmp_path / "captions.jsonl"
    code, _, err = cli("recaption", str(tmp_path / "list.txt"), "--output", str(output), "--device", "cpu")
    assert code == 1
    assert "1 of 1 videos have no caption" in " ".join(err.split())
    assert "error" in json.loads(output.read_text())


def test_the_tasks_of_these_tests_load(data: Path) -> None:
    """A control: the fixture's files are those that the loaders read."""
    assert len(list(load(DataFiles(data / "clips")))) == 6
