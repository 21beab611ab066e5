"""Prompts about media that were processed once: the same ids as the processor writes when it gets the media again.

The processor gets the media once, with a short question. Its prompt is divided behind the last placeholder:

    system prompt, placeholders of all media      the same for every question: `head_ids`
    question, header of the answer                tokenized anew for every question

So neither files nor pixels are needed for a further question. The first prompt is written in this way as well, and
compared with that of the processor.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import BatchFeature

from .media_video_inputs import flatten_videos
from .video_llm_checked_processor import cast_row
from .video_llm_option_names import pixel_options

# The first prompt asks this, to find out what the processor writes before every question.
FIRST_QUESTION = "What happens?"
MEDIA_KINDS = ("video", "image", "audio")
Message = dict[str, Any]


@dataclass
class SessionPrompt:
    """One prompt.

    Attributes:
        ids: of its tokens.
        question: inputs of the model that hold the question (LinVT).
    """

    ids: list[int]
    question: dict[str, Any] = field(default_factory=dict)


class SessionPrompts:
    """Writes prompts about media.

    Attributes:
        head_ids: the tokens before every question.
        kinds: the kinds of the media, in the order of the prompt.
    """

    def __init__(
        self, processor: Any, media: Sequence[Mapping[str, Any]], rendering: Mapping[str, Any] | None = None
    ) -> None:
        """Args:
        processor: of a design.
        media: blocks of a message, one for each video, image and sound.
        rendering: options of `apply_chat_template`, variables of the template, and options of the design for
            prompts (`PROMPT_OPTIONS`).

        Raises:
            ValueError: there are no media, the processor has no chat template, or an option is none of a session.
        """
        if not media:
            raise ValueError("A session needs at least one video, image or sound to ask about.")
        if getattr(processor, "chat_template", None) is None and not (rendering or {}).get("chat_template"):
            raise ValueError("A session needs a chat template: give the processor one, or use the pipeline.")
        self.processor = processor
        self.rendering = dict(rendering or {})
        if "questions" in self.rendering:
            raise ValueError("questions: a session writes the question of each prompt itself; leave it out.")
        self.recondition = self.rendering.pop("recondition", None)
        self.kinds = [str(block["type"]) for block in media]
        self.head_ids: list[int] = []
        self._head = ""
        self._media: Sequence[Mapping[str, Any]] = media

    @property
    def options(self) -> dict[str, Any]:
        """All options that make the prompts, as they were passed."""
        return self.rendering if self.recondition is None else {**self.rendering, "recondition": self.recondition}

    def read(self, dtype: Any, options: Mapping[str, Any] | None = None) -> tuple[BatchFeature, list[Any]]:
        """Read the media and write the first prompt.

        Args:
            dtype: of the model; values of media are converted to it.
            options: options of the processor for media.

        Returns:
            The outputs of the processor for one prompt; and the metadata of the videos, which hold the numbers of the
            frames.

        Raises:
            MediaError: a medium cannot be read.
            ValueError: the chat template writes the media of a prompt elsewhere than before the question.
        """
        options = dict(options or {})
        if "video" in self.kinds:
            options["return_metadata"] = True
            options = {**pixel_options(self.processor, dtype, True), **options}
        if self.recondition is not None:
            options["recondition"] = self.recondition
        row = self.processor.apply_chat_template(
            _conversation(self._media, [FIRST_QUESTION]),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=options,
            **self.rendering,
        )
        metadata = list(row.pop("video_metadata", None) or [])
        self.take_head(row["input_ids"][0].tolist())
        return cast_row(BatchFeature(dict(row)), dtype, getattr(self.processor, "EXACT_KEYS", ())), metadata

    def take_head(self, first_ids: Sequence[int]) -> None:
        """Learn what stands before every question from the ids of the first prompt.

        Raises:
            ValueError: the first prompt does not end with its question, as this class would write it.
        """
        # From here on, no medium is read: the template only has to know their kinds.
        self._media = [{"type": kind, kind: "kept"} for kind in self.kinds]
        self._head, tail = self._divided([FIRST_QUESTION])
        tail_ids = self._tail_ids(tail)
        if list(first_ids[len(first_ids) - len(tail_ids) :]) != tail_ids:
            raise ValueError(
                "The prompts of this processor do not end with the question, as a session needs: pass another "
                "chat_template, or ask through the pipeline."
            )
        self.head_ids = list(first_ids[: len(first_ids) - len(tail_ids)])

    def write(self, texts: Sequence[str]) -> SessionPrompt:
        """The prompt of a conversation.

        Args:
            texts: question, answer, question, ...; the last is a question.

        Raises:
            ValueError: a text holds a placeholder of media.
        """
        head, tail = self._divided(texts)
        if head != self._head:
            raise ValueError("The chat template writes another text before the media of a longer conversation.")
        ids = [*self.head_ids, *self._tail_ids(tail)]
        question = self.processor.question_inputs(_conversation(self._media, texts), self.recondition)
        return SessionPrompt(ids, dict(question) if "video" in self.kinds else {})

    def _divided(self, texts: Sequence[str]) -> tuple[str, str]:
        """The text of a prompt up to its last placeholder, and the rest."""
        text = self.processor.apply_chat_template(
            _conversation(self._media, texts), add_generation_prompt=True, **self.rendering
        )
        tokens = [getattr(self.processor, f"{kind}_token", None) for kind in MEDIA_KINDS]
        ends = [match.end() for match in re.finditer("|".join(re.escape(token) for token in tokens if token), text)]
        if len(ends) != len(self.kinds):
            raise ValueError(
                f"The prompt holds {len(ends)} placeholders of media for {len(self.kinds)} media: leave "
                f"{', '.join(sorted({token for token in tokens if token}))} out of the question."
            )
        return text[: ends[-1]], text[ends[-1] :]

    def _tail_ids(self, tail: str) -> list[int]:
        """The ids of what stands behind the last placeholder."""
        if getattr(self.processor, "prompt_query_token", None):
            tail = self.processor.get_text_with_replacements([tail])[0][0]
        # A tokenizer may treat the beginning of a text unlike its middle, so a placeholder stands before the text.
        place = self.processor.image_token
        place_id = self.processor.tokenizer.convert_tokens_to_ids(place)
        ids: list[int] = self.processor.tokenizer(place + tail, add_special_tokens=False)["input_ids"]
        return ids[ids.index(place_id) + 1 :]


def with_prompt_options(
    processor: Any, rendering: Mapping[str, Any] | None, media_options: dict[str, Any]
) -> dict[str, Any]:
    """Options of prompts, with those of the design that a call passed among the options of media.

    Args:
        processor: of the design.
        rendering: options of prompts.
        media_options: options of media; those of prompts are taken out.

    Raises:
        TypeError: an option was passed in both places.
    """
    of_design = {name: media_options.pop(name) for name in processor.PROMPT_OPTIONS if name in media_options}
    if twice := sorted(of_design.keys() & set(rendering or {})):
        raise TypeError(f"{twice[0]} was passed twice, by itself and in rendering: leave one out.")
    return {**(rendering or {}), **of_design}


def media_blocks(videos: Any, images: Any, audio: Any) -> list[dict[str, Any]]:
    """The blocks of a message, in the order in which the pipeline writes media."""
    blocks: list[dict[str, Any]] = []
    if videos is not None:
        blocks += [{"type": "video", "video": video} for video in flatten_videos(videos)]
    for kind, media in (("image", images), ("audio", audio)):
        if media is not None:
            blocks += [{"type": kind, kind: item} for item in (media if isinstance(media, list | tuple) else [media])]
    return blocks


def _conversation(media: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> list[Message]:
    """Messages of a conversation; the media stand in the first one."""
    messages: list[Message] = []
    for number, text in enumerate(texts):
        blocks: list[Any] = [{"type": "text", "text": text}]
        messages.append({"role": "assistant" if number % 2 else "user", "content": blocks})
    messages[0]["content"] = [*map(dict, media), *messages[0]["content"]]
    return messages


__all__ = ["FIRST_QUESTION", "MEDIA_KINDS", "SessionPrompt", "SessionPrompts", "media_blocks", "with_prompt_options"]
