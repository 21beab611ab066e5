"""The command line: `hf-videollm ask | caption | info | flops | build | convert | tune-alpha`."""

import contextlib
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ..known_models import DEFAULT_CHECKPOINT, bundled_checkpoints, find_model
from .build import build
from .convert import convert_app
from .data import data_app
from .output import AsJson, HintingGroup, console, errors, print_json, print_report
from .quiet import quiet_libraries
from .train import train

app = typer.Typer(
    name="hf-videollm",
    cls=HintingGroup,
    help="Ask videos questions, and work with the checkpoints of five video-language designs.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(convert_app, name="convert")
app.add_typer(data_app, name="data")
app.command()(build)
app.command()(train)

# Newer typer carries its own click, so its exceptions are found through typer.
_ABORTS = (typer.Abort,)

BAD_INPUT, INTERRUPTED = 2, 130
CAPTION_PROMPT = "Describe the video in details."

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help=f"Folder, Hub id or bundled model ({', '.join(bundled_checkpoints())}); {DEFAULT_CHECKPOINT} by default.",
    ),
]
Frames = Annotated[
    int | None, typer.Option("--frames", min=1, help="Frames to sample; the checkpoint's own number by default.")
]
Fps = Annotated[float | None, typer.Option("--fps", help="Frames to sample per second, instead of a number of frames.")]
MaxFrames = Annotated[
    int | None,
    typer.Option(
        "--max-frames", min=1, help="Most frames of a video: IVA takes fewer a second, other designs refuse more."
    ),
]
Start = Annotated[float | None, typer.Option(min=0, help="Begin the clip at this second.")]
End = Annotated[float | None, typer.Option(min=0, help="End the clip at this second.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; a GPU when there is one, by default.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Longest answer in tokens.")]
LoraAlpha = Annotated[
    float | None, typer.Option(min=0, help="Strength of the checkpoint's LoRA, instead of the recorded one.")
]
AllowHost = Annotated[
    list[str] | None, typer.Option("--allow-host", help="Host that an http(s) video may come from; repeatable.")
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run the model code of the repository (not needed for our designs).")
]
OnDecodeError = Annotated[
    str, typer.Option(help="raise, or truncate to use the frames before the damage of a broken file.")
]
TokensPerFrame = Annotated[
    int | None,
    typer.Option(min=1, help="Tokens of each frame that are kept (FTFV); what it was trained with by default."),
]
Sampling = Annotated[
    str | None,
    typer.Option(help="Where frames come from (LinVT): uniform, or shots, each by its length (extra: shots)."),
]
Sound = Annotated[
    bool | None,
    typer.Option("--sound/--no-sound", help="Hear the sound of the video; what the checkpoint says by default."),
]
MissingAudio = Annotated[
    str | None, typer.Option(help="What a video without sound gets: silence, skip (no audio tokens) or error.")
]


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the full traceback of an error (anywhere).")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from ..version import __version__

        print(__version__)
    elif context.invoked_subcommand is None:
        commands = ", ".join(getattr(context.command, "commands", {}))
        raise ValueError(f"Say what to do: {commands} (hf-videollm --help).")


