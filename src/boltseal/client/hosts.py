"""Where a registry's name leads: its address, and whether plain HTTP is allowed there. Pure."""

from __future__ import annotations

import ipaddress
from typing import Final

from boltseal.oci.reference import HUB

HUB_API_HOST: Final = "registry-1.docker.io"


def api_host(registry: str) -> str:
    """The host (and port) that serves a registry's API: of `docker.io` registry-1.docker.io, else the name itself."""
    return HUB_API_HOST if registry == HUB else registry


def host_name(host: str) -> str:
    """A host without its port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0] if host.count(":") == 1 else host


def is_loopback(host: str) -> bool:
    """Whether a host, with or without port, is this machine by its name alone; nothing is looked up."""
    name = host_name(host)
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
