"""Checks whether a processor fits a model: placeholders, numbers of placeholders, sizes of frames, vocabulary."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

# Maps the name of a property to its value in the processor and its value in the model.
Facts = dict[str, tuple[Any, Any]]


@runtime_checkable
class Paired(Protocol):
    """A configuration or processor with the contract of a design (`models/video_llm_contract.py`).

    It is recognised by its methods and not by its base class, because a class that was loaded as remote code has base
    classes of its own.
    """

    def pairing(self) -> Mapping[str, Any]: ...

    def num_image_tokens(self) -> int | None: ...


def check_pair(config: Any, processor: Any, num_rows: int | None = None) -> None:
    """Refuse a processor whose prompts or frames do not fit a model.

    Args:
        config: configuration of the model. If the model is not one of the designs, nothing is checked.
        processor: the processor that is going to be saved or used with the model.
        num_rows: number of rows of the model's embedding; `None` uses `vocab_size` of its language model.

    Raises:
        ValueError: they do not fit; the message names what differs, and both values.
    """
    if not isinstance(config, Paired):
        return
    watches = "video" in config.modalities  # type: ignore[attr-defined]
    if not isinstance(processor, Paired) or (watches and not processor.reads_videos):  # type: ignore[attr-defined]
        raise ValueError(f"{type(processor).__name__} reads no videos: pass the processor of the model's own design.")
    facts = processor.pairing()
    _compare({name: (facts.get(name), expected) for name, expected in config.pairing().items()})
    _compare(_counts(config, processor, watches))
    _compare(_sizes(config, processor, watches))
    if watches:
        _check_vocabulary(config, processor, num_rows)


def _counts(config: Any, processor: Any, watches: bool) -> Facts:
    facts: Facts = {}
    if watches:
        # The video processor of a design that samples by frame rate has no number of frames.
        num_frames = processor.video_processor.num_frames or config.num_frames
        for count in dict.fromkeys((num_frames, config.num_frames)):
            counted = _number(processor.num_video_tokens, count), _number(config.num_video_tokens, count)
            facts[f"tokens of {count} frames"] = counted
    facts["tokens of an image"] = _number(processor.num_image_tokens), _number(config.num_image_tokens)
    return facts


def _number(count: Callable[..., int | None], *arguments: int) -> int | str | None:
    """Number of tokens of one medium; the reason as text if it is impossible, for example with too few frames."""
    try:
        return count(*arguments)
    except ValueError as error:
        from .models.errors import one_line

        return one_line(error)


def _sizes(config: Any, processor: Any, watches: bool) -> Facts:
    """Heights and widths of frames and images, if the model accepts only one size."""
    parts = {"images": (processor.image_processor, config.required_image_size())}
    if watches:
        parts["frames"] = (processor.video_processor, config.required_frame_size())
    found = {name: (_output_size(part), expected) for name, (part, expected) in parts.items()}
    return {f"size of {name} (height, width)": pair for name, pair in found.items() if None not in pair}


def _output_size(part: Any) -> tuple[int, int] | None:
    """Height and width of the output of an image or video processor; `None` if they depend on the input."""
    if getattr(part, "do_center_crop", None) and (size := _pair(getattr(part, "crop_size", None))) is not None:
        return size
    return _pair(getattr(part, "size", None)) if getattr(part, "do_resize", None) else None


def _pair(value: Any) -> tuple[int, int] | None:
    """Convert a number, a pair, or the size of a processor to (height, width); `None` if it has no height and width."""
    if isinstance(value, int):
        return value, value
    if isinstance(value, list | tuple) and len(value) == 2:
        return int(value[0]), int(value[1])
    get = value.get if isinstance(value, Mapping) else lambda name: getattr(value, name, None)
    height, width = (None, None) if value is None else (get("height"), get("width"))
    return None if height is None or width is None else (int(height), int(width))


def _check_vocabulary(config: Any, processor: Any, num_rows: int | None) -> None:
    """Check that every token except placeholders has a row in the embedding.

    Raises:
        ValueError: a token has no row.
    """
    rows = num_rows or config.get_text_config().vocab_size
    tokenizer = processor.tokenizer
    if tokenizer is None or rows is None:
        return
    own = set(config.placeholder_ids().values())
    last = max((number for number in tokenizer.get_vocab().values() if number not in own), default=-1)
    if last >= rows:
        raise ValueError(
            f"The processor belongs to another model: its tokenizer has a token of id {last} "
            f"({tokenizer.convert_ids_to_tokens(last)!r}), but the model's embedding has {rows} rows. Pass the "
            "processor that the model was made or loaded with."
        )


def _compare(facts: Facts) -> None:
    """Raise an error for the first property whose two values differ."""
    for name, (found, expected) in facts.items():
        if found != expected:
            raise ValueError(
                f"The processor belongs to another model: its {name} is {found}, the model's {expected}. "
                "Pass the processor that the model was made or loaded with."
            )


__all__ = ["check_pair"]
