"""The card of a dataset that was made of a mix: features for the Hub, and where every row comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..data.formats import FORMATS
from ..data.mix_plan import PreparedMix

__all__ = ["dataset_card"]

_TEXT = """# {name}

Conversations about videos, sounds and images, with the media inside. `hf-videollm data push` of hf_videollm made it
of the sources below. The licence of this dataset does not replace those of its sources: read them before you use it.

| source | format | rows | videos | of rows | annotation (SHA-256) |
|---|---|---|---|---|---|
{sources}

Seed {seed}. {missing} rows were left out because a file was missing.

A row has `messages` in the chat format of transformers; its media stand in `videos`, `images`, `audios` and
`frames` (folders of frames), in the order of their blocks. `options`, `answer`, `answer_index` and `references` serve
evaluation, `meta` is JSON.

```python
from datasets import load_dataset

from hf_videollm.data.embedded import unpack_media

records = list(unpack_media(load_dataset("{repo_id}", split="{split}"), "media"))
```
"""


def dataset_card(prepared: PreparedMix, repo_id: str, licence: str, rows: Mapping[str, int], features: Any) -> str:
    """The card: metadata in YAML, and text.

    Args:
        prepared: what is published.
        repo_id: `OWNER/NAME`.
        licence: as the Hub names it.
        rows: split -> number of rows.
        features: of the dataset.
    """
    from datasets import DatasetInfo
    from datasets.info import DatasetInfosDict
    from huggingface_hub import DatasetCardData

    kinds = sorted({prepared.modalities[row] for row in prepared.chosen})
    data = DatasetCardData(
        license=licence,
        task_categories=["video-text-to-text"],
        tags=["hf_videollm", *kinds],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in rows],
            }
        ],
    )
    DatasetInfosDict({"default": DatasetInfo(features=features, config_name="default")}).to_dataset_card_data(data)
    described = prepared.describe()
    lines = [
        f"| {spec['source']} | {FORMATS[spec['format']].title} | {spec['counts']['chosen']:,} | "
        f"{spec['counts']['chosen_videos']:,} | {spec['counts']['rows']:,} | `{spec['sha256'][:16]}` |"
        for spec in described["sources"]
    ]
    text = _TEXT.format(
        name=repo_id.split("/")[1],
        sources="\n".join(lines),
        seed=described["seed"],
        missing=len(prepared.missing),
        repo_id=repo_id,
        split=next(iter(rows)),
    )
    return f"---\n{data.to_yaml()}\n---\n\n{text}"
