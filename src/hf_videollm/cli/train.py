"""`hf-videollm train RECIPE`: fine-tune a model on videos as a recipe says."""

import contextlib
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Any

import typer

from ..known_models import find_model
from ..training.recipe_names import recipe_files
from .options import AsJson
from .output import print_json


def train(
    recipe: Annotated[str, typer.Argument(help=f"YAML file, or a recipe of the package: {', '.join(recipe_files())}.")],
    start_from: Annotated[
        str | None, typer.Option("--model", help="Checkpoint to start from; beats the recipe.")
    ] = None,
    records_file: Annotated[
        str | None, typer.Option("--records", help="JSON Lines file of records; beats the recipe.")
    ] = None,
    model_option: Annotated[
        list[str] | None,
        typer.Option(
            "--model-option",
            metavar="NAME=VALUE",
            help="Field of the model's configuration, e.g. num_insertions=8; repeatable.",
        ),
    ] = None,
    output: Annotated[str | None, typer.Option(help="Folder for checkpoints and the result.")] = None,
    steps: Annotated[int | None, typer.Option("--max-steps", help="Stop after this many steps.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint in the output folder.")] = True,
    dry_run: Annotated[bool, typer.Option(help="Only show one sample as the model gets it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a model on videos with TRL's SFTTrainer, as a recipe says.

    Examples:

      hf-videollm train pllava/videos --model init/ --records clips/records.jsonl --dry-run

      hf-videollm train recipe.yaml --model init/ --records clips/records.jsonl --output runs/first --max-steps 500
    """
    # Names of parameters are none of fields of recipes: errors speak of those, and `errors.py` would translate them.
    from ..training.sft import load_recipe, run_sft, show_sample

    chosen = load_recipe(recipe)
    given = {"output_dir": output, "max_steps": steps}
    # Its progress bar is for eyes; where nobody looks, what it logs is enough.
    arguments = {"disable_tqdm": not sys.stderr.isatty(), **chosen.arguments}
    arguments |= {name: value for name, value in given.items() if value is not None}
    options = {**(chosen.model_options or {}), **_model_options(model_option or [])}
    source = start_from or chosen.model
    chosen = replace(chosen, model=source and find_model(source), records=records_file or chosen.records)
    chosen = replace(chosen, model_options=options, arguments=arguments)
    if dry_run:
        sample = show_sample(chosen)
        print_json({"sample": sample}) if as_json else print(sample)
        return
    # The trainer prints what it logs.
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        trainer = run_sft(chosen, resume=resume, save=True)
    if as_json:
        print_json(_result(trainer))
    else:
        print(f"Saved to {trainer.args.output_dir}")


def _model_options(entries: Iterable[str]) -> dict[str, Any]:
    """`num_insertions=8` -> name and value, which is read as YAML.

    Raises:
        ValueError: there is no name, or no value that YAML can be.
    """
    import yaml

    options = {}
    for entry in entries:
        name, separator, value = entry.partition("=")
        if not (name and separator):
            raise ValueError(f"--model-option must be NAME=VALUE, e.g. num_insertions=8, not {entry!r}.")
        try:
            options[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"--model-option {entry}: the value is no YAML ({error}).") from error
    return options


def _result(trainer: Any) -> dict[str, Any]:
    """Where the model is, the number of steps, and the mean loss if there were any."""
    losses = [logs["train_loss"] for logs in trainer.state.log_history if "train_loss" in logs]
    return {
        "output_dir": str(trainer.args.output_dir),
        "steps": trainer.state.global_step,
        "train_loss": losses[-1] if losses else None,
    }


__all__ = ["train"]
