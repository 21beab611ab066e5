"""From an item to the inputs of a model: the rendered prompt, decoded videos, and which frames were taken."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .items import Item, Medium
from .media_facts import media_facts, skipped_frames
from .prompting import Prompt
from .subtitles import FRAME_TIMES, SUBTITLES

if TYPE_CHECKING:
    from ..data.media_cache.cache import MediaCache

__all__ = ["Ask", "Asker", "Inputs", "rendered_prompt"]

# Options of a processor that mean nothing without a video.
OF_VIDEOS = ("num_frames", "fps", "max_frames", "num_tokens_per_frame", "sampling", "on_decode_error", "video_backend")
# Options of a processor that mean nothing without the sound of a video.
OF_SOUND = ("use_audio_in_video", "missing_audio")


@dataclass(frozen=True)
class Ask:
    """One question of an item, in the words of a prompt style.

    Attributes:
        item: of the benchmark.
        question: number of the question in `item.questions`, counted from 0.
        prompt: how it is asked.
    """

    item: Item
    question: int
    prompt: Prompt


@dataclass(frozen=True)
class Inputs:
    """What the model gets for one question.

    Attributes:
        ask: the question.
        row: outputs of the processor for this prompt, as tensors with a batch of one.
        rendered: text of the prompt before placeholders are multiplied.
        media: one entry per medium, for the records: its path, and for a video the exact frames.
    """

    ask: Ask
    row: Any
    rendered: str
    media: list[dict[str, Any]]


@dataclass
class Asker:
    """Turns questions into inputs. It is used by one thread at a time: tokenizers do not stand two.

    The last decoded video is kept, because benchmarks ask several questions on one video in a row.

    Attributes:
        processor: of the model; this object changes it, so it gets a copy (`for_thread`).
        dtype: of the model; pixel values are converted to it.
        options: options of the processor, e.g. `{"num_frames": 16}`. Options of videos are left out where an item has
            none.
        cache: holds videos and sounds that were decoded before.
    """

    processor: Any
    dtype: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)
    cache: MediaCache | None = None

    def for_thread(self) -> Asker:
        """A copy with a processor of its own, for another thread."""
        processor = copy.deepcopy(self.processor)
        # Decoding takes most of the time, and what follows it depends on the question in some designs.
        processor.video_processor.decode = _LastVideo(
            processor.video_processor.decode, processor.video_processor.CLIP_OPTIONS
        )
        return Asker(processor, self.dtype, self.options, self.cache)

    def as_seen(self, item: Item) -> Item:
        """The item with the times of the frames that the model sees, if it has subtitles, which are chosen by them.

        The video is decoded for it. `inputs` decodes it once more, unless this is an `Asker` of `for_thread`.

        Raises:
            MediaError: the video is missing or cannot be read.
        """
        if SUBTITLES not in item.extra:
            return item
        return replace(item, extra={**item.extra, FRAME_TIMES: self._frame_times(item)})

    def _frame_times(self, item: Item) -> tuple[float, ...]:
        """Seconds of the file at which the frames of the item's video are shown; none if it has no clock."""
        from ..models.media_reading import reading_through

        medium = item.media[0]
        block, frames = medium.to_block(), medium.frame_files()
        videos = self.processor.video_processor
        known = videos.valid_kwargs.__annotations__
        options = {name: value for name, value in self._options_for(item).items() if name in known}
        clock = options.pop("video_metadata", [None])[0]
        own = {name: block[name] for name in ("start", "end") if name in block}
        (options,) = videos.options_of_each([own], 1, options)
        with reading_through(self.cache):
            _, metadata = videos.decode(block.get("path", block.get("video")), _as_metadata(clock), **options)
        if frames is None:
            return tuple(map(float, metadata.timestamps)) if metadata.fps else ()
        skipped = skipped_frames(medium, frames)
        return tuple((int(index) + skipped) / medium.fps for index in metadata.frames_indices) if medium.fps else ()

    def inputs(self, ask: Ask) -> Inputs:
        """Decode the media of a question and write its prompt.

        Raises:
            MediaError: a medium is missing or cannot be read.
            ValueError: the item and the model do not fit each other.
        """
        from transformers import BatchFeature

        from ..models.media_reading import reading_through
        from ..models.video_llm_checked_processor import cast_row
        from ..models.video_llm_option_names import pixel_options

        has_videos = any(medium.type == "video" for medium in ask.item.media)
        messages = ask.prompt.messages(ask.item)
        rendered = rendered_prompt(self.processor, ask.prompt, messages)
        options = {**pixel_options(self.processor, self.dtype, has_videos), **self._options_for(ask.item)}
        with reading_through(self.cache):
            row = self.processor.apply_chat_template(
                messages,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs=options,
                **_template_options(ask.prompt),
            )
        metadata = row.pop("video_metadata", None) or []
        row = BatchFeature(dict(row))
        if self.dtype is not None:
            row = cast_row(row, self.dtype, self.processor.EXACT_KEYS)
        return Inputs(ask, row, rendered, media_facts(ask.item, metadata))

    def _options_for(self, item: Item) -> dict[str, Any]:
        """The options of a call for this item."""
        videos = [medium for medium in item.media if medium.type == "video"]
        if not videos:
            return {name: value for name, value in self.options.items() if name not in (*OF_VIDEOS, *OF_SOUND)}
        options: dict[str, Any] = {"return_metadata": True, **self.options}
        if any(medium.fps is not None for medium in videos):
            options["video_metadata"] = [_clock(medium) for medium in videos]
        heard = {medium.use_audio for medium in videos if medium.use_audio is not None}
        if len(heard) > 1:
            raise ValueError(f"Item {item.id!r}: use_audio must be the same for all videos of an item.")
        if heard and "use_audio_in_video" not in options and "use_audio_in_video" in self.processor.known_options():
            options["use_audio_in_video"] = heard.pop()
        return options


