"""Loads and checks the processor of an image-LLM, which LinVT's processor contains, and finds its media tokens."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, AutoProcessor

from .linvt_backbones import watches_videos
from .processing_xgen_mm import XgenMMProcessor
from .transformers_compat import class_of_transformers


@dataclass(frozen=True)
class MediaTokens:
    """Texts and ids of the tokens for images and videos in prompts.

    Args:
        image_token: text that a user writes in a prompt for an image.
        image_token_id: id of the placeholder of one vector of an image.
        video_token: text that a user writes in a prompt for a video; differs from `image_token`.
        video_token_id: id of the placeholder of one vector of a video; may equal `image_token_id`.
        video_placeholder: text of the placeholder of one vector of a video.
    """

    image_token: str
    image_token_id: int
    video_token: str
    video_token_id: int
    video_placeholder: str

    @classmethod
    def of(
        cls, processor: Any, tokenizer: Any, image_token_id: int | None = None, video_token_id: int | None = None
    ) -> "MediaTokens":
        """The tokens of an image-LLM.

        Args:
            processor: the processor of the image-LLM.
            tokenizer: the tokenizer of the image-LLM.
            image_token_id: if `None`, the id that `processor` names.
            video_token_id: if `None`, the id for images.

        Raises:
            ValueError: the tokenizer cannot write the placeholder of videos.
        """
        image_token = processor.image_token
        if image_token_id is None:
            # In some families the placeholders, which replace `image_token`, have another id than `image_token`.
            image_token_id = getattr(processor, "image_token_id", None)
        if image_token_id is None:
            image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        if video_token_id is None:
            video_token_id = image_token_id
        placeholder = tokenizer.convert_ids_to_tokens(video_token_id)
        if placeholder is None or tokenizer.convert_tokens_to_ids(placeholder) != video_token_id:
            raise ValueError(
                f"The tokenizer has no token of id {video_token_id}, the placeholder of videos: leave video_token_id "
                "out to use the placeholder of images, or add a token to the tokenizer and pass its id."
            )
        video_token = placeholder
        if video_token_id == image_token_id:
            video_token = "<video>" if image_token != "<video>" else "<clip>"
        return cls(image_token, image_token_id, video_token, video_token_id, placeholder)


def load_image_llm(source: str | os.PathLike[str], options: Mapping[str, Any]) -> tuple[Any, Any]:
    """Configuration and processor of an image-LLM.

    Args:
        source: checkpoint of the image-LLM with its processor.
        options: options of `AutoProcessor.from_pretrained`.

    Raises:
        ValueError: the checkpoint is a video-LLM already.
    """
    options = {**options, "trust_remote_code": bool(options.get("trust_remote_code"))}
    names = ("revision", "token", "cache_dir", "local_files_only", "trust_remote_code")
    config = AutoConfig.from_pretrained(source, **{name: options[name] for name in names if name in options})
    if watches_videos(config):
        raise ValueError(
            f"{source} is a video-LLM already ({config.model_type}): load its processor with "
            "AutoProcessor.from_pretrained, or take an image-LLM."
        )
    return config, AutoProcessor.from_pretrained(source, **options)


def check_image_llm_processor(processor: Any, image_token_id: int) -> None:
    """Check that a processor takes images and text, and that it belongs to the image-LLM.

    Args:
        processor: the processor.
        image_token_id: id of the placeholders that the image-LLM replaces by vectors of images.

    Raises:
        ValueError: the processor does not take images and text, or belongs to another image-LLM.
    """
    name = type(processor).__name__
    if not hasattr(processor, "image_processor") or not hasattr(processor, "image_token"):
        raise ValueError(
            f"{name} is no processor for images and text: save the image-LLM's processor in the folder of its weights."
        )
    tokenizer = processor.tokenizer
    written = {getattr(processor, "image_token_id", None), getattr(tokenizer, "image_token_id", None)}
    written |= {tokenizer.convert_tokens_to_ids(processor.image_token), *getattr(processor, "image_token_ids", ())}
    if image_token_id not in written:
        raise ValueError(
            f"{name} writes {processor.image_token} for images, which is not id {image_token_id}, the placeholder of "
            "images in the image-LLM: take the processor of this image-LLM, or pass image_token_id."
        )


def make_image_llm_processor(options: Any, image_processor: Any, tokenizer: Any) -> Any:
    """The processor of an image-LLM, from the options that `LinVTProcessor.save_pretrained` wrote.

    Args:
        options: the processor's `to_dict()`, without image processor and tokenizer.
        image_processor: the image processor of the image-LLM.
        tokenizer: the tokenizer of the image-LLM.

    Raises:
        ValueError: `options` is missing, or it names a class that transformers does not have.
    """
    if not isinstance(options, Mapping) or "processor_class" not in options:
        raise ValueError(
            "LinVTProcessor needs the processor of its image-LLM: use LinVTProcessor.from_image_llm, or pass "
            "image_llm_processor."
        )
    arguments = {name: value for name, value in options.items() if name != "processor_class"}
    processor_class = _class_of_transformers(options["processor_class"])
    parts = {"image_processor": image_processor, "tokenizer": tokenizer}
    for name in processor_class.get_attributes():
        if name in arguments:
            part = dict(arguments.pop(name))
            parts[name] = _class_of_transformers(part.pop(f"{name}_type")).from_dict(part)
    return processor_class(**parts, **arguments)


def _class_of_transformers(name: str) -> Any:
    if name == XgenMMProcessor.__name__:
        return XgenMMProcessor
    if (known_class := class_of_transformers(name)) is None:
        raise ValueError(
            f"The installed transformers has no {name}, which the image-LLM's processor needs: upgrade transformers."
        )
    return known_class


__all__ = ["MediaTokens", "check_image_llm_processor", "load_image_llm", "make_image_llm_processor"]
