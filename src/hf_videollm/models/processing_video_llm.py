"""The base class of all processors: it turns the text and media of a batch into model inputs."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from PIL import Image
from transformers import BatchFeature
from transformers.image_utils import make_flat_list_of_images
from transformers.processing_utils import MultiModalData, ProcessingKwargs

from .errors import Deadline, MediaLimits, UnsupportedMedia
from .media_addresses import host_names
from .media_dataset_columns import is_column
from .media_frames import load_picture, shown_picture
from .media_source import stored_media
from .media_video_inputs import flatten_videos, is_single_video, media_per_row
from .video_llm_chat_template import keep_chat_template
from .video_llm_checked_processor import CheckedProcessor, in_rows
from .video_llm_messages import TRAINERS_HINT
from .video_llm_trust import NoQuestionMixin

# The first characters of PNG, JPEG, GIF and WebP files in base64. transformers accepts such strings as images, so the
# processors of this package do, too.
BASE64_HEADS = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR")


# transformers adds the options that a video processor or another part declares in `valid_kwargs`. So a design needs a
# class of its own only for options that none of its parts declares (`FtfvProcessorKwargs`).
VideoLlmProcessorKwargs = ProcessingKwargs


class VideoLlmProcessor(NoQuestionMixin, CheckedProcessor):
    """Image processor, video processor and tokenizer in one.

    A design overrides `num_image_tokens` and `num_video_tokens`: the numbers of placeholders of one image or video.

    Without the argument `chat_template`, the processor extends the tokenizer's chat template to media. The prompt of a
    question without media then stays the prompt that the language model was trained with. If the tokenizer has no chat
    template, `default_chat_template` is used.

    A design with arguments of its own repeats all arguments of `__init__`. transformers restores a saved processor from
    the names in the code of this method (`ProcessorMixin.from_args_and_dict`), so `**kwargs` would lose them.
    """

    return_mm_token_type_ids = True
    default_chat_template: ClassVar[str | None] = None
    # Outputs with one value per token of the prompt. All other outputs belong to media.
    PROMPT_KEYS: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask", "mm_token_type_ids", "labels")

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        video_processor: Any = None,
        chat_template: str | dict[str, str] | None = None,
        image_token: str = "<image>",
        video_token: str = "<video>",
        **sub_processors: Any,
    ) -> None:
        """Args:
        image_token: text of the image placeholder, one token of the tokenizer.
        video_token: text of the video placeholder, one token of the tokenizer.
        sub_processors: further processors of a design, such as `feature_extractor`.
        """
        self.image_token = image_token
        self.video_token = video_token
        self.image_token_id = placeholder_id(tokenizer, image_token)
        self.video_token_id = placeholder_id(tokenizer, video_token)
        kept = None if chat_template else keep_chat_template(tokenizer, self.placeholders, self.prompt_query_token)
        super().__init__(
            image_processor,
            tokenizer,
            video_processor,
            chat_template=chat_template or kept or self.design_chat_template(),
            **sub_processors,
        )

    def design_chat_template(self) -> str | None:
        """The chat template that is used if the tokenizer has none."""
        return self.default_chat_template

    @property
    def placeholders(self) -> dict[str, str]:
        """Maps a kind of media to its placeholder token."""
        return {"image": self.image_token, "video": self.video_token}

    @property
    def prompt_query_token(self) -> str | None:
        """The query token, which the chat template writes before an answer; `None` for designs without query tokens."""
        return None

    @property
    def model_input_names(self) -> list[str]:
        """Keys of a batch with text, images and videos. Serving engines and collators use this list."""
        return list(dict.fromkeys([*super().model_input_names, "mm_token_type_ids"]))

    def num_image_tokens(self) -> int:
        """Number of placeholders of one image."""
        raise NotImplementedError

    def num_video_tokens(self, num_frames: int) -> int:
        """Number of placeholders of one video of `num_frames` sampled frames."""
        raise NotImplementedError

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs: Any) -> str:
        return self.image_token * self.num_image_tokens()

    def replace_video_token(self, video_inputs: dict, video_idx: int, **kwargs: Any) -> str:
        return self.video_token * self.num_video_tokens(int(video_inputs["num_video_frames"][video_idx]))

    def prepare_inputs_layout(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **kwargs: Any
    ) -> tuple[Any, Any, Any, Any]:
        """Flatten nested lists of media; for a prompt without media, the entry may be an empty list or `None`.

        Raises:
            ValueError: the media are grouped by prompt, and the number of media of a prompt is not that of its
                placeholders.
        """
        rows = None if text is None else [text] if isinstance(text, str) else list(text)
        videos = in_rows(videos, None if rows is None else len(rows), is_single_video, "videos")
        images = in_rows(images, None if rows is None else len(rows), _is_single_image, "images")
        if rows is not None:
            if not rows:
                raise ValueError("text is an empty list: pass at least one prompt.")
            videos_per_row = media_per_row(videos, len(rows), is_single_video, _count_videos)
            images_per_row = media_per_row(images, len(rows), _is_single_image, len)
            _check_rows(rows, self.video_token, videos_per_row, "video")
            _check_rows(rows, self.image_token, images_per_row, "image")
        videos = flatten_videos(videos) if videos is not None else None
        images = _flat_images(images, **fetching(kwargs))
        return super().prepare_inputs_layout(images, text, videos or None, audio, **kwargs)

    def validate_inputs(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **kwargs: Any
    ) -> None:
        """Check that the prompts hold one placeholder per image and per video.

        Raises:
            ValueError: nothing was passed, or there are more or fewer placeholders than media; the message names both
                numbers.
        """
        if images is None and text is None and videos is None and audio is None:
            raise ValueError(f"{type(self).__name__} needs at least one of text, images, videos and audio.")
        if text is None:
            return
        if not all(isinstance(sample, str) for sample in text):
            raise ValueError("text must be a string or a list of strings.")
        num_images = 0 if images is None else len(make_flat_list_of_images(images))
        num_videos = 0 if videos is None else len(videos)
        kinds = [("image", self.image_token, num_images), ("video", self.video_token, num_videos)]
        if self.image_token == self.video_token:
            if num_images and num_videos:
                raise ValueError(
                    f"{self.image_token} is the placeholder of images and of videos in this checkpoint, so a batch "
                    "cannot hold both: process them separately, or use a checkpoint with two placeholders."
                )
            kinds = kinds[:1] if num_images else kinds[1:]
        for name, token, num_media in kinds:
            num_placeholders = sum(sample.count(token) for sample in text)
            if num_placeholders != num_media:
                raise ValueError(
                    f"The number of {token} tokens in the prompts should be the same as the number of {name}s passed: "
                    f"found {num_placeholders} {token} and {num_media} {name}s. Write {token} once for each {name}, "
                    f"where it belongs in the text.{'' if num_media else TRAINERS_HINT}"
                )

    def _process_videos(self, videos: Any, **kwargs: Any) -> tuple[BatchFeature, list[str]]:
        # transformers' method counts only videos of the types that it knows. Here, `videos` is always a flat list.
        processed = self.video_processor(videos, **kwargs)
        return processed, [self.replace_video_token(processed, index, **kwargs) for index in range(len(videos))]

    def collate(self, rows: Sequence[BatchFeature], padding_side: str | None = None) -> BatchFeature:
        """Join outputs of the processor (`return_tensors="pt"`) into one batch.

        Args:
            rows: the outputs. Each may hold any number of prompts and any media.
            padding_side: where shorter prompts are padded: `"left"` to generate, `"right"` to train; the side of the
                tokenizer if `None`.

        Returns:
            One batch, whose first key is `input_ids`. Prompts are padded to one length. Media are joined along their
            first dimension, in the order of the prompts, and padded along time.
        """
        keys = list(dict.fromkeys(key for row in rows for key in row))
        side = padding_side or self.tokenizer.padding_side
        batch = {}
        for key in sorted(keys, key=lambda name: name != "input_ids"):
            tensors = [row[key] for row in rows if key in row]
            if key in self.PROMPT_KEYS:
                batch[key] = _join_padded(tensors, self._padding_value(key), side)
            else:
                batch[key] = _join_padded(tensors, 0, "right")
        return BatchFeature(batch)

    def _padding_value(self, key: str) -> int:
        if key == "labels":
            return -100
        return (self.tokenizer.pad_token_id or 0) if key == "input_ids" else 0

    def _get_num_multimodal_tokens(
        self, image_sizes: list | None = None, video_sizes: list | None = None, **kwargs: Any
    ) -> MultiModalData:
        """Numbers of placeholders for serving engines, which need them before any pixels are processed.

        Args:
            image_sizes: (height, width) of each image.
            video_sizes: (num_frames, height, width) of each video.
        """
        data: dict[str, list[int]] = {}
        if image_sizes is not None:
            data["num_image_tokens"] = [self.num_image_tokens() for _ in image_sizes]
            data["num_image_patches"] = [1 for _ in image_sizes]
        if video_sizes is not None:
            data["num_video_tokens"] = [self.num_video_tokens(int(size[0])) for size in video_sizes]
        return MultiModalData(**data)


def write_replacements(text: str, entries: Sequence[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """Replace each placeholder in a prompt by as many placeholders as its medium has vectors.

    Args:
        text: the prompt.
        entries: the replacements as dicts in transformers' format: `span` is the position of the placeholder in the
            prompt, and `replacement` is the new text.

    Returns:
        The longer prompt; and copies of the entries, sorted by position, with `new_span`, the position in that prompt.
    """
    pieces: list[str] = []
    ordered = sorted((dict(entry) for entry in entries), key=lambda entry: entry["span"])
    last = length = 0
    for entry in ordered:
        start, end = entry["span"]
        pieces += [text[last:start], entry["replacement"]]
        length += start - last
        entry["new_span"] = (length, length + len(entry["replacement"]))
        last, length = end, entry["new_span"][1]
    return "".join([*pieces, text[last:]]), ordered


def placeholder_id(tokenizer: Any, token: str) -> int | None:
    """Token id of a placeholder; `None` if there is no tokenizer.

    Raises:
        ValueError: the tokenizer has no such token.
    """
    if tokenizer is None:
        return None
    token_id = tokenizer.convert_tokens_to_ids(token)
    if token_id is None or token_id == tokenizer.unk_token_id:
        raise ValueError(
            f"The tokenizer has no token {token!r}, which the prompts of this model need: "
            f"tokenizer.add_special_tokens({{'additional_special_tokens': [{token!r}]}}) adds it."
        )
    return token_id


def _join_padded(tensors: list[torch.Tensor], value: int, side: str) -> torch.Tensor:
    """Pad dimension 1 of all tensors to the longest, then concatenate them along dimension 0."""
    if len(tensors) == 1:
        # A copy would be expensive: the pixel values of one hour of video take 5 GB.
        return tensors[0]
    if tensors[0].ndim < 2:
        return torch.cat(tensors)
    longest = max(tensor.shape[1] for tensor in tensors)
    padded = []
    for tensor in tensors:
        missing = tensor.new_full((tensor.shape[0], longest - tensor.shape[1], *tensor.shape[2:]), value)
        padded.append(torch.cat([missing, tensor] if side == "left" else [tensor, missing], dim=1))
    return torch.cat(padded)


def fetching(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The options `allowed_hosts` and `timeout` of a call, passed directly or inside `videos_kwargs`."""
    options = {**(kwargs.get("videos_kwargs") or {}), **kwargs}
    return {"allowed_hosts": tuple(host_names(options.get("allowed_hosts"))), "timeout": options.get("timeout")}


