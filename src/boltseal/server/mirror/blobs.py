"""Fetches blobs from upstreams, each once for all workers of the store.

The name of a blob's upload session follows from its digest. One process takes the interprocess lock and writes; the
others watch the file and relay what it has written. With an object store there is no such file, and they wait until the blob
is stored. A killed process leaves the lock free and the file as it was, and the next process continues there. The steps of a
fetch:

1. Check whether the repository has the blob by now, or another repository of the same upstream has its bytes. Then no
   bytes are fetched.
2. Take the lock. A process that does not get it watches the file and tries again now and then.
3. GET, from the end of the file. The size is what a manifest of the repository states, or else upstream. More bytes are
   refused, fewer are requested again.
4. The store verifies the digest, syncs, and renames the file. Then the repository's row is written.

A blob with a wrong digest is deleted. An interrupted one is kept, and the next fetch continues it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from typing import Final

import structlog

from boltseal.client.blob_chunks import PIECE_BYTES
from boltseal.client.errors import RemoteMismatch, RemoteNotFound, RemoteUnavailable
from boltseal.client.registry_client import RESUMES, BlobStream
from boltseal.errors import BoltsealError, Unavailable
from boltseal.oci.digest import Digest, DigestInvalid
from boltseal.oci.reference import Repository
from boltseal.server.mirror.blob_fetch import Fetch
from boltseal.server.mirror.errors import client_error
from boltseal.server.mirror.single_flight import SingleFlight
from boltseal.server.mirror.upstream_limits import UpstreamLimits
from boltseal.server.mirror.upstreams import Upstream
from boltseal.server.registry.pulls import BlobUnknown, Pulls
from boltseal.server.registry.uploads import UploadManager
from boltseal.server.storage.blobs.protocol import BlobStore, FetchKey, UploadId, UploadUnknown, UploadWriter
from boltseal.server.storage.coordination.interprocess_lock import LockNotAcquired
from boltseal.server.storage.coordination.protocol import InterprocessLock

BLOBS_FETCHED: Final = "mirror_blobs_fetched"
WATCH_INTERVAL_S: Final = 0.02
WATCH_DURATION_S: Final = 0.25
CHECK_INTERVAL_BYTES: Final = 8 * 1024 * 1024
STORE_WITHIN_S: Final = 10.0
"""How long a server that ends waits for the disk."""

_log = structlog.get_logger(__name__)


class MirroredBlobs:
    """Fetches the blobs of all upstreams. One per process.

    `check_disk`: raises ReserveReached when that many more bytes do not fit. `count`: counts an event by name.
    """

    def __init__(
        self,
        pulls: Pulls,
        uploads: UploadManager,
        blobs: BlobStore,
        limits: UpstreamLimits,
        locks: InterprocessLock,
        *,
        check_disk: Callable[[int], None],
        count: Callable[[str], None],
    ) -> None:
        self._pulls = pulls
        self.uploads = uploads
        """Stores the fetched blobs; replaced at a reload."""
        self._blobs = blobs
        self._limits = limits
        self._locks = locks
        self._check_disk = check_disk
        self._count = count
        self._fetches: dict[tuple[Repository, Digest], Fetch] = {}
        self._requests: SingleFlight[tuple[Repository, Digest], None] = SingleFlight()

    async def stored(self, repository: Repository, digest: Digest) -> bool:
        """Return whether the repository has the blob, row and bytes."""
        try:
            found = await self._pulls.blob(repository, digest)
        except BlobUnknown:
            return False
        stored = await self._blobs.stat(digest)
        return stored is not None and stored.size == found.size

    async def fetch(self, upstream: Upstream, repository: Repository, digest: Digest) -> Fetch:
        """Return the fetch of a blob, started now or already running."""
        key = repository, digest
        known = self._fetches.get(key)
        if known is not None:
            return known
        size = await self._pulls.named_size(repository, digest)
        fetch = self._fetches.setdefault(key, Fetch(self._pulls, digest, size))
        self._requests.begin(key, lambda: self._run(upstream, repository, fetch))
        return fetch

    async def aclose(self) -> None:
        """Wait until the blobs that clients got whole are stored, and cancel all other fetches; bytes that arrived are kept."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STORE_WITHIN_S):
                for fetch in [each for each in self._fetches.values() if each.is_verified]:
                    with contextlib.suppress(BoltsealError):
                        await fetch.wait_stored()
        await self._requests.aclose()

    async def _run(self, upstream: Upstream, repository: Repository, fetch: Fetch) -> None:
        error: BoltsealError | None = Unavailable("the registry is shutting down; try again")
        try:
            await self._fetch_blob(upstream, repository, fetch)
            fetch.size = (await self._pulls.blob(repository, fetch.digest)).size  # it may not have been known before
            error = None
        except BoltsealError as failed:
            error = client_error(failed, BlobUnknown)
            if not isinstance(error, BlobUnknown):
                _log.warning("blob not fetched", repository=repository, reason=error.message)
        except Exception:  # noqa: BLE001 - the outermost layer of this task: waiting clients must get an error
            error = Unavailable("this registry failed to fetch the blob; see its log")
            _log.exception("blob not fetched: internal error", repository=repository, digest=str(fetch.digest))
        finally:
            self._fetches.pop((repository, fetch.digest), None)
            fetch.end(error)

    async def _fetch_blob(self, upstream: Upstream, repository: Repository, fetch: Fetch) -> None:
        key = FetchKey(repository, UploadId.of(fetch.digest))
        while not await self.stored(repository, fetch.digest):
            try:
                async with self._locks.taken(f"blob {repository} {fetch.digest}", 0):
                    if not await self._add_known(upstream, repository, fetch):
                        await self._blobs.uploads.start_upload(key)
                        async with self._blobs.uploads.open_upload(key, fetch.digest) as writer:
                            await self._receive(upstream, repository, fetch, key, writer)
                    return
            except LockNotAcquired:
                await self._watch(fetch, key)

    async def _add_known(self, upstream: Upstream, repository: Repository, fetch: Fetch) -> bool:
        """Return whether no bytes need to be fetched: the repository has the blob, or another one of the same upstream.

        In the second case a HEAD asks upstream whether this repository has the blob too: upstream's access rules decide.
        """
        if await self.stored(repository, fetch.digest):
            return True
        await self._wait_verified_elsewhere(fetch)
        prefix = f"{upstream.terms.name}/"
        copies = await self._pulls.repositories_with_blob(fetch.digest)
        size = next((copy.size for copy in copies if copy.repository.startswith(prefix)), None)
        if size is None or fetch.size not in (None, size):
            return False
        stored = await self._blobs.stat(fetch.digest)
        if stored is None or stored.size != size:
            return False
        async with self._limits.asking(upstream):
            remote_size = await upstream.client.has_blob(upstream.remote(repository), fetch.digest)
        if remote_size != size:
            return False
        await self.uploads.add_blob(repository, fetch.digest, size, upstream.actor)
        return True

    async def _wait_verified_elsewhere(self, fetch: Fetch) -> None:
        """Wait for fetches of the same blob into other repositories that only wait for the disk: clients have the bytes."""
        for other in list(self._fetches.values()):
            if other is not fetch and other.digest == fetch.digest and other.is_verified:
                with contextlib.suppress(BoltsealError):
                    await other.wait_stored()

    async def _watch(self, fetch: Fetch, key: FetchKey) -> None:
        """Relay for a while what another process is writing."""
        with contextlib.suppress(UploadUnknown):
            fetch.use(await self._blobs.uploads.open_partial(key))
            for _ in range(round(WATCH_DURATION_S / WATCH_INTERVAL_S)):
                fetch.advance()
                await asyncio.sleep(WATCH_INTERVAL_S)
        await asyncio.sleep(WATCH_INTERVAL_S)  # the file does not exist before the first byte and after the last

    async def _receive(
        self, upstream: Upstream, repository: Repository, fetch: Fetch, key: FetchKey, writer: UploadWriter
    ) -> None:
        if writer.offset < fetch.arrived:
            raise fetch.dropped()
        fetch.use(await self._blobs.uploads.open_partial(key))
        try:
            async with self._limits.asking(upstream, stream=True):
                await self._arrive(upstream, repository, fetch, writer)
            released_us = await self.uploads.released(fetch.digest)
            size = await writer.commit(fetch.digest, partial(_soon, asyncio.get_running_loop(), fetch.verified))
        except DigestInvalid as error:
            await self._drop(key)
            raise RemoteMismatch(
                f"{upstream.terms.name}: blob {fetch.digest.short} does not match its digest: not used"
            ) from error
        except (RemoteMismatch, RemoteNotFound):
            await self._drop(key)
            raise
        await self.uploads.add_committed(repository, fetch.digest, size, upstream.actor, released_us)
        self._count(BLOBS_FETCHED)

    async def _arrive(self, upstream: Upstream, repository: Repository, fetch: Fetch, writer: UploadWriter) -> None:
        """Receive the whole blob, over several connections where one ends early."""
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
        raise RemoteUnavailable(f"{name} sent only {writer.offset} of the {fetch.size} bytes of {fetch.digest.short}")

    async def _take(self, name: str, fetch: Fetch, arriving: BlobStream, writer: UploadWriter) -> None:
        """Receive what one connection delivers."""
        if fetch.size is None and arriving.size is None:
            raise RemoteMismatch(f"{name} does not say how large blob {fetch.digest.short} is: not fetched")
        if fetch.size is None:
            fetch.size = arriving.size
        size = fetch.size or 0
        if arriving.size is not None and arriving.size != size:
            raise RemoteMismatch(f"{name}: blob {fetch.digest.short} has {size} bytes, not {arriving.size}: not stored")
        next_check = 0
        async with aclosing(arriving.pieces) as pieces:
            async for piece in pieces:
                if writer.offset + len(piece) > size:
                    raise RemoteMismatch(f"{name} sends more than the {size} bytes of {fetch.digest.short}: not stored")
                if writer.offset >= next_check:
                    self._check_disk(size - writer.offset)
                    next_check = writer.offset + CHECK_INTERVAL_BYTES
                await writer.write(piece)
                if len(piece) < PIECE_BYTES:  # a slow upstream: waiting clients get each piece at once
                    await writer.expose()
                fetch.advance()

    async def _drop(self, key: FetchKey) -> None:
        with contextlib.suppress(UploadUnknown):
            await self._blobs.uploads.cancel_upload(key)


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Call a function on the event loop. For threads."""
    loop.call_soon_threadsafe(call)
