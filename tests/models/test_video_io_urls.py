"""Web addresses: refused unless allowed, checked at every redirect, bounded in size and time. Loopback only."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from media_corpus import read_numbers, sine, write_video

from hf_videollm.models import media_fetch
from hf_videollm.models.media_video import MediaError, MediaLimits, MediaTooLarge, UnsafeURL, load_audio, load_video

LOCAL = ("127.0.0.1",)


class Handler(http.server.BaseHTTPRequestHandler):
    clip = b""
    seen: list[str]

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.seen.append(self.path)
        port = self.server.server_address[1]
        redirects = {
            "/to-clip": "/clip.mp4",
            "/to-localhost": f"http://localhost:{port}/clip.mp4",
            "/to-loopback-2": f"http://127.0.0.2:{port}/clip.mp4",
            "/to-file": "file:///etc/passwd",
            "/to-metadata": "http://169.254.169.254/latest",
            "/loop": "/loop",
        }
        if path in redirects:
            self.send_response(302)
            self.send_header("Location", redirects[path])
            self.end_headers()
        elif path in ("/clip.mp4", "/no-length"):
            self.send_response(200)
            if path == "/clip.mp4":
                self.send_header("Content-Length", str(len(self.clip)))
            self.end_headers()
            self.wfile.write(self.clip)
        elif path == "/cut":
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.clip)))
            self.end_headers()
            self.wfile.write(self.clip[:-100])
        elif path == "/claims-much":
            self.send_response(200)
            self.send_header("Content-Length", str(10**15))
            self.end_headers()
        elif path in ("/endless", "/slow"):
            self.send_response(200)
            self.end_headers()
            self._send_for_ever(b"x" * 65536 if path == "/endless" else b"x", 0 if path == "/endless" else 0.05)
        elif path == "/slow-header":
            self.wfile.write(b"HTTP/1.0 200 OK\r\n")
            self._send_for_ever(b"X", 0.05)
        else:
            self.send_error(404)

    def _send_for_ever(self, data: bytes, pause: float) -> None:
        try:
            for _ in range(10_000):
                self.wfile.write(data)
                self.wfile.flush()
                time.sleep(pause)
        except OSError:
            pass

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = write_video(tmp_path_factory.mktemp("served") / "clip.mp4", 20, sound=sine(0.8, 440))
    return path.read_bytes()


@pytest.fixture
def server(clip: bytes) -> Iterator[str]:
    handler = type("ServedClip", (Handler,), {"clip": clip, "seen": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        served.daemon_threads = True
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        served.handler = handler
        yield f"http://127.0.0.1:{served.server_address[1]}"
        served.shutdown()


def test_refused_by_default(server: str) -> None:
    with pytest.raises(UnsafeURL, match=r"allowed_hosts=\('127.0.0.1',\)"):
        load_video(server + "/clip.mp4")
    with pytest.raises(UnsafeURL, match=r"example\.org is not allowed"):
        load_video("https://example.org/clip.mp4", allowed_hosts=LOCAL)


@pytest.mark.parametrize("path", ["/clip.mp4", "/no-length", "/to-clip", "/clip.mp4?name=a%20b&c=ü"])
def test_allowed_host(server: str, path: str) -> None:
    frames, metadata = load_video(server + path, num_frames=4, allowed_hosts=LOCAL)
    assert read_numbers(frames) == [2, 7, 12, 17]
    assert metadata.total_num_frames == 20
    assert len(load_audio(server + path, allowed_hosts=LOCAL)) > 12000


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/to-localhost", "localhost is not allowed"),
        ("/to-loopback-2", "127.0.0.2 is not allowed"),
        ("/to-metadata", "169.254.169.254 is not allowed"),
        ("/to-file", "only http and https"),
    ],
)
def test_redirects_are_checked_again(server: str, path: str, words: str) -> None:
    with pytest.raises(UnsafeURL, match=words):
        load_video(server + path, allowed_hosts=LOCAL)


def test_redirect_loop(server: str) -> None:
    with pytest.raises(MediaError, match="redirects"):
        load_video(server + "/loop", allowed_hosts=LOCAL)


INSIDE = ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "100.64.0.1"]
INSIDE += ["::1", "fe80::1", "fc00::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"]


@pytest.mark.parametrize("address", INSIDE)
def test_names_that_point_inside_are_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    answer = [(family, socket.SOCK_STREAM, 6, "", (address, 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: answer)
    monkeypatch.setattr(socket, "create_connection", lambda *args, **kwargs: pytest.fail("connected"))
    with pytest.raises(UnsafeURL, match="not public"):
        load_video("http://media.example/clip.mp4", allowed_hosts=("media.example",))


def test_one_bad_address_among_good_ones_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, 80)) for a in ("93.184.216.34", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: answer)
    with pytest.raises(UnsafeURL, match="not public"):
        load_video("http://media.example/clip.mp4", allowed_hosts=("media.example",))


def test_the_checked_address_is_the_one_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that answers differently the second time (DNS rebinding) gains nothing: it is asked once."""
    answers = iter(["93.184.216.34", "127.0.0.1", "127.0.0.1"])
    connected = []

    def resolve(*args: object, **kwargs: object) -> list:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), 80))]

    def connect(address: tuple[str, int], **kwargs: object) -> None:
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(MediaError, match="no connection"):
        load_video("http://media.example/clip.mp4", allowed_hosts=("media.example",))
    assert connected == [("93.184.216.34", 80)]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1@example.org/a.mp4",
        "http://example.org\\@127.0.0.1/a.mp4",
        "http://127.0.0.1 .example.org/a.mp4",
        "http:///a.mp4",
        "http://127.0.0.1:port/a.mp4",
        "http://[::1/a.mp4",
        "http://2130706433/a.mp4",
        "http://0x7f.1/a.mp4",
    ],
)
def test_addresses_that_parsers_read_differently(url: str) -> None:
    with pytest.raises(UnsafeURL):
        load_video(url, allowed_hosts=(*LOCAL, "example.org", "[::1]"))


def test_byte_cap(server: str) -> None:
    limits = MediaLimits(max_bytes=1_000_000, timeout=20)
    for path in ("/endless", "/claims-much"):
        started = time.monotonic()
        with pytest.raises(MediaTooLarge, match="max_bytes"):
            load_video(server + path, allowed_hosts=LOCAL, limits=limits)
        assert time.monotonic() - started < 5


@pytest.mark.parametrize("path", ["/slow", "/slow-header"])
def test_total_deadline(server: str, path: str) -> None:
    started = time.monotonic()
    with pytest.raises(MediaTooLarge, match="timeout"):
        load_video(server + path, allowed_hosts=LOCAL, limits=MediaLimits(timeout=0.5))
    assert time.monotonic() - started < 3


def test_failures_have_one_line(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    closed = socket.socket()
    closed.bind(("127.0.0.1", 0))
    port = closed.getsockname()[1]
    closed.close()
    for url, words in {
        server + "/absent.mp4": "answered 404",
        server + "/cut": "stopped after",
        f"http://127.0.0.1:{port}/a.mp4": "no connection",
    }.items():
        with pytest.raises(MediaError, match=words) as caught:
            load_video(url, allowed_hosts=LOCAL)
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []  # nothing half-downloaded stays behind
    assert media_fetch.MAX_REDIRECTS == 5
