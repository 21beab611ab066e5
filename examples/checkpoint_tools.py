"""What the scripts that make the checkpoints of the package share: running stages, saving, naming versions."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from transformers.trainer_utils import get_last_checkpoint

import hf_videollm
from hf_videollm.training.sft import load_recipe, run_sft
from hf_videollm.training.synthetic_check import Clip

REPOSITORY = Path(__file__).resolve().parents[1]
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
    return " and ".join(f"`{stage}.yaml`" for stage in stages)


def one_answer(kind: str, clips: Sequence[Clip]) -> float:
    """Share of right answers of who always says the same: for order questions, the shape that is named first."""
    asked = [clip.question for clip in clips if clip.question.kind == kind]
    if kind == "order":
        return sum(f"first, the {question.answer} or" in question.question for question in asked) / len(asked)
    return max(Counter(question.answer for question in asked).values()) / len(asked)
