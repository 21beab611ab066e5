"""`hf-videollm train RECIPE`: fine-tunes a model on videos according to a recipe."""

import contextlib
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Any

import typer

from ..known_models import find_model
from ..training.recipe_names import design_of_recipe, recipe_files
from .mixes import hidden_bars_of_datasets
from .options import AsJson
from .output import print_drawing, print_json


def train(
    recipe: Annotated[str, typer.Argument(help=f"YAML file, or a recipe of the package: {', '.join(recipe_files())}.")],
    start_from: Annotated[
        str | None, typer.Option("--model", help="Checkpoint to start from; replaces the one in the recipe.")
    ] = None,
    records_file: Annotated[
        str | None, typer.Option("--records", help="JSON Lines file of records; replaces the one in the recipe.")
    ] = None,
    mix_file: Annotated[
        str | None, typer.Option("--mix", help="Mix of several data sets (YAML) to train on instead of records.")
    ] = None,
    model_option: Annotated[
        list[str] | None,
        typer.Option(
            "--model-option",
            metavar="NAME=VALUE",
            help="Field of the model's configuration, for example num_insertions=8; repeatable.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD.KEY=VALUE",
            help="Change a value of the recipe, for example arguments.learning_rate=1e-4; repeatable.",
        ),
    ] = None,
    output: Annotated[str | None, typer.Option(help="Folder for checkpoints and for the result.")] = None,
    steps: Annotated[int | None, typer.Option("--max-steps", help="Stop after this many steps.")] = None,
    resume: Annotated[bool, typer.Option(help="Resume from the last checkpoint in the output folder.")] = True,
    dry_run: Annotated[
        bool, typer.Option(help="Load no weights; show what would be trained, in how many steps, and one batch.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a model on videos with TRL's SFTTrainer, according to a recipe.

    Examples:

      hf-videollm train pllava/videos --model init/ --records clips/records.jsonl --dry-run

      hf-videollm train pllava/instruct --dry-run

      hf-videollm train recipe.yaml --model init/ --records clips/records.jsonl --output runs/first --max-steps 500

      hf-videollm train pllava/instruct --model llava/ --records train.jsonl --output runs/pllava --set lora.r=64
    """
    # No parameter of this command has the name of a recipe's field. Errors name the fields of recipes, and `errors.py`
    # would replace a field with the same name as a parameter by the option.
    from ..training.recipe_errors import named_in_errors
    from ..training.resume_check import check_resumption
    from ..training.sft import load_recipe, run_sft

    chosen = load_recipe(recipe, settings or [])
    given = {"output_dir": output, "max_steps": steps}
    # The trainer's progress bar is useful on a terminal only; its log lines are always printed.
    arguments = {"disable_tqdm": not sys.stderr.isatty(), **chosen.arguments}
    arguments |= {name: value for name, value in given.items() if value is not None}
    options = {**(chosen.model_options or {}), **_model_options(model_option or [])}
    source = start_from or chosen.model
    chosen = replace(chosen, model=source and find_model(source))
    if records_file is not None:
        chosen = replace(chosen, records=records_file, mix=None)
    if mix_file is not None:
        chosen = replace(chosen, mix=mix_file, records=records_file)
    chosen = replace(chosen, model_options=options, arguments=arguments)
    _note_other_design(recipe, chosen.model)
    if dry_run:
        with named_in_errors(recipe):
            if resume:
                check_resumption(chosen)
            _show_plan(chosen, design_of_recipe(recipe), as_json)
        return
    # The trainer prints its log lines on stdout, which must hold only the JSON.
    with (
        named_in_errors(recipe),
        contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext(),
        hidden_bars_of_datasets(),
    ):
        trainer = run_sft(chosen, resume=resume, save=True)
    # Every process runs this command, and one of them speaks for all.
    if not trainer.is_world_process_zero():
        return
    if as_json:
        print_json(_result(trainer))
    elif trainer.had_finished:
        print(
            f"The run in {trainer.args.output_dir} had finished after {trainer.state.global_step} steps, so nothing "
            "was trained. More --max-steps continue it; --no-resume begins anew."
        )
    else:
        print(f"Saved to {trainer.args.output_dir}")


def _show_plan(recipe: Any, design: str | None, as_json: bool) -> None:
    from ..training.plan import plan_training

    with hidden_bars_of_datasets():
        plan = plan_training(recipe, design)
    if as_json:
        facts = plan.to_dict()
        print_json({"sample": facts.pop("sample"), "plan": facts})
        return
    print_drawing(plan.render())
    if plan.sample:
        print(f"\n{plan.sample}")


def _note_other_design(recipe: str, source: str | None) -> None:
    """Say on stderr if a recipe of the package was written for another design than that of the model."""
    from transformers import AutoConfig

    design = design_of_recipe(recipe)
    if design is None or source is None:
        return
    try:
        found = AutoConfig.from_pretrained(source, trust_remote_code=False).model_type
    except (OSError, ValueError):
        return  # Loading the model gives the error.
    if found != design:
        print(f"warning: the recipe {recipe} was written for {design}, but the model is {found}.", file=sys.stderr)


def _model_options(entries: Iterable[str]) -> dict[str, Any]:
    """Maps names to values, from entries such as `num_insertions=8`. Values are YAML.

    Raises:
        ValueError: an entry has no name, or its value is not YAML.
    """
    import yaml

    options = {}
    for entry in entries:
        name, separator, value = entry.partition("=")
        if not (name and separator):
            raise ValueError(f"--model-option must be NAME=VALUE, such as num_insertions=8, not {entry!r}.")
        try:
            options[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"--model-option {entry}: the value is not valid YAML ({error}).") from error
    return options


def _result(trainer: Any) -> dict[str, Any]:
    """The folder of the model, the number of steps, and the mean training loss if at least one step ran."""
    losses = [logs["train_loss"] for logs in trainer.state.log_history if "train_loss" in logs]
    # The trainer logs a loss of 0 if there was no step to do.
    losses = losses[:-1] if trainer.had_finished else losses
    return {
        "output_dir": str(trainer.args.output_dir),
        "steps": trainer.state.global_step,
        "train_loss": losses[-1] if losses else None,
    }


__all__ = ["train"]
