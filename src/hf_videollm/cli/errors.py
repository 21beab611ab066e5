"""Turns an error of a command into one line on stderr, which names options instead of Python arguments."""

import re
import sys
from typing import Any

from typer.core import TyperOption

OUR_FAULT, BAD_INPUT, INTERRUPTED = 1, 2, 130

# A value in a message: in brackets, in quotes, or one word. A dot at the end of a sentence does not belong to it.
_VALUE = r"\([^)]*\)|\[[^\]]*\]|\"[^\"]*\"|'[^']*'|\.\.\.|[^\s,;:)`]*[^\s,;:).`]"


def report(error: Exception, command: Any, arguments: list[str], label: str = "error") -> int:
    """Print the error.

    Args:
        command: the command that ran; `None` if no command had started.
        arguments: the command line of the user. These words are never replaced in the message.
        label: the first word of the line.

    Returns:
        The exit code: 2 for an error that the user can fix, 1 for one that is probably a bug of this package.
    """
    if hasattr(error, "format_message"):  # a usage error of click, whichever copy of click raised it
        path = getattr(getattr(error, "ctx", None), "command_path", None) or "hf-videollm"
        print(f"{label}: {error.format_message()} (see {path} --help)", file=sys.stderr)
        return BAD_INPUT
    # As `one_line` of models/errors.py, which imports transformers and would make each error wait for it.
    message = " ".join(str(error).split()) or type(error).__name__
    # A message about a config.json or about --set names fields of a configuration, not options of the command.
    if command is not None and "config.json" not in message and "--set" not in message:
        message = in_words_of_options(message, command, arguments)
    if isinstance(error, ValueError | OSError | ImportError | TypeError):
        print(f"{label}: {message}", file=sys.stderr)
        return BAD_INPUT
    print(f"internal error: {type(error).__name__}: {message} (run again with --debug and report it)", file=sys.stderr)
    return OUR_FAULT


def in_words_of_options(message: str, command: Any, arguments: list[str]) -> str:
    """Replace the Python arguments that an error names by the options of this command.

    Each parameter of a command has the name of the Python argument that gets its value. So the parameters say which
    option belongs to which argument. Words that the user wrote are not changed, even if they look like an argument.
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
    """The words of the command line, the values after their `=`, and the parts between their slashes; longest first."""
    words = {" ".join(argument.split()) for argument in arguments}
    words |= {word.partition("=")[2] for word in words if word.startswith("--")}
    words |= {part for word in words for part in re.split(r"[/\\]", word)}
    return sorted((word for word in words if word), key=len, reverse=True)


def _translated(message: str, options: dict[str, TyperOption]) -> str:
    """Replace `NAME`, NAME=VALUE and Class(NAME=VALUE), for the names of options, by the flag and the value.

    A bare NAME is replaced only if it cannot be an ordinary word: it has an underscore, or it starts the message and is
    followed by "must".
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
    """The option as a user types it: `--start 3` or `--no-sound`; without a value, a switch is `--sound/--no-sound`."""
    if option.secondary_opts and value in ("True", "False"):
        return (option.opts if value == "True" else option.secondary_opts)[0]
    flag = "/".join([option.opts[0], *option.secondary_opts[:1]])
    value = (value or "").strip("()[]'\", ")
    return flag if value in ("", "...", "True", "False") else f"{flag} {value}"


__all__ = ["BAD_INPUT", "INTERRUPTED", "in_words_of_options", "report"]
