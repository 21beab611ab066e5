"""Finds the videos and questions of conversations, and writes the placeholders of videos into an image-LLM's prompts.

conversation -> the chat template writes a video like an image -> prompt with one image token per medium
prompt       -> a mark replaces the token of each video        `mark_videos`
marked       -> the image-LLM's processor replaces each image token by placeholders, and this module replaces each
                mark by the placeholders of a video            `PlaceholderWriter`
token ids    -> token types, 2 for videos                      `type_tokens`
"""

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .errors import warn_caller
from .processing_video_llm import write_replacements
from .video_llm_messages import TRAINERS_HINT

# A mark replaces the token of a video while the image-LLM's processor works on the prompt. It consists of these two
# characters, to which Unicode assigns no meaning, so that texts do not contain them.
MARK, MORE_MARK = "\ufdd0", "\ufdd1"
MARKED = re.compile(f"{MARK}{MORE_MARK}*")


@dataclass(frozen=True)
class ChatMedia:
    """What a prompt from a chat template does not tell: the media of its conversation, and which text is the question.

    Args:
        kinds: for each prompt, one word per image token, in order: `"image"`, or `"video"` if the token means a video.
        videos: for each prompt, its videos.
        questions: for each prompt, the question on its videos, or `None`.
    """

    kinds: list[list[str]]
    videos: list[list[Any]]
    questions: list[str | None]


def question_of(chat: Sequence[Mapping[str, Any]], last: bool = False) -> str | None:
    """The question of a conversation: the text of the user's first (or, with `last`, last) message that has text."""
    texts = [_text_of(message) for message in chat if message["role"] == "user"]
    questions = [text for text in texts if text]
    return questions[-1 if last else 0] if questions else None


def _text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content.strip()
    return "\n".join(block["text"] for block in content or [] if block.get("type") == "text").strip()


