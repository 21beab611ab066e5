"""Media that a processor has read and a model has encoded, and a memory of them for further calls."""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from .video_llm_identity import model_identity, processor_identity
from .video_llm_kept_prompt import KeptPrompt
from .video_llm_media_digests import MediaSources, digest_of
from .video_llm_session_prompts import SessionPrompts
from .video_llm_stored_values import num_bytes


@dataclass
class WatchedMedia:
    """What questions about media need.

    Attributes:
        kinds: `"video"`, `"image"` or `"audio"`, in the order of the prompt.
        first_ids: ids of the first prompt; see `SessionPrompts`.
        types: types of the tokens of the first prompt, under the names of the model's inputs.
        encoded: arguments of a forward of the model.
        frames: numbers of the sampled frames of each video.
        digests: of the bytes of the media; empty if they are not known.
    """

    kinds: list[str]
    first_ids: list[int]
    types: dict[str, torch.Tensor]
    encoded: dict[str, Any]
    frames: list[list[int]] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)


class MediaMemory:
    """Encoded media of earlier calls, up to a number of bytes. The media that were not used for longest are dropped.

    The key holds the bytes of the media, the options that choose frames, the settings of the processor, and the
    weights and the precision of the model. So changed files, options or weights are encoded anew.

    Example:

    ```python
    pipe.memory = MediaMemory(2 << 30)
    ```

    Attributes:
        max_bytes: most memory of all encoded media together.
        num_found: calls that found their media.
        num_missed: calls that did not.
    """

    def __init__(self, max_bytes: int) -> None:
        """Args:
        max_bytes: most memory of all encoded media together.

        Raises:
            ValueError: it is not a positive whole number.
        """
        if isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes <= 0:
            raise ValueError(f"max_bytes={max_bytes!r:.60}: give the number of bytes that encoded media may take.")
        self.max_bytes = max_bytes
        self.num_found = 0
        self.num_missed = 0
        self._entries: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def num_bytes(self) -> int:
        """Memory of all encoded media that are kept."""
        return sum(size for _, size in self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str | None) -> Any:
        """What was kept under a key; `None` if there is nothing."""
        with self._lock:
            if key is None or key not in self._entries:
                self.num_missed += 1
                return None
            self.num_found += 1
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def put(self, key: str | None, value: Any, tensors: Any) -> None:
        """Keep a value, unless it alone takes more memory than is allowed.

        Args:
            key: from `get`; nothing is kept for `None`.
            value: is returned by `get`.
            tensors: what counts of it.
        """
        size = num_bytes(tensors)
        if key is None or size > self.max_bytes:
            return
        with self._lock:
            self._entries[key] = (value, size)
            self._entries.move_to_end(key)
            while self.num_bytes > self.max_bytes:
                self._entries.popitem(last=False)

    def clear(self) -> None:
        """Drop all encoded media."""
        with self._lock:
            self._entries.clear()


def media_key(model: Any, processor: Any, sources: MediaSources, options: Mapping[str, Any], **more: Any) -> str | None:
    """The key of media in a `MediaMemory`; `None` if the bytes of a medium are not known."""
    digests = sources.digests_if_unchanged()
    if digests is None:
        return None
    return digest_of(
        [model_identity(model), str(model.device), processor_identity(processor), digests, dict(options), more]
    )


def watch(
    prompts: SessionPrompts,
    kept: KeptPrompt,
    sources: MediaSources | None,
    options: Mapping[str, Any],
    memory: MediaMemory | None = None,
) -> WatchedMedia:
    """Read and encode media, or take them from a memory.

    Args:
        prompts: of the session; it learns what the prompt holds before the question.
        kept: encodes; it has no media yet.
        sources: the media; a memory needs them.
        options: of the processor, for media.
        memory: of earlier calls.

    Raises:
        MediaError: a medium cannot be read.
        TypeError: the memory is no `MediaMemory`.
    """
    if memory is not None and not isinstance(memory, MediaMemory):
        raise TypeError(f"The memory is {memory!r:.60}: pass MediaMemory(max_bytes), or None.")
    model = kept.model
    key = None
    if memory is not None and sources is not None:
        key = media_key(model, prompts.processor, sources, options, rendering=prompts.rendering)
        known: WatchedMedia | None = memory.get(key)
        if known is not None:
            prompts.take_head(known.first_ids)
            kept.adopt(known.encoded, known.types)
            return known
    row, metadata = prompts.read(model.dtype, options)
    with torch.no_grad():
        first_ids = kept.begin(row, "session")
    types = {
        name: row[name].to(model.device)
        for name in kept.prompt_keys
        if name in row and name not in ("input_ids", "attention_mask", "labels")
    }
    frames = [[int(index) for index in _numbers(known.frames_indices)] for known in metadata]
    watched = WatchedMedia(prompts.kinds, first_ids, types, kept.encoded, frames)
    # The pixels of the row are freed; they are not needed any more.
    kept.adopt(watched.encoded, types)
    # A file that was written to while it was read may hold something else now.
    if memory is not None and sources is not None and sources.digests_if_unchanged() is not None:
        memory.put(key, watched, watched.encoded)
    return watched


def _numbers(indices: Any) -> Any:
    return () if indices is None else indices


__all__ = ["MediaMemory", "WatchedMedia", "media_key", "watch"]
