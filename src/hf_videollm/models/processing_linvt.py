"""Processor of LinVT: it runs the image-LLM's own processor and adds videos.

prompt, images -> the image-LLM's own processor, plus the placeholders of videos  (`linvt_prompts.py`)
videos         -> frames                                                  (`video_processing_linvt.py`)
frames         -> the image-LLM's own image processor                     (`linvt_frames.py`)
question       -> its token ids, which LinVT reads with the video         (`linvt_prompts.py`)
"""

import inspect
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature, ProcessorMixin
from transformers.processing_utils import MultiModalData

from .configuration_linvt import LinVTConfig, check_module_options
from .linvt_batches import join_rows, with_video_keys
from .linvt_frames import frame_inputs
from .linvt_image_llm import MediaTokens, check_image_llm_processor, load_image_llm, make_image_llm_processor
from .linvt_prompts import (
    MARKED,
    ChatMedia,
    PlaceholderWriter,
    check_num_videos,
    mark_videos,
    media_kinds,
    named_videos,
    question_inputs,
    question_of,
    refuse_written_videos,
    type_tokens,
    with_images,
)
from .media_video_inputs import flatten_videos, is_single_video, media_per_row
from .processing_video_llm import VideoLlmProcessorKwargs, fetch_image, fetching
from .video_llm_chat_template import tag_chat_template
from .video_llm_checked_processor import PARTS, ChatCall, CheckedProcessor, in_rows, offsets_as_lists
from .video_llm_option_names import plain_type_errors
from .video_llm_trust import NoQuestionMixin
from .video_processing_linvt import LinVTVideoProcessor, VideoOptions
from .video_processing_video_llm import as_pixel_dtype

LinVTProcessorKwargs = VideoLlmProcessorKwargs


