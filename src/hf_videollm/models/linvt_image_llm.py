"""The processor of the image-LLM inside LinVT's processor."""

from collections.abc import Mapping
from typing import Any

from .processing_xgen_mm import XgenMMProcessor
from .transformers_compat import class_of_transformers


def make_image_llm_processor(options: Any, image_processor: Any, tokenizer: Any) -> Any:
    """The processor of an image-LLM from what `LinVTProcessor.save_pretrained` wrote of it.

    Args:
        options: its `to_dict()`, without image processor and tokenizer.
        image_processor: of the image-LLM.
        tokenizer: of the image-LLM.

    Raises:
        ValueError: no options, or a class that transformers does not have.
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
    if (found := class_of_transformers(name)) is None:
        raise ValueError(f"The installed transformers has no {name}, part of the image-LLM's processor: upgrade it.")
    return found


__all__ = [
    "make_image_llm_processor",
]
