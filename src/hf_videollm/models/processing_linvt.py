"""Processor of LinVT: the image-LLM's own processor, and videos.

Prompts and images are the business of the image-LLM's processor. Where a prompt has a video, this processor writes the
placeholders of its vectors, and beside the prompt it gives the user's question, which LinVT reads with the video.
"""

import inspect
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoProcessor, BatchFeature, ProcessorMixin
from transformers.image_utils import ChannelDimension
from transformers.processing_utils import ImagesKwargs, MultiModalData, ProcessingKwargs

from .configuration_linvt import LinVTConfig, check_module_options
from .errors import warn_caller
from .linvt_backbones import watches_videos
from .linvt_batches import join_rows
from .linvt_frames import frame_inputs
from .linvt_image_llm import make_image_llm_processor
from .linvt_prompts import (
    MARK,
    MARKED,
    MORE_MARK,
    ChatMedia,
    PlaceholderWriter,
    media_kinds,
    named_videos,
    question_of,
    with_images,
)
from .media_video_inputs import flatten_videos, is_single_video, media_per_row
from .processing_video_llm import fetch_image, fetching
from .transformers_compat import add_defaults
from .video_llm_chat_template import tag_chat_template
from .video_llm_checked_processor import PARTS, CheckedProcessor, in_rows
from .video_llm_messages import read_chats
from .video_llm_option_names import plain_type_errors
from .video_llm_trust import NoQuestionMixin
from .video_processing_linvt import LinVTVideoProcessor, LinVTVideoProcessorKwargs

# Options of reading videos; all others of `videos_kwargs` are for the image processor, when it is given frames.
VIDEO_OPTIONS = set(LinVTVideoProcessorKwargs.__annotations__) - set(ImagesKwargs.__annotations__)
# Not for frames, whatever is asked of images.
NO_FRAME_OPTIONS = {"return_tensors", "device", "data_format", "input_data_format", "sanitize_control_tokens"}


@add_defaults
class LinVTProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg]
    """Keyword arguments of LinVT's processor, besides those of the image-LLM's."""

    videos_kwargs: LinVTVideoProcessorKwargs


