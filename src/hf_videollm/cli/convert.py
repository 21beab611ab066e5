"""`hf-videollm convert ...`: one command for each kind of official checkpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..convert import MAX_SHARD_SIZE
from ..official import advice_for_official
from .app import Command, HintingGroup
from .options import AsJson, Destination, MaxShardSize, Overwrite, StoredDtype
from .output import ByteProgress, print_report, status


class ConvertGroup(HintingGroup):
    """One command for each kind of checkpoint. If a folder stands in place of a kind, the error names its kind."""

    def unknown_command(self, name: str, written: str) -> str:
        if not Path(name).exists():
            return super().unknown_command(name, written)
        advice = advice_for_official(name) or f"KIND is one of {', '.join(self.commands)}."
        return f"{written}: the kind of checkpoint is missing; use hf-videollm convert KIND SRC DST. {advice}"


convert_app = typer.Typer(cls=ConvertGroup)

SourceTokenizer = Annotated[Path | None, typer.Option(help="Folder of the tokenizer, if SRC has none.")]
LanguageTokenizer = Annotated[Path | None, typer.Option(help="Folder of the tokenizer, if LLM has none.")]


@convert_app.callback(invoke_without_command=True)
def convert(context: typer.Context) -> None:
    """Convert official checkpoints to safetensors folders that from_pretrained loads.

    Examples:

      hf-videollm convert pllava ./ermu2001-pllava-7b ./pllava-7b

      hf-videollm convert videollama2 --help
    """
    if context.invoked_subcommand is None:
        kinds = ", ".join(list(getattr(context.command, "commands", {}))[1:])
        raise ValueError(f"No kind is given: use hf-videollm convert pllava SRC DST, or {kinds} (--help).")


@convert_app.command("pllava", cls=Command)
def convert_pllava_command(
    src: Annotated[Path, typer.Argument(help="Folder of the official checkpoint.", metavar="SRC")],
    dst: Destination,
    base: Annotated[
        Path | None, typer.Option(help="LLaVA-NeXT folder, for checkpoints that hold only LoRA and projector.")
    ] = None,
    tokenizer: SourceTokenizer = None,
    lora_alpha: Annotated[float, typer.Option(min=0, help="Alpha with which the LoRA is loaded by default.")] = 4.0,
    merge: Annotated[
        float | None, typer.Option(min=0, metavar="ALPHA", help="Merge the LoRA into the weights with this alpha.")
    ] = None,
    dtype: StoredDtype = None,
    max_shard_size: MaxShardSize = MAX_SHARD_SIZE,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Convert a released PLLaVA checkpoint, a partial LoRA checkpoint plus its base, or a merged one.

    Examples:

      hf-videollm convert pllava ./ermu2001-pllava-7b ./pllava-7b

      hf-videollm convert pllava ./my-lora ./my-pllava --base ./llava-v1.6-vicuna-7b-hf

      hf-videollm convert pllava ./ermu2001-pllava-7b ./pllava-7b-alpha4 --merge 4
    """
    from ..convert.pllava.convert import convert_pllava

    _run(
        convert_pllava,
        as_json,
        src,
        dst,
        base=base,
        tokenizer=tokenizer,
        lora_alpha=lora_alpha,
        merge=merge,
        dtype=dtype,
        max_shard_size=max_shard_size,
        overwrite=overwrite,
    )


