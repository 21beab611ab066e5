"""Turns decoded audio into mono at the wanted rate: first the channels become one, then it is resampled in blocks.

Both steps are linear, so their order does not change the sound; this order resamples one channel instead of all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .media_container import import_pyav

# Formats whose samples numpy reads without FFmpeg's help, and what full scale is in them.
_PLAIN = {"flt": (np.float32, 1.0), "s16": (np.int16, 32768.0)}
_MOST_PLANES = 7  # with planar audio of 8 or more channels, PyAV reads past the end of its planes
_SECONDS = 1.0  # of sound that is resampled at a time


class MonoMixer:
    """Mixes and resamples audio frames that follow each other without a gap and have one form.

    Args:
        frame: the first frame, which is not taken yet; all others have its rate, layout and format.
        sampling_rate: of the result, in Hz.
        channel: "mean" of all channels, or the "first" one.
    """

    def __init__(self, frame: Any, sampling_rate: int, channel: str) -> None:
        av = import_pyav()
        self.rate, self.sampling_rate, self._channel = frame.sample_rate, sampling_rate, channel
        self._planar = frame.format.is_planar
        self._channels = frame.layout.nb_channels
        plain = _PLAIN.get(frame.format.name.removesuffix("p") if self._planar else frame.format.name)
        if self._planar and self._channels > _MOST_PLANES:
            plain = None
        self._kind, self._full_scale = plain or _PLAIN["flt"]
        self._to_floats: Any = None
        if plain is None:
            # Interleaved floats, because of `_MOST_PLANES`. FFmpeg's own downmix of floats can exceed 1.
            self._to_floats = av.AudioResampler(format="flt", layout=frame.layout, rate=self.rate)
        self._resampler: Any = None
        if self.rate != sampling_rate:
            self._resampler = av.AudioResampler(format="flt", layout="mono", rate=sampling_rate)
        self._waiting: list[Any] = []  # the channels of each frame
        self._num_waiting = 0
        self._block = round(_SECONDS * self.rate)
        self._taken: list[np.ndarray] | None = []  # all samples so far, until the resampler returns some

    def add(self, frame: Any) -> None:
        """Takes a frame; `None` for the rest that FFmpeg holds."""
        if self._to_floats is not None:
            for part in self._to_floats.resample(frame):
                self._add(part.to_ndarray().reshape(-1, self._channels).T)
        elif self._planar:
            self._add([np.frombuffer(plane, self._kind, frame.samples) for plane in frame.planes])
        else:
            samples = np.frombuffer(frame.planes[0], self._kind, frame.samples * self._channels)
            self._add(samples.reshape(-1, self._channels).T)

    @property
    def is_full(self) -> bool:
        """Whether there is enough for a block: `pending` should be called."""
        return self._num_waiting >= self._block

    def pending(self) -> Iterator[np.ndarray]:
        """Yields what can be made of the frames so far: float32 (samples,) of the result.

        The resampler keeps the last samples for what follows.
        """
        if not self._num_waiting:
            return
        block = self._mixed()
        self._waiting, self._num_waiting = [], 0
        for part in self._resampled(block):
            self._taken = None
            yield part
        if self._taken is not None:
            self._taken.append(block)

    def end(self) -> Iterator[np.ndarray]:
        """Yields the rest. Nothing may be added afterwards."""
        if self._to_floats is not None:
            self.add(None)
        yield from self.pending()
        for part in self._resampled(None):
            self._taken = None
            yield part

    def short_sound(self) -> np.ndarray:
        """Float32 (samples,) of sound that is shorter than the resampler's filter, for which the resampler returns
        nothing: zeros are appended to it. At least one sample."""
        sound = np.concatenate(self._taken or [np.zeros(0, np.float32)])
        padded = np.pad(sound, (0, 64 * (1 + -(-self.rate // self.sampling_rate))))
        av = import_pyav()
        self._resampler = av.AudioResampler(format="flt", layout="mono", rate=self.sampling_rate)
        resampled = np.concatenate([*self._resampled(padded), *self._resampled(None)])
        return resampled[: max(1, round(len(sound) * self.sampling_rate / self.rate))]

    def _add(self, channels: Any) -> None:
        self._waiting.append(channels)
        self._num_waiting += len(channels[0])

    def _mixed(self) -> np.ndarray:
        """One channel of all that waits: float32 (samples,) at the rate of the file."""
        used = 1 if self._channel == "first" else self._channels
        channels = [np.concatenate([frame[index] for frame in self._waiting]) for index in range(used)]
        with np.errstate(all="ignore"):  # a mean of infinities is NaN; the caller refuses it
            mixed = channels[0].astype(np.float32, copy=False)
            for channel in channels[1:]:
                mixed += channel
            if used * self._full_scale != 1:
                mixed /= np.float32(used * self._full_scale)
        return mixed

    def _resampled(self, block: np.ndarray | None) -> Iterator[np.ndarray]:
        if self._resampler is None:
            if block is not None and len(block):
                yield block
            return
        frame = None
        if block is not None:
            frame = import_pyav().AudioFrame.from_ndarray(block[None], format="flt", layout="mono")
            frame.sample_rate = self.rate
        for part in self._resampler.resample(frame):
            if part.samples:
                yield part.to_ndarray()[0]


__all__ = ["MonoMixer"]
