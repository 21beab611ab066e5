"""Decides whether an IP address is on the public internet, and normalises the names of hosts that a user allowed.

Python's `ipaddress` also knows which addresses are special, but its answers differ between releases of Python, and it
does not look at the IPv4 address that some IPv6 addresses contain. This file lists the blocks itself and checks the
contained IPv4 address as well.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

from .errors import UnsafeURL

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# All public IPv6 addresses are in this block. Addresses outside of it (site-local, unique local, link-local,
# multicast, IPv4-compatible, IPv4-translated, local-use NAT64, discard, segment routing, ...) are private or unused.
_PUBLIC_6 = ipaddress.ip_network("2000::/3")
# IPv6 blocks reserved for: protocols (Teredo, benchmarking, ORCHID, ...), documentation, 6to4, documentation, 6bone.
_NOT_PUBLIC_6 = ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "3ffe::/16")
# IPv4 blocks reserved for: protocols, 6to4 relays, benchmarking, carriers' internal networks, future use.
_NOT_PUBLIC_4 = ("192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15", "100.64.0.0/10", "240.0.0.0/4")
_NOT_PUBLIC = [ipaddress.ip_network(block) for block in (*_NOT_PUBLIC_6, *_NOT_PUBLIC_4)]
_MAPPED = ipaddress.ip_network("::ffff:0:0/96")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# If bits 32 to 63 of an IPv6 address have one of these values, bits 0 to 31 are an IPv4 address.
_ISATAP = (0x00005EFE, 0x02005EFE)


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet; if it contains an IPv4 address, that one must be public as well.

    Args:
        address: IPv4 or IPv6; a scope after "%" is ignored.
    """
    ip: _Address = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if ip in _MAPPED or ip in _NAT64:
            # The operating system (mapped) or a gateway (NAT64) connects to the contained IPv4 address.
            return is_public(str(inner))
        if ip not in _PUBLIC_6:
            return False
        if int(ip) >> 32 & 0xFFFFFFFF in _ISATAP and not is_public(str(inner)):
            return False
    return ip.is_global and not ip.is_multicast and not any(ip in block for block in _NOT_PUBLIC)


def is_literal(host: str) -> bool:
    """Whether a host is written as an IP address."""
    return _as_address(host) is not None


def host_names(allowed_hosts: Iterable[str] | str | None) -> set[str]:
    """The set of hosts that a user allowed, each normalised by `ascii_host`. A string counts as one host.

    Raises:
        UnsafeURL: `allowed_hosts` is not a list of strings, or an entry is not the name of a host.
    """
    if allowed_hosts is not None and not isinstance(allowed_hosts, Iterable):
        raise UnsafeURL(f"allowed_hosts={allowed_hosts!r}: give names of hosts, as ['example.org'].")
    entries: Iterable[Any] = (allowed_hosts,) if isinstance(allowed_hosts, str) else allowed_hosts or ()
    hosts = set()
    for entry in entries:
        host = ascii_host(entry.strip("[]")) if isinstance(entry, str) else None
        if not host or not set(host).isdisjoint("/@?#") or (":" in host and not is_literal(host)):
            raise UnsafeURL(f"allowed_hosts holds {entry!r}: give names of hosts alone, as 'example.org'.")
        hosts.add(host)
    return hosts


def ascii_host(host: str) -> str | None:
    """A host in lower-case ASCII, and an IP address in its short form; None if the text is not a host."""
    host = host.rstrip(".")
    if (address := _as_address(host)) is not None:
        return str(address)
    if host.isascii():
        return host.lower() or None
    try:
        return host.encode("idna").decode().lower()
    except UnicodeError:
        return None


def _as_address(host: str) -> _Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