def _is_single_image(images: Any) -> bool:
    return not isinstance(images, list | tuple)


def _count_videos(videos: Any) -> int:
    return len(flatten_videos(videos))


def _check_rows(rows: Sequence[str], token: str, per_row: list[int] | None, kind: str) -> None:
    for index, (row, num_media) in enumerate(zip(rows, per_row or [], strict=False)):
        if row.count(token) != num_media:
            raise ValueError(
                f"Prompt {index} holds {row.count(token)} {token} placeholders, but {num_media} {kind}s were passed "
                f"for it: write {token} once for each {kind}, where it belongs in the text."
            )


def _flat_images(images: Any, **how: Any) -> Any:
    """Read the images and remove the empty entries of prompts without images; `None` if no image remains."""
    if is_column(images):
        images = list(images)
    if not isinstance(images, list | tuple):
        return None if images is None else fetch_image(images, **how)
    flat = [_flat_images(image, **how) for image in images]
    return [image for image in flat if image is not None] or None


def fetch_image(image: Any, allowed_hosts: Sequence[str] = (), timeout: float | None = None) -> Any:
    """Read an image from a path, address, data URL, bytes or file, with the same limits as for videos.

    Args:
        image: the image. It may also be an array, which is returned unchanged, or a value of an image column of
            `datasets`. An opened PIL image is rotated by its EXIF data. It keeps its mode if that has 8 bits per
            channel, because image processors convert these modes themselves.
        allowed_hosts: hosts that http(s) addresses may name; none by default.
        timeout: seconds that reading may take; `None` uses the default of `MediaLimits`.

    Raises:
        UnsafeURL: the host is not allowed.
        MediaError: the file cannot be read; the message names it.
    """
    image = stored_media(image)
    if isinstance(image, dict):
        raise UnsupportedMedia(
            f"Cannot read an image from a dict with the keys {sorted(map(str, image))}: give 'path' or 'bytes'."
        )
    if isinstance(image, Image.Image):
        return shown_picture(image)
    if not (isinstance(image, str | os.PathLike | bytes | bytearray | memoryview) or hasattr(image, "read")):
        return image
    if isinstance(image, str) and image.startswith(BASE64_HEADS) and not os.path.exists(image):
        image = f"data:image;base64,{image}"
    limits = MediaLimits() if timeout is None else MediaLimits(timeout=timeout)
    return load_picture(image, limits, Deadline(limits.timeout), allowed_hosts)


__all__ = [
    "VideoLlmProcessor",
    "VideoLlmProcessorKwargs",
    "fetch_image",
    "fetching",
    "placeholder_id",
    "write_replacements",
]
