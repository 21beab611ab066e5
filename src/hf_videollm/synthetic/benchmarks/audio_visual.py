"""Stand-ins of the sets about videos with sound: MUSIC-AVQA, AVSD and AVSSD."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ..scene import COLOURS, QUESTION_KINDS, SHAPES
from .media import Known, known_questions, write_json, write_table, write_video

__all__ = ["write_avsd", "write_avsd_full", "write_avssd", "write_avssd_full", "write_music_avqa"]

# The tasks of a subset take one item out of so many.
PARTS = 8
TURNS = 10
# Kind of a synthetic question -> modality and type, in the words of MUSIC-AVQA.
_TYPES = {
    "beeps": ("Audio", "Counting"),
    "pitch": ("Audio", "Comparative"),
    "sound_order": ("Audio-Visual", "Temporal"),
    "count": ("Visual", "Counting"),
}
_NAME = re.compile(rf"\b(?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)})\b")


def write_music_avqa(folder: Path, count: int = 20, seed: int = 0) -> None:
    """Questions with places, which the names of the shapes fill."""
    rows = []
    for number, each in enumerate(known_questions(count, seed, QUESTION_KINDS)):
        write_video(each.scene, folder / f"MUSIC-AVQA-videos/{each.clip}.mp4")
        rows.append(
            {
                "video_id": each.clip,
                "question_id": number,
                "type": json.dumps(_TYPES.get(each.qa.kind, ("Visual", "Location"))),
                "question_content": _NAME.sub("<Object>", each.qa.question),
                "templ_values": json.dumps(_NAME.findall(each.qa.question)),
                "question_deleted": 0,
                # The misspelt name is the set's own, as are the underscores.
                "anser": each.qa.answer.replace(" ", "_"),
            }
        )
    write_json(folder / "avqa-test.json", rows)


def write_avsd(folder: Path, count: int = 20, seed: int = 0) -> None:
    """As many turns that an eighth of them are `count`."""
    write_avsd_full(folder, PARTS * count, seed)


def write_avsd_full(folder: Path, count: int = 20, seed: int = 0) -> None:
    """Dialogs of at most ten turns, each about a clip. A dialog asks about its clip again where that has run out."""
    by_clip: dict[str, list[Known]] = {}
    # No clip answers ten questions, so these have more clips than there are dialogs.
    for each in known_questions(count, seed, QUESTION_KINDS):
        by_clip.setdefault(each.clip, []).append(each)
    dialogs: list[dict[str, Any]] = []
    left = count
    for clip, asked in by_clip.items():
        turns = [asked[number % len(asked)].qa for number in range(min(TURNS, left))]
        left -= len(turns)
        if turns:
            write_video(asked[0].scene, folder / f"Charades_v1_480/{clip}.mp4")
            dialog = [{"question": turn.question, "answer": turn.answer} for turn in turns]
            dialogs.append({"image_id": clip, "caption": "", "summary": "", "dialog": dialog})
    write_json(folder / "valid_set4DSTC10-AVSD.json", {"dialogs": dialogs})


def write_avssd(folder: Path, count: int = 20, seed: int = 0) -> None:
    """As many clips that an eighth of them are `count`."""
    _write_avssd(folder, count, PARTS, seed)


def write_avssd_full(folder: Path, count: int = 20, seed: int = 0) -> None:
    """Clips with a label each, and as many of the train split, which are no items."""
    _write_avssd(folder, count, 1, seed)


def _write_avssd(folder: Path, count: int, repeats: int, seed: int) -> None:
    """The set asks the same of every clip, which no small checkpoint knows; the labels are names of shapes."""
    rows: list[tuple[str, int, str, str]] = []
    for each in known_questions(count, seed, per_scene=1):
        label = each.scene.sprites[0].name
        for start in range(repeats):
            write_video(each.scene, folder / f"videos/{each.clip}_{start:06d}.mp4")
            rows.append((each.clip, start, label, "test"))
        rows.append((f"{each.clip}train", 0, label, "train"))
    write_table(folder / "vggsound.csv", rows)
