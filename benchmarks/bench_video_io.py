"""Compares the speed and memory of `load_video` and `load_audio` with other ways to get the same frames or sound.

python benchmarks/bench_video_io.py --help
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from run_facts import in_mib
from video_io_readers import READERS

QUICK = ("--cases", "tiny", "--repeats", "1", "--readers", "PyAV by hand")
EXAMPLES = """examples:
  python benchmarks/bench_video_io.py                             # all cases, results on the screen
  python benchmarks/bench_video_io.py --cases tiny --repeats 3    # a few seconds, to see that it works
  pip install --target /tmp/decord2 --no-deps decord2             # decord2 and decord exclude each other, so
  python benchmarks/bench_video_io.py --decord2 /tmp/decord2      # it needs a folder of its own
  python benchmarks/bench_video_io.py --out benchmarks/results/video_io_cpu.json --machine "2 shared cores"
"""
READER = Path(__file__).with_name("video_io_readers.py")
DEFAULT_READERS = ("hf_videollm", "hf_videollm again", "PyAV by hand", "torchcodec exact", "decord", "decord2")


@dataclass(frozen=True)
class Case:
    """A file, and the frames that are wanted of it; none for sound."""

    width: int
    height: int
    rate: int
    seconds: int
    keyframes: int
    frames: int

    @property
    def about(self) -> str:
        if not self.frames:
            return f"{self.seconds} s of sound, MP3, 44.1 kHz, stereo, to 16 kHz mono"
        return (
            f"{self.frames} frames of {self.width}x{self.height}, {self.rate} fps, {self.seconds} s, H.264 veryfast, "
            f"3 B-frames, a keyframe every {self.keyframes} frames"
        )

    @property
    def indices(self) -> list[int]:
        total = self.rate * self.seconds
        return [(2 * i + 1) * total // (2 * self.frames) for i in range(self.frames)]


CASES = {
    "720p, GOP 30": Case(1280, 720, 30, 60, 30, 16),
    "720p, GOP 250": Case(1280, 720, 30, 60, 250, 16),
    "360p, 600 s": Case(640, 360, 25, 600, 250, 64),
    "240p, 1 hour": Case(426, 240, 25, 3600, 250, 32),
    "360p, 1 fps of 600 s": Case(640, 360, 25, 600, 250, 600),
    "sound, 600 s": Case(0, 0, 0, 600, 0, 0),
    "tiny": Case(160, 120, 25, 20, 50, 8),
    "tiny sound": Case(0, 0, 0, 5, 0, 0),
}


def write_clip(path: Path, case: Case) -> None:
    """A moving gradient with noise, H.264 with B-frames. Decoding costs about as much as for filmed videos.

    One minute is encoded; longer clips repeat its packets, which decoders cannot know.
    """
    minute, total = min(case.seconds, 60) * case.rate, case.seconds * case.rate
    encoded = io.BytesIO()
    with av.open(encoded, "w", format="mp4") as container:
        options = {"preset": "veryfast", "bf": "3", "g": str(case.keyframes)}
        stream = container.add_stream("libx264", rate=case.rate, options=options)
        stream.width, stream.height, stream.pix_fmt = case.width, case.height, "yuv420p"
        stream.thread_type = "AUTO"
        for picture in pictures(case, minute):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="yuv420p")))
        container.mux(stream.encode())
    with av.open(str(path), "w") as container:
        template, number = None, 0
        while number < total:
            encoded.seek(0)
            with av.open(encoded) as source:
                template = template or container.add_stream_from_template(source.streams.video[0])
                shift = round(number / case.rate / source.streams.video[0].time_base)
                for packet in source.demux(video=0):
                    if packet.size:
                        packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, template
                        container.mux(packet)
            number += minute


def pictures(case: Case, count: int) -> Iterator[np.ndarray]:
    """Frames in yuv420p."""
    noise = np.random.default_rng(0).integers(0, 40, (case.height, case.width), dtype=np.uint8)
    columns, rows = np.arange(case.width)[None, :], np.arange(case.height)[:, None]
    for number in range(count):
        picture = np.full((case.height * 3 // 2, case.width), 128, dtype=np.uint8)
        brightness = (columns + rows + 3 * number) // 4 % 180
        picture[: case.height] = (brightness + np.roll(noise, number, axis=1)).astype("u1")
        yield picture


def write_sound(path: Path, seconds: int, rate: int = 44_100) -> None:
    """Tones that change, with noise, in two channels."""
    random = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libmp3lame", rate=rate, layout="stereo")
        for second in range(seconds):
            times = second + np.arange(rate) / rate
            tone = 0.4 * np.sin(2 * np.pi * (220 + 20 * (second % 30)) * times)
            sound = (np.stack([tone, tone[::-1]]) + random.normal(0, 0.05, (2, rate))).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(sound, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = rate, second * rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def file_of(case: Case, folder: Path) -> Path:
    """The file of a case, which is written if the folder does not hold it."""
    kind = f"{case.width}x{case.height}_{case.rate}fps_gop{case.keyframes}" if case.frames else "sound"
    path = folder / f"{kind}_{case.seconds}s{'.mp4' if case.frames else '.mp3'}"
    if not path.exists():
        print(f"writing {path.name} ...", file=sys.stderr)
        part = path.with_stem(f"part_of_{path.stem}")
        if case.frames:
            write_clip(part, case)
        else:
            write_sound(part, case.seconds)
        part.rename(path)
    return path


class Worker:
    """A process with one reader."""

    def __init__(self, reader: str, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(READER), reader],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request, wait for the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        return dict(json.loads(line)) if line else {"error": f"the process ended with {self.process.wait()}"}

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def environment_of(reader: str, decord2: Path | None, links: Path) -> dict[str, str] | None:
    """The environment in which a reader finds its libraries; None if it is not to be had."""
    environment = dict(os.environ)
    if reader == "decord2":
        if decord2 is None:
            return None
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(decord2), environment.get("PYTHONPATH")]))
    if reader.startswith("torchcodec"):
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(
            filter(None, [environment.get("LD_LIBRARY_PATH"), *linked_ffmpeg(links)])
        )
    return environment


def linked_ffmpeg(folder: Path) -> list[str]:
    """Folders in which torchcodec finds FFmpeg where none is installed: PyAV's own, under the usual names."""
    libraries = Path(av.__file__).parent.parent / "av.libs"
    folder.mkdir(exist_ok=True)
    for library in libraries.glob("lib*-*.so.*"):
        stem, _, rest = library.name.partition("-")
        link = folder / f"{stem}.so.{rest.split('.so.')[1].split('.')[0]}"
        if stem.startswith(("libav", "libsw")) and not link.exists():
            link.symlink_to(library)
    return [str(folder), str(libraries)]


