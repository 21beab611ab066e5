"""`pipeline("video-text-to-text")`: a video and a question in, an answer out.

Built on transformers' image-text-to-text pipeline: the same options and the same structure of results.
"""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import Dataset
from transformers import BatchFeature, GenerationConfig, GenerationMixin, ImageTextToTextPipeline
from transformers.utils.chat_template_utils import Chat

from .media_dataset_columns import without_decoding
from .media_video_inputs import flatten_videos, is_single_video
from .video_llm_chat_variables import template_of, template_variables
from .video_llm_checked_processor import CheckedProcessor, in_rows, refuse_empty
from .video_llm_messages import FOREIGN_TYPES, OTHER_NAMES, without_none
from .video_llm_option_names import did_you_mean, merged_options, nearest, refuse_unknown

# What `generate` takes and the processor does not; the lengths are options of this pipeline and of tokenizers too.
GENERATE_OPTIONS = frozenset(
    {*GenerationConfig().to_dict(), *inspect.signature(GenerationMixin.generate).parameters}
    | {"assistant_tokenizer", "tokenizer"}
) - {"self", "inputs", "kwargs", "streamer", "max_new_tokens", "max_length"}
# What transformers' image-text-to-text pipeline takes.
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
# What it passes on to chat templates.
RENDERING_OPTIONS = frozenset({"chat_template", "tools", "documents", "sanitize_control_tokens"})
# What a sample is made of.
SAMPLE_KEYS = ("videos", "video", "images", "image", "audio", "text", "question", "messages")
KINDS = ("videos", "images", "audio")
# Facts of a record that no model sees, and what is refused by a message of its own.
RECORD_KEYS = ("id", "metadata", "answer", "text_pair")
# Options of a clip, which no column of a sample is read as.
CLIP_COLUMNS = ("start", "end", "num_frames", "fps", "max_frames", *OTHER_NAMES)
# What names of columns with media have in them.
MEDIA_WORDS = ("video", "image", "clip", "audio")
SOUND_TYPES = frozenset({"audio", *(name for name, kind in FOREIGN_TYPES.items() if kind == "audio")})


