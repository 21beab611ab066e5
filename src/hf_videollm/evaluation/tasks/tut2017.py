"""TUT2017, acoustic scenes: at which of fifteen places was this recorded?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from ...models.video_llm_option_names import did_you_mean
from ..data_files import DataError, DataFiles, Row, read_utf8
from ..items import Item, Medium
from ..paper_prompts import videollama2_rule
from ..prompting import raw_question
from ..row_joins import check_new, medium_in
from ..task import Task

__all__ = ["LABELS", "TASKS"]

LABELS = (
    "beach",
    "bus",
    "cafe or restaurant",
    "car",
    "city center",
    "forest path",
    "grocery store",
    "home",
    "library",
    "metro station",
    "office",
    "park",
    "residential area",
    "train",
    "tram",
)
_QUESTION = "Identify the sound event in the audio."


def _load(data: DataFiles) -> Iterator[Item]:
    seen: dict[str, str] = {}
    for where, item in _listed(data):
        check_new(seen, item.id, where)
        yield item


def _listed(data: DataFiles) -> Iterator[tuple[str, Item]]:
    """Items, and where each stands."""
    path = data.find("tut2017_eval.jsonl", "evaluation_setup/evaluate.txt", "meta.txt")
    if path.suffix == ".jsonl":
        for row in data.jsonl_rows("tut2017_eval.jsonl"):
            yield row.where, _item(data, row, row.get("audio"), row.get("gt"))
        return
    for number, line in enumerate(read_utf8(path).splitlines(), start=1):
        # meta.txt has the recording that a sound was cut from in a third field.
        if len(fields := line.split("\t")) not in (2, 3):
            raise DataError(f"{path}, line {number}: expected a file and its place with a tab between, got {line!r}.")
        if not all(field.strip() for field in fields[:2]):
            raise DataError(f"{path}, line {number}: the file or its place is blank in {line!r}: write it.")
        row = Row(dict(zip(("file", "place"), fields, strict=False)), f"{path}, line {number}")
        yield row.where, _item(data, row, fields[0], fields[1])


def _item(data: DataFiles, row: Row, audio: str, label: str) -> Item:
    file = PurePosixPath(audio).name
    answer = label.replace("_", " ").replace("/", " or ").strip().lower()
    if answer not in LABELS:
        raise DataError(f"{row.where}: {label!r} is none of the {len(LABELS)} places: {did_you_mean(answer, LABELS)}")
    return row.item(
        id=PurePosixPath(file).stem,
        media=(Medium(medium_in(data, ("audio", ""), file), "audio"),),
        questions=(_QUESTION,),
        options=LABELS,
        answer=answer,
        answer_index=LABELS.index(answer),
        groups={"label": answer},
    )


TASKS = [
    Task(
        name="tut2017",
        title="TUT2017",
        load=_load,
        files=(
            "tut2017_eval.jsonl - Qwen-Audio's list of the evaluation set: audio, gt",
            "audio/{audio} - the sounds; they are found beside the list, too",
            "or, as first released: evaluation_setup/evaluate.txt or meta.txt, tab-separated: audio, label",
        ),
        source="https://zenodo.org/records/1040168 (evaluation set); the list: "
        "https://qianwen-res.oss-cn-beijing.aliyuncs.com/Qwen-Audio/evaluation/tut2017_eval.jsonl",
        prompts={"default": raw_question, "videollama2": videollama2_rule("tut2017")},
        metric="multiple_choice",
        choice_rules={"default": "robust", "videollama2": "videollama2_av"},
        group_by=("label",),
        modalities=("audio",),
        published={
            "videollama2": {  # Table 7
                "VideoLLaMA 2 (7B)": {"accuracy": 63.21},
            },
        },
        notes=("VideoLLaMA2's rule counts an answer that contains the label anywhere as right.",),
    ),
]
