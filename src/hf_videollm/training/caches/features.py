"""Features of a frozen vision tower on disk: long videos are decoded and encoded once, not at every step of training.

This works for designs whose model has a method that continues from these features (`encode_features`): only IVA so far.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch.nn.utils.rnn import pad_sequence

from ..collator import VideoDataCollator
from .signature import cache_signature

__all__ = ["BlankFrames", "FeatureCache", "FeatureCollator", "reads_features", "tower_features"]


class FeatureCache(Mapping[str, torch.Tensor]):
    """Maps the path of a video to the features of its frames `(T, tokens, width)`, class token included.

    The features are on disk in half precision.
    """

    def __init__(self, features: np.ndarray, ends: Sequence[int], paths: Sequence[str]) -> None:
        """Args:
        features: `(frames of all videos, tokens, width)`.
        ends: for each video, the index along the first axis that follows its last frame.
        paths: the videos in the same order.
        """
        self._features = features
        starts = [0, *ends[:-1]]
        self._places = {path: slice(*place) for path, place in zip(paths, zip(starts, ends, strict=True), strict=True)}

    def __getitem__(self, path: str) -> torch.Tensor:
        return torch.from_numpy(np.array(self._features[self._places[path]], dtype=np.float32))

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def num_frames(self, path: str) -> int:
        """Number of frames of a video."""
        place = self._places[path]
        return int(place.stop - place.start)

    @classmethod
    def build(
        cls,
        paths: Iterable[str],
        model: Any,
        video_processor: Any,
        folder: str | os.PathLike[str],
        progress: bool = True,
    ) -> FeatureCache:
        """Decode and encode every video once, or open the result of an earlier call.

        An earlier result is used if videos (name, size, time of change), settings of the processor and weights of the
        tower are the same.

        Args:
            paths: video files; repeated names are encoded once.
            model: an `IvaModel`, or one with a head.
            video_processor: decodes, samples, resizes, crops and normalises.
            folder: folder of the cache. Its file appears there only when it is complete.
            progress: show a progress bar.

        Raises:
            ValueError: there are no videos.
        """
        unique = list(dict.fromkeys(paths))
        if not unique:
            raise ValueError("There are no videos to encode.")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        base = model.base_model
        options = {"tower": _weights_hash(base.vision_tower), "layer": base.config.vision_feature_layer}
        options |= {name: value for name, value in video_processor.to_dict().items() if name != "processor_class"}
        target = folder / f"features-{cache_signature(unique, options)}.npy"
        ends_file = target.with_suffix(".ends.npy")
        if not target.exists():
            _encode_all(unique, base, video_processor, target, ends_file, progress)
        return cls(np.load(target, mmap_mode="r"), np.load(ends_file).tolist(), unique)


class BlankFrames(Mapping[str, torch.Tensor]):
    """Maps the path of a video to black frames of 2 x 2 pixels, as many as it has. The processor only counts them."""

    def __init__(self, features: FeatureCache) -> None:
        self._features = features

    def __getitem__(self, path: str) -> torch.Tensor:
        return torch.zeros(self._features.num_frames(path), 3, 2, 2, dtype=torch.uint8)

    def __iter__(self) -> Iterator[str]:
        return iter(self._features)

    def __len__(self) -> int:
        return len(self._features)


@dataclass
class FeatureCollator(VideoDataCollator):
    """Data collator that puts features of the tower where pixel values would be; see `reads_features`.

    The outputs of the processor for a conversation are kept, and used again for all videos of the same length: to make
    them takes as long as a training step of a small model.

    Attributes:
        features: the features of all videos.
    """

    features: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.frames = BlankFrames(self.features)
        self._known: dict[str, Any] = {}

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """As in the base class; `pixel_values_videos` are (videos, frames, tokens, width)."""
        made, videos = [], []
        for row in rows:
            blocks = [block for message in row["messages"] for block in message["content"]]
            own = [block["path"] for block in blocks if block["type"] == "video"]
            videos += own
            texts = [block["text"] for block in blocks if block["type"] == "text"]
            key = json.dumps([texts, [self.features.num_frames(path) for path in own]])
            if key not in self._known:
                batch = super().__call__([row])
                self._known[key] = {name: value for name, value in batch.items() if name != "pixel_values_videos"}
            made.append(self._known[key])
        return {**self.processor.collate(made), "pixel_values_videos": tower_features(self.features, videos)}


def tower_features(features: Mapping[str, torch.Tensor], videos: Sequence[str]) -> torch.Tensor:
    """Features of some videos, (videos, frames, tokens, width), shorter ones padded with zeros."""
    return pad_sequence([features[video] for video in videos], batch_first=True)


@contextmanager
def reads_features(model: Any) -> Iterator[None]:
    """Inside this context, the model's `pixel_values_videos` are features of its vision tower, which does not run.

    Args:
        model: an IVA with a head. Its weights and configuration do not change.
    """
    base = model.model

    def get_video_features(
        pixel_values_videos: torch.Tensor, num_video_frames: torch.Tensor | None = None, **kwargs: Any
    ) -> Any:
        counts = [pixel_values_videos.shape[1]] * len(pixel_values_videos)
        if num_video_frames is not None:
            counts = num_video_frames.tolist()
        clips = [clip[:count] for clip, count in zip(pixel_values_videos, counts, strict=True)]
        return base.encode_features(clips, counts)

    base.get_video_features = get_video_features
    try:
        yield
    finally:
        # The model uses the method of its class again.
        del base.get_video_features


def _weights_hash(module: Any) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.no_grad()
def _encode_all(
    paths: list[str], base: Any, video_processor: Any, target: Path, ends_file: Path, progress: bool
) -> None:
    """Encode all videos. The features go to a raw file first, because the number of frames is known only at the end."""
    raw = target.with_name(f".{target.name}.{os.getpid()}.raw")
    counts: list[int] = []
    shape: tuple[int, ...] = ()
    try:
        with raw.open("wb") as file:
            for path in track(paths, description="Encoding videos", disable=not progress):
                frames = video_processor(videos=[path], return_tensors="pt")["pixel_values_videos"][0]
                features = [base.choose_layers(outputs) for outputs in base.run_vision_tower(frames.split(64))]
                tokens = torch.cat(features).half().numpy()
                counts.append(len(tokens))
                shape = tokens.shape[1:]
                file.write(tokens.tobytes())
        ends = np.cumsum(counts)
        temporary = raw.with_suffix(".tmp.npy")
        whole = np.lib.format.open_memmap(temporary, "w+", np.float16, (int(ends[-1]), *shape))
        source = np.memmap(raw, np.float16, "r", shape=whole.shape)
        for start in range(0, len(source), 10_000):
            whole[start : start + 10_000] = source[start : start + 10_000]
        whole.flush()
        np.save(ends_file, ends)
        os.replace(temporary, target)
    finally:
        raw.unlink(missing_ok=True)
