"""What one process knows of upload sessions in an object store: objects, running hash, bytes that are still arriving.

A `SessionView` is shared by the writer of a session and by its readers in this process. The rows decide; the view is what
was last read from them, and what the writer of this process has done since.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakValueDictionary

from boltseal.oci.digest import hasher
from boltseal.server.storage.blobs.local_upload import SessionHash
from boltseal.server.storage.blobs.object_spool import SpooledBody
from boltseal.server.storage.metadata.blob_keys import ObjectPart
from boltseal.server.storage.object_client import ObjectClient

_HASHES_KEPT: Final = 4096


@dataclass(slots=True, weakref_slot=True)
class SessionView:
    """A session as this process knows it. `body`: bytes of the request that is being received here, None without one."""

    parts: list[ObjectPart] = field(default_factory=list)
    body: SpooledBody | None = None
    is_gone: bool = False

    @property
    def size(self) -> int:
        """Bytes in objects."""
        return sum(part.size for part in self.parts)


class SessionViews:
    """The views of this process, and the hashes of sessions that it wrote to. Used from the event loop."""

    def __init__(self) -> None:
        self._views: WeakValueDictionary[str, SessionView] = WeakValueDictionary()
        self._hashes: OrderedDict[str, tuple[str, SessionHash]] = OrderedDict()

    def view(self, name: str, parts: list[ObjectPart]) -> SessionView:
        """Return the view of a session, brought up to date with its objects."""
        view = self._views.setdefault(name, SessionView())
        if len(parts) > len(view.parts):
            view.parts = list(parts)
        return view

    def gone(self, name: str) -> None:
        """Record that a session was dropped, and is not a blob."""
        view = self._views.get(name)
        if view is not None:
            view.is_gone = True
        self.forget(name)

    def forget(self, name: str) -> None:
        """Keep nothing of a session that ended: another one may get its name. Its readers keep their view."""
        self._views.pop(name, None)
        self._hashes.pop(name, None)

    def known_hash(self, name: str, parts: list[ObjectPart], algorithm: str) -> SessionHash | None:
        """Return the running hash of a session's bytes, None if this process does not have it."""
        kept = self._hashes.pop(name, None)
        if not parts:
            return SessionHash(algorithm, hasher(algorithm))
        return kept[1] if kept is not None and kept[0] == parts[-1].key else None

    def keep_hash(self, name: str, parts: list[ObjectPart], running: SessionHash | None) -> None:
        """Keep the running hash of a session for its next request."""
        if running is None or not parts:
            return
        self._hashes[name] = (parts[-1].key, running)
        while len(self._hashes) > _HASHES_KEPT:
            self._hashes.popitem(last=False)


class ObjectPartial:
    """`PartialReader` on a view: objects first, then the bytes that this process is receiving."""

    def __init__(self, client: ObjectClient, view: SessionView) -> None:
        self._client = client
        self._view = view

    def available(self) -> int:
        """Return how many bytes this process can read now, -1 if it knows that the session was dropped."""
        if self._view.is_gone:
            return -1
        return self._view.size + (0 if self._view.body is None else self._view.body.size)

    async def read_unverified(self, start: int, length: int) -> bytes:
        """Read from the object or the spooled body that has the first byte; fewer bytes at its end."""
        view, position = self._view, start
        body, in_objects = view.body, view.size
        if position >= in_objects:
            if body is None:
                return b""
            return body.read_at(position - in_objects, length)
        pieces: list[bytes] = []
        for part in view.parts:
            if position < part.size and length:
                wanted = min(length, part.size - position)
                pieces += [piece async for piece in self._client.read(part.key, position, wanted)]
                length -= wanted
                position = 0
            else:
                position = max(0, position - part.size)
        return b"".join(pieces)

    def close(self) -> None:
        """Keep no resources: the view goes with its last user."""
        return
