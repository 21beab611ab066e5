"""`hf-videollm info` and `hf-videollm flops`: what a checkpoint is and what it costs, without loading its weights."""

from typing import Annotated

import typer

from ..known_models import find_model
from .options import AsJson
from .output import print_drawing, print_json, print_report


def info(
    path_or_id: Annotated[
        str | None, typer.Argument(help="Folder, Hub id or bundled model; the default model if omitted.")
    ] = None,
    design: Annotated[
        str | None, typer.Option(help="Instead of a checkpoint. linvt: the parameters of LinVT for real image-LLMs.")
    ] = None,
    num_frames: Annotated[
        int | None,
        typer.Option(
            "--frames", min=1, help="Frames of the video, for the memory; as in the configuration by default."
        ),
    ] = None,
    text_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the text, for the memory.")] = 256,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16, for the memory; that of the checkpoint by default."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a checkpoint is, where it comes from and what it costs, without loading its weights.

    Of a model on the Hub, only small files and the headers of the weights are fetched.

    Examples:

      hf-videollm info ./pllava-7b

      hf-videollm info ./pllava-7b --frames 64 --dtype bfloat16

      hf-videollm info --design linvt

      hf-videollm info --json
    """
    if design is not None:
        from ..costs.linvt import linvt_table

        if path_or_id is not None:
            raise ValueError("Give a checkpoint or --design, not both.")
        if num_frames is not None or dtype is not None:
            raise ValueError("--frames and --dtype are for the memory of a checkpoint: leave out --design.")
        if design != "linvt":
            raise ValueError(
                f"--design {design!r} has no table: only the size of linvt depends on the model that it is added to."
            )
        print_report(linvt_table(), as_json)
        return
    from ..costs.info import describe_checkpoint

    facts = describe_checkpoint(find_model(path_or_id), text_tokens, num_frames, dtype)
    if as_json:
        print_json(facts.to_dict())
    else:
        from ..costs.info_table import info_table

        print_drawing(info_table(facts))


def flops(
    path_or_id: Annotated[str | None, typer.Argument(help="Folder or Hub id, unless --design is given.")] = None,
    design: Annotated[
        str | None,
        typer.Option(
            help="Sizes of a paper: ftfv, iva (iva-without, iva-ni4, ...), pllava, videollama2, videollama2.1, "
            "videollama2_av."
        ),
    ] = None,
    num_frames: Annotated[
        int | None,
        typer.Option("--frames", min=1, help="Frames of the video; the number in the configuration by default."),
    ] = None,
    text_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the prompt besides the media.")] = 48,
    tokens_per_frame: Annotated[
        int | None,
        typer.Option(min=1, help="Kept tokens per frame (FTFV); without it, a table for several numbers is printed."),
    ] = None,
    lora_rank: Annotated[
        int | None, typer.Option(min=0, help="Rank of an unmerged LoRA on all layers; 128 for --design ftfv.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Count the operations for one video and the size of its key-value cache, without weights.

    Examples:

      hf-videollm flops --design ftfv

      hf-videollm flops ./pllava-7b --frames 32 --text-tokens 256 --json
    """
    from ..costs.flops import describe_flops

    report = describe_flops(
        None if path_or_id is None else find_model(path_or_id),
        design=design,
        num_frames=num_frames,
        text_tokens=text_tokens,
        tokens_per_frame=tokens_per_frame,
        lora_rank=lora_rank,
        memory=True,
    )
    print_report(report, as_json)


__all__ = ["flops", "info"]
