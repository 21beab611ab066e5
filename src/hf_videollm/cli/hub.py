"""Commands for the Hugging Face Hub: `push` publishes a checkpoint, `quantize` writes a smaller variant of one."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..convert import MAX_SHARD_SIZE
from .options import AsJson, Destination, MaxShardSize, Overwrite
from .output import print_report, status

Checkpoint = Annotated[str, typer.Argument(help="Folder of a checkpoint, or name of a bundled one.")]


def push(
    checkpoint: Checkpoint,
    repo_id: Annotated[str, typer.Argument(help="Repository on the Hub, OWNER/NAME.", metavar="REPO")],
    private: Annotated[
        bool | None,
        typer.Option("--private/--public", help="Who sees new repositories; the Hub decides by default."),
    ] = None,
    variants: Annotated[str, typer.Option(help="Quantized variants to publish beside it, such as nf4,int8,bf16.")] = "",
    revision: Annotated[str, typer.Option(help="Branch to push to; it is made if it does not exist.")] = "main",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Publish nothing: write the folders here, and show what would go where.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Folder for --dry-run; NAME.dry-run by default.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder of --dry-run.")] = False,
    licence: Annotated[
        str | None, typer.Option(help="Licence of the repository, as the Hub names it, such as apache-2.0.")
    ] = None,
    licence_override: Annotated[
        bool, typer.Option("--licence-override", help="Publish although a source of the model has a stricter one.")
    ] = False,
    licence_name: Annotated[
        str | None, typer.Option("--licence-name", help="Name of the licence, for --licence other.")
    ] = None,
    licence_link: Annotated[
        str | None, typer.Option("--licence-link", help="Address of its text, if the folder has no file LICENSE.")
    ] = None,
    base_models: Annotated[
        list[str] | None,
        typer.Option("--base-model", help="Model that it was made from, if the folder does not say so; repeatable."),
    ] = None,
    results: Annotated[
        list[Path] | None,
        typer.Option("--results", help="Folder of evaluate with results for the card; repeatable."),
    ] = None,
    message: Annotated[str | None, typer.Option(help="Title of the commits.")] = None,
    as_json: AsJson = False,
) -> None:
    """Publish a checkpoint on the Hugging Face Hub, with its code, processor, card and licence.

    Everything is checked before the first byte leaves this machine. A repository gets all files in one commit. If the
    push is interrupted, the same command uploads only the rest.

    Examples:

      hf-videollm push ./pllava-7b me/pllava-7b

      hf-videollm push ./pllava-7b me/pllava-7b --dry-run

      hf-videollm push ./pllava-7b me/pllava-7b --private --variants nf4,int8
    """
    from ..hub.push import push

    report = push(
        checkpoint,
        repo_id,
        private=private,
        variants=[name.strip() for name in variants.split(",") if name.strip()],
        revision=revision,
        dry_run=dry_run,
        output=output,
        overwrite=overwrite,
        licence=licence,
        licence_name=licence_name,
        licence_link=licence_link,
        licence_override=licence_override,
        base_models=base_models or (),
        results=results or (),
        message=message,
        progress=sys.stderr.isatty(),
    )
    print_report(report, as_json)


def quantize(
    checkpoint: Annotated[str, typer.Argument(help="Folder, Hub id or bundled model.", metavar="CHECKPOINT")],
    dst: Destination,
    preset: Annotated[
        str,
        typer.Option(help="consumer-nf4, consumer-int8, a100-bf16, a100-int8, a100-int4 or cpu-int8."),
    ],
    device: Annotated[
        str | None, typer.Option(help="Where the weights are quantized; the CPU by default, if the preset allows it.")
    ] = None,
    overwrite: Overwrite = False,
    max_shard_size: MaxShardSize = MAX_SHARD_SIZE,
    as_json: AsJson = False,
) -> None:
    """Write a smaller variant of a checkpoint: its language model quantized, all other parts in bfloat16.

    The variant is loaded again and compared with what was quantized before DST appears.

    Examples:

      hf-videollm quantize ./pllava-7b ./pllava-7b-nf4 --preset consumer-nf4

      hf-videollm quantize pllava-tiny ./small-bf16 --preset a100-bf16 --json
    """
    from ..hub.quantize import quantize as write_variant

    with status("Starting") as shown:
        report = write_variant(
            checkpoint,
            dst,
            preset=preset,
            device=device,
            overwrite=overwrite,
            max_shard_size=max_shard_size,
            progress=shown.update,
        )
    print_report(report, as_json)


__all__ = ["push", "quantize"]
