"""The numbers of the benchmarks as modules of the library `evaluate`, one folder for each.

A module is a thin cover of a function of `aggregate.py` or `aggregate_judged.py`. `evaluate` copies the module's file
elsewhere before it imports it, so that a module imports this package by its name.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...models.video_llm_option_names import did_you_mean

if TYPE_CHECKING:
    import datasets
    import evaluate

__all__ = ["METRICS", "aspect_features", "load_metric", "metric_path"]

METRICS = ("mc_accuracy", "exact_match_qa", "judged_qa", "vcg", "msvc")


def metric_path(name: str) -> str:
    """Folder of a metric, for `evaluate.load`.

    Raises:
        ValueError: there is no such metric; the most similar names are told.

    Example:
        >>> import evaluate
        >>> evaluate.load(metric_path("mc_accuracy")).name
        'mc_accuracy'
    """
    if name not in METRICS:
        raise ValueError(f"There is no metric {name!r}: {did_you_mean(name, METRICS)}")
    return str(Path(__file__).parent / name)


def load_metric(name: str, **options: Any) -> evaluate.EvaluationModule:
    """A metric of this package. Needs no network.

    Args:
        name: one of `METRICS`.
        options: of `evaluate.load`. Values are kept in memory, unless `keep_in_memory=False` or several processes
            (`num_process`) ask for a file.

    Raises:
        ValueError: there is no such metric; the most similar names are told.

    Example:
        >>> metric = load_metric("mc_accuracy")
        >>> metric.compute(predictions=["(B)"], references=[1], options=[["a dog", "a man"]])["accuracy"]
        1.0
    """
    import evaluate

    options.setdefault("keep_in_memory", options.get("num_process", 1) == 1)
    return evaluate.load(metric_path(name), **options)


def aspect_features() -> datasets.Features:
    """The columns of metrics that average scores by aspect (`vcg`, `msvc`)."""
    import datasets

    columns = {"aspects": "string", "scores": "float64", "failed": "bool"}
    return datasets.Features({name: datasets.Value(kind) for name, kind in columns.items()})
