"""Makes `Video` and `Audio` columns of `datasets` return their files, so that this package decodes them.

By default, `datasets` decodes such a column with torchcodec when a row is read, which fails if torchcodec does not find
FFmpeg. With `decode=False` each entry is a dict with `bytes` and `path`, which all readers of this package accept.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from .media_backends import available_backends


def without_decoding(dataset: Any) -> Any:
    """The same dataset or column, with dicts of `bytes` and `path` instead of decoders; other objects unchanged.

    `Image` columns are not changed. A dataset with a user-defined transform is not changed either, because that
    transform expects decoders. `Video` and `Audio` features nested in other columns (such as messages) are changed only
    if torchcodec does not work, because `datasets` must rewrite the whole table for it.

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
    """Whether this is a column of a dataset, such as `dataset["video"]`."""
    return hasattr(media, "column_name") and hasattr(media, "source") and not hasattr(media, "cast_column")


def _has_transform(dataset: Any) -> bool:
    form = getattr(dataset, "format", None)
    return isinstance(form, dict) and form.get("type") == "custom"


def _is_decoded(feature: Any) -> bool:
    """Whether this is the feature of a `Video` or `Audio` column whose entries are decoders."""
    return type(feature).__name__ in ("Video", "Audio") and getattr(feature, "decode", False)


def _undecoded(feature: Any) -> Any:
    """The same feature with `decode=False` at every depth; the same object if it needs no change."""
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
