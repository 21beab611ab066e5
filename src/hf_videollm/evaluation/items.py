"""What a benchmark asks: one item is one video (or several media), its questions, and what is right.

An item holds facts of the benchmark only. How a paper words the question is a prompt (`prompting.py`); how the answer
is read and scored is a matter of the task (`task.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..data.blocks import chosen_frames

__all__ = ["Item", "Medium"]


@dataclass(frozen=True)
class Medium:
    """One video, picture or sound of an item.

    Attributes:
        path: the file, or a folder of frames in the order of their names.
        start: second where the part that is asked about begins; the beginning of the file when None.
        end: second where it ends; the end of the file when None.
        fps: frames per second of a folder of frames, which has no clock of its own; `start` and `end` choose among its
            frames by it.
        use_audio: whether the sound of a video is heard, too; the processor's own default when None.
        stated_seconds: how long the whole file is, as the annotations say. Where the file is not, the records say so.
        stated_frames: how many frames it has, alike.
    """

    path: Path
    type: Literal["video", "image", "audio"] = "video"
    start: float | None = None
    end: float | None = None
    fps: float | None = None
    use_audio: bool | None = None
    stated_seconds: float | None = None
    stated_frames: int | None = None

    def to_block(self) -> dict[str, Any]:
        """The medium as a block of a chat message, with the part that is asked about.

        A folder of frames has no clock, so `start` and `end` become a list of pictures (`chosen_frames`).

        Raises:
            ValueError: `start` or `end` of a folder of frames whose `fps` is not known, or `start` is behind its end.
            MediaError: the folder cannot be read, or holds no pictures.
        """
        if (frames := self.frame_files()) is not None and (self.start is not None or self.end is not None):
            first, last = self.chosen_frames(len(frames))
            return {"type": self.type, "video": frames[first : last + 1]}
        block: dict[str, Any] = {"type": self.type, "path": str(self.path)}
        for name in ("start", "end"):
            if (value := getattr(self, name)) is not None:
                block[name] = value
        return block

    def frame_files(self) -> list[str] | None:
        """Paths of the pictures in a folder of frames, in the order of their names; None for any other medium.

        Raises:
            MediaError: the folder cannot be read, or holds no pictures.
        """
        if self.type != "video" or not self.path.is_dir():
            return None
        from ..models.media_frames import folder_pictures

        return folder_pictures(str(self.path))

    def chosen_frames(self, num_frames: int) -> tuple[int, int]:
        """First and last frame, counted from 0, of the part that is asked about in a folder of `num_frames` frames.

        The rule is that of PLLaVA's evaluation, which counts frames from 1: from max(1, round(start * fps)) to
        min(round(end * fps), num_frames), where halves are rounded to even numbers.

        Raises:
            ValueError: `fps` is not known, or the part begins behind the last frame.

        Example:
            >>> Medium(Path("frames"), start=2.0, end=4.0, fps=3.0).chosen_frames(300)
            (5, 11)
        """
        if self.fps is None:
            raise ValueError(f"{self.path}: start and end choose frames of a folder by its `fps`, which is missing.")
        try:
            return chosen_frames(num_frames, self.start, self.end, self.fps)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}.") from None


@dataclass(frozen=True)
class Item:
    """One item of a benchmark.

    Attributes:
        id: the benchmark's own id of the question, unique in the task.
        media: what the model sees and hears, in the order of the prompt.
        questions: as the benchmark words them. One, but for items that are judged on several answers together
            (Video-ChatGPT's consistency has two).
        options: texts to choose from, without letters; empty for a free answer.
        answer: what is right, as text; the text of the option for a choice. None where the answers are not public.
        answer_index: number of the right option, counted from 0; None for a free answer or a secret one.
        references: all acceptable answers or captions, the first equal to `answer`; empty stands for `(answer,)`.
        groups: names by which the tables of the benchmark sort it, e.g. `{"duration": "short"}`.
        extra: what a prompt, a judge or a submission needs beyond that, e.g. `{"subtitles": "..."}`.
    """

    id: str
    media: tuple[Medium, ...]
    questions: tuple[str, ...]
    options: tuple[str, ...] = ()
    answer: str | None = None
    answer_index: int | None = None
    references: tuple[str, ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse an item that contradicts itself.

        Raises:
            ValueError: no question, no medium, an answer outside the options, or a part that no video can have.
        """
        if not self.questions:
            raise ValueError(f"Item {self.id!r} asks nothing: `questions` is empty.")
        if not self.media:
            raise ValueError(f"Item {self.id!r} shows nothing: `media` is empty.")
        if self.answer_index is not None:
            if not 0 <= self.answer_index < len(self.options):
                raise ValueError(
                    f"Item {self.id!r}: answer_index {self.answer_index} is none of its {len(self.options)} options."
                )
            if self.answer != self.options[self.answer_index]:
                raise ValueError(
                    f"Item {self.id!r}: the answer {self.answer!r} is not option {self.answer_index}, "
                    f"{self.options[self.answer_index]!r}."
                )
        for medium in self.media:
            for name in ("start", "end"):
                value = getattr(medium, name)
                if value is not None and not 0 <= value < math.inf:
                    raise ValueError(f"Item {self.id!r}: {name} is {value}, which is no second of a video: correct it.")
            if medium.start is not None and medium.end is not None and medium.start >= medium.end:
                raise ValueError(
                    f"Item {self.id!r}: start {medium.start} is not before end {medium.end}: correct them."
                )

    @property
    def question(self) -> str:
        """The only question.

        Raises:
            ValueError: the item has several.
        """
        if len(self.questions) > 1:
            raise ValueError(f"Item {self.id!r} has {len(self.questions)} questions: read `questions`.")
        return self.questions[0]

    @property
    def all_references(self) -> tuple[str, ...]:
        """All acceptable answers; empty where the answers are not public."""
        return self.references or (() if self.answer is None else (self.answer,))
