"""What the scripts that make the small checkpoints share: stages of training, saving, versions, the command line."""

import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import trl
import typer
from history import how_it_was_made
from transformers.trainer_utils import get_last_checkpoint

import hf_videollm
from hf_videollm.training.sft import load_recipe, run_sft

REPOSITORY = Path(__file__).resolve().parents[2]
ASSETS = REPOSITORY / "src" / "hf_videollm" / "assets"


def count_parameters(model: Any) -> str:
    """Number of parameters, with commas."""
    return f"{sum(parameter.numel() for parameter in model.parameters()):,}"


def run_stages(
    stages: Sequence[str],
    model: Any,
    processor: Any,
    records: Path,
    work: Path,
    cached: bool = True,
    resume: bool = True,
) -> Any:
    """Train a model with recipes of the package, one after the other.

    Args:
        stages: names of recipes.
        model: the untrained model.
        processor: its processor.
        records: questions about the training clips.
        work: folder for training checkpoints and decoded clips.
        cached: decode every clip once, and keep its frames; images need no cache.
        resume: every stage goes on from its last checkpoint, if there is one.

    Returns:
        The trained model.
    """
    for stage in stages:
        recipe = load_recipe(stage)
        arguments = {**recipe.arguments, "output_dir": str(stage_folder(work, stage))}
        cache = str(work / "frames") if cached else None
        recipe = replace(recipe, records=str(records), frame_cache=cache, arguments=arguments)
        started = time.time()
        trainer = run_sft(recipe, model, processor, resume)
        model = trainer.model
        print(f"{stage}: step {trainer.state.global_step}, this run took {time.time() - started:.0f} s", flush=True)
    return model


def stage_folder(work: Path, stage: str) -> Path:
    """Folder of the checkpoints that the trainer writes in a stage; apart from clips and results in `work`."""
    return work / "stages" / stage


def last_checkpoint(work: Path, stage: str) -> Path:
    """The newest checkpoint that the trainer wrote in a stage."""
    folder = stage_folder(work, stage)
    found = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    if found is None:
        raise FileNotFoundError(f"{folder} holds no checkpoint yet: train first.")
    return Path(found)


def write_asset(model: Any, processor: Any, stages: Sequence[str], work: Path, output: Path) -> None:
    """Save the checkpoint and, next to it, the log of its training."""
    hf_videollm.save_checkpoint(model, processor, output, overwrite=True)
    if output.is_relative_to(REPOSITORY / "src"):
        # The package has the code already; copies next to the checkpoint would become outdated. TRAINING.md says where
        # the weights come from, and model_cards/sources.yaml under which licence they are.
        for copy in (*output.glob("*.py"), *output.glob("origin.json")):
            copy.unlink()
    (output / "model.safetensors").chmod(0o644)
    lines = []
    for stage in stages:
        state = json.loads((last_checkpoint(work, stage) / "trainer_state.json").read_text())
        lines += [json.dumps({"stage": stage, **entry}) for entry in state["log_history"]]
    (output / "training_log.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def saving(
    model_class: Any, build: Callable[[], tuple[Any, Any]], stages: Sequence[str]
) -> Callable[["Options"], None]:
    """The step of `run_script` that saves the last training checkpoint of a model.

    Args:
        model_class: its class.
        build: makes the untrained model and its processor.
        stages: names of the recipes, in the order of the training.
    """

    def save(options: Options) -> None:
        model = model_class.from_pretrained(last_checkpoint(options.work, stages[-1]))
        write_asset(model, build()[1], stages, options.work, options.output)

    return save


def load_checkpoint(folder: Path) -> tuple[Any, Any]:
    """Model and processor of a finished checkpoint, loaded as users load them."""
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder)
    return model, transformers.AutoProcessor.from_pretrained(folder)


def measurement(
    evaluate: Callable[[Any, Any, Path, int, str], dict[str, Any]], describe: Callable[[Any, dict[str, Any], int], str]
) -> Callable[["Options"], tuple[dict[str, Any], str]]:
    """The last step of `run_script` for a checkpoint of one model.

    Args:
        evaluate: takes model, processor, work folder, questions of each kind and split; returns the numbers.
        describe: takes the model, the numbers and the number of training clips; returns the page.
    """

    def measure(options: Options) -> tuple[dict[str, Any], str]:
        model, processor = load_checkpoint(options.output)
        result = evaluate(model, processor, options.work, options.per_kind, options.split)
        return result, describe(model, result, options.num_videos)

    return measure


def write_record(output: Path, numbers: dict[str, Any], page: str, work: Path) -> None:
    """Write what was measured next to the checkpoint, and the page about it, which ends with how it was trained.

    Args:
        output: folder of the checkpoint.
        numbers: what was measured.
        page: the page without its last section.
        work: the folder that the stages were trained in.
    """
    (output / "accuracy.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    (output / "TRAINING.md").write_text(f"{page.rstrip()}\n\n{how_it_was_made(work)}", encoding="utf-8")


def provenance() -> dict[str, Any]:
    """How numbers were measured: the command, and the versions of Python and of the libraries."""
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
    """Names of recipes, for a sentence."""
    return " and ".join(f"`{stage}`" for stage in stages)


@dataclass(frozen=True)
class Options:
    """Options of the command line that all scripts but IVA's have.

    Attributes:
        work: folder for clips and training checkpoints.
        num_videos: number of training clips.
        output: folder of the finished checkpoint.
        per_kind: held-out questions of each kind.
        split: the clips that are measured on, `"test"` or `"validation"`.
    """

    work: Path
    num_videos: int
    output: Path
    per_kind: int = 100
    split: str = "test"


def run_script(
    about: str,
    defaults: Options,
    train: Callable[[Options], Any],
    finish: Callable[[Options], None],
    measure: Callable[[Options], tuple[dict[str, Any], str]],
    prints_numbers: bool = False,
) -> None:
    """Run the command line of a script: train, save and measure a checkpoint, or only the later of these steps.

    Args:
        about: the text of `--help`.
        defaults: values of the options that are not given.
        train: trains in `work`, and goes on from the checkpoints that are there.
        finish: saves the last training checkpoint in `output`.
        measure: measures the checkpoint in `output`; returns numbers and the page that lies next to the checkpoint.
        prints_numbers: print the numbers instead of the page.
    """

    def main(
        work: Annotated[Path, typer.Option(help="Folder for clips and training checkpoints.")] = defaults.work,
        num_videos: Annotated[int, typer.Option(help="Training clips.")] = defaults.num_videos,
        per_kind: Annotated[int, typer.Option(help="Held-out questions of each kind.")] = defaults.per_kind,
        threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
        output: Annotated[Path, typer.Option(help="Folder of the finished checkpoint.")] = defaults.output,
        split: Annotated[
            str, typer.Option(help="Clips to measure on: test, or validation for decisions.")
        ] = defaults.split,
        only: Annotated[
            str | None,
            typer.Option(help="`finish`: save and measure the last training checkpoint; `evaluate`: measure --output."),
        ] = None,
    ) -> None:
        torch.set_num_threads(threads)
        if only not in (None, "finish", "evaluate"):
            raise typer.BadParameter(f"{only!r} is neither finish nor evaluate.", param_hint="--only")
        options = Options(work, num_videos, output, per_kind, split)
        if only is None:
            train(options)
        if only != "evaluate":
            finish(options)
        numbers, page = measure(options)
        print(json.dumps(numbers, indent=2) if prints_numbers else page)
        # The files next to the checkpoint record how it was made, so measuring again does not change them.
        if only != "evaluate":
            write_record(output, numbers, page, work)

    main.__doc__ = about
    typer.run(main)
