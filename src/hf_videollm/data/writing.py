"""Writes rows as the files that the readers of this package read."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["write_csv", "write_json", "write_json_lines", "write_rows"]


def write_json(value: Any, path: Path) -> None:
    """One JSON value."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def write_json_lines(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """One JSON object in each line."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A table with the columns of all rows. Lists and objects become JSON; what is missing is an empty field."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, delimiter="," if path.suffix == ".csv" else "\t")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _cell(value) for name, value in row.items()})


def write_rows(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Rows as a table, as JSON lines or as a list in JSON, as the ending of the path says."""
    if path.suffix in (".csv", ".tsv"):
        write_csv(list(rows), path)
    elif path.suffix in (".jsonl", ".ndjson"):
        write_json_lines(rows, path)
    else:
        write_json(list(rows), path)


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
