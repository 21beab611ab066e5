"""Compares results of benchmarks with earlier ones: `python benchmarks/compare.py --help`.

What is judged does not depend on the speed of the machine: ratios within one run (`times_X`), memory and size, and the
share of right answers. Seconds and tokens per second are judged with `--seconds`, which asks for equal machines.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results"
Band = tuple[float, float]


class CompareError(Exception):
    """The results cannot be compared. The message is one line that says why."""


@dataclass(frozen=True)
class Row:
    """A number of both results.

    Attributes:
        key: its place in the results.
        old: earlier value.
        new: newer value.
        old_band: smallest and largest value of the rounds of the earlier run; `None` if there is one value only.
        new_band: those of the newer run.
        higher_is_better: otherwise lower is better.
    """

    key: str
    old: float
    new: float
    old_band: Band | None = None
    new_band: Band | None = None
    higher_is_better: bool = False

    @property
    def change(self) -> float:
        """new / old; 1 if both are 0, and infinite if only the old one is."""
        if self.old:
            return self.new / self.old
        return 1.0 if self.new == self.old else float("inf")

    def verdict(self, threshold: float) -> str:
        """`same`, `worse` or `better` by more than the threshold, or `noise` where the rounds of both runs overlap."""
        loss = 1 / self.change if self.higher_is_better and self.change else self.change
        if 1 / (1 + threshold) <= loss <= 1 + threshold:
            return "same"
        if self.old_band is not None and self.new_band is not None:
            overlap = self.old_band[0] <= self.new_band[1] and self.new_band[0] <= self.old_band[1]
            if overlap:
                return "noise"
        return "worse" if loss > 1 else "better"


def compare(old: Mapping[str, Any], new: Mapping[str, Any], seconds: bool = False) -> tuple[list[Row], list[str]]:
    """The numbers that are in both results, and notes on what cannot be compared.

    Args:
        old: earlier result.
        new: newer result.
        seconds: also compare seconds and tokens per second.

    Raises:
        CompareError: the results are of different benchmarks, arguments or machines.
    """
    for field in ("benchmark", "arguments"):
        if field in old and field in new and old[field] != new[field]:
            raise CompareError(f"{field} differ: {old[field]} and {new[field]}.")
    if seconds and (old_machine := _machine(old)) != (new_machine := _machine(new)):
        raise CompareError(f"--seconds needs the same machine, not {old_machine} and {new_machine}.")
    before, after = dict(_numbers(old["results"], seconds)), dict(_numbers(new["results"], seconds))
    rows = [
        Row(key, before[key][0], after[key][0], before[key][1], after[key][1], _is_gain(key))
        for key in before
        if key in after
    ]
    notes = [
        f"the {age} result does not say with which arguments it was measured"
        for age, content in (("earlier", old), ("newer", new))
        if "arguments" not in content
    ]
    notes += [f"{key} is only in the earlier result" for key in before if key not in after]
    return rows, notes + [f"{key} is only in the newer result" for key in after if key not in before]


def _machine(content: Mapping[str, Any]) -> str:
    found = content.get("hardware") or {}
    return f"{found.get('gpu') or found.get('cpu', 'an unknown processor')} with {found.get('cores', '?')} cores"


def _numbers(node: Any, seconds: bool, path: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[float, Band | None]]]:
    """Every number that is judged: its place, its value, and its band."""
    if not isinstance(node, Mapping):
        return
    for name, value in node.items():
        if isinstance(value, Mapping):
            reference = next((key.removeprefix("times_") for key in value if key.startswith("times_")), None)
            band = _band(value, node.get(reference)) if reference is not None else None
            ratio = ".".join((*path, name, f"times_{reference}"))
            for key, (number, inner) in _numbers(value, seconds, (*path, name)):
                yield key, (number, band if key == ratio else inner)
        elif isinstance(value, int | float) and not isinstance(value, bool) and _is_judged(name, seconds):
            yield ".".join((*path, name)), (float(value), None)


def _band(row: Mapping[str, Any], reference: Any) -> Band | None:
    """The smallest and the largest ratio of a round to the same round of the reference."""
    own, base = row.get("rounds"), reference.get("rounds") if isinstance(reference, Mapping) else None
    if not own or not base or len(own) != len(base) or not all(base):
        return None
    ratios = [one / other for one, other in zip(own, base, strict=True)]
    return min(ratios), max(ratios)


def _is_judged(name: str, seconds: bool) -> bool:
    words = name.split("_")
    if name.startswith("times_") or _is_gain(name):
        return "per_second" not in name or seconds
    if "seconds" in words or name.endswith("_s"):
        return seconds
    is_size = any(word in ("mib", "mb", "gib", "gb", "bytes") for word in words)
    return (is_size and "predicted" not in words and "libraries" not in words) or name in ("kl", "perplexity")


def _is_gain(key: str) -> bool:
    """Whether more is better. `times_ours` says how many times our time another reader takes."""
    name = key.rpartition(".")[2]
    return name in ("times_ours", "accuracy", "top1_agreement") or "per_second" in name


def read(place: Path) -> dict[str, dict[str, Any]]:
    """The results of a file, or of all files of a folder, by name of the file.

    Raises:
        CompareError: there are none, or one cannot be read.
    """
    if not place.exists():
        raise CompareError(f"{place} does not exist: python -m benchmarks writes results into a folder.")
    files = sorted(file for file in place.glob("*.json") if ".partial" not in file.name) if place.is_dir() else [place]
    if not files:
        raise CompareError(f"{place} has no results (*.json): run python -m benchmarks --out {place}.")
    return {file.name: parse(file.read_bytes(), str(file)) for file in files}


def parse(text: bytes, place: str) -> dict[str, Any]:
    """A result from its text."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise CompareError(f"{place} is no JSON ({error}).") from error
    if not isinstance(content, dict) or not isinstance(content.get("results"), dict):
        raise CompareError(f"{place} is no result of a benchmark: it has no results.")
    return content


