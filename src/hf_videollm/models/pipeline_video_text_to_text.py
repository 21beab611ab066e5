"""`pipeline("video-text-to-text")`: answers questions about videos.

It extends transformers' image-text-to-text pipeline: it accepts the same options and returns results of the same form.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import Dataset
from transformers import BatchFeature, ImageTextToTextPipeline
from transformers.utils.chat_template_utils import Chat

from .media_dataset_columns import without_decoding
from .media_video_inputs import flatten_videos, is_single_video
from .video_llm_chat_variables import template_of, template_variables
from .video_llm_checked_processor import CheckedProcessor, cast_row, in_rows, refuse_empty, refuse_no_media
from .video_llm_generation_options import GENERATE_OPTIONS
from .video_llm_messages import FOREIGN_TYPES, OTHER_NAMES, without_none
from .video_llm_option_names import did_you_mean, merged_options, nearest, pixel_options, refuse_unknown
from .video_llm_pipeline_ahead import PipelineAheadMixin
from .video_llm_pipeline_sessions import PipelineSessionsMixin

# Options of transformers' image-text-to-text pipeline.
PIPELINE_OPTIONS = frozenset(
    {
        "max_new_tokens",
        "generate_kwargs",
        "timeout",
        "return_full_text",
        "return_tensors",
        "return_type",
        "clean_up_tokenization_spaces",
        "stop_sequence",
        "continue_final_message",
        "skip_special_tokens",
        "processor_kwargs",
        "batch_size",
        "num_workers",
    }
)
# Options that transformers' pipeline passes on to chat templates.
RENDERING_OPTIONS = frozenset({"chat_template", "tools", "documents", "sanitize_control_tokens"})
# Keys of a sample that the pipeline reads.
SAMPLE_KEYS = ("videos", "video", "images", "image", "audio", "text", "question", "messages")
KINDS = ("videos", "images", "audio")
# Other keys that a sample may have. The model does not get them. (`_as_sample` refuses "text_pair".)
RECORD_KEYS = ("id", "metadata", "answer", "text_pair")
# Options of one video. A sample may not have them as keys, since they would be ignored there.
CLIP_COLUMNS = ("start", "end", "num_frames", "fps", "max_frames", *OTHER_NAMES)
# A column whose name contains one of these words probably holds media.
MEDIA_WORDS = ("video", "image", "clip", "audio")
SOUND_TYPES = frozenset({"audio", *(name for name, kind in FOREIGN_TYPES.items() if kind == "audio")})


class VideoTextToTextPipeline(PipelineAheadMixin, PipelineSessionsMixin, ImageTextToTextPipeline):
    """Answers questions about videos.

    ```python
    >>> pipe = pipeline("video-text-to-text", model="my-org/pllava-7b")   # doctest: +SKIP
    >>> pipe("clip.mp4", text="What happens?", max_new_tokens=64)         # doctest: +SKIP
    [{"input_text": "What happens?", "generated_text": "What happens? A dog ..."}]

    ```

    A call accepts the options of the image-text-to-text pipeline, `streamer`, generation options (`do_sample`,
    `num_beams`, ...), and every option of the model's video processor (`num_frames`, `fps`, `start`, `end`,
    `video_backend`, ...). Models with an audio tower also accept `use_audio_in_video`, `missing_audio`,
    `audio_sampling`, ... Models whose video features depend on the question accept `questions` and `recondition`.
    FTFV's `num_tokens_per_frame` is passed to the processor and to the model.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The processor pads the audio. If this were set, the parent class would pad the audio again, on the side on
        # which it pads prompts.
        self.feature_extractor = None

    def check_model_type(self, supported_models: Any) -> None:
        """Accepts every model that encodes videos and can generate, instead of the models listed for the image task.

        Raises:
            TypeError: the model has no `get_video_features`, or cannot generate.
        """
        model_name = type(self.model).__name__
        if not hasattr(self.model, "get_video_features") or not self.model.can_generate():
            raise TypeError(f"{model_name} is not a video-language model that can generate, so it cannot answer.")

    def media_options(self) -> set[str]:
        """Names of the options that say how media are read, sampled and put into the prompt."""
        # `return_tensors` and `device` are left out, because the pipeline has options of these names itself.
        names = set(self.processor.video_processor.valid_kwargs.__annotations__) - {"return_tensors", "device"}
        # A checkpoint with remote code may have a processor of another class.
        if isinstance(self.processor, CheckedProcessor):
            names |= {*self.processor.AUDIO_OPTIONS, *self.processor.PROMPT_OPTIONS}
            names |= self.processor.known_options() - PIPELINE_OPTIONS - RENDERING_OPTIONS - {"device"}
        return names

    @property
    def takes_audio(self) -> bool:
        """Whether the model takes audio."""
        return isinstance(self.processor, CheckedProcessor) and self.processor.takes_audio

    def _sanitize_parameters(
        self, streamer: Any = None, generate_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        media_options = self.media_options()
        of_generation = GENERATE_OPTIONS & set(kwargs)
        self._check_options(set(kwargs) - media_options - of_generation, kwargs.get("chat_template"))
        processor_kwargs = dict(kwargs.pop("processor_kwargs", None) or {})
        if twice := sorted(media_options & set(kwargs) & set(processor_kwargs)):
            raise TypeError(f"{twice[0]} was passed twice, by itself and in processor_kwargs: leave one out.")
        processor_kwargs.update({name: kwargs.pop(name) for name in media_options & set(kwargs)})
        if (timeout := kwargs.pop("timeout", None)) is not None:
            processor_kwargs["timeout"] = timeout
        if processor_kwargs:
            # transformers would drop the options that the pipeline was created with, so both are merged here.
            initial = getattr(self, "_preprocess_params", {}).get("processor_kwargs")
            kwargs["processor_kwargs"] = merged_options(initial or {}, processor_kwargs)
        # These options decide the number of placeholders, so the processor and the model must get the same values.
        shared = set(getattr(self.model.base_model, "media_options", ())) & set(processor_kwargs)
        if shared:
            generate_kwargs = {**(generate_kwargs or {}), **{name: processor_kwargs[name] for name in shared}}
        # The parent class would pass generation options to the processor, which does not use them.
        of_generation &= set(kwargs)
        if twice := sorted(of_generation & set(generate_kwargs or {})):
            raise TypeError(f"{twice[0]} was passed twice, by itself and in generate_kwargs: leave one out.")
        if of_generation:
            generate_kwargs = {**{name: kwargs.pop(name) for name in of_generation}, **(generate_kwargs or {})}
        if streamer is not None:
            generate_kwargs = {**(generate_kwargs or {}), "streamer": streamer}
        # Each call makes a new dict, because transformers modifies it.
        lengths = {name: kwargs[name] for name in ("max_new_tokens",) if kwargs.get(name) is not None}
        if generate_kwargs is not None or lengths or kwargs.get("stop_sequence") is not None:
            of_call = generate_kwargs or {}
            initial = getattr(self, "_forward_params", {}).get("generate_kwargs") or {}
            merged = merged_options(initial, {**lengths, **of_call})
            # transformers adds `max_new_tokens` to generate_kwargs itself, and raises an error if it is already there.
            generate_kwargs = {name: value for name, value in merged.items() if name in of_call or name not in lengths}
        return super()._sanitize_parameters(generate_kwargs=generate_kwargs, **kwargs)

    def _check_options(self, options: set[str], chat_template: Any) -> None:
        """Refuses options that are unknown to the pipeline, the processor, the chat template and `generate`.

        Raises:
            TypeError: there is such an option; the message names it and the most similar known option.
        """
        known = PIPELINE_OPTIONS | GENERATE_OPTIONS | RENDERING_OPTIONS
        if hasattr(self.processor, "known_options"):
            known |= self.processor.known_options()
        template = template_of(chat_template, getattr(self.processor, "chat_template", None))
        refuse_unknown(options - template_variables(template), known, type(self).__name__)

    def __call__(
        self, videos: Any = None, text: Any = None, *, images: Any = None, audio: Any = None, **kwargs: Any
    ) -> Any:
        """Answers one question, a list of questions, or a stream of questions.

        Args:
            videos: a video (path, URL of an allowed host, bytes, file object, or frames), or a list of videos. Without
                `text` it is instead a chat (list of messages), a sample, or a list, generator or Dataset of chats or
                samples. A sample is a dict `{"videos": ..., "text": ...}`; it may also have the keys `"video"`,
                `"images"`, `"image"`, `"audio"`, `"question"` or `"messages"`. `video=` is another name of this
                argument.
            text: one question about all `videos` together, or a list of questions. For a list of questions, `videos` is
                a single video that all questions are about, which is watched once, or a list with one entry (a video or
                a list of videos) for each question. A text that contains placeholders of videos or images is used as
                the whole prompt. Any other text becomes a user message of the chat template, after the media.
            images: images for the question; with a list of questions, one entry for each.
            audio: audio files or waveforms in the same form, for models with an audio tower. The audio tracks of the
                videos need not be passed: these models read them from the videos.

        Returns:
            As in the image-text-to-text pipeline: `[{"input_text": ..., "generated_text": ...}]` for one question, a
            list of such lists for a list of questions, an iterator for a generator or Dataset.

        Raises:
            ValueError: neither videos nor text were passed, their numbers differ, or a sample has a wrong form.
            TypeError: an option is unknown, or was passed twice.
            MediaError: a video, image or audio cannot be read.
        """
        videos = kwargs.pop("video", None) if videos is None else videos
        # This package reads the files of `datasets` columns itself, so `datasets` need not decode them.
        videos, audio = without_decoding(videos), without_decoding(audio)
        if (videos is None and text is None) or (isinstance(text, list | tuple) and not text):
            raise ValueError("Pass at least a text, a chat or a video.")
        has_chat = _is_chat(videos) or _is_chat(text) or _is_chat_list(text)
        if not has_chat and not _are_texts(text):
            raise ValueError(f"text must be a string, a list of strings or a chat, not {type(text).__name__}.")
        if text is not None:
            refuse_empty(videos=videos, images=images, audio=audio)
        if has_chat and sum(argument is not None for argument in (videos, text, images, audio)) > 1:
            raise ValueError("A chat holds its media itself: pass it alone, without videos=, images=, audio= or text=.")
        if has_chat:
            chats = text if videos is None else videos
            inputs: Any = {"messages": chats} if _is_chat(chats) else [{"messages": chat} for chat in chats]
        elif text is None:
            if images is not None or audio is not None:
                raise ValueError("Images and audio need a text: pipe(images=..., text='What is this?').")
            inputs = _as_stream(videos)
        else:
            media = {"videos": videos, "images": images, "audio": audio}
            texts = [text] if isinstance(text, str) else list(text)
            if (answers := self._answer_together(media, texts, kwargs)) is not None:
                return answers[0] if isinstance(text, str) else answers
            inputs = {**media, "text": text} if isinstance(text, str) else _pair(media, texts)
        # This skips the __call__ of ImageTextToTextPipeline, which expects images and texts, and calls its parent's.
        return super(ImageTextToTextPipeline, self).__call__(inputs, **kwargs)

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Saves the model, the processor, and their code. (transformers' pipeline would not save the processor.)"""
        if kwargs.get("push_to_hub"):
            kwargs.setdefault("processor", self.processor)
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Publishes the model with this processor, see the method of the model."""
        return str(self.model.push_to_hub(repo_id, **{"processor": self.processor, **kwargs}))

    def preprocess(
        self, inputs: Any = None, continue_final_message: bool | None = None, **processing_kwargs: Any
    ) -> dict[str, Any]:
        """Decodes and processes one sample. `_forward` joins several samples into a batch."""
        sample = _as_sample(inputs)
        if _holds_sound(sample) and getattr(self.processor, "audio_token", None) is None:
            raise ValueError(f"{type(self.model).__name__} cannot hear: leave the audio out.")
        given = dict(processing_kwargs.pop("processor_kwargs", None) or {})
        processor_kwargs = {**pixel_options(self.processor, self.dtype, True), **given}
        if (prompt := self._raw_prompt(sample)) is not None:
            if prompt != sample["text"] and "questions" in getattr(self.processor, "PROMPT_OPTIONS", ()):
                # Here the text is only the question. In a whole prompt, nobody knows which part is the question.
                processor_kwargs.setdefault("questions", [sample["text"]])
            row = self.processor(
                text=prompt,
                videos=sample["videos"] or None,
                images=sample["images"] or None,
                audio=sample["audio"] or None,
                return_tensors="pt",
                **processor_kwargs,
                **processing_kwargs,
            )
            shown: Any = sample["text"]
        else:
            messages = _chat_messages(sample)
            if continue_final_message is None:
                continue_final_message = messages[-1].get("role") == "assistant"
            row = self.processor.apply_chat_template(
                messages,
                continue_final_message=continue_final_message,
                add_generation_prompt=not continue_final_message,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs=processor_kwargs,
                **processing_kwargs,
            )
            shown = Chat(messages) if "messages" in sample else sample["text"]
        return {"row": cast_row(row, self.dtype, getattr(self.processor, "EXACT_KEYS", ())), "text": shown}

    def _raw_prompt(self, sample: dict[str, Any]) -> str | None:
        """The prompt for a sample that needs no chat template; `None` for the others.

        If the user's text contains placeholders, the prompt is this text. If the processor has no chat template, the
        prompt is one placeholder for each video, image and audio, followed by the text.
        """
        if "messages" in sample:
            return None
        tokens = self.processor.all_special_multimodal_tokens
        if any(token in sample["text"] for token in tokens):
            return sample["text"]
        if getattr(self.processor, "chat_template", None) is None:
            kinds = {"video": "videos", "image": "images", "audio": "audio"}
            tokens = [getattr(self.processor, f"{kind}_token", "") * len(sample[key]) for kind, key in kinds.items()]
            return "".join(tokens) + sample["text"]
        return None

    def _forward(self, model_inputs: dict[str, Any], generate_kwargs: dict[str, Any] | None = None) -> dict[str, Any]:
        rows = model_inputs["row"] if isinstance(model_inputs["row"], list) else [model_inputs["row"]]
        batch = self.processor.collate([BatchFeature(dict(row)) for row in rows], padding_side="left")
        return super()._forward({**batch, "text": model_inputs["text"]}, generate_kwargs)


class _SampleDataset(Dataset):
    """Wraps a collection with a length in a torch `Dataset`, so that the pipeline's data loader accepts it."""

    def __init__(self, samples: Any) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


class _Sample(dict[str, Any]):
    """The result of `_as_sample`. Its class tells `_as_sample` that an item is already converted."""


def _is_message(item: Any) -> bool:
    return isinstance(item, dict) and "role" in item


def _is_chat(item: Any) -> bool:
    return isinstance(item, list | tuple) and bool(item) and all(map(_is_message, item))


def _are_texts(text: Any) -> bool:
    return (
        text is None
        or isinstance(text, str)
        or (isinstance(text, list | tuple) and all(isinstance(part, str) for part in text))
    )


def _is_chat_list(items: Any) -> bool:
    return isinstance(items, list | tuple) and bool(items) and all(map(_is_chat, items))


def _is_sample(item: Any) -> bool:
    return isinstance(item, dict) and not _is_message(item)


def _as_stream(items: Any) -> Any:
    """Converts what was passed as `videos` without a text: to a sample, a list, iterable or `Dataset` of samples."""
    if _is_sample(items):
        return _as_sample(_checked(items))
    if isinstance(items, list | tuple) and items and all(_is_sample(item) or _is_chat(item) for item in items):
        return [_as_sample(_checked(item)) for item in items]
    if isinstance(items, Iterator):
        # transformers reads the first item of an iterator to see whether it is a chat, unless it is a generator.
        return (_as_sample(item) for item in items)
    if isinstance(items, Dataset) or hasattr(items, "column_names"):
        return _SampleDataset(items) if hasattr(items, "__len__") else (_as_sample(item) for item in items)
    if not isinstance(items, list | tuple) and isinstance(items, Sequence) and not is_single_video(items):
        return _SampleDataset(items)  # a column of a dataset
    raise ValueError(
        "A video needs a text: pipe(video, text='What happens?'). For a chat pass a list of messages with 'role' and "
        "'content'; for many samples a list, generator or Dataset of {'videos': ..., 'text': ...}."
    )


def _pair(media: dict[str, Any], texts: list[str]) -> list[dict[str, Any]]:
    """One sample for each text; a single video, image or audio is used for all texts."""

    def one_for_each(kind: str, items: Any) -> list[Any]:
        # A list of pictures is one video, but several images.
        is_single = is_single_video(items) if kind == "videos" else not isinstance(items, list | tuple)
        if items is None or is_single:
            return [items] * len(texts)
        if any(isinstance(item, list | tuple) and not item for item in items):
            raise ValueError(f"{kind} holds an empty list: pass None for a text without {kind}.")
        if len(items) != len(texts):
            raise ValueError(
                f"{len(texts)} texts need {len(texts)} entries of {kind}, got {len(items)}: pass one entry for each "
                f"text (it may be a list of {kind}), or one text about all {kind}."
            )
        return list(items)

    columns = {kind: one_for_each(kind, items) for kind, items in media.items()}
    return [
        {"text": text, **{kind: column[index] for kind, column in columns.items()}} for index, text in enumerate(texts)
    ]


def _as_sample(item: Any) -> dict[str, Any]:
    """Converts an item (chat or dict) to a dict with `messages`, or with `text` and lists `videos`, `images`, `audio`.

    Raises:
        ValueError: the item is neither a chat nor a dict with such keys, or has contradicting keys.
    """
    if isinstance(item, _Sample):
        return item
    if isinstance(item, Chat):  # transformers' pipeline converts a list of messages to this class
        return _Sample(messages=item.messages)
    if _is_chat(item):
        return _Sample(messages=item)
    # The key "text_pair" comes from `KeyPairDataset`, which does not say which of its two columns is the video.
    if isinstance(item, dict) and "text_pair" not in item:
        _check_columns(item)
        known = {key: item[key] for key in SAMPLE_KEYS if item.get(key) is not None}
        text = known.pop("text", known.pop("question", None))
        messages = known.pop("messages", text if _is_chat(text) else None)
        if messages is not None:
            if known or (text is not None and text is not messages):
                raise ValueError("Messages name their media themselves: leave out the videos, images, audio and text.")
            return _Sample(messages=messages)
        if isinstance(text, str):
            columns = {kind: _column(kind, known.get(kind, known.get(kind.removesuffix("s")))) for kind in KINDS}
            if not any(columns.values()):
                _refuse_unread_media(item)
            return _Sample(text=text, **columns)
    raise ValueError(
        f"Cannot make a question from {type(item).__name__}: pass a chat, or a dict with 'text' and 'videos', or with "
        "'messages'."
    )


def _checked(item: Any) -> Any:
    """Checks that a sample which the user passed directly has no unknown key, and returns it.

    Raises:
        ValueError: a key is unknown, so it would be ignored.
    """
    for key in item if _is_sample(item) else ():
        if key not in SAMPLE_KEYS and key not in RECORD_KEYS:
            raise ValueError(f"A sample has no key {key!r}: {did_you_mean(key, SAMPLE_KEYS)}")
    return item


def _check_columns(item: dict[str, Any]) -> None:
    """Refuses keys that look like inputs but would be ignored. Other keys are allowed: datasets have more columns.

    Raises:
        ValueError: a key is an option of a video or is misspelt, or two keys mean the same.
    """
    keys = [key for key, value in item.items() if value is not None]
    for key in keys:
        if key in CLIP_COLUMNS:
            raise ValueError(
                f"A sample cannot hold {key!r}: pass it to the call, or write it into the message block of the video "
                "({'type': 'video', 'path': ..., 'start': ...}). If the column means something else, remove it."
            )
        if key not in SAMPLE_KEYS and (meant := nearest(key, SAMPLE_KEYS + CLIP_COLUMNS, cutoff=0.8)):
            raise ValueError(f"A sample has no key {key!r}: did you mean {' or '.join(meant)}?")
    for pair in (("videos", "video"), ("images", "image"), ("text", "question")):
        if set(pair) <= set(keys):
            raise ValueError(f"A sample holds {pair[0]!r} and {pair[1]!r}, which mean the same: leave one out.")


def _refuse_unread_media(item: dict[str, Any]) -> None:
    """Refuses a sample without media if one of its other columns seems to hold media.

    Otherwise the model would answer without seeing the video.

    Raises:
        ValueError: there is such a column; the message names it.
    """
    for key, value in item.items():
        is_empty = value is None or (isinstance(value, str | bytes | list | tuple | dict) and not value)
        if key in SAMPLE_KEYS or key in RECORD_KEYS or is_empty:
            continue
        if any(word in str(key).lower() for word in MEDIA_WORDS):
            raise ValueError(
                f"A sample has no media, and its column {key!r} is not read: rename it to one of "
                f"{', '.join(SAMPLE_KEYS)}, or remove it."
            )


def _column(kind: str, media: Any) -> list[Any]:
    """The videos, images or audios of a sample as a flat list.

    Raises:
        ValueError: a list is empty or contains `None`.
    """
    if media is None:
        return []
    refuse_empty(**{kind: media})
    refuse_no_media(**{kind: media})
    if kind == "videos":
        in_rows(media, None, is_single_video, kind)
        return flatten_videos(media)
    media = list(media) if isinstance(media, list | tuple) else [media]
    in_rows(media, None, lambda _: False, kind)
    return media


def _holds_sound(sample: dict[str, Any]) -> bool:
    """Whether a sample contains audio as a separate input. (Audio tracks of videos do not count.)"""
    contents = [message.get("content") for message in sample.get("messages", [])]
    blocks = [block for content in contents if isinstance(content, list | tuple) for block in content]
    kinds = [block.get("type") for block in blocks if isinstance(block, dict)]
    return bool(sample.get("audio")) or not SOUND_TYPES.isdisjoint(kinds)


def _chat_messages(sample: dict[str, Any]) -> list[dict[str, Any]]:
    if "messages" not in sample:
        blocks: list[dict[str, Any]] = [{"type": "video", "video": video} for video in sample["videos"]]
        blocks += [{"type": "image", "image": image} for image in sample["images"]]
        blocks += [{"type": "audio", "audio": audio} for audio in sample["audio"]]
        return [{"role": "user", "content": [*blocks, {"type": "text", "text": sample["text"]}]}]
    messages = [_tidied(message) for message in sample["messages"]]
    if messages[-1].get("role") == "assistant" and isinstance(messages[-1].get("content"), str):
        # transformers' pipeline appends the generated text to this message, and needs its content as text blocks.
        messages[-1]["content"] = [{"type": "text", "text": messages[-1]["content"]}]
    return messages


def _tidied(message: Any) -> dict[str, Any]:
    """A copy of a message without the keys whose value is `None`, which come from Arrow tables (see `without_none`)."""
    tidy = without_none(message, f"A message is a {type(message).__name__}: give {{'role': ..., 'content': ...}}.")
    if isinstance(tidy.get("content"), list | tuple):
        tidy["content"] = [
            without_none(block, "A block is a dict.") if isinstance(block, dict) else block for block in tidy["content"]
        ]
    return tidy


__all__ = ["VideoTextToTextPipeline"]