def rendered_prompt(processor: Any, prompt: Prompt, messages: list[dict[str, Any]]) -> str:
    """The text of a prompt with one placeholder for each medium, as the chat template writes it.

    Raises:
        ValueError: the chat template of the processor does not end with the beginning of the answer.
    """
    if not prompt.begins_answer:
        text: str = processor.apply_chat_template(messages, **_template_options(prompt))
        return text
    try:
        text = processor.apply_chat_template(messages, **_template_options(prompt))
    except ValueError as error:
        # transformers quotes the whole prompt.
        raise _lost_beginning(prompt) from error
    if not text.endswith(prompt.answer_prefix):
        raise _lost_beginning(prompt)
    return text


def _lost_beginning(prompt: Prompt) -> ValueError:
    return ValueError(
        f"The chat template of this model does not keep the beginning of an answer, {prompt.answer_prefix!r}: choose "
        "another prompt style."
    )


def _template_options(prompt: Prompt) -> dict[str, Any]:
    """How a chat template ends: where the answer begins, or behind its beginning."""
    if prompt.begins_answer:
        return {"chat_template": None, "continue_final_message": True, "add_generation_prompt": False}
    return {"chat_template": prompt.chat_template, "add_generation_prompt": True}


def _clock(medium: Medium) -> dict[str, Any] | None:
    """The frame rate of a folder of frames, in the form of video metadata; None for a file, which knows its own."""
    frames = medium.frame_files()
    if frames is None or medium.fps is None:
        return None
    count = len(frames)
    if medium.start is not None or medium.end is not None:
        first, last = medium.chosen_frames(count)
        count = last - first + 1
    return {"total_num_frames": count, "fps": medium.fps, "duration": count / medium.fps}


def _as_metadata(clock: Mapping[str, Any] | None) -> Any:
    """Metadata of a video in the form in which a video processor gets them."""
    from transformers.video_utils import VideoMetadata

    return None if clock is None else VideoMetadata(**clock)


class _LastVideo:
    """`decode` of a video processor that remembers what it decoded last.

    All calls come from one `Asker`, so only what belongs to a single video differs between them.
    """

    def __init__(self, decode: Any, names: Collection[str]) -> None:
        """Args:
        decode: of the video processor.
        names: options that a single video may have.
        """
        self._decode = decode
        self._names = names
        self._key: str | None = None
        self._result: Any = None

    def __call__(self, source: Any, metadata: Any = None, **options: Any) -> Any:
        own = {name: options[name] for name in self._names if options.get(name) is not None}
        key = repr((source, metadata, own)) if _is_named(source) else None
        if key is None or key != self._key:
            self._key, self._result = None, None
            self._result = self._decode(source, metadata, **options)
            self._key = key
        return self._result


def _is_named(source: Any) -> bool:
    """Whether a video is known by paths, so that two of the same name are the same video."""
    if isinstance(source, list | tuple):
        return all(isinstance(part, str) for part in source)
    return isinstance(source, str)
