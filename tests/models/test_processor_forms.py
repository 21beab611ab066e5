"""How the class of a processor is written, and what in transformers asks for it."""

from typing import Any

import pytest
from tiny_checkpoint import make_processor
from transformers.processing_utils import ImagesKwargs, ProcessingKwargs

from hf_videollm.designs import DESIGNS
from hf_videollm.models.processing_pllava import PllavaProcessor

# Each group of options, and the part of a design that declares such options.
GROUPS = {"images_kwargs": None, "videos_kwargs": "video_processor", "audio_kwargs": "feature_extractor"}


def options_of_its_own(design: Any, declared: Any) -> set[str]:
    """Options that a `ProcessingKwargs` of a design declares, and that neither transformers nor a part declares."""
    own = set(declared.__annotations__) - set(ProcessingKwargs.__annotations__)
    for group, part in GROUPS.items():
        known = set(ProcessingKwargs.__annotations__[group].__annotations__)
        loaded = design.load(part) if part else None
        known |= set(loaded.valid_kwargs.__annotations__) if loaded is not None else set()
        own |= set(declared.__annotations__[group].__annotations__) - known
    return own


@pytest.mark.parametrize("name", DESIGNS)
def test_no_class_of_options_repeats_what_a_part_declares(name: str) -> None:
    design = DESIGNS[name]
    declared = design.load("processor").valid_processor_kwargs
    assert declared is ProcessingKwargs or options_of_its_own(design, declared)


def test_control_a_class_without_options_of_its_own_is_found() -> None:
    design = DESIGNS["pllava"]

    class Same(ProcessingKwargs, total=False):  # type: ignore[call-arg]
        videos_kwargs: design.load("video_processor").valid_kwargs  # type: ignore[valid-type]

    class MoreImages(ImagesKwargs, total=False):  # type: ignore[call-arg]
        num_tokens: int

    class More(ProcessingKwargs, total=False):  # type: ignore[call-arg]
        images_kwargs: MoreImages

    assert not options_of_its_own(design, Same)
    assert options_of_its_own(design, More) == {"num_tokens"}


class ShortProcessor(PllavaProcessor):
    """What would save repeating the arguments."""

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, video_processor: Any = None, **options: Any
    ) -> None:
        super().__init__(image_processor, tokenizer, video_processor, **options)


@pytest.mark.parametrize("kind", [PllavaProcessor, ShortProcessor])
def test_transformers_restores_only_arguments_in_the_code_of_init(kind: type[PllavaProcessor]) -> None:
    """Why designs repeat the arguments of `__init__`. Once transformers restores both kinds, they can stop."""
    made = make_processor()
    parts = [made.image_processor, made.tokenizer, made.video_processor]
    saved = {"pooling_shape": [4, 2, 2], "chat_template": made.chat_template}
    processor, unused = kind.from_args_and_dict(parts, saved, return_unused_kwargs=True)
    assert kind(*parts, pooling_shape=[4, 2, 2]).pooling_shape == [4, 2, 2]
    if kind is PllavaProcessor:
        assert processor.pooling_shape == [4, 2, 2]
        assert not unused
    else:
        assert processor.pooling_shape != [4, 2, 2]
        assert "pooling_shape" in unused
