"""What the page needs of the package: models, limits, sessions between questions, frames and what was looked at."""

import functools
import os
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import hf_videollm
from hf_videollm.evaluation.look import DESIGNS as LOOKING_DESIGNS
from hf_videollm.evaluation.look import look_at
from hf_videollm.evaluation.look_picture import draw_look
from hf_videollm.hub.checkpoint import bundled_checkpoints

MAX_MEGABYTES = float(os.environ.get("SPACE_MAX_MEGABYTES", "100"))
MAX_SECONDS = float(os.environ.get("SPACE_MAX_SECONDS", "300"))
MAX_NEW_TOKENS = int(os.environ.get("SPACE_MAX_NEW_TOKENS", "256"))
MAX_QUESTION = 500
LIMITS = hf_videollm.MediaLimits(max_bytes=int(MAX_MEGABYTES * 1e6), max_duration=MAX_SECONDS, timeout=120)
# On ZeroGPU, what a call leaves in memory is gone when the next one begins.
KEEPS_FILES = bool(os.environ.get("SPACES_ZERO_GPU") or os.environ.get("SPACE_SESSION_FILES"))
# Models that stay in memory.
MOST_MODELS = 2
TITLES = {"pllava": "PLLaVA", "videollama2": "VideoLLaMA2", "linvt": "LinVT", "iva": "IVA", "ftfv": "FTFV"}


def models() -> dict[str, str]:
    """Label of a model -> folder or Hub id."""
    if named := os.environ.get("SPACE_MODELS"):
        pairs = (entry.strip().rpartition("=") for entry in named.split(",") if entry.strip())
        return {label or name: name for label, _, name in pairs}
    return {_title(name): str(folder) for name, folder in bundled_checkpoints().items()}


def _title(name: str) -> str:
    """`videollama2-av-tiny` -> `VideoLLaMA2-AV (tiny)`."""
    family, *rest = name.split("-")
    middle = "".join(f"-{word.upper()}" for word in rest[:-1])
    return f"{TITLES.get(family, family)}{middle} ({rest[-1]})" if rest else TITLES.get(family, family)


@functools.lru_cache(maxsize=MOST_MODELS)
def load(source: str) -> Any:
    """The pipeline of a model, loaded once."""
    return hf_videollm.load_pipeline(source)


@dataclass
class Watched:
    """A video that one visitor asks about, with one model.

    Attributes:
        video: the file.
        source: folder or Hub id of the model.
        session: the open session; `None` where it is kept in `file`.
        file: the saved session, where memory does not outlive a call.
        history: questions and answers.
        frames: numbers of the frames that the model saw.
    """

    video: str
    source: str
    session: hf_videollm.VideoSession | None = None
    file: Path | None = None
    history: list[str] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)

    def close(self) -> None:
        """Free the memory, or remove the file."""
        if self.session is not None:
            self.session.close()
        if self.file is not None:
            self.file.unlink(missing_ok=True)


def check(video: str | None, question: str) -> str:
    """The question without blanks at its ends, after the checks that need no model.

    Raises:
        ValueError: there is no video or no question, or it is too long.
        MediaError: the file is too large or too long, or it is no video.
    """
    if not video:
        raise ValueError("There is no video yet: upload one, record one, or take an example.")
    question = question.strip()
    if not question:
        raise ValueError("The question is empty: say what you want to know.")
    if len(question) > MAX_QUESTION:
        raise ValueError(f"The question has {len(question)} characters, and {MAX_QUESTION} are allowed: shorten it.")
    from hf_videollm.models.media_video import probe_video

    probe_video(video, limits=LIMITS)
    return question


def watch(video: str, source: str) -> Watched:
    """Read and encode a video for a model."""
    pipe = load(source)
    watched = Watched(video, source)
    session = hf_videollm.VideoSession(pipe.model, pipe.processor, video)
    watched.frames = [int(number) for number in (session.frames[0] if session.frames else [])]
    if KEEPS_FILES:
        watched.file = Path(tempfile.gettempdir(), f"session-{uuid.uuid4().hex}.safetensors")
        session.save(watched.file)
        session.close()
    else:
        watched.session = session
    return watched


def answer(watched: Watched, question: str) -> Iterator[str]:
    """The answer as far as it is written, again and again; afterwards it is part of the conversation."""
    session = watched.session
    if session is None:
        pipe = load(watched.source)
        assert watched.file is not None
        session = hf_videollm.VideoSession.open_saved(watched.file, pipe.model, pipe.processor)
    session.history = list(watched.history)
    text = ""
    for piece in session.ask(question, follow_up=True, stream=True, max_new_tokens=MAX_NEW_TOKENS):
        text += piece
        yield text
    watched.history = list(session.history)
    if watched.session is None:
        session.close()


def pictures(watched: Watched) -> list[tuple[np.ndarray, str]]:
    """The frames that the model saw, with their times."""
    numbers = watched.frames
    frames, metadata = hf_videollm.load_video(watched.video, sample_indices_fn=lambda metadata: numbers, limits=LIMITS)
    return [
        (frame, f"{number / metadata.fps:.1f} s" if metadata.fps else f"frame {number}")
        for frame, number in zip(frames, numbers, strict=True)
    ]


def can_look(source: str) -> bool:
    """Whether the design chooses patches or frames, so that there is something to see."""
    return load(source).model.config.model_type in LOOKING_DESIGNS


def looked(watched: Watched, question: str) -> Any:
    """A picture of what the model looked at for a question."""
    return draw_look(look_at(load(watched.source), watched.video, question, max_new_tokens=1))
