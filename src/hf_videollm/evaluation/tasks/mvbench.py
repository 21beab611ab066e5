"""MVBench: twenty sub-tasks about what only several frames show, with two to five options each.

The sub-tasks take their videos from eleven other sets. The `main` revision of the data has whole videos, with start and
end where a part is asked about, and one set as folders of frames; the `video` revision has the parts as files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

from ..choice_items import by_text, choice_item, listed_options
from ..choice_prompts import bare_question, linvt_mvbench
from ..data_files import DataFiles, Row
from ..items import Item, Medium
from ..paper_prompts import greedy, pllava_rules, videollama2_rule
from ..prompting import Prompt, lettered, raw_question
from ..row_joins import NUMBERED, medium_in
from ..task import Task
from .mvbench_published import MVBENCH

__all__ = ["FRAMES_FPS", "SUB_TASKS", "TASKS", "SubTask"]

FRAMES_FPS = 3.0


class SubTask(NamedTuple):
    """One of the twenty sub-tasks.

    Attributes:
        abbreviation: in the papers' tables.
        folder: of its videos in the `main` revision.
        cut: folder of its videos in the `video` revision, where it is another one; its videos need no start and end.
        bounded: whether its rows have start and end.
        frames: whether its videos are folders of frames in the `main` revision.
    """

    abbreviation: str
    folder: str
    cut: str | None = None
    bounded: bool = False
    frames: bool = False


_STAR, _STAR_CUT = "star/Charades_v1_480", "star/Charades_segment"
# Name of the list, without suffix -> sub-task, in the order of the papers' tables.
SUB_TASKS: dict[str, SubTask] = {
    "action_sequence": SubTask("AS", _STAR, _STAR_CUT, bounded=True),
    "action_prediction": SubTask("AP", _STAR, _STAR_CUT, bounded=True),
    "action_antonym": SubTask("AA", "ssv2_video", "ssv2_video_mp4"),
    "fine_grained_action": SubTask("FA", "Moments_in_Time_Raw/videos"),
    "unexpected_action": SubTask("UA", "FunQA_test/test"),
    "object_existence": SubTask("OE", "clevrer/video_validation"),
    "object_interaction": SubTask("OI", _STAR, _STAR_CUT, bounded=True),
    "object_shuffle": SubTask("OS", "perception/videos"),
    "moving_direction": SubTask("MD", "clevrer/video_validation"),
    "action_localization": SubTask("AL", "sta/sta_video", "sta/sta_video_segment", bounded=True),
    "scene_transition": SubTask("ST", "scene_qa/video"),
    "action_count": SubTask("AC", "perception/videos"),
    "moving_count": SubTask("MC", "clevrer/video_validation"),
    "moving_attribute": SubTask("MA", "clevrer/video_validation"),
    "state_change": SubTask("SC", "perception/videos"),
    "fine_grained_pose": SubTask("FP", "nturgbd", "nturgbd_convert"),
    "character_order": SubTask("CO", "perception/videos"),
    "egocentric_navigation": SubTask("EN", "vlnqa"),
    "episodic_reasoning": SubTask("ER", "tvqa/frames_fps3_hq", "tvqa/video_fps3_hq_segment", bounded=True, frames=True),
    "counterfactual_inference": SubTask("CI", "clevrer/video_validation"),
}
# Where the folders of the sub-tasks may stand. Some archives unpack below data0613.
_ROOTS = ("video", "", "video/data0613", "data0613")


def _load(data: DataFiles) -> Iterator[Item]:
    for name, sub_task in SUB_TASKS.items():
        is_cut = not _is_there(data, sub_task.folder) and sub_task.cut is not None and _is_there(data, sub_task.cut)
        for number, row in enumerate(data.json_rows(f"json/{name}.json", f"{name}.json")):
            options = listed_options(row, "candidates")
            yield choice_item(
                row,
                f"{name}/{number}",
                _cut_medium(data, sub_task, row) if is_cut else _medium(data, sub_task, row),
                row.get("question"),
                options,
                # Candidates that bring letters have them in the answer, too.
                by_text(row, "answer", row.get("candidates", list)),
                groups={"task": sub_task.abbreviation},
            )


def _is_there(data: DataFiles, folder: str) -> bool:
    return any((data.root / root / folder).is_dir() for root in _ROOTS)


def _medium(data: DataFiles, sub_task: SubTask, row: Row) -> Medium:
    path = medium_in(data, [f"{root}/{sub_task.folder}".strip("/") for root in _ROOTS], row.get("video"))
    start = float(row.get("start", (int, float))) if sub_task.bounded else None
    end = float(row.get("end", (int, float))) if sub_task.bounded else None
    return Medium(path, start=start, end=end, fps=FRAMES_FPS if sub_task.frames else None)


def _cut_medium(data: DataFiles, sub_task: SubTask, row: Row) -> Medium:
    """The file that holds the part alone. It may be MP4 where the list of the `main` revision names another format."""
    name = PurePosixPath(row.get("video"))
    folders = [f"{root}/{sub_task.cut}".strip("/") for root in _ROOTS]
    stem = str(name.with_suffix("")) if name.suffix in (".webm", ".avi", ".mp4") else str(name)
    path = medium_in(data, folders, stem, tuple(dict.fromkeys((name.suffix or ".mp4", ".mp4"))))
    return Medium(path)


def _lmms_eval(item: Item, question: str) -> Prompt:
    lines = [f"Question:{question}", "Option:", *lettered(item.options), "Only give the best option.\n"]
    return Prompt("\n".join(lines), generate_kwargs=greedy(16))


TASKS = [
    Task(
        name="mvbench",
        title="MVBench",
        load=_load,
        files=(
            "json/{sub-task}.json - the twenty lists: video, question, candidates, answer; start and end in some",
            "video/{folder}/ - the videos of each sub-task, as the archives of the set unpack, also below data0613/",
            "or the folders of the revision `video`, whose files are already cut",
        ),
        hub_ids=("OpenGVLab/MVBench",),
        source="https://huggingface.co/datasets/OpenGVLab/MVBench",
        prompts={
            "default": raw_question,
            **pllava_rules("mvbench"),
            "videollama2": videollama2_rule("mvbench"),
            "linvt": linvt_mvbench,
            "lmms_eval": _lmms_eval,
            "bare": bare_question,
        },
        metric="multiple_choice",
        choice_rules={
            "default": "robust",
            "pllava": "pllava",
            "pllava_34b": "pllava",
            "videollama2": "videollama2",
            "linvt": "linvt_mvbench",
            "lmms_eval": "lmms_eval",
        },
        group_by=("task",),
        published=MVBENCH,
        notes=(
            NUMBERED,
            "The videos of fine_grained_pose (NTU RGB+D) are not on the Hub; its items have no answer without them.",
            "The average of the papers is the mean of the twenty sub-tasks, the macro average of the table `task`; all "
            "have 200 items, so it equals the accuracy.",
            "VideoLLaMA2's numbers count an answer without a letter as C (--fallback third).",
            "lmms-eval leaves empty answers out of its accuracy; here they are wrong, and counted.",
            "LinVT's code puts its text behind lines such as 'Frame1: <image>'; here the model's own processor places "
            "the video.",
            "The subtitles that rows of episodic_reasoning hold are not shown.",
            "LinVT prints other numbers elsewhere: 62.5 for Mipha (Table 2), 62.2 for Aquila (Table 6).",
            "FTFV does not publish its prompt; the style `default` asks for a letter.",
        ),
    ),
]
