"""Makes training batches from records: the processor converts media and text, and only answers get labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch

from ..data.blocks import chat_of, is_canonical, silent_videos
from ..data.media_cache.cache import MediaCache
from ..data.rows import shown
from ..models.errors import MediaNotFound
from ..models.media_reading import reading_through
from ..models.video_llm_chat_template import has_tags
from ..models.video_llm_checked_processor import CheckedProcessor
from ..models.video_llm_messages import BlockRules, media_blocks, read_chats, source_of
from .augmenting import Augmenter
from .caches.frames import FrameCache, StillFrames
from .draws import BatchDraws
from .rows import MEDIA_COLUMNS, check_answers, check_parts, read_row

__all__ = ["IGNORE_INDEX", "VideoDataCollator", "row_name"]

IGNORE_INDEX = -100
# What a batch without media holds.
WORDS = {"input_ids", "attention_mask", "labels"}
# So many equal tokens behind each other are shown as one and their number.
_REPEATED = 4
# Frames from a cache are already sampled, resized and cropped.
CACHED_FRAMES_KWARGS = {"do_sample_frames": False, "do_resize": False, "do_center_crop": False}


class _Chat(NamedTuple):
    """A row as a chat.

    Attributes:
        messages: the converted messages.
        num_given: so many answers at the beginning belong to the prompt.
        silent: for each video whether its sound is not to be heard.
    """

    messages: list[dict[str, Any]]
    num_given: int
    silent: list[bool]


@dataclass
class VideoDataCollator:
    """Data collator for TRL's `SFTTrainer` and every other trainer that takes `input_ids` and `labels`.

    A row is a mapping in one of the forms of `rows.read_row`, e.g. with `messages` in chat format. Answers inside a
    `prompt` are not learned. The chat template of the processor must write the assistant's words, end token included,
    inside `{% generation %}` tags: only these positions get labels. Nothing is ever truncated, because cutting a prompt
    would cut media tokens.

    Attributes:
        processor: processor of the model.
        cache: holds what was decoded before, so that a file is decoded only once. The batches are the same without it.
        frames: maps a path to other frames than those of the file, sampled, resized and cropped `(T, 3, H, W)` uint8,
            e.g. `StillFrames`. With `None`, the processor reads the files.
        sounds: maps a path to a waveform `(samples,)` at the processor's sampling rate, or to `None` for a file without
            sound, e.g. an `AudioCache`. It is used for audio blocks, and for the audio of videos, which the processor
            gets as `video_audio`. With `None`, the processor reads audio from the files itself. Then it finds no audio
            for videos whose frames come from a cache.
        max_length: refuse rows with more tokens than this; `None` allows any length.
        processor_kwargs: options for the processor, e.g. `{"num_frames": 4}`.
        vary: maps options of the processor to lists of values. One value is drawn for each batch, so that the model is
            trained with all of them, e.g. `{"missing_audio": ["silence", "skip"]}`.
        seed: seed of all draws. Together with the epoch and the ids of the rows it decides what is drawn for a batch,
            so that a training that resumes draws the same.
        augmenter: reads other frames and pictures in each epoch; for batches to train on alone.
    """

    processor: Any
    cache: MediaCache | None = None
    frames: Mapping[str, torch.Tensor] | None = None
    sounds: Mapping[str, np.ndarray | None] | None = None
    max_length: int | None = None
    processor_kwargs: Mapping[str, Any] | None = None
    vary: Mapping[str, Sequence[Any]] | None = None
    seed: int = 0
    augmenter: Augmenter | None = None

    def __post_init__(self) -> None:
        self.draws = BatchDraws(self.seed)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Make one batch.

        Returns:
            The processor's outputs; `labels` `(batch, length)`, which are `IGNORE_INDEX` outside the answers; and the
            options that the model needs, too (`num_tokens_per_frame` of FTFV).

        Raises:
            TypeError: the processor does not know an option.
            ValueError: a row has no answer, holds something that would be ignored, or is longer than `max_length`; or
                the chat template does not mark answers.
        """
        template = self.processor.chat_template
        # If a processor has several templates with names, the one named "default" is used.
        if not has_tags(template.get("default") if isinstance(template, Mapping) else template):
            raise ValueError(
                "The chat template does not mark the assistant's words with {% generation %} ... {% endgeneration %}, "
                "so it is unknown what to train on. Add the tags to the template of the processor."
            )
        read = [self._chat(row) for row in rows]
        for row, chat in zip(rows, read, strict=True):
            check_answers(chat.messages, chat.num_given, row_name(row))
        varied: dict[str, Any] = {}
        if self.vary or isinstance(self.frames, StillFrames):
            rng = self.draws.next(rows)
            varied = {name: rng.choice(values) for name, values in (self.vary or {}).items()}
            if isinstance(self.frames, StillFrames):
                self.frames.draw_from(rng)
        batch, shared = self._encode(read, varied, self.augmenter, return_assistant_tokens_mask=True)
        answers = torch.as_tensor(batch.pop("assistant_masks")).bool() & batch["attention_mask"].bool()
        for position, chat in enumerate(read):
            if chat.num_given:
                answers[position] = without_first_answers(answers[position], chat.messages, chat.num_given)
        batch["labels"] = batch["input_ids"].masked_fill(~answers, IGNORE_INDEX)
        if isinstance(self.processor, CheckedProcessor) and set(batch) <= WORDS:
            # It says that there are no media, which a model cannot tell from a batch whose media were lost.
            batch["mm_token_type_ids"] = torch.zeros_like(batch["input_ids"])
        self._check(rows, batch)
        return {**batch, **shared}

    def prompts(self, rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[str]]:
        """Make a batch of the same rows without their last answers, for `model.generate`, and return these answers.

        Returns:
            The processor's outputs, padded on the left; and the text of the last answer of each row.

        Raises:
            ValueError: a row does not end with an answer.
        """
        chats, answers = [], []
        for row in rows:
            chat = self._chat(row)
            if chat.messages[-1]["role"] != "assistant":
                raise ValueError(f"{row_name(row)} does not end with an answer, so nothing can be compared with it.")
            answers.append(_text(chat.messages[-1]))
            chats.append(chat._replace(messages=chat.messages[:-1]))
        batch, shared = self._encode_questions(chats)
        return {**batch, **shared}, answers

    def questions(self, rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Make a batch of rows that end with a question, for `model.generate`.

        Returns:
            The processor's outputs, padded on the left; and the options that the model needs, too.

        Raises:
            ValueError: a row is longer than `max_length`.
        """
        batch, shared = self._encode_questions([self._chat(row) for row in rows])
        for row, length in zip(rows, batch["attention_mask"].sum(-1).tolist(), strict=True):
            self._check_length(row_name(row), length)
        return batch, shared

    def _encode_questions(self, chats: Sequence[_Chat]) -> tuple[dict[str, Any], dict[str, Any]]:
        return self._encode(chats, {"padding_side": "left"}, None, add_generation_prompt=True)

    def _encode(
        self, read: Sequence[_Chat], last: Mapping[str, Any], augmenter: Augmenter | None, **template_options: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The processor's outputs for chats, and the options that the model needs, too.

        Args:
            read: the chats.
            last: options of the processor that count more than `processor_kwargs`.
            augmenter: reads the videos instead of the cache.
            template_options: options of `apply_chat_template`.
        """
        chats = [chat.messages for chat in read]
        conversations = [self._from_caches(chat) for chat in chats]
        options = {"padding": True, **(self.processor_kwargs or {}), **last}
        silent = [is_silent for chat in read for is_silent in chat.silent]
        options = {**self._media_kwargs(chats, silent, options), **options}
        if self.frames is not None:
            # These options are passed for videos only, because images do not come from the cache.
            done = {name: value for name, value in CACHED_FRAMES_KWARGS.items() if self._does(name)}
            videos = {**(options.get("videos_kwargs") or {}), **done}
            if "frame_times" in self.processor.video_processor.valid_kwargs.__annotations__:
                # The processor does not read the files, so it gets the times of the frames from the cache: one entry
                # per video, in the order in which the videos occur in the batch.
                cache = self.frames if isinstance(self.frames, FrameCache) else None
                videos["frame_times"] = [None if cache is None else cache.times(path) for path in _videos(chats)]
            options["videos_kwargs"] = videos
        with reading_through(self.cache if augmenter is None else augmenter):
            batch = self.processor.apply_chat_template(
                conversations,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs=dict(options),
                **template_options,
            )
        # The model must get the same values of options that change the number of placeholders.
        return batch, {name: options[name] for name in self._model_options() if name in options}

    def sources(self, row: Mapping[str, Any], name: str, *, must_end: bool = False) -> list[Any]:
        """Check a row as far as that is possible without decoding its media, and return their paths or data.

        Args:
            row: a row to learn from.
            name: of the row, for errors.
            must_end: whether it must end with an answer.

        Raises:
            ValueError: it has no answer, or something that would be ignored.
        """
        chat = self._chat(row, name)
        check_answers(chat.messages, chat.num_given, name)
        if must_end and chat.messages[-1]["role"] != "assistant":
            raise ValueError(f"{name} does not end with an answer, so nothing can be compared with it: add it.")
        check_parts(chat.messages, name)
        blocks = (block for kind in MEDIA_COLUMNS for block in media_blocks([chat.messages], kind))
        return [source for block in blocks if (source := source_of(block)) is not None]

    def describe(self, row: Mapping[str, Any]) -> str:
        """Show what the model is trained on for one row: the prompt, and in [brackets] what it must predict.

        Repeated placeholders are written once with their number, e.g. `<video>*288`.
        """
        return self.describe_batch(self([row]))

    def describe_batch(self, batch: Mapping[str, Any]) -> str:
        """As `describe`, of a batch of one row."""
        words = self.processor.tokenizer.convert_ids_to_tokens(batch["input_ids"][0].tolist())
        learned = (batch["labels"][0] != IGNORE_INDEX).tolist()
        parts = []
        for is_learned, run in groupby(zip(words, learned, strict=True), key=lambda pair: pair[1]):
            text = " ".join(_count_repeats([word for word, _ in run]))
            parts.append(f"[{text}]" if is_learned else text)
        shapes = {name: tuple(value.shape) for name, value in batch.items() if isinstance(value, torch.Tensor)}
        return f"{' '.join(parts)}\n{shapes}"

    def learned_texts(self, row: Mapping[str, Any]) -> list[tuple[str, bool]]:
        """The text of one row as the model gets it, in parts, each with whether it must predict this part."""
        batch = self([row])
        tokenizer = self.processor.tokenizer
        numbers, learned = batch["input_ids"][0].tolist(), (batch["labels"][0] != IGNORE_INDEX).tolist()
        parts = []
        for is_learned, run in groupby(zip(numbers, learned, strict=True), key=lambda pair: pair[1]):
            text, plain = "", []
            for number, same in groupby(number for number, _ in run):
                if (count := len(list(same))) < _REPEATED:
                    plain += [number] * count
                    continue
                # Placeholders of media, of which nobody wants to read hundreds.
                text += tokenizer.decode(plain) + f"{tokenizer.decode([number])}*{count}"
                plain = []
            parts.append((text + tokenizer.decode(plain), is_learned))
        return parts

    def _chat(self, row: Mapping[str, Any], name: str = "") -> _Chat:
        """A row as a chat. The messages are copies, because `apply_chat_template` changes its argument."""
        name = name or row_name(row)
        found = read_row(row, name)
        try:
            messages = chat_of(found.messages) if is_canonical(found.messages) else found.messages
            chats, _ = read_chats([messages], self._rules())
        except MediaNotFound:
            raise
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        return _Chat([*map(_as_blocks, chats[0])], found.num_given_answers, silent_videos(found.messages))

    def _rules(self) -> BlockRules:
        """What the processor accepts in messages. A processor of transformers accepts no options of single videos."""
        if isinstance(self.processor, CheckedProcessor):
            return self.processor.block_rules()
        return BlockRules({}, template=str(self.processor.chat_template))

    def _model_options(self) -> tuple[str, ...]:
        return self.processor.MODEL_OPTIONS if isinstance(self.processor, CheckedProcessor) else ()

    def _from_caches(self, chat: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {**message, "content": [self._block(block) for block in message["content"]]}
            if isinstance(message["content"], list)
            else message
            for message in chat
        ]

    def _block(self, block: Mapping[str, Any]) -> Mapping[str, Any]:
        cache = {"video": self.frames, "audio": self.sounds}.get(block["type"])
        # An audio block without a source means the audio of the video before it.
        if cache is None or (source := source_of(block)) is None:
            return block
        if given := sorted(set(self._rules().options.get(block["type"], ())) & set(block)):
            raise ValueError(
                f"{source}: {', '.join(given)} in a message cannot be used with frames or sounds that are given by "
                "path, which are those of whole files: cut the files."
            )
        if isinstance(source, list):
            raise ValueError(
                f"{source[0]}: a part of a folder of frames cannot be used with frames that are given by path."
            )
        cached = cache[source]
        return block if cached is None else {"type": block["type"], block["type"]: cached}

    def _does(self, step: str) -> bool:
        """Whether the video processor does this step. In LinVT, the image processor resizes and crops instead."""
        return bool(self.processor.video_processor.to_dict().get(step))

    def _hears_videos(self, options: Mapping[str, Any]) -> bool:
        said = {**(options.get("audio_kwargs") or {}), **options}.get("use_audio_in_video")
        if said is None:
            return self.processor.takes_audio and self.processor.use_audio_in_video
        return bool(said)

    def _media_kwargs(
        self, chats: Sequence[Sequence[Mapping[str, Any]]], silent: Sequence[bool], given: Mapping[str, Any]
    ) -> dict[str, Any]:
        if not (self.sounds is not None or any(silent)) or not _videos(chats) or not self._hears_videos(given):
            return {}
        # One entry per video, in the order in which the videos occur in the batch. A file without sound is passed by
        # its path, so that the processor decides what to do about the missing sound; so it does for `None`.
        videos = zip(_videos(chats), silent, strict=True)
        return {"video_audio": [None if is_silent else self._sound_of(video) for video, is_silent in videos]}

    def _sound_of(self, video: Any) -> Any:
        sound = None if self.sounds is None else self.sounds[video]
        return video if sound is None else sound

    def _check(self, rows: Sequence[Mapping[str, Any]], batch: Mapping[str, torch.Tensor]) -> None:
        lengths = batch["attention_mask"].sum(-1).tolist()
        learned = (batch["labels"] != IGNORE_INDEX).sum(-1).tolist()
        for position, (row, length, count) in enumerate(zip(rows, lengths, learned, strict=True)):
            name = f"Row {position} of the batch ({row_name(row)})"
            if not count:
                raise ValueError(f"{name} has no assistant words to learn from; every label is {IGNORE_INDEX}.")
            self._check_length(name, length)

    def _check_length(self, name: str, length: int) -> None:
        if self.max_length is not None and length > self.max_length:
            raise ValueError(
                f"{name} has {length} tokens, more than max_length {self.max_length}. Rows are never cut, because "
                "that would cut media tokens: use fewer frames, or drop the row."
            )


def without_first_answers(answers: torch.Tensor, chat: Sequence[Mapping[str, Any]], number: int) -> torch.Tensor:
    """A mask of answers in which the first ones are no longer marked.

    Args:
        answers: bool, `(length,)`; one run of marked positions for each answer.
        chat: the messages.
        number: of answers to take out.

    Raises:
        ValueError: the template joins answers, so that they cannot be told apart.
    """
    starts = answers & ~answers.roll(1)
    starts[0] = answers[0]
    num_answers = sum(message["role"] == "assistant" for message in chat)
    if int(starts.sum()) != num_answers:
        raise ValueError(
            f"The chat template writes {num_answers} answers as {int(starts.sum())} parts, so those of the prompt "
            "cannot be told apart: give one message of the assistant in the completion, and none in the prompt."
        )
    return answers & (starts.cumsum(0) > number)


def row_name(row: Mapping[str, Any]) -> str:
    """What errors call a row: its id or, if it has none, the beginning of what it holds."""
    if row.get("id") is not None:
        return f"The row with id {row['id']!r}"
    columns = ("videos", "video", "messages", "prompt", "conversations")
    held = next((f" with {name} {shown(row[name])}" for name in columns if row.get(name)), "")
    return f"The row without id{held}"


def _as_blocks(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose text is a block: the templates of some image-LLMs cannot read plain texts."""
    content = message.get("content")
    return {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else message


def _text(message: Mapping[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(block.get("text", "") for block in content)


def _videos(chats: Sequence[Sequence[Mapping[str, Any]]]) -> list[Any]:
    return [source_of(block) for block in media_blocks(chats, "video")]


def _count_repeats(words: list[str]) -> list[str]:
    counted = [(word, len(list(run))) for word, run in groupby(words)]
    return [word if count == 1 else f"{word}*{count}" for word, count in counted]
