"""The table of `hf-videollm info`."""

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from ..origin import ORIGIN_FILE
from .info import CheckpointInfo
from .origin import Licence

Row = tuple[str, str]


def info_table(facts: CheckpointInfo) -> Table:
    """Everything that is known about a checkpoint, one fact in a row."""
    table = Table(show_header=False, box=None)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in (*_what_it_is(facts), *_where_from(facts), *_tokens(facts), *_sizes(facts), *_memory(facts)):
        # `Text`, because rich would read a name in square brackets as a style.
        table.add_row(name, Text(value))
    return table


def _what_it_is(facts: CheckpointInfo) -> Iterator[Row]:
    yield "checkpoint", facts.source
    yield "design", facts.design
    if facts.quantization is not None:
        yield "quantized", facts.quantization
    if facts.lora_alpha is not None:
        yield "LoRA alpha", f"{facts.lora_alpha:g}"


def _where_from(facts: CheckpointInfo) -> Iterator[Row]:
    yield "revision", facts.revision or "not recorded"
    for model in facts.base_models:
        role = "" if model.role is None else f"{model.role}, "
        revision = "" if model.revision is None else f" at {model.revision}"
        yield "base model", f"{model.name}{revision} ({role}{model.stated_in})"
    if not facts.base_models:
        yield "base model", "not recorded"
    for name in facts.training_data:
        yield "trained on", f"{name} ({ORIGIN_FILE})"
    yield "licence", _licence(facts.licence)
    if (place := facts.variants.looked_in) is not None:
        yield f"quantized variants ({place})", ", ".join(facts.variants.names) or "none found"


def _licence(licence: Licence | None) -> str:
    if licence is None:
        return "not stated: ask the authors before you use it"
    further = ", ".join(part for part in (licence.name, licence.link) if part is not None)
    return f"{licence.id}{f', {further}' if further else ''} ({licence.stated_in})"


def _tokens(facts: CheckpointInfo) -> Iterator[Row]:
    yield "frames per video", f"{facts.num_frames}"
    yield "tokens per video", f"{facts.tokens_per_video:,}"
    if facts.tokens_per_image is not None:
        yield "tokens per image", f"{facts.tokens_per_image:,}"
    if facts.tokens_per_sound is not None:
        yield "tokens per 30 s of sound", f"{facts.tokens_per_sound:,}"


def _sizes(facts: CheckpointInfo) -> Iterator[Row]:
    for name, count in facts.parameters.items():
        yield f"parameters, {name}", f"{count:,}"
    if facts.stored is None:
        return
    types = ", ".join(f"{name} {readable(size)}" for name, size in facts.stored.bytes_by_dtype.items())
    yield "on disk", f"{readable(facts.stored.bytes)} ({types})"
    for name, part in facts.stored.parts.items():
        yield f"on disk, {name}", f"{part.values:,} values, {readable(part.bytes)}"


def _memory(facts: CheckpointInfo) -> Iterator[Row]:
    for name, size in facts.weight_bytes.items():
        yield f"weights in {name}", readable(size)
    sound = f" with {facts.sound_seconds} s of sound" if facts.sound_seconds else ""
    frames = facts.num_frames if facts.memory is None else facts.memory.num_frames
    tokens = 256 if facts.memory is None else facts.memory.text_tokens
    case = f"one video of {frames} frames{sound} + {tokens} tokens"
    yield "key-value cache", f"{readable(facts.kv_cache_bytes)} (bfloat16, {case})"
    if (memory := facts.memory) is not None:
        parts = ((memory.weights, "weights"), (memory.inputs, "frames"), (memory.activations, "activations and cache"))
        shown = ", ".join(f"{name} {readable(size)}" for size, name in parts)
        yield "memory, predicted", f"{readable(memory.total)} ({memory.dtype}, {case}: {shown})"
        first, later = readable(memory.cpu_first_answer), readable(memory.cpu_later_answers)
        yield "on a CPU, predicted", f"{first} up to the first answer, {later} for further answers"
        if facts.libraries_bytes is not None:
            yield "besides: Python and libraries", f"{readable(facts.libraries_bytes)} (measured in this process)"
        yield "how it is predicted", facts.memory_by
    for text in facts.notes:
        yield "note", text


def readable(num_bytes: int) -> str:
    """A size with three digits and a unit.

    Example:
        >>> readable(14_126_854_144)
        '14.1 GB'
    """
    units = ("B", "kB", "MB", "GB", "TB")
    power = min((len(str(num_bytes)) - 1) // 3, len(units) - 1)
    return f"{num_bytes / 1000**power:.3g} {units[power]}"


__all__ = ["info_table", "readable"]
