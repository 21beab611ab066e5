"""The report of a finished build."""

from dataclasses import dataclass, field

from ..convert.report import Rows, WrittenReport


@dataclass(frozen=True, kw_only=True)
class BuildReport(WrittenReport):
    """What a model was built from.

    Attributes:
        design: name of the design.
        sources: maps the name of each source to its folder.
        new_parts: names of the parts that no source has.
        new_parameters: number of values in these parts.
        seed: random seed of these values.
        next_step: the first training stage, in words.
    """

    design: str
    sources: dict[str, str] = field(default_factory=dict)
    new_parts: list[str] = field(default_factory=list)
    new_parameters: int = 0
    seed: int = 0
    next_step: str = ""

    def source_rows(self) -> Rows:
        new = f"{self.new_parameters:,} random values, seed {self.seed}"
        return [("design", self.design), *self.sources.items(), (", ".join(self.new_parts), new)]

    def detail_rows(self) -> Rows:
        return [("next", self.next_step)]


__all__ = ["BuildReport"]
