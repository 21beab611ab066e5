"""Where a download may go: no address inside in any spelling, and no answer of a server that is not a typed error."""

from __future__ import annotations

import base64
import ipaddress
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from media_corpus import read_numbers, write_video

from hf_videollm.models import media_fetch
from hf_videollm.models.media_addresses import ascii_host, host_names, is_public
from hf_videollm.models.media_video import (
    CorruptMedia,
    MediaError,
    MediaLimits,
    MediaTooLarge,
    UnsafeURL,
    load_audio,
    load_video,
)

LOCAL = ("127.0.0.1",)

# --- addresses -----------------------------------------------------------------------------------------------------

INSIDE_4 = ["0.0.0.0", "10.1.2.3", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.0.9", "169.254.169.254"]
INSIDE_4 += ["172.16.0.1", "172.31.255.255", "192.168.0.1", "192.0.0.8", "192.0.2.1", "198.51.100.1", "203.0.113.1"]
INSIDE_4 += ["192.88.99.1", "198.18.0.1", "198.19.255.255", "224.0.0.1", "239.255.255.250", "240.0.0.1"]
INSIDE_4 += ["255.255.255.255"]
PUBLIC_4 = ["8.8.8.8", "93.184.216.34", "100.63.255.255", "100.128.0.0", "172.15.0.1", "172.32.0.1", "192.169.0.1"]
PUBLIC_6 = ["2001:4860:4860::8888", "2606:4700::6810:84e5", "2a00:1450:4001:800::200e", "2400:cb00::1"]
INSIDE_6 = [
    "::",
    "::1",
    "100::1",
    "64:ff9b:1::1",
    "64:ff9b:1:ffff::1",
    "2001::1",
    "2001:2::1",
    "2001:10::1",
    "2001:db8::1",
]
INSIDE_6 += ["2001:db8:ffff::1", "3fff::1", "3ffe::1", "5f00::1", "fc00::1", "fd12::1", "fe80::1", "febf::1", "fec0::1"]
INSIDE_6 += ["feff::1", "ff01::1", "ff02::fb", "ff0e::1", "4000::1", "fe80::1%eth0", "fe80::1%3"]

# How an IPv4 address is written inside an IPv6 address.
SPELLINGS: dict[str, Callable[[int], int]] = {
    "mapped": lambda ip: 0xFFFF << 32 | ip,
    "NAT64, well-known": lambda ip: 0x64FF9B << 96 | ip,
    "compatible": lambda ip: ip,
    "translated": lambda ip: 0xFFFF << 48 | ip,
    "NAT64, local use, /96": lambda ip: 0x64FF9B0001 << 80 | ip,
    "NAT64, local use, /48": lambda ip: 0x64FF9B0001 << 80 | (ip >> 16) << 64 | (ip & 0xFFFF) << 40,
    "6to4": lambda ip: 0x2002 << 112 | ip << 80 | 1,
    "Teredo, server": lambda ip: 0x20010000 << 96 | ip << 64,
    "Teredo, client": lambda ip: 0x20010000 << 96 | 0x08080808 << 64 | (ip ^ 0xFFFFFFFF),
    "ISATAP": lambda ip: 0x26064700 << 96 | 0x5EFE << 32 | ip,
    "ISATAP, universal": lambda ip: 0x26064700 << 96 | 0x02005EFE << 32 | ip,
    "ISATAP, link-local": lambda ip: 0xFE80 << 112 | 0x5EFE << 32 | ip,
}
# A public address in these leads to that address; in the others it is refused all the same.
WAYS_OUT = ("mapped", "NAT64, well-known", "ISATAP", "ISATAP, universal")


def test_addresses_inside_and_outside() -> None:
    for address in [*INSIDE_4, *INSIDE_6]:
        assert not is_public(address), address
    for address in [*PUBLIC_4, *PUBLIC_6]:  # the control
        assert is_public(address), address


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_an_address_inside(spelling: str) -> None:
    def written(address: str) -> ipaddress.IPv6Address:
        return ipaddress.IPv6Address(SPELLINGS[spelling](int(ipaddress.IPv4Address(address))))

    for address in INSIDE_4:
        for text in (str(written(address)), written(address).exploded, written(address).exploded.upper()):
            assert not is_public(text), text
    for address in PUBLIC_4:
        assert is_public(str(written(address))) is (spelling in WAYS_OUT)


def test_nothing_is_public_that_the_registry_of_python_keeps_inside() -> None:
    drawn = random.Random(0)
    addresses = [ipaddress.IPv4Address(drawn.getrandbits(32)) for _ in range(2000)]
    addresses += [ipaddress.IPv6Address(1 << 125 | drawn.getrandbits(125)) for _ in range(2000)]
    public = [ip for ip in addresses if is_public(str(ip))]
    assert all(ip.is_global and not ip.is_multicast for ip in public)
    assert len(public) > 3000  # the control: most are


@pytest.mark.parametrize("address", ["fec0::1", "::7f00:1", "::ffff:0:7f00:1", "64:ff9b:1::7f00:1", "2002:808:808::1"])
@pytest.mark.parametrize("load", [load_video, load_audio])
def test_no_name_leads_inside(load, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also as the last of several answers."""
    answer = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", (a, 80, 0, 0)) for a in (*PUBLIC_6, address)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: answer)
    monkeypatch.setattr(socket, "create_connection", lambda *args, **kwargs: pytest.fail("connected"))
    with pytest.raises(UnsafeURL, match="not public"):
        load("http://media.example/clip.mp4", allowed_hosts="media.example")


def test_hosts_are_compared_as_hosts() -> None:
    assert host_names("Example.ORG.") == host_names(["example.org"]) == {"example.org"}
    assert host_names(("[::1]", "0:0::1", "bücher.example")) == {"::1", "xn--bcher-kva.example"}
    assert ascii_host("BÜCHER.example.") == "xn--bcher-kva.example"
    assert host_names(None) == host_names(()) == set()
    for entry in (
        "https://example.org",
        "example.org/x",
        "example.org:80",
        "user@example.org",
        "",
        ".",
        "x" * 70 + "ü",
        7,
    ):
        with pytest.raises(UnsafeURL, match="names of hosts alone"):
            host_names([entry])


# --- callers -------------------------------------------------------------------------------------------------------

MALFORMED = [
    "http://[bad",
    "http://[::1",
    "http://[::1]extra/a.mp4",
    "http://[127.0.0.1]/a.mp4",
    "http://[v1.x]/a.mp4",
    "http://127.0.0.1:99999/a.mp4",
    "http://127.0.0.1:-1/a.mp4",
    "http://127.0.0.1:0/a.mp4",
    "http://127.0.0.1:²/a.mp4",
    "http://127.0.0.1:port/a.mp4",
    "http://\ud800/a.mp4",
    "http://127.0.0.1/\udfff.mp4",
    "http://127.0.0.1/?\ud800",
    "http://127.0.0.1/a\nb",
    "http://127.0.0.1/a b",
    "http://127.0.0.1\\@example.org/",
    "http://user:secret@127.0.0.1/a.mp4",
    "http://user@127.0.0.1/a.mp4",
    "http://@127.0.0.1/a.mp4",
    "http://" + "ü" * 70 + ".example/a.mp4",
    "http://a..example/a.mp4",
    "http://" + "a" * 70 + ".example/a.mp4",
    "http://xn--\u20ac.example/",
    "http://example.org℀.x/",
    "http:///a.mp4",
    "http://./a.mp4",
    "http://%31%32%37.0.0.1/a.mp4",
    "http://0177.0.0.1/a.mp4",
    "http://127.1/a.mp4",
    "http://[::ffff:127.0.0.1%25eth0]/a.mp4",
    "ftp://127.0.0.1/a.mp4",
    "rtmp://127.0.0.1/a",
    "concat://a|b",
    "file://[::1",
    "file://127.0.0.1/etc/passwd",
    "file:///a%00b.mp4",
    "file:///\ud800.mp4",
    "gopher://127.0.0.1/",
    "HTTP://example.org/a.mp4",
    "DATA:video/mp4;base64,ab!",
    "data:video/mp4;base64,äöü",
    "data:,",
    "\ud800",
    "a\0b",
    "x" * 5000,
    "http://" + "x" * 5000,
    "http://127.0.0.1:1/" + "x" * 100_000,
]


@pytest.mark.parametrize("load", [load_video, load_audio])
def test_whatever_a_caller_writes_is_a_typed_error(load) -> None:
    for url in MALFORMED:
        with pytest.raises(MediaError) as caught:
            load(url, allowed_hosts=(*LOCAL, "a..example", "a" * 70 + ".example", "127.1", "0177.0.0.1"))
        text = str(caught.value)
        assert "\n" not in text, url
        assert text.isprintable(), url
        assert "secret" not in text


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\n\t ", "\f"])
def test_base64_may_be_broken_into_lines(clip: bytes, line_break: str) -> None:
    text = base64.encodebytes(clip).decode()
    assert text.count("\n") > 1
    url = "data:video/mp4;base64,\n" + text.replace("\n", line_break)
    limits = MediaLimits(max_bytes=len(clip) + 2)
    frames = load_video(url, limits=limits)[0]
    np.testing.assert_array_equal(frames, load_video(clip)[0])
    for stranger in ("\xa0", "\0", "-", "\u2028"):
        with pytest.raises(CorruptMedia, match="base64 text is damaged"):
            load_video(url[:100] + stranger + url[100:])


# --- servers -------------------------------------------------------------------------------------------------------


class RawServer:
    """Answers every connection with the bytes of `answer`, in pieces of `piece` bytes with pauses, then closes."""

    def __init__(self) -> None:
        self.answer, self.piece, self.pause = b"", 1 << 20, 0.0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/clip.mp4"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            with client:
                try:
                    client.recv(65536)
                    for start in range(0, len(self.answer), self.piece):
                        client.sendall(self.answer[start : start + self.piece])
                        time.sleep(self.pause)
                except OSError:
                    pass

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(scope="module")
def raw() -> Iterator[RawServer]:
    server = RawServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_video(tmp_path_factory.mktemp("served") / "clip.mp4", 10).read_bytes()


def load(raw: RawServer, answer: bytes, **options):
    raw.answer = answer
    return load_video(raw.url, allowed_hosts=LOCAL, **{"limits": MediaLimits(timeout=20), **options})


GOOD = [
    b"HTTP/1.1 200 OK\r\n\r\n%b",
    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b",
    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nContent-Length: %d\r\n\r\n%b",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Encoding: identity\r\n\r\n%b",
    b"HTTP/1.0 200 \r\nX-Name: \xfc\xff\r\n\r\n%b",
]


@pytest.mark.parametrize("head", GOOD)
def test_good_answers(raw: RawServer, clip: bytes, head: bytes) -> None:
    """The control of the tests below."""
    answer = head.replace(b"%d", b"%i" % len(clip)).replace(b"%b", clip)
    assert read_numbers(load(raw, answer)[0]) == list(range(10))


def test_chunks(raw: RawServer, clip: bytes) -> None:
    pieces = [clip[start : start + 999] for start in range(0, len(clip), 999)]
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert read_numbers(load(raw, head + body + b"0\r\n\r\n")[0]) == list(range(10))
    for broken in (body, body[:-500], b"zz\r\n" + body, b"-5\r\n" + body, b"f" * 30 + b"\r\n" + body, b""):
        with pytest.raises(MediaError):
            load(raw, head + broken)


BAD = [
    b"",
    b"\r\n\r\n",
    b"no HTTP at all",
    b"HTTP/9.9 200 OK\r\n\r\n",
    b"HTTP/1.1 abc OK\r\n\r\n",
    b"HTTP/1.1 99999 OK\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 206 Partial\r\n\r\nxx",
    b"HTTP/1.1 304 Not Modified\r\n\r\n",
    b"HTTP/1.1 404 Not Found\r\n\r\n",
    b"HTTP/1.1 500 \xff\xfe\r\n\r\n",
    b"HTTP/1.1 101 Switching\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"X" * 70_000 + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\nxx",
    b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nxx",
    b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nxxxxx",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\nxx",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0x10\r\n\r\nxx",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nxxxxx",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nxxxxx",
    b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nxx",
    b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\ntoo short",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: identity, br\r\n\r\nxx",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n\xff",
    b"HTTP/1.1 200 OK\r\nno colon\r\n\r\nxx",
]
PLACES = [
    b"",
    b"http://[bad",
    b"//[",
    b"http://127.0.0.1:x/",
    b"http://\xff\xfe/",
    b"/a b",
    b"\t",
    b"///",
    b"/clip.mp4",
]
PLACES += [b"http://user:secret@127.0.0.1/", b"file:///etc/passwd", b"data:video/mp4;base64,AAAA", b"http://10.0.0.1/"]
PLACES += [b"http://[::1]/", b"https://\xe4\xb8\xad..\xe6\x96\x87/", b"x" * 60_000, b"gopher://127.0.0.1/"]
BAD += [b"HTTP/1.1 302 Found\r\nLocation: " + place + b"\r\n\r\n" for place in PLACES]


@pytest.mark.parametrize("answer", BAD, ids=range(len(BAD)))
def test_whatever_a_server_sends_is_a_typed_error(raw: RawServer, answer: bytes, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(MediaError) as caught:
        load(raw, answer)
    text = str(caught.value)
    assert "\n" not in text
    assert text.isprintable()
    assert "secret" not in text
    assert caught.value.__cause__ is None
    assert list(tmp_path.iterdir()) == []


def test_flipped_bytes_of_an_answer(raw: RawServer, clip: bytes) -> None:
    drawn = random.Random(0)
    good = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: %d\r\nContent-Type: video/mp4\r\n\r\n" % len(clip)
    for _ in range(60):
        head = bytearray(good)
        for _ in range(drawn.randrange(1, 4)):
            head[drawn.randrange(len(head))] = drawn.randrange(256)
        try:
            frames, _ = load(raw, bytes(head) + clip)
        except MediaError as error:
            assert "\n" not in str(error)  # noqa: PT017 (either may happen)
        else:
            assert read_numbers(frames) == list(range(10))


def test_redirects_to_names_beyond_ascii(raw: RawServer, clip: bytes) -> None:
    """Written in UTF-8, as servers do; http.client reads it as Latin-1."""
    place = media_fetch._joined(raw.url, "/ü中.mp4".encode().decode("latin-1"), "x")
    assert place.endswith("/ü中.mp4")


def test_bodies_are_bounded_in_bytes_and_time(raw: RawServer) -> None:
    body = b"HTTP/1.1 200 OK\r\n\r\n" + bytes(200_000)
    with pytest.raises(MediaTooLarge, match="max_bytes"):
        load(raw, body, limits=MediaLimits(max_bytes=100_000))
    raw.piece, raw.pause = 1, 0.02
    try:
        for answer in (body, b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 90, b"H" * 60_000):
            with pytest.raises(MediaTooLarge, match="timeout"):
                load(raw, answer, limits=MediaLimits(timeout=0.3))
    finally:
        raw.piece, raw.pause = 1 << 20, 0.0


def test_a_slow_name_or_handshake_ends_with_the_deadline(raw: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    raw.answer, raw.pause = b"", 0.0
    silent = socket.create_server(("127.0.0.1", 0))  # accepts, and never says a word
    url = f"https://127.0.0.1:{silent.getsockname()[1]}/a.mp4"
    with silent, pytest.raises(MediaTooLarge, match="timeout"):
        load_video(url, allowed_hosts=LOCAL, limits=MediaLimits(timeout=0.3))
    forever = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: forever.wait(30) and [])
    with pytest.raises(MediaTooLarge, match="timeout"):
        load_video("http://media.example/a.mp4", allowed_hosts="media.example", limits=MediaLimits(timeout=0.2))
    forever.set()


def test_a_pipe_that_nobody_writes_to_ends_with_the_deadline() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        for load in (load_video, load_audio):
            with pytest.raises(MediaTooLarge, match="timeout"):
                load(pipe, limits=MediaLimits(timeout=0.2))
        os.close(writing)


@pytest.mark.parametrize("kind", ["closed", "text", "for writing", "none", "fails", "not ready", "no bytes"])
def test_file_objects_that_cannot_be_read(kind: str, tmp_path: Path) -> None:
    class Odd:
        """Read once, and never asked to seek."""

        def read(self, size: int = -1) -> object:
            if kind == "fails":
                raise RuntimeError("two\nlines")
            return {"not ready": None, "none": b"", "no bytes": 7}[kind]

    (tmp_path / "file").write_bytes(b"x" * 100)
    if kind in ("closed", "text", "for writing"):
        source = open(tmp_path / "file", {"closed": "rb", "text": "r", "for writing": "ab"}[kind])  # noqa: SIM115
        if kind == "closed":
            source.close()
    else:
        source = Odd()
    for load in (load_video, load_audio):
        with pytest.raises(MediaError, match="<file object>") as caught:
            load(source)
        assert "\n" not in str(caught.value)
    if not isinstance(source, Odd):
        source.close()