def _blocks(chat: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    contents = [message.get("content") for message in chat]
    return [block for content in contents if isinstance(content, list | tuple) for block in content]


def media_kinds(chat: Sequence[Mapping[str, Any]]) -> list[str]:
    """`"image"` or `"video"` for each medium of a conversation, in reading order."""
    kinds = {"image": "image", "image_url": "image", "video": "video"}
    return [kinds[block["type"]] for block in _blocks(chat) if block.get("type") in kinds]


def named_videos(chat: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The videos that the blocks of a conversation name.

    A video block that names no video is skipped here. `check_num_videos` then reports that a video is missing.
    """
    blocks = [block for block in _blocks(chat) if block.get("type") == "video"]
    sources = [[block[key] for key in ("video", "url", "path") if block.get(key) is not None] for block in blocks]
    return [named[0] for named in sources if named]


def with_images(message: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a message in which an empty image block replaces each video block."""
    content = message.get("content")
    if not isinstance(content, list | tuple):
        return dict(message)
    blocks = [{"type": "image"} if block.get("type") == "video" else block for block in content]
    return {**message, "content": blocks}


def mark_videos(rows: Sequence[str], token: str, kinds: Sequence[Sequence[str]] | None = None) -> list[str]:
    """Replace the tokens of videos by marks of the same length, so that the positions of other text do not change.

    Args:
        rows: prompts.
        token: the token of videos; with `kinds`, the token of images and videos.
        kinds: see `ChatMedia`.

    Raises:
        ValueError: a prompt holds a mark already, or its number of tokens differs from the number of its `kinds`.
    """
    marked = []
    for index, row in enumerate(rows):
        if MARK in row or MORE_MARK in row:
            raise ValueError(f"Prompt {index} holds the noncharacter U+FDD0 or U+FDD1: remove it.")
        parts = row.split(token)
        if kinds is not None and len(parts) - 1 != len(kinds[index]):
            raise ValueError(
                f"The chat template wrote {len(parts) - 1} {token} for {len(kinds[index])} images and videos of "
                f"conversation {index}: take {token} out of the texts of its messages if they contain it, or pass a "
                "chat_template that writes one for each."
            )
        mark = MARK + MORE_MARK * (len(token) - 1)
        are_videos = [True] * (len(parts) - 1) if kinds is None else [kind == "video" for kind in kinds[index]]
        joints = [mark if is_video else token for is_video in are_videos]
        marked.append("".join(part + joint for part, joint in zip(parts, [*joints, ""], strict=True)))
    return marked


def check_num_videos(marked: Sequence[str], num_videos: int, per_row: list[int] | None, token: str) -> None:
    """Check that there is one mark for each video.

    Args:
        marked: from `mark_videos`.
        num_videos: videos of all prompts together.
        per_row: number of videos of each prompt, if the caller passed one list per prompt.
        token: the token of videos, for the error message.

    Raises:
        ValueError: the numbers differ. The message contains them.
    """
    marks = [len(MARKED.findall(row)) for row in marked]
    if sum(marks) != num_videos or (per_row is not None and per_row != marks):
        raise ValueError(
            f"The prompts hold {marks} places of videos, but {per_row or num_videos} videos were passed: write "
            f"{token} once for each video, where it belongs in the text.{'' if num_videos else TRAINERS_HINT}"
        )


def refuse_written_videos(rows: Sequence[str], token: str) -> None:
    """Refuse prompts of conversations whose texts hold the token of videos, which a chat template never writes.

    Args:
        rows: prompts.
        token: the token of videos, if it is another one than that of images.

    Raises:
        ValueError: a prompt holds it.
    """
    for index, row in enumerate(rows):
        if token in row:
            raise ValueError(
                f"The texts of conversation {index} hold {token}, to which no video belongs: name the video in a block "
                f"of its own, and take {token} out.{TRAINERS_HINT}"
            )


class PlaceholderWriter:
    """Makes the processor of an image-LLM write the placeholders of videos at the marks of prompts.

    The attribute `processor` is a changed copy of the image-LLM's processor. When it writes the placeholders of images,
    it also writes those of videos. Idefics3's processor does not write placeholders if there are no images, so the
    tokenizer of the copy writes those of videos in this case.
    """

    def __init__(self, processor: Any, prompts: Sequence[str], placeholder: str, count: int) -> None:
        """Args:
        processor: the processor of the image-LLM.
        prompts: prompts with marks.
        placeholder: text of the placeholder of one vector.
        count: number of vectors of a video.
        """
        self.prompts = prompts
        self.replacement = placeholder * count
        # For each prompt, the replacements and their positions, as `ProcessorMixin.get_text_with_replacements` returns.
        self.offsets: list[list[dict[str, Any]]] = []
        self._original = processor
        self.processor = copy.copy(processor)
        self.processor.get_text_with_replacements = self.write_all
        self.processor.tokenizer = _UnmarkingTokenizer(self, processor.tokenizer)

    def write_all(self, text: list[str], *args: Any, **kwargs: Any) -> tuple[list[str], list[list[dict[str, Any]]]]:
        """Replaces the method `get_text_with_replacements` of the image-LLM's processor, and calls the original."""
        marked = list(text)
        _, offsets = self._original.get_text_with_replacements(text, *args, **kwargs)
        return self.write_videos(marked, offsets), self.offsets

    def write_videos(self, marked: list[str], offsets: Sequence[Sequence[dict[str, Any]]]) -> list[str]:
        """The prompts with all placeholders.

        Args:
            marked: prompts with marks, in which the placeholders of images are not written yet.
            offsets: what the image-LLM's processor replaces, for each prompt.
        """
        texts, self.offsets = [], []
        for index, row in enumerate(marked):
            images = offsets[index] if offsets else []
            videos = [
                {"type": "video", "span": match.span(), "text": match.group(), "replacement": self.replacement}
                for match in MARKED.finditer(row)
            ]
            written, entries = write_replacements(row, [*images, *videos])
            texts.append(written)
            prompt = self.prompts[index]
            # A text that the processor adds before the prompt (Molmo2: <bos>) shifts all positions of the prompt.
            shift = len(row) - len(prompt) if row.endswith(prompt) else 0
            for entry in entries:
                start, end = entry["span"]
                entry["span"] = (start - shift, end - shift)
            prefix = {"type": "text", "span": (0, 0), "new_span": (0, shift), "text": "", "replacement": row[:shift]}
            self.offsets.append([prefix, *entries] if shift else entries)
        return texts


class _UnmarkingTokenizer:
    """A tokenizer that replaces marks by placeholders, if its processor has not replaced them."""

    def __init__(self, writer: PlaceholderWriter, tokenizer: Any) -> None:
        self._writer = writer
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: list[str], **kwargs: Any) -> Any:
        if not self._writer.offsets:
            text = self._writer.write_videos(text, [])
        return self._tokenizer(text, **kwargs)


def type_tokens(
    outputs: Mapping[str, Any],
    offsets: Sequence[Sequence[Mapping[str, Any]]],
    placeholder: str,
    image_token_id: int,
    video_token_id: int,
) -> Any:
    """Types of the tokens of prompts: 2 for videos; for other tokens, the types that the image-LLM's processor returns.

    Args:
        outputs: outputs of the image-LLM's processor. If they lack `mm_token_type_ids`, placeholders of images have
            type 1.
        offsets: from `PlaceholderWriter`.
        placeholder: text of the placeholder of one vector of a video.
        image_token_id: id of the placeholder of an image.
        video_token_id: id of `placeholder`.

    Returns:
        A tensor, an array or lists, as `outputs["input_ids"]` is.

    Raises:
        ValueError: placeholders were cut off.
    """
    ids, known = outputs["input_ids"], outputs.get("mm_token_type_ids")
    types = []
    for index, row in enumerate(map(_as_array, ids)):
        kinds = (row == image_token_id).astype(np.int64) if known is None else _as_array(known[index]).copy()
        # One entry for each placeholder with `video_token_id`, in the order of the prompt. If images and videos share
        # this id, some of these placeholders belong to images.
        are_videos = [
            entry["type"] == "video" for entry in offsets[index] for _ in range(entry["replacement"].count(placeholder))
        ]
        positions = np.flatnonzero(row == video_token_id)
        if len(positions) != len(are_videos):
            raise ValueError(
                f"Prompt {index} should hold {len(are_videos)} placeholders and holds {len(positions)}: leave "
                "truncation off, or raise max_length."
            )
        kinds[positions[np.array(are_videos, dtype=bool)]] = 2
        types.append(kinds)
    return _in_the_form_of(ids, types)


def question_inputs(tokenizer: Any, questions: Any, num_rows: int, ids: Any) -> dict[str, Any]:
    """Ids and mask of the questions on videos, padded on the right.

    Args:
        tokenizer: the tokenizer of the image-LLM.
        questions: one for each prompt, each a text or `None`; a single text if there is one prompt. Without
            `questions`, no prompt has a question, and a warning says so.
        num_rows: number of prompts.
        ids: `input_ids` of the prompts; the result has the same form (tensor, array or lists).

    Returns:
        `question_input_ids` and `question_attention_mask`, `(num_rows, longest question)` each, at least 1 wide.

    Raises:
        ValueError: more or fewer questions than prompts.
    """
    if questions is None:
        warn_caller(
            "LinVT weighs the tokens of a video by a question, and was given none: pass questions=[...], one for each "
            "prompt, or use apply_chat_template, which finds the questions. questions=[None] says that there is none."
        )
        questions = [None] * num_rows
    questions = [questions] if isinstance(questions, str) else list(questions)
    if len(questions) != num_rows:
        raise ValueError(f"{len(questions)} questions for {num_rows} prompts: pass one for each.")
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] if text else [] for text in questions]
    length, padding = max(1, *map(len, rows)), tokenizer.pad_token_id or 0
    padded = [np.array(row + [padding] * (length - len(row))) for row in rows]
    masks = [np.array([1] * len(row) + [0] * (length - len(row))) for row in rows]
    return {
        "question_input_ids": _in_the_form_of(ids, padded),
        "question_attention_mask": _in_the_form_of(ids, masks),
    }


def _as_array(row: Any) -> np.ndarray:
    return row.numpy() if isinstance(row, torch.Tensor) else np.asarray(row)


def _in_the_form_of(ids: Any, rows: list[np.ndarray]) -> Any:
    """Convert rows to the type of `ids`: a tensor, an array or lists."""
    if isinstance(ids, torch.Tensor):
        return torch.from_numpy(np.stack(rows)).to(ids)
    return np.stack(rows) if isinstance(ids, np.ndarray) else [row.tolist() for row in rows]


__all__ = [
    "MARK",
    "MARKED",
    "MORE_MARK",
    "ChatMedia",
    "PlaceholderWriter",
    "check_num_videos",
    "mark_videos",
    "media_kinds",
    "named_videos",
    "question_inputs",
    "question_of",
    "refuse_written_videos",
    "type_tokens",
    "with_images",
]
