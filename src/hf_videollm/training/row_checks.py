"""Checks the rows of a training before a model is loaded: their forms, answers, and whether the files are there.

Nothing is decoded. Of a dataset that can be read in any order all rows are checked; of one that is streamed only the
first, because nobody knows how long it takes to read the others.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.bad_media import BadFile, check_share, summary
from ..data.missing_media import missing_file
from ..models.errors import MediaNotFound
from ..models.media_dataset_columns import without_decoding
from .collator import VideoDataCollator
from .recipe_errors import is_number
from .row_numbers import numbered_row

__all__ = ["MAX_BAD", "CheckedRows", "check_eval_rows", "check_max_bad", "check_rows"]

logger = logging.getLogger(__name__)
# Largest share of rows with missing or broken media, as in mixes.
MAX_BAD = 0.01
# From so many rows on, a bar shows how far the check is.
_ROWS_WITH_BAR = 5_000
_ROWS_AT_ONCE = 256
# It stands for the bytes of a medium, which are not read for the check.
_HELD = b"held"


@dataclass(frozen=True)
class CheckedRows:
    """Rows of a dataset that were checked.

    Attributes:
        rows: the dataset without rows whose files are missing.
        missing: those rows.
        total: number of all rows; 0 if nobody knows it.
        key: column with a name of its own for each row; None if there is none.
    """

    rows: Any
    missing: Sequence[BadFile] = ()
    total: int = 0
    key: str | None = None


def check_max_bad(max_bad: Any) -> float:
    """The largest share of bad rows.

    Raises:
        ValueError: it is no share.
    """
    if not is_number(max_bad) or not 0 <= max_bad <= 1:
        raise ValueError(f"max_bad must be a share of the rows from 0 to 1, not {max_bad!r}: 0 stops at the first one.")
    return float(max_bad)


def check_rows(
    dataset: Any,
    collator: VideoDataCollator,
    where: str,
    max_bad: float = MAX_BAD,
    *,
    must_end: bool = False,
    show_bar: bool = False,
) -> CheckedRows:
    """Check the rows of a dataset, and leave out those whose files are missing.

    Args:
        dataset: a `Dataset`, an `IterableDataset` or a list.
        collator: will read the rows.
        where: name of the dataset, for errors.
        max_bad: largest share of rows whose files may be missing.
        must_end: whether each row must end with an answer.
        show_bar: whether a bar may show how far a long check is.

    Raises:
        TypeError: it is no dataset.
        ValueError: there is no row; or one has no answer, or media that do not fit its messages. The message names it.
        TooManyBadMediaError: more files than allowed are missing.
    """
    if isinstance(dataset, str | Path | Mapping) or not isinstance(dataset, Iterable):
        splits = f" with {', '.join(map(str, dataset))}: pass one of them" if isinstance(dataset, Mapping) else ""
        raise TypeError(
            f"{where} must be a datasets.Dataset or IterableDataset, not a {type(dataset).__name__}{splits}."
        )
    dataset = without_decoding(dataset)
    missing: dict[int, BadFile] = {}
    names: list[str] = []
    found = False
    for number, row in enumerate(_bar(dataset, where, show_bar)):
        found, name = True, numbered_row(where, number, row)
        names.append(str(row.get("id") or "") if isinstance(row, Mapping) else "")
        if (path := _check_row(row, collator, name, must_end)) is not None:
            missing[number] = BadFile(names[-1] or f"row {number}", path, "missing")
    if not found:
        raise ValueError(f"{where} has no rows: give at least one, and look at what filters it.")
    if not _is_read_whole(dataset):
        if missing:
            raise MediaNotFound(f"{where}, row 0: {missing[0].path}: there is no such file; check the path.")
        return CheckedRows(dataset)
    bad = list(missing.values())
    check_share(bad, len(dataset), max_bad, where)
    if bad:
        logger.warning("%s: %s", where, summary(bad, len(dataset)))
    rows, key = _named_rows(dataset, names)
    if bad:
        there = [number for number in range(len(names)) if number not in missing]
        if not there:
            raise ValueError(f"{where}: the files of all rows are missing, so no row is left: {bad[0].path}.")
        rows = [rows[number] for number in there] if isinstance(rows, list) else rows.select(there)
    return CheckedRows(rows, bad, len(names), key)


def check_eval_rows(
    dataset: Any, collator: VideoDataCollator, max_bad: float, *, must_end: bool = False, show_bar: bool = False
) -> Any:
    """The evaluation rows, checked as those of the training.

    Args:
        dataset: a dataset, a dict of datasets, or None.
        collator: as in `check_rows`.
        max_bad: as in `check_rows`.
        must_end: whether each row must end with an answer, with which a generated one is compared.
        show_bar: as in `check_rows`.
    """
    if dataset is None:
        return None
    options: dict[str, Any] = {"must_end": must_end, "show_bar": show_bar}
    if isinstance(dataset, Mapping):
        return {
            name: check_rows(rows, collator, f"eval_dataset[{name!r}]", max_bad, **options).rows
            for name, rows in dataset.items()
        }
    return check_rows(dataset, collator, "eval_dataset", max_bad, **options).rows


def _check_row(row: Any, collator: VideoDataCollator, name: str, must_end: bool) -> str | None:
    """The first file of a row that is missing."""
    if not isinstance(row, Mapping):
        raise ValueError(f"{name} is a {type(row).__name__}: give a mapping, such as {{'messages': [...]}}.")
    try:
        sources = collator.sources(row, name, must_end=must_end)
    except MediaNotFound as error:
        # Of a folder of frames, a part is chosen by what is in it.
        return str(error).partition(": ")[0]
    return missing_file(sources)


def _is_read_whole(dataset: Any) -> bool:
    """Whether all rows can be read without work that nobody knows: a transform of the user may decode videos."""
    return isinstance(dataset, list | tuple) or (_is_dataset(dataset) and dataset.format["type"] != "custom")


def _is_dataset(dataset: Any) -> bool:
    from datasets import Dataset

    return isinstance(dataset, Dataset)


def _bar(dataset: Any, where: str, show_bar: bool) -> Iterator[Any]:
    """The rows to check, all or the first."""
    if not _is_read_whole(dataset):
        yield from (row for row, _ in zip(dataset, range(1), strict=False))
        return
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    is_long = show_bar and isinstance(dataset, Sized) and len(dataset) >= _ROWS_WITH_BAR
    rows = iter(dataset) if isinstance(dataset, list | tuple) else _light_rows(dataset)
    yield from tqdm(rows, total=len(dataset), desc=f"Checking {where}", disable=not is_long)


def _light_rows(dataset: Any) -> Iterator[dict[str, Any]]:
    """The rows of a dataset; the bytes of media in its columns are not read."""
    for table in dataset.with_format("arrow").iter(batch_size=_ROWS_AT_ONCE):
        columns = {name: _light(table[name].combine_chunks()) for name in table.column_names}
        for number in range(table.num_rows):
            yield {name: values[number] for name, values in columns.items()}


def _light(column: Any) -> list[Any]:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.compute  # type: ignore[import-untyped]

    kind = column.type
    if pyarrow.types.is_struct(kind) and {"bytes", "path"} <= {field.name for field in kind}:
        held = pyarrow.compute.is_valid(pyarrow.compute.struct_field(column, "bytes")).to_pylist()
        paths = pyarrow.compute.struct_field(column, "path").to_pylist()
        there = column.is_valid().to_pylist()
        media = zip(held, paths, there, strict=True)
        return [
            {"bytes": _HELD if is_held else None, "path": path} if is_there else None
            for is_held, path, is_there in media
        ]
    if (pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind)) and pyarrow.types.is_struct(kind.value_type):
        lengths = pyarrow.compute.list_value_length(column).to_pylist()
        if {"bytes", "path"} <= {field.name for field in kind.value_type}:
            parts = iter(_light(column.flatten()))
            return [None if length is None else [next(parts) for _ in range(length)] for length in lengths]
    values: list[Any] = column.to_pylist()
    return values


def _named_rows(dataset: Any, names: Sequence[str]) -> tuple[Any, str | None]:
    """The rows with a column that names each of them: their ids or, if they have none, their numbers."""
    if isinstance(dataset, list | tuple):
        return list(dataset), None
    if all(names) and len(set(names)) == len(names):
        return dataset, "id"
    key = "id" if "id" not in dataset.column_names else "row"
    if key in dataset.column_names:
        return dataset, None
    return dataset.add_column(key, [f"row {number}" for number in range(len(names))]), key