class VideoTextToTextPipeline(ImageTextToTextPipeline):
    """Answers questions on videos.

    ```python
    >>> pipe = pipeline("video-text-to-text", model="my-org/pllava-7b")   # doctest: +SKIP
    >>> pipe("clip.mp4", text="What happens?", max_new_tokens=64)         # doctest: +SKIP
    [{"input_text": "What happens?", "generated_text": "What happens? A dog ..."}]

    ```

    Besides the options of the image-text-to-text pipeline, a call takes every option of the model's video processor
    (`num_frames`, `fps`, `start`, `end`, `video_backend`, ...), those of a design that hears (`use_audio_in_video`,
    `missing_audio`, `audio_sampling`, ...), those of a design that reads videos for a question (`questions`,
    `recondition`), `streamer`, and options of generation (`do_sample`, `num_beams`, ...). FTFV's `num_tokens_per_frame`
    reaches processor and model.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The processor pads sounds. The parent would pad them too, and on the side of the prompts.
        self.feature_extractor = None

    def check_model_type(self, supported_models: Any) -> None:
        """Any model that encodes videos is welcome; the mapping of the image task does not decide here.

        Raises:
            TypeError: the model has no `get_video_features` or cannot generate.
        """
        model_name = type(self.model).__name__
        if not hasattr(self.model, "get_video_features") or not self.model.can_generate():
            raise TypeError(f"{model_name} is no video-language model with a head, so it cannot answer questions.")

    def media_options(self) -> set[str]:
        """Names of the options of a call that are about media: how they are read, sampled and put into the prompt."""
        # These two words mean the pipeline's own option of that name.
        names = set(self.processor.video_processor.valid_kwargs.__annotations__) - {"return_tensors", "device"}
        # A checkpoint of another code base may bring a processor that is none of ours.
        if isinstance(self.processor, CheckedProcessor):
            names |= {*self.processor.AUDIO_OPTIONS, *self.processor.PROMPT_OPTIONS}
            names |= self.processor.known_options() - PIPELINE_OPTIONS - RENDERING_OPTIONS - {"device"}
        return names

    @property
    def takes_audio(self) -> bool:
        """Whether the model takes sounds."""
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
            # transformers would take those of a call instead of all that the pipeline was made with.
            made_with = getattr(self, "_preprocess_params", {}).get("processor_kwargs")
            kwargs["processor_kwargs"] = merged_options(made_with or {}, processor_kwargs)
        # Options that decide the number of placeholders: prompt and model must agree on them.
        shared = set(getattr(self.model.base_model, "media_options", ())) & set(processor_kwargs)
        if shared:
            generate_kwargs = {**(generate_kwargs or {}), **{name: processor_kwargs[name] for name in shared}}
        # The parent would hand these to the processor, which has no use for them.
        of_generation &= set(kwargs)
        if twice := sorted(of_generation & set(generate_kwargs or {})):
            raise TypeError(f"{twice[0]} was passed twice, by itself and in generate_kwargs: leave one out.")
        if of_generation:
            generate_kwargs = {**{name: kwargs.pop(name) for name in of_generation}, **(generate_kwargs or {})}
        if streamer is not None:
            generate_kwargs = {**(generate_kwargs or {}), "streamer": streamer}
        # A new dict each time, because transformers writes into it.
        lengths = {name: kwargs[name] for name in ("max_new_tokens",) if kwargs.get(name) is not None}
        if generate_kwargs is not None or lengths or kwargs.get("stop_sequence") is not None:
            said = generate_kwargs or {}
            made_with = getattr(self, "_forward_params", {}).get("generate_kwargs") or {}
            merged = merged_options(made_with, {**lengths, **said})
            # transformers adds what stands beside generate_kwargs, and refuses it in both places.
            generate_kwargs = {name: value for name, value in merged.items() if name in said or name not in lengths}
        return super()._sanitize_parameters(generate_kwargs=generate_kwargs, **kwargs)

    def _check_options(self, given: set[str], chat_template: Any) -> None:
        """Refuse options that neither this pipeline, nor processor, chat template or `generate` know.

        Raises:
            TypeError: the option and the nearest known one are named.
        """
        known = PIPELINE_OPTIONS | GENERATE_OPTIONS | RENDERING_OPTIONS
        if hasattr(self.processor, "known_options"):
            known |= self.processor.known_options()
        template = template_of(chat_template, getattr(self.processor, "chat_template", None))
        refuse_unknown(given - template_variables(template), known, type(self).__name__)

    def __call__(
        self, videos: Any = None, text: Any = None, *, images: Any = None, audio: Any = None, **kwargs: Any
    ) -> Any:
        """Answer one question, a list of them, or a stream.

        Args:
            videos: a video (path, URL of an allowed host, bytes, file, frames), several of them, a chat, a list of
                chats, a dict `{"videos": ..., "text": ...}` (also `"video"`, `"images"`, `"image"`, `"audio"`,
                `"question"`, `"messages"`), a list, generator or HF Dataset of such dicts or chats. `video=` is
                another name.
            text: a question (asked of all `videos` together), or a list of questions: with one entry of `videos` for
                each, which may itself be a list, or with a single video that all of them are about. A text that holds
                the placeholder of videos or images is taken as the whole prompt; any other is put into a user message
                of the chat template, after the media.
            images: images for the question or, with a list of questions, one entry for each.
            audio: sounds of their own, in the same way, for a design that hears; it hears the sound of a video anyway.

        Returns:
            `[{"input_text", "generated_text"}]` for one question, a list of such lists for a list, an iterator for a
            generator or Dataset; as the image-text-to-text pipeline does.

        Raises:
            ValueError: neither videos nor text, or their numbers differ.
            MediaError: a video cannot be read.
        """
        videos = kwargs.pop("video", None) if videos is None else videos
        # What is read here needs no decoder of `datasets`.
        videos, audio = without_decoding(videos), without_decoding(audio)
        if (videos is None and text is None) or (isinstance(text, list | tuple) and not text):
            raise ValueError("Pass at least a text, a chat or a video.")
        has_chat = _is_chat(videos) or _is_chat(text) or _is_chat_list(text)
        if not has_chat and not _are_texts(text):
            raise ValueError(f"text must be a string, a list of strings or a chat, not {type(text).__name__}.")
        if text is not None:
            refuse_empty(videos=videos, images=images, audio=audio)
        if has_chat and sum(given is not None for given in (videos, text, images, audio)) > 1:
            raise ValueError("A chat holds its media itself: pass it alone, without videos=, images=, audio= or text=.")
        if has_chat:
            chats = text if videos is None else videos
            inputs: Any = {"messages": chats} if _is_chat(chats) else [{"messages": chat} for chat in chats]
        elif text is None:
            if images is not None or audio is not None:
                raise ValueError("Images and audio need a text: pipe(images=..., text='What is this?').")
            inputs = _as_stream(videos)
        elif isinstance(text, str):
            inputs = {"videos": videos, "images": images, "audio": audio, "text": text}
        else:
            inputs = _pair({"videos": videos, "images": images, "audio": audio}, list(text))
        # Not the parent's __call__, which sorts images and texts; this one runs the samples.
        return super(ImageTextToTextPipeline, self).__call__(inputs, **kwargs)

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Save model and processor; code and pipeline travel with them. The parent would leave the processor out."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)

    def preprocess(
        self, inputs: Any = None, continue_final_message: bool | None = None, **processing_kwargs: Any
    ) -> dict[str, Any]:
        """Decode and process one sample; rows of a batch are joined in `_forward`."""
        sample = _as_sample(inputs)
        if _holds_sound(sample) and getattr(self.processor, "audio_token", None) is None:
            raise ValueError(f"{type(self.model).__name__} cannot hear: leave the audio out.")
        processor_kwargs = dict(processing_kwargs.pop("processor_kwargs", None) or {})
        if (prompt := self._raw_prompt(sample)) is not None:
            if prompt != sample["text"] and "questions" in getattr(self.processor, "PROMPT_OPTIONS", ()):
                # The text is the question alone; where it is a whole prompt, nobody knows which part of it asks.
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
        exact = {name: row[name] for name in getattr(self.processor, "EXACT_KEYS", ()) if name in row}
        row = row.to(dtype=self.dtype)
        row.update(exact)
        return {"row": row, "text": shown}

    def _raw_prompt(self, sample: dict[str, Any]) -> str | None:
        """The prompt as it stands, where the user wrote the placeholders or the processor has no chat template."""
        if "messages" in sample:
            return None
        tokens = self.processor.all_special_multimodal_tokens
        if any(token in sample["text"] for token in tokens):
            return sample["text"]
        if getattr(self.processor, "chat_template", None) is None:
            kinds = {"video": "videos", "image": "images", "audio": "audio"}
            places = [getattr(self.processor, f"{kind}_token", "") * len(sample[key]) for kind, key in kinds.items()]
            return "".join(places) + sample["text"]
        return None

    def _forward(self, model_inputs: dict[str, Any], generate_kwargs: dict[str, Any] | None = None) -> dict[str, Any]:
        rows = model_inputs["row"] if isinstance(model_inputs["row"], list) else [model_inputs["row"]]
        batch = self.processor.collate([BatchFeature(dict(row)) for row in rows], padding_side="left")
        return super()._forward({**batch, "text": model_inputs["text"]}, generate_kwargs)


class _SampleDataset(Dataset):
    """Lets the parent's loader see any sized collection as a dataset."""

    def __init__(self, samples: Any) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


