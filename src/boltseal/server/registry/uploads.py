"""Blobs on their way in: sessions, chunks in order, the digest at the end, mounts from other repositories.

The bytes are the blob store's business, and its promises are the ground this stands on. What is added here is that a
repository holds a blob only by a row of its own (walls), and that the row is written after the bytes are durable and
only if they are still there (a collect may run beside us).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Final

from boltseal.errors import Denied, ErrorCode, Full, Invalid, RangeInvalid, Unavailable
from boltseal.oci.reference import Repository
from boltseal.server.auth.actor import ANONYMOUS
from boltseal.server.registry.quota_checks import UNCHECKED, QuotaChecks
from boltseal.server.storage.blobs.protocol import UploadId, UploadKey
from boltseal.server.storage.metadata import queries

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from boltseal.oci.digest import Digest
    from boltseal.server.auth.actor import Actor
    from boltseal.server.storage.blobs.protocol import BlobStore, UploadWriter
    from boltseal.server.storage.disk_reserve import DiskReserve
    from boltseal.server.storage.metadata.protocol import Metadata, UnitOfWork


ASKED_EACH_BYTES: Final = 8 * 1024 * 1024

Check = Callable[[int, int], None]


class LengthWrong(Invalid):
    """A body that is shorter or longer than was said."""

    code: ClassVar[ErrorCode | None] = ErrorCode.SIZE_INVALID


class ChunkOutOfOrder(RangeInvalid):
    """A chunk that does not begin where the session ends, or is not as long as its range."""

    code: ClassVar[ErrorCode | None] = ErrorCode.BLOB_UPLOAD_INVALID


class BytesVanished(Unavailable):
    """The bytes went between their arrival and their row; the client has to send them again."""


class UploadManager:
    """Upload sessions of all repositories. A session belongs to the repository it was started in."""

    def __init__(
        self, database: Metadata, blobs: BlobStore, room: DiskReserve | None = None, bounds: QuotaChecks = UNCHECKED
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._room = room
        self._bounds = bounds

    async def start(self, repository: Repository, actor: Actor = ANONYMOUS, address: str = "") -> UploadId:
        """Begin a session (end-4). UploadsTooMany, QuotaExceeded. `address`: by which somebody without a login is known."""
        if self._room is not None:
            self._room.check(0)
        await self._bounds.left_bytes(self._database, actor.name, repository)
        owner = f"{actor.name} at {address}" if actor.name == ANONYMOUS.name else actor.name
        upload = UploadId.new(owner)
        await self._blobs.start_upload(UploadKey(repository, upload), self._bounds.uploads_per_user)
        return upload

    async def mount(
        self,
        repository: Repository,
        digest: Digest,
        source: Repository | None,
        *,
        may_read: Callable[[Repository], bool],
        actor: Actor = ANONYMOUS,
    ) -> bool:
        """Hold a blob that another repository (`source`, or any that the caller may read) holds (end-11).

        False: it can't be had that way, whether it is not there or not for this caller.
        """

        def job(tx: UnitOfWork) -> bool:
            found = queries.repositories_with_blob(tx, str(digest), source)
            size = next((size for name, size in found if may_read(Repository(name))), None)
            if size is None:
                return False
            self._add_row(tx, repository, digest, size, actor)
            return True

        if await self._blobs.stat(digest) is None:  # lost: to be uploaded again
            return False
        return await self._database.write(job)

    async def status(self, repository: Repository, upload: UploadId) -> int:
        """Bytes held so far (end-13)."""
        return await self._blobs.upload_size(UploadKey(repository, upload))

    async def append(
        self,
        repository: Repository,
        upload: UploadId,
        start: int | None,
        length: int | None,
        body: AsyncIterator[bytes],
        actor: Actor = ANONYMOUS,
    ) -> int:
        """Add a chunk (end-5). `start`, `length`: what its range says, None where it says nothing. Bytes held after."""
        check = await self._checks(repository, actor)
        async with self._blobs.open_upload(UploadKey(repository, upload)) as writer:
            await _receive(writer, start, length, body, check)
            await writer.flush()
            return writer.offset

    async def finish(
        self,
        repository: Repository,
        upload: UploadId,
        digest: Digest,
        start: int | None,
        length: int | None,
        body: AsyncIterator[bytes],
        actor: Actor = ANONYMOUS,
    ) -> int:
        """Add the last chunk, if any, and turn the session into a blob of the repository (end-6). Returns its size."""
        check = await self._checks(repository, actor)
        async with self._blobs.open_upload(UploadKey(repository, upload), digest.algorithm) as writer:
            await _receive(writer, start, length, body, check)
            await self._check_whole(writer, repository, actor)
            released_us = await self.released(digest)
            size = await writer.commit(digest)
        await self.hold_committed(repository, digest, size, actor, released_us)
        return size

    async def hold(self, repository: Repository, digest: Digest, size: int, actor: Actor) -> None:
        """Add a blob that another repository has to this one. BytesVanished: no repository has it any more."""
        if await self._blobs.stat(digest) is None:
            raise _vanished(digest)

        def job(tx: UnitOfWork) -> None:
            # Bytes are deleted only while no row refers to them.
            if not queries.is_blob_referenced(tx, str(digest)):
                raise _vanished(digest)
            self._add_row(tx, repository, digest, size, actor)

        await self._database.write(job)

    async def released(self, digest: Digest) -> int | None:
        """Return what `hold_committed` needs to know from before the commit of a blob's bytes."""
        return await self._database.lookups.released(str(digest))

    async def cancel(self, repository: Repository, upload: UploadId) -> None:
        """End a session and drop its bytes (end-14)."""
        await self._blobs.cancel_upload(UploadKey(repository, upload))

    async def hold_committed(
        self, repository: Repository, digest: Digest, size: int, actor: Actor, released_us: int | None
    ) -> None:
        """Add a blob whose bytes this request has committed to the repository. BytesVanished.

        `released_us`: what `released` returned before the commit: when the last row of the blob was removed. Another time now
        means that the last row was removed since, and that the committed bytes may have been deleted with it.
        """

        def job(tx: UnitOfWork) -> None:
            unchanged = queries.released_since(tx, str(digest)) == released_us
            if not unchanged and not queries.is_blob_referenced(tx, str(digest)):
                raise _vanished(digest)
            self._add_row(tx, repository, digest, size, actor)

        await self._database.write(job)

    def _add_row(self, tx: UnitOfWork, repository: Repository, digest: Digest, size: int, actor: Actor) -> None:
        with self._bounds.counting(tx, actor.name):
            place = queries.ensure_repository(tx, repository, actor.name)
            queries.add_blob(tx, place, str(digest), size, actor.name)

    async def _check_whole(self, writer: UploadWriter, repository: Repository, actor: Actor) -> None:
        """Refuse what has grown over the quota since it was asked last, before its bytes may stay. QuotaExceeded."""
        try:
            left = await self._bounds.left_bytes(self._database, actor.name, repository)
            if left is not None:
                self._bounds.check_bytes(actor.name, left, writer.offset)
        except Denied:
            await writer.rollback()
            raise

    async def _checks(self, repository: Repository, actor: Actor) -> Check:
        """What is asked while bytes arrive: does the session's size go with the quota, is there room on the disk."""
        left = await self._bounds.left_bytes(self._database, actor.name, repository)

        def check(size: int, expected: int) -> None:
            if left is not None:
                self._bounds.check_bytes(actor.name, left, size + expected)
            if self._room is not None:
                self._room.check(expected)

        return check


def _vanished(digest: Digest) -> BytesVanished:
    return BytesVanished(f"the bytes of {digest.short} went before they were recorded; push again")


async def _receive(
    writer: UploadWriter, start: int | None, length: int | None, body: AsyncIterator[bytes], check: Check
) -> None:
    """Write a body behind what is there; a body that is not as said, or has no room, leaves the session as it was.

    `check` is asked now and then, given how much the session holds and how much more was said to come.
    """
    before = writer.offset
    if start is not None and start != before:
        raise ChunkOutOfOrder(
            f"this chunk starts at byte {start}, but the upload holds {before} bytes: the next chunk starts at {before}"
        )
    asked = before
    async for chunk in body:
        if writer.offset >= asked:
            try:
                check(writer.offset, max(0, (length or 0) - (writer.offset - before)))
            except (Full, Denied):
                await writer.rollback()
                raise
            asked = writer.offset + ASKED_EACH_BYTES
        await writer.write(chunk)
        if length is not None and writer.offset - before > length:
            break
    received = writer.offset - before
    if length is not None and received != length:
        await writer.rollback()
        wrong = LengthWrong if start is None else ChunkOutOfOrder
        raise wrong(f"the body holds {received} bytes or more, but {length} were announced; send the chunk again")