class LinVTProcessor(NoQuestionMixin, CheckedProcessor):
    """Makes model inputs for LinVT with any image-LLM.

    ```python
    >>> processor = LinVTProcessor.from_image_llm("llava-hf/llava-interleave-qwen-0.5b-hf")   # doctest: +SKIP
    >>> chat = [{"role": "user", "content": [{"type": "video", "path": "clip.mp4"},           # doctest: +SKIP
    ...                                      {"type": "text", "text": "What happens?"}]}]
    >>> inputs = processor.apply_chat_template(chat, tokenize=True, return_dict=True,         # doctest: +SKIP
    ...                                        add_generation_prompt=True, return_tensors="pt")

    ```

    A chat template writes a video as it writes an image. In a prompt of your own, write `processor.video_token` for
    each video, and pass the question of each prompt as `questions`.

    `apply_chat_template` finds the question on the videos: the user's first message with text, so the vectors of videos
    do not change when a conversation continues. With its option `recondition=True`, it is the last such message. The
    option `questions` replaces both.
    """

    # Tensors that are as long as the prompt. All other tensors belong to media or to questions.
    PROMPT_KEYS: ClassVar[tuple[str, ...]] = (
        "input_ids",
        "attention_mask",
        "token_type_ids",
        "mm_token_type_ids",
        "labels",
    )
    # Videos and images have the same placeholder, unless `video_token_id` names another one.
    PLACEHOLDERS: ClassVar[Mapping[str, str]] = {"image": "<image>"}
    EXACT_KEYS: ClassVar[tuple[str, ...]] = ("video_frame_times",)
    PROMPT_OPTIONS: ClassVar[tuple[str, ...]] = ("questions", "recondition")

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        video_processor: Any = None,
        image_llm_processor: Any = None,
        chat_template: str | dict[str, str] | None = None,
        image_llm_type: str = "llava",
        image_token_id: int | None = None,
        video_token_id: int | None = None,
        num_tokens_per_video: int = 112,
        recondition: bool = False,
        use_frame_times: bool = True,
    ) -> None:
        """Args:
        image_processor: image processor of the image-LLM.
        tokenizer: tokenizer of the image-LLM.
        video_processor: a `LinVTVideoProcessor`.
        image_llm_processor: processor of the image-LLM, or the dict of its options.
        chat_template: if `None`, that of the image-LLM with tags around the text that a model learns to write.
        image_llm_type: `model_type` of the image-LLM.
        image_token_id: id of the placeholder of one vector of an image; if `None`, the id that the processor of the
            image-LLM names.
        video_token_id: id of the placeholder of one vector of a video; if `None`, that of images.
        num_tokens_per_video: placeholders of a video, `linvt_config.num_output_tokens` of the model.
        recondition: LinVT weighs the tokens of videos by the last question of a conversation, not by the first.
        use_frame_times: give the model the time of each frame in seconds, if it is known. It is unknown for lists of
            pictures and for arrays without `video_metadata`; then the model gets the numbers of the frames. Use the
            same setting for training and for questions.

        Raises:
            ValueError: the processor of an image-LLM is missing, or the tokenizer cannot write the placeholder.
        """
        if not isinstance(image_llm_processor, ProcessorMixin):
            image_llm_processor = make_image_llm_processor(image_llm_processor, image_processor, tokenizer)
        self.image_llm_processor = image_llm_processor
        super().__init__(
            image_processor,
            tokenizer,
            video_processor,
            chat_template=chat_template or tag_chat_template(image_llm_processor),
        )
        self.image_llm_type = image_llm_type
        self.num_tokens_per_video = num_tokens_per_video
        self.recondition = recondition
        self.use_frame_times = use_frame_times
        tokens = MediaTokens.of(image_llm_processor, tokenizer, image_token_id, video_token_id)
        self.image_token, self.image_token_id = tokens.image_token, tokens.image_token_id
        self.video_token, self.video_token_id = tokens.video_token, tokens.video_token_id
        self._placeholder = tokens.video_placeholder

    @classmethod
    def from_image_llm(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        linvt_config: Any = None,
        image_token_id: int | None = None,
        video_token_id: int | None = None,
        num_frames: int = 16,
        chat_template: str | None = None,
        recondition: bool = False,
        use_frame_times: bool = True,
        **kwargs: Any,
    ) -> Self:
        """The processor for the model that `LinVTForCausalLM.from_image_llm` makes from the same arguments.

        Args:
            pretrained_model_name_or_path: checkpoint of an image-LLM with its processor.
            linvt_config: a `LinVTModuleConfig` or its dict; that of the paper if `None`.
            image_token_id: see `LinVTConfig`.
            video_token_id: see `LinVTConfig`.
            num_frames: frames sampled from a video if a call does not name a number.
            chat_template: replaces the image-LLM's chat template.
            recondition: see `__init__`.
            use_frame_times: see `__init__`.
            kwargs: options of `AutoProcessor.from_pretrained`.

        Raises:
            ValueError: the checkpoint has no processor for images and text, or is a video-LLM already; or
                `linvt_config` has an unknown option.
        """
        check_module_options(linvt_config)
        image_llm_config, image_llm_processor = load_image_llm(pretrained_model_name_or_path, kwargs)
        config = LinVTConfig(
            backbone_config=image_llm_config,
            linvt_config=linvt_config,
            image_token_id=image_token_id,
            video_token_id=video_token_id,
            num_frames=num_frames,
        )
        return cls.from_image_llm_processor(image_llm_processor, config, chat_template, recondition, use_frame_times)

    @classmethod
    def from_image_llm_processor(
        cls,
        image_llm_processor: Any,
        config: Any,
        chat_template: str | None = None,
        recondition: bool = False,
        use_frame_times: bool = True,
    ) -> Self:
        """The processor for a model of this configuration.

        Args:
            image_llm_processor: the processor of the image-LLM.
            config: a `LinVTConfig`.
            chat_template: replaces the image-LLM's chat template.
            recondition: see `__init__`.
            use_frame_times: see `__init__`.

        Raises:
            ValueError: the processor is not for images and text, or belongs to another image-LLM.
        """
        check_image_llm_processor(image_llm_processor, config.image_token_id)
        return cls(
            image_llm_processor.image_processor,
            image_llm_processor.tokenizer,
            LinVTVideoProcessor(num_frames=config.num_frames),
            image_llm_processor,
            chat_template=chat_template,
            image_llm_type=config.backbone_config.model_type,
            image_token_id=config.image_token_id,
            video_token_id=config.video_token_id,
            num_tokens_per_video=config.linvt_config.num_output_tokens,
            recondition=recondition,
            use_frame_times=use_frame_times,
        )

    @property
    def model_input_names(self) -> list[str]:
        """Keys of a batch with text, images and videos."""
        own = ["mm_token_type_ids", "num_video_frames", "video_frame_times"]
        own += ["question_input_ids", "question_attention_mask"]
        frames = [f"{name}_videos" for name in self.image_processor.model_input_names]
        return list(dict.fromkeys([*self.image_llm_processor.model_input_names, *frames, *own]))

    def option_groups(self) -> dict[str, set[str]]:
        """As in the base class, plus the options of the image-LLM's processor.

        Options for images also apply to the frames of videos.
        """
        groups = super().option_groups()
        inner = self.image_llm_processor.valid_processor_kwargs.__annotations__
        for group in ("text_kwargs", "images_kwargs"):
            groups[group] |= set(getattr(inner.get(group), "__annotations__", ()))
        groups["videos_kwargs"] |= groups["images_kwargs"]
        return groups

    def known_options(self) -> set[str]:
        """Names of all options of a call, including those of the image-LLM's processor."""
        inner = self.image_llm_processor
        names = {*inner.valid_processor_kwargs.__annotations__, *inspect.signature(inner.__call__).parameters}
        names -= {*PARTS, "images", "text", "videos", "audio", "args", "kwargs"}
        return super().known_options() | names | set(self.PROMPT_OPTIONS)

    def num_video_tokens(self, num_frames: int) -> int:
        """Number of placeholders of one video, which does not depend on its number of frames."""
        return self.num_tokens_per_video

    @plain_type_errors()
    def __call__(
        self,
        images: Any = None,
        text: Any = None,
        videos: Any = None,
        audio: Any = None,
        questions: Any = None,
        linvt_chat: ChatMedia | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Model inputs of one prompt or a batch of them.

        Args:
            images: images in the form that the image-LLM's processor takes.
            text: a prompt or a list of prompts, with the image-LLM's placeholder for each image and `video_token` for
                each video.
            videos: videos of all prompts in their order; see `media_video.load_video` for what a video may be.
            audio: skipped with a warning, because no image-LLM has an audio encoder.
            questions: the questions on the videos: one text for each prompt, `None` for a prompt without question. They
                are not read from the prompts. Without `questions`, videos are read without a question, and a warning
                says so. `questions=[None]` does the same without the warning. `apply_chat_template` finds the questions
                itself.
            linvt_chat: the media of conversations, which `apply_chat_template` passes.
            kwargs: options of the image-LLM's processor and of `LinVTVideoProcessorKwargs`. Options of the image
                processor (such as `size`) apply to images and frames; inside `videos_kwargs`, only to frames.

        Returns:
            Without videos, exactly the outputs of the image-LLM's processor. With videos also:
            `mm_token_type_ids`, 2 for videos;
            the outputs of the image processor for all frames, with `_videos` appended to each name;
            `num_video_frames`, `(videos,)` int64;
            `video_frame_times`, `(videos, largest number of frames)` float32, seconds or numbers of frames, padded
            with 0; missing if `use_frame_times` is false;
            `question_input_ids` and `question_attention_mask`, `(prompts, longest question)`, padded on the right.

        Raises:
            ValueError: the prompts hold more or fewer placeholders than there are media, or an option is unknown.
            MediaError: a video cannot be read; the message names it.
        """
        if images is None and text is None and videos is None and linvt_chat is None:
            raise ValueError(f"{type(self).__name__} needs at least one of text, images and videos.")
        self.check_options(kwargs)
        self.check_media(images, videos, audio, text)
        # This option only concerns `apply_chat_template`, which has read it already.
        kwargs.pop("recondition", None)
        images = _fetched(images, **fetching(kwargs))
        options = VideoOptions.take_from(kwargs, self.image_processor)
        if linvt_chat is not None:
            videos = linvt_chat.videos
        rows = None if text is None else [text] if isinstance(text, str) else list(text)
        videos = in_rows(videos, None if rows is None else len(rows), is_single_video, "videos")
        sources = [] if videos is None else flatten_videos(videos)
        if rows is not None:
            rows = self._mark(rows, videos, len(sources), None if linvt_chat is None else linvt_chat.kinds)
        if not sources:
            outputs = self.image_llm_processor(images=images, text=rows if isinstance(text, list) else text, **kwargs)
            return offsets_as_lists(outputs)

        frames, metadata = self._frames(sources, options)
        outputs = self._prompts(images, rows, kwargs)
        if (ids := outputs.get("input_ids")) is not None:
            if questions is None and linvt_chat is not None:
                questions = linvt_chat.questions
            outputs.update(question_inputs(self.tokenizer, questions, len(rows or ()), ids))
        outputs.update(frames)
        if options.reading.get("return_metadata"):
            outputs["video_metadata"] = metadata
        return offsets_as_lists(BatchFeature(outputs))

    def _mark(self, rows: list[str], videos: Any, num_videos: int, kinds: list[list[str]] | None) -> list[str]:
        """Replace the tokens of videos by marks (`mark_videos`), and check that there is one mark for each video."""
        marked = mark_videos(rows, self.video_token if kinds is None else self.image_token, kinds)
        per_row = None if videos is None else media_per_row(videos, len(rows), is_single_video, _count_videos)
        check_num_videos(marked, num_videos, per_row, self.video_token)
        if kinds is not None and self.video_token != self.image_token:
            refuse_written_videos(marked, self.video_token)
        return marked

    def _frames(self, sources: list[Any], options: VideoOptions) -> tuple[dict[str, torch.Tensor], list[Any]]:
        """Outputs of the image processor for the frames of videos, and the metadata of the videos."""
        frame_options = options.of_frames()
        clips = self.video_processor.read_frames(sources, **options.of_reading())
        pictures = [list(clip.frames) for clip in clips]
        pixel_dtype = as_pixel_dtype(options.reading.get("pixel_dtype"))
        frames = frame_inputs(self.image_processor, self.image_llm_type, pictures, pixel_dtype, **frame_options)
        if self.use_frame_times:
            times_or_numbers = [list(clip.times or range(len(clip.frames))) for clip in clips]
            times = [torch.tensor(row, dtype=torch.float32) for row in times_or_numbers]
            frames["video_frame_times"] = pad_sequence(times, batch_first=True)
        return frames, [clip.metadata for clip in clips]

    def _prompts(self, images: Any, rows: list[str] | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Outputs of the image-LLM's processor for marked prompts and their images, with the types of tokens."""
        if rows is None:
            return {} if images is None else dict(self.image_llm_processor(images=images, **kwargs))
        wants_offsets = kwargs.pop("return_text_replacement_offsets", None)
        writer = PlaceholderWriter(self.image_llm_processor, rows, self._placeholder, self.num_tokens_per_video)
        outputs = dict(writer.processor(images=images, text=rows, **kwargs))
        for offsets in writer.offsets:
            for entry in offsets:
                if entry["type"] == "video":
                    entry["text"] = self.video_token
        outputs["mm_token_type_ids"] = type_tokens(
            outputs, writer.offsets, self._placeholder, self.image_token_id, self.video_token_id
        )
        if wants_offsets:
            outputs["text_replacement_offsets"] = writer.offsets
        return outputs

    def prepare_chats(self, call: ChatCall) -> None:
        """As in the base class. For each video, the template gets an image block, and so writes the token of images."""
        recondition = call.options.pop("recondition", None)
        recondition = self.recondition if recondition is None else recondition
        super().prepare_chats(call)
        # The videos are collected here, because the blocks of the template name none.
        call.options["linvt_chat"] = ChatMedia(
            [media_kinds(chat) for chat in call.chats],
            [named_videos(chat) for chat in call.chats],
            [question_of(chat, recondition) for chat in call.chats],
        )
        call.chats = [[with_images(message) for message in chat] for chat in call.chats]

    def finish_prompts(self, prompts: list[str], call: ChatCall) -> list[str]:
        """Write the token of videos where the template wrote that of images for a video."""
        kinds = call.options["linvt_chat"].kinds
        count = sum(row.count("video") for row in kinds)
        if not count:
            return prompts
        return [MARKED.sub(lambda _: self.video_token, row) for row in self._mark(prompts, None, count, kinds)]

    def question_inputs(self, chat: Sequence[Mapping[str, Any]], recondition: bool | None = None) -> dict[str, Any]:
        """The question on the videos of a conversation, as a call of this processor returns it."""
        question = question_of(chat, self.recondition if recondition is None else recondition)
        return question_inputs(self.tokenizer, [question], 1, torch.zeros(1, 1, dtype=torch.long))

    def collate(self, rows: Sequence[BatchFeature], padding_side: str | None = None) -> BatchFeature:
        """Join outputs of the processor (`return_tensors="pt"`) into one batch.

        Args:
            rows: each of any number of prompts, with any media.
            padding_side: where shorter prompts are padded: `"left"` to generate, `"right"` to train; the tokenizer's
                own side if `None`.

        Returns:
            The batch, whose first key is `input_ids`. Prompts are padded along their length. Media are joined along
            their first dimension and padded at the end of their other dimensions, as transformers pads images.
        """
        side = padding_side or self.tokenizer.padding_side
        keys = list(dict.fromkeys(key for row in rows for key in row))
        has_videos = "num_video_frames" in keys
        rows = [with_video_keys(row, self.image_token_id) for row in rows] if has_videos else list(rows)
        return BatchFeature(join_rows(rows, self.PROMPT_KEYS, self.tokenizer.pad_token_id or 0, side))

    def to_dict(self) -> dict[str, Any]:
        output = super().to_dict()
        # `shared` is saved elsewhere: the image processor as a separate entry, the chat template in a separate file.
        inner = self.image_llm_processor.to_dict()
        shared = ("image_processor", "tokenizer", "chat_template", "auto_map")
        output["image_llm_processor"] = {name: value for name, value in inner.items() if name not in shared}
        return output

    def post_process_image_text_to_text(self, *args: Any, **kwargs: Any) -> list[str]:
        """Call this method of the image-LLM's processor."""
        return self.image_llm_processor.post_process_image_text_to_text(*args, **kwargs)

    def _get_num_multimodal_tokens(
        self, image_sizes: list | None = None, video_sizes: list | None = None, **kwargs: Any
    ) -> MultiModalData:
        """Numbers of placeholders, for serving engines. The image-LLM's processor computes those of images."""
        data = MultiModalData()
        if image_sizes is not None:
            data = self.image_llm_processor._get_num_multimodal_tokens(image_sizes, **kwargs)
        if video_sizes is not None:
            data.num_video_tokens = [self.num_tokens_per_video] * len(video_sizes)
        return data


def _fetched(images: Any, **how: Any) -> Any:
    """Read images that are files or addresses, by the rules for videos; the nesting of lists does not change."""
    if isinstance(images, list | tuple):
        return [_fetched(image, **how) for image in images]
    return fetch_image(images, **how)


def _count_videos(videos: Any) -> int:
    return len(flatten_videos(videos))


__all__ = ["LinVTProcessor", "LinVTProcessorKwargs", "make_image_llm_processor"]
