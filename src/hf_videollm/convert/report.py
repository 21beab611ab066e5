"""The report of a finished conversion, as a table and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

Rows = list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class WrittenReport:
    """The report of any conversion. Each kind of conversion adds its sources and its own details.

    Attributes:
        destination: the folder that was written.
        parameters: number of values of the model.
        weight_bytes: size of the written weights.
        weight_files: names of the weight files.
        dtype: type in which the model is loaded, as its configuration says.
        token_ids: maps each modality to the id of its placeholder.
        has_processor: whether tokenizer and processor files were written; `None` if the model needs none.
        notes: notes for the user, in sentences.
    """

    destination: str
    parameters: int
    weight_bytes: int
    weight_files: list[str]
    dtype: str
    token_ids: dict[str, int] = field(default_factory=dict)
    has_processor: bool | None = None
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def source_rows(self) -> Rows:
        """Rows that name the sources: name and value of each row."""
        raise NotImplementedError

    def detail_rows(self) -> Rows:
        """Rows with the details of this kind of conversion."""
        return []

    def render(self) -> Group:
        """A table and the notes, for a rich console."""
        rows = [*self.source_rows(), ("written to", self.destination), ("parameters", f"{self.parameters:,}")]
        rows.append(("weights", f"{self.weight_bytes:,} bytes in {len(self.weight_files)} file(s), {self.dtype}"))
        rows += self.detail_rows()
        if self.token_ids:
            ids = ", ".join(f"{modality} {token_id}" for modality, token_id in self.token_ids.items())
            rows.append(("placeholder ids", ids))
        if self.has_processor is not None:
            rows.append(("processor", "written" if self.has_processor else "NOT written: no tokenizer"))
        table = Table(show_header=False, box=None)
        for name, value in rows:
            # `Text`, because rich would read brackets in a path as markup.
            table.add_row(name, Text(value))
        return Group(table, *(Text(f"note: {note}", overflow="fold") for note in self.notes))


__all__ = ["Rows", "WrittenReport"]
