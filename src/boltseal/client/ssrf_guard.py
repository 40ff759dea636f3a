"""Restrict the addresses that a registry may send the client to: public addresses, and not internal networks. Pure.

A mirror sends requests for unauthenticated clients, and follows where the upstream points: to blob storage, to a token
service. Without a restriction an upstream, or an attacker who controls its answers, could make the mirror send requests
to services that only nearby machines reach: loopback, a cloud's metadata service, a database. So every address that a
name resolves to is checked when the connection is made, since the resolution can change after an earlier check. The
operator configures the upstream's own address and `allow_redirects_to`; both are exempt. A command of the client runs
for a user who may be inside such a network; there only link-local addresses are blocked.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from boltseal.client.errors import RemoteUnauthenticated, RemoteUnavailable

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_ALLOCATED: Final = ipaddress.ip_network("2000::/3")
"""The allocated part of IPv6; networks translate or route other addresses as they like."""


class AddressBlocked(RemoteUnavailable):
    """A registry sent the client to an address that is not public. Nothing was sent there."""


class LoginNotSent(RemoteUnauthenticated):
    """A registry asks the client to send its login to another organisation."""


@dataclass(frozen=True, slots=True)
class SsrfGuard:
    """`home`: host and port of the registry itself. `allowed`: host names, in lower case, that may have any address."""

    home: tuple[str, int]
    allowed: frozenset[str] = frozenset()

    def check(self, host: str, port: int, addresses: Iterable[str]) -> None:
        """Check the addresses of a host before a connection is made. Raises: AddressBlocked."""
        name = host.strip("[]").lower()
        if (name, port) == self.home or name in self.allowed:
            return
        for address in addresses:
            if not is_public(address):
                raise AddressBlocked(
                    f"the registry points to {host} at {address}, which is not a public address: blocked; if that is "
                    "intended, add the host to allow_redirects_to"
                )

    def check_login(self, host: str) -> None:
        """Check that a login goes only to the registry's own host or its domain. Raises: LoginNotSent.

        `registry-1.docker.io` may name `auth.docker.io`; an attacker who took over a registry can't name any other
        host.
        """
        home, name = self.home[0].lower(), host.strip("[]").lower()
        domain = home.partition(".")[2]
        own = "." in domain and not is_address(home) and (name == domain or name.endswith(f".{domain}"))
        if name != home and not own and name not in self.allowed and not name.endswith(f".{home}"):
            raise LoginNotSent(
                f"{home} asks for the login at {host}, which is outside of its domain: not sent; if that is intended, "
                "add the host to allow_redirects_to"
            )

    def check_literal(self, host: str, port: int) -> None:
        """Check a host that is an IP address or localhost; other names are checked when they are resolved. Raises:
        AddressBlocked.
        """
        name = host.strip("[]")
        if not is_address(name):
            if name.lower() != "localhost" and not name.lower().endswith(".localhost"):
                return
            name = "127.0.0.1"
        self.check(host, port, [name])


class LinkLocalGuard:
    """Blocks link-local addresses; used where no `SsrfGuard` is configured.

    A user may ask any registry, in internal networks too, and it may store its blobs anywhere there. But no registry
    has a link-local address. The metadata services of clouds have one, and hand out the machine's own rights.
    """

    def check(self, host: str, port: int, addresses: Iterable[str]) -> None:
        """Check the addresses of a host before a connection is made. Raises: AddressBlocked: one is link-local."""
        for address in addresses:
            if is_link_local(address):
                raise AddressBlocked(
                    f"{host}:{port} is at {address}, a link-local address, where metadata services listen and no registry does: "
                    "blocked"
                )


def is_link_local(address: str) -> bool:
    """Return whether an IP address is link-local. An IPv4-mapped IPv6 address counts as its IPv4 address."""
    found = ipaddress.ip_address(address.partition("%")[0])
    inside = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (inside or found).is_link_local


def is_address(host: str) -> bool:
    """Return whether a host, without brackets, is an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_public(address: str) -> bool:
    """Return whether an IP address is public. An IPv4 address embedded in an IPv6 address counts as itself."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inside = found.ipv4_mapped or found.sixtofour
        if found in _NAT64:
            inside = ipaddress.IPv4Address(int(found) & 0xFFFF_FFFF)
        if inside is not None:
            return is_public(str(inside))
        if found not in _ALLOCATED:
            return False
    return found.is_global and not found.is_multicast
