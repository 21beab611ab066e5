"""VocalSound: which of six sounds does a person make?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from ...models.video_llm_option_names import did_you_mean
from ..data_files import DataError, DataFiles, Row
from ..items import Item, Medium
from ..packed_media import unpacked
from ..paper_prompts import videollama2_rule
from ..prompting import Prompt, raw_question
from ..row_joins import check_new, medium_in
from ..task import Task

__all__ = ["LABELS", "TASKS"]

LABELS = ("Laughter", "Sigh", "Cough", "Throat clearing", "Sneeze", "Sniff")
_BY_NAME = {label.lower().replace(" ", ""): label for label in LABELS}
_QUESTION = "Identify the human sound in the audio."
_SEXES = {"f": "female", "m": "male"}
_AGES = {"1": "18-25", "2": "26-48", "3": "49-80"}
_HUB = ("test-*.parquet", "*/test-*.parquet")


def _load(data: DataFiles) -> Iterator[Item]:
    if any(path for pattern in _HUB for path in data.root.glob(pattern)):
        for number, row in enumerate(data.parquet_rows(*_HUB, columns=("audio", "answer", "spk_id", "age_group"))):
            path = unpacked(data, row, "audio", f"vocalsound_test_{number:06d}")
            age = str(row.get("age_group", (str, int)))
            groups = {"sex": _sex(row, row.get("spk_id")), "age": _AGES.get(age, age)}
            yield _item(row, str(number), Medium(path, "audio"), _label(row, row.get("answer")), groups)
        return
    seen: dict[str, str] = {}
    for row, item in _listed(data):
        check_new(seen, item.id, row.where)
        yield item


def _listed(data: DataFiles) -> Iterator[tuple[Row, Item]]:
    """Items of the lists that stand beside the sounds, with their rows."""
    path = data.find("vocalsound_eval.jsonl", "meta/te.json", "datafiles/te.json", "test-*.parquet")
    if path.suffix == ".jsonl":
        for row in data.jsonl_rows("vocalsound_eval.jsonl"):
            file = PurePosixPath(row.get("audio"))
            yield row, _item_of_file(data, row, file, _label(row, row.get("gt")))
        return
    for row in data.json_list(str(path.relative_to(data.root)), field="data"):
        file = PurePosixPath(row.get("wav"))
        # The field `labels` has numbers of AudioSet; the names of the files say the same in words.
        yield row, _item_of_file(data, row, file, _label(row, file.stem.rsplit("_", 1)[-1]))


def _item_of_file(data: DataFiles, row: Row, file: PurePosixPath, label: str) -> Item:
    path = medium_in(data, ("audio_16k", "audio", "data_44k", ""), file.name)
    return _item(row, file.stem, Medium(path, "audio"), label, {"sex": _sex(row, file.name), "age": "unknown"})


def _sex(row: Row, name: str) -> str:
    if name[:1] not in _SEXES:
        raise DataError(f"{row.where}: {name!r} should begin with f or m, for the sex of the speaker.")
    return _SEXES[name[0]]


def _label(row: Row, name: str) -> str:
    key = name.lower().replace(" ", "").replace("_", "")
    if key not in _BY_NAME:
        raise DataError(f"{row.where}: {name!r} is none of the {len(LABELS)} sounds: {did_you_mean(key, _BY_NAME)}")
    return _BY_NAME[key]


def _item(row: Row, name: str, medium: Medium, label: str, groups: dict[str, str]) -> Item:
    return row.item(
        id=name,
        media=(medium,),
        questions=(_QUESTION,),
        options=LABELS,
        answer=label,
        answer_index=LABELS.index(label),
        groups={"label": label, **groups},
    )


def _lmms_eval(item: Item, question: str) -> Prompt:
    # It does not say what there is to choose from; the blank at the end is the original's.
    return Prompt("Classify the human vocal sound to VocalSound in English: ")


TASKS = [
    Task(
        name="vocalsound",
        title="VocalSound",
        load=_load,
        files=(
            "meta/te.json - the test split: data with wav; also as datafiles/te.json",
            "audio_16k/{wav} - the sounds; the folders audio and data_44k are found, too",
            "or, of Qwen-Audio: vocalsound_eval.jsonl with audio, gt",
            "or, from the Hub: test-*.parquet with audio, answer, spk_id, age_group; sounds are written into unpacked/",
        ),
        hub_ids=("lmms-lab-audio/vocalsound", "lmms-lab/vocalsound"),
        source="https://github.com/YuanGongND/vocalsound",
        prompts={"default": raw_question, "videollama2": videollama2_rule("vocalsound"), "lmms_eval": _lmms_eval},
        metric="multiple_choice",
        choice_rules={"default": "robust", "videollama2": "videollama2_av"},
        group_by=("label", "sex", "age"),
        modalities=("audio",),
        notes=(
            "VideoLLaMA2's code evaluates this set; its paper prints no number for it.",
            "The style `lmms_eval` names no options; the rule `robust` reads their names in the answer.",
        ),
    ),
]
