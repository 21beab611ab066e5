"""Results for the Hub: the `model-index` of a model card, and the files below `.eval_results/`.

Both are made by `huggingface_hub`'s own classes, and read back by them before anything is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..headline import Headline
from ..tasks import TASK_FILES, find_task
from .loading import LoadedRun
from .numbers import in_units, numbers, unit

__all__ = ["eval_result_files", "eval_results", "model_index"]

TASK_TYPE = "video-text-to-text"
DIGITS = 4


def model_index(runs: Sequence[LoadedRun], partial: bool = False) -> str:
    """The metadata block of a model card, as YAML: `model-index` with one entry for each task.

    Args:
        runs: of one model, and one of each task.
        partial: also take runs that lack items of their benchmark; their numbers say so.

    Raises:
        ValueError: they are of several models, have no numbers, or a task occurs twice; or a run lacks items.

    Example:
        >>> print(model_index(load_runs([Path("evaluations/pllava-7b")])))   # doctest: +SKIP
        model-index:
        - name: pllava-7b
          results: ...
    """
    from huggingface_hub import ModelCard, ModelCardData

    name, _ = _checked(runs, partial)
    entries = eval_results(runs, partial)
    text: str = ModelCardData(model_name=name, eval_results=entries).to_yaml()
    read = getattr(ModelCard(f"---\n{text}\n---\n").data, "eval_results", None) or []
    if len(read) != len(entries):
        raise ValueError(
            f"huggingface_hub reads {len(read)} of {len(entries)} results of the card: nothing is written."
        )
    return f"{text}\n"


def eval_results(runs: Sequence[LoadedRun], partial: bool = False) -> list[Any]:
    """The entries of `model-index`, as objects of huggingface_hub.

    Args:
        runs: of one model, and one of each task.
        partial: see `model_index`.

    Raises:
        ValueError: as in `model_index`.
    """
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type=TASK_TYPE,
            dataset_type=_dataset(run) or run.task,
            dataset_name=str(run.result["title"]),
            metric_type=number.name,
            metric_value=round(in_units(number.name, number.value), DIGITS),
            metric_name=_metric_name(number),
            metric_args=_facts(run, number),
        )
        for run in _checked(runs, partial)[1]
        for number in numbers(run.result)
    ]


def eval_result_files(runs: Sequence[LoadedRun], partial: bool = False) -> dict[str, str]:
    """The files of a model's repository that hold its results: `.eval_results/TASK.yaml` -> text.

    The Hub finds a benchmark by the id of its dataset there, so tasks whose dataset is not on the Hub have no file.

    Args:
        runs: of one model, and one of each task.
        partial: see `model_index`.

    Raises:
        ValueError: as in `model_index`, or no task's dataset is on the Hub.
    """
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml, parse_eval_result_entries

    _, scored = _checked(runs, partial)
    files: dict[str, str] = {}
    for run in scored:
        if (dataset := _dataset(run)) is None:
            continue
        place = f".eval_results/{run.task}.yaml"
        number = numbers(run.result)[0]
        entry = EvalResultEntry(
            dataset_id=dataset,
            task_id=run.task,
            value=round(in_units(number.name, number.value), DIGITS),
            date=run.result.get("finished"),
            notes="; ".join(f"{name}: {value}" for name, value in _note(run, number)),
        )
        files[place] = yaml.safe_dump(eval_result_entries_to_yaml([entry]), allow_unicode=True, sort_keys=False)
        parse_eval_result_entries(yaml.safe_load(files[place]))
    if not files:
        tasks = ", ".join(run.task for run in scored)
        raise ValueError(f"The datasets of {tasks} are not on the Hub, so it has no place for their results.")
    return files


def _checked(runs: Sequence[LoadedRun], partial: bool) -> tuple[str, list[LoadedRun]]:
    """Name of the one model, and the runs that have numbers.

    Raises:
        ValueError: there are several models, several runs of a task, a partial run that is not wanted, or no numbers.
    """
    models = {(run.result["model"]["model"], run.result["model"].get("revision")): None for run in runs}
    if len(models) > 1:
        names = ", ".join(f"{name} ({revision})" for name, revision in models)
        raise ValueError(f"A model card is about one model, and these runs are of several: {names}. Give one's runs.")
    scored = [run for run in runs if numbers(run.result)]
    if not scored:
        raise ValueError("No run has a number, so there is nothing for the Hub.")
    first: dict[str, LoadedRun] = {}
    for run in scored:
        if first.setdefault(run.task, run) is not run:
            raise ValueError(
                f"{first[run.task].folder} and {run.folder}: {run.task} has two runs, and a model has one result: name "
                "one of them."
            )
        if (lacking := run.result.get("partial")) and not partial:
            raise ValueError(
                f"{run.folder}: {lacking}, so its number is not the benchmark's: evaluate all items, or publish it "
                "marked as partial (--partial)."
            )
    return Path(str(next(iter(models))[0])).name, scored


def _dataset(run: LoadedRun) -> str | None:
    """Id of the task's dataset on the Hub."""
    ids = find_task(run.task).hub_ids if run.task in TASK_FILES else ()
    return ids[0] if ids else None


def _metric_name(number: Headline) -> str:
    words = number.name.replace("_", " ").capitalize()
    return f"{words} ({unit(number.name)})" if unit(number.name) else words


def _facts(run: LoadedRun, number: Headline) -> dict[str, Any]:
    """How the number came about, for the card."""
    facts = dict(_note(run, number))
    if number.low is not None and number.high is not None:
        facts["interval"] = [round(in_units(number.name, end), DIGITS) for end in (number.low, number.high)]
    return facts


def _note(run: LoadedRun, number: Headline) -> Iterator[tuple[str, Any]]:
    """What a reader has to know to compare the number with another one."""
    result = run.result
    counts, scoring, settings = result["counts"], result["scoring"], result["settings"]
    yield "metric", number.name
    if result.get("partial"):
        yield "partial", result["partial"]
    yield "items", counts["items"]
    for name in ("errors", "parse_failures", "judge_failures"):
        if counts[name]:
            yield name.replace("_", " "), counts[name]
    frames = result.get("frames") or {}
    if frames.get("most") is not None:
        few, most = frames["fewest"], frames["most"]
        yield "frames", most if few == most else f"{few} to {most}"
    yield "prompt style", settings.get("prompt_style")
    if settings.get("mode") != "generate":
        yield "mode", settings.get("mode")
    for name in ("choice_rule", "fallback", "match_rule", "references", "judge", "judge_model", "judge_policy"):
        if scoring.get(name) not in (None, "none"):
            yield name.replace("_", " "), scoring[name]
    yield "measured with", f"hf_videollm {(result.get('versions') or {}).get('hf_videollm', '')}".strip()
