"""MSVD-QA, MSRVTT-QA and TGIF-QA (FrameQA): short free answers to open questions, which a judge compares.

All papers use the community's packaging of the test sets ("Zero_Shot_QA", by Video-LLaVA): two JSON lists, of questions
and of answers. The files of the original releases are read, too, and mirrors on the Hub (`open_qa_mirrors.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..data_files import DataError, DataFiles, Row, read_utf8
from ..items import Item, Medium
from ..paper_prompts import pllava_rules, videollama2_rule
from ..prompting import PromptRule, raw_question
from ..row_joins import join_by_id, medium_in, rows_by_id, text_id
from ..task import Task
from .open_qa_mirrors import HUB_NOTE, has_mirror, mirror_rows
from .open_qa_published import MSRVTT_QA, MSVD_QA, TGIF_QA

__all__ = ["JUDGE_POLICIES", "JUDGE_TEXTS", "NOTES", "TASKS", "question_and_answer_files"]

# One text for all papers; its name here is that of `judges.texts`.
JUDGE_TEXTS = dict.fromkeys(("default", "pllava", "videollama2", "linvt", "ftfv", "iva"), "qa")
JUDGE_POLICIES = {
    "default": "robust",
    "pllava": "pllava",
    "videollama2": "videollama2",
    "linvt": "video_chatgpt",
    "ftfv": "ftfv",
    "iva": "iva",
}
NOTES = (
    "LinVT, FTFV and IVA do not publish their prompts; the style `default` asks the bare question.",
    "LinVT does not say how its judge was called; Video-ChatGPT's policy stands for it.",
)
_TRAINED_ON = "LinVT trains on the train split of this set, so its numbers are not zero-shot in the strict sense."
_SHARE_GPT = "ShareGPTVideo/test_video_and_instruction"
_JOINED = "Questions and answers are joined by question_id. (PLLaVA joins them by their positions in the files.)"


def _mirror_files(name: str) -> tuple[str, ...]:
    return (
        "or, of mirrors on the Hub: test-*.parquet with video_name, question_id, question, answer; or with video_path, "
        "qa, binary_frames, num_frames, height, width, channels",
        f"or {name}.qa.official.jsonl with id, video, conversations, and video_data/{{video}} with frames",
    )


_PROMPTS: Mapping[str, PromptRule] = {"default": raw_question, **pllava_rules("videoqabench")}


def question_and_answer_files(data: DataFiles) -> Iterator[tuple[str, Row, Row]]:
    """Questions of `test_q.json` with their answers of `test_a.json`: (id, question, answer).

    Raises:
        DataError: a file is missing, an id stands twice, or in one of the two files only.
    """
    return join_by_id(data.json_rows("test_q.json"), data.json_rows("test_a.json"), "question_id")


def _question_word(question: str) -> str:
    """The kind of question by which these sets sort their tables: its first word."""
    first = question.split(maxsplit=1)[0].lower() if question.strip() else ""
    return first if first in ("what", "who", "how", "when", "where") else "other"


def _item(name: str, row: Row, answer: Row, medium: Medium) -> Item:
    question = row.get("question")
    return row.item(
        id=name,
        media=(medium,),
        questions=(question,),
        answer=answer.get("answer"),
        groups={"question_word": _question_word(question)},
    )


def _load_msvd(data: DataFiles) -> Iterator[Item]:
    originals = ("test_q.json", "MSVD_Zero_Shot_QA/test_q.json", "test_qa.json")
    folders, suffixes = ("videos", "YouTubeClips", "video"), (".avi", ".mp4")
    if has_mirror(data, "msvd", originals):
        for name, row, path in mirror_rows(data, "msvd", folders, suffixes):
            yield _item(name, row, row, Medium(path))
        return
    path = data.find(*originals)
    here = data.beside(path)
    if path.name == "test_q.json":
        for name, row, answer in question_and_answer_files(here):
            yield _item(name, row, answer, Medium(medium_in(here, folders, row.get("video_name"), suffixes)))
        return
    names = _youtube_names(here)
    for name, row in rows_by_id(here.json_rows("test_qa.json"), "id").items():
        number = text_id(row, "video_id")
        if (video := names.get(f"vid{number}")) is None:
            raise DataError(f"{row.where}: youtube_mapping.txt has no video vid{number}, which is its video_id.")
        yield _item(name, row, row, Medium(medium_in(here, folders, video, suffixes)))


def _youtube_names(data: DataFiles) -> dict[str, str]:
    """`vid1` -> name of the clip, from lines like `-4wsuPCjDBc_5_15 vid1`."""
    path = data.find("youtube_mapping.txt")
    names = {}
    for number, line in enumerate(read_utf8(path).splitlines(), start=1):
        if not (words := line.split()):
            continue
        if len(words) != 2:
            raise DataError(f"{path}, line {number}: expected the name of a clip and its number, got {line!r}.")
        if words[1] in names:
            raise DataError(f"{path}, line {number}: {words[1]} stands already above; keep one of the two lines.")
        names[words[1]] = words[0]
    return names


def _load_msrvtt(data: DataFiles) -> Iterator[Item]:
    originals = ("test_q.json", "MSRVTT_Zero_Shot_QA/test_q.json", "test_qa.json")
    folders, suffixes = ("videos/all", "videos", "video", "TestVideo"), (".mp4",)
    if has_mirror(data, "msrvtt", originals):
        for name, row, path in mirror_rows(data, "msrvtt", folders, suffixes):
            yield _item(name, row, row, Medium(path))
        return
    path = data.find(*originals)
    here = data.beside(path)
    if path.name == "test_q.json":
        for name, row, answer in question_and_answer_files(here):
            yield _item(name, row, answer, Medium(medium_in(here, folders, row.get("video_name"), suffixes)))
        return
    for name, row in rows_by_id(here.json_rows("test_qa.json"), "id").items():
        video = f"video{text_id(row, 'video_id')}"
        yield _item(name, row, row, Medium(medium_in(here, folders, video, suffixes)))


_TGIF_FOLDERS, _TGIF_SUFFIXES = ("mp4", "tgif_videos", "videos_mp4", "gifs"), (".mp4", ".gif")
_TGIF_TYPES = ("object", "number", "color", "location")


def _load_tgif(data: DataFiles) -> Iterator[Item]:
    originals = ("test_q.json", "TGIF_Zero_Shot_QA/test_q.json", "TGIF_QA/test_q.json", "Test_frameqa_question.csv")
    if has_mirror(data, "tgif", originals):
        for name, row, found in mirror_rows(data, "tgif", _TGIF_FOLDERS, _TGIF_SUFFIXES):
            yield _tgif_item(name, row, row, found, row.get("type", (str, int), "unknown"))
        return
    path = data.find(*originals)
    here = data.beside(path)
    if path.name == "test_q.json":
        for name, row, answer in question_and_answer_files(here):
            found = medium_in(here, _TGIF_FOLDERS, row.get("video_name"), _TGIF_SUFFIXES)
            yield _tgif_item(name, row, answer, found, answer.get("type", (str, int), "unknown"))
        return
    columns = ("gif_name", "question", "answer", "type", "vid_id")
    seen: Counter[str] = Counter()
    for row in here.csv_rows(path.name, columns=columns, delimiter="\t"):
        video = row.get("gif_name")
        # The table has no id of the question.
        name = f"{video}_{seen[video]}"
        seen[video] += 1
        yield _tgif_item(name, row, row, medium_in(here, _TGIF_FOLDERS, video, _TGIF_SUFFIXES), row.get("type"))


def _tgif_item(name: str, row: Row, answer: Row, path: Path, kind: str | int) -> Item:
    number = str(kind)
    group = _TGIF_TYPES[int(number)] if number in ("0", "1", "2", "3") else number
    return row.item(
        id=name,
        media=(Medium(path),),
        questions=(row.get("question"),),
        answer=answer.get("answer"),
        groups={"type": group},
    )


TASKS = [
    Task(
        name="msvd_qa",
        title="MSVD-QA",
        load=_load_msvd,
        files=(
            "test_q.json - questions: video_name, question, question_id",
            "test_a.json - answers: answer, question_id",
            "videos/{video_name}.avi - the clips; .mp4, and the folders YouTubeClips and video, are found, too",
            "MSVD_Zero_Shot_QA/ - may hold all of that",
            "or, as first released: test_qa.json with id, video_id, question, answer, and youtube_mapping.txt",
            *_mirror_files("msvd"),
        ),
        mirror_ids=("morpheushoc/msvd-qa", _SHARE_GPT),
        source="https://github.com/PKU-YuanGroup/Video-LLaVA (MSVD_Zero_Shot_QA); first released with "
        "https://github.com/xudejing/video-question-answering",
        prompts={**_PROMPTS, "videollama2": videollama2_rule("msvd_qa")},
        metric="judged_qa",
        judge_texts=JUDGE_TEXTS,
        judge_policies=JUDGE_POLICIES,
        group_by=("question_word",),
        published=MSVD_QA,
        notes=(*NOTES, _TRAINED_ON, _JOINED, HUB_NOTE),
    ),
    Task(
        name="msrvtt_qa",
        title="MSRVTT-QA",
        load=_load_msrvtt,
        files=(
            "test_q.json - questions: video_name, question, question_id",
            "test_a.json - answers: answer, question_id",
            "videos/all/{video_name}.mp4 - the clips; the folders videos, video and TestVideo are found, too",
            "MSRVTT_Zero_Shot_QA/ - may hold all of that",
            "or, as first released: test_qa.json with id, video_id, question, answer",
            *_mirror_files("msrvtt"),
        ),
        mirror_ids=("morpheushoc/msrvtt-qa", _SHARE_GPT),
        source="https://github.com/PKU-YuanGroup/Video-LLaVA (MSRVTT_Zero_Shot_QA); first released with "
        "https://github.com/xudejing/video-question-answering",
        prompts=_PROMPTS,
        metric="judged_qa",
        judge_texts={paper: text for paper, text in JUDGE_TEXTS.items() if paper != "videollama2"},
        judge_policies={paper: policy for paper, policy in JUDGE_POLICIES.items() if paper != "videollama2"},
        group_by=("question_word",),
        published=MSRVTT_QA,
        notes=(*NOTES, _TRAINED_ON, _JOINED, HUB_NOTE),
    ),
    Task(
        name="tgif_qa",
        title="TGIF-QA",
        load=_load_tgif,
        files=(
            "test_q.json - questions: video_name, question, question_id",
            "test_a.json - answers: answer, question_id",
            "mp4/{video_name}.mp4 - the clips; the folders tgif_videos, videos_mp4 and gifs, and .gif, are found, too",
            "TGIF_Zero_Shot_QA/ or TGIF_QA/ - may hold all of that",
            "or, as first released: Test_frameqa_question.csv, tab-separated, with gif_name, question, answer, type",
            *_mirror_files("tgif"),
        ),
        mirror_ids=(_SHARE_GPT,),
        source="https://github.com/PKU-YuanGroup/Video-LLaVA (TGIF_Zero_Shot_QA); first released with "
        "https://github.com/YunseokJANG/tgif-qa",
        prompts=_PROMPTS,
        metric="judged_qa",
        judge_texts={paper: JUDGE_TEXTS[paper] for paper in ("default", "pllava", "linvt")},
        judge_policies={paper: JUDGE_POLICIES[paper] for paper in ("default", "pllava", "linvt")},
        group_by=("type",),
        published=TGIF_QA,
        notes=(
            *NOTES[1:],
            "LinVT does not publish its prompt; the style `default` asks the bare question.",
            _TRAINED_ON,
            _JOINED,
            HUB_NOTE,
        ),
    ),
]
