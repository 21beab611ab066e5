"""Files that are intact and unusual: cut, joined, late, of other containers; all made here, from numbered pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from media_corpus import sine, write_video

GROUPS = {"bf": "3", "g": "12", "sc_threshold": "0", "crf": "10"}
OPEN = ":open-gop=1"
HEVC = {"x265-params": "log-level=none:keyint=12:scenecut=0"}
TICKS = 90_000  # a second of a transport stream
_LAP = 1 << 33  # its clock begins anew there


def plain_decode(path: Path) -> np.ndarray:
    """What FFmpeg gives when it decodes a file from its beginning; what it cannot decode before that is left out.

    In MPEG-4 and its kin FFmpeg makes grey pictures of that; they are left out up to the first that needs no other.
    """
    pictures = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        checks = stream.codec_context.name not in ("mpeg4", "flv", "wmv2")
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                assert not pictures, "damage in the middle"
                continue
            checks = checks or any(frame.pict_type == 1 for frame in frames)
            pictures += [frame.to_ndarray(format="rgb24") for frame in frames] if checks else []
    return np.stack(pictures)


def plain_frames(path: Path, begins_headless: bool) -> np.ndarray:
    """`plain_decode`, where the first picture stands in for each of the packets before it that cannot be decoded.

    Args:
        begins_headless: whether that is so, and nothing else is missing: then each packet is a frame.
    """
    pictures = plain_decode(path)
    if not begins_headless:
        return pictures
    with av.open(str(path)) as container:
        count = sum(packet.size > 0 for packet in container.demux(video=0))
    assert count > len(pictures)
    return np.concatenate([np.repeat(pictures[:1], count - len(pictures), axis=0), pictures])


def copy_packets(source: Path, target: Path, first: int, last: int | None = None) -> Path:
    """A cut without encoding anew: packets `first` to before `last`, in the order of decoding."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [packet for packet in old.demux(video=0) if packet.size]
        for packet in packets[first:last]:
            packet.stream = stream
            new.mux(packet)
    return target


def move_clock(data: bytes, ticks: int) -> bytes:
    """A transport stream whose timestamps are `ticks` later."""
    out = bytearray(data)
    for begin in range(0, len(out) - 187, 188):
        packet = memoryview(out)[begin : begin + 188]
        place = 4 + (1 + packet[4] if packet[3] & 0x20 else 0)
        if not packet[1] & 0x40 or bytes(packet[place : place + 3]) != b"\0\0\1":
            continue
        flags = packet[place + 7]
        for offset in [9] * (flags >> 7) + [14] * (flags >> 6 & flags >> 7 & 1):
            _move_stamp(packet[place + offset : place + offset + 5], ticks)
    return bytes(out)


def _move_stamp(field: memoryview, ticks: int) -> None:
    value = (field[0] >> 1 & 7) << 30 | field[1] << 22 | field[2] >> 1 << 15 | field[3] << 7 | field[4] >> 1
    value = (value + ticks) % _LAP
    field[0] = field[0] & 0xF1 | (value >> 30 & 7) << 1
    field[1], field[2] = value >> 22 & 255, (value >> 15 & 127) << 1 | 1
    field[3], field[4] = value >> 7 & 255, (value & 127) << 1 | 1


