"""Changes annotation files of stand-ins as a mistake would: rows twice, rows gone, values of another type."""

import copy
import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hf_videollm.synthetic.benchmarks.media import write_parquet

# Rows stand so deep at most, e.g. in {video: {"mc_question": [row, ...]}}.
DEEPEST = 2


def annotation_files(folder: Path) -> list[Path]:
    """The annotation files of a stand-in. Subtitles are none: nobody may speak in a video."""
    kinds = (".json", ".jsonl", ".csv", ".parquet")
    found = (path for path in folder.rglob("*") if path.suffix in kinds and path.is_file())
    return sorted(path for path in found if path.parent.name not in ("subtitle", "subtitles"))


def kind_of(path: Path) -> str:
    """The kind of a file by its suffix; JSON lines whatever the name says."""
    if path.suffix == ".json" and path.name == "qa_val.json":
        return ".jsonl"
    return path.suffix


def read(path: Path) -> Any:
    """Content of a file: the value of JSON, or a list of rows."""
    if kind_of(path) == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    if kind_of(path) == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if kind_of(path) == ".csv":
        return list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path).to_pylist()


def write(path: Path, value: Any) -> None:
    """The inverse of `read`."""
    if kind_of(path) == ".json":
        path.write_text(json.dumps(value), encoding="utf-8")
    elif kind_of(path) == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in value), encoding="utf-8")
    elif kind_of(path) == ".csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(value)
        path.write_text(text.getvalue(), encoding="utf-8")
    else:
        write_parquet(path, value)


def lists_of_rows(value: Any, depth: int = 0) -> Iterator[list[Any]]:
    """The outermost lists of objects in a value of JSON."""
    if isinstance(value, list):
        if value and isinstance(value[0], dict):
            yield value
    elif isinstance(value, dict) and depth < DEEPEST:
        for entry in value.values():
            yield from lists_of_rows(entry, depth + 1)


def first_row(value: Any) -> dict[str, Any]:
    """The first row of a file of JSON: in a list, or the object in its first field."""
    for rows in lists_of_rows(value):
        row: dict[str, Any] = rows[0]
        return row
    first: dict[str, Any] = next(iter(value.values())) if isinstance(value, dict) else value[0]
    return first


def has_header(path: Path) -> bool:
    """Whether the first row of a file names the columns."""
    return kind_of(path) == ".csv" and path.name != "vggsound.csv"


def with_a_row_twice(path: Path, last: bool) -> None:
    """Write the first or the last row a second time, at the end; in JSON, that of the first list."""
    value = read(path)
    rows = next(lists_of_rows(value)) if kind_of(path) == ".json" else value
    rows.append(copy.deepcopy(rows[-1 if last else 1 if has_header(path) else 0]))
    write(path, value)


def with_first_key_twice(path: Path) -> str:
    """Write the first field of a JSON object a second time; its name."""
    value = read(path)
    name, entry = next(iter(value.items()))
    path.write_text(f"{{{json.dumps(name)}: {json.dumps(entry)}, {json.dumps(value)[1:]}", encoding="utf-8")
    return str(name)


def changes_of_rows(path: Path, values: list[Any]) -> Iterator[tuple[str, Callable[[], None]]]:
    """For each field and each value: the name of the field, and a function that writes it into the first row.

    In Parquet, a column has one type, so the value is written into all rows, and it holds no empty objects. In a table,
    values are texts; without a header, columns have no names.
    """
    content = read(path)
    if kind_of(path) == ".csv":
        line = 1 if has_header(path) else 0
        for column, name in enumerate(content[0]):
            for value in (value for value in values if isinstance(value, str)):
                yield (
                    name if line else "",
                    lambda column=column, value=value: write(path, _with_cell(content, line, column, value)),
                )
        return
    values = [value for value in values if value != {} or kind_of(path) != ".parquet"]
    row = content[0] if kind_of(path) != ".json" else first_row(content)
    if not isinstance(row, dict):
        return
    for name in list(row):
        for value in values:
            yield name, lambda name=name, value=value: write(path, _with_value(path, content, name, value))


def _with_cell(table: list[list[str]], line: int, column: int, value: str) -> list[list[str]]:
    changed = copy.deepcopy(table)
    changed[line][column] = value
    return changed


def _with_value(path: Path, content: Any, name: str, value: Any) -> Any:
    changed = copy.deepcopy(content)
    of_json = [first_row(changed) if kind_of(path) == ".json" else changed[0]]
    rows = changed if kind_of(path) == ".parquet" else of_json
    for row in rows:
        row[name] = value
    return changed
