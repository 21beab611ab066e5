"""`hf-videollm tune-alpha`: finds the strength of a LoRA that answers labelled questions best."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from .options import AsJson, Device, Dtype, MaxNewTokens, NumFrames
from .output import print_report


def tune_alpha_command(
    path_or_id: Annotated[str, typer.Argument(help="Converted PLLaVA checkpoint that still has its LoRA.")],
    data: Annotated[Path, typer.Argument(help="Labelled questions: a JSON Lines file of records (see README).")],
    alphas: Annotated[str, typer.Option(help="Values to try, separated by commas.")] = "0,1,2,4,8,12,16,20,24,28,32",
    limit: Annotated[int | None, typer.Option(min=1, help="Use the first LIMIT records only.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions answered at a time.")] = 8,
    num_frames: NumFrames = None,
    max_new_tokens: MaxNewTokens = 32,
    dtype: Dtype = "auto",
    device: Device = None,
    save: Annotated[
        bool, typer.Option("--save", help="Record the best alpha in the checkpoint's config.json.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find the LoRA alpha that answers labelled questions best (PLLaVA paper, section 3.4).

    Examples:

      hf-videollm tune-alpha ./pllava-7b validation.jsonl

      hf-videollm tune-alpha ./pllava-7b validation.jsonl --alphas 0,4,16,20,32 --limit 200 --save
    """
    from ..training.tune_alpha import tune_alpha_on_file

    report = tune_alpha_on_file(
        path_or_id,
        data,
        alphas=_numbers(alphas),
        limit=limit,
        batch_size=batch_size,
        num_frames=num_frames,
        max_new_tokens=max_new_tokens,
        dtype=dtype,
        device=device,
        save=save,
        progress=not as_json and sys.stderr.isatty(),
    )
    print_report(report, as_json)


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers or not all(0 <= number < float("inf") for number in numbers):
        raise ValueError(f"--alphas must be numbers of at least 0, separated by commas, not {text!r}.")
    return numbers


__all__ = ["tune_alpha_command"]
