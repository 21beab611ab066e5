"""Compares the speed of `load_video` for a few frames of a clip with other ways to get the same frames.

python benchmarks/bench_video_io.py --help
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np

QUICK = ("--clips", "tiny", "--repeats", "1")
CLIPS = {  # name: width, height, frames per second, seconds, frames asked for
    "720p30": (1280, 720, 30, 60, 16),
    "360p25": (640, 360, 25, 600, 64),
    "tiny": (160, 120, 25, 20, 8),
}
EXAMPLES = """examples:
  python benchmarks/bench_video_io.py                                  # both clips, results on the screen
  python benchmarks/bench_video_io.py --clips tiny --repeats 3         # a few seconds, to see that it works
  python benchmarks/bench_video_io.py --out benchmarks/results/video_io_cpu.json --machine "2 shared cores"
"""


def write_clip(path: Path, width: int, height: int, rate: int, seconds: int, keyframes: int) -> None:
    """A moving gradient with noise, H.264 with B-frames. Decoding costs about as much as for filmed videos."""
    noise = np.random.default_rng(0).integers(0, 40, (height, width), dtype=np.uint8)
    columns, rows = np.arange(width)[None, :], np.arange(height)[:, None]
    with av.open(str(path), "w") as container:
        options = {"preset": "veryfast", "bf": "3", "g": str(keyframes)}
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.thread_type = "AUTO"
        for number in range(rate * seconds):
            picture = np.full((height * 3 // 2, width), 128, dtype=np.uint8)
            picture[:height] = ((columns + rows + 3 * number) // 4 % 180 + np.roll(noise, number, axis=1)).astype("u1")
            frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def by_decoding_everything(path: str, indices: list[int]) -> np.ndarray:
    """Plain PyAV: decode from the beginning up to the last wanted frame."""
    wanted, frames = set(indices), []
    with av.open(path) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                frames.append(frame.to_ndarray(format="rgb24"))
            if number == indices[-1]:
                break
    return np.stack(frames)


def contenders(path: str, indices: list[int]) -> dict[str, Callable[[], np.ndarray]]:
    """name -> a call that returns the frames (T, H, W, 3)."""
    import transformers.video_utils

    from hf_videollm.models.media_video import available_backends, load_video

    def sampler(metadata: Any, **_: Any) -> list[int]:
        return indices

    calls: dict[str, Callable[[], np.ndarray]] = {
        f"hf_videollm {backend}": lambda b=backend: load_video(path, sample_indices_fn=sampler, backend=b)[0]
        for backend in available_backends()
    }
    calls["pyav sequential"] = lambda: by_decoding_everything(path, indices)
    calls["transformers pyav"] = lambda: transformers.video_utils.load_video(
        path, backend="pyav", sample_indices_fn=sampler
    )[0]
    try:
        import decord
    except ImportError:
        pass
    else:
        calls["decord"] = lambda: decord.VideoReader(path).get_batch(indices).asnumpy()
    return calls


def measure(path: Path, wanted: int, total: int, repeats: int) -> dict[str, Any]:
    """Measure all readers in turns, so that a busy machine slows all alike."""
    indices = [(2 * i + 1) * total // (2 * wanted) for i in range(wanted)]
    calls = contenders(str(path), indices)
    reference = by_decoding_everything(str(path), indices)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    same: dict[str, bool] = {}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            frames = call()
            seconds[name].append(time.perf_counter() - start)
            same[name] = bool(np.array_equal(frames, reference))
            del frames
    ours = min(seconds["hf_videollm pyav"])
    return {
        name: {
            "best_s": round(min(values), 4),
            "median_s": round(statistics.median(values), 4),
            "times_ours": round(min(values) / ours, 3),
            "same_pixels": same[name],
        }
        for name, values in seconds.items()
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", nargs="+", choices=sorted(CLIPS), default=["720p30", "360p25"])
    parser.add_argument("--keyframes", type=int, default=250, help="frames from one keyframe to the next (default 250)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; the best of them counts (default 5)")
    parser.add_argument("--machine", default="", help="what to call this machine in the result")
    parser.add_argument("--out", type=Path, help="write the result here as JSON")
    options = parser.parse_args(arguments)

    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench_video_io_") as folder:
        for name in options.clips:
            width, height, rate, seconds, wanted = CLIPS[name]
            path = Path(folder) / f"{name}.mp4"
            print(f"{name}: writing {seconds} s of {width}x{height} ...", file=sys.stderr)
            write_clip(path, width, height, rate, seconds, options.keyframes)
            results[name] = {
                "clip": f"{width}x{height}, {rate} fps, {seconds} s, H.264 veryfast, 3 B-frames, a keyframe every "
                f"{options.keyframes} frames, {path.stat().st_size:,} bytes",
                "frames": wanted,
                "contenders": measure(path, wanted, rate * seconds, options.repeats),
            }
            for contender, values in results[name]["contenders"].items():
                print(f"  {contender:24} best {values['best_s']:8.3f} s   {values['times_ours']:6.2f} x ours")
    report = {
        "machine": options.machine or platform.node(),
        "cores": os.cpu_count(),
        "processor": _processor(),
        "versions": {"python": platform.python_version(), **_versions()},
        "repeats": options.repeats,
        "results": results,
    }
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _versions() -> dict[str, str]:
    from importlib import metadata

    found = {}
    for package in ("av", "decord", "torchcodec", "transformers", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    sys.exit(main())
