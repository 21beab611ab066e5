"""The checks of all processors: unknown options, empty lists and malformed messages are refused."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub.dataclasses import validate_typed_dict
from transformers import BatchFeature, ProcessorMixin

from .errors import check_num_frames, warn_caller
from .video_llm_chat_template import KEPT_TEMPLATE
from .video_llm_chat_variables import NEVER_READ, reads_messages, template_of, template_variables
from .video_llm_contract import ProcessorContract
from .video_llm_messages import BlockRules, media_blocks, read_chats, source_of, take_video_options
from .video_llm_option_names import plain_type_errors, refuse_unknown
from .video_llm_push import ProcessorPushMixin

# Maps each group of options to the attribute of the processor that receives these options.
PARTS = {
    "text_kwargs": "tokenizer",
    "images_kwargs": "image_processor",
    "videos_kwargs": "video_processor",
    "audio_kwargs": "feature_extractor",
}
# Arguments of `apply_chat_template` itself, as opposed to variables of the template and options of the processor.
RENDERING = frozenset(inspect.signature(ProcessorMixin.apply_chat_template).parameters) - {"self", "kwargs"}


@dataclass
class ChatCall:
    """A call of `apply_chat_template`, between the reading of its arguments and the rendering of the template.

    Args:
        chats: the conversations in the common format of `read_chats`.
        options: options of the processor, which is called after the rendering if `tokenize` is true.
        rendering: options of transformers' `apply_chat_template`, and variables of the template.
        rules: what the processor accepts in messages.
        tokenize: whether the prompts also become inputs of the model.
    """

    chats: list[list[dict[str, Any]]]
    options: dict[str, Any]
    rendering: dict[str, Any]
    rules: BlockRules
    tokenize: bool


class CheckedProcessor(ProcessorPushMixin, ProcessorContract, ProcessorMixin):
    """A processor that raises an error instead of ignoring an input.

    transformers only logs an unknown option and ignores it, and it ignores unknown keys of a message without a word.
    Here both are errors, and the error names the most similar known option or key.
    """

    def __call__(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **kwargs: Any
    ) -> BatchFeature:
        """As in transformers.

        Raises:
            TypeError: no part of this processor knows an option, or an option has the wrong type.
            ValueError: a list of media is empty.
        """
        self.check_options(kwargs)
        self.check_media(images, videos, audio, text)
        with plain_type_errors():
            return offsets_as_lists(super().__call__(images=images, text=text, videos=videos, audio=audio, **kwargs))

    def check_media(self, images: Any, videos: Any, audio: Any, text: Any) -> None:
        """Refuse empty lists, and warn if a processor without a feature extractor is called with audio.

        Audio is no error, because it is usual in transformers to pass every modality to every processor.

        Raises:
            ValueError: a list is empty; the message names the argument.
        """
        refuse_empty(images=images, videos=videos, audio=audio)
        if isinstance(text, str) or (isinstance(text, list | tuple) and len(text) == 1):
            refuse_no_media(images=images, videos=videos, audio=audio)
        if audio is not None and not self.takes_audio:
            warn_caller(f"{type(self).__name__} cannot hear: the audio is left out.")

    def option_groups(self) -> dict[str, set[str]]:
        """Maps each group (`videos_kwargs`, ...) to the names of its options, for the parts that this processor has."""
        annotations = self.valid_processor_kwargs.__annotations__
        groups = {}
        for group, part_name in PARTS.items():
            part = getattr(self, part_name, None)
            if part is not None or group == "text_kwargs":
                groups[group] = _names(annotations.get(group)) | _names(getattr(part, "valid_kwargs", None))
        return groups

    def known_options(self) -> set[str]:
        """Names of all options that a call of this processor accepts."""
        groups = self.option_groups()
        flat = set(self.valid_processor_kwargs.__annotations__) - set(PARTS)
        return flat.union(*groups.values(), groups, ("common_kwargs",))

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Refuse options that no part of this processor knows, at the top level and inside groups.

        Raises:
            TypeError: an option is unknown; the message names it and the most similar known option.
        """
        name, groups = type(self).__name__, self.option_groups()
        refuse_unknown(options, self.known_options(), name)
        for group, known in groups.items():
            refuse_unknown(options.get(group) or (), known, f"{name} in {group}")
        annotations = self.valid_processor_kwargs.__annotations__
        # transformers passes `common_kwargs` to every part. So it may hold only options that all four kinds of parts
        # know, even if this design does not have all of them.
        common = set.intersection(*(groups.get(group) or _names(annotations.get(group)) for group in PARTS))
        for option in set(options.get("common_kwargs") or ()) - common:
            if fitting := [group for group, known in groups.items() if option in known]:
                raise TypeError(
                    f"{name} has no option {option!r} in common_kwargs, which apply to every part: pass it in "
                    f"{' or '.join(fitting)}, or as an argument of the call."
                )
        refuse_unknown(options.get("common_kwargs") or (), common, f"{name} in common_kwargs")

    def block_rules(self, chat_template: Any = None) -> BlockRules:
        """The roles, types, keys and options that this processor accepts in messages."""
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

        Blocks in OpenAI's format are also accepted. A video block may have options (`start`, `end`, `num_frames`,
        `fps`, ..., or Qwen's names `video_start`, `video_end`, `nframes`); they apply to that video only and override
        the options of the call. An http(s) address is downloaded only if the call's option `allowed_hosts` allows it.

        Raises:
            TypeError: an option is unknown.
            ValueError: a message has an unknown role, type or key, a block does not say which medium it means, or the
                processor's own template would leave out the conversation.
        """
        rules = self.block_rules(chat_template)
        if chat_template is None and rules.template and not reads_messages(rules.template):
            raise ValueError(f"The chat template of this {type(self).__name__} cannot be used: {NEVER_READ}.")
        rendering, options = self.sort_options(kwargs, processor_kwargs, rules)
        chats, is_batched = read_chats(conversation, rules)
        call = ChatCall(chats, options, rendering, rules, tokenize)
        self.prepare_chats(call)
        rendered = super().apply_chat_template(
            call.chats if is_batched else call.chats[0],
            chat_template,
            *args,
            tokenize=tokenize,
            processor_kwargs=call.options,
            **call.rendering,
        )
        if tokenize:
            return rendered
        prompts = self.finish_prompts(rendered if is_batched else [rendered], call)
        return prompts if is_batched else prompts[0]

    def sort_options(
        self, given: Mapping[str, Any], processor_kwargs: Mapping[str, Any] | None, rules: BlockRules
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Split the options of a call of `apply_chat_template` into those of the template and those of this processor.

        An option that both know goes to the processor.

        Args:
            given: the keyword arguments of the call.
            processor_kwargs: the argument of this name of the call: options for the processor.
            rules: the result of `block_rules`; the variables are found in its template.

        Raises:
            TypeError: neither knows an option, or an option is both a keyword argument and in `processor_kwargs`.
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
        # transformers accepts not only options here, but also the images themselves.
        checked = {name: value for name, value in options.items() if name != "images"}
        owner = f"{type(self).__name__} with this chat template"
        refuse_unknown(checked, known, owner, elsewhere=RENDERING | variables)
        self.check_options(checked)
        return rendering, options

    def prepare_chats(self, call: ChatCall) -> None:
        """Prepare the messages and options of a call of `apply_chat_template` for transformers, which renders them.

        A design overrides this method if it has options of its own for `apply_chat_template`, or reads media itself.

        A template that `keep_chat_template` made from the language model's own writes all special tokens itself, so
        the tokenizer is told to add none. The language model's own `apply_chat_template` does the same.

        Args:
            call: the call; this method changes it in place.

        Raises:
            TypeError: `video_options` were passed, and messages have options of videos, too.
            ValueError: with `tokenize=True`, a block does not say which medium it means.
        """
        if not call.tokenize:
            return
        call.chats, call.options = self.with_video_options(call.chats, call.options)
        if str(call.rules.template).startswith(KEPT_TEMPLATE):
            call.options.setdefault("add_special_tokens", False)
        self._check_media(call.chats, call.options, call.rendering)

    def finish_prompts(self, prompts: list[str], call: ChatCall) -> list[str]:
        """The prompts that a call with `tokenize=False` returns; here, as the template wrote them.

        Args:
            prompts: what the template wrote, one text for each conversation.
            call: as `prepare_chats` left it.
        """
        return prompts

    def with_video_options(
        self, chats: list[list[dict[str, Any]]], options: Mapping[str, Any]
    ) -> tuple[list[list[dict[str, Any]]], dict[str, Any]]:
        """Move options of single videos from the messages to the option `video_options`, one entry per video."""
        names = self.video_processor.CLIP_OPTIONS if self.reads_videos else ()
        chats, video_options = take_video_options(chats, names)
        if video_options is None:
            return chats, dict(options)
        if "video_options" in options or "video_options" in (options.get("videos_kwargs") or {}):
            raise TypeError("video_options were passed, but the messages have options of videos, too: leave one out.")
        return chats, {**options, "video_options": video_options}

    def _check_media(
        self, chats: list[list[dict[str, Any]]], options: Mapping[str, Any], rendering: Mapping[str, Any]
    ) -> None:
        """Refuse blocks that do not say which medium they mean, and audio if this processor has no feature extractor.

        Without this check, transformers would download the audio, which would then be ignored.
        """
        if not self.takes_audio and (rendering.get("load_audio_from_video") or any(media_blocks(chats, "audio"))):
            raise ValueError(f"{type(self).__name__} cannot hear: leave the audio out of the messages.")
        for kind in ("video", "image", "audio"):
            if kind == "image" and "images" in options:
                continue
            if any(source_of(block) is None for block in media_blocks(chats, kind)):
                raise ValueError(
                    f"A block of type {kind} names no {kind}: give its path, url or {kind}. To get only the prompt, "
                    f"leave out tokenize=True. Columns of {kind}s are read by the trainers of "
                    "hf_videollm.make_trainer, make_dpo_trainer and make_grpo_trainer."
                )


def check_values(processor: Any, options: Mapping[str, Any]) -> None:
    """Refuse values of options that have another type than the processor says, without calling it.

    Args:
        processor: a `CheckedProcessor`.
        options: known to it.

    Raises:
        TypeError: a value has another type.
        ValueError: a number of frames is impossible.
    """
    annotations = processor.valid_processor_kwargs.__annotations__
    for group, part_name in PARTS.items():
        part = getattr(processor, part_name, None)
        chosen = {**options, **(options.get(group) or {})}
        for kinds in (annotations.get(group), getattr(part, "valid_kwargs", None)):
            known = {name: value for name, value in chosen.items() if name in _names(kinds)}
            if kinds is not None and known:
                with plain_type_errors():
                    validate_typed_dict(kinds, known)
        if chosen.get("num_frames") is not None and group == "videos_kwargs":
            check_num_frames(chosen["num_frames"])


def _names(annotated: Any) -> set[str]:
    return set(getattr(annotated, "__annotations__", ()))


def offsets_as_lists(outputs: BatchFeature) -> BatchFeature:
    """Turn the positions of tokens into lists, if the outputs are for `apply_chat_template`, which marks the answers.

    transformers then compares the position of each token with each answer in a Python loop, and reading single numbers
    out of a tensor takes most of that time (`benchmarks/bench_collator.py`).
    """
    positions = outputs.get("offset_mapping")
    if "text_replacement_offsets" in outputs and hasattr(positions, "tolist"):
        outputs["offset_mapping"] = positions.tolist()
    return outputs


def cast_row(row: BatchFeature, dtype: Any, exact_keys: Collection[str]) -> BatchFeature:
    """Convert the floating-point values of a row to the precision of the model.

    Args:
        row: outputs of the processor.
        dtype: of the model.
        exact_keys: outputs that keep their precision (`ProcessorContract.EXACT_KEYS`).
    """
    exact = {name: row[name] for name in exact_keys if name in row}
    row = row.to(dtype=dtype)
    row.update(exact)
    return row


def refuse_empty(**media: Any) -> None:
    """Refuse an empty list of media, for example the result of a file pattern that matched no file.

    Raises:
        ValueError: a list is empty; the message names the argument.
    """
    for name, value in media.items():
        if isinstance(value, list | tuple) and not value:
            raise ValueError(f"{name} is an empty list: if there are none, pass {name}=None or leave it out.")


def refuse_no_media(**media: Any) -> None:
    """Refuse lists such as `[[]]` for a single prompt. In a batch, an empty list says that a prompt has no media.

    Raises:
        ValueError: an argument is a list that holds only empty lists; the message names the argument.
    """
    for name, value in media.items():
        if isinstance(value, list | tuple) and all(isinstance(item, list | tuple) and not item for item in value):
            raise ValueError(f"{name} holds an empty list: if there are none, pass {name}=None or leave it out.")


def in_rows(media: Any, num_rows: int | None, is_single: Callable[[Any], bool], name: str) -> Any:
    """Group media by prompt if some of the entries are `None`, which means that a prompt has no medium.

    Without `None` among them, the media are returned unchanged.

    Args:
        media: the media of all prompts.
        num_rows: the number of prompts; `None` if there are no prompts.
        is_single: tells whether a value is one medium; for example, a list of frames is one video.
        name: the name of the argument, for error messages.

    Raises:
        ValueError: there is a `None`, but the list does not have one entry for each prompt.
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


__all__ = [
    "PARTS",
    "ChatCall",
    "CheckedProcessor",
    "cast_row",
    "check_values",
    "in_rows",
    "offsets_as_lists",
    "refuse_empty",
    "refuse_no_media",
]
