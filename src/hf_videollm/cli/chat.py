"""`hf-videollm chat`: a conversation about videos, which are watched once. Answers appear while they are written."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from .ask import is_remote, is_sound, load_for
from .options import AnswerOptions, MaxNewTokens, spread_options
from .output import note, status

HELP = """/help           show this list
/new            forget the conversation; the video stays
/save FILE      write the watched video into a file, for --session
/quit           end (so does Ctrl-D)
Anything else is a question. Ctrl-C stops an answer."""


@spread_options
def chat(
    videos: Annotated[list[str], typer.Argument(help="One or several videos.", metavar="VIDEO...")],
    options: AnswerOptions,
    max_new_tokens: MaxNewTokens = 256,
    session_file: Annotated[
        Path | None,
        typer.Option(
            "--session",
            help="File of the watched videos: opened if it exists and was made with these options, and written "
            "otherwise.",
            dir_okay=False,
        ),
    ] = None,
) -> None:
    """Ask about videos by turns. Each question also sees the questions and answers before it.

    Questions come from the terminal or, one on each line, from a pipe; Ctrl-D ends, /help lists the commands.

    Examples:

      hf-videollm chat clip.mp4

      hf-videollm chat clip.mp4 --model ./pllava-7b --frames 16 --session clip.session
    """
    from ..models.errors import one_line

    pipe, _, media = load_for(videos, options)
    answering = {"do_sample": False, "max_new_tokens": max_new_tokens}
    with status("Watching ..."):
        session = _opened(pipe, videos, media, session_file)
    session.answer_options |= answering
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        note("Ask a question; /help lists the commands, Ctrl-D ends.")
    with session:
        for line in _lines(is_terminal):
            if line in ("/quit", "/exit"):
                break
            try:
                _run(session, line)
            except (ValueError, OSError) as error:
                # A question that cannot be answered does not end the conversation.
                print(f"error: {one_line(error)}", file=sys.stderr)


def _opened(pipe: Any, videos: list[str], media: dict[str, Any], file: Path | None) -> Any:
    """A session about the videos, from the file if there is one."""
    from .. import NoVideoStream, VideoSession
    from ..models.video_llm_session_disk import refuse_other_than_file

    if file is not None:
        refuse_other_than_file(file)
        if addresses := [video for video in videos if is_remote(video)]:
            raise ValueError(
                f"--session: {addresses[0]} is an address, and nobody knows whether the same video is there the next "
                "time: download the video, or leave --session out."
            )
    sounds = [video for video in videos if pipe.takes_audio and is_sound(video)]
    kinds: dict[str, Any] = {
        "videos": [video for video in videos if video not in sounds] or None,
        "audio": sounds or None,
    }
    if file is not None and file.is_file():
        # How damaged files are read changes nothing for others, and is always set.
        given = {name: value for name, value in media.items() if name != "on_decode_error"}
        session = VideoSession.open_saved(file, pipe.model, pipe.processor, **kinds, **given)
        others = {name: value for name, value in session.media_options.items() if name not in media}
        if others:
            text = ", ".join(f"{name}={value}" for name, value in others.items())
            note(f"note: {file} was made with {text}, which holds here, too.")
        return session
    try:
        session = pipe.open(**kinds, **media)
    except NoVideoStream:
        if not pipe.takes_audio:
            raise
        # An address may hold only sound.
        session = pipe.open(audio=videos, **media)
    if file is not None:
        session.save(file)
    return session


def _lines(is_terminal: bool) -> Iterator[str]:
    """What the user writes, without empty lines, until the input ends."""
    while True:
        try:
            line = input("> " if is_terminal else "")
        except EOFError:
            if is_terminal:
                print()
            return
        if line.strip():
            yield line.strip()


def _run(session: Any, line: str) -> None:
    """Run a command, or answer a question."""
    if not line.startswith("/"):
        _answer(session, line)
        return
    name, _, value = line.partition(" ")
    commands: dict[str, Callable[[], Any]] = {
        "/help": lambda: print(HELP),
        "/new": session.reset,
        "/save": lambda: _save(session, value.strip()),
    }
    if name not in commands:
        from ..models.video_llm_option_names import did_you_mean

        raise ValueError(f"There is no command {name}: {did_you_mean(name, [*commands, '/quit'])}")
    commands[name]()


def _answer(session: Any, question: str) -> None:
    stream = session.ask(question, follow_up=True, stream=True)
    try:
        for piece in stream:
            print(piece, end="", flush=True)
        print()
    except KeyboardInterrupt:
        print()
        stream.close()


def _save(session: Any, name: str) -> None:
    if not name:
        raise ValueError("/save needs the name of a file: /save clip.session")
    note(f"Written: {session.save(name)}")


__all__ = ["chat"]