class _Sample(dict[str, Any]):
    """What `_as_sample` makes of an item, known by its class so that it is made once."""


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
    """One sample, a list of samples, or something to iterate over."""
    if _is_sample(items):
        return _as_sample(_checked(items))
    if isinstance(items, list | tuple) and items and all(_is_sample(item) or _is_chat(item) for item in items):
        return [_as_sample(_checked(item)) for item in items]
    if isinstance(items, Iterator):
        # Wrapped, so that the parent does not look into the first item for a chat.
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
    """One sample for each text; a single video, image or sound serves all texts."""

    def one_for_each(kind: str, items: Any) -> list[Any]:
        # A list of pictures is one video, but several images.
        is_single = is_single_video(items) if kind == "videos" else not isinstance(items, list | tuple)
        if items is None or is_single:
            return [items] * len(texts)
        if any(isinstance(item, list | tuple) and not item for item in items):
            raise ValueError(f"{kind} holds an empty list: pass None for a text without {kind}.")
        if len(items) != len(texts):
            raise ValueError(
                f"{len(texts)} texts need {len(texts)} entries of {kind}, got {len(items)}: pass one for each text (or "
                f"a list of {kind}), or a single text for all."
            )
        return list(items)

    columns = {kind: one_for_each(kind, items) for kind, items in media.items()}
    return [
        {"text": text, **{kind: column[index] for kind, column in columns.items()}} for index, text in enumerate(texts)
    ]


