"""`hf-videollm look`: a picture of the patches and frames that a model looked at."""

from pathlib import Path
from typing import Annotated

import typer

from .evaluate_options import ModelOptions, load_model
from .options import AsJson, End, MaxNewTokens, Start, spread_options
from .output import note, print_json

__all__ = ["look"]


@spread_options
def look(
    video: Annotated[Path, typer.Argument(help="Video file, GIF, or folder of frames.")],
    question: Annotated[str, typer.Argument(help="What you want to know.")],
    output: Annotated[Path, typer.Option("--output", help="PNG, JPEG or WebP to write.")],
    model: ModelOptions,
    start: Start = None,
    end: End = None,
    max_new_tokens: MaxNewTokens = 64,
    most_frames: Annotated[
        int, typer.Option("--most-frames", min=1, help="Frames in the picture: those that count most.")
    ] = 12,
    as_json: AsJson = False,
) -> None:
    """Draw which patches and frames of a video a model looked at (LinVT, IVA, FTFV).

    Examples:

      hf-videollm look clip.mp4 "What moves?" --model linvt-tiny --output look.png

      hf-videollm look film.mp4 "Who comes in at the end?" --model ./iva-7b --output look.png --most-frames 20
    """
    from ..evaluation.look_picture import check_picture, write_look
    from ..evaluation.ranks import Ranks
    from ..models.errors import check_interval, check_on_decode_error
    from ..models.media_video import probe_video

    check_picture(output)
    if not question.strip():
        raise ValueError("The question is empty: say what you want to know.")
    model.check()
    check_interval(start, end)
    check_on_decode_error(model.on_decode_error)
    probe_video(str(video), on_decode_error=model.on_decode_error)  # type: ignore[arg-type]
    pipe, _ = load_model(model, Ranks())
    from ..evaluation.look import look_at

    found = look_at(
        pipe,
        video,
        question,
        start=start,
        end=end,
        processor_options=model.of_processor(),
        max_new_tokens=max_new_tokens,
    )
    write_look(output, found, most_frames)
    if as_json:
        frames = [
            {"frame": number, "share": float(share)}
            for number, share in zip(found.numbers, found.seen.frames, strict=True)
        ]
        print_json({"answer": found.answer, "meaning": found.seen.meaning, "frames": frames, "picture": str(output)})
    else:
        print(found.answer)
        note(f"{output} is written.")
