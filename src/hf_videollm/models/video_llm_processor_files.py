"""Checks of the files of a processor, so that a damaged file is named instead of an error inside transformers."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import CheckpointError, one_line
from .video_llm_chat_variables import template_error
from .video_llm_checkpoint_files import HUB_OPTIONS, find_file, read_checkpoint_json

TOKENIZER, PROCESSOR, TEMPLATE = "tokenizer.json", "processor_config.json", "chat_template.jinja"
JSON_FILES = (
    PROCESSOR,
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer_config.json",
    TOKENIZER,
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
)
# Options of `from_pretrained` that say where the files are. All other options change what is built from the files.
PLACE_OPTIONS = (*HUB_OPTIONS, "subfolder", "trust_remote_code")


@contextmanager
def processor_errors(source: str | os.PathLike[str], options: Mapping[str, Any]) -> Iterator[None]:
    """Run the loading of a processor inside this context, so that damaged files end in one kind of error.

    Args:
        source: folder or Hub id of the checkpoint.
        options: options of `from_pretrained`.

    Raises:
        CheckpointError: a file of the processor is damaged, or no processor can be built from the files.
    """
    if os.path.isdir(source):
        check_processor_files(source, options)
    try:
        yield
    except (CheckpointError, ImportError):
        raise
    except Exception as error:  # the library tokenizers raises plain `Exception`
        # Files of the Hub are in the cache now. They are not downloaded again for the search for the damaged one.
        found = check_processor_files(source, {**options, "local_files_only": True})
        if (file := found.get(TOKENIZER)) is not None:
            _check_tokenizer(file)
        # Without processor_config.json the folder may simply hold no processor, and transformers says what is missing.
        # An option of the caller may be wrong instead of a file.
        is_absent = isinstance(error, OSError) and PROCESSOR not in found
        if is_absent or not found or set(options) - set(PLACE_OPTIONS):
            raise
        reason = one_line(error).rstrip(".")
        kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
        raise CheckpointError(
            f"{source}: no processor can be built from {', '.join(found)} ({kind}{reason[:300]}): save the processor "
            "again, or download these files again."
        ) from error


def check_processor_files(source: str | os.PathLike[str], options: Mapping[str, Any]) -> dict[str, Path]:
    """Check that every file of the processor can be read; each is small compared to the weights.

    Returns:
        The files that exist, by their names.

    Raises:
        CheckpointError: a file is damaged; the message names it.
    """
    found = {}
    for name in (*JSON_FILES, TEMPLATE):
        if (file := find_file(source, name, options)) is not None:
            found[name] = file
            if name == TEMPLATE:
                _check_template(file)
            else:
                read_checkpoint_json(file)
    return found


def _check_template(file: Path) -> None:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is no readable text ({error}): download the file again.") from error
    if reason := template_error(text):
        raise CheckpointError(f"{file} is no chat template ({reason}): download the file again.")


def _check_tokenizer(file: Path) -> None:
    try:
        from tokenizers import Tokenizer
    except ImportError:  # transformers then says what is missing
        return
    try:
        Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain `Exception`
        reason = one_line(error, 200)
        raise CheckpointError(f"{file} describes no tokenizer ({reason}): download the file again.") from error


__all__ = ["check_processor_files", "processor_errors"]
