"""Options that several commands share. A parameter has the name of the Python argument that gets its value.

Errors of Python functions name these arguments, and `errors.py` replaces them by the flags.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from ..known_models import DEFAULT_CHECKPOINT, bundled_checkpoints

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]

# Options of `ask` and `caption`.
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help=f"Folder, Hub id or bundled model ({', '.join(bundled_checkpoints())}); {DEFAULT_CHECKPOINT} by default.",
    ),
]
NumFrames = Annotated[
    int | None,
    typer.Option("--frames", min=1, help="Number of frames to sample; the number in the checkpoint by default."),
]
Fps = Annotated[float | None, typer.Option("--fps", help="Frames to sample per second, instead of a number of frames.")]
MaxFrames = Annotated[
    int | None,
    typer.Option(
        "--max-frames", min=1, help="Largest number of frames: IVA then samples fewer per second, other designs refuse."
    ),
]
Start = Annotated[float | None, typer.Option("--start", min=0, help="Begin the clip at this second.")]
End = Annotated[float | None, typer.Option("--end", min=0, help="End the clip at this second.")]
Dtype = Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:1, ...; by default a GPU if there is one.")
]
MaxNewTokens = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Maximum length of the answer in tokens.")]
LoraAlpha = Annotated[
    float | None,
    typer.Option(
        "--lora-alpha", min=0, help="Strength of the checkpoint's LoRA, instead of the one in its config.json."
    ),
]
AllowedHosts = Annotated[
    list[str] | None, typer.Option("--allow-host", help="Host from which an http(s) video may come; repeatable.")
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run the model code of the repository (not needed for our designs).")
]
OnDecodeError = Annotated[
    str,
    typer.Option(
        "--on-decode-error", help="For a damaged file: raise, or truncate to use the frames before the damage."
    ),
]
NumTokensPerFrame = Annotated[
    int | None,
    typer.Option(
        "--tokens-per-frame",
        min=1,
        help="Tokens that are kept of each frame (FTFV); the number in training by default.",
    ),
]
Sampling = Annotated[
    str | None,
    typer.Option(
        "--sampling", help="How frames are chosen (LinVT): uniform, or shots, which needs hf-videollm[shots]."
    ),
]
Sound = Annotated[
    bool | None,
    typer.Option(
        "--sound/--no-sound", help="Whether to use the sound of the video; by default as the checkpoint says."
    ),
]
MissingAudio = Annotated[
    str | None,
    typer.Option("--missing-audio", help="For a video without sound: silence, skip (no audio tokens) or error."),
]

# Options of commands that write checkpoints.
Destination = Annotated[Path, typer.Argument(help="Folder to write.", metavar="DST")]
StoredDtype = Annotated[
    str | None, typer.Option("--dtype", help="float32, bfloat16 or float16; by default the stored type.")
]
MaxShardSize = Annotated[int, typer.Option("--max-shard-size", min=1, help="Maximum size of one output file in bytes.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace DST if it is not empty.")]


@dataclass(frozen=True)
class AnswerOptions:
    """The options that `ask` and `caption` share: for loading the model, for the video and for its sound."""

    model: Model = None
    num_frames: NumFrames = None
    fps: Fps = None
    max_frames: MaxFrames = None
    num_tokens_per_frame: NumTokensPerFrame = None
    sampling: Sampling = None
    start: Start = None
    end: End = None
    dtype: Dtype = "auto"
    device: Device = None
    lora_alpha: LoraAlpha = None
    allowed_hosts: AllowedHosts = None
    on_decode_error: OnDecodeError = "raise"
    use_audio_in_video: Sound = None
    missing_audio: MissingAudio = None
    trust_remote_code: TrustRemoteCode = False

    def of_loading(self) -> dict[str, Any]:
        """The options of `load_pipeline`."""
        return {name: getattr(self, name) for name in LOADING}

    def of_media(self) -> dict[str, Any]:
        """The options of a call of the pipeline that the user gave."""
        others = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in LOADING}
        return {name: value for name, value in others.items() if value is not None and name != "model"}


LOADING = ("dtype", "device", "lora_alpha", "trust_remote_code")


def refuse_count_and_rate(num_frames: int | None, fps: float | None) -> None:
    """Raise `ValueError` if frames are asked for by their number and by their rate."""
    if num_frames is not None and fps is not None:
        raise ValueError("`num_frames` and `fps` exclude each other: pass one of them.")


def spread_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replace each dataclass among the parameters of a command by one parameter per field, as typer needs them."""
    parameters = inspect.signature(command).parameters
    classes: dict[str, Any] = {
        name: entry.annotation for name, entry in parameters.items() if is_dataclass(entry.annotation)
    }

    @wraps(command)
    def run(**given: Any) -> None:
        for name, options in classes.items():
            given[name] = options(**{field.name: given.pop(field.name) for field in fields(options)})
        command(**given)

    spread = []
    for name, entry in parameters.items():
        if name in classes:
            spread += [_as_parameter(field.name, field.type, field.default) for field in fields(classes[name])]
        else:
            spread.append(_as_parameter(name, entry.annotation, entry.default))
    # typer reads names and defaults from the signature, and types from the annotations.
    run.__dict__["__signature__"] = inspect.Signature(spread)
    run.__annotations__ = {entry.name: entry.annotation for entry in spread}
    return run


def _as_parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
