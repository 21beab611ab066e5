"""Stand-ins of MSVD-QA, MSRVTT-QA and TGIF-QA: synthetic questions in two lists, as Video-LLaVA packs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .media import Known, known_questions, write_json, write_video

__all__ = ["write_msrvtt_qa", "write_msvd_qa", "write_question_and_answer_files", "write_tgif_qa"]

_TGIF_TYPES = {"colour": 2, "count": 1}


def write_question_and_answer_files(
    folder: Path,
    known: list[Known],
    video_name: Callable[[Known], str],
    question_id: Callable[[int, Known], str],
    question_type: Callable[[Known], int] = lambda _: 0,
) -> None:
    """Write `test_q.json` and `test_a.json`. The answers stand in another order, as nothing says that they may not."""
    names = [question_id(number, each) for number, each in enumerate(known)]
    questions = [
        {"video_name": video_name(each), "question": each.qa.question, "question_id": name}
        for name, each in zip(names, known, strict=True)
    ]
    answers = [
        {"answer": each.qa.answer, "type": question_type(each), "question_id": name}
        for name, each in zip(names, known, strict=True)
    ]
    write_json(folder / "test_q.json", questions)
    write_json(folder / "test_a.json", answers[::-1])


def write_msvd_qa(folder: Path, count: int = 20, seed: int = 0) -> None:
    """Questions about AVI clips whose names end with the part of the video that they are, as MSVD's do."""
    known = known_questions(count, seed)
    for each in known:
        write_video(each.scene, folder / f"videos/{_msvd_name(each)}.avi")
    write_question_and_answer_files(folder, known, _msvd_name, lambda number, each: f"{each.scene.seed}_{number}")


def _msvd_name(known: Known) -> str:
    return f"{known.clip}_0_{known.scene.duration:.0f}"


def write_msrvtt_qa(folder: Path, count: int = 20, seed: int = 0) -> None:
    """Questions about clips that are called video0, video1, ..."""
    known = known_questions(count, seed)
    for each in known:
        write_video(each.scene, folder / f"videos/all/{_msrvtt_name(each)}.mp4")
    write_question_and_answer_files(folder, known, _msrvtt_name, lambda number, _: str(number))


def _msrvtt_name(known: Known) -> str:
    return f"video{known.scene.seed}"


def write_tgif_qa(folder: Path, count: int = 20, seed: int = 0) -> None:
    """Questions about MP4 files made of GIFs."""
    known = known_questions(count, seed)
    for each in known:
        write_video(each.scene, folder / f"mp4/{_tgif_name(each)}.mp4")
    write_question_and_answer_files(
        folder,
        known,
        _tgif_name,
        lambda number, each: f"{_tgif_name(each)}_{number}",
        lambda each: _TGIF_TYPES.get(each.qa.kind, 0),
    )


def _tgif_name(known: Known) -> str:
    return f"tumblr_{known.clip}"
