"""`hf-videollm build DESIGN`: makes a checkpoint for training from a vision tower and a language model."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..convert import MAX_SHARD_SIZE
from ..designs import buildable
from .options import AsJson, MaxShardSize, Overwrite, StoredDtype
from .output import ByteProgress, print_report


def build(
    design: Annotated[str, typer.Argument(help=f"One of {', '.join(buildable())}.", metavar="DESIGN")],
    dst: Annotated[Path, typer.Argument(help="Folder to write.", metavar="DST")],
    vision: Annotated[
        Path | None, typer.Option("--vision", help="Folder of a CLIP, SigLIP or another tower (Qwen-VL for ftfv).")
    ] = None,
    language_model: Annotated[Path | None, typer.Option("--llm", help="Folder of a causal language model.")] = None,
    audio: Annotated[
        Path | None, typer.Option("--audio", help="File or folder of a BEATs (for videollama2_av).")
    ] = None,
    image_llm: Annotated[
        Path | None,
        typer.Option("--image-llm", help="Folder of an image-LLM (for linvt, instead of --vision and --llm)."),
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of the tokenizer, if LLM has none.")] = None,
    num_frames: Annotated[
        int | None, typer.Option("--frames", min=1, help="Frames per video; the paper's number by default.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=VALUE", help="Field of the configuration with its value as JSON; repeatable."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the new parts.")] = 0,
    dtype: StoredDtype = None,
    max_shard_size: MaxShardSize = MAX_SHARD_SIZE,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Make a model from a vision tower and a language model, ready for its first training stage.

    The weights of both are not changed. Parts that no source has (connector, LinVT, ...) get new random weights. The
    language model keeps its chat template: a question without a video gives the language model's own prompt and answer.

    Examples:

      hf-videollm build pllava --vision ./clip-large-336 --llm ./vicuna-7b-v1.5 ./pllava-start --dtype bfloat16

      hf-videollm build videollama2 --vision ./siglip-so400m --llm ./Qwen2-7B-Instruct ./vl2-start --frames 16

      hf-videollm build videollama2_av --vision ./siglip-so400m --llm ./Qwen2-7B-Instruct --audio ./BEATs.pt ./av-start

      hf-videollm build linvt --image-llm ./llava-interleave-qwen-0.5b-hf ./linvt-start

      hf-videollm build linvt --vision ./siglip-so400m --llm ./SmolLM2-135M-Instruct ./linvt-start --set num_layers=2

      hf-videollm build iva --vision ./clip-large-336 --llm ./vicuna-7b-v1.5 ./iva-start

      hf-videollm build ftfv --vision ./clip-large-336 --llm ./SmolLM2-135M-Instruct ./ftfv-start

      hf-videollm build ftfv --vision ./Qwen-VL --llm ./vicuna-7b-v1.5 ./ftfv-start
    """
    from ..build import build_checkpoint

    options = _parse(settings or [])
    if num_frames is not None:
        options["num_frames"] = num_frames
    with ByteProgress("Building") as progress:
        report = build_checkpoint(
            design,
            dst,
            vision=vision,
            language_model=language_model,
            audio=audio,
            image_llm=image_llm,
            tokenizer=tokenizer,
            seed=seed,
            dtype=dtype,
            max_shard_size=max_shard_size,
            overwrite=overwrite,
            progress=progress.report,
            **options,
        )
    print_report(report, as_json)


def _parse(settings: list[str]) -> dict[str, Any]:
    """Maps names to values, from `num_frames=8` and `pooling_shape=[8,4,4]`; a value that is no JSON is a string.

    Raises:
        ValueError: a setting has no name, or a name is set twice.
    """
    options: dict[str, Any] = {}
    for setting in settings:
        name, sign, text = setting.partition("=")
        if not sign or not name.isidentifier() or name in options:
            raise ValueError(f"--set {setting}: write FIELD=VALUE, each field once, such as --set num_frames=8.")
        try:
            options[name] = json.loads(text)
        except json.JSONDecodeError:
            options[name] = text
    return options


__all__ = ["build"]
