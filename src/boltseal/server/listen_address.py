"""The address on which a server listens, parsed."""

from __future__ import annotations

import ipaddress
from typing import Final, NamedTuple

_EXPECTED: Final = (
    "an IP address and a port from 1 to 65535, such as 127.0.0.1:5000, or 0.0.0.0:5000 for every interface"
)


class ListenAddress(NamedTuple):
    """Where the server listens: an IP address without brackets, and a port."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """True if only this machine can reach the address."""
        return ipaddress.ip_address(self.host).is_loopback

    @property
    def any_interface(self) -> bool:
        """True for 0.0.0.0 and [::], which are all addresses of this machine."""
        return ipaddress.ip_address(self.host).is_unspecified

    @classmethod
    def parse(cls, text: str) -> ListenAddress:
        """Parse `host:port`; `localhost` is 127.0.0.1. Raises: ValueError: the message is what was expected."""
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            colon = ""
        if not colon or not port.isascii() or not port.isdecimal() or not 1 <= int(port) <= 65_535:
            raise ValueError(_EXPECTED)
        try:
            ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
        except ValueError:
            raise ValueError(_EXPECTED) from None
        return cls("127.0.0.1" if host == "localhost" else host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
