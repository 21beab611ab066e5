"""Chooses the rows of a mix, and orders them.

Every choice ranks videos or rows by a hash of their name and the seed. So it depends on nothing else: not on the order
of the files, on processes or on workers, and a smaller choice is a part of a larger one.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..models.video_llm_option_names import did_you_mean
from .bad_media import BadFile, check_share, missing_files
from .mix import Mix, MixError, MixSource
from .mix_rows import CHOSEN_BY, source_rows

__all__ = ["PreparedMix", "SourceCounts", "ordered", "prepare_mix", "ranked"]


@dataclass(frozen=True)
class SourceCounts:
    """How many rows of a source are trained on.

    Attributes:
        source: its name.
        format: letter of its format.
        rows: rows that its reader makes.
        videos: different videos (or other first media) among them.
        chosen: rows that the mix takes of it, each counted once.
        chosen_videos: videos of these rows.
        repeat: how often each of them stands in an epoch.
        missing: further rows that were left out because a file is missing.
        types: type -> chosen rows.
    """

    source: str
    format: str
    rows: int
    videos: int
    chosen: int
    chosen_videos: int
    repeat: int
    missing: int
    types: Mapping[str, int]


@dataclass(frozen=True)
class PreparedMix:
    """The rows of a mix, chosen and with their media looked for.

    Attributes:
        mix: the mix.
        table: all rows of all sources, as a `datasets.Dataset`, one source after the other.
        chosen: numbers of the rows of an epoch, in the order of the sources; repeated rows stand several times.
        modalities: modality of each row of `table`.
        types: type of each row of `table`.
        sources: what was chosen of each source.
        missing: the rows that were left out because a file is missing.
    """

    mix: Mix
    table: Any
    chosen: Sequence[int]
    modalities: Sequence[str]
    types: Sequence[str]
    sources: Sequence[SourceCounts]
    missing: Sequence[BadFile] = field(default=())

    def order(self, epoch: int = 0) -> list[int]:
        """The numbers of the rows of one epoch, in the order in which they are trained on."""
        return ordered(self.chosen, self.modalities, self.mix, epoch)

    def rows(self, epoch: int | None = 0) -> Any:
        """The rows of one epoch in order, as a `datasets.Dataset` of canonical records.

        Args:
            epoch: number of the epoch; None for the order of the sources.
        """
        order = self.chosen if epoch is None else self.order(epoch)
        return self.table.remove_columns(list(CHOSEN_BY)).select(order)

    @property
    def group(self) -> int:
        """Rows after which the ratio of modalities repeats; batches must be a multiple of it. 1 without `batches`."""
        return sum(self.mix.batches.values()) if self.mix.batches else 1

    def describe(self) -> dict[str, Any]:
        """What was trained on, for the record of a run: sources in their order, counts, seeds and digests."""
        specs = [
            {**asdict(spec), "annotation": str(spec.annotation), "root": str(spec.root)} for spec in self.mix.sources
        ]
        for spec, counts in zip(specs, self.sources, strict=True):
            spec["sha256"] = _digest(spec["annotation"])
            spec["counts"] = asdict(counts)
        return {
            "mix": str(self.mix.path),
            "sha256": _digest(str(self.mix.path)),
            "seed": self.mix.seed,
            "shuffle": self.mix.shuffle,
            "batches": None if self.mix.batches is None else dict(self.mix.batches),
            "rows": len(self.order()),
            "sources": specs,
        }


def prepare_mix(mix: Mix, cache_dir: str | None = None) -> PreparedMix:
    """Read the sources of a mix, choose rows, and look for their files.

    Args:
        mix: the mix.
        cache_dir: folder for the rows, by default that of `datasets`.

    Raises:
        DataError: a row of a source is wrong; the message names file, row and field.
        MixError: a type has fewer rows than asked for, a modality has no place in `batches` or no rows, or no row is
            left.
        TooManyBadMediaError: more than `max_bad` of the rows name files that do not exist.
    """
    from datasets import concatenate_datasets

    tables = [source_rows(spec, cache_dir) for spec in mix.sources]
    table = concatenate_datasets(tables) if len(tables) > 1 else tables[0]
    videos, types, modalities, ids = (_column(table, name) for name in (*CHOSEN_BY[:3], "id"))
    chosen: list[list[int]] = []
    first = 0
    for spec, part in zip(mix.sources, tables, strict=True):
        chosen.append(_of_source(spec, range(first, first + len(part)), videos, ids))
        first += len(part)
    if mix.per_type is not None:
        taken = set(_of_types(mix, [row for rows in chosen for row in rows], types, ids))
        chosen = [[row for row in rows if row in taken] for rows in chosen]
    bad = missing_files(table, sorted(row for rows in chosen for row in rows))
    check_share(list(bad.values()), sum(map(len, chosen)), mix.max_bad, str(mix.path))
    counts = []
    for spec, part, rows, number in zip(mix.sources, tables, chosen, range(len(tables)), strict=True):
        there = [row for row in rows if row not in bad]
        chosen[number] = there
        begin = sum(map(len, tables[:number]))
        counts.append(
            SourceCounts(
                source=spec.source,
                format=spec.format,
                rows=len(part),
                videos=len(set(videos[begin : begin + len(part)])),
                chosen=len(there),
                chosen_videos=len({videos[row] for row in there}),
                repeat=spec.repeat,
                missing=len(rows) - len(there),
                types=dict(Counter(types[row] for row in there)),
            )
        )
    repeated = [row for spec, rows in zip(mix.sources, chosen, strict=True) for _ in range(spec.repeat) for row in rows]
    if not repeated:
        raise MixError(f"{mix.path}: no row is left to train on.")
    _check_batches(mix, repeated, modalities)
    return PreparedMix(mix, table, repeated, modalities, types, counts, list(bad.values()))


def _column(table: Any, name: str) -> list[str]:
    # Only this column is read into memory, not the conversations.
    values: list[str] = table.select_columns([name]).with_format("arrow")[:][name].to_pylist()
    return values


def ranked(names: Sequence[str], seed: int) -> list[str]:
    """The names in an order that depends on them and the seed alone.

    Example:
        >>> ranked(["a", "b", "c"], 0) == ranked(["c", "b", "a"], 0)
        True
    """
    return sorted(names, key=lambda name: (hashlib.sha256(f"{seed}\0{name}".encode()).digest(), name))


def _of_source(spec: MixSource, rows: Sequence[int], videos: Sequence[str], ids: Sequence[str]) -> list[int]:
    """The rows of the share of videos that a source takes, and of these at most so many."""
    taken = list(rows)
    if spec.fraction < 1:
        names = ranked(list({videos[row] for row in rows}), spec.seed)
        kept = set(names[: max(1, round(spec.fraction * len(names)))])
        taken = [row for row in rows if videos[row] in kept]
    return taken if spec.max_samples is None else _draw(taken, spec.max_samples, ids, spec.seed)


def _draw(rows: Sequence[int], number: int, ids: Sequence[str], seed: int) -> list[int]:
    """So many of the rows, in their order."""
    kept = set(ranked([ids[row] for row in rows], seed)[:number])
    return [row for row in rows if ids[row] in kept]


def _of_types(mix: Mix, rows: Sequence[int], types: Sequence[str], ids: Sequence[str]) -> list[int]:
    by_type: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        by_type[types[row]].append(row)
    wanted = mix.per_type if isinstance(mix.per_type, Mapping) else dict.fromkeys(by_type, mix.per_type or 0)
    for name in wanted:
        if name not in by_type:
            raise MixError(f"{mix.path}: per_type names {name!r}, of which no row is: {did_you_mean(name, by_type)}")
    taken: list[int] = []
    for name, found in by_type.items():
        if name not in wanted:
            raise MixError(
                f"{mix.path}: per_type has no number for {len(found)} rows of type {name!r}: 0 leaves them out."
            )
        if len(found) < wanted[name]:
            raise MixError(
                f"{mix.path}: per_type asks for {wanted[name]} rows of type {name!r}; there are {len(found)}."
            )
        taken += _draw(found, wanted[name], ids, mix.seed)
    return taken


def _check_batches(mix: Mix, rows: Sequence[int], modalities: Sequence[str]) -> None:
    if mix.batches is None:
        return
    found = Counter(modalities[row] for row in rows)
    for name in mix.batches:
        if not found[name]:
            raise MixError(f"{mix.path}: batches names {name}, of which there is no row, only {', '.join(found)}.")
    for name, number in found.items():
        if name not in mix.batches:
            raise MixError(f"{mix.path}: batches has no number for {name}, of which there are {number} rows: add one.")


def ordered(rows: Sequence[int], modalities: Sequence[str], mix: Mix, epoch: int = 0) -> list[int]:
    """The rows of an epoch in the order of training.

    With `batches`, groups of rows in this ratio follow each other. The first modality makes the length of the epoch: of
    it each row comes once (the last group is filled up from its beginning), and the rows of the others come again and
    again. So does VideoLLaMA2's audio-visual stage, whose own code takes only every second row of the others.

    Args:
        rows: numbers of the rows.
        modalities: of all rows.
        mix: its seed, `shuffle` and `batches`.
        epoch: number of the epoch; if the mix is shuffled, each has another order.
    """
    rng = random.Random(f"{mix.seed}:{epoch}")
    order = list(rows)
    if mix.shuffle:
        rng.shuffle(order)
    if mix.batches is None:
        return order
    by_modality: dict[str, list[int]] = defaultdict(list)
    for row in order:
        by_modality[modalities[row]].append(row)
    main, share = next(iter(mix.batches.items()))
    groups = -(-len(by_modality[main]) // share)
    return [
        by_modality[name][(group * number + at) % len(by_modality[name])]
        for group in range(groups)
        for name, number in mix.batches.items()
        for at in range(number)
    ]


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
