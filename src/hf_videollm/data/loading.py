"""`load_data`: any file of training data as a dataset of canonical records."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..atomic import atomic_file
from ..version import __version__
from .formats import FORMATS, find_format
from .json_stream import stream_json_list
from .parsed_files import DataError, delimiter_of, read_json, read_json_lines, read_parquet, read_table
from .reading import Format, Source
from .record import Record, RecordError, record_features
from .rows import Row

__all__ = [
    "default_name",
    "detect_format",
    "load_data",
    "open_source",
    "read_data",
    "state_of",
    "whole_path",
    "write_data",
]

# Names of files that say nothing about the data.
_SPLITS = ("train", "val", "valid", "validation", "test")
_TASKS_OF_VIDEOCHAT2 = ("caption", "classification", "conversation", "reasoning", "vqa")


def load_data(
    path: str | os.PathLike[str],
    format: str | None = None,
    *,
    root: str | os.PathLike[str] | None = None,
    name: str | None = None,
    split: str = "train",
    streaming: bool = False,
    cache_dir: str | None = None,
    **options: Any,
) -> Any:
    """A file of training data as a dataset of canonical records (`record_features`), with the paths of its media whole.

    Args:
        path: the file.
        format: letter or name of its format, such as `V` or `videochat2`; it is recognised by its fields by default.
        root: folder that the media are below; the folder of the file by default.
        name: `source` of the records; see `default_name`.
        split: `split` of the records.
        streaming: make an `IterableDataset`, which reads the file anew in every epoch.
        cache_dir: folder for the dataset, by default that of `datasets`. A file that was not changed is read once.
        options: of the format, such as `order="media_first"`; see `data/formats/`.

    Returns:
        A `datasets.Dataset`, or an `IterableDataset` if it is streamed.

    Raises:
        DataError: the file is wrong (the message names file, row and field), or its format is not clear.

    Example:
        >>> dataset = load_data("VideoInstruct100K.json", root="activitynet")  # doctest: +SKIP
        >>> dataset.num_rows  # doctest: +SKIP
        100010
    """
    from datasets import Dataset, IterableDataset
    from datasets.exceptions import DatasetGenerationError

    source, found = open_source(path, format, root=root, name=name, split=split, options=options)
    arguments = {
        "path": str(source.path),
        "letter": found.letter,
        "root": str(source.root),
        "name": source.name,
        "split": split,
        "options": dict(source.options),
    }
    if streaming:
        return IterableDataset.from_generator(_whole_records, features=record_features(), gen_kwargs=arguments)
    state = state_of(source.path, source.root, source.options)
    try:
        return Dataset.from_generator(
            _whole_records,
            features=record_features(),
            cache_dir=cache_dir,
            gen_kwargs={**arguments, "state": state},
        )
    except DatasetGenerationError as error:
        # What went wrong in a row is more than that something did.
        if isinstance(error.__cause__, DataError):
            raise error.__cause__ from None
        raise


def read_data(
    path: str | os.PathLike[str], format: str | None = None, *, root: str | os.PathLike[str] | None = None, **more: Any
) -> Iterator[Record]:
    """The records of a file one by one, with the paths of media as they stand in it.

    Args:
        path: the file.
        format: as in `load_data`.
        root: as in `load_data`.
        more: `name` and `split`, as in `load_data`, and options of the format.

    Raises:
        DataError: as `load_data`, when the wrong row is reached.
    """
    known = {name: more.pop(name) for name in ("name", "split") if name in more}
    source, found = open_source(path, format, root=root, options=more, **known)
    return found.read(source)


def write_data(records: Iterable[Mapping[str, Any]], path: str | os.PathLike[str], format: str, **options: Any) -> Path:
    """Write records as a file of a foreign format. The file appears complete or not at all.

    The file is read again before it appears. What the format cannot hold is an error, so nothing is lost.

    Args:
        records: canonical records of one source and split.
        path: the file; its ending says whether it is JSON, JSON lines or a table, where the format allows several.
        format: letter or name of the format.
        options: of the format, with which the file is to be read again.

    Raises:
        RecordError: there are no records, they are of several sources, or a record would come back changed.
        DataError: the format or an option is unknown.
    """
    path, given, known = Path(path), [dict(record) for record in records], find_format(format)
    if not given:
        raise RecordError(f"{path}: there are no records to write.")
    if known.letter != "R" and len({(record["source"], record["split"]) for record in given}) > 1:
        raise RecordError(f"{path}: the records are of several sources or splits: write a file for each.")
    if path.suffix not in known.suffixes:
        raise DataError(f"{path}: format {known.letter} has files with {', '.join(known.suffixes)}.")
    with tempfile.TemporaryDirectory(prefix="hf_videollm_") as folder:
        written = Path(folder) / path.name
        try:
            known.write(given, written)
        except (IndexError, KeyError, StopIteration) as error:
            raise RecordError(f"{path}: format {known.letter} cannot hold such records ({error!r}).") from error
        first = given[0]
        again = read_data(written, known.letter, name=first["source"], split=first["split"], root=folder, **options)
        _compare(given, list(again), known)
        with atomic_file(path) as temporary:
            shutil.copyfile(written, temporary)
    return path


def _compare(given: list[dict[str, Any]], again: list[Record], known: Format) -> None:
    """Refuse what the format has changed or lost."""
    for before, after in zip(given, again, strict=False):
        for field in after:
            if before.get(field) != after[field]:
                raise RecordError(
                    f"record {before['id']!r}: format {known.letter} ({known.name}) cannot hold its {field} "
                    f"{_short(before.get(field))}; it would be read as {_short(after[field])}. R (records) holds all."
                )
    if len(given) != len(again):
        raise RecordError(f"format {known.letter} would hold {len(again)} of {len(given)} records: use R (records).")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 160 else f"{text[:160]}..."


def open_source(
    path: str | os.PathLike[str],
    format: str | None = None,
    *,
    root: str | os.PathLike[str] | None = None,
    name: str | None = None,
    split: str = "train",
    options: Mapping[str, Any] | None = None,
) -> tuple[Source, Format]:
    """A file and its format, with everything checked that can be checked before rows are read.

    Raises:
        DataError: there is no such file or folder, or the format or an option is unknown.
    """
    place = Path(path)
    if not place.is_file():
        what = "is a folder: give the annotation file in it" if place.is_dir() else "there is no such file"
        raise DataError(f"{place}: {what}.")
    folder = place.parent if root is None else Path(root)
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder of media (root of {place}).")
    given = dict(options or {})
    header = given.get("header")
    found = find_format(format, str(place)) if format is not None else detect_format(place, header)
    return Source(place, name or default_name(place), split, folder, found.with_defaults(given, str(place))), found


def default_name(path: Path) -> str:
    """The name of a file without its ending or, if that only names a split, the folder's name.

    Example:
        >>> default_name(Path("VideoInstruct100K.json")), default_name(Path("video/vqa/ego_qa/train.json"))
        ('VideoInstruct100K', 'vqa/ego_qa')
    """
    if path.stem.lower() not in _SPLITS or not path.absolute().parent.name:
        return path.stem
    # VideoChat2-IT has a folder for each task, and in it one for each data set.
    parts = path.absolute().parts[-3:-1]
    return "/".join(parts) if parts[0] in _TASKS_OF_VIDEOCHAT2 else parts[-1]


def detect_format(path: str | os.PathLike[str], header: list[str] | None = None) -> Format:
    """The only format that the first row of a file fits.

    Args:
        path: the file.
        header: the columns of a table without a header.

    Raises:
        DataError: no format fits, or several; the message names them.
    """
    place = Path(path)
    row = _first_row(place, header)
    fitting = [known for known in FORMATS.values() if place.suffix.lower() in known.suffixes and known.fits(row, place)]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(f"{known.letter} ({known.name})" for known in fitting or FORMATS.values())
    fields = ", ".join(map(str, list(row.values)[:12]))
    if fitting:
        raise DataError(f"{place}: with the fields {fields} it may be {names}: say which, as format.")
    raise DataError(f"{place}: with the fields {fields} it is none of the formats {names}: say which one it is like.")


def _first_row(path: Path, header: list[str] | None) -> Row:
    suffix = path.suffix.lower()
    value: Any = None
    if suffix == ".json":
        with path.open("rb") as file:
            start = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
        value = read_json(path) if start == b"{" else next(stream_json_list(path), None)
    elif suffix in (".jsonl", ".ndjson"):
        value = next(read_json_lines(path))[1]
    elif suffix in (".csv", ".tsv", ".txt"):
        lines = read_table(path, delimiter_of(path))
        names = header or next(lines)[1]
        value = dict(zip(names, next(lines, (0, [""] * len(names)))[1], strict=False))
    elif suffix == ".parquet":
        value = next(read_parquet(path)[1], None)
    else:
        raise DataError(f"{path}: {suffix or 'no ending'} is no .json, .jsonl, .csv, .tsv or .parquet.")
    if value is None:
        raise DataError(f"{path} holds no row: fetch the file again.")
    return Source.row(value, f"{path}, first row")


def _whole_records(
    path: str, letter: str, root: str, name: str, split: str, options: dict[str, Any], state: Any = None
) -> Iterator[Record]:
    """The records with whole paths; a function of a module, so that other processes can call it."""
    source = Source(Path(path), name, split, Path(root), options)
    for record in source.some(FORMATS[letter].read(source)):
        for message in record["messages"]:
            for block in message["content"]:
                block.update(whole_path(block, Path(root)))
        yield record


def state_of(path: Path, root: Path, options: Mapping[str, Any]) -> str:
    """Changes with a file, those that options name, the folder of media (readers find endings there), and this package.

    `datasets` takes an earlier result if all arguments are the same, so this is one of them. It is a text, because a
    list would be divided among processes.
    """
    named = [path.parent / value for value in options.values() if isinstance(value, str)]
    facts = [file.stat() for file in (path, *named) if file.is_file()]
    files = " ".join(f"{fact.st_size} {fact.st_mtime_ns}" for fact in facts)
    return f"{files} {root.stat().st_mtime_ns} {__version__}"


def whole_path(block: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """`path` and `root` of a block whose path stands alone. An address stays as it is."""
    if block["path"] is None or "://" in block["path"]:
        return {}
    return {"path": str(Path(block["root"] or root) / block["path"]), "root": None}
