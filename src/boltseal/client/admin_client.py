"""Requests to the admin API of a registry, `/api/v1` (docs/reference/admin-api.md).

A change is sent once: it may have been made although its answer was lost. Repeated by the user, it changes nothing more.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Final, TypeVar
from urllib.parse import quote as percent_encode

import httpx2
import msgspec

from boltseal.client.errors import RemoteMismatch, RemoteUnavailable
from boltseal.client.registry_request import RegistryRequest
from boltseal.client.transport import Transport
from boltseal.oci.jsontext import decode

PREFIX: Final = "/api/v1/"
NO_QUERY: Final[Mapping[str, str]] = {}
MAX_PAGES: Final = 100_000
CHANGE_S: Final = 120.0
"""Longest time for the answer to a change: a purge or delete waits until all servers confirm it, up to about a minute after a kill."""
_MAX_CURSOR: Final = 2048

T = TypeVar("T")


class AdminPage(msgspec.Struct):
    """What every page of a list has."""

    next: str | None = None


P = TypeVar("P", bound=AdminPage)


class _Page(AdminPage, kw_only=True):
    items: list[msgspec.Raw]


class AdminClient:
    """The admin API of one registry, with the login that its user has there."""

    def __init__(self, transport: Transport, registry: str, *, answer_s: float = CHANGE_S) -> None:
        self._transport = transport
        self._registry = registry
        self._answer_s = answer_s

    async def change(self, name: str, what: str, fields: Mapping[str, object], kind: type[T], *, advice: str) -> T:
        """Send a change and return its answer.

        `what`: the change in words, for errors. `advice`: what to do if the answer is lost. Raises: as `Transport.request`.
        """
        call = RegistryRequest(
            self._registry,
            "POST",
            f"{PREFIX}{name}",
            what,
            headers={"content-type": "application/json"},
            body=msgspec.json.encode(fields),
            idempotent=False,
            answer_s=self._answer_s,
        )
        return self._decode(await self._changed(call, advice), kind, what)

    async def delete(self, name: str, what: str, query: Mapping[str, str], kind: type[T], *, advice: str) -> T:
        """Delete what the query names, and return the answer. The arguments and errors are those of `change`."""
        path = f"{PREFIX}{name}?{_encoded(query)}"
        call = RegistryRequest(self._registry, "DELETE", path, what, idempotent=False, answer_s=self._answer_s)
        return self._decode(await self._changed(call, advice), kind, what)

    async def _changed(self, call: RegistryRequest, advice: str) -> bytes:
        """Send a change once, and return the body of the answer. Raises: as `Transport.request`."""
        try:
            return (await self._transport.request(call)).body
        except RemoteUnavailable as error:
            if isinstance(error.__cause__, httpx2.HTTPError | TimeoutError) and not isinstance(
                error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout
            ):
                raise RemoteUnavailable(
                    f"{error.message}; it is not known whether the change was made: {advice}"
                ) from error
            raise

    async def read(self, name: str, what: str, kind: type[T], query: Mapping[str, str] = NO_QUERY) -> T:
        """Return the answer of a read that has no pages. Raises: as `Transport.request`."""
        path = f"{PREFIX}{name}?{_encoded(query)}" if query else f"{PREFIX}{name}"
        reply = await self._transport.request(RegistryRequest(self._registry, "GET", path, what))
        return self._decode(reply.body, kind, what)

    async def items(self, name: str, what: str, kind: type[T], query: Mapping[str, str] = NO_QUERY) -> AsyncIterator[T]:
        """Yield the items of a list, page by page. Raises: as `Transport.request`; RemoteMismatch: the list has no end."""
        async for page in self.pages(name, what, _Page, query):
            for item in page.items:
                yield self._decode(bytes(item), kind, what)

    async def pages(
        self,
        name: str,
        what: str,
        kind: type[P],
        query: Mapping[str, str] = NO_QUERY,
        fields: Mapping[str, object] | None = None,
    ) -> AsyncIterator[P]:
        """Yield the pages of a list. `fields`: of a POST that changes nothing; None: the list is a GET. Raises: as `items`."""
        cursor: str | None = ""
        seen: set[str] = set()
        while cursor is not None:
            position = {"cursor": cursor} if cursor else {}
            if fields is None:
                path = f"{PREFIX}{name}?{_encoded({'limit': '1000', **query, **position})}"
                call = RegistryRequest(self._registry, "GET", path, what)
            else:
                call = RegistryRequest(
                    self._registry,
                    "POST",
                    f"{PREFIX}{name}",
                    what,
                    headers={"content-type": "application/json"},
                    body=msgspec.json.encode({"limit": 1000, **fields, **position}),
                )
            page = self._decode((await self._transport.request(call)).body, kind, what)
            yield page
            cursor = page.next
            if cursor is not None and (cursor in seen or len(seen) >= MAX_PAGES or len(cursor) > _MAX_CURSOR):
                raise RemoteMismatch(f"{self._registry} has no end of {what}: it sent the same page twice")
            seen.add(cursor or "")

    def _decode(self, raw: bytes, kind: type[T], what: str) -> T:
        try:
            return decode(raw, kind)
        except msgspec.DecodeError as error:
            raise RemoteMismatch(f"{self._registry} answered {what} with something else: {error}") from error


def _encoded(query: Mapping[str, str]) -> str:
    return "&".join(f"{name}={percent_encode(value, safe='')}" for name, value in query.items())
