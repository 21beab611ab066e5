"""NExT-QA with five options: why and how people and animals in everyday videos do what they do, and when."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from ..choice_items import by_number, choice_item, finds, numbered_options
from ..choice_prompts import bare_question, letters_rule
from ..data_files import DataError, DataFiles, Row
from ..items import Item, Medium
from ..prompting import raw_question
from ..row_joins import check_new, medium_in, stated_number, text_id
from ..task import Task

__all__ = ["TASKS"]

_COLUMNS = ("video", "question", "answer", "qid", "type", "a0", "a1", "a2", "a3", "a4")
_KINDS = {"C": "causal", "T": "temporal", "D": "descriptive"}
_MAPS = ("map_vid_vidorID.json", "dataset/nextqa/map_vid_vidorID.json", "nextqa/map_vid_vidorID.json")
_FOLDERS = ("NExTVideo", "videos", "NExTVideo/videos")


def _loader(split: str) -> Callable[[DataFiles], Iterator[Item]]:
    tables = tuple(f"{folder}{split}.csv" for folder in ("", "nextqa/", "dataset/nextqa/"))
    hub = ("MC/test-*.parquet", "*/MC/test-*.parquet") if split == "test" else ()

    def load(data: DataFiles) -> Iterator[Item]:
        if not finds(data, tables) and finds(data, hub):
            rows = data.parquet_rows(*hub, columns=_COLUMNS)
        else:
            path = data.find(*tables, *hub)
            rows = data.csv_rows(str(path.relative_to(data.root)), columns=_COLUMNS)
        names = _vidor_names(data)
        seen: dict[str, str] = {}
        for row in rows:
            item = _item(data, row, names)
            check_new(seen, item.id, row.where)
            yield item

    return load


def _vidor_names(data: DataFiles) -> Mapping[str, str]:
    """Number of a video -> its path in VidOR, by which the first release of the videos calls them."""
    if not finds(data, _MAPS):
        return {}
    names = data.json_object(*_MAPS, holds="the path of each video")
    if not all(isinstance(name, str) for name in names.values()):
        raise DataError(f"{data.find(*_MAPS)} should hold an object with the path of each video.")
    return names


def _item(data: DataFiles, row: Row, names: Mapping[str, str]) -> Item:
    video, kind = text_id(row, "video"), row.get("type")
    if kind[:1] not in _KINDS:
        raise DataError(f"{row.where}: type is {kind!r}, which begins with none of {', '.join(_KINDS)}.")
    options = numbered_options(row, "a{}", range(5))
    path = medium_in(data, _FOLDERS, video, (".mp4",))
    if not path.exists() and video in names:
        path = medium_in(data, _FOLDERS, names[video], (".mp4",))
    return choice_item(
        row,
        f"{video}_{text_id(row, 'qid')}",
        Medium(path, stated_frames=None if (frames := stated_number(row, "frame_count")) is None else int(frames)),
        row.get("question"),
        options,
        by_number(row, "answer", options),
        groups={"kind": _KINDS[kind[0]], "type": kind},
    )


_PUBLISHED = {
    "linvt": {  # Table 8; LinVT-InternVL2 1B: Table 11
        "LinVT-InternVL2 1B": {"accuracy": 72.4},
        "LinVT-Mipha 1.6B": {"accuracy": 71.1},
        "LinVT-Aquila 2B": {"accuracy": 76.6},
        "LinVT-BLIP-3 4B": {"accuracy": 80.1},
        "LinVT-Molmo 7B": {"accuracy": 81.4},
        "LinVT-Qwen2-VL 7B": {"accuracy": 85.5},
        "LinVT-InternVL2 8B": {"accuracy": 81.9},
    },
}


def _task(name: str, title: str, split: str) -> Task:
    from_hub = ("or, from the Hub: MC/test-*.parquet with the same columns",) if split == "test" else ()
    return Task(
        name=name,
        title=title,
        load=_loader(split),
        files=(
            f"{split}.csv - video, question, answer, qid, type, a0 to a4; also below nextqa/ or dataset/nextqa/",
            "NExTVideo/{video}.mp4 - the videos; the folder videos is found, too, and VidOR's paths where "
            "map_vid_vidorID.json is there",
            *from_hub,
        ),
        hub_ids=("lmms-eval/NExTQA", "lmms-lab/NExTQA") if split == "test" else (),
        source="https://github.com/doc-doc/NExT-QA (dataset/nextqa)",
        prompts={"default": raw_question, "lmms_eval": letters_rule(max_new_tokens=32), "bare": bare_question},
        metric="multiple_choice",
        group_by=("kind", "type"),
        published=_PUBLISHED,
        notes=(
            "LinVT does not say which split its numbers are of; `nextqa` is the test split, `nextqa_val` the other.",
            "LinVT does not publish its prompt; the style `default` asks for a letter.",
            "LinVT, IVA and VideoLLaMA2 train on the train split of this set.",
            "lmms-eval counts an unreadable answer by a random letter (--fallback random).",
        ),
    )


TASKS = [_task("nextqa", "NExT-QA", "test"), _task("nextqa_val", "NExT-QA (validation)", "val")]
