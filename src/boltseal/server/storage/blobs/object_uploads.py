"""Upload sessions in an object store: `UploadSessions` and `UploadCleanup` on the rows of `upload_progress`.

A session is a row, and its bytes are objects, so that any process continues it after the last answered request. The row says
which request is its writer, and until when: a process that ends without giving a session back keeps it for some seconds.
`object_upload` writes the bytes of a session.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final, NamedTuple

from boltseal.errors import Full, Unavailable
from boltseal.oci.digest import Digest
from boltseal.server.storage.blobs.object_session import ObjectPartial, SessionViews
from boltseal.server.storage.blobs.object_upload import ObjectResources, ObjectUploadWriter, index_key, new_key
from boltseal.server.storage.blobs.protocol import DEFAULT_ALGORITHM, UploadBusy, UploadFile, UploadKey
from boltseal.server.storage.metadata import upload_progress
from boltseal.server.storage.metadata.blob_keys import ObjectPart
from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork
from boltseal.server.storage.metadata.upload_progress import WRITER_FOR_US, ProgressRow

_POLL_S: Final = 0.02
_POLL_DATABASE_S: Final = 0.1
_EXTEND_EVERY_S: Final = WRITER_FOR_US / 4_000_000
_ROWS_AT_ONCE: Final = 500


class _Claimed(NamedTuple):
    """A session and its objects."""

    row: ProgressRow
    parts: list[ObjectPart]


class ObjectUploads:
    """`UploadSessions` and `UploadCleanup` of an object store. `lock_wait_s`: how long a request waits for its session."""

    def __init__(self, resources: ObjectResources, lock_wait_s: float) -> None:
        self._resources = resources
        self._database = resources.database
        self._lock_wait_s = lock_wait_s
        self._views = SessionViews()
        self._held: set[str] = set()

    async def start_upload(self, key: UploadKey) -> None:
        """Add the session's row. It survives a power cut, as the client relies on its answer."""
        await self._database.write(lambda tx: upload_progress.add(tx, key.name), repository=key.repository)

    async def upload_size(self, key: UploadKey) -> int:
        """Return the size in the session's row."""
        row = await self._database.read(lambda snapshot: upload_progress.find(snapshot, key.name))
        if row is None:
            raise key.unknown()
        return row.size

    @asynccontextmanager
    async def open_upload(
        self, key: UploadKey, digest: Digest | None = None, wait_s: float | None = None
    ) -> AsyncIterator[ObjectUploadWriter]:
        """Make this request the writer of the session until the block ends."""
        row, parts = await self._claim(key, digest, self._lock_wait_s if wait_s is None else wait_s)
        view = self._views.view(key.name, parts)
        view.parts = list(parts)
        running = self._views.known_hash(key.name, parts, DEFAULT_ALGORITHM if digest is None else digest.algorithm)
        writer = ObjectUploadWriter(self._resources, key, view, row, running)
        extending = asyncio.create_task(self._extend(key, writer))
        try:
            yield writer
        finally:
            extending.cancel()
            running = writer.close()
            if writer.is_committed:
                self._views.forget(key.name)
                self._held.discard(key.name)
            else:
                self._views.keep_hash(key.name, view.parts, running)
                try:
                    await self._release(key, writer)
                finally:
                    self._held.discard(key.name)

    async def open_partial(self, key: UploadKey) -> ObjectPartial:
        """Return a reader of what this process knows of the session, brought up to date with its row."""
        found = await self._database.read(lambda snapshot: _claimed(snapshot, key.name))
        if found is None:
            raise key.unknown()
        return ObjectPartial(self._resources.client, self._views.view(key.name, found.parts))

    async def cancel_upload(self, key: UploadKey) -> None:
        """Remove the row. A writer that still has the session finds no row to commit."""
        dropped = await self._database.write(
            lambda tx: upload_progress.drop(tx, key.name), durable=False, repository=key.repository
        )
        if not dropped:
            raise key.unknown()
        self._views.gone(key.name)

    def abandoned(self, older_than_us: int) -> Iterator[UploadFile]:
        """Yield the sessions whose row was changed last before a time."""
        after = ""
        while True:
            query = partial(upload_progress.changed_before, before_us=older_than_us, after=after, limit=_ROWS_AT_ONCE)
            rows = self._database.read_and_wait(query)
            yield from (UploadFile(row.name, row.size, row.changed_us) for row in rows)
            if len(rows) < _ROWS_AT_ONCE:
                return
            after = rows[-1].name

    def discard(self, upload: UploadFile, older_than_us: int) -> bool:
        """Remove the session's row if no request is its writer, and its time is the same as before."""
        dropped = self._database.write_and_wait(
            lambda tx: upload_progress.drop_abandoned(tx, upload.name, older_than_us)
        )
        if dropped:
            self._views.gone(upload.name)
        return dropped

    async def _claim(self, key: UploadKey, digest: Digest | None, wait_s: float) -> _Claimed:
        clock = asyncio.get_running_loop().time
        deadline = clock() + wait_s
        writer, index = new_key(), None if digest is None else index_key(digest)

        def job(tx: UnitOfWork) -> _Claimed | None:
            row = upload_progress.claim(tx, key.name, writer, index)
            return None if row is None else _Claimed(row, upload_progress.parts_of(tx, key.name))

        while True:
            poll_s = _POLL_S
            if key.name not in self._held:
                found = await self._database.write(job, durable=False, repository=key.repository)
                if found is None:
                    raise key.unknown()
                if found.row.writer == writer:
                    self._held.add(key.name)
                    return found
                poll_s = _POLL_DATABASE_S
            if clock() >= deadline:
                raise UploadBusy(
                    f"another request is writing to the upload session {key.id}: wait for it to end, then go on"
                )
            await asyncio.sleep(min(poll_s, max(deadline - clock(), 0)))

    async def _extend(self, key: UploadKey, writer: ObjectUploadWriter) -> None:
        """Keep the session while its block runs. What the writer does after it lost the session is refused by the rows."""
        while True:
            await asyncio.sleep(_EXTEND_EVERY_S)
            with suppress(Unavailable, Full):
                await self._database.write(
                    lambda tx: upload_progress.extend(tx, key.name, writer.writer), durable=False
                )

    async def _release(self, key: UploadKey, writer: ObjectUploadWriter) -> None:
        """Let others write to the session. If that fails, they wait until its time is over."""
        job = partial(upload_progress.release, name=key.name, writer=writer.writer, written=tuple(writer.written))
        with suppress(Unavailable, Full):
            await self._database.write(job, durable=False, repository=key.repository)


def _claimed(snapshot: Snapshot, name: str) -> _Claimed | None:
    row = upload_progress.find(snapshot, name)
    return None if row is None else _Claimed(row, upload_progress.parts_of(snapshot, name))
