"""A line for each HTTP request, without secrets: method, URL, status, time until the answer's header.

    GET https://registry.example.com/v2/shop/app/manifests/1.4.2 404 12 ms

Headers and bodies are never shown. User names and passwords are removed from a URL, and of its query only the values of
parameters that the distribution and token specifications define are shown: the others may be tokens or signatures.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import httpx2

from boltseal.errors import quote
from boltseal.socket_backend import SocketClient

Trace = Callable[[str], None]

MAX_URL: Final = 1000
HIDDEN: Final = "***"
_PUBLIC: Final = frozenset(
    {"artifactType", "digest", "digest-algorithm", "from", "last", "mount", "n", "ns", "scope", "service", "tag"}
)


class TracedClient(SocketClient):
    """An HTTP client that reports each request to `trace` as soon as its answer's header is there, or it failed."""

    def __init__(self, *args: Any, trace: Trace, **options: Any) -> None:
        self._trace = trace
        super().__init__(*args, **options)

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send a request, as httpx2's client does."""
        began_s = time.monotonic()
        ended = "cancelled"
        try:
            response = await super().send(request, **options)
            ended = str(response.status_code)
            return response
        except httpx2.HTTPError as error:
            ended = type(error).__name__
            raise
        finally:
            took_ms = (time.monotonic() - began_s) * 1000
            self._trace(f"{request.method} {public_url(request.url)} {ended} {took_ms:.0f} ms")


def public_url(url: httpx2.URL) -> str:
    """Return a URL without secrets, on one line."""
    shown = f"{url.scheme}://{url.netloc.decode('ascii', 'replace')}{_public_path(url.raw_path)}"
    query = "&".join(
        f"{name}={value if name in _PUBLIC else HIDDEN}" for name, value in httpx2.QueryParams(url.query).multi_items()
    )
    return quote(f"{shown}?{query}" if query else shown, MAX_URL)[1:-1]


def _public_path(raw_path: bytes) -> str:
    """Return a path; a segment such as `token=...`, in which some content networks put a signature, is hidden."""
    segments = raw_path.partition(b"?")[0].decode("ascii", "replace").split("/")
    return "/".join(f"{segment.partition('=')[0]}={HIDDEN}" if "=" in segment else segment for segment in segments)
