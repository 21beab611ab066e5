"""`hf-videollm ask` and `hf-videollm caption`: one video, one prompt, one answer."""

import contextlib
import time
from typing import Annotated, Any

import typer

from ..known_models import find_model
from .options import AnswerOptions, AsJson, MaxNewTokens, refuse_count_and_rate, spread_options
from .output import note, print_json, status

CAPTION_PROMPT = "Describe the video in details."

Video = Annotated[str, typer.Argument(help="Video file, GIF, folder of frames, or URL of an allowed host.")]


@spread_options
def ask(
    video: Video,
    question: Annotated[str, typer.Argument(help="What you want to know.")],
    options: AnswerOptions,
    max_new_tokens: MaxNewTokens = 128,
    as_json: AsJson = False,
) -> None:
    """Ask one question about a video.

    Examples:

      hf-videollm ask clip.mp4 "What colour is the shape?"

      hf-videollm ask clip.mp4 "What happens?" --model ./pllava-7b --frames 16 --dtype bfloat16 --json
    """
    _print_answer(_answer(video, question, options, max_new_tokens), as_json)


@spread_options
def caption(
    video: Video,
    options: AnswerOptions,
    prompt: Annotated[str, typer.Option("--prompt", help="The instruction.")] = CAPTION_PROMPT,
    max_new_tokens: MaxNewTokens = 256,
    as_json: AsJson = False,
) -> None:
    """Describe a video.

    Examples:

      hf-videollm caption clip.mp4 --model ./pllava-7b

      hf-videollm caption clip.mp4 --model ./pllava-7b --start 10 --end 25 --max-new-tokens 400
    """
    answer = _answer(video, prompt, options, max_new_tokens)
    if options.model is None:
        note(
            "note: the bundled model answers questions about synthetic clips and was not trained to describe videos; "
            "pass --model for real captions."
        )
    _print_answer(answer, as_json)


def _answer(video: str, question: str, options: AnswerOptions, max_new_tokens: int) -> dict[str, Any]:
    """The answer, with the model and the options that were used.

    Raises:
        ValueError: an option does not fit the video, the model, or another option.
    """
    from .. import NoVideoStream, load_pipeline

    if not question.strip():
        raise ValueError("The question is empty: say what you want to know.")
    source = find_model(options.model)
    media = options.of_media()
    _check_video(video, media)
    with status("Loading the model ..."):
        pipe = load_pipeline(source, **options.of_loading())
    can_hear = pipe.takes_audio
    _check_design(pipe, source, media, can_hear)
    began = time.perf_counter()
    settings = {"return_full_text": False, "generate_kwargs": {"do_sample": False, "max_new_tokens": max_new_tokens}}
    with status("Watching and answering ..."):
        try:
            results = pipe(video, text=question, **settings, **media)
        except NoVideoStream:
            if not can_hear:
                raise
            # The file holds only sound.
            results = pipe(audio=video, text=question, **settings, **media)
    return {
        "video": video,
        "question": question,
        "answer": results[0]["generated_text"].strip(),
        "model": source,
        **_sampling(media, pipe.processor.video_processor),
        "seconds": round(time.perf_counter() - began, 3),
    }


def _check_design(pipe: Any, source: str, media: dict[str, Any], can_hear: bool) -> None:
    """Refuse options that the design of this model does not have."""
    if not can_hear and (of_sound := sorted({"use_audio_in_video", "missing_audio"} & set(media))):
        raise ValueError(f"{source} does not use sound: leave out {' and '.join(of_sound)}.")
    foreign = set(media) - pipe.media_options()
    if "num_tokens_per_frame" in foreign:
        raise ValueError(f"{source} has a fixed number of tokens per frame: leave out num_tokens_per_frame.")
    if "sampling" in foreign:
        raise ValueError(f"{source} has only one way to sample frames: leave out sampling=.")


def _check_video(video: str, media: dict[str, Any]) -> None:
    """Check the video and its options before a large model is loaded."""
    from ..models.errors import NoVideoStream, check_interval, check_on_decode_error
    from ..models.media_video import probe_video

    if not video:
        raise ValueError("The name of the video is empty: give a file, a folder of frames or an address.")
    check_interval(media.get("start"), media.get("end"))
    check_on_decode_error(media["on_decode_error"])
    refuse_count_and_rate(media.get("num_frames"), media.get("fps"))
    # A file from the web would be downloaded twice.
    if not video.lower().startswith(("http:", "https:", "data:")):
        # A file that holds only sound is allowed: the model may accept sound.
        with contextlib.suppress(NoVideoStream):
            probe_video(video, on_decode_error=media["on_decode_error"])


def _sampling(media: dict[str, Any], video_processor: Any) -> dict[str, Any]:
    """How frames were sampled: their number, or their number per second."""
    if "fps" in media:
        return {"fps": media["fps"]}
    num_frames = media.get("num_frames", video_processor.num_frames)
    return {"fps": video_processor.fps} if num_frames is None else {"num_frames": num_frames}


def _print_answer(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        # rich would read brackets in an answer as markup, so this is a plain print.
        print(answer["answer"])


__all__ = ["CAPTION_PROMPT", "ask", "caption"]
