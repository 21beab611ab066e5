"""Commands for checkpoints that are going to be published: `hf-videollm quantize`."""

from typing import Annotated

import typer

from ..convert import MAX_SHARD_SIZE
from .options import AsJson, Destination, MaxShardSize, Overwrite
from .output import print_report, status


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

      hf-videollm quantize pllava-tiny ./pllava-tiny-bf16 --preset a100-bf16 --json
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


__all__ = ["quantize"]
