"""The benchmarks, one file for each family. A file is imported when one of its tasks is asked for."""

from __future__ import annotations

from importlib import import_module

from ...models.video_llm_option_names import did_you_mean, nearest
from ..delegated import who_has
from ..task import Task

__all__ = ["TASK_FILES", "find_task", "task_names"]

# Name of a task -> the file of this folder that defines it, in its list `TASKS`.
TASK_FILES: dict[str, str] = {
    "msvd_qa": "open_qa",
    "msrvtt_qa": "open_qa",
    "tgif_qa": "open_qa",
    "activitynet_qa": "activitynet_qa",
    "vcg": "vcg",
    "lifeqa": "lifeqa",
    "lifeqa_dev_test": "lifeqa",
    "social_iq2": "social_iq",
    "wildqa": "wildqa",
    "wildqa_dev": "wildqa",
    "msvc": "msvc",
    "inter4k": "inter4k",
    "music_avqa": "music_avqa",
    "avsd": "avsd",
    "avsd_full": "avsd",
    "avssd": "avssd",
    "avssd_full": "avssd",
    "clotho_aqa": "clotho_aqa",
    "tut2017": "tut2017",
    "vocalsound": "vocalsound",
    "tiny_lvlm_ehub": "tiny_lvlm_ehub",
    "mvbench": "mvbench",
    "perception_test": "perception_test",
    "perception_test_val": "perception_test",
    "egoschema": "egoschema",
    "egoschema_subset": "egoschema",
    "videomme": "videomme",
    "videomme_subtitles": "videomme",
    "nextqa": "nextqa",
    "nextqa_val": "nextqa",
    "seed_bench_video": "seed_bench",
    "videovista": "videovista",
    "video_bench": "video_bench",
    "mlvu": "mlvu",
    "longvideobench": "long_video_bench",
    "longvideobench_subtitles": "long_video_bench",
}


def task_names() -> list[str]:
    """Names of all benchmarks, in the order of the table."""
    return list(TASK_FILES)


def find_task(name: str) -> Task:
    """The benchmark of this name.

    Raises:
        ValueError: there is none; the message gives the nearest name, or the other tool that has this benchmark.
    """
    if (advice := who_has(name)) is not None:
        raise ValueError(f"hf-videollm leaves {name} to another tool. {advice}")
    if name not in TASK_FILES:
        # Where no name is near, there is nothing to leave out: a run needs a task.
        advice = (
            did_you_mean(name, TASK_FILES)
            if nearest(name, TASK_FILES)
            else "`hf-videollm evaluate --list` shows the names."
        )
        raise ValueError(f"There is no task {name!r}: {advice}")
    module = import_module(f".{TASK_FILES[name]}", __name__)
    return next(task for task in module.TASKS if task.name == name)
