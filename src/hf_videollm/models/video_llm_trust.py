"""Code of a repository runs when the caller says so, and nobody is asked on the terminal."""

import os
from typing import Any, Self


class NoQuestionMixin:
    """To be put before a class of transformers with `from_pretrained`."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Self:
        """As in transformers, but `trust_remote_code` is False unless it is given: transformers would ask."""
        kwargs["trust_remote_code"] = bool(kwargs.get("trust_remote_code"))
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)  # type: ignore[misc]


def trust_of(config: Any) -> dict[str, bool]:
    """`trust_remote_code` of a part: it was given where its configuration is code of a repository itself."""
    return {"trust_remote_code": type(config).__module__.startswith("transformers_modules")}


__all__ = ["NoQuestionMixin", "trust_of"]
