"""Which network addresses belong to the public internet, and which hosts a user allowed.

`ipaddress` of the standard library knows the registry of special addresses, but changes with every release of Python
and looks at an IPv6 address as a whole; here the IPv4 address inside is looked at too.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

from .errors import UnsafeURL

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# All that is given out to the public lies in here; what lies outside (site-local, unique local, link-local, multicast,
# IPv4-compatible, IPv4-translated, local-use NAT64, discard, segment routing, ...) leads inside or nowhere.
_GIVEN_OUT = ipaddress.ip_network("2000::/3")
# Protocols (Teredo, benchmarking, ORCHID, ...), documentation, 6to4, documentation again, 6bone.
_NOT_PUBLIC_6 = ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "3ffe::/16")
# Protocols, 6to4 relays, benchmarking, carriers' own, reserved.
_NOT_PUBLIC_4 = ("192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15", "100.64.0.0/10", "240.0.0.0/4")
_NOT_PUBLIC = [ipaddress.ip_network(block) for block in (*_NOT_PUBLIC_6, *_NOT_PUBLIC_4)]
_MAPPED = ipaddress.ip_network("::ffff:0:0/96")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_ISATAP = (0x00005EFE, 0x02005EFE)  # the upper half of an interface identifier whose lower half is an IPv4 address


def is_public(address: str) -> bool:
    """Whether an IP address, with or without a scope behind %, is globally routable, its IPv4 address included."""
    ip: _Address = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if ip in _MAPPED or ip in _NAT64:
            # The operating system, or the gateway of a network without IPv4, goes to the address inside.
            return is_public(str(inner))
        if ip not in _GIVEN_OUT:
            return False
        if int(ip) >> 32 & 0xFFFFFFFF in _ISATAP and not is_public(str(inner)):
            return False
    return ip.is_global and not ip.is_multicast and not any(ip in block for block in _NOT_PUBLIC)


def is_literal(host: str) -> bool:
    """Whether a host is written as an IP address."""
    return _as_address(host) is not None


def host_names(allowed_hosts: Iterable[str] | str | None) -> set[str]:
    """The hosts that a user allowed, each as `ascii_host` writes it. A string is one host.

    Raises:
        UnsafeURL: these are no names, or an entry is no name of a host.
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
    """A host in lower case and ASCII, an IP address in its short form; None for what is no host."""
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
