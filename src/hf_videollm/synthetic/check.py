"""Measures how well a model answers questions about held-out synthetic clips, from MP4 files to generated answers."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.progress import track

from .clips import QA, Scene, held_out_questions, write_scene_mp4

__all__ = ["Answer", "ClipQuestion", "accuracies", "answer_questions", "held_out_clips", "one_answer"]


@dataclass(frozen=True)
class ClipQuestion:
    """A held-out clip, as a file, and one question about it."""

    path: Path
    question: QA


# The earlier name of the class, which other programs still import.
Clip = ClipQuestion


@dataclass(frozen=True)
class Answer:
    """The answer of a model to one question."""

    clip: ClipQuestion
    text: str

    @property
    def is_right(self) -> bool:
        """Whether the answer is the expected one, apart from upper and lower case and white space around it."""
        return self.text.strip().lower() == self.clip.question.answer


def held_out_clips(
    folder: Path,
    per_kind: int = 100,
    split: str = "test",
    kinds: Sequence[str] | None = None,
    sound: bool = False,
    with_audio: bool = True,
) -> list[ClipQuestion]:
    """Write the clips of the held-out questions as MP4 files, and list them. Files that exist are kept.

    Args:
        folder: folder of the MP4 files.
        per_kind: number of questions of each kind.
        split: "validation" for decisions during development, "test" for the reported numbers.
        kinds: only questions of these kinds.
        sound: also ask about the sound.
        with_audio: write the sound track; if false, clips and questions are the same, but the files have no sound.
    """
    clips = []
    for scene, question in held_out_questions(per_kind, split, sound):
        if kinds is None or question.kind in kinds:
            clips.append(ClipQuestion(_written(scene, folder, with_audio), question))
    return clips


@torch.no_grad()
def answer_questions(
    model: Any,
    processor: Any,
    clips: Sequence[ClipQuestion],
    batch_size: int = 25,
    shuffle_seed: int | None = None,
    progress: bool = True,
    processor_kwargs: Mapping[str, Any] | None = None,
    medium: Literal["video", "audio", "image"] = "video",
) -> list[Answer]:
    """Ask the model every question.

    Args:
        model: a model of this package with a head.
        processor: its processor.
        clips: from `held_out_clips`.
        batch_size: clips per call of `generate`.
        shuffle_seed: if given, the sampled frames of every clip are shuffled first, to find out which answers need
            their order.
        progress: show a progress bar.
        processor_kwargs: options of the processor, such as `{"use_audio_in_video": False}`.
        medium: "video" gives the model the clips, "audio" only their sound; "image" is for files that are pictures.
    """
    model.eval()
    rng = random.Random(shuffle_seed)
    answers: list[Answer] = []
    starts = range(0, len(clips), batch_size)
    for start in track(starts, description="Asking", disable=not progress):
        batch_clips = clips[start : start + batch_size]
        conversations = [_conversation(clip, medium) for clip in batch_clips]
        inputs = processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left", **(processor_kwargs or {})},
        ).to(model.device)
        if shuffle_seed is not None:
            inputs["pixel_values_videos"] = _shuffle_frames(inputs, rng)
        generated = model.generate(**inputs, do_sample=False, max_new_tokens=6)
        texts = processor.batch_decode(generated[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        answers += [Answer(clip, text) for clip, text in zip(batch_clips, texts, strict=True)]
    return answers


def accuracies(answers: Sequence[Answer]) -> dict[str, float]:
    """Share of right answers for each kind of question."""
    by_kind: dict[str, list[bool]] = defaultdict(list)
    for answer in answers:
        by_kind[answer.clip.question.kind].append(answer.is_right)
    return {kind: sum(right) / len(right) for kind, right in sorted(by_kind.items())}


def one_answer(kind: str, clips: Sequence[ClipQuestion]) -> float:
    """Share of right answers to questions of a kind, if the same answer were always given.

    For questions of order, this answer is the shape that the question names first.
    """
    asked = [clip.question for clip in clips if clip.question.kind == kind]
    if kind == "order":
        return sum(f"first, the {question.answer} or" in question.question for question in asked) / len(asked)
    return max(Counter(question.answer for question in asked).values()) / len(asked)


def _written(scene: Scene, folder: Path, with_audio: bool) -> Path:
    # The name contains the kind, because a seed may give a different scene if questions about sound are asked.
    path = Path(folder) / f"{scene.seed:07d}-{scene.kind}{'' if with_audio else '-silent'}.mp4"
    return path if path.exists() else write_scene_mp4(scene, path, with_audio)


def _conversation(clip: ClipQuestion, medium: str) -> list[dict[str, Any]]:
    content = [{"type": medium, "path": str(clip.path)}, {"type": "text", "text": clip.question.question}]
    return [{"role": "user", "content": content}]


def _shuffle_frames(inputs: Mapping[str, Any], rng: random.Random) -> torch.Tensor:
    """Put the frames of every clip in a random order: (clips, T, 3, H, W), or (frames of all clips, 3, H, W)."""
    pixels = inputs["pixel_values_videos"]
    is_flat = pixels.ndim == 4
    clips = pixels.split(inputs["num_video_frames"].tolist()) if is_flat else pixels
    shuffled = [clip[rng.sample(range(len(clip)), len(clip))] for clip in clips]
    return torch.cat(shuffled) if is_flat else torch.stack(shuffled)
