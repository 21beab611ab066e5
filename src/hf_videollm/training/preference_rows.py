"""Rows of preference data: a prompt with a better and a worse answer (DPO), or a prompt alone (GRPO)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..data.rows import shown
from .rows import MEDIA_COLUMNS

__all__ = ["prompt_row", "row_pair"]

# Columns that TRL would read, but that the chat templates of video models have no place for.
NOT_READ = ("tools", "chat_template_kwargs")


def row_pair(row: Mapping[str, Any], name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divide a row of preference data into two rows for `rows.read_row`, with the better and the worse answer.

    Args:
        row: it has `prompt`, `chosen` and `rejected`, lists of messages; or `chosen` and `rejected` alone, which begin
            with the same prompt. Beside them it may have columns of media, which belong to both answers.
        name: of the row, for errors.

    Raises:
        ValueError: the row has no such columns, or there is nothing to prefer, because both answers are the same.

    Example:
        >>> ask = [{"role": "user", "content": "What?"}]
        >>> better, worse = [[{"role": "assistant", "content": text}] for text in ("A dog.", "A cat.")]
        >>> first, _ = row_pair({"prompt": ask, "chosen": better, "rejected": worse}, "row 0")
        >>> first.get("completion")
        [{'role': 'assistant', 'content': 'A dog.'}]
    """
    _refuse_unread(row, name)
    chosen, rejected = (_messages(row, column, name) for column in ("chosen", "rejected"))
    if row.get("prompt") is not None:
        prompt = _messages(row, "prompt", name)
    else:
        length = _prompt_length(chosen)
        prompt = chosen[:length]
        if not prompt or rejected[:length] != prompt:
            raise ValueError(
                f"{name}: chosen and rejected must begin with the same prompt, or the row must have prompt."
            )
        chosen, rejected = chosen[length:], rejected[length:]
    if chosen == rejected:
        raise ValueError(f"{name}: chosen and rejected are the same ({shown(chosen)}), so neither can be preferred.")
    shared = {**_media(row), "prompt": prompt}
    return {**shared, "completion": chosen}, {**shared, "completion": rejected}


def prompt_row(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The prompt of a row and its media, as a row for `rows.read_row`.

    Args:
        row: it has `prompt`, a list of messages that ends with one of the user, and may have columns of media.
        name: of the row, for errors.

    Raises:
        ValueError: there is no such prompt.
    """
    _refuse_unread(row, name)
    prompt = _messages(row, "prompt", name)
    if prompt[-1].get("role") == "assistant":
        raise ValueError(f"{name}: prompt ends with an answer: take the last message out, the model writes it itself.")
    return {**_media(row), "messages": prompt}


def _messages(row: Mapping[str, Any], column: str, name: str) -> list[Mapping[str, Any]]:
    value = row.get(column)
    if value is None:
        raise ValueError(f"{name} has no {column}: give a list of messages with role and content.")
    is_list = isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0
    if not is_list or not all(isinstance(message, Mapping) for message in value):
        raise ValueError(f"{name}: {column} must be a list of messages with role and content, not {shown(value)}.")
    return list(value)


def _media(row: Mapping[str, Any]) -> dict[str, Any]:
    columns = ("id", *(column for pair in MEDIA_COLUMNS.values() for column in pair))
    return {column: row[column] for column in columns if column in row}


def _prompt_length(messages: Sequence[Mapping[str, Any]]) -> int:
    """Number of messages up to the last one that is not an answer."""
    roles = [message.get("role") for message in messages]
    return max((number + 1 for number, role in enumerate(roles) if role != "assistant"), default=0)


def _refuse_unread(row: Mapping[str, Any], name: str) -> None:
    for column in NOT_READ:
        if row.get(column):
            raise ValueError(f"{name} has {column}, which the chat templates of video models do not read: take it out.")
