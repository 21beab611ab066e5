"""Where videos stand in conversations and in prompts for image-LLMs, and what is asked of them."""

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .processing_video_llm import write_replacements

# Stand for a video while the image-LLM's processor works on the prompt: characters that Unicode keeps free of use.
MARK, MORE_MARK = "\ufdd0", "\ufdd1"
MARKED = re.compile(f"{MARK}{MORE_MARK}*")


@dataclass(frozen=True)
class ChatMedia:
    """What a chat template does not write into a prompt.

    Args:
        kinds: for each prompt, what its image placeholders stand for in their order: `"image"` or `"video"`.
        videos: those of each prompt.
        questions: one for each prompt, or `None`.
    """

    kinds: list[list[str]]
    videos: list[list[Any]]
    questions: list[str | None]


def question_of(chat: Sequence[Mapping[str, Any]], last: bool = False) -> str | None:
    """What the user asks in a conversation: the text of the first, or the last, message of theirs that has any."""
    texts = [_text_of(message) for message in chat if message["role"] == "user"]
    asked = [text for text in texts if text]
    return asked[-1 if last else 0] if asked else None


def _text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content.strip()
    return "\n".join(block["text"] for block in content or [] if block.get("type") == "text").strip()


def _blocks(chat: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    contents = [message.get("content") for message in chat]
    return [block for content in contents if isinstance(content, list | tuple) for block in content]


def media_kinds(chat: Sequence[Mapping[str, Any]]) -> list[str]:
    """`"image"` or `"video"` for each of them in a conversation, in reading order."""
    kinds = {"image": "image", "image_url": "image", "video": "video"}
    return [kinds[block["type"]] for block in _blocks(chat) if block.get("type") in kinds]


def named_videos(chat: Sequence[Mapping[str, Any]]) -> list[Any]:
    """What the video blocks name; a block that names nothing is missed where videos are counted."""
    blocks = [block for block in _blocks(chat) if block.get("type") == "video"]
    sources = [[block[key] for key in ("video", "url", "path") if block.get(key) is not None] for block in blocks]
    return [named[0] for named in sources if named]


def with_images(message: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a message with an image, without a picture, in place of each video."""
    content = message.get("content")
    if not isinstance(content, list | tuple):
        return dict(message)
    blocks = [{"type": "image"} if block.get("type") == "video" else block for block in content]
    return {**message, "content": blocks}


class PlaceholderWriter:
    """Lets a processor of an image-LLM write placeholders of videos where prompts are marked.

    `processor` is a copy of it that does so at the moment when it writes those of images; Idefics3's, which has no such
    moment without images, when it hands the text to its tokenizer.
    """

    def __init__(self, processor: Any, prompts: Sequence[str], placeholder: str, count: int) -> None:
        """Args:
        processor: that of the image-LLM.
        prompts: marked.
        placeholder: text of one vector of a video.
        count: vectors of a video.
        """
        self.prompts = prompts
        self.replacement = placeholder * count
        # For each prompt, what was written where, as in `ProcessorMixin.get_text_with_replacements`.
        self.offsets: list[list[dict[str, Any]]] = []
        self._original = processor
        self.processor = copy.copy(processor)
        self.processor.get_text_with_replacements = self.write_all
        self.processor.tokenizer = _TokenizerBehind(self, processor.tokenizer)

    def write_all(self, text: list[str], *args: Any, **kwargs: Any) -> tuple[list[str], list[list[dict[str, Any]]]]:
        """In place of the image-LLM's own method, which it calls."""
        marked = list(text)
        _, offsets = self._original.get_text_with_replacements(text, *args, **kwargs)
        return self.write_videos(marked, offsets), self.offsets

    def write_videos(self, marked: list[str], offsets: Sequence[Sequence[dict[str, Any]]]) -> list[str]:
        """The prompts with all placeholders.

        Args:
            marked: without those of images.
            offsets: of images.
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
            # What a processor puts before a prompt (Molmo2: <bos>) moves what stands in it.
            ahead = len(row) - len(prompt) if row.endswith(prompt) else 0
            for entry in entries:
                start, end = entry["span"]
                entry["span"] = (start - ahead, end - ahead)
            prefix = {"type": "text", "span": (0, 0), "new_span": (0, ahead), "text": "", "replacement": row[:ahead]}
            self.offsets.append([prefix, *entries] if ahead else entries)
        return texts


class _TokenizerBehind:
    """A tokenizer that is given no marks."""

    def __init__(self, writer: PlaceholderWriter, tokenizer: Any) -> None:
        self._writer = writer
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: list[str], **kwargs: Any) -> Any:
        if not self._writer.offsets:
            text = self._writer.write_videos(text, [])
        return self._tokenizer(text, **kwargs)


__all__ = [
    "MARK",
    "MARKED",
    "MORE_MARK",
    "ChatMedia",
    "PlaceholderWriter",
    "media_kinds",
    "named_videos",
    "question_of",
    "with_images",
]
