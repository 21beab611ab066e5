"""Errors of Python functions name arguments; the command line names its options, and nothing else changes."""

from collections.abc import Iterator
from typing import Any

import pytest
from typer.core import TyperOption
from typer.main import get_command

from hf_videollm.cli.commands import app
from hf_videollm.cli.errors import in_words_of_options


def commands(group: Any) -> Iterator[Any]:
    for command in group.commands.values():
        if hasattr(command, "commands"):
            yield from commands(command)
        else:
            yield command


ALL = {command.name: command for command in commands(get_command(app))}
OPTIONS = [
    pytest.param(command, option, id=f"{command.name}-{option.name}")
    for command in ALL.values()
    for option in command.params
    if isinstance(option, TyperOption)
]


def words(name: str, message: str, *arguments: str) -> str:
    return in_words_of_options(message, ALL[name], list(arguments))


@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_an_argument_becomes_its_option(command: Any, option: TyperOption) -> None:
    """With a value in every form that messages use, between backticks, and at the end of a sentence."""
    name, flag = option.name, "/".join([option.opts[0], *option.secondary_opts[:1]])

    def written(message: str) -> str:
        return in_words_of_options(message, command, [])

    for value in ("3", "'3'", '"3"', "('3',)", "['3']"):
        assert written(f"x: {name}={value} is wrong; take another") == f"x: {flag} 3 is wrong; take another"
    assert written(f"pass {name}=3.") == f"pass {flag} 3."
    assert written(f"leave out `{name}`.") == f"leave out {flag}."
    assert written(f"raise Limits({name}=...), please") == f"raise {flag}, please"
    assert written(f"{name} must be another") == f"{flag} must be another"
    assert written(f"pass {name}=True") == f"pass {option.opts[0]}"


@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_what_only_looks_like_an_argument_stays(command: Any, option: TyperOption) -> None:
    """Parts of other names and paths, flags, and what the user wrote."""
    for text in (f"my_{option.name}_", f"a/{option.name}/b", f"model.{option.name}.weight", f"--{option.name}"):
        assert in_words_of_options(f"see {text} there", command, []) == f"see {text} there"
    if "_" not in str(option.name):
        assert in_words_of_options(f"the {option.name} is here", command, []) == f"the {option.name} is here"
    for own in (f"{option.name}=3", f"{option.name}=3.mp4", f"folder/{option.name}=3"):
        assert in_words_of_options(f"{own}: no such file", command, ["x", own]) == f"{own}: no such file"


def test_only_options_of_the_command_that_ran_are_named() -> None:
    message = "adapter_config.json: lora_alpha=3 is no alpha"
    assert words("videollama2", message) == message
    assert "--lora-alpha 3" in words("pllava", message)
    # The same option is another argument of another function.
    assert words("ask", "num_tokens_per_frame=3") == words("flops", "tokens_per_frame=3") == "--tokens-per-frame 3"


def test_messages_as_they_are() -> None:
    """Whole messages of the package."""
    for message, expected in {
        "`num_frames` and `fps` exclude each other: pass one of them.": (
            "--frames and --fps exclude each other: pass one of them."
        ),
        "v: the host a.b is not allowed; pass allowed_hosts=('a.b',) if you trust it": (
            "v: the host a.b is not allowed; pass --allow-host a.b if you trust it"
        ),
        "pass num_frames, start/end, or raise MediaLimits(max_frames=...).": (
            "pass --frames, start/end, or raise --max-frames."
        ),
        "m does not use sound: leave out missing_audio and use_audio_in_video.": (
            "m does not use sound: leave out --missing-audio and --sound/--no-sound."
        ),
        "end=3.0 is not after start=5.0; give an end after the start.": (
            "--end 3.0 is not after --start 5.0; give an end after the start."
        ),
        "never heard with use_audio_in_video=False: leave one out.": "never heard with --no-sound: leave one out.",
    }.items():
        assert words("ask", message) == expected