class Workers:
    """One process for each reader, which lives for all cases: starting it takes longer than many a case."""

    def __init__(self, readers: list[str], decord2: Path | None, folder: Path) -> None:
        self.environments = {reader: environment_of(reader, decord2, folder / "links") for reader in readers}
        self.workers: dict[str, Worker] = {}

    def readers(self) -> list[str]:
        """Names of the readers whose libraries can be had."""
        return [reader for reader, environment in self.environments.items() if environment is not None]

    def ask(self, reader: str, **request: Any) -> dict[str, Any]:
        """The answer of a reader. A process that crashed is started anew for the next request."""
        environment = self.environments[reader]
        assert environment is not None
        if reader not in self.workers:
            self.workers[reader] = Worker(reader, environment)
        reply = self.workers[reader].ask(**request)
        if self.workers[reader].process.poll() is not None:
            del self.workers[reader]
        return reply

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()


def measure(case: Case, path: Path, workers: Workers, repeats: int, folder: Path) -> dict[str, Any]:
    """Run the readers in turns, so that a busy machine slows all alike. The first turn warms up."""
    rounds: dict[str, list[dict[str, Any]]] = {}
    samples: dict[str, np.ndarray] = {}
    for turn in range(repeats + 1):
        for number, reader in enumerate(workers.readers()):
            if any("error" in reply for reply in rounds.get(reader, ())):
                continue
            place = folder / f"{number}.npy"
            reply = workers.ask(reader, path=str(path), indices=case.indices, **({} if turn else {"save": str(place)}))
            rounds.setdefault(reader, []).append(reply)
            if "error" not in reply and not turn:
                samples[reader] = np.load(place)
    ours = rounds["hf_videollm"]
    return {
        reader: {"error": replies[-1]["error"]}
        if "error" in replies[-1]
        else summary(replies, ours) | compared(samples[reader], samples["hf_videollm"], case)
        for reader, replies in rounds.items()
    }


