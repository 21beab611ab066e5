"""Inter4K, which PLLaVA describes anew: captions are the result; there is nothing to compare them with."""

from __future__ import annotations

from collections.abc import Iterator

from ..data_files import DataError, DataFiles, Row
from ..items import Item, Medium
from ..paper_prompts import greedy, pllava_rules
from ..prompting import Prompt
from ..prompts_pllava import RECAPTION_QUERY
from ..row_joins import medium_in, rows_by_id
from ..task import Task

__all__ = ["TASKS"]

_FOLDERS = ("60fps/UHD", "videos", "")
_SUFFIXES = (".mp4", ".mkv", ".webm")


def _load(data: DataFiles) -> Iterator[Item]:
    listed = [name for name in ("annotations.json", "Inter4K/annotations.json") if (data.root / name).exists()]
    if listed:
        here = data.beside(data.find(*listed))
        rows = rows_by_id(here.json_rows("annotations.json"), "video_name")
    else:
        here = data
        rows = {name: Row({}, str(data.root)) for name in _names_in_folder(data)}
    for name, row in rows.items():
        yield row.item(
            id=name,
            media=(Medium(medium_in(here, _FOLDERS, name, _SUFFIXES)),),
            questions=(RECAPTION_QUERY,),
        )


def _caption(item: Item, question: str) -> Prompt:
    return Prompt(question, generate_kwargs=greedy(400))


def _names_in_folder(data: DataFiles) -> list[str]:
    """Names of the videos of the first folder that has some, numbers in their order."""
    for folder in _FOLDERS:
        names = {path.stem for path in (data.root / folder).glob("*") if path.suffix in _SUFFIXES}
        if names:
            return sorted(names, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))
    raise DataError(f"{data.root} has no annotations.json and no videos in 60fps/UHD, in videos, or beside it.")


TASKS = [
    Task(
        name="inter4k",
        title="Inter4K recaption",
        load=_load,
        files=(
            "60fps/UHD/{name}.mp4 - the videos; .mkv and .webm, the folder videos, and none at all are found, too",
            "or, as PLLaVA lists them: annotations.json with the video_name of each; without it, all videos are taken",
        ),
        source="https://alexandrosstergiou.github.io/datasets/Inter4K/",
        prompts={"default": _caption, **pllava_rules("recaption")},
        metric="none",
        notes=("The set has no captions. PLLaVA publishes those that it made, and no number.",),
    ),
]