class LinVTProcessor(NoQuestionMixin, CheckedProcessor):
    """Makes model inputs for LinVT before any image-LLM.

    ```python
    >>> processor = LinVTProcessor.from_image_llm("llava-hf/llava-interleave-qwen-0.5b-hf")   # doctest: +SKIP
    >>> chat = [{"role": "user", "content": [{"type": "video", "path": "clip.mp4"},           # doctest: +SKIP
    ...                                      {"type": "text", "text": "What happens?"}]}]
    >>> inputs = processor.apply_chat_template(chat, tokenize=True, return_dict=True,         # doctest: +SKIP
    ...                                        add_generation_prompt=True, return_tensors="pt")

    ```

    A chat template writes a video as it writes an image. In a prompt of your own, `processor.video_token` stands where
    the video belongs, and `questions` says what is asked.
    """

    valid_processor_kwargs = LinVTProcessorKwargs
    # Tensors as long as the prompt; all others belong to media, or to questions.
    PROMPT_KEYS: ClassVar[tuple[str, ...]] = (
        "input_ids",
        "attention_mask",
        "token_type_ids",
        "mm_token_type_ids",
        "labels",
    )
    # Tensors whose numbers a lower precision would spoil.
    EXACT_KEYS: ClassVar[tuple[str, ...]] = ("video_frame_times",)
    # What a pipeline call may pass to this processor, besides the options of videos.
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
        image_processor: that of the image-LLM.
        tokenizer: that of the image-LLM.
        video_processor: a `LinVTVideoProcessor`.
        image_llm_processor: the processor of the image-LLM, or the dict of its options.
        chat_template: if `None` that of the image-LLM, which gets tags around what a model learns to write.
        image_llm_type: `model_type` of the image-LLM.
        image_token_id: id of the placeholder of one vector of an image; what that processor says, if `None`.
        video_token_id: id of the placeholder of one vector of a video; by default that of images.
        num_tokens_per_video: placeholders of a video, `linvt_config.num_output_tokens` of the model.
        recondition: the question that videos are read for is the last one of a conversation, instead of the first.
        use_frame_times: tell the model the second of each frame, where it is known. Else, and where it is not (lists
            of pictures, arrays without `video_metadata`), frames are numbered; train and ask in the same way.

        Raises:
            ValueError: no processor of an image-LLM; or a placeholder that the tokenizer cannot write.
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
        self.image_token = image_llm_processor.image_token
        # Some processors write other tokens than the one that marks the place.
        written = getattr(image_llm_processor, "image_token_id", None)
        written = tokenizer.convert_tokens_to_ids(self.image_token) if written is None else written
        self.image_token_id = written if image_token_id is None else image_token_id
        self.video_token_id = self.image_token_id if video_token_id is None else video_token_id
        self._placeholder = tokenizer.convert_ids_to_tokens(self.video_token_id)
        if self._placeholder is None or tokenizer.convert_tokens_to_ids(self._placeholder) != self.video_token_id:
            raise ValueError(
                f"The tokenizer has no token of id {self.video_token_id}, the placeholder of videos: leave "
                "video_token_id out for that of images, or add a token and name its id."
            )
        # How a prompt says that a video is here. Where images have the same placeholder, in other words.
        shared = self.video_token_id == self.image_token_id
        self.video_token = ("<video>" if self.image_token != "<video>" else "<clip>") if shared else self._placeholder

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
        """The processor for what `LinVTForCausalLM.from_image_llm` makes of the same checkpoint and arguments.

        Args:
            pretrained_model_name_or_path: checkpoint of an image-LLM with its processor.
            linvt_config: the module, a `LinVTModuleConfig` or its dict; that of the paper if `None`.
            image_token_id: see `LinVTConfig`.
            video_token_id: see `LinVTConfig`.
            num_frames: sampled of a video, where a call does not say.
            chat_template: instead of the image-LLM's own.
            recondition: see `__init__`.
            use_frame_times: see `__init__`.
            kwargs: options of `AutoProcessor.from_pretrained`.

        Raises:
            ValueError: the checkpoint has no processor for images and text, or is a video-LLM already; or an unknown
                option of the module.
        """
        check_module_options(linvt_config)
        hub = {name: kwargs[name] for name in ("revision", "token", "cache_dir", "local_files_only") if name in kwargs}
        backbone = AutoConfig.from_pretrained(
            pretrained_model_name_or_path, trust_remote_code=bool(kwargs.get("trust_remote_code")), **hub
        )
        if watches_videos(backbone):
            raise ValueError(
                f"{pretrained_model_name_or_path} is a video-LLM already ({backbone.model_type}): load its processor "
                "with AutoProcessor.from_pretrained, or take an image-LLM."
            )
        kwargs["trust_remote_code"] = bool(kwargs.get("trust_remote_code"))
        inner = AutoProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs)
        config = LinVTConfig(
            backbone_config=backbone,
            linvt_config=linvt_config,
            image_token_id=image_token_id,
            video_token_id=video_token_id,
            num_frames=num_frames,
        )
        return cls.from_image_llm_processor(inner, config, chat_template, recondition, use_frame_times)

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
            chat_template: instead of the image-LLM's own.
            recondition: see `__init__`.
            use_frame_times: see `__init__`.

        Raises:
            ValueError: the processor is none for images and text, or belongs to another image-LLM.
        """
        name = type(image_llm_processor).__name__
        if not hasattr(image_llm_processor, "image_processor") or not hasattr(image_llm_processor, "image_token"):
            raise ValueError(
                f"{name} is no processor for images and text: save that of the image-LLM beside its weights."
            )
        tokenizer = image_llm_processor.tokenizer
        written = {getattr(image_llm_processor, "image_token_id", None), getattr(tokenizer, "image_token_id", None)}
        written |= {tokenizer.convert_tokens_to_ids(image_llm_processor.image_token)}
        written |= set(getattr(image_llm_processor, "image_token_ids", ()))
        if config.image_token_id not in written:
            raise ValueError(
                f"{name} writes {image_llm_processor.image_token} for images, which is not id {config.image_token_id} "
                "that the image-LLM reads: take the processor that belongs to it, or pass image_token_id."
            )
        return cls(
            image_llm_processor.image_processor,
            tokenizer,
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
        """As in the base, with those of the image-LLM; frames take what its image processor takes."""
        groups = super().option_groups()
        inner = self.image_llm_processor.valid_processor_kwargs.__annotations__
        for group in ("text_kwargs", "images_kwargs"):
            groups[group] |= set(getattr(inner.get(group), "__annotations__", ()))
        groups["videos_kwargs"] |= groups["images_kwargs"]
        return groups

    def known_options(self) -> set[str]:
        """Names of all options of a call, those of the image-LLM's processor among them."""
        inner = self.image_llm_processor
        names = {*inner.valid_processor_kwargs.__annotations__, *inspect.signature(inner.__call__).parameters}
        names -= {*PARTS, "images", "text", "videos", "audio", "args", "kwargs"}
        return super().known_options() | names | set(self.PROMPT_OPTIONS)

    def num_video_tokens(self, num_frames: int) -> int:
        """Placeholders of one video, however many frames it has."""
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
            images: as the image-LLM's processor takes them.
            text: a prompt or a list of prompts, with the image-LLM's placeholder for each image and `video_token` for
                each video.
            videos: videos of all prompts in their order; see `media_video.load_video` for what a video may be.
            audio: left out with a warning, as none of the image-LLMs hears.
            questions: what is asked of the videos: one string for each prompt, `None` where nothing is. Prompts do not
                tell: with videos and without questions LinVT reads the videos for no question in particular, which is
                not what it does in a chat. A warning says so; `questions=[None]` says that it is meant.
            linvt_chat: from `apply_chat_template`.
            kwargs: options of the image-LLM's processor, and those of `LinVTVideoProcessorKwargs`. What the image
                processor knows (as `size`) holds for images and frames, and in `videos_kwargs` for frames alone.

        Returns:
            Without videos, exactly what the image-LLM's processor gives. With videos also `mm_token_type_ids` (2 for
            videos), what the image processor gives for all frames, each name with `_videos` behind it,
            `num_video_frames` `(videos,)` int64, `video_frame_times` `(videos, longest)` float32 in seconds, padded
            with 0 (unless `use_frame_times` is off; numbers of frames where no times are known), and
            `question_input_ids` and `question_attention_mask` `(prompts, longest question)`, padded on the right.

        Raises:
            ValueError: the prompts hold more or fewer placeholders than there are media; options that mean nothing.
            MediaError: a video cannot be read; the message names it.
        """
        if images is None and text is None and videos is None and linvt_chat is None:
            raise ValueError(f"{type(self).__name__} needs at least one of text, images and videos.")
        self.check_options(kwargs)
        self.check_media(images, videos, audio)
        # Which question counts is known by the conversation.
        kwargs.pop("recondition", None)
        how = fetching(kwargs)
        video_options, frame_options = self._options_of_videos(kwargs)
        images = _fetched(images, **how)
        if linvt_chat is not None:
            videos = linvt_chat.videos
        rows = None if text is None else [text] if isinstance(text, str) else list(text)
        videos = in_rows(videos, None if rows is None else len(rows), is_single_video, "videos")
        sources = [] if videos is None else flatten_videos(videos)
        if rows is not None:
            rows = self._marked_rows(rows, videos, len(sources), None if linvt_chat is None else linvt_chat.kinds)
        if not sources:
            return self.image_llm_processor(images=images, text=rows if isinstance(text, list) else text, **kwargs)

        frames, metadata = self._frames(sources, video_options, frame_options)
        outputs = self._prompts(images, rows, kwargs)
        ids = outputs.get("input_ids")
        if ids is not None:
            found = questions if questions is not None or linvt_chat is None else linvt_chat.questions
            outputs.update(self._question_inputs(found, len(rows or ()), ids))
        outputs.update(frames)
        if video_options.get("return_metadata"):
            outputs["video_metadata"] = metadata
        return BatchFeature(outputs)

    def _marked_rows(self, rows: list[str], videos: Any, num_videos: int, kinds: list[list[str]] | None) -> list[str]:
        """The prompts with marks where videos are, each as long as what it stands for, so that places stay right.

        Raises:
            ValueError: not as many places as media.
        """
        token = self.video_token if kinds is None else self.image_token
        marked = []
        for index, row in enumerate(rows):
            if MARK in row or MORE_MARK in row:
                raise ValueError(f"Prompt {index} holds the noncharacter U+FDD0 or U+FDD1: remove it.")
            parts = row.split(token)
            if kinds is not None and len(parts) - 1 != len(kinds[index]):
                raise ValueError(
                    f"The chat template wrote {len(parts) - 1} {token} for {len(kinds[index])} images and videos of "
                    f"conversation {index}: take {token} out of the texts of its messages if it stands there, or pass "
                    "a chat_template that writes one for each."
                )
            mark = MARK + MORE_MARK * (len(token) - 1)
            are_videos = [True] * (len(parts) - 1) if kinds is None else [kind == "video" for kind in kinds[index]]
            joints = [mark if is_video else token for is_video in are_videos]
            marked.append("".join(part + joint for part, joint in zip(parts, [*joints, ""], strict=True)))
        places = [len(MARKED.findall(row)) for row in marked]
        per_row = None if videos is None else media_per_row(videos, len(rows), is_single_video, _count_videos)
        if sum(places) != num_videos or (per_row is not None and per_row != places):
            raise ValueError(
                f"The prompts hold {places} places of videos, but {per_row or num_videos} videos were passed: write "
                f"{self.video_token} once for each video, where it belongs in the text."
            )
        return marked

    def _options_of_videos(self, kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Options of reading videos, which are taken out of `kwargs`, and of the image processor for frames.

        Raises:
            ValueError: an option was passed twice.
        """
        nested = dict(kwargs.pop("videos_kwargs", None) or {})
        if twice := sorted(set(nested) & set(kwargs)):
            raise ValueError(f"{', '.join(twice)} was passed twice, by itself and in videos_kwargs: leave one out.")
        reading = {name: kwargs.pop(name) for name in VIDEO_OPTIONS & set(kwargs)}
        reading.update({name: nested.pop(name) for name in VIDEO_OPTIONS & set(nested)})
        valid = set(ImagesKwargs.__annotations__)
        valid |= set(getattr(getattr(self.image_processor, "valid_kwargs", None), "__annotations__", {}))
        frames = {**{name: kwargs[name] for name in valid & set(kwargs)}, **nested}
        return reading, frames

    def _frames(
        self, sources: list[Any], options: dict[str, Any], frame_options: dict[str, Any]
    ) -> tuple[dict[str, torch.Tensor], list[Any]]:
        """What the image processor makes of the frames, and what is known of the videos."""
        options = {name: value for name, value in options.items() if name != "return_metadata"}
        options["input_data_format"] = frame_options.get("input_data_format")
        if frame_options.get("data_format") not in (None, "channels_first", ChannelDimension.FIRST):
            raise ValueError(f"data_format={frame_options['data_format']!r} cannot be had of frames: leave it out.")
        frame_options = {name: value for name, value in frame_options.items() if name not in NO_FRAME_OPTIONS}
        clips = self.video_processor.read_frames(sources, **options)
        pictures = [list(clip.frames) for clip in clips]
        frames = frame_inputs(self.image_processor, self.image_llm_type, pictures, **frame_options)
        if self.use_frame_times:
            counted = [clip.times or range(len(clip.frames)) for clip in clips]
            times = [torch.tensor(list(row), dtype=torch.float32) for row in counted]
            frames["video_frame_times"] = pad_sequence(times, batch_first=True)
        return frames, [clip.metadata for clip in clips]

    def _prompts(self, images: Any, rows: list[str] | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        """What the image-LLM's processor gives for marked prompts and their images, with the types of tokens."""
        if rows is None:
            return {} if images is None else dict(self.image_llm_processor(images=images, **kwargs))
        wants_offsets = kwargs.pop("return_text_replacement_offsets", None)
        writer = PlaceholderWriter(self.image_llm_processor, rows, self._placeholder, self.num_tokens_per_video)
        outputs = dict(writer.processor(images=images, text=rows, **kwargs))
        for offsets in writer.offsets:
            for entry in offsets:
                if entry["type"] == "video":
                    entry["text"] = self.video_token
        outputs["mm_token_type_ids"] = self._token_types(outputs, writer.offsets)
        if wants_offsets:
            outputs["text_replacement_offsets"] = writer.offsets
        return outputs

    def _token_types(self, outputs: dict[str, Any], offsets: list[list[dict[str, Any]]]) -> Any:
        """2 for videos; else as the image-LLM's processor says, or 1 for placeholders of images if it says nothing.

        Raises:
            ValueError: placeholders were cut off.
        """
        ids = outputs["input_ids"]
        known = outputs.get("mm_token_type_ids")
        types = []
        for index, row in enumerate(ids):
            row = _array(row)
            kinds = (row == self.image_token_id).astype(np.int64) if known is None else _array(known[index]).copy()
            # Placeholders in the order of the prompt, some of images if these have the same.
            expected = [
                2 if entry["type"] == "video" else 0
                for entry in offsets[index]
                for _ in range(entry["replacement"].count(self._placeholder))
            ]
            places = np.flatnonzero(row == self.video_token_id)
            if len(places) != len(expected):
                raise ValueError(
                    f"Prompt {index} should hold {len(expected)} placeholders and holds {len(places)}: leave "
                    "truncation off, or raise max_length."
                )
            kinds[places[np.array(expected, dtype=np.int64) == 2]] = 2
            types.append(kinds)
        return _like(ids, types)

    def _question_inputs(self, questions: Any, num_rows: int, ids: Any) -> dict[str, Any]:
        """Ids and mask of the questions, as tensors or lists as the prompts are."""
        if questions is None:
            warn_caller(
                "LinVT reads videos for a question, and was given none: pass questions=[...], one for each prompt, or "
                "use apply_chat_template, which finds it. questions=[None] says that there is none."
            )
            questions = [None] * num_rows
        questions = [questions] if isinstance(questions, str) else list(questions)
        if len(questions) != num_rows:
            raise ValueError(f"{len(questions)} questions for {num_rows} prompts: pass one for each.")
        rows = [
            self.tokenizer(question, add_special_tokens=False)["input_ids"] if question else []
            for question in questions
        ]
        length = max(1, *map(len, rows))
        padding = self.tokenizer.pad_token_id or 0
        return {
            "question_input_ids": _like(ids, [np.array(row + [padding] * (length - len(row))) for row in rows]),
            "question_attention_mask": _like(
                ids, [np.array([1] * len(row) + [0] * (length - len(row))) for row in rows]
            ),
        }

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        *args: Any,
        tokenize: bool = False,
        processor_kwargs: Mapping[str, Any] | None = None,
        recondition: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """As in transformers. The template sees an image where a video is, and so writes it like one.

        The question that videos are read for is the text of the first message of the user that has any, and with
        `recondition=True` of the last: with the first, what was computed for a conversation stays right when it goes
        on. `questions` in `processor_kwargs` says it instead.
        """
        rules = self.block_rules(chat_template)
        rendering, options = self.sort_options(kwargs, processor_kwargs, rules)
        conversations, is_batched = read_chats(conversation, rules)
        asked = options.pop("recondition", None)
        recondition = asked if recondition is None else recondition
        recondition = self.recondition if recondition is None else recondition
        if tokenize:
            conversations, options = self.tokenizing_options(conversations, options, rendering, rules)
        chat = ChatMedia(
            [media_kinds(chat) for chat in conversations],
            [named_videos(chat) for chat in conversations],
            [question_of(chat, recondition) for chat in conversations],
        )
        shown = [[with_images(message) for message in chat] for chat in conversations]
        if tokenize:
            options["linvt_chat"] = chat
        # Not the parent's, which would read the messages again, and miss the videos.
        prompts = super(CheckedProcessor, self).apply_chat_template(
            shown if is_batched else shown[0],
            chat_template,
            *args,
            tokenize=tokenize,
            processor_kwargs=options,
            **rendering,
        )
        count = sum(kinds.count("video") for kinds in chat.kinds)
        if tokenize or not count:
            return prompts
        rows = prompts if is_batched else [prompts]
        marked = self._marked_rows(rows, None, count, chat.kinds)
        written = [MARKED.sub(lambda _: self.video_token, row) for row in marked]
        return written if is_batched else written[0]

    def collate(self, rows: Sequence[BatchFeature], padding_side: str | None = None) -> BatchFeature:
        """Join outputs of the processor (`return_tensors="pt"`) into one batch.

        Args:
            rows: each of any number of prompts, with any media.
            padding_side: where shorter prompts are padded: `"left"` to generate, `"right"` to train; the tokenizer's
                own side when `None`.

        Returns:
            `input_ids` first; prompts padded along their length, media joined along their first dimension and padded
            at the end of the others, as the image processors of transformers do.
        """
        side = padding_side or self.tokenizer.padding_side
        keys = list(dict.fromkeys(key for row in rows for key in row))
        has_videos = "num_video_frames" in keys
        rows = [self._completed(row) for row in rows] if has_videos else list(rows)
        return BatchFeature(join_rows(rows, self.PROMPT_KEYS, self.tokenizer.pad_token_id or 0, side))

    def _completed(self, row: BatchFeature) -> dict[str, Any]:
        """Outputs without videos, for a batch that has some."""
        ids = row["input_ids"]
        none = ids.new_zeros((len(ids), 1))
        return {
            "mm_token_type_ids": (ids == self.image_token_id).long(),
            "question_input_ids": none,
            "question_attention_mask": none,
            **row,
        }

    def to_dict(self) -> dict[str, Any]:
        output = super().to_dict()
        # The image processor stands in a place of its own, and the chat template in a file.
        inner = self.image_llm_processor.to_dict()
        shared = ("image_processor", "tokenizer", "chat_template", "auto_map")
        output["image_llm_processor"] = {name: value for name, value in inner.items() if name not in shared}
        return output

    def post_process_image_text_to_text(self, *args: Any, **kwargs: Any) -> list[str]:
        """As the image-LLM's processor."""
        return self.image_llm_processor.post_process_image_text_to_text(*args, **kwargs)

    def _get_num_multimodal_tokens(
        self, image_sizes: list | None = None, video_sizes: list | None = None, **kwargs: Any
    ) -> MultiModalData:
        """Placeholder counts for serving engines; of images, as the image-LLM's processor counts them."""
        data = MultiModalData()
        if image_sizes is not None:
            data = self.image_llm_processor._get_num_multimodal_tokens(image_sizes, **kwargs)
        if video_sizes is not None:
            data.num_video_tokens = [self.num_tokens_per_video] * len(video_sizes)
        return data


def _fetched(images: Any, **how: Any) -> Any:
    """The same images, nested as they were, those in files and at addresses read by the rules of videos."""
    if isinstance(images, list | tuple):
        return [_fetched(image, **how) for image in images]
    return fetch_image(images, **how)


def _count_videos(videos: Any) -> int:
    return len(flatten_videos(videos))


def _array(row: Any) -> np.ndarray:
    return row.numpy() if isinstance(row, torch.Tensor) else np.asarray(row)


def _like(ids: Any, rows: list[np.ndarray]) -> Any:
    """Rows as a tensor, an array or lists, as the ids of the prompts are."""
    if isinstance(ids, torch.Tensor):
        return torch.from_numpy(np.stack(rows)).to(ids)
    return np.stack(rows) if isinstance(ids, np.ndarray) else [row.tolist() for row in rows]


__all__ = ["LinVTProcessor", "LinVTProcessorKwargs", "make_image_llm_processor"]
