"""The host that serves a registry's API, and whether a host is loopback. Pure."""

from __future__ import annotations

import ipaddress
from typing import Final

from boltseal.oci.reference import HUB

HUB_API_HOST: Final = "registry-1.docker.io"
HUB_NAMES: Final = frozenset({HUB, "index.docker.io", HUB_API_HOST})
"""Hosts that all mean Docker Hub in credential files and settings."""


def api_host(registry: str) -> str:
    """Return the host (and port) of a registry's API: registry-1.docker.io for `docker.io`, else the registry's own
    name.
    """
    return HUB_API_HOST if registry == HUB else registry


def host_name(host: str) -> str:
    """Return a host without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0] if host.count(":") == 1 else host


def is_loopback(host: str) -> bool:
    """Return whether a host, with or without port, is loopback by its name alone. Nothing is resolved."""
    name = host_name(host)
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
