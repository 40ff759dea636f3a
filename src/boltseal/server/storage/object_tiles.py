"""A log as objects, in the layout of C2SP tlog-tiles: the API reads tiles from them, and standard tools may.

    ledger/<sha256 of the origin>/checkpoint
    ledger/<sha256 of the origin>/tile/<L>/<N>[.p/<W>]
    ledger/<sha256 of the origin>/tile/entries/<N>[.p/<W>]

- A tile or bundle is written before the checkpoint that covers it, and never changed: a second write must have the same bytes.
  Other bytes mean that the database lost entries that were about to be signed.
- The checkpoint is written last, by compare-and-swap, and never by an older one.
- A ledger with a new origin (`recovery.accept_loss`) has a folder of its own.

The observations are below `observations/` in the same way. Trusted: nothing; a client verifies each tile by the checkpoint.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import structlog

from boltseal.errors import Unavailable
from boltseal.ledger.checkpoint import parse_checkpoint_unverified
from boltseal.ledger.note import parse_note_unverified
from boltseal.loading import deferred

if TYPE_CHECKING:
    import obstore
    from obstore import exceptions
    from obstore.store import S3Store
else:  # a server on files never loads it
    obstore = deferred("obstore")
    exceptions = deferred("obstore.exceptions")

KEYS: Final = re.compile(
    r"(ledger|observations)/[0-9a-f]{64}/(checkpoint|tile/(entries|[0-9]{1,2})/(x[0-9]{3}/)*[0-9]{3}(\.p/[0-9]{1,3})?)"
)
"""The keys of both logs, below the prefix of the blobs."""

AT_ONCE: Final = 8
_TRIES: Final = 5

_log = structlog.get_logger(__name__)


class TilesUnavailable(Unavailable):
    """The object store with the tiles does not answer."""


class TileDiffers(Unavailable):
    """An object of the log exists with other bytes than the database's."""


class ObjectTiles:
    """The objects of one log. `log`: its name. For threads."""

    def __init__(self, store: S3Store, log: str) -> None:
        self._store = store
        self._log = log

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
        """Return the newest published checkpoint, as a note, None if there is none. Raises: TilesUnavailable."""
        return self._get(origin, "checkpoint")[0]

    def put_checkpoint(self, origin: str, note: bytes) -> None:
        """Publish a checkpoint whose tiles are written, unless a newer one is. Raises: TilesUnavailable."""
        for _ in range(_TRIES):
            found, version = self._get(origin, "checkpoint")
            if found is not None and (found == note or _size(found) > _size(note)):
                return
            mode: Any = "create" if version is None else {"e_tag": version}
            with _errors_named():
                try:
                    obstore.put(self._store, self._key(origin, "checkpoint"), note, mode=mode, use_multipart=False)
                except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
                    continue  # another process was faster, or the answer to this request was lost
                return
        raise TilesUnavailable("the checkpoint of the ledger is replaced by other processes again and again; try again")

    def _put(self, origin: str, path: str, content: bytes) -> None:
        with _errors_named():
            try:
                obstore.put(self._store, self._key(origin, path), content, mode="create", use_multipart=False)
            except exceptions.AlreadyExistsError:
                pass
            else:
                return
        if self._get(origin, path)[0] != content:
            raise TileDiffers(f"the object {path} of the {self._log} is not what the database has")

    def _get(self, origin: str, path: str) -> tuple[bytes | None, str | None]:
        """Return the content and the ETag of an object."""
        with _errors_named():
            try:
                found = obstore.get(self._store, self._key(origin, path))
                return bytes(found.bytes()), found.meta["e_tag"]
            except FileNotFoundError:
                return None, None

    def _key(self, origin: str, path: str) -> str:
        return f"{self._log}/{hashlib.sha256(origin.encode()).hexdigest()}/{path}"


def _size(note: bytes) -> int:
    return parse_checkpoint_unverified(parse_note_unverified(note).text).size


@contextmanager
def _errors_named() -> Iterator[None]:
    try:
        yield
    except (exceptions.BaseError, OSError) as error:
        _log.warning("the object store with the ledger failed", reason=str(error).partition("\n")[0][:300])
        if isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError):
            raise TilesUnavailable(
                "the object store with the ledger refuses the access key; check the credentials of the server (AWS_*, or its role)"
            ) from error
        raise TilesUnavailable("the object store with the ledger does not answer; try again") from error
