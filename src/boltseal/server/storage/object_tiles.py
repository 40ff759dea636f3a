"""A log as objects, in the layout of C2SP tlog-tiles: the API reads tiles from them, and standard tools may.

    ledger/<sha256 of the origin>/checkpoint
    ledger/<sha256 of the origin>/tile/<L>/<N>[.p/<W>]
    ledger/<sha256 of the origin>/tile/entries/<N>[.p/<W>]

- A tile or bundle is written before the checkpoint that covers it, and never changed: a second write must have the same bytes.
  Other bytes mean that the database lost entries that were about to be signed.
- The checkpoint is written last, by compare-and-swap, and never by an older one. One without a valid signature proves nothing, and
  is replaced.
- A ledger with a new origin (`recovery.accept_loss`) has a folder of its own.

The observations are below `observations/` in the same way. Trusted: nothing; a client verifies each tile by the checkpoint.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from boltseal.errors import Unavailable
from boltseal.ledger.note import MAX_NOTE_BYTES
from boltseal.server.storage.object_client import ObjectChanged, ObjectClient, ObjectUse
from boltseal.server.storage.object_failures import Failure, FailureKind

KEYS: Final = re.compile(
    r"(ledger|observations)/[0-9a-f]{64}/(checkpoint|tile/(entries|[0-9]{1,2})/(x[0-9]{3}/)*[0-9]{3}(\.p/[0-9]{1,3})?)"
)
"""The keys of both logs, below the prefix of the blobs."""

AT_ONCE: Final = 8
MOST_BYTES: Final = 64 * 1024 * 1024
"""More than any bundle can have: 256 entries of at most 65,535 bytes, each after its length."""
_TRIES: Final = 5


class TilesUnavailable(Unavailable):
    """The object store with the tiles does not answer."""


class TileDiffers(Unavailable):
    """An object of the log exists with other bytes than the database's."""


class ObjectTiles:
    """The objects of one log. `log`: its name. For threads."""

    def __init__(self, client: ObjectClient, log: str) -> None:
        self._client = client
        self._log = log
        self._published: tuple[str, bytes, str | None] | None = None
        """Origin, note and ETag of the checkpoint that this process has written last."""

    def put(self, origin: str, files: Mapping[str, bytes]) -> None:
        """Write tiles and bundles by their paths. When this returns, the store has all of them durably. Idempotent.

        Raises:
            TileDiffers: one exists with other bytes; it is left as it is.
            TilesUnavailable: some may be written.
        """
        if not files:
            return
        with ThreadPoolExecutor(min(AT_ONCE, len(files)), thread_name_prefix="boltseal-tiles") as pool:
            list(pool.map(lambda path: self._put(origin, path, files[path]), files))

    def get(self, origin: str, path: str) -> bytes | None:
        """Return a tile or bundle, None if there is none. Raises: TilesUnavailable."""
        return self._get(origin, path)[0]

    def checkpoint(self, origin: str) -> bytes | None:
        """Return the published checkpoint, unverified, None if there is none. It is empty if it has too many bytes for a note.

        Raises: TilesUnavailable.
        """
        return self._get_checkpoint(origin)[0]

    def put_checkpoint(self, origin: str, note: bytes, replaces: Callable[[bytes], bool]) -> None:
        """Publish a checkpoint whose tiles are written. `replaces`: whether a published one, unverified, may be replaced by it.

        Raises: TilesUnavailable, and what `replaces` raises.
        """
        # Used once: the object may be another one now, or gone.
        published, self._published = self._published, None
        known: tuple[bytes | None, str | None] | None = None
        if published is not None and published[0] == origin:
            known = published[1:]
        for _ in range(_TRIES):
            found, version = known or self._get_checkpoint(origin)
            known = None
            if found == note or not (found is None or replaces(found)):
                return
            try:
                version = self._client.put_if(self._key(origin, "checkpoint"), note, version)
            except ObjectChanged:
                continue  # another process was faster, or the answer to this request was lost
            self._published = origin, note, version
            return
        raise TilesUnavailable("the checkpoint of the ledger is replaced by other processes again and again; try again")

    def _put(self, origin: str, path: str, content: bytes) -> None:
        try:
            self._client.put_if(self._key(origin, path), content, None)
        except ObjectChanged:
            if self._get(origin, path)[0] != content:
                raise TileDiffers(f"the object {path} of the {self._log} is not what the database has") from None

    def _get(self, origin: str, path: str) -> tuple[bytes | None, str | None]:
        """Return the content and the ETag of an object."""
        return self._client.get(self._key(origin, path), MOST_BYTES) or (None, None)

    def _get_checkpoint(self, origin: str) -> tuple[bytes | None, str | None]:
        key = self._key(origin, "checkpoint")
        return self._client.get(key, MAX_NOTE_BYTES, empty_if_larger=True) or (None, None)

    def _key(self, origin: str, path: str) -> str:
        return f"{self._log}/{hashlib.sha256(origin.encode()).hexdigest()}/{path}"


def _failed(failure: Failure) -> TilesUnavailable:
    if failure.kind is FailureKind.TOO_LARGE:
        return TilesUnavailable(f"an object of the ledger has more than {MOST_BYTES} bytes, so it is no tile")
    return TilesUnavailable(
        f"an object of the ledger can't be {failure.done}: {failure.cause}; try again later (operator: {failure.advice})"
    )


TILES: Final = ObjectUse("ledger", _failed)
"""What the client of tiles and checkpoints is opened for."""
