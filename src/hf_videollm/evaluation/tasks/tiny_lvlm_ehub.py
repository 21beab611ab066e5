"""Tiny LVLM-eHub: short answers to questions about pictures, in five groups whose accuracies are added up."""

from __future__ import annotations

from collections.abc import Iterator

from ..data_files import DataFiles, Row
from ..items import Item, Medium
from ..paper_prompts import greedy
from ..prompting import Prompt, raw_question
from ..row_joins import NUMBERED, medium_in
from ..task import Task

__all__ = ["GROUPS", "TASKS"]

GROUPS = (
    "Visual_Reasoning",
    "Visual_Perception",
    "Visual_Knowledge_Acquisition",
    "Visual_Commonsense",
    "Object_Hallucination",
)


def _load(data: DataFiles) -> Iterator[Item]:
    folder = "updated_datasets/" if (data.root / "updated_datasets").exists() else ""
    for group in GROUPS:
        # Paths of pictures are relative to the folder of their group.
        here = DataFiles(data.root / f"{folder}{group}")
        for number, row in enumerate(data.json_rows(f"{folder}{group}/dataset.json")):
            yield _item(here, group, number, row)


def _item(data: DataFiles, group: str, number: int, row: Row) -> Item:
    right = row.get("gt_answers", (str, list))
    answers = [right] if isinstance(right, str) else row.texts("gt_answers")
    return row.item(
        id=f"{group}/{number}",
        media=(Medium(medium_in(data, ("",), row.get("image_path")), "image"),),
        questions=(row.get("question"),),
        answer=answers[0],
        references=tuple(dict.fromkeys(answers)),
        groups={"group": group},
    )


def _single_word(item: Item, question: str) -> Prompt:
    text = f"{question} Answer the question using a single word or phrase."
    return Prompt(text, generate_kwargs={**greedy(30), "min_new_tokens": 1})


TASKS = [
    Task(
        name="tiny_lvlm_ehub",
        title="Tiny LVLM-eHub",
        load=_load,
        files=(
            *(
                f"updated_datasets/{group}/dataset.json - questions: image_path, question, gt_answers"
                for group in GROUPS
            ),
            "updated_datasets/{group}/{image_path} - the pictures; the five groups are found without that folder, too",
        ),
        source="https://github.com/OpenGVLab/Multi-Modality-Arena (Tiny LVLM-eHub); archive: "
        "https://huggingface.co/OpenGVLab/InternVL (updated_datasets.zip)",
        prompts={"default": _single_word, "internvl": _single_word, "raw": raw_question},
        metric="exact_match",
        match_rules={"default": "tiny_lvlm", "ftfv": "tiny_lvlm"},
        group_by=("group",),
        modalities=("image",),
        published={
            "ftfv": {  # Table 3
                "FTFV-LLM image": {"sum": 325.2},
                "FTFV-LLM S4-V": {"sum": 318.2},
                "FTFV-LLM S3-IV": {"sum": 323.8},
                "FTFV-LLM S2-S3-IV": {"sum": 318.5},
            },
        },
        notes=(
            NUMBERED,
            "The published number is the sum of the accuracies of the five groups in percent, 500 at most: five times "
            "the mean over the rows of the table `group`.",
            "The words of the prompt and the limit of 30 tokens are those of InternVL's runner, which searches with "
            "five beams where a model is not large; FTFV does not say how it asked.",
        ),
    ),
]
