"""Columns of `datasets` as the files behind them, so that they are read here.

A `Video` or `Audio` column is decoded by torchcodec as soon as a row is asked for, which fails where torchcodec finds
no FFmpeg. With `decode=False` a row holds a dict of bytes and path, which all our readers take.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from .media_backends import available_backends


def without_decoding(dataset: Any) -> Any:
    """The same dataset or column with dicts of bytes and path in place of decoders; anything else as it is.

    Pictures stay pictures. A dataset with a transform of the user's own is left alone, since that expects decoders.
    Media that lie inside of lists or other columns (messages, say) are changed only where torchcodec cannot decode,
    because `datasets` then writes the table anew.

    Args:
        dataset: a `Dataset`, an `IterableDataset`, a column of one (`dataset["video"]`), or a dict of datasets.
    """
    if isinstance(dataset, dict) and dataset and all(hasattr(part, "cast_column") for part in dataset.values()):
        return type(dataset)({name: without_decoding(part) for name, part in dataset.items()})
    if is_column(dataset):
        return without_decoding(dataset.source)[dataset.column_name]
    features = getattr(dataset, "features", None)
    if not isinstance(features, dict) or not hasattr(dataset, "cast_column") or _has_transform(dataset):
        return dataset
    for name, feature in dict(features).items():
        undecoded = _undecoded(feature)
        if undecoded is not feature and (_is_decoded(feature) or "torchcodec" not in available_backends()):
            dataset = dataset.cast_column(name, undecoded)
    return dataset


def is_column(media: Any) -> bool:
    """Whether this is a column of a dataset, as `dataset["video"]`."""
    return hasattr(media, "column_name") and hasattr(media, "source") and not hasattr(media, "cast_column")


def _has_transform(dataset: Any) -> bool:
    form = getattr(dataset, "format", None)
    return isinstance(form, dict) and form.get("type") == "custom"


def _is_decoded(feature: Any) -> bool:
    """Whether this is the feature of a `Video` or `Audio` column that gives decoders."""
    return type(feature).__name__ in ("Video", "Audio") and getattr(feature, "decode", False)


def _undecoded(feature: Any) -> Any:
    """The same feature with `decode=False` at all depths; the very object where nothing is to be changed."""
    if _is_decoded(feature):
        return dataclasses.replace(feature, decode=False)
    if isinstance(feature, dict):
        inner = {name: _undecoded(part) for name, part in feature.items()}
        return feature if all(inner[name] is part for name, part in feature.items()) else inner
    if isinstance(feature, list | tuple):
        parts = [_undecoded(part) for part in feature]
        return feature if all(new is old for new, old in zip(parts, feature, strict=True)) else parts
    inner_feature = getattr(feature, "feature", None)  # of List, LargeList, Sequence
    if inner_feature is not None and (part := _undecoded(inner_feature)) is not inner_feature:
        return dataclasses.replace(feature, feature=part)
    return feature


__all__ = ["is_column", "without_decoding"]
