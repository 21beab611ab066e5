"""Downloading one media file from an address that the user allowed, and from nowhere else.

The guard has four parts: the host must be on the list; every address its name resolves to must be public (unless
the list names that very address); the connection goes to the address that was checked, not to a second look-up;
and each redirect starts again from the first part. Size and time are bounded while reading.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Sequence
from typing import BinaryIO

from .media_errors import Deadline, MediaError, MediaLimits, MediaTooLarge, UnsafeURL

MAX_REDIRECTS = 5
CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
_CHUNK = 1 << 16


def download(
    url: str, target: BinaryIO, name: str, allowed_hosts: Sequence[str], limits: MediaLimits, deadline: Deadline
) -> None:
    """Writes what is at `url` to `target`.

    Raises:
        UnsafeURL: scheme, host or address is not allowed, here or after a redirect.
        MediaTooLarge: more bytes than `limits.max_bytes`, or not done before the deadline.
        MediaError: the server cannot be reached or does not answer with the file.
    """
    for _ in range(MAX_REDIRECTS + 1):
        deadline.check(name)
        connection = _connect(url, name, allowed_hosts, deadline)
        watchdog = threading.Timer(deadline.remaining(), _cut, args=(connection.sock,))
        watchdog.daemon = True
        watchdog.start()
        try:
            redirect = _request(connection, url, target, name, limits, deadline)
        except (OSError, http.client.HTTPException):
            deadline.check(name)
            raise MediaError(f"{name}: the download failed; check the address and the connection.") from None
        finally:
            watchdog.cancel()
            connection.close()
        if redirect is None:
            return
        url = urllib.parse.urljoin(url, redirect)
    raise MediaError(f"{name}: more than {MAX_REDIRECTS} redirects; pass the final address.")


def _cut(sock: socket.socket) -> None:
    """Ends a blocking read, so that a server that sends one byte at a time cannot outlive the deadline."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _request(
    connection: http.client.HTTPConnection,
    url: str,
    target: BinaryIO,
    name: str,
    limits: MediaLimits,
    deadline: Deadline,
) -> str | None:
    """Sends the request; returns the next address when redirected, else None with the body written."""
    parts = urllib.parse.urlsplit(url)
    path = urllib.parse.quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    if parts.query:
        path += "?" + urllib.parse.quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
    # The range of encodings is closed on purpose: a compressed body could grow past the byte limit in memory.
    headers = {"User-Agent": "hf-videollm", "Accept-Encoding": "identity"}
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    if response.status in (301, 302, 303, 307, 308):
        location = response.getheader("Location")
        if not location:
            raise MediaError(f"{name}: the server redirects to nowhere; pass the final address.")
        return location
    if response.status != 200:
        raise MediaError(f"{name}: the server answered {response.status}; check the address.")
    declared = response.getheader("Content-Length", "")
    if declared.isdigit():
        limits.check_bytes(name, int(declared))
    received = 0
    while chunk := response.read1(_CHUNK):
        received += len(chunk)
        if received > limits.max_bytes:
            raise MediaTooLarge(
                f"{name}: the download passed the limit of {limits.max_bytes:,} bytes; "
                "use a smaller file or raise MediaLimits(max_bytes=...)."
            )
        deadline.check(name)
        target.write(chunk)
    deadline.check(name)  # the watchdog's cut looks like the end of the body
    if declared.isdigit() and received < int(declared):
        raise MediaError(f"{name}: the server stopped after {received:,} of {int(declared):,} bytes; try again.")
    return None


def _connect(url: str, name: str, allowed_hosts: Sequence[str], deadline: Deadline) -> http.client.HTTPConnection:
    """A connection whose socket is already open, to an address that passed the checks."""
    scheme, host, port = _parse(url, name)
    addresses = _checked_addresses(host, port, name, allowed_hosts)
    failure: OSError | None = None
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
                sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
                connection = http.client.HTTPSConnection(host, port)
            else:
                connection = http.client.HTTPConnection(host, port)
        except OSError as error:
            sock.close()
            failure = error
            continue
        sock.settimeout(max(0.1, min(READ_SECONDS, deadline.remaining())))
        connection.sock = sock
        connection.auto_open = 0  # never a second, unchecked look-up
        return connection
    deadline.check(name)
    kind = "TLS certificate" if isinstance(failure, ssl.SSLError) else "connection"
    raise MediaError(f"{name}: no {kind} could be agreed with {host}; check the address and the network.")


def _parse(url: str, name: str) -> tuple[str, str, int]:
    """(scheme, host, port) of an address that every parser reads the same way."""
    if any(c <= " " or c in "\\\x7f" for c in url):
        raise UnsafeURL(f"{name}: the address holds spaces, backslashes or control characters; encode them.")
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise UnsafeURL(f"{name}: not a valid address; write https://host/path.") from None
    if parts.scheme not in ("http", "https"):
        raise UnsafeURL(f"{name}: leads to {parts.scheme or 'no'}://; only http and https are fetched.")
    if not host or "@" in parts.netloc:
        raise UnsafeURL(f"{name}: the address needs a host and may not hold a user name; write https://host/path.")
    return parts.scheme, host.lower().rstrip("."), port or (443 if parts.scheme == "https" else 80)


def _checked_addresses(host: str, port: int, name: str, allowed_hosts: Sequence[str]) -> list[str]:
    """The IP addresses of an allowed host, all of them public or allowed by name."""
    allowed = {entry.lower().rstrip(".").strip("[]") for entry in allowed_hosts}
    if host not in allowed:
        raise UnsafeURL(
            f"{name}: the host {host} is not allowed; pass allowed_hosts=({host!r},) if you trust it, "
            "or download the file first."
        )
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise MediaError(f"{name}: the host {host} cannot be found; check the address.") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    # A name that points inside is the classic way around an allow-list; the user must write such an address out.
    inside_is_meant = host == "localhost" or _is_literal(host)
    for address in addresses:
        if not _is_public(address) and not inside_is_meant:
            raise UnsafeURL(
                f"{name}: the host {host} points to an address that is not public; "
                "if that is meant, put the address itself in the URL and in allowed_hosts."
            )
    return addresses


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_public(address: str) -> bool:
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and ip in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            ip = inner
    return ip.is_global and not ip.is_multicast