@convert_app.command("videollama2", cls=Command)
def convert_videollama2_command(
    src: Annotated[Path, typer.Argument(help="Folder of the official checkpoint.", metavar="SRC")],
    dst: Destination,
    base: Annotated[
        Path | None, typer.Option(help="Base model of a LoRA, or of a checkpoint that holds only projectors.")
    ] = None,
    vision: Annotated[Path | None, typer.Option(help="CLIP or SigLIP folder or file, if SRC has no tower.")] = None,
    vision_config: Annotated[
        Path | None, typer.Option(help="JSON file with the configuration of a vision tower whose name is unknown.")
    ] = None,
    audio_tower: Annotated[
        Path | None, typer.Option(help="BEATs .pt or audio_tower.bin, if an audio-visual SRC has none.")
    ] = None,
    tokenizer: SourceTokenizer = None,
    dtype: StoredDtype = None,
    max_shard_size: MaxShardSize = MAX_SHARD_SIZE,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Convert VideoLLaMA2, 2.1 or 2.1-AV: complete checkpoints, "Base" ones (mm_projector.bin), and LoRA (merged).

    Examples:

      hf-videollm convert videollama2 ./VideoLLaMA2.1-7B-AV ./videollama2-av

      hf-videollm convert videollama2 ./7B-Base ./out --base ./Mistral-7B-Instruct-v0.2 --vision ./clip-large-336
    """
    from ..convert.videollama2.convert import convert_videollama2

    _run(
        convert_videollama2,
        as_json,
        src,
        dst,
        base=base,
        vision=vision,
        vision_config=vision_config,
        audio_tower=audio_tower,
        tokenizer=tokenizer,
        dtype=dtype,
        max_shard_size=max_shard_size,
        overwrite=overwrite,
    )


@convert_app.command("ftfv", cls=Command)
def convert_ftfv_command(
    qwen_vl: Annotated[Path, typer.Argument(help="Folder of Qwen-VL, for its vision module.", metavar="QWEN_VL")],
    language_model: Annotated[Path, typer.Argument(help="Folder of a causal language model.", metavar="LLM")],
    dst: Destination,
    tokenizer: LanguageTokenizer = None,
    num_frames: Annotated[int, typer.Option("--frames", min=1, help="Frames per video.")] = 8,
    num_tokens_per_frame: Annotated[
        int, typer.Option("--tokens-per-frame", min=1, help="Tokens kept per frame; can be changed later.")
    ] = 128,
    seed: Annotated[int, typer.Option(help="Random seed of the temporal code, which no source has.")] = 0,
    dtype: StoredDtype = None,
    max_shard_size: MaxShardSize = MAX_SHARD_SIZE,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Make an FTFV checkpoint, ready for training, from Qwen-VL's vision module and a language model.

    Examples:

      hf-videollm convert ftfv ./Qwen-VL ./vicuna-7b-v1.5 ./ftfv-start --dtype bfloat16
    """
    from ..convert.ftfv.convert import convert_ftfv

    _run(
        convert_ftfv,
        as_json,
        qwen_vl,
        language_model,
        dst,
        tokenizer=tokenizer,
        num_frames=num_frames,
        num_tokens_per_frame=num_tokens_per_frame,
        seed=seed,
        dtype=dtype,
        max_shard_size=max_shard_size,
        overwrite=overwrite,
    )


@convert_app.command("iva", cls=Command)
def convert_iva_command(
    vision: Annotated[Path, typer.Argument(help="Folder of a CLIP or SigLIP.", metavar="VISION")],
    language_model: Annotated[Path, typer.Argument(help="Folder of a causal language model.", metavar="LLM")],
    dst: Destination,
    tokenizer: LanguageTokenizer = None,
    num_insertions: Annotated[
        int,
        typer.Option(min=0, help="Calls of the adapter (NI in the paper); 0 for the training stages without adapter."),
    ] = 8,
    num_query_tokens: Annotated[
        int, typer.Option("--query-tokens", min=1, help="Query tokens before an answer (LQ in the paper).")
    ] = 16,
    adapter_hidden_size: Annotated[int, typer.Option("--adapter-width", min=1, help="Width of the adapter.")] = 1024,
    seed: Annotated[
        int, typer.Option(help="Random seed of connector, adapter and query tokens, which no source has.")
    ] = 0,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; the type of LLM by default.")] = None,
    max_shard_size: MaxShardSize = MAX_SHARD_SIZE,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Make an IVA checkpoint, ready for training, from a vision tower and a language model.

    Examples:

      hf-videollm convert iva ./clip-vit-large-patch14-336 ./vicuna-7b-v1.5 ./iva-start --dtype bfloat16

      hf-videollm convert iva ./clip-vit-large-patch14-336 ./vicuna-7b-v1.5 ./iva-stage0 --num-insertions 0
    """
    from ..convert.iva.convert import convert_iva

    with status("Converting ..."):
        report = convert_iva(
            vision,
            language_model,
            dst,
            tokenizer=tokenizer,
            num_insertions=num_insertions,
            num_query_tokens=num_query_tokens,
            adapter_hidden_size=adapter_hidden_size,
            seed=seed,
            dtype=dtype,
            max_shard_size=max_shard_size,
            overwrite=overwrite,
        )
    print_report(report, as_json)


@convert_app.command("xgen-mm", cls=Command)
def convert_xgen_mm_command(
    src: Annotated[Path, typer.Argument(help="Folder of the official checkpoint, v1.5.", metavar="SRC")],
    dst: Destination,
    vision_config: Annotated[
        Path | None, typer.Option(help="JSON file with the configuration of a SigLIP whose name is unknown.")
    ] = None,
    tokenizer: SourceTokenizer = None,
    dtype: StoredDtype = None,
    max_shard_size: MaxShardSize = MAX_SHARD_SIZE,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Convert XGen-MM (BLIP-3) v1.5, an image-LLM that LinVT can use.

    Examples:

      hf-videollm convert xgen-mm ./xgen-mm-phi3-mini-instruct-interleave-r-v1.5 ./xgen-mm --dtype bfloat16
    """
    from ..convert.xgen_mm.convert import convert_xgen_mm

    _run(
        convert_xgen_mm,
        as_json,
        src,
        dst,
        vision_config=vision_config,
        tokenizer=tokenizer,
        dtype=dtype,
        max_shard_size=max_shard_size,
        overwrite=overwrite,
    )


@convert_app.command("beats", cls=Command)
def convert_beats_command(
    src: Annotated[Path, typer.Argument(help="Microsoft's .pt, or an audio_tower.bin.", metavar="FILE")],
    dst: Destination,
    dtype: StoredDtype = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Convert a BEATs audio encoder to a folder that BeatsModel and AutoModel load.

    Examples:

      hf-videollm convert beats ./BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt ./beats
    """
    from ..convert.videollama2.beats import convert_beats

    _run(convert_beats, as_json, src, dst, dtype=dtype, overwrite=overwrite)


def _run(convert: Callable[..., Any], as_json: bool, *places: Path, **options: Any) -> None:
    """Convert with a progress bar, then print the report."""
    with ByteProgress("Converting") as progress:
        report = convert(*places, progress=progress.report, **options)
    print_report(report, as_json)
