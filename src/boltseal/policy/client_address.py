"""Group client addresses: requests without a login are counted and slowed per sender, not per address. Pure.

An IPv4 address is one sender, also in its IPv6 form (::ffff:192.0.2.1). A whole IPv6 /64 is one sender: it is the smallest
block that a site gets, and counting single addresses would give each sender 2^64 tries.

Behind a proxy every connection is the proxy's. It appends the address of its client to `X-Forwarded-For`; what stands before
that was written by the client, who may write anything there.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final, TypeAlias

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_ONE_SENDERS_BITS: Final = 64


def whose(address: str) -> str:
    """Return the IPv4 address or the IPv6 /64 network of a client; any other text is returned unchanged."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(found), _ONE_SENDERS_BITS), strict=False))


def forwarded_client(address: str, forwarded_for: str, trusted: Sequence[Network]) -> str:
    """Return the client of a connection from `address`: the last address in `X-Forwarded-For` that is no trusted proxy.

    The header counts only if the connection is from a trusted proxy. It is read from its end, as far as each address is
    one and was appended by a trusted proxy.
    """
    for written in reversed(forwarded_for.split(",")):
        before = _parse(written.strip())
        if before is None or not _is_in(_parse(address), trusted):
            break
        address = str(before)
    return address


def parse_network(text: str) -> Network:
    """Return the network of an address or network such as `10.0.0.0/8`. Raises: ValueError."""
    return ipaddress.ip_network(text)


def _parse(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return an address, an IPv4 one also if it is written as IPv6, or None."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, ipaddress.IPv6Address) else found


def _is_in(address: ipaddress.IPv4Address | ipaddress.IPv6Address | None, networks: Sequence[Network]) -> bool:
    return address is not None and any(address in network for network in networks)
