"""What the processors of all designs refuse: unknown options, empty lists, and messages that would be read in part."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import BatchFeature, ProcessorMixin

from .errors import warn_caller
from .video_llm_chat_template import KEPT_TEMPLATE
from .video_llm_chat_variables import template_of, template_variables
from .video_llm_contract import ProcessorContract
from .video_llm_messages import BlockRules, media_blocks, read_chats, source_of, take_video_options
from .video_llm_option_names import plain_type_errors, refuse_unknown

# Where transformers keeps the part that a group of options is for.
PARTS = {
    "text_kwargs": "tokenizer",
    "images_kwargs": "image_processor",
    "videos_kwargs": "video_processor",
    "audio_kwargs": "feature_extractor",
}
# Options of `apply_chat_template` itself.
RENDERING = frozenset(inspect.signature(ProcessorMixin.apply_chat_template).parameters) - {"self", "kwargs"}


class CheckedProcessor(ProcessorContract, ProcessorMixin):
    """A processor that leaves nothing out in silence.

    transformers logs an option that it does not know and goes on without it, and passes over keys of a message that
    it does not read; here both are errors that name the nearest known word.
    """

    def __call__(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **kwargs: Any
    ) -> BatchFeature:
        """As in transformers.

        Raises:
            TypeError: an option that no part of this processor knows, or of a wrong type.
            ValueError: an empty list of media.
        """
        self.check_options(kwargs)
        self.check_media(images, videos, audio)
        with plain_type_errors():
            return super().__call__(images=images, text=text, videos=videos, audio=audio, **kwargs)

    def check_media(self, images: Any, videos: Any, audio: Any) -> None:
        """Refuse empty lists, and warn of sounds where nobody hears: processors of transformers take every modality.

        Raises:
            ValueError: the argument is named.
        """
        refuse_empty(images=images, videos=videos, audio=audio)
        if audio is not None and not self.takes_audio:
            warn_caller(f"{type(self).__name__} cannot hear: the audio is left out.")

    def option_groups(self) -> dict[str, set[str]]:
        """Names of the options of each part that this processor has, by their group (`videos_kwargs`, ...)."""
        annotations = self.valid_processor_kwargs.__annotations__
        groups = {}
        for group, part_name in PARTS.items():
            part = getattr(self, part_name, None)
            if part is not None or group == "text_kwargs":
                groups[group] = _names(annotations.get(group)) | _names(getattr(part, "valid_kwargs", None))
        return groups

    def known_options(self) -> set[str]:
        """Names of all options of a call."""
        groups = self.option_groups()
        flat = set(self.valid_processor_kwargs.__annotations__) - set(PARTS)
        return flat.union(*groups.values(), groups, ("common_kwargs",))

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Refuse options that nobody knows, also those inside of groups.

        Raises:
            TypeError: the option and the nearest known one are named.
        """
        name, groups = type(self).__name__, self.option_groups()
        refuse_unknown(options, self.known_options(), name)
        for group, known in groups.items():
            refuse_unknown(options.get(group) or (), known, f"{name} in {group}")
        annotations = self.valid_processor_kwargs.__annotations__
        # transformers hands these to every part, also to those that a design lacks.
        common = set.intersection(*(groups.get(group) or _names(annotations.get(group)) for group in PARTS))
        for option in set(options.get("common_kwargs") or ()) - common:
            if places := [group for group, known in groups.items() if option in known]:
                raise TypeError(
                    f"{name} has no option {option!r} in common_kwargs, which hold for every part: pass it in "
                    f"{' or '.join(places)}, or by itself."
                )
        refuse_unknown(options.get("common_kwargs") or (), common, f"{name} in common_kwargs")

    def block_rules(self, chat_template: Any = None) -> BlockRules:
        """What this processor understands in messages."""
        options = {"video": self.video_processor.CLIP_OPTIONS if self.reads_videos else ()}
        options["audio"] = self.SOUND_OPTIONS
        return BlockRules(options, self.known_options(), template_of(chat_template, self.chat_template))

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        *args: Any,
        tokenize: bool = False,
        processor_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """As in transformers.

        Blocks of OpenAI's form are read as ours. Options beside the name of a video (`start`, `end`, `num_frames`,
        `fps`, ..., also Qwen's `video_start`, `video_end`, `nframes`) hold for that video and go before those of the
        call. http(s) addresses are read under `allowed_hosts` of the call alone.

        Raises:
            TypeError: an option that nobody knows.
            ValueError: an unknown role, type or key in a message, or a block that names nothing.
        """
        rules = self.block_rules(chat_template)
        rendering, options = self.sort_options(kwargs, processor_kwargs, rules)
        chats, is_batched = read_chats(conversation, rules)
        if tokenize:
            chats, options = self.tokenizing_options(chats, options, rendering, rules)
        return super().apply_chat_template(
            chats if is_batched else chats[0],
            chat_template,
            *args,
            tokenize=tokenize,
            processor_kwargs=options,
            **rendering,
        )

    def sort_options(
        self, given: Mapping[str, Any], processor_kwargs: Mapping[str, Any] | None, rules: BlockRules
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Options of a call of `apply_chat_template`: for the template, and for this processor.

        Where both know a name, it is the processor's.

        Raises:
            TypeError: an option that neither knows, or that was passed in both places.
        """
        options = dict(processor_kwargs or {})
        rendering = {}
        known = self.known_options()
        variables = template_variables(rules.template) - known
        for name, value in given.items():
            if name in RENDERING or name in variables:
                rendering[name] = value
            elif name in options:
                raise TypeError(f"{name} was passed twice, by itself and in processor_kwargs: leave one out.")
            else:
                options[name] = value
        # transformers takes images here as well.
        checked = {name: value for name, value in options.items() if name != "images"}
        owner = f"{type(self).__name__} with this chat template"
        refuse_unknown(checked, known, owner, elsewhere=RENDERING | variables)
        self.check_options(checked)
        return rendering, options

    def tokenizing_options(
        self,
        chats: list[list[dict[str, Any]]],
        options: Mapping[str, Any],
        rendering: Mapping[str, Any],
        rules: BlockRules,
    ) -> tuple[list[list[dict[str, Any]]], dict[str, Any]]:
        """Messages and options for a prompt that becomes ids.

        With the language model's own template, special tokens are those that it writes, as in the
        `apply_chat_template` of the language model's tokenizer.
        """
        chats, options = self.with_video_options(chats, options)
        if str(rules.template).startswith(KEPT_TEMPLATE):
            options.setdefault("add_special_tokens", False)
        self._check_media(chats, options, rendering)
        return chats, options

    def with_video_options(
        self, chats: list[list[dict[str, Any]]], options: Mapping[str, Any]
    ) -> tuple[list[list[dict[str, Any]]], dict[str, Any]]:
        """The messages without options of videos, which stand among those of the call, one entry for each video."""
        names = self.video_processor.CLIP_OPTIONS if self.reads_videos else ()
        chats, found = take_video_options(chats, names)
        if found is None:
            return chats, dict(options)
        if "video_options" in options or "video_options" in (options.get("videos_kwargs") or {}):
            raise TypeError("video_options were passed beside those in the messages: leave one out.")
        return chats, {**options, "video_options": found}

    def _check_media(
        self, chats: list[list[dict[str, Any]]], options: Mapping[str, Any], rendering: Mapping[str, Any]
    ) -> None:
        """Refuse sounds that nobody hears, which transformers would download first, and blocks that name nothing."""
        if not self.takes_audio and (rendering.get("load_audio_from_video") or any(media_blocks(chats, "audio"))):
            raise ValueError(f"{type(self).__name__} cannot hear: leave the audio out of the messages.")
        for kind in ("video", "image", "audio"):
            if kind == "image" and "images" in options:
                continue
            if any(source_of(block) is None for block in media_blocks(chats, kind)):
                raise ValueError(
                    f"A block of type {kind} names no {kind}: give its path, url or {kind}. Where only the prompt is "
                    "wanted, leave out tokenize=True."
                )


def _names(annotated: Any) -> set[str]:
    return set(getattr(annotated, "__annotations__", ()))


def refuse_empty(**media: Any) -> None:
    """Refuse a list that holds nothing, such as that of a pattern of file names which matched none.

    Raises:
        ValueError: the argument is named.
    """
    for name, given in media.items():
        if isinstance(given, list | tuple) and not given:
            raise ValueError(f"{name} is an empty list: pass {name}=None, or leave it out, where there are none.")


def in_rows(media: Any, num_rows: int | None, is_single: Callable[[Any], bool], name: str) -> Any:
    """The media as given, or as one list for each prompt where a `None` says that a prompt has none.

    Args:
        media: of all prompts.
        num_rows: number of prompts; `None` without any.
        is_single: whether something is one medium; a list of frames is one video.
        name: of the argument, for errors.

    Raises:
        ValueError: a `None` that stands for no prompt.
    """
    if not isinstance(media, list | tuple) or is_single(media):
        return media
    for index, item in enumerate(media):
        if item is None and len(media) != num_rows:
            raise ValueError(f"{name}[{index}] is None: leave it out, or pass one entry for each prompt.")
        if isinstance(item, list | tuple) and any(part is None for part in item):
            raise ValueError(f"{name}[{index}] holds None: leave it out.")
    if all(item is not None for item in media):
        return media
    return [[] if item is None else [item] if _is_one(item, is_single) else item for item in media]


def _is_one(item: Any, is_single: Callable[[Any], bool]) -> bool:
    return is_single(item) or not isinstance(item, Sequence)


__all__ = ["PARTS", "CheckedProcessor", "in_rows", "refuse_empty"]
