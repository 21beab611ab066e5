"""The HTTP server of the Hub on this machine."""

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from .faults import Fault
from .routes import Request, Response, answer
from .store import Store, User

TOKEN = "hub-of-the-tests"


@dataclass
class HubServer:
    """The server, what it keeps and what it was asked.

    Attributes:
        url: its address, for `HF_ENDPOINT`.
        store: users, repositories, large files and collections.
        faults: the failures to come.
        log: `METHOD path` of all requests, in the order of their arrival.
        received: the length of the body of each.
    """

    url: str = ""
    store: Store = field(default_factory=lambda: Store({TOKEN: User("me", orgs=("lab",))}))
    faults: list[Fault] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    received: list[int] = field(default_factory=list)
    token: str = TOKEN
    lock: threading.Lock = field(default_factory=threading.Lock)

    def forget(self) -> None:
        """Forget what was asked, and keep what is stored."""
        with self.lock:
            self.log.clear()
            self.received.clear()

    def uploaded(self) -> int:
        """Bytes of large files that were received."""
        return sum(size for line, size in zip(self.log, self.received, strict=True) if line.startswith("PUT /storage/"))

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a repository."""
        return {path: blob.content for path, blob in self.store.repos[name].at(revision).files.items()}

    def commits(self, name: str, revision: str = "main") -> list[str]:
        """The titles of the commits, the newest first; without the first, which the Hub itself makes."""
        return [item.title for item in self.store.repos[name].history(revision)][:-1]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def handle_any(self) -> None:
        parts = urlsplit(self.path)
        line = f"{self.command} {parts.path}"
        with self.hub.lock:
            fault = next((fault for fault in self.hub.faults if fault.strikes(line)), None)
        length = int(self.headers.get("Content-Length") or 0)
        if fault is not None and fault.cut:
            self.rfile.read(length // 2)
        body = b"" if fault is not None and fault.cut else self._body(length)
        with self.hub.lock:
            self.hub.log.append(line)
            self.hub.received.append(len(body))
        if fault is not None and fault.then is not None:
            with self.hub.lock:
                fault.then()
        if fault is not None and fault.cut:
            self._hang_up()
        elif fault is not None and fault.status:
            self._send(Response({"error": fault.message}, fault.status, fault.headers))
        else:
            response = self._answer(parts.path, dict(parse_qsl(parts.query)), body)
            if fault is not None and fault.cut_after:
                self._hang_up()
            else:
                self._send(response)

    def _body(self, length: int) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(length)
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _answer(self, path: str, query: dict[str, str], body: bytes) -> Response:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        store = self.hub.store
        if token and token not in store.users:
            message = "Invalid credentials in Authorization header"
            return Response({"error": message}, 401, {"X-Error-Message": message})
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.hub.lock:
            return answer(
                self.command, path, Request(store, self.hub.url, store.users.get(token), query, headers, body)
            )

    def _send(self, response: Response) -> None:
        is_json = not isinstance(response.body, bytes)
        body = json.dumps(response.body).encode() if is_json else response.body
        self.send_response(response.status)
        self.send_header("Content-Type", "application/json" if is_json else "application/octet-stream")
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def do_GET(self) -> None:
        self.handle_any()

    def do_HEAD(self) -> None:
        self.handle_any()

    def do_POST(self) -> None:
        self.handle_any()

    def do_DELETE(self) -> None:
        self.handle_any()

    def do_PUT(self) -> None:
        self.handle_any()

    def log_message(self, *_: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        pass  # a client that has gone


@contextmanager
def hub_server(faults: Sequence[Fault] = ()) -> Iterator[HubServer]:
    """Run a Hub for the length of the block. It has one user, `me`, who may also write to the organization `lab`."""
    hub = HubServer(faults=list(faults))
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


__all__ = ["TOKEN", "HubServer", "hub_server"]
