"""What the scripts that make the checkpoints of the package share: running stages, saving, naming versions."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
import typer
from transformers.trainer_utils import get_last_checkpoint

import hf_videollm
from hf_videollm.synthetic.check import ClipQuestion
from hf_videollm.training.sft import load_recipe, run_sft

REPOSITORY = Path(__file__).resolve().parents[2]
ASSETS = REPOSITORY / "src" / "hf_videollm" / "assets"


def count_parameters(model: Any) -> str:
    """Number of parameters, with commas."""
    return f"{sum(parameter.numel() for parameter in model.parameters()):,}"


def run_stages(stages: Sequence[str], model: Any, processor: Any, records: Path, work: Path) -> Any:
    """Train a model through recipes of the package, one after the other; each resumes from its last checkpoint.

    Args:
        stages: names of recipes.
        model: the untrained model.
        processor: its processor.
        records: questions about the training clips.
        work: folder for training checkpoints and decoded clips.

    Returns:
        The trained model.
    """
    for stage in stages:
        recipe = load_recipe(stage)
        arguments = {**recipe.arguments, "output_dir": str(work / stage)}
        recipe = replace(recipe, records=str(records), frame_cache=str(work / "frames"), arguments=arguments)
        started = time.time()
        trainer = run_sft(recipe, model, processor)
        model = trainer.model
        print(f"{stage}: step {trainer.state.global_step}, this run took {time.time() - started:.0f} s", flush=True)
    return model


def last_checkpoint(work: Path, stage: str) -> Path:
    """Newest checkpoint that the trainer wrote in a stage."""
    found = get_last_checkpoint(str(work / stage))
    if found is None:
        raise FileNotFoundError(f"{work / stage} holds no checkpoint yet.")
    return Path(found)


def write_asset(model: Any, processor: Any, stages: Sequence[str], work: Path, output: Path) -> None:
    """Save the checkpoint and, next to it, the log of its training."""
    hf_videollm.save_checkpoint(model, processor, output, overwrite=True)
    if output.is_relative_to(REPOSITORY / "src"):
        # Inside the package the code lies next door; copies would only grow old.
        for copy in output.glob("*.py"):
            copy.unlink()
    (output / "model.safetensors").chmod(0o644)
    lines = []
    for stage in stages:
        state = json.loads((last_checkpoint(work, stage) / "trainer_state.json").read_text())
        lines += [json.dumps({"stage": stage, **entry}) for entry in state["log_history"]]
    (output / "training_log.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def provenance() -> dict[str, Any]:
    """How numbers were measured: the command and the versions of what ran."""
    return {
        "command": " ".join(["python", *sys.argv]),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "trl": trl.__version__,
        },
    }


def list_recipes(stages: Sequence[str]) -> str:
    """Names of the files of recipes, in words."""
    return " and ".join(f"`{stage}`" for stage in stages)


def one_answer(kind: str, clips: Sequence[ClipQuestion]) -> float:
    """Share of right answers of who always says the same: for order questions, the shape that is named first."""
    asked = [clip.question for clip in clips if clip.question.kind == kind]
    if kind == "order":
        return sum(f"first, the {question.answer} or" in question.question for question in asked) / len(asked)
    return max(Counter(question.answer for question in asked).values()) / len(asked)


def make_or_measure(
    only: str | None,
    output: Path,
    work: Path,
    stages: Sequence[str],
    train: Callable[[], tuple[Any, Any]],
    restore: Callable[[Path], tuple[Any, Any]],
    evaluate: Callable[[Any, Any], dict[str, Any]],
    describe: Callable[[Any, dict[str, Any]], str],
    show: Callable[[str, dict[str, Any]], str] = lambda page, result: page,
) -> None:
    """Train, save and measure a checkpoint, or only the later of these.

    Args:
        only: `"finish"` saves and measures the last training checkpoint, `"evaluate"` measures `output`; `None` does
            all.
        output: folder of the finished checkpoint.
        work: folder of the training checkpoints.
        stages: names of the recipes.
        train: gives the trained model and its processor.
        restore: the same from a training checkpoint.
        evaluate: measures a model with its processor.
        describe: the page that lies next to the checkpoint.
        show: what of page and result goes to the screen.

    Raises:
        typer.BadParameter: `only` is none of these.
    """
    if only not in (None, "finish", "evaluate"):
        raise typer.BadParameter(f"{only!r} is neither finish nor evaluate.", param_hint="--only")
    if only is None:
        write_asset(*train(), stages, work, output)
    elif only == "finish":
        write_asset(*restore(last_checkpoint(work, stages[-1])), stages, work, output)
    # Measured as users will have it: loaded from the files.
    model = transformers.AutoModelForImageTextToText.from_pretrained(output)
    processor = transformers.AutoProcessor.from_pretrained(output)
    result = evaluate(model, processor)
    page = describe(model, result)
    print(show(page, result))
    if only != "evaluate":  # measuring again is for the screen; the record is of the training
        (output / "accuracy.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        (output / "TRAINING.md").write_text(page, encoding="utf-8")
