"""`hf-videollm finish`: from what a training has left to a checkpoint, one command for each ending."""

from typing import Annotated, Any

import typer

from ..convert import MAX_SHARD_SIZE
from .app import Command, HintingGroup
from .options import AsJson, Destination, MaxShardSize, Overwrite
from .output import print_report, status

__all__ = ["finish_app"]

Run = Annotated[
    str, typer.Argument(help="Folder of a run, one of its checkpoint-N, or an adapter folder.", metavar="RUN")
]
Base = Annotated[
    str | None, typer.Option(help="The model that the adapter was trained on; the recorded one by default.")
]
finish_app = typer.Typer(cls=HintingGroup)


@finish_app.callback(invoke_without_command=True)
def finish(context: typer.Context) -> None:
    """Write a checkpoint from what a training has left.

    Examples:

      hf-videollm finish checkpoint runs/first my-model

      hf-videollm finish adjustable runs/pllava-lora my-pllava --lora-alpha 4
    """
    if context.invoked_subcommand is None:
        names = ", ".join(getattr(context.command, "commands", {}))
        raise ValueError(f"No ending is given: use one of {names} (hf-videollm finish --help).")


@finish_app.command("checkpoint", cls=Command)
def checkpoint(
    run: Run,
    dst: Destination,
    base: Base = None,
    overwrite: Overwrite = False,
    max_shard_size: MaxShardSize = MAX_SHARD_SIZE,
    as_json: AsJson = False,
) -> None:
    """A complete checkpoint of any training output: whole weights as they are, a LoRA merged into its base model.

    Examples:

      hf-videollm finish checkpoint runs/first my-model

      hf-videollm finish checkpoint runs/first/checkpoint-200 my-model-200

      hf-videollm finish checkpoint trl-output my-model --base ./pllava-7b
    """
    from ..training.endings import finish_checkpoint

    options = {"base": base, "overwrite": overwrite, "max_shard_size": max_shard_size}
    _write(finish_checkpoint, run, dst, as_json, **options)


@finish_app.command("merged", cls=Command)
def merged(
    run: Run,
    dst: Destination,
    lora_alpha: Annotated[
        float | None, typer.Option("--lora-alpha", min=0, help="Strength with which the LoRA is added (PLLaVA).")
    ] = None,
    base: Base = None,
    overwrite: Overwrite = False,
    max_shard_size: MaxShardSize = MAX_SHARD_SIZE,
    as_json: AsJson = False,
) -> None:
    """A checkpoint in which the LoRA is added to the weights.

    Examples:

      hf-videollm finish merged runs/lora my-model

      hf-videollm finish merged runs/pllava-lora my-pllava --lora-alpha 4
    """
    from ..training.endings import finish_merged

    options = {"lora_alpha": lora_alpha, "base": base, "overwrite": overwrite, "max_shard_size": max_shard_size}
    _write(finish_merged, run, dst, as_json, **options)


@finish_app.command("adjustable", cls=Command)
def adjustable(
    run: Run,
    dst: Destination,
    lora_alpha: Annotated[
        float | None,
        typer.Option("--lora-alpha", min=0, help="Strength that the checkpoint has by default; that of the training."),
    ] = None,
    base: Base = None,
    overwrite: Overwrite = False,
    max_shard_size: MaxShardSize = MAX_SHARD_SIZE,
    as_json: AsJson = False,
) -> None:
    """A PLLaVA checkpoint that keeps its LoRA apart: its strength can be changed whenever it is loaded.

    Examples:

      hf-videollm finish adjustable runs/pllava-lora my-pllava

      hf-videollm ask clip.mp4 "What happens?" --model my-pllava --lora-alpha 4
    """
    from ..training.endings import finish_adjustable

    options = {"lora_alpha": lora_alpha, "base": base, "overwrite": overwrite, "max_shard_size": max_shard_size}
    _write(finish_adjustable, run, dst, as_json, **options)


@finish_app.command("qlora", cls=Command)
def qlora(
    run: Run,
    dst: Destination,
    into: Annotated[
        str,
        typer.Option(
            help="dequantized: the 4-bit weights as plain numbers, with which the LoRA was trained; original: the "
            "weights before they were quantized."
        ),
    ] = "dequantized",
    base: Base = None,
    overwrite: Overwrite = False,
    max_shard_size: MaxShardSize = MAX_SHARD_SIZE,
    as_json: AsJson = False,
) -> None:
    """A checkpoint of a LoRA that was trained on 4-bit weights (`quantize: nf4`), added to plain weights.

    Examples:

      hf-videollm finish qlora runs/qlora my-model

      hf-videollm finish qlora runs/qlora my-model --into original
    """
    from ..training.endings import finish_qlora

    options = {"into": into, "base": base, "overwrite": overwrite, "max_shard_size": max_shard_size}
    _write(finish_qlora, run, dst, as_json, **options)


@finish_app.command("linvt", cls=Command)
def linvt(
    run: Run,
    dst: Destination,
    image_llm: Annotated[
        str | None, typer.Option("--image-llm", help="Its image-LLM; the one that the run names by default.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """LinVT alone, without its image-LLM. Every weight is compared, so that nothing that was trained is left out.

    Examples:

      hf-videollm finish linvt runs/linvt my-linvt

      hf-videollm finish linvt runs/linvt my-linvt --image-llm ./llava-interleave-qwen-0.5b-hf
    """
    from ..training.endings import finish_linvt

    _write(finish_linvt, run, dst, as_json, image_llm=image_llm, overwrite=overwrite)


def _write(ending: Any, run: str, dst: Any, as_json: bool, **options: Any) -> None:
    with status("Loading, writing and loading again ..."):
        report = ending(run, dst, **options)
    print_report(report, as_json)
