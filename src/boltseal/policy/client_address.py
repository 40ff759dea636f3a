"""Which addresses are one sender's, where somebody without a login is counted or slowed by where they are. Pure.

An IPv4 address is one sender, as it is and as IPv6 writes it (::ffff:192.0.2.1). Of IPv6 a whole /64 is: it is the
least that anybody is given, and whoever counted its addresses one by one would give each of them 2^64 tries.
"""

from __future__ import annotations

import ipaddress
from typing import Final

_ONE_SENDERS_BITS: Final = 64


def whose(address: str) -> str:
    """The address, or the network that it is in; a text that is no address stays what it is."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(found), _ONE_SENDERS_BITS), strict=False))
