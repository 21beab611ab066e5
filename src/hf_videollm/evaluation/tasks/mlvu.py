"""MLVU, the seven multiple-choice tasks of its public part (dev): questions about videos of minutes to hours."""

from __future__ import annotations

from collections.abc import Iterator

from ..choice_items import by_text, choice_item, listed_options
from ..choice_prompts import bare_question, linvt_block, linvt_mvbench
from ..data_files import DataFiles
from ..items import Item, Medium
from ..paper_prompts import greedy
from ..prompting import Prompt, raw_question
from ..prompts_pllava import mvbench_query
from ..row_joins import NUMBERED, medium_in, stated_number
from ..task import Task

__all__ = ["SUB_TASKS", "TASKS"]

# Name of the list and of the folder of videos -> name of the task.
SUB_TASKS = {
    "1_plotQA": "plotQA",
    "2_needle": "needle",
    "3_ego": "ego",
    "4_count": "count",
    "5_order": "order",
    "6_anomaly_reco": "anomaly_reco",
    "7_topic_reasoning": "topic_reasoning",
}
_PACKED = ("", "MLVU/")


def _load(data: DataFiles) -> Iterator[Item]:
    for name, task in SUB_TASKS.items():
        rows = data.json_rows(*(f"{folder}{kind}{name}.json" for folder in _PACKED for kind in ("json/", "")))
        folders = [f"{folder}{kind}{name}" for folder in _PACKED for kind in ("video/", "")]
        for number, row in enumerate(rows):
            yield choice_item(
                row,
                f"{name}/{number}",
                Medium(medium_in(data, folders, row.get("video")), stated_seconds=stated_number(row, "duration")),
                row.get("question"),
                listed_options(row, "candidates"),
                # Candidates that bring letters have them in the answer, too.
                by_text(row, "answer", row.get("candidates", list)),
                groups={"task": task},
            )


_WATCH = (
    "Carefully watch this video and pay attention to every detail. Based on your observations, select the best option "
    "that accurately addresses the question."
)


def _official(item: Item, question: str) -> Prompt:
    text = f"{mvbench_query(question, item.options)}\nOnly give the best option."
    return Prompt(text, system=_WATCH, answer_prefix="Best Option: (", return_prefix="(", generate_kwargs=greedy(100))


def _lmms_eval(item: Item, question: str) -> Prompt:
    # It writes the beginning of the answer into the question.
    text = f"\n{mvbench_query(question, item.options)}\nOnly give the best option.\n\nBest option: ("
    return Prompt(text, return_prefix="(", generate_kwargs=greedy(16))


TASKS = [
    Task(
        name="mlvu",
        title="MLVU (dev, multiple choice)",
        load=_load,
        files=(
            "json/{1_plotQA ... 7_topic_reasoning}.json - the seven lists: video, question, candidates, answer; also "
            "without the folder",
            "video/{list}/{video} - the videos; the folder MLVU/ may hold all of that",
        ),
        hub_ids=("MLVU/MVLU",),
        source="https://github.com/JUNJIE99/MLVU",
        prompts={
            "default": raw_question,
            "official": _official,
            "linvt": linvt_mvbench,
            "linvt_script": linvt_block,
            "lmms_eval": _lmms_eval,
            "bare": bare_question,
        },
        metric="multiple_choice",
        choice_rules={"default": "robust", "linvt": "linvt_videovista"},
        group_by=("task",),
        published={
            "linvt": {  # Table 9
                "LinVT-Mipha 1.6B": {"accuracy": 56.2},
                "LinVT-Aquila 2B": {"accuracy": 65.1},
                "LinVT-BLIP-3 4B": {"accuracy": 67.9},
                "LinVT-Molmo 7B": {"accuracy": 67.7},
                "LinVT-Qwen2-VL 7B": {"accuracy": 68.9},
                "LinVT-InternVL2 8B": {"accuracy": 68.3},
            },
        },
        notes=(
            NUMBERED,
            "The official M-Avg is the mean of the seven tasks, the macro average of the table `task`; LinVT's script "
            "averages over all questions, which is the accuracy.",
            "The official evaluation begins the answer with 'Best Option: (', which the model continues; so does the "
            "style `official`.",
            "LinVT asks with its template of MVBench (style `linvt`). Its released script has the question with its "
            "options alone (style `linvt_script`).",
            "LinVT's code reads answers as for VideoVista, but for one of the three openings.",
            "The sets of free answers (8_sub_scene, 9_summary) and the test part are not read; lmms-eval has them.",
        ),
    ),
]
