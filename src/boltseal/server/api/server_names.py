"""The names under which clients reach this server, by its settings: for the token service and for the Host header."""

from __future__ import annotations

from urllib.parse import urlsplit

from boltseal.server.api.token import TOKEN_PATH
from boltseal.server.settings import Settings


def realm(settings: Settings) -> str | None:
    """Return the absolute address of the token service from the configuration, or None if it does not determine one."""
    return None if settings.base_url is None else settings.base_url + TOKEN_PATH


def allowed_hosts(settings: Settings) -> frozenset[str] | None:
    """Return the host names by which a registry without users may be addressed: this machine's on loopback, else any.

    A proxy in front passes on the name that clients use, and controls access itself.
    """
    server = settings.server
    if server.behind_proxy or not server.address.loopback:
        return None
    host = f"[{server.address.host}]" if ":" in server.address.host else server.address.host
    public = urlsplit(server.public_url).hostname if server.public_url else None
    return frozenset({"localhost", "127.0.0.1", "[::1]", host, *([public.lower()] if public else [])})
