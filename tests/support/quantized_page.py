"""Writes the tables of docs/quantized.md from the measured numbers: `python tests/support/quantized_page.py`."""

import json
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "quantized.md"
RESULTS = REPOSITORY / "benchmarks" / "results"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
COLUMNS = ("MB on disk", "predicted MB", "peak MB", "KL", "same top token", "right answers")
FIELDS = ("mb_on_disk", "mb_predicted", "mb_peak", "kl", "top1_agreement", "accuracy")
FORMATS = ("{:.2f}", "{:.2f}", "{:.1f}", "{:.2g}", "{:.1%}", "{:.0%}")


def cells(found: dict[str, Any]) -> list[str]:
    """The numbers of one variant, in words where there is none."""
    return [
        "" if found.get(name) is None else form.format(found[name]) for name, form in zip(FIELDS, FORMATS, strict=True)
    ]


def row(entries: list[str]) -> str:
    return f"| {' | '.join(entries)} |"


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join([row(head), f"|{'---|' * len(head)}", *map(row, rows)])


def tables(content: dict[str, Any]) -> str:
    """Both tables of one result file."""
    results = content["results"]
    rows = [
        [f"{checkpoint}, {preset}", *cells(found)]
        for checkpoint, variants in results["checkpoints"].items()
        for preset, found in variants.items()
    ]
    parts = [table(["", *COLUMNS], rows)]
    if texts := results["language_model"]:
        lines = [
            [preset, f"{found['mb_on_disk']:.0f}", f"{found['perplexity']:.2f}"] for preset, found in texts.items()
        ]
        parts.append(table(["SmolLM2-135M-Instruct", "MB on disk", "perplexity"], lines))
    return "\n\n".join(parts)


def page() -> str:
    """The page with its tables written anew."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    content = json.loads((RESULTS / "quantized_cpu.json").read_text(encoding="utf-8"))
    return f"{before}{BEGIN}\n\n{tables(content)}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
