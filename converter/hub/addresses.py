"""The addresses of a host, and which addresses belong to this machine or to a private network."""

from __future__ import annotations

import ipaddress
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Final

_LAST: Final = (12, 13, 14, 15)
# IPv6 networks whose addresses contain an IPv4 address: the network, the bytes where it may be, and a mask (-1: inverted).
_CARRIERS: Final[tuple[tuple[IPv6Network, tuple[tuple[int, ...], ...], int], ...]] = (
    (IPv6Network("::ffff:0:0/96"), (_LAST,), 0),  # mapped, RFC 4291
    (IPv6Network("::/96"), (_LAST,), 0),  # compatible, RFC 4291; `::` and `::1` are like 0.0.0.0 and 0.0.0.1
    (IPv6Network("::ffff:0:0:0/96"), (_LAST,), 0),  # translated, RFC 2765
    (IPv6Network("64:ff9b::/96"), (_LAST,), 0),  # NAT64, RFC 6052
    # NAT64 with a network's own prefix, RFC 8215: the prefix has any length that RFC 6052 allows
    (IPv6Network("64:ff9b:1::/48"), ((6, 7, 9, 10), (7, 9, 10, 11), (9, 10, 11, 12), _LAST), 0),
    (IPv6Network("2002::/16"), ((2, 3, 4, 5),), 0),  # 6to4, RFC 3056
    (IPv6Network("2001::/32"), (_LAST,), -1),  # Teredo, RFC 4380: the client
)
_NOWHERE: Final = IPv4Network("0.0.0.0/8")


class UnknownHostError(Exception):
    """A host has no address, or no answer about its address came in time."""


def addresses(host: str, seconds: float) -> tuple[str, ...]:
    """The addresses of a host, each once, in the system's order. Raises UnknownHostError."""
    answers: SimpleQueue[tuple[str, ...] | OSError | UnicodeError] = SimpleQueue()

    def ask() -> None:
        try:
            answers.put(tuple(dict.fromkeys(str(entry[4][0]) for entry in socket.getaddrinfo(host, None))))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    # The system's resolver has no timeout, so a thread waits for it.
    Thread(target=ask, daemon=True).start()
    try:
        found = answers.get(timeout=seconds)
    except Empty:
        raise UnknownHostError("its address was asked for, and no answer came") from None
    if not isinstance(found, tuple):
        raise UnknownHostError((found.strerror or "") if isinstance(found, OSError) else "no name of a host")
    return found


def is_private(text: str) -> bool:
    """Whether an address, with or without a zone, belongs to this machine or a private network, or leads to such an address."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, IPv4Address):
        return _is_inside(address)
    for network, places, inverted in _CARRIERS:
        if address in network:
            found = [IPv4Address(bytes((address.packed[place] ^ inverted) & 0xFF for place in four)) for four in places]
            # A prefix may have several lengths, and reading at the wrong place gives an address that begins with zeros.
            return any(map(_is_inside, [one for one in found if one not in _NOWHERE] or found))
    return _is_inside(address) or address.is_site_local


def is_loopback(text: str) -> bool:
    """Whether an address belongs to this machine."""
    address = ipaddress.ip_address(text.partition("%")[0])
    return ((address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address).is_loopback


def _is_inside(address: IPv4Address | IPv6Address) -> bool:
    return not address.is_global or address.is_multicast
