"""`pipeline("video-text-to-text")`: a video and a question in, an answer out.

Built on transformers' image-text-to-text pipeline: the same options and the same structure of results.
"""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import Dataset
from transformers import BatchFeature, ImageTextToTextPipeline
from transformers.utils.chat_template_utils import Chat

from .video_processing_video_llm import flatten_videos


class VideoTextToTextPipeline(ImageTextToTextPipeline):
    """Answers questions on videos.

    ```python
    >>> pipe = pipeline("video-text-to-text", model="my-org/pllava-7b")   # doctest: +SKIP
    >>> pipe("clip.mp4", text="What happens?", max_new_tokens=64)         # doctest: +SKIP
    [{"input_text": "What happens?", "generated_text": "What happens? A dog ..."}]

    ```

    Besides the options of the image-text-to-text pipeline, a call takes every option of the model's video processor
    (`num_frames`, `fps`, `start`, `end`, `video_backend`, ...) and `streamer`.
    """

    def check_model_type(self, supported_models: Any) -> None:
        """Any model that encodes videos is welcome; the mapping of the image task does not decide here.

        Raises:
            TypeError: the model has no `get_video_features` or cannot generate.
        """
        model_name = type(self.model).__name__
        if not hasattr(self.model, "get_video_features") or not self.model.can_generate():
            raise TypeError(f"{model_name} is no video-language model with a head, so it cannot answer questions.")

    def _sanitize_parameters(
        self, streamer: Any = None, generate_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        # These two words mean the pipeline's own option of that name.
        video_options = set(self.processor.video_processor.valid_kwargs.__annotations__) - {"return_tensors", "device"}
        processor_kwargs = dict(kwargs.pop("processor_kwargs", None) or {})
        processor_kwargs.update({name: kwargs.pop(name) for name in video_options & set(kwargs)})
        if processor_kwargs:
            kwargs["processor_kwargs"] = processor_kwargs
        if streamer is not None:
            generate_kwargs = {**(generate_kwargs or {}), "streamer": streamer}
        # A copy, because transformers writes into the caller's dict.
        return super()._sanitize_parameters(
            generate_kwargs=None if generate_kwargs is None else dict(generate_kwargs), **kwargs
        )

    def __call__(self, videos: Any = None, text: Any = None, **kwargs: Any) -> Any:
        """Answer one question, a list of them, or a stream.

        Args:
            videos: a video (path, URL of an allowed host, bytes, file, frames), several of them, a chat, a list of
                chats, a dict `{"videos": ..., "text": ...}` (also `"video"`, `"question"`, `"messages"`), a list,
                generator or HF Dataset of such dicts or chats.
            text: a question (asked of all `videos` together), or a list of questions with one entry of `videos` each,
                which may itself be a list of videos. A text that holds the video placeholder is taken as the whole
                prompt; any other is put into a user message of the chat template, after the videos.

        Returns:
            `[{"input_text", "generated_text"}]` for one question, a list of such lists for a list, an iterator for a
            generator or Dataset; as the image-text-to-text pipeline does.

        Raises:
            ValueError: neither videos nor text, or their numbers differ.
            MediaError: a video cannot be read.
        """
        if videos is None and text is None:
            raise ValueError("Pass at least a text, a chat or a video.")
        if _is_chat(videos) or _is_chat(text):
            if videos is not None and text is not None:
                raise ValueError("A chat holds its videos itself: pass it alone, without videos= or text=.")
            inputs: Any = {"messages": text if videos is None else videos}
        elif text is None:
            inputs = _as_stream(videos)
        elif isinstance(text, str):
            inputs = {"videos": videos, "text": text}
        elif _is_chat_list(text):
            if videos is not None:
                raise ValueError("A chat holds its videos itself: pass it alone, without videos= or text=.")
            inputs = [{"messages": chat} for chat in text]
        else:
            inputs = _pair(videos, list(text))
        # Not the parent's __call__, which sorts images and texts; this one runs the samples.
        return super(ImageTextToTextPipeline, self).__call__(inputs, **kwargs)

    def preprocess(
        self, inputs: Any = None, continue_final_message: bool | None = None, **processing_kwargs: Any
    ) -> dict[str, Any]:
        """Decode and process one sample; rows of a batch are joined in `_forward`."""
        sample = _as_sample(inputs)
        processor_kwargs = dict(processing_kwargs.pop("processor_kwargs", None) or {})
        processing_kwargs.pop("timeout", None)
        if (prompt := self._raw_prompt(sample)) is not None:
            videos = sample["videos"]
            row = self.processor(
                text=prompt, videos=videos or None, return_tensors="pt", **processor_kwargs, **processing_kwargs
            )
            shown: Any = sample["text"]
        else:
            messages = _chat_messages(sample)
            if continue_final_message is None:
                continue_final_message = messages[-1]["role"] == "assistant"
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
        return {"row": row.to(dtype=self.dtype), "text": shown}

    def _raw_prompt(self, sample: dict[str, Any]) -> str | None:
        """The prompt as it stands, where the user wrote the placeholders or the processor has no chat template."""
        if "messages" in sample:
            return None
        tokens = (self.processor.video_token, self.processor.image_token)
        if any(token in sample["text"] for token in tokens):
            return sample["text"]
        if getattr(self.processor, "chat_template", None) is None:
            return self.processor.video_token * len(sample["videos"]) + sample["text"]
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


def _is_message(item: Any) -> bool:
    return isinstance(item, dict) and "role" in item and "content" in item


def _is_chat(item: Any) -> bool:
    return isinstance(item, list | tuple) and bool(item) and all(map(_is_message, item))


def _is_chat_list(items: Any) -> bool:
    return isinstance(items, list | tuple) and bool(items) and all(map(_is_chat, items))


def _is_sample(item: Any) -> bool:
    return isinstance(item, dict) and not _is_message(item)


def _as_stream(items: Any) -> Any:
    """One sample, a list of samples, or something to iterate over."""
    if _is_sample(items):
        return items
    if isinstance(items, list | tuple) and items and all(_is_sample(item) or _is_chat(item) for item in items):
        return list(items)
    if isinstance(items, Iterator):
        # Wrapped, so that the parent does not look into the first item for a chat.
        return (_as_sample(item) for item in items)
    if isinstance(items, Dataset) or hasattr(items, "column_names"):
        return _SampleDataset(items) if hasattr(items, "__len__") else (_as_sample(item) for item in items)
    raise ValueError(
        "A video needs a text: pipe(video, text='What happens?'). For a chat pass a list of messages with 'role' and "
        "'content'; for many samples a list, generator or Dataset of {'videos': ..., 'text': ...}."
    )


def _pair(videos: Any, texts: list[str]) -> list[dict[str, Any]]:
    per_text = [None] * len(texts) if videos is None else list(videos)
    if len(per_text) != len(texts):
        raise ValueError(
            f"{len(texts)} texts need {len(texts)} entries of videos, got {len(per_text)}: pass one video (or a list "
            "of videos) for each text, or a single text for all videos."
        )
    return [{"videos": video, "text": text} for video, text in zip(per_text, texts, strict=True)]


def _as_sample(item: Any) -> dict[str, Any]:
    """A dict with either `messages`, or `videos` (a list) and `text`, from any of the accepted forms.

    Raises:
        ValueError: the item has none of these forms.
    """
    if isinstance(item, Chat):  # what the parent makes of a list of messages
        return {"messages": item.messages}
    if _is_chat(item):
        return {"messages": item}
    if isinstance(item, dict):
        if "messages" in item:
            return {"messages": item["messages"]}
        text = item.get("text", item.get("question"))
        if isinstance(text, str):
            videos = item.get("videos", item.get("video"))
            return {"text": text, "videos": [] if videos is None else flatten_videos(_stored(videos))}
        if _is_chat(text):
            return {"messages": text}
    raise ValueError(
        f"Cannot make a question from {type(item).__name__}: pass a chat, or a dict with 'text' and 'videos', or with "
        "'messages'."
    )


def _stored(video: Any) -> Any:
    """A video column of HF datasets with `decode=False` holds dicts of bytes and path."""
    if isinstance(video, dict):
        return video["bytes"] if video.get("bytes") is not None else video["path"]
    return [_stored(item) for item in video] if isinstance(video, list) else video


def _chat_messages(sample: dict[str, Any]) -> list[dict[str, Any]]:
    if "messages" in sample:
        return [_without_none(message) for message in sample["messages"]]
    blocks: list[dict[str, Any]] = [{"type": "video", "video": video} for video in sample["videos"]]
    return [{"role": "user", "content": [*blocks, {"type": "text", "text": sample["text"]}]}]


def _without_none(message: dict[str, Any]) -> dict[str, Any]:
    """Arrow tables give every block every key; a block says what it is by the keys that have a value."""
    content = message["content"]
    if isinstance(content, str):
        return {"role": message["role"], "content": content}
    blocks = [{key: _stored(value) for key, value in block.items() if value is not None} for block in content]
    return {"role": message["role"], "content": blocks}


__all__ = ["VideoTextToTextPipeline"]
