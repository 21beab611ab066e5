"""Shows the fields of configurations in the API reference as lists. transformers documents fields in this form:

    num_frames (`int`):
        Frames the design was trained with.

In Markdown, this would be one long paragraph. Here each field becomes an item of a list.
"""

import re
from typing import Any

from griffe import Class, Extension, Object

FIELD = re.compile(r"^(?P<name>\w+) \((?P<type>[^()\n]*)\):\s*\n?(?P<text>(?:[ \t]+.+\n?)+)", re.MULTILINE)


def list_fields(text: str) -> str:
    """The docstring with its fields as a Markdown list."""

    def item(match: re.Match[str]) -> str:
        return f"- **`{match['name']}`** ({match['type']}): {' '.join(match['text'].split())}\n"

    return re.sub(r"\n(- \*\*`)", r"\n\n\1", FIELD.sub(item, text))


class FieldLists(Extension):
    """Rewrites the docstrings of classes."""

    def on_class(self, *, cls: Class, **kwargs: Any) -> None:
        """griffe calls this when it has read a class and its members."""
        self._rewrite(cls)

    def _rewrite(self, obj: Object) -> None:
        if obj.docstring is not None:
            obj.docstring.value = list_fields(obj.docstring.value)
