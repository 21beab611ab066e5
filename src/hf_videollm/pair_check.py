"""Whether a processor belongs to a model: its placeholders, the numbers of them, and the size of what it gives."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

# Name -> what the processor has, and what the model expects.
Facts = dict[str, tuple[Any, Any]]


@runtime_checkable
class Paired(Protocol):
    """A configuration or processor with the contract of a design (`models/video_llm_contract.py`).

    Told by its methods: a class that was loaded as remote code is another object than that of the package.
    """

    def pairing(self) -> Mapping[str, Any]: ...

    def num_image_tokens(self) -> int | None: ...


def check_pair(config: Any, processor: Any, num_rows: int | None = None) -> None:
    """Refuse a processor whose prompts or frames a model could not read.

    Args:
        config: of a model of one of the designs; one of another code base says nothing of its processor.
        processor: to be saved beside it, or loaded with it.
        num_rows: of the model's embedding; `vocab_size` of its language model if `None`.

    Raises:
        ValueError: with the name of what differs, and both values.
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
        # A design that samples by rate has no number of its own.
        num_frames = processor.video_processor.num_frames or config.num_frames
        for count in dict.fromkeys((num_frames, config.num_frames)):
            counted = _number(processor.num_video_tokens, count), _number(config.num_video_tokens, count)
            facts[f"tokens of {count} frames"] = counted
    facts["tokens of an image"] = _number(processor.num_image_tokens), _number(config.num_image_tokens)
    return facts


def _number(count: Callable[..., int | None], *arguments: int) -> int | str | None:
    """Tokens of one medium; the reason where there can be none, as of too few frames."""
    try:
        return count(*arguments)
    except ValueError as error:
        return " ".join(str(error).split())


def _sizes(config: Any, processor: Any, watches: bool) -> Facts:
    """Height and width of frames and images, where the model takes no others."""
    parts = {"images": (processor.image_processor, config.required_image_size())}
    if watches:
        parts["frames"] = (processor.video_processor, config.required_frame_size())
    found = {name: (_output_size(part), expected) for name, (part, expected) in parts.items()}
    return {f"size of {name} (height, width)": pair for name, pair in found.items() if None not in pair}


def _output_size(part: Any) -> tuple[int, int] | None:
    """Height and width of what an image or video processor gives; `None` where it depends on what it is given."""
    if getattr(part, "do_center_crop", None) and (size := _pair(getattr(part, "crop_size", None))) is not None:
        return size
    return _pair(getattr(part, "size", None)) if getattr(part, "do_resize", None) else None


def _pair(value: Any) -> tuple[int, int] | None:
    """(height, width) of a number, a pair, or a size as processors keep it."""
    if isinstance(value, int):
        return value, value
    if isinstance(value, list | tuple) and len(value) == 2:
        return int(value[0]), int(value[1])
    get = value.get if isinstance(value, Mapping) else lambda name: getattr(value, name, None)
    height, width = (None, None) if value is None else (get("height"), get("width"))
    return None if height is None or width is None else (int(height), int(width))


def _check_vocabulary(config: Any, processor: Any, num_rows: int | None) -> None:
    """Every token but placeholders needs a row in the embedding.

    Raises:
        ValueError: a token has none.
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
            f"({tokenizer.convert_ids_to_tokens(last)!r}), the model's embedding {rows} rows. Pass the processor that "
            "the model was made or loaded with."
        )


def _compare(facts: Facts) -> None:
    """Found and expected values, by their names."""
    for name, (found, expected) in facts.items():
        if found != expected:
            raise ValueError(
                f"The processor belongs to another model: its {name} is {found}, the model's {expected}. "
                "Pass the processor that the model was made or loaded with."
            )


__all__ = ["check_pair"]
