"""Chooses the records that a recipe trains on, and decides which of their questions make one sample."""

import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ..data.missing_media import missing_file
from ..data.records import ContentBlock, Message, VideoQARecord, read_jsonl
from .recipe import Recipe, RecipeError

# What a block of a sound may have of that of a video.
_OF_SOUNDS = ("path", "url", "start", "end")


def read_records(recipe: Recipe) -> list[VideoQARecord]:
    """All records of the file that the recipe names.

    Raises:
        RecipeError: the recipe names no file.
        RecordError: a record is invalid.
    """
    if recipe.records is None:
        raise RecipeError("The recipe names no records to train on, and no mix.")
    return read_jsonl(recipe.records)


def make_samples(recipe: Recipe, records: list[VideoQARecord]) -> list[VideoQARecord]:
    """Make samples from records as the recipe says (`kinds`, `sound_only`, `merge_turns`, `split_rounds`).

    Raises:
        RecipeError: no record is of one of the recipe's kinds.
    """
    if recipe.kinds is not None:
        records = [record for record in records if record.metadata.get("kind") in recipe.kinds]
        if not records:
            raise RecipeError(
                f"No record of {recipe.records or recipe.mix} has one of the kinds {recipe.kinds} in its metadata."
            )
    if recipe.sound_only:
        records = [without_picture(record) for record in records]
    check_answers(records)
    records = merge_turns(records) if recipe.merge_turns else records
    return split_rounds(records) if recipe.split_rounds else records


def check_answers(records: Iterable[VideoQARecord]) -> None:
    """Refuse records from which nothing can be learned.

    Raises:
        RecipeError: a record has no answer; the message names it.
    """
    for record in records:
        if not any(message["role"] == "assistant" for message in record.messages):
            raise RecipeError(f"Record {record.id!r} has no answer (a turn of the assistant) to learn: add it.")


def check_files(recipe: Recipe, records: Iterable[VideoQARecord]) -> None:
    """Refuse records whose media do not exist. A mix leaves such rows out instead, up to its `max_bad`.

    Args:
        recipe: the recipe, for the message.
        records: those that are trained on.

    Raises:
        RecipeError: a file or a folder of frames is missing; the message names the first one, and says how many are.
    """
    there: dict[str, bool] = {}
    first: tuple[str, str] | None = None
    for record in records:
        for message in record.messages:
            for block in message["content"]:
                path = block.get("path")
                if path is None or path in there:
                    continue
                there[path] = missing_file(path) is None
                if not there[path] and first is None:
                    first = (record.id, path)
    if first is not None:
        missing = list(there.values()).count(False)
        raise RecipeError(
            f"{recipe.records}: record {first[0]!r} names {first[1]}, which does not exist ({missing} of {len(there)} "
            "files are missing): correct the paths, or train on a mix (--mix), which leaves such rows out."
        )


def media_files(records: Iterable[VideoQARecord], *kinds: str) -> list[str]:
    """Paths of all media of these kinds, e.g. "video": first all of the first kind, in the order of the records."""
    records = list(records)
    return [path for kind in kinds for record in records for path in record.media(kind)]


def merge_turns(records: Iterable[VideoQARecord], seed: int = 0) -> list[VideoQARecord]:
    """Join the questions about the same media into one conversation, in an order drawn with `seed`.

    The vision tower then encodes a video once for several answers. Only records of one question and one answer are
    joined; a record with a longer conversation does not change.
    """
    groups: dict[tuple[Any, ...], list[VideoQARecord]] = defaultdict(list)
    for record in records:
        single = [message["role"] for message in record.messages] == ["user", "assistant"]
        blocks = (block for message in record.messages for block in message["content"] if block["type"] != "text")
        # Parts of one file are different media.
        media = tuple(sorted(str(sorted(block.items())) for block in blocks))
        groups[media if single and media else ("", record.id)].append(record)
    rng = random.Random(seed)
    return [_join(group, rng) for group in groups.values()]


def _join(group: list[VideoQARecord], rng: random.Random) -> VideoQARecord:
    if len(group) == 1:
        return group[0]
    rng.shuffle(group)
    messages: list[Message] = [*group[0].messages]
    for record in group[1:]:
        question, answer = record.messages
        text = [block for block in question["content"] if block["type"] == "text"]
        messages += [{"role": "user", "content": text}, answer]
    return VideoQARecord("+".join(record.id for record in group), messages, dict(group[0].metadata))


def split_rounds(records: Iterable[VideoQARecord]) -> list[VideoQARecord]:
    """Make one record for every answer: the conversation up to and including this answer.

    This is how IVA's paper trains (Eq. 5), because query tokens stand before only one answer of a conversation.
    """
    return [
        VideoQARecord(f"{record.id}#{number + 1}", record.messages[: end + 1], dict(record.metadata))
        for record in records
        for number, end in enumerate(
            position for position, message in enumerate(record.messages) if message["role"] == "assistant"
        )
    ]


def without_picture(record: VideoQARecord) -> VideoQARecord:
    """A copy of the record in which each video is replaced by its audio."""
    messages: list[Message] = [
        {"role": message["role"], "content": [_as_sound(block) for block in message["content"]]}
        for message in record.messages
    ]
    return replace(record, messages=messages)


def _as_sound(block: ContentBlock) -> ContentBlock:
    if block["type"] != "video":
        return block.copy()
    sound: dict[str, Any] = {name: value for name, value in block.items() if name in _OF_SOUNDS}
    return {**sound, "type": "audio"}  # type: ignore[typeddict-item]


__all__ = [
    "check_files",
    "make_samples",
    "media_files",
    "merge_turns",
    "read_records",
    "split_rounds",
    "without_picture",
]
