"""VideoVista: 27 kinds of questions, about understanding and reasoning, with options."""

from __future__ import annotations

from collections.abc import Iterator

from ..choice_items import by_number, choice_item, listed_options
from ..choice_prompts import BEST_OPTION, LINVT_GENERATION, bare_question
from ..data_files import DataError, DataFiles, Row
from ..items import Item, Medium
from ..prompting import Prompt, lettered, raw_question
from ..row_joins import medium_in, rows_by_id
from ..task import Task

__all__ = ["IMAGE_TYPE", "REASONING", "TASKS", "UNDERSTANDING"]

UNDERSTANDING = (
    "Objects Existence",
    "Objects Count",
    "Action Count",
    "Detailed Description",
    "Brief Description",
    "Event Description",
    "Event Sequence",
    "Optical Character Recognition",
    "Action Recognition",
    "Action Sequence",
    "Action Location",
    "Event Location",
    "Objects Temporal Location",
    "Objects Temporal Relation",
    "Objects Spatial Location",
    "Objects Spatial Relation",
    "Objects Spatial Tracking",
    "Human Activity Analysis",
    "Anomaly Detection",
)
# Its questions are about a picture and the video.
IMAGE_TYPE = "Relation Reasoning-Image"
REASONING = (
    IMAGE_TYPE,
    "Relation Reasoning-Video",
    "Event Prediction",
    "Action Prediction",
    "Causal Reasoning",
    "Counterfactual Reasoning",
    "Commonsense Reasoning",
    "Logic Reasoning",
)


def _load(data: DataFiles) -> Iterator[Item]:
    for name, row in rows_by_id(data.json_rows("VideoVista.json"), "question_id").items():
        options, kind = listed_options(row, "Answer_Choices"), row.get("Type")
        groups = {"type": kind, "category": row.get("category"), "time": str(row.get("time", (str, int), "unknown"))}
        if kind in UNDERSTANDING or kind in REASONING:
            groups["kind"] = "understanding" if kind in UNDERSTANDING else "reasoning"
        yield choice_item(
            row,
            name,
            _media(data, row, kind),
            row.get("Question"),
            options,
            by_number(row, "Answer", options),
            groups=groups,
        )


def _media(data: DataFiles, row: Row, kind: str) -> list[Medium]:
    """The video, behind the picture of a question that has one."""
    video, category = row.get("video_name"), row.get("category")
    if len(parts := video.split(".")) < 3:
        raise DataError(f"{row.where}: video_name is {video!r}; expected a name, its group and a suffix, with dots.")
    path = medium_in(data, (f"merged/{category}/{parts[1]}", "merged", "videos"), video)
    if not path.exists():
        # Some videos stand in the folder of another category.
        path = next(iter(sorted(data.root.glob(f"merged/*/{_plain(parts[1])}/{_plain(video)}"))), path)
    picture = row.get("image_name", str, None) if kind == IMAGE_TYPE else None
    if picture is None:
        return [Medium(path)]
    return [Medium(medium_in(data, ("relation_images", "images"), picture), "image"), Medium(path)]


def _plain(name: str) -> str:
    """A name in which nothing is a pattern."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _linvt(item: Item, question: str) -> Prompt:
    text = "\n".join([question, "Options:", *lettered(item.options), BEST_OPTION])
    return Prompt(text, generate_kwargs=LINVT_GENERATION)


def _linvt_script(item: Item, question: str) -> Prompt:
    # The line break behind the last option is the original's.
    return Prompt("\n".join([question, "Options:", *lettered(item.options), ""]), generate_kwargs=LINVT_GENERATION)


TASKS = [
    Task(
        name="videovista",
        title="VideoVista",
        load=_load,
        files=(
            "VideoVista.json - question_id, video_name, category, time, Type, Question, Answer_Choices, Answer",
            "merged/{category}/{group}/{video_name} - the videos; the group stands in the name, behind its first dot",
            "relation_images/{image_name} - the pictures of the type Relation Reasoning-Image",
        ),
        hub_ids=("Uni-MoE/VideoVista",),
        source="https://huggingface.co/datasets/Uni-MoE/VideoVista",
        prompts={"default": raw_question, "linvt": _linvt, "linvt_script": _linvt_script, "bare": bare_question},
        metric="multiple_choice",
        choice_rules={"default": "robust", "official": "videovista_official", "linvt": "linvt_videovista"},
        group_by=("kind", "type", "category", "time"),
        modalities=("video", "image"),
        published={
            "linvt": {  # Table 8
                "LinVT-Mipha 1.6B": {"accuracy": 55.62},
                "LinVT-Aquila 2B": {"accuracy": 60.13},
                "LinVT-BLIP-3 4B": {"accuracy": 68.62},
                "LinVT-Molmo 7B": {"accuracy": 77.41},
                "LinVT-Qwen2-VL 7B": {"accuracy": 79.67},
                "LinVT-InternVL2 8B": {"accuracy": 78.64},
            },
        },
        notes=(
            "Questions of the type Relation Reasoning-Image show their picture before the video. LinVT's released code "
            "shows the video alone.",
            "LinVT's prompt ends with the request for the best option (style `linvt`); in its released script, it ends "
            "with the options (style `linvt_script`).",
            "A type that neither list of the paper has is left out of the table `kind`.",
        ),
    ),
]
