"""A real HTTP server on this machine that speaks the chat route of OpenAI's API, and fails where a test says so."""

import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Messages = list[dict[str, str]]


@dataclass
class Answer:
    """One response of the server.

    Attributes:
        content: text of the reply.
        status: HTTP status; anything but 200 sends `error`.
        error: the error object of the body.
        headers: further headers.
        body: the whole body, instead of a chat reply.
        cut: send half of the body and close the connection.
        silent: send nothing until the client has gone.
        byte_seconds: wait so long before each byte of the body.
        usage: tokens that the reply says it took; `None` leaves them out.
    """

    content: str | None = "{'pred': 'yes', 'score': 4}"
    status: int = 200
    error: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    cut: bool = False
    silent: bool = False
    byte_seconds: float = 0.0
    usage: int | None = 10

    def to_bytes(self) -> bytes:
        if self.body is not None:
            return self.body
        if self.status != 200:
            return json.dumps({"error": self.error or {"message": "it failed"}}).encode()
        reply: dict[str, Any] = {"choices": [{"message": {"role": "assistant", "content": self.content}}]}
        if self.usage is not None:
            reply["usage"] = {"total_tokens": self.usage}
        return json.dumps(reply).encode()


@dataclass
class JudgeServer:
    """The server, and what it was asked.

    Attributes:
        url: address up to `/v1`.
        bodies: the requests, in the order of their arrival.
        headers: the headers of each.
        script: responses to the first requests, whatever they ask.
        reply: the response to all others, from their messages.
    """

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    script: list[Answer] = field(default_factory=list)
    reply: Callable[[Messages], Answer] = lambda _: Answer()
    lock: threading.Lock = field(default_factory=threading.Lock)
    closed: threading.Event = field(default_factory=threading.Event)

    @property
    def calls(self) -> int:
        return len(self.bodies)

    def answer(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> Answer:
        with self.lock:
            self.bodies.append(body)
            self.headers.append(headers)
            scripted = self.script.pop(0) if self.script else None
        if path != "/v1/chat/completions":
            return Answer(status=404, error={"message": f"no route {path}"})
        return scripted or self.reply(body["messages"])


@contextmanager
def judge_server(
    script: Sequence[Answer] = (), reply: Callable[[Messages], Answer] = lambda _: Answer()
) -> Iterator[JudgeServer]:
    """Run a server for the length of the block."""
    state = JudgeServer(script=list(script), reply=reply)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            answer = state.answer(self.path, dict(self.headers), json.loads(self.rfile.read(length)))
            if answer.silent:
                state.closed.wait(10)
                self.close_connection = True
                return
            body = answer.to_bytes()
            self.send_response(answer.status)
            for name, value in {"Content-Type": "application/json", **answer.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if answer.byte_seconds:
                for byte in body:
                    if state.closed.wait(answer.byte_seconds):
                        break
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                return
            self.wfile.write(body[: len(body) // 2] if answer.cut else body)
            if answer.cut:
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            pass  # a client that has gone

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield state
    finally:
        state.closed.set()
        server.shutdown()
        server.server_close()
        thread.join()
