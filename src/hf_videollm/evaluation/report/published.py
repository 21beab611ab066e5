"""What the papers print for a task: their numbers, in their words, which nobody has measured here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..tasks import TASK_FILES, find_task

__all__ = ["Printed", "printed_numbers"]

PAPERS = {
    "pllava": "PLLaVA",
    "videollama2": "VideoLLaMA 2",
    "linvt": "LinVT",
    "ftfv": "FTFV",
    "iva": "IVA",
}


@dataclass(frozen=True)
class Printed:
    """One row of a table of a paper.

    Attributes:
        paper: that prints it.
        model: its name there.
        numbers: name -> number, as printed: accuracies are percent.
    """

    paper: str
    model: str
    numbers: Mapping[str, float]


def printed_numbers(task: str) -> list[Printed]:
    """What the papers print for a task of this package, in the order of its file; nothing for any other task."""
    if task not in TASK_FILES:
        return []
    return [
        Printed(PAPERS.get(paper, paper), model, dict(numbers))
        for paper, models in find_task(task).published.items()
        for model, numbers in models.items()
    ]
