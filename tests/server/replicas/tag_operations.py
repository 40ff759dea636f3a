"""Operations of clients on a tag, each recorded with its times and its answer for the check that histories are linearizable.

An answer that no registry gives to such a request, or a refused push without its machine-readable reason, fails the test.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx2

from boltseal.errors import NotFound, Unavailable
from boltseal.server.commands.tag_seals import seal_tag
from boltseal.server.settings import Settings
from tests.images import Document, put
from tests.server.replicas.linear_checker import LOST, Answer, Kind, Lost, Operation


@dataclass(frozen=True, slots=True)
class TagClient:
    """A client that works on one tag. `number`: of the client."""

    client: httpx2.AsyncClient
    repository: str
    tag: str
    number: int = 0

    async def get(self) -> Operation:
        """Ask what the tag resolves to."""
        return await self._recorded(Kind.GET, lambda: self._resolved(self.tag))

    async def get_manifest(self, digest: str) -> Operation:
        """Ask for a manifest by its digest. It counts as a get of the tag, where only this manifest is ever pushed, with the tag."""
        return await self._recorded(Kind.GET, lambda: self._resolved(digest))

    async def delete(self) -> Operation:
        """Delete the tag."""
        return await self._recorded(Kind.DELETE, lambda: self._deleted(self.tag))

    async def delete_manifest(self, digest: str) -> Operation:
        """Delete a manifest with its tags. It counts as a delete of the tag, as in `get_manifest`."""
        return await self._recorded(Kind.DELETE, lambda: self._deleted(digest))

    async def put(self, document: Document) -> Operation:
        """Push a manifest under the tag."""
        return await self._recorded(Kind.PUT, lambda: self._put(document), document.digest)

    async def create(self, document: Document) -> Operation:
        """Push a manifest under the tag on the condition that the tag does not exist."""
        return await self._recorded(Kind.CREATE, lambda: self._put(document, {"If-None-Match": "*"}), document.digest)

    async def replace(self, document: Document, expected: str) -> Operation:
        """Push a manifest under the tag on the condition that the tag resolves to `expected`."""
        headers = {"If-Match": f'"{expected}"'}
        return await self._recorded(Kind.REPLACE, lambda: self._put(document, headers), document.digest, expected)

    async def seal_by_api(self) -> Operation:
        """Seal the tag over the admin API of a server."""

        async def sealed() -> Answer:
            asked = {"repository": self.repository, "tag": self.tag, "reason": "a test"}
            return (await self.client.post("/api/v1/seal", json=asked)).status_code

        return await self._recorded(Kind.SEAL, sealed)

    async def seal_by_command(self, settings: Settings) -> Operation:
        """Seal the tag by the command of a server."""
        reference = f"registry.example.com/{self.repository}:{self.tag}"

        def seal() -> Answer | Lost:
            try:
                seal_tag(settings, reference, "a test")
            except NotFound:
                return 404
            except Unavailable:
                return LOST
            return 200

        return await self._recorded(Kind.SEAL, lambda: asyncio.to_thread(seal))

    async def _recorded(
        self,
        kind: Kind,
        ask: Callable[[], Awaitable[Answer | Lost]],
        digest: str | None = None,
        expected: str | None = None,
    ) -> Operation:
        start = time.monotonic()
        try:
            answer = await ask()
        except httpx2.TransportError:
            answer = LOST
        if answer == httpx2.codes.SERVICE_UNAVAILABLE:
            answer = LOST
        return Operation(kind, start, time.monotonic(), answer, digest, expected, self.number)

    async def _resolved(self, reference: str) -> Answer:
        answer = await self.client.head(self._path(reference))
        if answer.status_code == httpx2.codes.OK:
            return str(answer.headers["Docker-Content-Digest"])
        assert answer.status_code in {404, 503}, answer.status_code
        return None if answer.status_code == httpx2.codes.NOT_FOUND else answer.status_code

    async def _deleted(self, reference: str) -> Answer:
        return (await self.client.delete(self._path(reference))).status_code

    async def _put(self, document: Document, headers: dict[str, str] | None = None) -> Answer:
        answer = await put(self.client, self.repository, self.tag, document, headers=headers)
        if answer.status_code == httpx2.codes.CONFLICT:
            detail = answer.json()["errors"][0]["detail"]
            assert detail["reason"] in {"sealed", "tombstone"}, detail
            assert (detail["tag"], detail["pushed"]) == (self.tag, document.digest), detail
        return answer.status_code

    def _path(self, reference: str) -> str:
        return f"/v2/{self.repository}/manifests/{reference}"
