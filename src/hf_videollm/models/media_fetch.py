"""Downloads one media file from a host that the user allowed, and from no other host.

Four checks keep a URL from reaching private networks: the host must be on the user's list; every IP address of the host
must be public (unless the list contains that IP address itself); the connection uses the checked IP address, without a
second DNS look-up; and each redirect goes through the same checks. Size and time are limited while the file is read.
Every failure is a `MediaError`, whatever the server sends.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from .errors import Deadline, MediaError, MediaLimits, MediaTooLarge, UnsafeURL
from .media_addresses import ascii_host, host_names, is_literal, is_public

MAX_REDIRECTS = 5
CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
_CHUNK = 1 << 16
_MOST_DIGITS = 30  # of a Content-Length; Python refuses to parse very long numbers
# Responses with these encodings are refused: when unpacked, they could exceed every limit.
_COMPRESSIONS = {"gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress"}


def download(
    url: str, target: BinaryIO, name: str, allowed_hosts: Sequence[str], limits: MediaLimits, deadline: Deadline
) -> None:
    """Downloads the file at `url` into `target`.

    Args:
        url: http or https address.
        target: binary file to write to.
        name: name of the file in error messages.
        allowed_hosts: hosts that the user allowed.
        limits: only `max_bytes` is used.
        deadline: time at which the download must be finished.

    Raises:
        UnsafeURL: the scheme, the host or its IP address is not allowed, in `url` or in a redirect.
        MediaTooLarge: the file has more than `limits.max_bytes` bytes, or the deadline has passed.
        MediaError: the server cannot be reached, or does not send the file.
    """
    for _ in range(MAX_REDIRECTS + 1):
        deadline.check(name)
        with _connection(url, name, allowed_hosts, deadline) as connection:
            redirect = _request(connection, url, target, name, limits, deadline)
        if redirect is None:
            return
        url = _joined(url, redirect, name)
    raise MediaError(f"{name}: more than {MAX_REDIRECTS} redirects; pass the final address.")


@contextlib.contextmanager
def _connection(
    url: str, name: str, allowed_hosts: Sequence[str], deadline: Deadline
) -> Iterator[http.client.HTTPConnection]:
    """An open connection that is shut down at the deadline; its errors are raised as `MediaError`."""
    connection = _connect(url, name, allowed_hosts, deadline)
    try:
        with _cut_at(deadline, connection.sock):
            yield connection
    except MediaError:
        raise
    except (OSError, http.client.HTTPException, ValueError):  # ValueError: headers that http.client cannot parse
        deadline.check(name)
        raise MediaError(f"{name}: the download failed; check the address and the connection.") from None
    finally:
        connection.close()


@contextlib.contextmanager
def _cut_at(deadline: Deadline, sock: Any) -> Iterator[None]:
    """Shuts the socket down at the deadline, so that a server cannot exceed it by sending one byte at a time."""
    watchdog = threading.Timer(min(deadline.remaining(), threading.TIMEOUT_MAX), _cut, args=(sock,))
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()


def _cut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        # Calls the method of the plain socket class: that of a TLS socket is not safe while another thread reads.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _joined(url: str, redirect: str, name: str) -> str:
    """The absolute address of a redirect. http.client decodes headers as Latin-1, but servers send UTF-8."""
    with contextlib.suppress(UnicodeError):
        redirect = redirect.encode("latin-1").decode("utf-8")
    try:
        return urllib.parse.urljoin(url, redirect)
    except ValueError:
        raise UnsafeURL(f"{name}: the server redirects to an invalid address; pass the final address.") from None


def _request(
    connection: http.client.HTTPConnection,
    url: str,
    target: BinaryIO,
    name: str,
    limits: MediaLimits,
    deadline: Deadline,
) -> str | None:
    """Sends the request. Returns the address of a redirect; or writes the body into `target` and returns None."""
    parts = urllib.parse.urlsplit(url)
    path = urllib.parse.quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    if parts.query:
        path += "?" + urllib.parse.quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
    # Asks for the file uncompressed: a compressed body could exceed the byte limit when it is unpacked in memory.
    headers = {"User-Agent": "hf-videollm", "Accept-Encoding": "identity"}
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    if response.status in (301, 302, 303, 307, 308):
        location = response.getheader("Location")
        if not location:
            raise MediaError(f"{name}: the server redirects without naming an address; pass the final address.")
        return location
    if response.status != 200:
        raise MediaError(f"{name}: the server answered {response.status}; check the address.")
    if _COMPRESSIONS & {value.lower() for value in _header_values(response, "Content-Encoding")}:
        raise MediaError(f"{name}: the server sends the file compressed; use an address that sends it uncompressed.")
    declared = _declared_length(response, name)
    if declared is not None:
        limits.check_bytes(name, declared)
    received = 0
    while chunk := response.read1(_CHUNK):
        received += len(chunk)
        if received > limits.max_bytes:
            raise MediaTooLarge(
                f"{name}: the download is over the limit of {limits.max_bytes:,} bytes; "
                "use a smaller file or raise MediaLimits(max_bytes=...)."
            )
        deadline.check(name)
        target.write(chunk)
    deadline.check(name)  # if the deadline shut the socket down, `read1` returns b"" as at the end of the body
    if declared is not None and received < declared:
        raise MediaError(f"{name}: the server stopped after {received:,} of {declared:,} bytes; try again.")
    return None


def _declared_length(response: http.client.HTTPResponse, name: str) -> int | None:
    """The Content-Length that the server sent; None without one, or if the body is sent in chunks.

    Raises:
        MediaError: the header is not a number, or has several different values.
    """
    values = set(_header_values(response, "Content-Length"))
    if not values or response.chunked:
        return None
    text = values.pop()
    if values or not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise MediaError(f"{name}: the server sent an invalid Content-Length; try again.")
    return int(text)


def _header_values(response: http.client.HTTPResponse, header: str) -> list[str]:
    return [value.strip() for line in response.headers.get_all(header, ()) for value in line.split(",")]


def _connect(url: str, name: str, allowed_hosts: Sequence[str], deadline: Deadline) -> http.client.HTTPConnection:
    """A connection with an open socket, to an IP address that passed the checks."""
    scheme, host, port = _parse(url, name)
    addresses = _checked_addresses(host, port, name, allowed_hosts, deadline)
    failure: Exception | None = None
    for address in addresses:
        timeout = min(CONNECT_SECONDS, deadline.remaining())
        if timeout <= 0:
            break
        try:
            sock = socket.create_connection((address, port), timeout=timeout)
        except OSError as error:
            failure = error
            continue
        connection: http.client.HTTPConnection
        try:
            if scheme == "https":
                sock = ssl.create_default_context().wrap_socket(
                    sock, server_hostname=host, do_handshake_on_connect=False
                )
                with _cut_at(deadline, sock):
                    sock.do_handshake()
                connection = http.client.HTTPSConnection(host, port)
            else:
                connection = http.client.HTTPConnection(host, port)
        except (OSError, ValueError, http.client.HTTPException) as error:
            sock.close()
            failure = error
            continue
        sock.settimeout(max(0.1, min(READ_SECONDS, deadline.remaining())))
        connection.sock = sock
        connection.auto_open = 0  # http.client must not reconnect: it would look the host up again, unchecked
        return connection
    deadline.check(name)
    kind = "TLS certificate" if isinstance(failure, ssl.SSLError) else "connection"
    raise MediaError(f"{name}: no {kind} could be established with {host}; check the address and the network.")


def _parse(url: str, name: str) -> tuple[str, str, int]:
    """(scheme, host, port) of an address. Refuses characters that URL parsers interpret differently."""
    if any(c <= " " or c in "\\\x7f" or "\ud800" <= c <= "\udfff" for c in url):
        raise UnsafeURL(f"{name}: the address holds spaces, backslashes or control characters; encode them.")
    try:
        parts = urllib.parse.urlsplit(url)
        hostname, port = parts.hostname, parts.port
    except ValueError:
        raise UnsafeURL(f"{name}: not a valid address; write https://host/path.") from None
    if parts.scheme not in ("http", "https"):
        raise UnsafeURL(f"{name}: the scheme is {parts.scheme or 'missing'}; only http and https are supported.")
    host = ascii_host(hostname or "")
    if not host or port == 0 or "@" in parts.netloc:
        raise UnsafeURL(f"{name}: the address needs a host and may not hold a user name; write https://host/path.")
    return parts.scheme, host, port or (443 if parts.scheme == "https" else 80)


def _checked_addresses(host: str, port: int, name: str, allowed_hosts: Sequence[str], deadline: Deadline) -> list[str]:
    """The IP addresses of an allowed host. Each is public, or the user allowed that IP address itself."""
    if host not in host_names(allowed_hosts):
        raise UnsafeURL(
            f"{name}: the host {host} is not allowed; pass allowed_hosts=({host!r},) if you trust it, "
            "or download the file first."
        )
    addresses = _look_up(host, port, deadline)
    deadline.check(name)
    if not addresses:
        raise MediaError(f"{name}: the host {host} cannot be found; check the address.")
    # An attacker can let the DNS name of an allowed host point into a private network. So a private address is used
    # only if the URL contains the IP address itself (or "localhost").
    private_is_meant = host == "localhost" or is_literal(host)
    for address in addresses:
        if not is_public(address) and not private_is_meant:
            raise UnsafeURL(
                f"{name}: the host {host} points to an address that is not public; "
                "if that is meant, put the address itself in the URL and in allowed_hosts."
            )
    return addresses


def _look_up(host: str, port: int, deadline: Deadline) -> list[str]:
    """The IP addresses of a host; an empty list if it has none, or if DNS does not answer before the deadline.

    The look-up runs in a thread, because the operating system's look-up cannot be interrupted.
    """
    addresses: list[str] = []

    def ask() -> None:
        with contextlib.suppress(OSError, ValueError):
            entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            addresses.extend(dict.fromkeys(str(entry[4][0]) for entry in entries))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(min(deadline.remaining(), threading.TIMEOUT_MAX))
    return [] if asking.is_alive() else addresses
