"""Errors of commands: one line on stderr, in the words of the command line, and an exit code."""

import re
import sys
from typing import Any

from typer.core import TyperOption

OUR_FAULT, BAD_INPUT, INTERRUPTED = 1, 2, 130

# A value as messages write it: in brackets, in quotes, or one word; the dot that ends a sentence is none of it.
_VALUE = r"\([^)]*\)|\[[^\]]*\]|\"[^\"]*\"|'[^']*'|\.\.\.|[^\s,;:)`]*[^\s,;:).`]"


def report(error: Exception, command: Any, arguments: list[str], label: str = "error") -> int:
    """Print what was wrong.

    Args:
        command: the command that ran; `None` if it did not come to that.
        arguments: what the user wrote, which is never translated.
        label: begins the line.

    Returns:
        The exit code: 2 for what the user can put right, 1 for what looks like our fault.
    """
    if hasattr(error, "format_message"):  # a usage error of click, whichever copy of click raised it
        path = getattr(getattr(error, "ctx", None), "command_path", None) or "hf-videollm"
        print(f"{label}: {error.format_message()} ({path} --help tells more)", file=sys.stderr)
        return BAD_INPUT
    message = " ".join(str(error).split()) or type(error).__name__
    # What is said of a config.json, or of --set, speaks of its fields, not of options.
    if command is not None and "config.json" not in message and "--set" not in message:
        message = in_words_of_options(message, command, arguments)
    if isinstance(error, ValueError | OSError | ImportError | TypeError):
        print(f"{label}: {message}", file=sys.stderr)
        return BAD_INPUT
    print(f"internal error: {type(error).__name__}: {message} (run again with --debug and report it)", file=sys.stderr)
    return OUR_FAULT


def in_words_of_options(message: str, command: Any, arguments: list[str]) -> str:
    """Errors name arguments of Python functions; the message with the options of this command in their place.

    Parameters of a command have the names of the arguments that they become, so the command is the table of both.
    What the user wrote, and what looks like such a name in it, stays as it is.
    """
    options = {str(option.name): option for option in command.params if isinstance(option, TyperOption)}
    own = [text for text in _own_words(arguments) if _translated(text, options) != text]
    for index, text in enumerate(own):
        message = message.replace(text, f"\0{index}\0")
    message = _translated(message, options)
    for index, text in enumerate(own):
        message = message.replace(f"\0{index}\0", text)
    return message


def _own_words(arguments: list[str]) -> list[str]:
    """The arguments, what stands behind their = and between their slashes; the longest first."""
    words = {" ".join(argument.split()) for argument in arguments}
    words |= {word.partition("=")[2] for word in words if word.startswith("--")}
    words |= {part for word in words for part in re.split(r"[/\\]", word)}
    return sorted((word for word in words if word), key=len, reverse=True)


def _translated(message: str, options: dict[str, TyperOption]) -> str:
    """`NAME`, NAME=VALUE and Class(NAME=VALUE) of the options as flag and value, and NAME where it is no other word.

    A name with an underscore is no other word; one that begins a message is none before "must".
    """

    def flag(match: re.Match[str]) -> str:
        name = match["name"]
        is_word = "_" not in name and not match["mark"] and match["sign"] is None
        if is_word and not (match.start() == 0 and message.startswith(" must", match.end())):
            return match[0]
        return _written(options[name], match["value"])

    names = "|".join(map(re.escape, options))
    pattern = (
        rf"(?P<call>\b[A-Z]\w*\()?(?<![\w.\-/])(?P<mark>`?)(?P<name>{names})(?P=mark)"
        rf"(?:(?P<sign>=)(?P<value>{_VALUE})?|(?![\w\-/(]|\.\w))(?(call)\))"
    )
    return re.sub(pattern, flag, message)


def _written(option: TyperOption, value: str | None) -> str:
    """The option as a user writes it: `--start 3`, `--no-sound`; a switch without a value stands for both ways."""
    if option.secondary_opts and value in ("True", "False"):
        return (option.opts if value == "True" else option.secondary_opts)[0]
    flag = "/".join([option.opts[0], *option.secondary_opts[:1]])
    value = (value or "").strip("()[]'\", ")
    return flag if value in ("", "...", "True", "False") else f"{flag} {value}"


__all__ = ["BAD_INPUT", "INTERRUPTED", "in_words_of_options", "report"]
