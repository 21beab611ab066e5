"""Looks at a mix before a training: counts, lengths, tokens, whether a sample can be decoded, and one example."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from ..data.bad_media import BadFile, check_share
from ..data.decoding import decoded_seconds
from ..data.mix import Mix, MixError, load_mix
from ..data.mix_plan import PreparedMix, SourceCounts, prepare_mix, ranked
from ..data.mix_rows import read_source
from ..data.records import drop_none
from ..models.errors import one_line

__all__ = ["MixReport", "Spread", "check_mix"]


@dataclass(frozen=True)
class Spread:
    """The smallest, the middle and the largest of some numbers."""

    smallest: float
    middle: float
    largest: float
    number: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None if there are no values."""
        return cls(min(values), median(values), max(values), len(values)) if values else None

    def __str__(self) -> str:
        return f"{self.smallest:,.4g} to {self.largest:,.4g}, median {self.middle:,.4g}"


@dataclass(frozen=True)
class MixReport:
    """What a check found.

    Attributes:
        mix: the file.
        rows: rows of an epoch.
        sources: counts of each source.
        dropped: source -> reason -> rows that the rules of its format leave out.
        modalities: modality -> rows of an epoch.
        types: type -> rows of an epoch.
        missing: rows that were left out because a file is missing.
        sampled: rows whose media were decoded.
        broken: those of them that could not be decoded.
        seconds: lengths of the videos and sounds that were decoded; of the part that is shown.
        tokens: tokens of the sampled rows, as the model gets them; None without a model.
        learned: those of them that are learned.
        example: texts of one row, each with whether it is learned.
        max_bad: share of rows with missing or broken media that the mix allows.
    """

    mix: str
    rows: int
    sources: Sequence[SourceCounts]
    dropped: Mapping[str, Mapping[str, int]]
    modalities: Mapping[str, int]
    types: Mapping[str, int]
    missing: Sequence[BadFile]
    sampled: int
    broken: Sequence[BadFile]
    seconds: Spread | None
    tokens: Spread | None
    learned: Spread | None
    example: Sequence[tuple[str, bool]] = field(default=())
    max_bad: float = 1.0

    def refuse_broken(self) -> None:
        """Refuse the mix if more of the sampled rows are broken than it allows, because a training would stop.

        Raises:
            TooManyBadMediaError: they are.
        """
        check_share(self.broken, self.sampled, self.max_bad, f"{self.mix}, sampled rows")

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return asdict(self)

    def render(self) -> Any:
        """The report for a terminal. What is learned is green; without colours it stands in [brackets], too."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table("source", "format", *_right("rows", "videos", "used", "of videos", "repeat", "missing"))
        for each in self.sources:
            numbers = (each.rows, each.videos, each.chosen, each.chosen_videos, each.repeat, each.missing)
            table.add_row(each.source, each.format, *(f"{number:,}" for number in numbers))
        lines = [f"{self.rows:,} rows in an epoch: {_counts(self.modalities)}; types: {_counts(self.types)}"]
        lines += [f"{name}: left out by the format: {_counts(reasons)}" for name, reasons in self.dropped.items()]
        if self.missing:
            lines.append(f"missing: {', '.join(each.path for each in self.missing[:3])}{_more(self.missing, 3)}")
        if self.sampled:
            lines.append(f"decoded {self.sampled} rows, of which {len(self.broken)} are broken")
            lines += [f"broken: {each.id}: {each.reason}" for each in self.broken]
        if self.seconds is not None:
            lines.append(f"seconds of {self.seconds.number} media: {self.seconds}")
        if self.tokens is not None:
            lines.append(f"tokens of {self.tokens.number} rows: {self.tokens}; of these are learned: {self.learned}")
        example = Text("\n")
        for text, is_learned in self.example:
            example.append(f"[{text}]" if is_learned else text, style="bold green" if is_learned else "")
        return Group(table, *(Text(line) for line in lines), example)


def check_mix(
    path: str | os.PathLike[str], *, model: str | None = None, sample: int = 8, cache_dir: str | None = None
) -> MixReport:
    """Look at a mix. No training is started, and no model is loaded, only its processor if it is given.

    Args:
        path: the mix file.
        model: checkpoint whose processor makes tokens of the rows.
        sample: number of rows whose media are decoded; always the same ones.
        cache_dir: as in `prepare_mix`.

    Raises:
        DataError: the mix, a source or a row is wrong, or too many files are missing.

    Example:
        >>> check_mix("mix.yaml", sample=4).rows  # doctest: +SKIP
        783000
    """
    mix = load_mix(path)
    prepared = prepare_mix(mix, cache_dir)
    order = prepared.order()
    sampled = _sampled(prepared, sample)
    collator = None if model is None else _collator(model)
    if collator is not None:
        refuse_unheard(mix, collator.processor)
    broken: list[BadFile] = []
    seconds: list[float] = []
    tokens: list[int] = []
    learned: list[int] = []
    example: list[tuple[str, bool]] = []
    for row in sampled:
        try:
            seconds += decoded_seconds(row)
            if collator is not None:
                batch = collator([row])
                tokens.append(int(batch["attention_mask"].sum()))
                learned.append(int((batch["labels"] >= 0).sum()))
            example = example or (_plain(row) if collator is None else collator.learned_texts(row))
        except ValueError as error:
            broken.append(BadFile(row["id"], "", one_line(error)))
    first = prepared.rows(0)[0] if not sampled else None
    return MixReport(
        mix=str(mix.path),
        rows=len(order),
        sources=prepared.sources,
        dropped=_dropped(prepared),
        modalities=dict(Counter(prepared.modalities[row] for row in order)),
        types=dict(Counter(prepared.types[row] for row in order)),
        missing=prepared.missing,
        sampled=len(sampled),
        broken=broken,
        seconds=Spread.of(seconds),
        tokens=Spread.of(tokens),
        learned=Spread.of(learned),
        example=example if first is None else _plain(first),
        max_bad=mix.max_bad,
    )


def _sampled(prepared: PreparedMix, number: int) -> list[dict[str, Any]]:
    """Different rows, drawn by the seed of the mix."""
    rows = prepared.rows(None)
    places = {name: place for place, name in enumerate(rows["id"][:])}
    return [rows[places[name]] for name in ranked(list(places), prepared.mix.seed)[:number]]


def refuse_unheard(mix: Mix, processor: Any) -> None:
    """Refuse `use_audio: true` for a processor that cannot hear.

    Raises:
        MixError: a source asks for it.
    """
    from .hearing import unheard

    if (fault := unheard(mix, processor)) is not None:
        raise MixError(fault)


def _collator(model: str) -> Any:
    from transformers import AutoProcessor

    from .collator import VideoDataCollator

    return VideoDataCollator(AutoProcessor.from_pretrained(model, trust_remote_code=False))


def _plain(row: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """A row as text, where no processor says how the model gets it."""
    parts: list[tuple[str, bool]] = []
    for message in drop_none(row["messages"]):
        parts.append((f"{message['role']}: ", False))
        texts = [block["text"] if block["type"] == "text" else _named(block) for block in message["content"]]
        parts += [("\n".join(texts), message["role"] == "assistant"), ("\n", False)]
    return parts


def _named(block: Mapping[str, Any]) -> str:
    part = "".join(f" {name} {block[name]:g} s" for name in ("start", "end") if name in block)
    return f"<{block['type']} {Path(block.get('path', 'of the video before')).name}{part}>"


def _dropped(prepared: PreparedMix) -> dict[str, dict[str, int]]:
    """What the rules of the formats leave out is counted while the files are read, so they are read once more."""
    found = {}
    for spec in prepared.mix.sources:
        source, rows = read_source(spec)
        for _ in rows:
            pass
        if source.dropped:
            found[spec.source] = dict(source.dropped)
    return found


def _right(*names: str) -> list[Any]:
    from rich.table import Column

    return [Column(name, justify="right") for name in names]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in counts.items()) or "none"


def _more(values: Sequence[Any], shown: int) -> str:
    return f" and {len(values) - shown} more" if len(values) > shown else ""
