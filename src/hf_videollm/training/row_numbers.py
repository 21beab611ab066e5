"""Names the row of a dataset that cannot be made into a batch. Rows need no ids for that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from typing import Any, TypeVar

from ..models.errors import MediaError
from ..models.media_dataset_columns import without_decoding
from .caches.broken import FAULTS_OF_SETUP
from .collator import row_name

__all__ = ["Made", "name_wrong_row", "named_datasets", "numbered_row"]

Made = TypeVar("Made")


def named_datasets(train_dataset: Any, eval_dataset: Any = None) -> dict[str, Any]:
    """The datasets of a trainer with the names that errors call them by.

    Args:
        train_dataset: rows to train on.
        eval_dataset: rows to evaluate on, or a dict of names to rows.

    Example:
        >>> list(named_datasets([], {"short": [], "long": []}))
        ['train_dataset', "eval_dataset['short']", "eval_dataset['long']"]
    """
    if isinstance(eval_dataset, Mapping):
        others = {f"eval_dataset[{name!r}]": rows for name, rows in eval_dataset.items()}
    else:
        others = {"eval_dataset": eval_dataset}
    return {name: rows for name, rows in {"train_dataset": train_dataset, **others}.items() if rows is not None}


def numbered_row(where: str, number: int, row: Any) -> str:
    """The name of a row in errors.

    Args:
        where: name of its dataset.
        number: its place there.
        row: the row, whose id is added if it has one.

    Example:
        >>> numbered_row("train_dataset", 3, {"id": "a"})
        "train_dataset, row 3 (id 'a')"
    """
    return f"{where}, row {number}{_own_id(row)}"


def name_wrong_row(
    make: Callable[[Sequence[Mapping[str, Any]], Sequence[str]], Made],
    rows: Sequence[Mapping[str, Any]],
    datasets: Mapping[str, Any],
) -> Made:
    """Make something of rows, such as a batch. If that fails, the error begins with the row that is wrong.

    Args:
        make: gets the rows, and their names for errors.
        rows: the rows.
        datasets: where the rows come from, with names. A row of a stream has no number: its place in the batch is
            named.

    Raises:
        ValueError: a row is wrong. A `MediaError` keeps its class.
    """
    try:
        return make(rows, [row_name(row) for row in rows])
    except FAULTS_OF_SETUP:
        raise
    except ValueError as error:
        # The rows are tried one by one, because few errors of libraries say which row they mean. To find the number of
        # a row takes time, which is spent only for the one that is named.
        for place, row in enumerate(rows):
            if _error_of(make, row, row_name(row)) is not None:
                name = _name(row, place, datasets)
                found = _error_of(make, row, name) or error
                text = str(found)
                kind = type(found) if isinstance(found, MediaError) else ValueError
                raise kind(text if text.startswith(name) else f"{name}: {text}") from error
        raise


def _error_of(make: Callable[[Sequence[Any], Sequence[str]], Any], row: Any, name: str) -> ValueError | None:
    try:
        make([row], [name])
    except ValueError as error:
        return error
    return None


def _name(row: Mapping[str, Any], place: int, datasets: Mapping[str, Any]) -> str:
    for name, rows in datasets.items():
        if (number := next(_places(row, rows), None)) is not None:
            return numbered_row(name, number, row)
    return f"Row {place} of the batch{_own_id(row)}"


def _own_id(row: Any) -> str:
    own = row.get("id") if isinstance(row, Mapping) else None
    return "" if own is None else f" (id {own!r})"


def _places(row: Mapping[str, Any], rows: Any) -> Iterator[int]:
    """The places of a dataset at which this row stands, as far as rows can be compared."""
    if not isinstance(rows, Sized):
        return
    for number, other in enumerate(without_decoding(rows)):
        try:
            if bool(other == row):
                yield number
        except (ValueError, TypeError, RuntimeError):  # such as arrays, which do not say whether they are equal
            continue
