"""Stand-ins of LifeQA, Social-IQ 2.0 and WildQA, the sets of long videos that IVA is measured on."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from ..scene import answer_vocabulary
from .media import Known, known_questions, write_json, write_json_lines, write_video

__all__ = ["write_lifeqa", "write_lifeqa_dev_test", "write_social_iq2", "write_wildqa", "write_wildqa_dev"]


def _four_options(known: Known) -> tuple[list[str], int]:
    """The true answer among three wrong ones, and its number."""
    rng = random.Random(f"{known.scene.seed} {known.qa.kind}")
    wrong = [answer for answer in answer_vocabulary(known.qa.kind) if answer != known.qa.answer]
    options = rng.sample(wrong, 3)
    place = rng.randrange(4)
    return [*options[:place], known.qa.answer, *options[place:]], place


def write_lifeqa(folder: Path, count: int = 20, seed: int = 0) -> None:
    """Clips with their questions, by the number of the clip."""
    _write_lifeqa_split(folder, "test", known_questions(count, seed))


def write_lifeqa_dev_test(folder: Path, count: int = 20, seed: int = 0) -> None:
    """The same in two lists, of different clips."""
    known = known_questions(count, seed)
    # A clip belongs to one list.
    clips = sorted({each.clip for each in known})
    of_dev = set(clips[: len(clips) // 2])
    _write_lifeqa_split(folder, "dev", [each for each in known if each.clip in of_dev])
    _write_lifeqa_split(folder, "test", [each for each in known if each.clip not in of_dev])


def _write_lifeqa_split(folder: Path, split: str, known: list[Known]) -> None:
    clips: dict[str, Any] = {}
    for number, each in enumerate(known):
        write_video(each.scene, folder / f"videos/{each.clip}.mp4")
        options, right = _four_options(each)
        clip = clips.setdefault(
            each.clip,
            {"automatic_captions": [], "parent_video_id": f"https://example.org/{each.clip}", "questions": []},
        )
        clip["questions"].append(
            {
                "q_id": number,
                "question": each.qa.question,
                "answers": options,
                "correct_index": right,
                "answer_type": "V",
            }
        )
    write_json(folder / f"lqa_{split}.json", clips)


def write_social_iq2(folder: Path, count: int = 20, seed: int = 0) -> None:
    """One question a line, of the validation split."""
    rows = []
    for number, each in enumerate(known_questions(count, seed)):
        write_video(each.scene, folder / f"siq2/video/{each.clip}.mp4")
        options, right = _four_options(each)
        rows.append(
            {
                "qid": f"{each.clip}_q{number}_0",
                "q": each.qa.question,
                "vid_name": each.clip,
                "ts": f"0.00-{each.scene.duration:.6f}",
                "ans_corr": each.qa.answer,
                "answer_idx": right,
                "idx_types": [],
                **{f"a{index}": option for index, option in enumerate(options)},
            }
        )
    write_json_lines(folder / "siq2/qa/qa_val.json", rows)


def write_wildqa(folder: Path, count: int = 20, seed: int = 0) -> None:
    """Questions with alternative answers and evidence."""
    _write_wildqa_split(folder, "test", count, seed)


def write_wildqa_dev(folder: Path, count: int = 20, seed: int = 0) -> None:
    """The same as the dev split, about other clips."""
    _write_wildqa_split(folder, "dev", count, seed + 1)


def _write_wildqa_split(folder: Path, split: str, count: int, seed: int) -> None:
    rows = []
    for each in known_questions(count, seed):
        write_video(each.scene, folder / f"videos/{each.clip}.mp4")
        rows.append(
            {
                "question": each.qa.question,
                # The real list has such blanks.
                "answer": f"{each.qa.answer} ",
                "alter_answers": [f"the {each.qa.answer} "],
                "video_id": each.clip,
                "video_link": f"https://example.org/{each.clip}.mp4?raw=1",
                "duration": each.scene.duration,
                "domain": each.scene.kind,
                "question_type": [each.qa.kind],
                "evidences": [{"0": [0, each.scene.duration]}],
            }
        )
    write_json(folder / f"{split}.json", rows)
