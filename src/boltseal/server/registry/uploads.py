"""Blob uploads: sessions, ordered chunks, the digest check at the end, and mounts from other repositories.

The blob store keeps the bytes and guarantees durability. This module adds the repository's row for the blob: a
repository has a blob only through a row of its own (repository isolation). The row is written after the bytes are
durable, and only if they still exist, because garbage collection may run at the same time.

A session has a row from its beginning to the transaction that adds its blob. It counts against the limit of its owner, and
belongs to the user who began it: other users do not reach it, whatever rights they have. Sessions of anonymous clients
belong to all of them, since their address may change; only the client knows the ID, which can't be guessed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import ClassVar, Final

from boltseal.errors import BoltsealError, Denied, ErrorCode, Full, Invalid, RangeInvalid, Unavailable
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.policy.name_resolution import MIRROR_ACTOR
from boltseal.server.auth.actor import ANONYMOUS, Actor
from boltseal.server.registry.quota_checks import UNCHECKED, QuotaChecks
from boltseal.server.storage.blobs.protocol import BlobStore, UploadId, UploadKey, UploadWriter
from boltseal.server.storage.disk_reserve import DiskReserve
from boltseal.server.storage.metadata import blob_reviews, queries, unreferenced, upload_table
from boltseal.server.storage.metadata.protocol import Metadata, Snapshot, UnitOfWork

REPOSITORIES_AT_ONCE: Final = 500
"""How many repositories with a blob are read at once, to find one that a caller may mount it from."""
CHECK_INTERVAL_BYTES: Final = 8 * 1024 * 1024
_ANONYMOUS_AT: Final = f"{ANONYMOUS.name} at "
"""What the owner of a session without a user begins with; no name of a user has a space."""

Check = Callable[[int, int], None]


class LengthWrong(Invalid):
    """The body is shorter or longer than announced."""

    code: ClassVar[ErrorCode | None] = ErrorCode.SIZE_INVALID


class ChunkOutOfOrder(RangeInvalid):
    """The chunk does not begin where the session ends, or has another length than its range."""

    code: ClassVar[ErrorCode | None] = ErrorCode.BLOB_UPLOAD_INVALID


class UploadManager:
    """Upload sessions of all repositories. A session belongs to a repository and a user; `UploadUnknown` for all others."""

    def __init__(
        self,
        database: Metadata,
        blobs: BlobStore,
        disk_reserve: DiskReserve | None = None,
        quotas: QuotaChecks = UNCHECKED,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._disk_reserve = disk_reserve
        self._quotas = quotas

    async def start(self, repository: Repository, actor: Actor = ANONYMOUS, address: str = "") -> UploadId:
        """Begin a session (end-4). `address`: identifies an anonymous client.

        Raises:
            UploadsTooMany: the user has too many open sessions.
            QuotaExceeded: the user may add nothing.
            ReserveReached: the disk reserve is used up.
        """
        if self._disk_reserve is not None:
            self._disk_reserve.check(0)
        await self._quotas.left_bytes(self._database, actor.name, repository)
        owner = f"{_ANONYMOUS_AT}{address}" if actor.name == ANONYMOUS.name else actor.name
        upload = UploadId.new()

        def job(tx: UnitOfWork) -> None:
            self._quotas.check_uploads(tx, owner)
            upload_table.add(tx, upload, repository, owner)

        await self._database.write(job, durable=False, repository=repository)
        try:
            await self._blobs.uploads.start_upload(UploadKey(repository, upload))
        except BoltsealError:
            await self._forget(upload)
            raise
        return upload

    async def mount(
        self,
        repository: Repository,
        digest: Digest,
        source: Repository | None,
        *,
        may_read: Callable[[Repository], bool],
        actor: Actor = ANONYMOUS,
        batch: int = REPOSITORIES_AT_ONCE,
    ) -> bool:
        """Mount a blob from `source`, or from any repository that the caller may read (end-11).

        Return False when that is impossible, whether the blob does not exist or the caller may not read it. `batch`: how
        many repositories are read at once.
        """
        chosen = await self._readable_holder(digest, source, may_read, batch)

        def job(tx: UnitOfWork) -> bool:
            size = next((size for _, size in queries.repositories_with_blob(tx, str(digest), chosen)), None)
            if size is None:
                return False
            self._add_row(tx, repository, digest, size, actor)
            return True

        if chosen is None or await self._blobs.stat(digest) is None:  # lost: to be uploaded again
            return False
        return await self._database.write(job, repository=repository)

    async def _readable_holder(
        self, digest: Digest, source: Repository | None, may_read: Callable[[Repository], bool], batch: int
    ) -> Repository | None:
        """Return `source`, or without it any repository that has the blob, if the caller may read it.

        Not in the transaction, which all other writes wait for: every repository may have the blob. Between two batches
        other requests are read.
        """
        if source is not None:
            of_source = queries.repositories_with_blob
            held = await self._database.read(lambda snapshot: list(of_source(snapshot, str(digest), source)))
            return source if held and may_read(source) else None

        def some(snapshot: Snapshot, after_id: int) -> tuple[Repository | None, int | None]:
            found = queries.some_with_blob(snapshot, str(digest), after_id, batch)
            chosen = next((name for _, name in found if may_read(Repository(name))), None)
            return None if chosen is None else Repository(chosen), found[-1][0] if len(found) == batch else None

        chosen, after_id = await self._database.read(partial(some, after_id=-1))
        while chosen is None and after_id is not None:
            chosen, after_id = await self._database.read(partial(some, after_id=after_id))
        return chosen

    async def status(self, repository: Repository, upload: UploadId, actor: Actor = ANONYMOUS) -> int:
        """Return how many bytes the session has (end-13)."""
        return await self._blobs.uploads.upload_size(await self._key(repository, upload, actor))

    async def append(
        self,
        repository: Repository,
        upload: UploadId,
        start: int | None,
        length: int | None,
        body: AsyncIterator[bytes],
        actor: Actor = ANONYMOUS,
    ) -> int:
        """Append a chunk (end-5) and return how many bytes the session has then.

        `start`, `length`: from the chunk's range, None where the client sent none.
        """
        key = await self._key(repository, upload, actor)
        check = await self._upload_check(repository, actor)
        async with self._blobs.uploads.open_upload(key) as writer:
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
        """Append the last chunk, if any, and make the session a blob of the repository (end-6). Return its size."""
        key = await self._key(repository, upload, actor)
        check = await self._upload_check(repository, actor)
        async with self._blobs.uploads.open_upload(key, digest) as writer:
            await _receive(writer, start, length, body, check)
            await self._check_quota(writer, repository, actor)
            released_us, expected = await self.released(digest), writer.offset

            def record(tx: UnitOfWork) -> None:
                self._add_row(tx, repository, digest, expected, actor)
                upload_table.remove(tx, upload)

            size = await writer.commit(digest, record=record)
        if not writer.recorded:
            await self.add_committed(repository, digest, size, actor, released_us, upload)
        return size

    async def add_blob(self, repository: Repository, digest: Digest, size: int, actor: Actor) -> None:
        """Add a blob that another repository has to this one.

        Raises:
            Unavailable: no repository has it any more.
        """
        if await self._blobs.stat(digest) is None:
            raise _vanished(digest)

        def job(tx: UnitOfWork) -> None:
            # Bytes are deleted only while no row refers to them.
            if not unreferenced.is_blob_referenced(tx, str(digest)):
                raise _vanished(digest)
            self._add_row(tx, repository, digest, size, actor)

        await self._database.write(job, repository=repository)

    async def released(self, digest: Digest) -> int | None:
        """Return what `add_committed` needs to know from before the commit of a blob's bytes."""
        return await self._database.lookups.uploads.released(str(digest))

    async def add_committed(
        self,
        repository: Repository,
        digest: Digest,
        size: int,
        actor: Actor,
        released_us: int | None,
        upload: UploadId | None = None,
    ) -> None:
        """Add a blob whose bytes this request has committed to the repository, and end the session `upload`.

        `released_us`: what `released` returned before the commit: when the last row of the blob was removed. Another time now
        means that the last row was removed since, and that the committed bytes may have been deleted with it.

        Raises:
            Unavailable: that is the case, and no repository has the blob.
        """

        def job(tx: UnitOfWork) -> None:
            unchanged = unreferenced.released_since(tx, str(digest)) == released_us
            if not unchanged and not unreferenced.is_blob_referenced(tx, str(digest)):
                raise _vanished(digest)
            self._add_row(tx, repository, digest, size, actor)
            if upload is not None:
                upload_table.remove(tx, upload)

        try:
            await self._database.write(job, repository=repository)
        except BoltsealError:  # the session has become bytes that no row refers to
            await self._left_without_row(digest, upload)
            raise

    async def cancel(self, repository: Repository, upload: UploadId, actor: Actor = ANONYMOUS) -> None:
        """Cancel a session and delete its bytes (end-14)."""
        await self._blobs.uploads.cancel_upload(await self._key(repository, upload, actor))
        await self._forget(upload)

    async def _key(self, repository: Repository, upload: UploadId, actor: Actor) -> UploadKey:
        """Return the key of a session of the actor. UploadUnknown: it belongs to another user, or ended.

        A session without a row began before data format 5, or lost its row with power. Its owner is unknown; a client that
        knows its ID and may push to the repository may continue it, as before there were rows.
        """
        key = UploadKey(repository, upload)
        owner = await self._database.lookups.uploads.upload_owner(repository, upload)
        if owner is not None and (ANONYMOUS.name if owner.startswith(_ANONYMOUS_AT) else owner) != actor.name:
            raise key.unknown()
        return key

    async def _forget(self, upload: UploadId) -> None:
        """Remove the row of a session that has ended. If that fails, garbage collection removes it."""
        with suppress(Full, Unavailable):
            await self._database.write(lambda tx: upload_table.remove(tx, upload), durable=False)

    async def _left_without_row(self, digest: Digest, upload: UploadId | None) -> None:
        """Have stored bytes reviewed that got no row, and remove the session's row. If that fails, a full collection finds them."""

        def job(tx: UnitOfWork) -> None:
            blob_reviews.add(tx, str(digest), blob_reviews.BYTES, blob_reviews.UNUSED_FOR_US)
            if upload is not None:
                upload_table.remove(tx, upload)

        with suppress(Full, Unavailable):
            await self._database.write(job, durable=False)

    def _add_row(self, tx: UnitOfWork, repository: Repository, digest: Digest, size: int, actor: Actor) -> None:
        with self._quotas.counting(tx, actor.name):
            number = queries.ensure_repository(tx, repository, actor.name)
            queries.add_blob(tx, number, str(digest), size, actor.name)
        if not actor.name.startswith(MIRROR_ACTOR):  # retention decides about what the mirror fetched
            blob_reviews.add(tx, str(digest), number, blob_reviews.UNUSED_FOR_US)

    async def _check_quota(self, writer: UploadWriter, repository: Repository, actor: Actor) -> None:
        """Check the finished upload against the quota again, before its bytes are committed.

        Raises:
            QuotaExceeded: it is larger than what is left.
        """
        try:
            left = await self._quotas.left_bytes(self._database, actor.name, repository)
            if left is not None:
                self._quotas.check_bytes(actor.name, left, writer.offset)
        except Denied:
            await writer.rollback()
            raise

    async def _upload_check(self, repository: Repository, actor: Actor) -> Check:
        """Return the check that runs while bytes arrive: of the session's size against quota and disk reserve."""
        left = await self._quotas.left_bytes(self._database, actor.name, repository)

        def check(size: int, expected: int) -> None:
            if left is not None:
                self._quotas.check_bytes(actor.name, left, size + expected)
            if self._disk_reserve is not None:
                self._disk_reserve.check(expected)

        return check


