"""A Docker daemon's API, as far as several rooms need it: where it listens, and how it says what went wrong."""

from __future__ import annotations

from typing import Any, Final

import httpx2
import msgspec

from boltseal.errors import Invalid, quote

_TIMEOUT: Final = httpx2.Timeout(30.0, read=600.0, write=600.0)


class EngineAddressInvalid(Invalid):
    """A DOCKER_HOST that is no address of a daemon."""


class _Line(msgspec.Struct):
    error: str = ""
    message: str = ""


def engine_client(docker_host: str) -> httpx2.AsyncClient:
    """Requests to the daemon at `unix:///PATH` or `tcp://HOST:PORT`. EngineAddressInvalid."""
    scheme, _, where = docker_host.partition("://")
    options: dict[str, Any]
    if scheme == "unix":
        options = {"transport": httpx2.AsyncHTTPTransport(uds=where), "base_url": "http://docker"}
    elif scheme in ("tcp", "http"):
        options = {"base_url": f"http://{where}"}
    else:
        raise EngineAddressInvalid(f"DOCKER_HOST is {quote(docker_host)}; expected unix:///PATH or tcp://HOST:PORT")
    return httpx2.AsyncClient(timeout=_TIMEOUT, trust_env=False, **options)


def engine_said(raw: bytes) -> str:
    """What a line or a body of the daemon says went wrong; "" where it says nothing."""
    try:
        said = msgspec.json.decode(raw, type=_Line)
    except msgspec.MsgspecError:
        return ""
    return said.message or said.error
