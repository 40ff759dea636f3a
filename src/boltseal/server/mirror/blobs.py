"""Upstream's blobs, each brought once for all workers of the store.

The session that a blob is written to has a name that follows from its digest, so that the process whose turn it is
(`server.storage.coordination.interprocess_lock`) can be watched by the others, who relay what it has written. A process that is killed leaves the turn free and
the file as long as it was: whoever comes next goes on from there. The steps of bringing one:

1. Is it here by now, or are its bytes, from another repository of the same upstream? Then no bytes are asked for.
2. The turn; who does not get it watches the file grow, and tries again now and then.
3. GET, from where the file ends. The size is what a manifest of the repository says, or else what upstream says; more
   than that is refused, less is asked for again.
4. The store compares the digest, syncs, and gives the file its name. Then the repository's row.

What turns out to be other bytes is dropped whole; what broke off is kept, for the next to go on with.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

import structlog

from boltseal.client.errors import RemoteMismatch, RemoteNotFound, RemoteUnavailable
from boltseal.client.registry_client import PIECE_BYTES, RESUMES
from boltseal.errors import BoltsealError, Unavailable
from boltseal.oci.digest import Digest, DigestInvalid
from boltseal.server.mirror.blob_fetch import Fetch, FetchLost
from boltseal.server.mirror.errors import told
from boltseal.server.mirror.single_flight import SingleFlight
from boltseal.server.registry.pulls import BlobUnknown
from boltseal.server.storage.blobs.protocol import FetchKey, UploadId, UploadUnknown
from boltseal.server.storage.coordination.interprocess_lock import LockNotAcquired

if TYPE_CHECKING:
    from boltseal.client.registry_client import BlobStream
    from boltseal.oci.reference import Repository
    from boltseal.server.mirror.upstream_limits import UpstreamLimits
    from boltseal.server.mirror.upstreams import Upstream
    from boltseal.server.registry.pulls import Pulls
    from boltseal.server.registry.uploads import UploadManager
    from boltseal.server.storage.blobs.protocol import BlobStore, UploadWriter
    from boltseal.server.storage.coordination.interprocess_lock import InterprocessLock

BLOBS_FETCHED: Final = "mirror_blobs_fetched"
WATCH_EVERY_S: Final = 0.02
WATCH_FOR_S: Final = 0.25
CHECKED_EACH_BYTES: Final = 8 * 1024 * 1024

_log = structlog.get_logger(__name__)


class MirroredBlobs:
    """Blobs of all upstreams. One per process. `check_room`: refuses so many bytes more (ReserveReached)."""

    def __init__(
        self,
        pulls: Pulls,
        uploads: UploadManager,
        blobs: BlobStore,
        limits: UpstreamLimits,
        turns: InterprocessLock,
        *,
        check_room: Callable[[int], None],
        count: Callable[[str], None],
    ) -> None:
        self._pulls = pulls
        self._uploads = uploads
        self._blobs = blobs
        self._limits = limits
        self._turns = turns
        self._check_room = check_room
        self._count = count
        self._under_way: dict[tuple[Repository, Digest], Fetch] = {}
        self._flights: SingleFlight[tuple[Repository, Digest], None] = SingleFlight()

    async def held(self, repository: Repository, digest: Digest) -> bool:
        """Whether the blob is here, row and bytes."""
        try:
            found = await self._pulls.blob(repository, digest)
        except BlobUnknown:
            return False
        return await self._blobs.stat(digest) == found.size

    async def fetch(self, upstream: Upstream, repository: Repository, digest: Digest) -> Fetch:
        """A blob that is not here, on its way: begun now, or by somebody before."""
        key = repository, digest
        known = self._under_way.get(key)
        if known is not None:
            return known
        size = await self._pulls.named_size(repository, digest)
        fetch = self._under_way.setdefault(key, Fetch(self._pulls, digest, size))
        self._flights.begin(key, lambda: self._run(upstream, repository, fetch))
        return fetch

    async def aclose(self) -> None:
        """End what is under way; what has arrived of it stays."""
        await self._flights.aclose()

    async def _run(self, upstream: Upstream, repository: Repository, fetch: Fetch) -> None:
        error: BoltsealError | None = Unavailable("the registry is shutting down; ask again")
        try:
            await self._bring(upstream, repository, fetch)
            fetch.size = (await self._pulls.blob(repository, fetch.digest)).size  # nobody may have said so before
            error = None
        except BoltsealError as failed:
            error = told(failed, BlobUnknown)
            if not isinstance(error, BlobUnknown):
                _log.warning("a blob could not be fetched", repository=repository, reason=error.message)
        except Exception:  # noqa: BLE001 - the outermost shell of this task: whoever waits must hear of it
            error = Unavailable("this registry failed on the blob; its log says why")
            _log.exception("defect", repository=repository, digest=str(fetch.digest))
        finally:
            self._under_way.pop((repository, fetch.digest), None)
            fetch.end(error)

    async def _bring(self, upstream: Upstream, repository: Repository, fetch: Fetch) -> None:
        key = FetchKey(repository, UploadId.of(fetch.digest))
        while not await self.held(repository, fetch.digest):
            try:
                async with self._turns.taken(f"blob {repository} {fetch.digest}", 0):
                    if not await self._here(upstream, repository, fetch):
                        await self._blobs.start_upload(key)
                        async with self._blobs.open_upload(key, fetch.digest.algorithm) as writer:
                            await self._receive(upstream, repository, fetch, key, writer)
                    return
            except LockNotAcquired:
                await self._watch(fetch, key)

    async def _here(self, upstream: Upstream, repository: Repository, fetch: Fetch) -> bool:
        """Whether nothing needs to be brought: it is here, or another repository of the same upstream has the bytes.

        Of the latter upstream is asked, by a HEAD, whether it has the blob in this one too: its walls are its own.
        """
        if await self.held(repository, fetch.digest):
            return True
        prefix = f"{upstream.terms.name}/"
        size = next((size for name, size in await self._pulls.holders(fetch.digest) if name.startswith(prefix)), None)
        if size is None or await self._blobs.stat(fetch.digest) != size or fetch.size not in (None, size):
            return False
        async with self._limits.asking(upstream):
            there = await upstream.client.has_blob(upstream.remote(repository), fetch.digest)
        if there != size:
            return False
        await self._uploads.hold(repository, fetch.digest, size, upstream.actor)
        return True

    async def _watch(self, fetch: Fetch, key: FetchKey) -> None:
        """Somebody else brings it: see how far they are, for a while."""
        with contextlib.suppress(UploadUnknown):
            fetch.look_into(self._blobs.open_partial(key))
            for _ in range(round(WATCH_FOR_S / WATCH_EVERY_S)):
                fetch.advance()
                await asyncio.sleep(WATCH_EVERY_S)
        await asyncio.sleep(WATCH_EVERY_S)  # there is nothing to see before its first byte, and after its last

    async def _receive(
        self, upstream: Upstream, repository: Repository, fetch: Fetch, key: FetchKey, writer: UploadWriter
    ) -> None:
        if writer.offset < fetch.arrived:
            raise FetchLost(f"what had arrived of {fetch.digest.short} was dropped; ask again")
        fetch.look_into(self._blobs.open_partial(key))
        try:
            async with self._limits.asking(upstream):
                await self._arrive(upstream, repository, fetch, writer)
            size = await writer.commit(fetch.digest)
        except DigestInvalid as error:
            await self._drop(key)
            raise RemoteMismatch(
                f"{upstream.terms.name}: blob {fetch.digest.short} does not match its digest: not used"
            ) from error
        except (RemoteMismatch, RemoteNotFound):
            await self._drop(key)
            raise
        await self._uploads.hold(repository, fetch.digest, size, upstream.actor)
        self._count(BLOBS_FETCHED)

    async def _arrive(self, upstream: Upstream, repository: Repository, fetch: Fetch, writer: UploadWriter) -> None:
        """All of it, over as many connections as it may take."""
        name, remote = upstream.terms.name, upstream.remote(repository)
        for resumed in range(RESUMES + 1):
            before = writer.offset
            try:
                async with upstream.client.stream_blob(remote, fetch.digest, writer.offset) as arriving:
                    await self._take(name, fetch, arriving, writer)
            except RemoteUnavailable:
                if resumed == RESUMES or writer.offset == before:
                    raise
            if fetch.size is not None and writer.offset >= fetch.size:
                return
        raise RemoteUnavailable(
            f"{name} sends {writer.offset} of the {fetch.size} bytes of {fetch.digest.short} and no more"
        )

    async def _take(self, name: str, fetch: Fetch, arriving: BlobStream, writer: UploadWriter) -> None:
        """What comes over one connection."""
        if fetch.size is None and arriving.size is None:
            raise RemoteMismatch(f"{name} does not say how large blob {fetch.digest.short} is: not fetched")
        if fetch.size is None:
            fetch.size = arriving.size
        size = fetch.size or 0
        if arriving.size is not None and arriving.size != size:
            raise RemoteMismatch(f"{name}: blob {fetch.digest.short} has {size} bytes, not {arriving.size}: not used")
        checked = -1
        async with aclosing(arriving.pieces) as pieces:
            async for piece in pieces:
                if writer.offset + len(piece) > size:
                    raise RemoteMismatch(f"{name} sends more than the {size} bytes of {fetch.digest.short}: not used")
                if writer.offset > checked:
                    self._check_room(size - writer.offset)
                    checked = writer.offset + CHECKED_EACH_BYTES
                await writer.write(piece)
                if len(piece) < PIECE_BYTES:  # it comes slowly: who waits shall not wait for more of it
                    await writer.flush()
                fetch.advance()

    async def _drop(self, key: FetchKey) -> None:
        with contextlib.suppress(UploadUnknown):
            await self._blobs.cancel_upload(key)
