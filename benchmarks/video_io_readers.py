"""The ways to read frames or sound that `bench_video_io.py` compares, and the process in which each of them runs.

Each way has a process of its own: decord and torchcodec bring their own FFmpeg and disturb each other in one process.
The process reads requests, one JSON object a line, and answers each with one line.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

RATE = 16_000  # of the sound, in Hz
Read = Callable[[str, list[int]], np.ndarray]


def ours(path: str, indices: list[int]) -> np.ndarray:
    """`load_video`, or `load_audio` if no frames are wanted."""
    from hf_videollm.models.media_video import load_audio, load_video

    if not indices:
        return load_audio(path, sampling_rate=RATE)
    return load_video(path, sample_indices_fn=lambda metadata: indices)[0]


def ours_first_time(path: str, indices: list[int]) -> np.ndarray:
    """`ours` for a file that this process has not read before."""
    from hf_videollm.models import media_list_cache

    media_list_cache.forget()
    return ours(path, indices)


def pyav_by_hand(path: str, indices: list[int]) -> np.ndarray:
    """A short program for a file whose frame rate is known to be constant: seek, decode, convert."""
    import av

    if not indices:
        return _sound_by_hand(path)
    frames = []
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        tick = 1 / (stream.average_rate * stream.time_base)
        position, decoded = None, iter(())
        for index in indices:
            wanted = round(index * tick)
            # A seek to the keyframe of the group that is being decoded would decode its frames again.
            key = stream.index_entries[stream.index_entries.search_timestamp(wanted)].timestamp
            if position is None or key > position:
                container.seek(wanted, stream=stream)
                decoded = container.decode(stream)
            for frame in decoded:
                position = frame.pts
                if position >= wanted:
                    frames.append(frame.to_ndarray(format="rgb24"))
                    break
    return np.stack(frames)


def _sound_by_hand(path: str) -> np.ndarray:
    import av

    parts = []
    with av.open(path) as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
        for frame in container.decode(audio=0):
            parts += [part.to_ndarray()[0] for part in resampler.resample(frame)]
        parts += [part.to_ndarray()[0] for part in resampler.resample(None)]
    return np.concatenate(parts)


def pyav_sequential(path: str, indices: list[int]) -> np.ndarray:
    """Decode from the beginning up to the last wanted frame."""
    import av

    wanted, frames = set(indices), []
    with av.open(path) as container:
        container.streams.video[0].thread_type = "AUTO"
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                frames.append(frame.to_ndarray(format="rgb24"))
            if number == indices[-1]:
                break
    return np.stack(frames)


def torchcodec_exact(path: str, indices: list[int], seek_mode: str = "exact") -> np.ndarray:
    """torchcodec with its defaults."""
    import torchcodec.decoders

    if not indices:
        decoder = torchcodec.decoders.AudioDecoder(path, sample_rate=RATE, num_channels=1)
        return decoder.get_all_samples().data[0].numpy()
    video = torchcodec.decoders.VideoDecoder(path, dimension_order="NHWC", seek_mode=seek_mode)
    return video.get_frames_at(indices).data.numpy()


def torchcodec_approximate(path: str, indices: list[int]) -> np.ndarray:
    """torchcodec without its scan of the file; frames may be wrong where the rate is not constant."""
    return torchcodec_exact(path, indices, "approximate")


def decord(path: str, indices: list[int]) -> np.ndarray:
    """decord or decord2, whichever this process finds under the name decord."""
    import decord

    if not indices:
        return decord.AudioReader(path, sample_rate=RATE, mono=True)[:].asnumpy()[0]
    return decord.VideoReader(path).get_batch(indices).asnumpy()


def transformers_pyav(path: str, indices: list[int]) -> np.ndarray:
    """The reader of transformers."""
    import transformers.video_utils

    return transformers.video_utils.load_video(
        path, backend="pyav", sample_indices_fn=lambda metadata, **options: indices
    )[0]


READERS: dict[str, Read] = {
    "hf_videollm": ours_first_time,
    "hf_videollm again": ours,
    "PyAV by hand": pyav_by_hand,
    "PyAV sequential": pyav_sequential,
    "torchcodec exact": torchcodec_exact,
    "torchcodec approximate": torchcodec_approximate,
    "decord": decord,
    "decord2": decord,
    "transformers pyav": transformers_pyav,
}


def _memory(name: str) -> int:
    """Bytes of this process (Linux): `VmRSS` now, `VmHWM` the most since the last reset. 0 on other systems."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return 1024 * int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def _give_back() -> None:
    """Return free memory to the system, and let the peak begin at what is used now."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def answer(read: Read, request: dict[str, Any]) -> dict[str, Any]:
    """Do what a request says, and measure it."""
    path, indices = request["path"], request["indices"]
    _give_back()
    before = _memory("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    result = read(path, indices)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    measured = {"cpu": cpu, "wall": wall, "peak": _memory("VmHWM") - before, "result": result.nbytes}
    if place := request.get("save"):
        # A grid of pixels tells which frame it is; whole frames would fill the disk.
        np.save(place, result[:, ::8, ::8] if indices else result)
    return measured


def serve(name: str) -> None:
    """Answer requests until the input ends. The first line that is written says whether the reader works here."""
    read = READERS[name]
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries may print
    for line in sys.stdin:
        try:
            reply = answer(read, json.loads(line))
        except Exception as error:  # any reader may fail in its own way; the bench goes on without it
            reply = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