def _as_sample(item: Any) -> dict[str, Any]:
    """A dict with either `messages`, or `videos`, `images` and `audio` (lists) and `text`, from any accepted form.

    Raises:
        ValueError: the item has none of these forms.
    """
    if isinstance(item, _Sample):
        return item
    if isinstance(item, Chat):  # what the parent makes of a list of messages
        return _Sample(messages=item.messages)
    if _is_chat(item):
        return _Sample(messages=item)
    if isinstance(item, dict) and "text_pair" not in item:  # a pair of columns does not say which is the video
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
    """A sample that the user wrote, with no key that would be passed over.

    Raises:
        ValueError: an unknown key.
    """
    for key in item if _is_sample(item) else ():
        if key not in SAMPLE_KEYS and key not in RECORD_KEYS:
            raise ValueError(f"A sample has no key {key!r}: {did_you_mean(key, SAMPLE_KEYS)}")
    return item


def _check_columns(item: dict[str, Any]) -> None:
    """Rows of a dataset have columns that are no input; refused are those that look as if they were one.

    Raises:
        ValueError: an option of a clip, a misspelt key, or two keys of one meaning.
    """
    given = [key for key, value in item.items() if value is not None]
    for key in given:
        if key in CLIP_COLUMNS:
            raise ValueError(
                f"A sample cannot hold {key!r}: pass it to the call, or write it into a message beside the name of "
                "the video ({'type': 'video', 'path': ..., 'start': ...}); drop the column where it is none."
            )
        if key not in SAMPLE_KEYS and (meant := nearest(key, SAMPLE_KEYS + CLIP_COLUMNS, cutoff=0.8)):
            raise ValueError(f"A sample has no key {key!r}: did you mean {' or '.join(meant)}?")
    for pair in (("videos", "video"), ("images", "image"), ("text", "question")):
        if set(pair) <= set(given):
            raise ValueError(f"A sample holds {pair[0]!r} and {pair[1]!r}, which are one: leave one out.")


def _refuse_unread_media(item: dict[str, Any]) -> None:
    """Refuse a row without media that has a column for them under another name: it would be answered blind.

    Raises:
        ValueError: the column is named.
    """
    for key, value in item.items():
        is_empty = value is None or (isinstance(value, str | bytes | list | tuple | dict) and not value)
        if key in SAMPLE_KEYS or key in RECORD_KEYS or is_empty:
            continue
        if any(word in str(key).lower() for word in MEDIA_WORDS):
            raise ValueError(
                f"A sample has no media but the column {key!r}, which is not read: rename it to one of "
                f"{', '.join(SAMPLE_KEYS)}, or drop it."
            )


def _column(kind: str, media: Any) -> list[Any]:
    """The videos, images or sounds of a sample.

    Raises:
        ValueError: an empty list, or `None` in one.
    """
    if media is None:
        return []
    refuse_empty(**{kind: media})
    if kind == "videos":
        in_rows(media, None, is_single_video, kind)
        return flatten_videos(media)
    media = list(media) if isinstance(media, list | tuple) else [media]
    in_rows(media, None, lambda _: False, kind)
    return media


def _holds_sound(sample: dict[str, Any]) -> bool:
    """Whether there are sounds of their own; that of a video is the processor's matter."""
    contents = [message.get("content") for message in sample.get("messages", [])]
    blocks = [block for content in contents if isinstance(content, list | tuple) for block in content]
    kinds = [block.get("type") for block in blocks if isinstance(block, dict)]
    return bool(sample.get("audio")) or not SOUND_TYPES.isdisjoint(kinds)


def _chat_messages(sample: dict[str, Any]) -> list[dict[str, Any]]:
    if "messages" not in sample:
        blocks: list[dict[str, Any]] = [{"type": "video", "video": video} for video in sample["videos"]]
        blocks += [{"type": "image", "image": image} for image in sample["images"]]
        blocks += [{"type": "audio", "audio": sound} for sound in sample["audio"]]
        return [{"role": "user", "content": [*blocks, {"type": "text", "text": sample["text"]}]}]
    messages = [_tidied(message) for message in sample["messages"]]
    if messages[-1].get("role") == "assistant" and isinstance(messages[-1].get("content"), str):
        # The parent joins the beginning of an answer and its continuation as text blocks.
        messages[-1]["content"] = [{"type": "text", "text": messages[-1]["content"]}]
    return messages


def _tidied(message: Any) -> dict[str, Any]:
    """A message without the keys that Arrow tables give to every message and block; what is none is refused later."""
    tidy = without_none(message, f"A message is a {type(message).__name__}: give {{'role': ..., 'content': ...}}.")
    if isinstance(tidy.get("content"), list | tuple):
        tidy["content"] = [
            without_none(block, "A block is a dict.") if isinstance(block, dict) else block for block in tidy["content"]
        ]
    return tidy


__all__ = ["VideoTextToTextPipeline"]