def summary(replies: list[dict[str, Any]], ours: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians, and the median of the ratios of neighbouring runs: ours divided by the other's, below 1 is faster."""
    pairs = list(zip(ours[1:], replies[1:], strict=True))
    return {
        "cpu_s": round(statistics.median(reply["cpu"] for reply in replies[1:]), 4),
        "wall_s": round(statistics.median(reply["wall"] for reply in replies[1:]), 4),
        "ours_by_this_cpu": round(statistics.median(one["cpu"] / other["cpu"] for one, other in pairs), 3),
        "ours_by_this_wall": round(statistics.median(one["wall"] / other["wall"] for one, other in pairs), 3),
        "result_mib": in_mib(replies[0]["result"]),
        "peak_mib": in_mib(max(reply["peak"] for reply in replies[1:])),
    }


def compared(sample: np.ndarray, ours: np.ndarray, case: Case) -> dict[str, Any]:
    """How the result differs from ours: for frames how many are others, for sound the length and the difference."""
    if not case.frames:
        length = min(len(sample), len(ours))
        difference = float(np.abs(sample[:length] - ours[:length]).max()) if length else None
        return {"samples": len(sample), "largest_difference": None if difference is None else round(difference, 4)}
    if sample.shape != ours.shape:
        return {"wrong_frames": len(ours)}
    differences = np.abs(sample.astype(int) - ours).mean(axis=(1, 2, 3))
    # Decoders with another version of FFmpeg may round colours otherwise.
    return {"wrong_frames": int((differences > 2).sum())}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES)[:-2])
    parser.add_argument("--readers", nargs="+", choices=[*READERS], default=list(DEFAULT_READERS))
    parser.add_argument("--repeats", type=int, default=5, help="rounds after the first one; medians count (default 5)")
    parser.add_argument("--clips", type=Path, help="folder in which the files are kept for another time")
    parser.add_argument("--decord2", type=Path, help="folder into which the package decord2 was installed")
    parser.add_argument("--machine", default="", help="what to call this machine in the result")
    parser.add_argument("--out", type=Path, help="write the result here as JSON; other cases in the file stay")
    options = parser.parse_args(arguments)
    readers = list(dict.fromkeys(["hf_videollm", *options.readers]))

    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench_video_io_") as temporary:
        folder = options.clips or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        workers = Workers(readers, options.decord2, Path(temporary))
        try:
            for name in options.cases:
                case = CASES[name]
                path = file_of(case, folder)
                found = measure(case, path, workers, options.repeats, Path(temporary))
                results[name] = {"case": case.about, "bytes": path.stat().st_size, "readers": found}
                print(f"{name}: {case.about}")
                if options.out:
                    write(options, results)
                for reader, values in found.items():
                    print(f"  {reader:22} {values.get('error') or as_line(values)}", flush=True)
        finally:
            workers.close()
    return 0


def write(options: argparse.Namespace, results: dict[str, Any]) -> None:
    """Write what was measured so far. Cases that the file has of other runs stay: a long run may be done in parts."""
    if options.out.exists():
        results = json.loads(options.out.read_text())["results"] | results
    report = {
        "machine": options.machine or platform.node(),
        "cores": os.cpu_count(),
        "processor": _processor(),
        "versions": {"python": platform.python_version(), **_versions(options.decord2)},
        "method": {
            "order": "each reader in a process of its own, in turns",
            "value": "medians; ours_by_this: our time divided by theirs, by CPU time and by the clock",
        },
        "repeats": options.repeats,
        "results": results,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")


def as_line(values: dict[str, Any]) -> str:
    own = ("cpu_s", "wall_s", "ours_by_this_cpu", "ours_by_this_wall", "result_mib", "peak_mib")
    line = "cpu {:8.3f} s  wall {:8.3f} s  ours/this {:5.2f} cpu {:5.2f} wall  result {:6.1f} peak {:6.1f} MiB".format(
        *(values[name] for name in own)
    )
    return line + "".join(f"  {name} {value}" for name, value in values.items() if name not in own)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _versions(decord2: Path | None) -> dict[str, str]:
    from importlib import metadata

    found = {}
    for package in ("av", "decord", "torchcodec", "transformers", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if decord2 is not None:
        found |= {about.name: about.version for about in metadata.distributions(path=[str(decord2)])}
    return found


if __name__ == "__main__":
    sys.exit(main())