def committed(name: str) -> dict[str, Any] | None:
    """The last committed result of this name; `None` if there is none."""
    command = ["git", "-C", str(FOLDER), "show", f"HEAD:./results/{name}"]
    try:
        shown = subprocess.run(command, capture_output=True, check=False)
    except OSError:
        shown = None
    if shown is not None and shown.returncode == 0:
        return parse(shown.stdout, f"the committed {name}")
    file = RESULTS / name
    return parse(file.read_bytes(), str(file)) if shown is None and file.is_file() else None


def table(rows: list[Row], threshold: float) -> list[str]:
    """A line for each row, with the bands where there are rounds."""
    width = max((len(row.key) for row in rows), default=0)
    lines = []
    for row in rows:
        bands = (
            " against ".join(
                "" if band is None else f"{band[0]:.3g} to {band[1]:.3g}" for band in (row.new_band, row.old_band)
            )
            if row.new_band and row.old_band
            else "one value"
        )
        lines.append(
            f"  {row.key:{width}}  {row.old:10.4g} -> {row.new:<10.4g} x {row.change:<6.3f} "
            f"{row.verdict(threshold):6} (rounds: {bands})"
        )
    return lines


def main(
    places: Annotated[list[Path], typer.Argument(help="NEW, or OLD and NEW: result files, or folders of them.")],
    threshold: Annotated[float, typer.Option(min=0, help="A smaller change counts as none.")] = 0.1,
    seconds: Annotated[bool, typer.Option("--seconds", help="Compare seconds, too; for equal machines.")] = False,
    show_all: Annotated[bool, typer.Option("--all", help="Show what is the same, too.")] = False,
) -> None:
    """Compare results with earlier ones, by default with those that are committed.

    A number is worse (or better) if it changes by more than the threshold, and if the rounds of both runs do not
    overlap. The exit code is 1 if one is worse, and 2 if nothing can be compared.

    Examples:

      python benchmarks/compare.py runs/benchmarks

      python benchmarks/compare.py old/pllava_cpu.json runs/benchmarks/pllava_cpu.json --all

      python benchmarks/compare.py old runs/benchmarks --threshold 0.2 --seconds
    """
    try:
        if len(places) > 2:
            raise CompareError(f"give NEW, or OLD and NEW, not {len(places)} places.")
        worse, compared = 0, 0
        pairs = find_pairs(places)
        for name, (old, new) in pairs.items():
            try:
                if old is None:
                    raise CompareError("there is no earlier result.")
                rows, notes = compare(old, new, seconds)
            except CompareError as error:
                print(f"{name}: not compared: {error}")
                continue
            compared += 1
            worse += sum(row.verdict(threshold) == "worse" for row in rows)
            shown = [row for row in rows if show_all or row.verdict(threshold) != "same"]
            print(
                f"{name}: {len(rows)} numbers compared, {len(rows) - len(shown)} not shown, because they are the same"
            )
            for line in (*table(shown, threshold), *(f"  {note}" for note in notes)):
                print(line)
        if not compared:
            raise CompareError("nothing could be compared.")
    except CompareError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None
    print(f"{worse} worse" if worse else "nothing is worse")
    if worse:
        raise typer.Exit(1)


def find_pairs(places: list[Path]) -> dict[str, tuple[dict[str, Any] | None, dict[str, Any]]]:
    """The earlier and the newer result, by name of the file.

    Raises:
        CompareError: a place has no results.
    """
    new = read(places[-1])
    if len(places) == 1:
        return {name: (committed(name), content) for name, content in new.items()}
    if places[0].is_file() and places[1].is_file():
        (old_content,), (new_content,) = read(places[0]).values(), new.values()
        return {places[1].name: (old_content, new_content)}
    old = read(places[0])
    return {name: (old.get(name), content) for name, content in new.items()}


if __name__ == "__main__":
    typer.run(main)
