"""`hf-videollm data check | push`: looks at the data of a training, and publishes it."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ..known_models import find_model
from .app import Command
from .data import data_app
from .options import AsJson
from .output import print_report

MixFile = Annotated[str, typer.Argument(help="YAML file that names the data.", metavar="MIX")]


@contextlib.contextmanager
def hidden_bars_of_datasets() -> Iterator[None]:
    """Hide the progress bars of `datasets`, unless stderr is a terminal."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@data_app.command(cls=Command)
def check(
    mix: MixFile,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Checkpoint whose processor makes tokens of the rows.")
    ] = None,
    sample: Annotated[int, typer.Option(min=0, help="Number of rows whose media are decoded.")] = 8,
    as_json: AsJson = False,
) -> None:
    """Look at the data of a training: counts, lengths, tokens, a sample of the media, and one example.

    What the model learns of the example is green or, without colours, in [brackets].

    Examples:

      hf-videollm data check mix.yaml

      hf-videollm data check mix.yaml --model my-checkpoint --sample 100 --json
    """
    from ..training.data_check import check_mix

    with hidden_bars_of_datasets():
        report = check_mix(mix, model=model and find_model(model), sample=sample)
    print_report(report, as_json)
    report.refuse_broken()


@data_app.command(cls=Command)
def push(
    mix: MixFile,
    repo_id: Annotated[str, typer.Argument(help="Dataset on the Hub, OWNER/NAME.", metavar="REPO")],
    licence: Annotated[
        str | None, typer.Option(help="Licence of the dataset, as the Hub names it, such as cc-by-4.0.")
    ] = None,
    private: Annotated[
        bool | None,
        typer.Option("--private/--public", help="Who sees a new repository; the Hub decides by default."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Publish nothing: write the folder here, as it would be published.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Folder for --dry-run; NAME.dry-run by default.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder of --dry-run.")] = False,
    max_shard_size: Annotated[
        str, typer.Option("--max-shard-size", help="Largest size of the media in one Parquet file.")
    ] = "500MB",
    message: Annotated[str, typer.Option(help="Title of the commit.")] = "Upload dataset with hf_videollm",
    as_json: AsJson = False,
) -> None:
    """Publish the rows that a mix chooses as a dataset on the Hugging Face Hub, with their media inside.

    The media stand in Video, Image and Audio columns of Parquet files. One commit publishes everything.

    Examples:

      hf-videollm data push mix.yaml me/clips --licence cc-by-4.0 --dry-run

      hf-videollm data push mix.yaml me/clips --licence cc-by-4.0 --private
    """
    from ..hub.dataset_push import push_dataset

    with hidden_bars_of_datasets():
        report = push_dataset(
            mix,
            repo_id,
            licence=licence,
            private=private,
            dry_run=dry_run,
            output=output,
            overwrite=overwrite,
            max_shard_size=max_shard_size,
            message=message,
        )
    print_report(report, as_json)


__all__ = ["check", "data_app", "hidden_bars_of_datasets", "push"]
