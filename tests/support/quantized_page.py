"""Writes the tables of docs/quantized.md from the measured numbers: `python tests/support/quantized_page.py`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_videollm.known_models import bundled_checkpoints

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "quantized.md"
RESULTS = REPOSITORY / "benchmarks" / "results"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
# Those that run on a CPU. They are not asked of the package, because this script need not load torch.
PRESETS = ("original", "consumer-nf4", "consumer-int8", "a100-bf16", "a100-int8", "cpu-int8")
REAL = "PLLaVA around SmolLM2"
# Name of a column -> field and format of its numbers.
MEMORY = {
    "MB on disk": ("mb_on_disk", "{:.2f}"),
    "predicted MB": ("mb_predicted", "{:.2f}"),
    "MB of tensors": ("mb_tensors", "{:.2f}"),
    "error": ("error_to_tensors", "{:+.1%}"),
    "MB of the process": ("mb_peak", "{:.1f}"),
    "error, process": ("error_to_peak", "{:+.0%}"),
}
ANSWERS = {
    "KL": ("kl", "{:.2g}"),
    "same top token": ("top1_agreement", "{:.1%}"),
    "right answers": ("accuracy", "{:.0%}"),
}
TEXT = {"perplexity": ("perplexity", "{:.2f}"), "KL": ("kl", "{:.2g}"), "same top token": ("top1_agreement", "{:.1%}")}
ALONE = {"MB on disk": ("mb_on_disk", "{:.0f}"), "perplexity": ("perplexity", "{:.2f}")}
Columns = dict[str, tuple[str, str]]


def row(entries: list[str]) -> str:
    return f"| {' | '.join(entries)} |"


def table(columns: Columns, rows: Iterator[tuple[str, dict[str, Any]]]) -> str:
    """A table of Markdown; a cell without a number is empty."""
    lines = [row(["", *columns]), f"|{'---|' * (len(columns) + 1)}"]
    for name, found in rows:
        cells = ["" if found.get(key) is None else form.format(found[key]) for key, form in columns.values()]
        lines.append(row([name, *cells]))
    return "\n".join(lines)


def rows(results: dict[str, Any], *, real: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """The name and the numbers of each checkpoint in each preset."""
    subjects = {**results["checkpoints"], **({REAL: results["language_model"]} if real else {})}
    for checkpoint, variants in subjects.items():
        for preset, found in variants.items():
            yield f"{checkpoint}, {preset}", found


def missing(results: dict[str, Any]) -> list[str]:
    """The rows of the bundled checkpoints and of the real language model that were not measured."""
    found = {name for name, _ in rows(results, real=True)}
    wanted = (f"{checkpoint}, {preset}" for checkpoint in (*bundled_checkpoints(), REAL) for preset in PRESETS)
    return [name for name in wanted if name not in found]


def tables(content: dict[str, Any]) -> str:
    """All tables of one result file, and the kinds of questions that were asked."""
    results, kinds = content["results"], content["kinds"]
    asked = [f"- `{name}`: {', '.join(kinds[name])}" for name in results["checkpoints"]]
    text = ((preset, found) for preset, found in results["language_model"].items())
    return "\n\n".join(
        [
            "Memory:",
            table(MEMORY, rows(results, real=True)),
            *([f"Not measured yet: {'; '.join(left)}."] if (left := missing(results)) else []),
            "Answers:",
            table(ANSWERS, rows(results, real=False)),
            f"The questions, {content['per_kind']} of each kind:",
            "\n".join(asked),
            "The language part of the PLLaVA around SmolLM2-135M-Instruct, on a text of 334 tokens:",
            table(TEXT, text),
            *alone(results),
        ]
    )


def alone(results: dict[str, Any]) -> Iterator[str]:
    """Numbers of an earlier release of the benchmark, which quantized the language model without a PLLaVA around it."""
    if found := results.get("language_model_alone"):
        yield f"SmolLM2-135M-Instruct without a PLLaVA around it, by {found['command']}:"
        yield table(ALONE, iter(found["rows"].items()))


def page() -> str:
    """The page with its tables written anew."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    content = json.loads((RESULTS / "quantized_cpu.json").read_text(encoding="utf-8"))
    return f"{before}{BEGIN}\n\n{tables(content)}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
