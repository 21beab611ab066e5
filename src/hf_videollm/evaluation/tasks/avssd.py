"""AVSSD, the test split of VGGSound as VideoLLaMA2 uses it: what happens in a clip, told freely and judged."""

from __future__ import annotations

from collections.abc import Iterator

from ..data_files import DataError, DataFiles, Row
from ..items import Item, Medium
from ..paper_prompts import videollama2_rule
from ..prompting import raw_question
from ..row_joins import check_new, medium_in
from ..subsets import eighth_of
from ..task import Task
from .avsd import AVQA_POLICIES, AVQA_TEXTS, SUBSET_NOTE

__all__ = ["TASKS"]

_QUESTION = "Identify the event in the video."
_FOLDERS = ("videos", "video", "")


def _load_all(data: DataFiles) -> Iterator[Item]:
    """Tables without a header: `vggsound.csv` (id, second, label, split), or `test.csv` (file, label)."""
    path = data.find("vggsound.csv", "data/vggsound.csv", "test.csv")
    here = data.beside(path)
    seen: dict[str, str] = {}
    if path.name == "test.csv":
        for row in here.csv_rows("test.csv", columns=("file", "label"), has_header=False):
            clip = row.get("file").removesuffix(".mp4")
            check_new(seen, clip, row.where)
            yield _item(here, row, clip)
        return
    for row in here.csv_rows("vggsound.csv", columns=("id", "start", "label", "split"), has_header=False):
        if row.get("split") not in ("train", "test"):
            raise DataError(f"{row.where}: split is {row.get('split')!r}, which is neither train nor test.")
        if row.get("split") == "test":
            clip = f"{row.get('id')}_{_second(row):06d}"
            check_new(seen, clip, row.where)
            yield _item(here, row, clip)


def _second(row: Row) -> int:
    if not row.get("start").isdecimal():
        raise DataError(f"{row.where}: start is {row.get('start')!r}, which is no whole number of seconds.")
    return int(row.get("start"))


def _item(data: DataFiles, row: Row, clip: str) -> Item:
    return row.item(
        id=clip,
        media=(Medium(medium_in(data, _FOLDERS, clip, (".mp4",)), use_audio=True),),
        questions=(_QUESTION,),
        answer=row.get("label"),
    )


def _task(name: str, title: str, *, is_subset: bool) -> Task:
    return Task(
        name=name,
        title=title,
        load=eighth_of(_load_all) if is_subset else _load_all,
        files=(
            "vggsound.csv - without a header: YouTube id, second at which the clip begins, label, split",
            "videos/{id}_{second as six digits}.mp4 - the clips; the folder video and none at all are found, too",
            "or test.csv - without a header: name of the clip, label",
        ),
        source="https://www.robots.ox.ac.uk/~vgg/data/vggsound/",
        prompts={"default": raw_question, "videollama2": videollama2_rule("avssd")},
        metric="judged_qa",
        judge_texts=AVQA_TEXTS,
        judge_policies=AVQA_POLICIES,
        modalities=("video", "audio"),
        published={
            "videollama2": {  # Table 8
                "VideoLLaMA 2 (7B)": {"accuracy": 62.9},
            },
        },
        notes=(
            SUBSET_NOTE if is_subset else "VideoLLaMA2 judges a random eighth of these clips.",
            "VideoLLaMA2 has 15,341 of the 15,446 test clips and does not list them; a run counts missing clips.",
        ),
    )


TASKS = [_task("avssd", "AVSSD (an eighth)", is_subset=True), _task("avssd_full", "AVSSD", is_subset=False)]