@app.command()
def ask(
    video: Annotated[str, typer.Argument(help="Video file, GIF, folder of frames, or URL of an allowed host.")],
    question: Annotated[str, typer.Argument(help="What you want to know.")],
    model: Model = None,
    frames: Frames = None,
    fps: Fps = None,
    max_frames: MaxFrames = None,
    tokens_per_frame: TokensPerFrame = None,
    sampling: Sampling = None,
    start: Start = None,
    end: End = None,
    dtype: Dtype = "auto",
    device: Device = None,
    max_new_tokens: MaxNewTokens = 128,
    lora_alpha: LoraAlpha = None,
    allow_host: AllowHost = None,
    on_decode_error: OnDecodeError = "raise",
    sound: Sound = None,
    missing_audio: MissingAudio = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Ask one question about a video.

    Examples:

      hf-videollm ask clip.mp4 "What colour is the shape?"

      hf-videollm ask clip.mp4 "What happens?" --model ./pllava-7b --frames 16 --dtype bfloat16 --json
    """
    options = _video_options(frames, fps, max_frames, start, end, allow_host, on_decode_error) | _design_options(
        sound, missing_audio, tokens_per_frame, sampling
    )
    answer = _answer(video, question, model, options, dtype, device, max_new_tokens, lora_alpha, trust_remote_code)
    _print_answer(answer, as_json)


@app.command()
def caption(
    video: Annotated[str, typer.Argument(help="Video file, GIF, folder of frames, or URL of an allowed host.")],
    model: Model = None,
    prompt: Annotated[str, typer.Option(help="The instruction.")] = CAPTION_PROMPT,
    frames: Frames = None,
    fps: Fps = None,
    max_frames: MaxFrames = None,
    tokens_per_frame: TokensPerFrame = None,
    sampling: Sampling = None,
    start: Start = None,
    end: End = None,
    dtype: Dtype = "auto",
    device: Device = None,
    max_new_tokens: MaxNewTokens = 256,
    lora_alpha: LoraAlpha = None,
    allow_host: AllowHost = None,
    on_decode_error: OnDecodeError = "raise",
    sound: Sound = None,
    missing_audio: MissingAudio = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Describe a video.

    Examples:

      hf-videollm caption clip.mp4 --model ./pllava-7b

      hf-videollm caption clip.mp4 --model ./pllava-7b --start 10 --end 25 --max-new-tokens 400
    """
    options = _video_options(frames, fps, max_frames, start, end, allow_host, on_decode_error) | _design_options(
        sound, missing_audio, tokens_per_frame, sampling
    )
    answer = _answer(video, prompt, model, options, dtype, device, max_new_tokens, lora_alpha, trust_remote_code)
    if model is None:
        errors.print(
            "note: the bundled model answers questions on synthetic clips and was not trained to describe; "
            "pass --model for real captions.",
            soft_wrap=True,
        )
    _print_answer(answer, as_json)


@app.command()
def info(
    path_or_id: Annotated[
        str | None, typer.Argument(help="Folder, Hub id or bundled model; the default one when left out.")
    ] = None,
    design: Annotated[
        str | None, typer.Option(help="linvt: its parameters before real image-LLMs, instead of a checkpoint.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show design, parameters, tokens per video and memory of a checkpoint, without loading its weights.

    Examples:

      hf-videollm info ./pllava-7b

      hf-videollm info --design linvt

      hf-videollm info --json
    """
    if design is not None:
        from ..costs.linvt import linvt_table

        if path_or_id is not None:
            raise ValueError("Give a checkpoint or --design, not both.")
        if design != "linvt":
            raise ValueError(
                f"--design {design!r} has no table: only linvt grows with the model that it stands before."
            )
        print_report(linvt_table(), as_json)
        return
    from ..costs.info import describe_checkpoint

    facts = describe_checkpoint(find_model(path_or_id))
    if as_json:
        print_json(facts.to_dict())
        return
    table = Table(show_header=False, box=None)
    table.add_row("checkpoint", facts.source)
    table.add_row("design", facts.design)
    table.add_row("frames per video", f"{facts.num_frames}")
    table.add_row("tokens per video", f"{facts.tokens_per_video:,}")
    if facts.tokens_per_image is not None:
        table.add_row("tokens per image", f"{facts.tokens_per_image:,}")
    if facts.tokens_per_sound is not None:
        table.add_row("tokens per 30 s of sound", f"{facts.tokens_per_sound:,}")
    for name, count in facts.parameters.items():
        table.add_row(f"parameters, {name}", f"{count:,}")
    if facts.quantization is not None:
        table.add_row("quantized", facts.quantization)
    if facts.lora_alpha is not None:
        table.add_row("LoRA alpha", f"{facts.lora_alpha:g}")
    for name, size in facts.weight_bytes.items():
        table.add_row(f"weights in {name}", _size(size))
    sound = "" if facts.tokens_per_sound is None else " with 30 s of sound"
    table.add_row(f"key-value cache (bfloat16, one video{sound} + 256 tokens)", _size(facts.kv_cache_bytes))
    console.print(table)


@app.command()
def flops(
    path_or_id: Annotated[str | None, typer.Argument(help="Folder or Hub id, unless --design is given.")] = None,
    design: Annotated[
        str | None,
        typer.Option(
            help="Of a paper: ftfv, iva (iva-without, iva-ni4 ...), pllava, videollama2, videollama2.1, videollama2_av."
        ),
    ] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Frames of the video; as configured by default.")] = None,
    text_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the prompt beside the media.")] = 48,
    tokens_per_frame: Annotated[
        int | None, typer.Option(min=1, help="Kept tokens per frame (FTFV); a table of several by default.")
    ] = None,
    lora_rank: Annotated[
        int | None, typer.Option(min=0, help="Rank of an unmerged LoRA on all layers; ftfv's preset has 128.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Count the operations of one video and its key-value cache, without weights.

    Examples:

      hf-videollm flops --design ftfv

      hf-videollm flops ./pllava-7b --frames 32 --text-tokens 256 --json
    """
    from ..costs.flops import describe_flops

    report = describe_flops(
        None if path_or_id is None else find_model(path_or_id),
        design=design,
        num_frames=frames,
        text_tokens=text_tokens,
        tokens_per_frame=tokens_per_frame,
        lora_rank=lora_rank,
    )
    print_report(report, as_json)


@app.command("tune-alpha")
def tune_alpha_command(
    path_or_id: Annotated[str, typer.Argument(help="Converted PLLaVA checkpoint that still has its LoRA.")],
    data: Annotated[Path, typer.Argument(help="Labelled questions: JSON lines of records (see README).")],
    alphas: Annotated[str, typer.Option(help="Values to try, separated by commas.")] = "0,1,2,4,8,12,16,20,24,28,32",
    limit: Annotated[int | None, typer.Option(min=1, help="Use the first LIMIT records only.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions answered at a time.")] = 8,
    frames: Frames = None,
    max_new_tokens: MaxNewTokens = 32,
    dtype: Dtype = "auto",
    device: Device = None,
    save: Annotated[
        bool, typer.Option("--save", help="Record the best alpha in the checkpoint's config.json.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Search the LoRA alpha that answers a labelled set best (PLLaVA paper, section 3.4).

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
        num_frames=frames,
        max_new_tokens=max_new_tokens,
        dtype=dtype,
        device=device,
        save=save,
        progress=not as_json,
    )
    print_report(report, as_json)


def _video_options(
    frames: int | None,
    fps: float | None,
    max_frames: int | None,
    start: float | None,
    end: float | None,
    allow_host: list[str] | None,
    on_decode_error: str,
) -> dict[str, Any]:
    """The options of the video processor that were given."""
    options = {
        "num_frames": frames,
        "fps": fps,
        "max_frames": max_frames,
        "start": start,
        "end": end,
        "allowed_hosts": allow_host,
    }
    return {name: value for name, value in options.items() if value is not None} | {"on_decode_error": on_decode_error}


def _design_options(
    sound: bool | None, missing_audio: str | None, tokens_per_frame: int | None, sampling: str | None
) -> dict[str, Any]:
    """Options that only some designs have, as far as they were given."""
    options = {
        "use_audio_in_video": sound,
        "missing_audio": missing_audio,
        "num_tokens_per_frame": tokens_per_frame,
        "sampling": sampling,
    }
    return {name: value for name, value in options.items() if value is not None}


def _answer(
    video: str,
    question: str,
    model: str | None,
    options: dict[str, Any],
    dtype: str,
    device: str | None,
    max_new_tokens: int,
    lora_alpha: float | None,
    trust_remote_code: bool,
) -> dict[str, Any]:
    from .. import NoVideoStream, load_pipeline

    if not question.strip():
        raise ValueError("The question is empty: say what you want to know.")
    source = find_model(model)
    _check_video(video, options)
    with errors.status("Loading the model ..."):
        pipe = load_pipeline(
            source, dtype=dtype, device=device, lora_alpha=lora_alpha, trust_remote_code=trust_remote_code
        )
    hears = hasattr(pipe.model, "get_audio_features")
    if not hears and (given := sorted({"use_audio_in_video", "missing_audio"} & set(options))):
        raise ValueError(f"{source} cannot hear: leave out {' and '.join(given)}.")
    if "num_tokens_per_frame" in set(options) - set(getattr(pipe.model.base_model, "media_options", ())):
        raise ValueError(f"{source} cannot choose the tokens of a frame: leave out num_tokens_per_frame.")
    if "sampling" in options and not hasattr(pipe.processor.video_processor, "sampling"):
        raise ValueError(f"{source} knows one way to sample: leave out sampling=.")
    began = time.perf_counter()
    settings = {"return_full_text": False, "generate_kwargs": {"do_sample": False, "max_new_tokens": max_new_tokens}}
    with errors.status("Watching and answering ..."):
        try:
            results = pipe(video, text=question, **settings, **options)
        except NoVideoStream:
            if not hears:
                raise
            # A file of sound alone.
            results = pipe(audio=video, text=question, **settings, **options)
    return {
        "video": video,
        "question": question,
        "answer": results[0]["generated_text"].strip(),
        "model": source,
        **_sampling(options, pipe.processor.video_processor),
        "seconds": round(time.perf_counter() - began, 3),
    }


def _check_video(video: str, options: dict[str, Any]) -> None:
    """Find out what is wrong with a file before a large model is loaded for it."""
    from ..models.errors import NoVideoStream, check_interval, check_on_decode_error
    from ..models.media_video import probe_video

    if not video:
        raise ValueError("The name of the video is empty: give a file, a folder of frames or an address.")
    check_interval(options.get("start"), options.get("end"))
    check_on_decode_error(options["on_decode_error"])
    if "fps" in options and "num_frames" in options:
        raise ValueError("`num_frames` and `fps` exclude each other: pass one of them.")
    # What lies elsewhere would be fetched twice.
    if not video.lower().startswith(("http:", "https:", "data:")):
        # A file of sound alone may be heard.
        with contextlib.suppress(NoVideoStream):
            probe_video(video, on_decode_error=options["on_decode_error"])


def _sampling(options: dict[str, Any], video_processor: Any) -> dict[str, Any]:
    """How frames were taken: a number of them, or so many a second."""
    if "fps" in options:
        return {"fps": options["fps"]}
    num_frames = options.get("num_frames", video_processor.num_frames)
    return {"fps": video_processor.fps} if num_frames is None else {"num_frames": num_frames}


def _print_answer(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        # Plain print: an answer may hold brackets, which rich would take for markup.
        print(answer["answer"])


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers or not all(0 <= number < float("inf") for number in numbers):
        raise ValueError(f"--alphas must be numbers of at least 0, separated by commas, not {text!r}.")
    return numbers


def _size(num_bytes: int) -> str:
    units = ("B", "kB", "MB", "GB", "TB")
    power = min((len(str(num_bytes)) - 1) // 3, len(units) - 1)
    return f"{num_bytes / 1000**power:.3g} {units[power]}"


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; bad input ends with exit code 2 and one line, without a traceback unless `--debug`."""
    _run(list(sys.argv[1:] if arguments is None else arguments), "error")


def run_old_module(command: Sequence[str]) -> None:
    """A command by the name of the module that once held it; its errors begin as they did."""
    _run([*command, *sys.argv[1:]], "Error")


def _run(arguments: list[str], label: str) -> None:
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        with _signals_as_ctrl_c(), contextlib.nullcontext() if debug else quiet_libraries():
            code = app(args=arguments, prog_name="hf-videollm", standalone_mode=False)
        if code == INTERRUPTED:  # typer makes a quiet exit code of Ctrl-C
            raise KeyboardInterrupt
    except (KeyboardInterrupt, *_ABORTS):
        print("Stopped; nothing half-written is left behind.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        _report(error, arguments, label)
    sys.exit(code if isinstance(code, int) else 0)


@contextlib.contextmanager
def _signals_as_ctrl_c() -> Iterator[None]:
    """What kill, containers and schedulers send ends a command as Ctrl-C does: what is half-written goes away.

    The handlers before are put back, because tests and notebooks call `main` in their own process; other threads than
    the main one cannot have any.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
        before = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            # None: it was not set from Python, and Python cannot put it back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _report(error: Exception, arguments: list[str], label: str) -> None:
    """One line on stderr; 2 for what the user can mend, 1 for what looks like our fault."""
    if hasattr(error, "format_message"):  # a usage error of click, whichever copy of click raised it
        command = getattr(getattr(error, "ctx", None), "command_path", None) or "hf-videollm"
        print(f"{label}: {error.format_message()} ({command} --help tells more)", file=sys.stderr)
        sys.exit(BAD_INPUT)
    message = " ".join(str(error).split()) or type(error).__name__
    # What is said of a config.json, or of --set, speaks of its fields, not of options.
    if "config.json" not in message and "--set" not in message:
        message = _in_words_of_options(message, arguments)
    if isinstance(error, ValueError | OSError | ImportError | TypeError):
        print(f"{label}: {message}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    print(f"internal error: {type(error).__name__}: {message} (run again with --debug and report it)", file=sys.stderr)
    sys.exit(1)


def _in_words_of_options(message: str, arguments: list[str]) -> str:
    """Errors name arguments of Python functions; on the command line they have other names.

    What the user wrote, and what looks like such a name in it, stays as it is.
    """
    own = [text for text in _own_words(arguments) if _translated(text) != text]
    for index, text in enumerate(own):
        message = message.replace(text, f"\0{index}\0")
    message = _translated(message)
    for index, text in enumerate(own):
        message = message.replace(f"\0{index}\0", text)
    return message


def _own_words(arguments: list[str]) -> list[str]:
    """The arguments, what stands behind their = and between their slashes; the longest first."""
    words = {" ".join(argument.split()) for argument in arguments}
    words |= {word.partition("=")[2] for word in words if word.startswith("--")}
    words |= {part for word in words for part in re.split(r"[/\\]", word)}
    return sorted((word for word in words if word), key=len, reverse=True)


def _translated(message: str) -> str:
    for pattern, option in (
        (r'pass on_decode_error="truncate"', "pass --on-decode-error truncate"),
        (r"allowed_hosts=[(\[][^)\]]*[)\]]", "--allow-host HOST"),
        (r"num_tokens_per_frame", "--tokens-per-frame"),
        (r"sampling=[\"']?shots[\"']?", "--sampling shots"),
        (r"sampling=|\bsampling(?= must be)", "--sampling"),
        (r"MediaLimits\(max_frames=[^)]*\)|\bmax_frames\b", "--max-frames"),
        (r"`fps`", "--fps"),
        (r"\bfps=", "--fps "),
        (r"\bor fps\b", "or --fps"),
        (r"`?num_frames`?", "--frames"),
        (r"\blora_alpha\b", "--lora-alpha"),
        (r"\b(num_)?tokens_per_frame", "--tokens-per-frame"),
        (r"use_audio_in_video", "--sound/--no-sound"),
        (r"missing_audio=[\"']?(\w+)[\"']?", r"--missing-audio \1"),
        (r"missing_audio", "--missing-audio"),
        (r"allow to overwrite it", "pass --overwrite"),
        (r"\bon_decode_error=[\"']?(\w+)[\"']?", r"--on-decode-error \1"),
        (r"\b(start|end)=(?=[\d-])", r"--\1 "),
        (r"\b(dtype)(?= must)|\b(device)(?= ')", r"--\1\2"),
    ):
        message = re.sub(pattern, option, message)
    return message
