"""What goes to the Hub is read back by huggingface_hub's own classes, and is about one model."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from finished_runs import choice_items, judge, letters, open_items, write_run
from huggingface_hub import ModelCard, parse_eval_result_entries

from hf_videollm.evaluation.report.hub import eval_result_files, model_index
from hf_videollm.evaluation.report.loading import load_runs
from hf_videollm.evaluation.tasks import find_task
from hf_videollm.models.errors import MediaNotFound

# With a dataset on the Hub.
MSVC = find_task("msvc")


def write_two_tasks(folder: Path) -> Path:
    items = choice_items(4)
    answers = [*letters([True, True, None], items[:3]), MediaNotFound("gone")]
    write_run(folder / "choices", answers, items)
    write_run(
        folder / "msvc",
        ["x", "y"],
        open_items(2),
        MSVC,
        judge=lambda asked: judge({item.id: (None, 3.0) for item in asked})(asked),
        policy="robust",
    )

    return folder


def test_a_model_card_reads_the_index(tmp_path: Path) -> None:
    text = model_index(load_runs([write_two_tasks(tmp_path)]))
    card = ModelCard(f"---\nlicense: apache-2.0\n{text}---\n# A model\n")
    assert card.data.model_name == "tiny"
    found = {(result.dataset_name, result.metric_type): result for result in card.data.eval_results}
    accuracy = found["Choices", "accuracy"]
    assert accuracy.metric_value == pytest.approx(200 / 3, abs=1e-4)
    assert (accuracy.metric_name, accuracy.dataset_type) == ("Accuracy (%)", "choices")
    facts = accuracy.metric_args
    assert (facts["items"], facts["errors"], facts["parse failures"], facts["frames"]) == (4, 1, 1, 2)
    assert facts["choice rule"] == "robust"
    assert facts["interval"][0] <= accuracy.metric_value <= facts["interval"][1]
    assert found["MSVC", "correctness"].dataset_type == MSVC.hub_ids[0]
    assert found["MSVC", "correctness"].metric_value == 3.0


def test_files_of_evaluation_results(tmp_path: Path) -> None:
    """Only tasks whose dataset is on the Hub have one: the Hub finds the benchmark by it."""
    files = eval_result_files(load_runs([write_two_tasks(tmp_path)]))
    assert list(files) == [".eval_results/msvc.yaml"]
    (entry,) = parse_eval_result_entries(yaml.safe_load(files[".eval_results/msvc.yaml"]))
    assert (entry.dataset_id, entry.task_id, entry.value) == (MSVC.hub_ids[0], "msvc", 3.0)
    assert "metric: macro; items: 2" in entry.notes
    assert entry.date


def test_a_card_is_about_one_model_with_numbers(tmp_path: Path) -> None:
    items = choice_items(4)
    first = write_run(tmp_path / "a", letters([True] * 4, items), items)
    other = write_run(tmp_path / "b", letters([True] * 4, items), items, model="other")
    unscored = write_run(tmp_path / "c", ["x"] * 4, open_items(), "msvd_qa")
    with pytest.raises(ValueError, match="about one model"):
        model_index(load_runs([first, other]))
    with pytest.raises(ValueError, match="No run has a number"):
        model_index(load_runs([unscored]))
    with pytest.raises(ValueError, match="datasets of choices are not on the Hub"):
        eval_result_files(load_runs([first]))


@pytest.mark.parametrize("form", [model_index, eval_result_files])
def test_a_task_has_one_result(tmp_path: Path, form: Callable[..., object]) -> None:
    for name in ("a", "b"):
        write_two_tasks(tmp_path / name)
    assert form(load_runs([tmp_path / "a"])), "the control: one run of each task is taken"
    with pytest.raises(ValueError, match=r"(msvc|choices) has two runs"):
        form(load_runs([tmp_path / "a", tmp_path / "b"]))


def test_a_partial_run_is_no_number_of_the_benchmark(tmp_path: Path) -> None:
    items = choice_items(4)
    write_run(tmp_path / "a", letters([True] * 4, items), items, partial="the run has 4 of 20 items")
    write_two_tasks(tmp_path / "b")
    runs = load_runs([tmp_path / "a", tmp_path / "b" / "msvc"])
    for form in (model_index, eval_result_files):
        with pytest.raises(ValueError, match=r"a: the run has 4 of 20 items, so its number is not the benchmark's"):
            form(runs)
    card = ModelCard(f"---\n{model_index(runs, partial=True)}---\n")
    facts = {result.dataset_name: result.metric_args for result in card.data.eval_results}
    assert facts["Choices"]["partial"] == "the run has 4 of 20 items"
    assert "partial" not in facts["MSVC"]


def test_notes_of_a_file_say_that_a_run_is_partial(tmp_path: Path) -> None:
    write_run(
        tmp_path,
        ["x", "y"],
        open_items(2),
        MSVC,
        judge=lambda asked: judge({item.id: (None, 3.0) for item in asked})(asked),
        policy="robust",
        partial="the run has 2 of 500 items",
    )
    files = eval_result_files(load_runs([tmp_path]), partial=True)
    (entry,) = parse_eval_result_entries(yaml.safe_load(files[".eval_results/msvc.yaml"]))
    assert "partial: the run has 2 of 500 items" in entry.notes
