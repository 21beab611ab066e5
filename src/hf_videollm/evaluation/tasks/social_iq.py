"""Social-IQ 2.0 as IVA uses it: questions about how people behave, answered freely, though the set gives options."""

from __future__ import annotations

from collections.abc import Iterator

from ..data_files import DataFiles
from ..items import Item, Medium
from ..prompting import raw_question
from ..row_joins import medium_in, rows_by_id
from ..task import Task
from .open_qa_published import accuracy_and_score

__all__ = ["TASKS"]


def _load(data: DataFiles) -> Iterator[Item]:
    # JSON lines, whatever the name says.
    rows = data.jsonl_rows("siq2/qa/qa_val.json", "qa/qa_val.json", "qa_val.json")
    folders = ("siq2/video", "video", "videos", "siq2/videos")
    for name, row in rows_by_id(rows, "qid").items():
        yield row.item(
            id=name,
            media=(Medium(medium_in(data, folders, row.get("vid_name"), (".mp4",))),),
            questions=(row.get("q"),),
            answer=row.get("ans_corr"),
            # Not `options`, which would be shown to the model.
            extra={"options": tuple(row.get(f"a{number}") for number in range(4)), "ts": row.get("ts", str, None)},
        )


_PUBLISHED = {
    "iva": {  # Table 1
        "Baseline (w/o IVA)": accuracy_and_score(46.8, 3.0),
        "IVA (LQ=8, NI=8)": accuracy_and_score(54.0, 3.6),
        "IVA (LQ=16, NI=8)": accuracy_and_score(64.9, 3.9),
        "IVA (LQ=32, NI=8)": accuracy_and_score(57.1, 3.7),
        "IVA (LQ=16, NI=4)": accuracy_and_score(63.3, 3.9),
        "IVA (LQ=16, NI=16)": accuracy_and_score(55.4, 3.7),
        "IVA (LQ=16, NI=8)-272K": accuracy_and_score(68.0, 4.0),
    },
}

TASKS = [
    Task(
        name="social_iq2",
        title="Social-IQ 2.0",
        load=_load,
        files=(
            "siq2/qa/qa_val.json - one question a line: qid, q, vid_name, ans_corr, a0 to a3; also as qa/ or alone",
            "siq2/video/{vid_name}.mp4 - the videos, cut to a minute; the folders video and videos are found, too",
        ),
        source="https://github.com/abwilf/Social-IQ-2.0-Challenge",
        prompts={"default": raw_question},
        metric="judged_qa",
        judge_texts={"default": "qa", "iva": "qa"},
        judge_policies={"default": "robust", "iva": "iva"},
        published=_PUBLISHED,
        notes=(
            "The answers of the test split are not public, so this is the validation split; IVA names none.",
            "IVA does not publish its prompt; the style `default` asks the bare question, without the options.",
            "IVA sees the video alone: neither the sound nor the transcripts of the set.",
            "The row 272K of IVA is trained on the train split of this set.",
        ),
    ),
]
