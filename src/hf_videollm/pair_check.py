"""Whether a processor belongs to a model: its placeholders, the numbers of them, and the size of what it gives."""

from collections.abc import Mapping
from typing import Any

# Towers that take frames of their own size alone, where others resize their positions, and designs whose connector
# knows the grid of patches.
FIXED_TOWERS = ("clip_vision_model", "siglip_vision_model")
GRID_DESIGNS = ("pllava", "videollama2", "videollama2_av")
# Name -> what the processor has, and what the model expects.
Facts = dict[str, tuple[Any, Any]]


def check_pair(config: Any, processor: Any, num_rows: int | None = None) -> None:
    """Refuse a processor whose prompts or frames a model could not read.

    Args:
        config: of a model of one of the designs.
        processor: to be saved beside it, or loaded with it.
        num_rows: of the model's embedding; `vocab_size` of its language model if `None`.

    Raises:
        ValueError: with the name of what differs, and both values.
    """
    if not hasattr(config, "num_video_tokens"):
        # XGen-MM, an image-LLM.
        _compare({"image_token_id": (getattr(processor, "image_token_id", None), config.image_token_id)})
        if hasattr(config, "num_query_tokens"):
            counts = (getattr(processor, "num_query_tokens", None), config.num_query_tokens)
            _compare({"number of query tokens": counts})
        _compare(_sizes(config, processor))
        return
    if not hasattr(processor, "video_processor"):
        raise ValueError(f"{type(processor).__name__} reads no videos: pass the processor of the model's own design.")
    _compare(_placeholders(config, processor))
    _compare(_counts(config, processor))
    _compare(_sizes(config, processor))
    _check_vocabulary(config, processor, num_rows)


def _placeholders(config: Any, processor: Any) -> Facts:
    names = [f"{modality}_token_id" for modality in config.modalities]
    if getattr(config, "num_insertions", 0):
        names.append("query_token_id")
    return {name: (getattr(processor, name, None), getattr(config, name)) for name in names}


def _counts(config: Any, processor: Any) -> Facts:
    # A design that samples by rate has no number of its own.
    num_frames = processor.video_processor.num_frames or config.num_frames
    facts: Facts = {}
    for count in dict.fromkeys((num_frames, config.num_frames)):
        facts[f"tokens of {count} frames"] = (_number(processor, "video", count), _number(config, "video", count))
    if hasattr(processor, "num_image_tokens") and hasattr(config, "num_image_tokens"):
        facts["tokens of an image"] = (_number(processor, "image"), _number(config, "image"))
    if hasattr(config, "query_token_id"):
        expected = config.num_query_tokens if config.num_insertions else 0
        facts["number of query tokens"] = (getattr(processor, "num_query_tokens", 0), expected)
        facts["image_temporal_token"] = (getattr(processor, "image_temporal_token", None), config.image_temporal_token)
        if expected:
            facts["query_placement"] = (getattr(processor, "query_placement", None), config.query_placement)
    return facts


def _number(owner: Any, kind: str, *arguments: int) -> int | str:
    """Tokens of one medium; the reason where there can be none, as of too few frames."""
    try:
        return getattr(owner, f"num_{kind}_tokens")(*arguments)
    except ValueError as error:
        return " ".join(str(error).split())


def _sizes(config: Any, processor: Any) -> Facts:
    """Height and width of frames and images, and of filter-bank features, where the model takes no others."""
    facts: Facts = {}
    vision = getattr(getattr(config, "backbone_config", config), "vision_config", None)
    expected = _pair(getattr(vision, "image_size", None))
    is_fixed = config.model_type in GRID_DESIGNS or getattr(vision, "model_type", None) in FIXED_TOWERS
    if expected is not None and is_fixed:
        parts = {
            "images": getattr(processor, "image_processor", None),
            "frames": getattr(processor, "video_processor", None),
        }
        for name, part in parts.items():
            # LinVT's video processor leaves the size to the image processor.
            if name == "images" or not hasattr(config, "backbone_config"):
                found = _output_size(part)
                if found is not None:
                    facts[f"size of {name} (height, width)"] = (found, expected)
    if "audio" in getattr(config, "modalities", ()):
        extractor = getattr(processor, "feature_extractor", None)
        facts["num_mel_bins"] = (getattr(extractor, "num_mel_bins", None), config.audio_config.num_mel_bins)
        facts["audio_patch_size"] = (getattr(processor, "audio_patch_size", None), config.audio_config.patch_size)
    return facts


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
    rows = num_rows or getattr(config.get_text_config(), "vocab_size", None)
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None or rows is None:
        return
    tokens = {"image": config.image_token_id, "video": config.video_token_id}
    own = {*tokens.values(), *(getattr(config, f"{name}_token_id", None) for name in ("audio", "query"))}
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
