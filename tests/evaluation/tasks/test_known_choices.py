"""A small checkpoint answers the stand-ins with options as well as its own test questions, in whole runs."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from hf_videollm.evaluation.data_files import DataFiles
from hf_videollm.evaluation.judges.items import JudgeItem, Judgement
from hf_videollm.evaluation.multiple_choice import parse_choice
from hf_videollm.evaluation.run_options import RunOptions
from hf_videollm.evaluation.runner import Runner
from hf_videollm.evaluation.scoring import Scoring
from hf_videollm.evaluation.tasks import find_task

Folder = Callable[[str], Path]
PUBLIC = (
    *("mvbench", "perception_test_val", "egoschema_subset", "videomme", "videomme_subtitles", "nextqa", "nextqa_val"),
    *("seed_bench_video", "videovista", "mlvu", "longvideobench"),
)
# Of 20 questions, PLLaVA's small checkpoint misses one or two.
SHARE = 0.85


def run(pipe: Any, name: str, data: Path, folder: Path, **options: Any) -> dict[str, Any]:
    task = find_task(name)
    scoring = Scoring(task, style="bare", judge=options.pop("judge", None), fallback=options.pop("fallback", "none"))
    chosen = RunOptions(prompt_style="bare", batch_size=10, **options)
    result = Runner(pipe, "the model", chosen).run(task, DataFiles(data), folder, scoring)
    assert result is not None
    return result


@pytest.mark.parametrize("name", PUBLIC)
def test_the_accuracy_is_that_of_the_model(
    bundled_pipe: Callable[[str], Any], stand_in: Folder, tmp_path: Path, name: str
) -> None:
    result = run(bundled_pipe("pllava-tiny"), name, stand_in(name), tmp_path)
    assert result["counts"]["errors"] == 0
    assert result["metrics"]["accuracy"] >= SHARE
    # Control: with the right options of other items, the same answers are worth little.
    lines = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    rights = [line["answer"] for line in lines]
    exchanged = [line["options"][line["choice"]] if line["choice"] is not None else "" for line in lines]
    assert sum(map(str.__eq__, exchanged, rights[::-1])) <= len(lines) * SHARE / 2


@pytest.mark.parametrize("name", ["seed_bench_video", "nextqa"])
def test_ranking_the_options_finds_the_same(
    bundled_pipe: Callable[[str], Any], stand_in: Folder, tmp_path: Path, name: str
) -> None:
    result = run(bundled_pipe("pllava-tiny"), name, stand_in(name), tmp_path, mode="likelihood")
    assert result["metrics"]["accuracy"] >= SHARE
    assert result["counts"]["rules"] == {"likelihood": 20}


def test_start_and_end_of_mvbench_matter(
    bundled_pipe: Callable[[str], Any], copied: Folder, edit: Callable[..., None], tmp_path: Path
) -> None:
    """The bounded videos begin with another scene: without their start, hardly any answer about them is right."""
    names = ("action_sequence", "action_prediction", "object_interaction", "action_localization", "episodic_reasoning")
    rows = [f"{name}/0" for name in names]
    folder = copied("mvbench")

    def right(place: str) -> int:
        run(bundled_pipe("pllava-tiny"), "mvbench", folder, tmp_path / place)
        lines = [json.loads(line) for line in (tmp_path / place / "items.jsonl").read_text().splitlines()]
        return sum(bool(line["correct"]) for line in lines if line["id"] in rows)

    assert right("bounded") >= 4
    for name in names:
        # The scene before the part: as if start and end were those of another row.
        edit(folder / f"json/{name}.json", lambda rows: rows[0].update(end=rows[0]["start"] - 0.2, start=0.0))
    assert right("before") <= 3


def test_video_bench_is_matched_and_submitted(
    bundled_pipe: Callable[[str], Any], stand_in: Folder, tmp_path: Path
) -> None:
    pipe, data = bundled_pipe("pllava-tiny"), stand_in("video_bench")
    unjudged = run(pipe, "video_bench", data, tmp_path / "run")
    assert unjudged["unscored_because"].startswith("No judge was chosen.")
    submission = tmp_path / "run/submission"
    missing = json.loads((submission / "missing.json").read_text())
    assert len(missing) == 20
    assert set(missing.values()) == {"no judge has matched the answer with an option"}
    assert not (submission / "Video_Bench_Input.json").exists()

    answers = {}
    items = list(find_task("video_bench").items(DataFiles(data)))
    for path in submission.glob("*_eval.json"):
        for question_id, row in json.loads(path.read_text()).items():
            answers[f"{path.name.removesuffix('_eval.json')}/{question_id}"] = row["output_sequence"]
    options = {item.id: item.options for item in items}

    def judge(asked: Sequence[JudgeItem]) -> list[Judgement]:
        found = [parse_choice(answers[item.id], options[item.id]).index for item in asked]
        letters = [None if index is None else "ABCDEF"[index] for index in found]
        return [Judgement(None, None, failed=letter is None, choice=letter) for letter in letters]

    result = run(pipe, "video_bench", data, tmp_path / "run", judge=judge)
    assert result["metrics"]["accuracy"] >= SHARE
    assert set(result["metrics"]["groups"]["part"]["rows"]) == {"exclusive", "prior", "decision"}
    sent = json.loads((submission / "Video_Bench_Input.json").read_text())
    assert sum(map(len, sent.values())) + result["counts"]["judge_failures"] == 20
    for item in items:
        if (row := sent[item.extra["set"]].get(item.extra["question_id"])) is not None:
            assert set(row) == {"video_id", "question", "output_sequence", "output_chatgpt_choice"}