def renumber(data: bytes) -> bytes:
    """A transport stream whose packets are counted anew from the middle on, as after a change of the channel."""
    out = bytearray(data)
    for begin in range(len(out) // 376 * 188, len(out) - 187, 188):
        out[begin + 3] = out[begin + 3] & 0xF0 | (out[begin + 3] + 5) & 15
    return bytes(out)


def edit_list(path: Path, first: int, total: int) -> Path:
    """Copies an MP4 without B-frames whose edit list shows it from frame `first` on."""
    data = bytearray(path.read_bytes())
    place = data.find(b"elst") + 4
    with av.open(str(path)) as container:
        ticks = int(container.streams.video[0].duration * first / total)
    data[place + 8 : place + 12] = ((total - first) * 40).to_bytes(4, "big")
    data[place + 12 : place + 16] = ticks.to_bytes(4, "big")
    target = path.with_name(f"edited_{path.name}")
    target.write_bytes(data)
    return target


def write(folder: Path, name: str, pictures: int = 40, **kwargs) -> Path:
    return write_video(folder / name, pictures, **{"options": GROUPS, **kwargs})


def _cut(name: str, target: str, first: int = 5, last: int | None = None, **kwargs) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        source = write(folder, f"whole_of_{target}_{name}", **kwargs)
        return copy_packets(source, folder / f"cut_{name}_{target}", first, last)

    return make


def _joined(*parts: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        data = write(folder, "part.ts", 20).read_bytes()
        path = folder / f"joined_{len(list(folder.iterdir()))}.ts"
        path.write_bytes(b"".join(part(data) for part in parts))
        return path

    return make


def _joined_with_a_cut(folder: Path) -> Path:
    whole = write(folder, "before.ts", 20)
    cut = copy_packets(whole, folder / "behind.ts", 5)
    path = folder / "joined_cut.ts"
    path.write_bytes(whole.read_bytes() + cut.read_bytes())
    return path


def _cut_before_a_join(folder: Path) -> Path:
    whole = write(folder, "second.ts", 20)
    cut = copy_packets(whole, folder / "first.ts", 5)
    path = folder / "cut_joined.ts"
    path.write_bytes(cut.read_bytes() + whole.read_bytes())
    return path


def _cut_with_sound(folder: Path) -> Path:
    source, target = write(folder, "full_sound.mkv", sound=sine(1.6, 440)), folder / "cut_sound.mkv"
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        streams = [new.add_stream_from_template(stream) for stream in old.streams]
        seen = 0
        for packet in old.demux():
            seen += packet.stream.type == "video"
            if packet.size and (packet.stream.type == "audio" or seen > 5):
                packet.stream = streams[packet.stream.index]
                new.mux(packet)
    return target


def _doubled(name: str, **kwargs) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        data = write(folder, f"single_{name}", 20, **kwargs).read_bytes()
        (folder / f"double_{name}").write_bytes(data * 2)
        return folder / f"double_{name}"

    return make


def _one(name: str, **kwargs) -> Callable[[Path], Path]:
    return lambda folder: write(folder, name, **kwargs)


def _same(data: bytes) -> bytes:
    return data


UNEVEN = [40 * i + 700 * (i > 7) + 15 * (i % 3) for i in range(40)]
EQUAL = [40 * i - 40 * (i % 3 == 2) for i in range(40)]
LATE = [2000 + 40 * i for i in range(40)]
REFRESH = {"x264-params": "intra-refresh=1:keyint=10", "crf": "10"}
NEGATIVE = {"times": [40 * i - 200 for i in range(40)], "container_options": {"avoid_negative_ts": "disabled"}}
VP9 = {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "g": "12", "crf": "10"}}
MPEG2 = {"codec": "mpeg2video", "options": {"g": "12", "bf": "2", "qscale": "2"}}
MPEG4 = {"codec": "mpeg4", "options": {"g": "12", "bf": "2", "qscale": "2"}}

# Name -> how to make it in a folder. What begins with "cut" begins between keyframes, but for two.
FILES: dict[str, Callable[[Path], Path]] = {
    "plain mp4": _one("plain.mp4"),
    "plain mkv": _one("plain.mkv"),
    "open groups mkv": _one("open.mkv", options={**GROUPS, "x264-params": "open-gop=1"}),
    "open groups hevc": _one("open_hevc.mkv", codec="libx265", options={"x265-params": HEVC["x265-params"] + OPEN}),
    "intra refresh mkv": _one("refresh.mkv", options=REFRESH),
    "intra refresh mp4": _one("refresh.mp4", options=REFRESH),
    "intra refresh ts": _one("refresh.ts", options=REFRESH),
    "fragments of one frame": _one("dash.mp4", container_options={"movflags": "dash+frag_every_frame"}),
    "fragments": _one("fragments.mp4", container_options={"movflags": "frag_keyframe+empty_moov"}),
    "edit list": lambda folder: edit_list(write(folder, "full.mp4", options={**GROUPS, "bf": "0"}), 17, 40),
    "cut h264 mp4": _cut("a.mkv", "a.mp4", options={**GROUPS, "bf": "0"}),
    "cut h264 mkv": _cut("b.mkv", "b.mkv"),
    "cut h264 ts": _cut("c.ts", "c.ts"),
    "cut h264 flv": _cut("c.flv", "c.flv"),
    "cut after a keyframe": _cut("d.mkv", "d.mkv", first=13),
    "cut at a keyframe": _cut("e.mkv", "e.mkv", first=12, last=33),
    "cut open groups": _cut("f.mkv", "f.mkv", first=12, options={**GROUPS, "x264-params": "open-gop=1"}),
    "cut among B-frames": _cut("g.mp4", "g.mp4", first=0, last=22),
    "cut intra refresh": _cut("h.mkv", "h.mkv", options=REFRESH),
    "cut hevc": _cut("i.mkv", "i.mkv", codec="libx265", options=HEVC),
    "cut mpeg2": _cut("j.mkv", "j.mkv", **MPEG2),
    "cut mpeg4": _cut("k.mp4", "k.mp4", **MPEG4),
    "cut vp8": _cut("l.webm", "l.webm", codec="libvpx", options={"g": "12", "crf": "10"}),
    "cut vp9": _cut("m.webm", "m.webm", **VP9),
    "cut ffv1": _cut("n.mkv", "n.mkv", codec="ffv1", pix_fmt="bgr0", options={}),
    "cut wmv": _cut("o.wmv", "o.wmv", codec="wmv2", options={"g": "12", "qscale": "2"}),
    "cut flv1": _cut("p.flv", "p.flv", codec="flv", options={"g": "12", "qscale": "2"}),
    "cut bare h264": _cut("q.ts", "q.h264"),
    "cut bare hevc": _cut("r.ts", "r.hevc", codec="libx265", options=HEVC),
    "cut bare mpeg2": _cut("s.ts", "s.m2v", **MPEG2),
    "cut mpeg program": _cut("t.mpg", "t.mpg", **MPEG2),
    "cut avi": _cut("u.avi", "u.avi", **MPEG4),
    "cut avi h264": _cut("v.avi", "v.avi"),
    "cut interlaced": _cut("w.ts", "w.ts", options={**GROUPS, "flags": "+ildct+ilme"}),
    "cut open groups ts": _cut("x.ts", "x.ts", first=12, options={**GROUPS, "x264-params": "open-gop=1"}),
    "cut with sound": _cut_with_sound,
    "cut before a join": _cut_before_a_join,
    "h264": _one("bare.h264"),
    "hevc": _one("bare.hevc", codec="libx265", options=HEVC),
    "mpeg2": _one("bare.m2v", **MPEG2),
    "h264 twice": _doubled("bare.h264"),
    "mpeg program twice": _doubled("program.mpg", **MPEG2),
    "joined": _joined(_same, _same),
    "joined, clock far ahead": _joined(_same, lambda data: move_clock(data, 1000 * TICKS)),
    "joined, clock set back": _joined(lambda data: move_clock(data, 1000 * TICKS), _same),
    "joined with a cut": _joined_with_a_cut,
    "clock that wraps": _joined(lambda data: move_clock(data, -TICKS // 2)),
    "counted anew": _joined(renumber),
    "junk between packets": _joined(lambda data: data[: 188 * 9] + bytes(77) + data[188 * 9 :]),
    "negative mkv": _one("negative.mkv", **NEGATIVE),
    "negative mp4": _one("negative.mp4", times=NEGATIVE["times"]),
    "negative ts": _one("negative.ts", times=NEGATIVE["times"]),
    "late mp4": _one("late.mp4", times=LATE, sound=sine(3.6, 440)),
    "late mkv": _one("late.mkv", times=LATE, sound=sine(3.6, 440)),
    "late ts": _one("late.ts", times=LATE, sound=sine(3.6, 440)),
    "uneven mp4": _one("uneven.mp4", times=UNEVEN, options={**GROUPS, "bf": "0"}),
    "uneven mkv": _one("uneven.mkv", times=UNEVEN),
    "equal times mkv": _one("equal.mkv", times=EQUAL),
    "flv": _one("plain.flv", sound=sine(1.6, 440)),
    "avi": _one("plain.avi", **MPEG4),
    "avi h264": _one("h264.avi"),
    "avi mjpeg": _one("mjpeg.avi", codec="mjpeg", pix_fmt="yuvj420p", options={}),
    "mpeg program": _one("program_b.mpg", **MPEG2),
    "webm": _one("plain.webm", **VP9),
    "gif": _one("plain.gif", codec="gif", pix_fmt="rgb8", options={}),
    "wmv": _one("plain.wmv", codec="wmv2", options={"qscale": "2"}),
    "nut": _one("plain.nut"),
    "interlaced ts": _one("interlaced.ts", options={**GROUPS, "flags": "+ildct+ilme"}),
    "interlaced mpeg2": _one(
        "interlaced.mpg", codec="mpeg2video", options={**MPEG2["options"], "flags": "+ildct+ilme"}
    ),
}
# Decoding begins with something else than the first packet's picture.
# FFmpeg 7, which PyAV 15 carries, makes pictures of HEVC's first packets, too.
WITH_A_HEAD = {"cut at a keyframe", "cut among B-frames"} | (
    {"cut hevc", "cut bare hevc"} if av.library_versions["libavcodec"][0] < 62 else set()
)
HEADLESS = [name for name in FILES if name.startswith("cut") and name not in WITH_A_HEAD]
