"""Group client addresses: requests without a login are counted and slowed per sender, not per address. Pure.

An IPv4 address is one sender, also in its IPv6 form (::ffff:192.0.2.1). A whole IPv6 /64 is one sender: it is the smallest
block that a site gets, and counting single addresses would give each sender 2^64 tries.
"""

from __future__ import annotations

import ipaddress
from typing import Final

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
