"""Remote code runs only if the caller passes `trust_remote_code=True`; the user is never asked on the terminal."""

import os
from typing import Any, Self

from .video_llm_processor_files import processor_errors


class NoQuestionMixin:
    """Always sets `trust_remote_code`. In a list of base classes, it must come before the class of transformers."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Self:
        """As in transformers, but without `trust_remote_code`, remote code is refused instead of asking the user.

        Raises:
            CheckpointError: a file of the processor is damaged, or no processor can be built from the files.
        """
        kwargs["trust_remote_code"] = bool(kwargs.get("trust_remote_code"))
        with processor_errors(pretrained_model_name_or_path, kwargs):
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)  # type: ignore[misc]


def trust_of(config: Any) -> dict[str, bool]:
    """The argument `trust_remote_code` for making a part of a model.

    The value is true if the class of the part's configuration was loaded from a repository, which the user has allowed.
    """
    return {"trust_remote_code": type(config).__module__.startswith("transformers_modules")}


__all__ = ["NoQuestionMixin", "trust_of"]
