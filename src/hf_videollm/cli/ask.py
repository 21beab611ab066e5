"""`hf-videollm ask`: questions about one video. `hf-videollm caption`: one prompt for one or several videos."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

from ..known_models import find_model
from .options import AnswerOptions, AsJson, MaxNewTokens, refuse_count_and_rate, spread_options
from .output import note, print_json, status

CAPTION_PROMPT = "Describe the video in details."

Video = Annotated[str, typer.Argument(help="Video file, GIF, folder of frames, or URL of an allowed host.")]

Videos = Annotated[
    list[str],
    typer.Argument(help="Video files, GIFs, folders of frames, or URLs of an allowed host.", metavar="VIDEO..."),
]


@spread_options
def ask(
    video: Video,
    options: AnswerOptions,
    question: Annotated[str | None, typer.Argument(help="What you want to know.")] = None,
    questions: Annotated[
        list[str] | None,
        typer.Option("--question", "-q", help="A question; repeatable. The video is watched once for all of them."),
    ] = None,
    max_new_tokens: MaxNewTokens = 128,
    as_json: AsJson = False,
) -> None:
    """Ask one or several questions about a video.

    Examples:

      hf-videollm ask clip.mp4 "What colour is the shape?"

      hf-videollm ask clip.mp4 -q "What colour is the shape?" -q "In which direction does it move?"

      hf-videollm ask clip.mp4 "What happens?" --model ./pllava-7b --frames 16 --dtype bfloat16 --json
    """
    asked = [*([] if question is None else [question]), *(questions or [])]
    if not asked:
        raise ValueError('No question is given: hf-videollm ask VIDEO "What happens?" (see hf-videollm ask --help)')
    answers = _answers(video, asked, options, max_new_tokens)
    if len(answers) == 1:
        _print_answer(answers[0], as_json)
    elif as_json:
        same = {name: value for name, value in answers[0].items() if name not in ("question", "answer")}
        pairs = [{name: answer[name] for name in ("question", "answer")} for answer in answers]
        print_json({"video": same.pop("video"), "answers": pairs, **same})
    else:
        print("\n\n".join(f"{answer['question']}\n{answer['answer']}" for answer in answers))


@spread_options
def caption(
    videos: Videos,
    options: AnswerOptions,
    prompt: Annotated[str, typer.Option("--prompt", help="The instruction.")] = CAPTION_PROMPT,
    max_new_tokens: MaxNewTokens = 256,
    as_json: AsJson = False,
) -> None:
    """Describe a video, or several: the next one is decoded while the model works.

    Examples:

      hf-videollm caption clip.mp4 --model ./pllava-7b

      hf-videollm caption holiday/*.mp4 --model ./pllava-7b --json

      hf-videollm caption clip.mp4 --model ./pllava-7b --start 10 --end 25 --max-new-tokens 400
    """
    if len(videos) == 1:
        answer = _answers(videos[0], [prompt], options, max_new_tokens)[0]
        _note_bundled(options)
        _print_answer(answer, as_json)
        return
    captions = []
    for answer in _captions(videos, prompt, options, max_new_tokens):
        captions.append(answer)
        if not as_json:
            print(f"{answer['video']}\n{answer['answer']}\n", flush=True)
    _note_bundled(options)
    if as_json:
        print_json({"captions": captions})


def _note_bundled(options: AnswerOptions) -> None:
    if options.model is None:
        note(
            "note: the bundled model answers questions about synthetic clips and was not trained to describe videos; "
            "pass --model for real captions."
        )


def _captions(videos: Sequence[str], prompt: str, options: AnswerOptions, max_new_tokens: int) -> Iterator[Any]:
    """The answers about several videos, each as soon as it is there.

    Raises:
        ValueError: an option does not fit the videos, the model, or another option.
    """
    if not prompt.strip():
        raise ValueError("The prompt is empty: say what you want to know.")
    pipe, source, media = load_for(videos, options)
    settings = {"return_full_text": False, "generate_kwargs": {"do_sample": False, "max_new_tokens": max_new_tokens}}
    sampling = _sampling(media, pipe.processor.video_processor)
    began = time.perf_counter()
    samples = (
        {"audio" if pipe.takes_audio and is_sound(video) else "videos": video, "text": prompt} for video in videos
    )
    for video, result in zip(videos, pipe(samples, **settings, **media), strict=True):
        seconds, began = round(time.perf_counter() - began, 3), time.perf_counter()
        answer = result[0]["generated_text"].strip()
        yield {"video": video, "question": prompt, "answer": answer, "model": source, **sampling, "seconds": seconds}


def is_sound(video: str) -> bool:
    """Whether a file on this machine holds sound and no pictures."""
    from ..models.errors import NoVideoStream
    from ..models.media_video import probe_video

    if is_remote(video):
        return False
    try:
        probe_video(video, on_decode_error="truncate")
    except NoVideoStream:
        return True
    return False


def is_remote(video: str) -> bool:
    return video.lower().startswith(("http:", "https:", "data:"))


def _answers(video: str, questions: Sequence[str], options: AnswerOptions, max_new_tokens: int) -> list[dict[str, Any]]:
    """The answers, with the model and the options that were used.

    Raises:
        ValueError: an option does not fit the video, the model, or another option.
    """
    from .. import NoVideoStream

    if not all(question.strip() for question in questions):
        raise ValueError("The question is empty: say what you want to know.")
    pipe, source, media = load_for([video], options)
    began = time.perf_counter()
    settings = {"return_full_text": False, "generate_kwargs": {"do_sample": False, "max_new_tokens": max_new_tokens}}
    text = questions[0] if len(questions) == 1 else list(questions)
    with status("Watching and answering ..."):
        try:
            results = pipe(video, text=text, **settings, **media)
        except NoVideoStream:
            if not pipe.takes_audio:
                raise
            # The file holds only sound.
            results = pipe(audio=video, text=text, **settings, **media)
    seconds = round(time.perf_counter() - began, 3)
    sampling = _sampling(media, pipe.processor.video_processor)
    return [
        {
            "video": video,
            "question": question,
            "answer": result[0]["generated_text"].strip(),
            "model": source,
            **sampling,
            "seconds": seconds,
        }
        for question, result in zip(questions, [results] if len(questions) == 1 else results, strict=True)
    ]


def load_for(videos: Sequence[str], options: AnswerOptions) -> tuple[Any, str, dict[str, Any]]:
    """Check videos and their options, and load the model.

    Returns:
        The pipeline, the name of the model, and the options of a call of the pipeline.

    Raises:
        ValueError: an option does not fit the video, the model, or another option.
    """
    from .. import load_pipeline

    source = find_model(options.model)
    media = options.of_media()
    for video in videos:
        _check_video(video, media)
    with status("Loading the model ..."):
        pipe = load_pipeline(source, **options.of_loading())
    _check_design(pipe, source, media, pipe.takes_audio)
    return pipe, source, media


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
    if not is_remote(video):
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


__all__ = ["CAPTION_PROMPT", "ask", "caption", "is_remote", "is_sound", "load_for"]
