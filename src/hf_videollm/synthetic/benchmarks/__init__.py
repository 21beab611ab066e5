"""Stand-ins of the benchmarks: a few synthetic items in each benchmark's own files, for tests without the benchmark.

    python -m hf_videollm.synthetic.benchmarks FOLDER --tasks msvd_qa

A file is imported when one of its stand-ins is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from ...models.video_llm_option_names import did_you_mean

__all__ = ["FEWEST", "STAND_INS", "StandIn", "find_stand_in", "write_stand_in"]

# (folder, number of items, seed of the clips) -> files of the benchmark in the folder.
StandIn = Callable[..., None]

# Name of a task -> the file of this folder that makes its stand-in, with a function `write_<task>`.
STAND_INS: dict[str, str] = {
    "msvd_qa": "open_qa",
    "msrvtt_qa": "open_qa",
    "tgif_qa": "open_qa",
    "activitynet_qa": "activitynet_qa",
    "vcg": "vcg",
    "lifeqa": "iva_sets",
    "lifeqa_dev_test": "iva_sets",
    "social_iq2": "iva_sets",
    "wildqa": "iva_sets",
    "wildqa_dev": "iva_sets",
    "msvc": "captions",
    "inter4k": "captions",
    "music_avqa": "audio_visual",
    "avsd": "audio_visual",
    "avsd_full": "audio_visual",
    "avssd": "audio_visual",
    "avssd_full": "audio_visual",
    "clotho_aqa": "audio",
    "tut2017": "audio",
    "vocalsound": "audio",
    "tiny_lvlm_ehub": "pictures",
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
    "mlvu": "long_videos",
    "longvideobench": "long_videos",
    "longvideobench_subtitles": "long_videos",
}

# A list of a benchmark that holds nothing is an error of its loader, so these have an item in each of their lists.
FEWEST = {
    "mvbench": 20,
    "video_bench": 13,
    "mlvu": 7,
    "tiny_lvlm_ehub": 5,
    "vcg": 4,
    "egoschema": 2,
    "lifeqa_dev_test": 2,
}


def find_stand_in(name: str) -> StandIn:
    """The function that writes the stand-in of a task: `write(folder: Path, count: int = 20, seed: int = 0)`.

    Raises:
        ValueError: there is none; the nearest name is given.
    """
    if name not in STAND_INS:
        raise ValueError(f"There is no stand-in of {name!r}: {did_you_mean(name, STAND_INS)}")
    write: StandIn = getattr(import_module(f".{STAND_INS[name]}", __name__), f"write_{name}")
    return write


def write_stand_in(name: str, folder: Path, count: int = 20, seed: int = 0) -> int:
    """Write the stand-in of a task into a folder, which is made if missing.

    Args:
        name: of the task.
        folder: takes the place of the benchmark's own folder.
        count: number of items. A benchmark of many lists has at least one item in each (`FEWEST`).
        seed: another one gives other clips and questions.

    Returns:
        The number of items.

    Raises:
        ValueError: there is no stand-in of this name.
    """
    write = find_stand_in(name)
    folder.mkdir(parents=True, exist_ok=True)
    written = max(count, FEWEST.get(name, 1))
    write(folder, written, seed)
    return written
