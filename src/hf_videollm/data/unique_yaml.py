"""YAML in which a key stands once. YAML itself takes the last of equal keys without a word."""

from __future__ import annotations

from typing import Any

import yaml

from .parsed_files import DataError

__all__ = ["load_unique"]

_MERGE = "tag:yaml.org,2002:merge"


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that stands twice."""


def _unique_mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        if key_node.tag == _MERGE:
            continue
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise DataError(f"line {key_node.start_mark.line + 1}: the key {key!r} stands twice; keep one of them.")
        seen.add(key)
    # Keys that are merged from an anchor (<<) may be overwritten.
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def load_unique(text: str) -> Any:
    """Plain values of a text in YAML, as those of `yaml.safe_load`.

    Raises:
        DataError: a key stands twice; the message names the line.
        yaml.YAMLError: it is no YAML.

    Example:
        >>> load_unique("{a: 1, b: [2]}")
        {'a': 1, 'b': [2]}
    """
    return yaml.load(text, Loader=_StrictLoader)
