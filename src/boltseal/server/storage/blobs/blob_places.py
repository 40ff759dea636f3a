"""In which objects the bytes of a blob are. The rows decide, and are remembered for while the database does not answer.

An object is never changed and its key never used again, so a remembered place has the right bytes or none. Whether a client may have
them is decided before (`registry.pulls`).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final, NamedTuple

from boltseal.errors import Unavailable
from boltseal.oci.digest import Digest
from boltseal.server.storage.coordination.outages import ASK_S, is_outage, may_serve_stale
from boltseal.server.storage.metadata import blob_keys
from boltseal.server.storage.metadata.blob_keys import BlobRow, ObjectPart
from boltseal.server.storage.metadata.protocol import Metadata, Snapshot

REMEMBERED: Final = 50_000


class BlobPlace(NamedTuple):
    """The row of a blob, and its objects in order."""

    row: BlobRow
    parts: list[ObjectPart]


class BlobPlaces:
    """The places of the blobs of one store. Used from the event loop's thread."""

    def __init__(self, database: Metadata) -> None:
        self._database = database
        self._known: OrderedDict[str, BlobPlace] = OrderedDict()

    async def find(self, digest: Digest) -> BlobPlace | None:
        """Return where a blob is, None if it is not stored. Raises: Unavailable."""
        generation, known = self._database.generation, self._known.get(str(digest))
        if known is None or not may_serve_stale(generation):
            return await self._ask(digest)
        if is_outage(generation):
            return known
        try:
            async with asyncio.timeout(ASK_S):
                return await self._ask(digest)
        except (Unavailable, TimeoutError):
            return known

    async def _ask(self, digest: Digest) -> BlobPlace | None:
        found = await self._database.read(lambda snapshot: _place(snapshot, digest))
        self._known.pop(str(digest), None)
        if found is not None:
            self._known[str(digest)] = found
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return found


def _place(snapshot: Snapshot, digest: Digest) -> BlobPlace | None:
    row = blob_keys.find(snapshot, str(digest))
    return None if row is None else BlobPlace(row, blob_keys.keys_of(snapshot, str(digest)))
