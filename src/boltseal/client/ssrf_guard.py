"""Where a registry may send us: anywhere in the world, and not into our own networks. Pure.

A mirror asks on behalf of strangers, and follows where upstream points: to a store of blobs, to a token service. Without
a bound an upstream, or whoever can make it answer so, could have us ask services that only machines near us reach: this
machine itself, a cloud's metadata service, a database's port. So every address that a name resolves to is looked at, when
the connection is made and not before (what a name resolves to can change in between). The upstream's own address is the
operator's word, and so is `allow_redirects_to`. A verb asks on behalf of who runs it, who may be inside such a network:
there only what no registry can be is refused.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from boltseal.client.errors import RemoteUnauthenticated, RemoteUnavailable

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_GIVEN_OUT: Final = ipaddress.ip_network("2000::/3")
"""All that is given out of IPv6; outside of it lies what some network translates, or routes to, as it likes."""


class AddressBlocked(RemoteUnavailable):
    """An address that a registry sent us to, and that is none of the world's. Nothing was sent there."""


class LoginNotSent(RemoteUnauthenticated):
    """A registry wants our login to go to somebody else."""


@dataclass(frozen=True, slots=True)
class SsrfGuard:
    """`home`: the registry's own host and port. `allowed`: host names, in lower case, that may be anywhere."""

    home: tuple[str, int]
    allowed: frozenset[str] = frozenset()

    def check(self, host: str, port: int, addresses: Iterable[str]) -> None:
        """AddressBlocked when a connection to any of the addresses of this host is not ours to make."""
        name = host.strip("[]").lower()
        if (name, port) == self.home or name in self.allowed:
            return
        for address in addresses:
            if not is_public(address):
                raise AddressBlocked(
                    f"it sends us to {host}, which is {address}, an address inside some network and not in the world: not "
                    "asked; if that is meant, name the host in allow_redirects_to"
                )

    def check_login(self, host: str) -> None:
        """LoginNotSent where our login would go to a host that is not the registry's own, nor of its domain.

        `registry-1.docker.io` may send it to `auth.docker.io`; whoever has taken a registry over can't send it anywhere.
        """
        home, name = self.home[0].lower(), host.strip("[]").lower()
        domain = home.partition(".")[2]
        own = "." in domain and not is_address(home) and (name == domain or name.endswith(f".{domain}"))
        if name != home and not own and name not in self.allowed and not name.endswith(f".{home}"):
            raise LoginNotSent(
                f"{home} wants our login for its token service at {host}, which is not of its domain: not sent; if that is "
                "meant, name the host in allow_redirects_to"
            )

    def check_literal(self, host: str, port: int) -> None:
        """The same of a host that is an address itself. AddressBlocked."""
        name = host.strip("[]")
        if not is_address(name):
            if name.lower() != "localhost" and not name.lower().endswith(".localhost"):
                return
            name = "127.0.0.1"
        self.check(host, port, [name])


class NoNeighbour:
    """What holds where nobody set a `SsrfGuard`: whoever runs a verb may ask any registry, in networks of their own too, and
    those may keep their blobs anywhere in there; but no registry has an address that is good on one wire only (link-local).
    The metadata services of clouds do, and hand out the machine's own rights to whoever is sent there.
    """

    def check(self, host: str, port: int, addresses: Iterable[str]) -> None:
        """AddressBlocked when any address of this host is link-local."""
        for address in addresses:
            if is_link_local(address):
                raise AddressBlocked(
                    f"{host}:{port} is at {address}, a link-local address, where metadata services listen and no registry "
                    "does: not asked"
                )


def is_link_local(address: str) -> bool:
    """Whether an IP address is one of the wire's own; an IPv4 address inside an IPv6 one is looked at as what it is."""
    found = ipaddress.ip_address(address.partition("%")[0])
    inside = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (inside or found).is_link_local


def is_address(host: str) -> bool:
    """Whether a host, without brackets, is an IP address and not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_public(address: str) -> bool:
    """Whether an IP address is one of the world's; an IPv4 address inside an IPv6 one is looked at as what it is."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inside = found.ipv4_mapped or found.sixtofour
        if found in _NAT64:
            inside = ipaddress.IPv4Address(int(found) & 0xFFFF_FFFF)
        if inside is not None:
            return is_public(str(inside))
        if found not in _GIVEN_OUT:
            return False
    return found.is_global and not found.is_multicast