def _vanished(digest: Digest) -> Unavailable:
    return Unavailable(f"the bytes of {digest.short} were deleted before they were recorded; push again")


async def _receive(
    writer: UploadWriter, start: int | None, length: int | None, body: AsyncIterator[bytes], check: Check
) -> None:
    """Append a body to the session. On any refusal the session stays as it was.

    `check` is called every `CHECK_INTERVAL_BYTES` with the session's size and how many more bytes were announced.
    """
    before = writer.offset
    if start is not None and start != before:
        raise ChunkOutOfOrder(
            f"this chunk starts at byte {start}, but the upload has {before} bytes: the next chunk starts at {before}"
        )
    next_check = before
    async for chunk in body:
        if writer.offset >= next_check:
            try:
                check(writer.offset, max(0, (length or 0) - (writer.offset - before)))
            except (Full, Denied):
                await writer.rollback()
                raise
            next_check = writer.offset + CHECK_INTERVAL_BYTES
        await writer.write(chunk)
        if length is not None and writer.offset - before > length:
            break
    received = writer.offset - before
    if length is not None and received != length:
        await writer.rollback()
        wrong = LengthWrong if start is None else ChunkOutOfOrder
        raise wrong(f"the body has {received} bytes or more, but {length} were announced; send the chunk again")
