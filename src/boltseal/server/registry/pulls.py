"""Reads of the registry: manifests, blobs and lists. A request sees only what its repository has.

The digest of a sealed tag, and content addressed by digest, never change, so they are cached. The store's generation
changes when any process deletes, unseals or purges something; then all caches are cleared. A mutable tag is looked up
each time.

While the database does not answer, sealed tags and content by digest are answered from these caches, for as long as
`Generation.stale` allows. So a transaction that takes something away is acknowledged after that time (`coordination.replica_rows`).
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import ClassVar, Final, Generic, NamedTuple, TypeVar

from boltseal.errors import ErrorCode, NotFound, Unavailable
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import ManifestInvalid, parse_manifest
from boltseal.oci.reference import Repository, Tag
from boltseal.server.registry.absent_tags import sealed_at
from boltseal.server.registry.models import BlobAnswer, ManifestAnswer, Page, ReferrerRow, ReferrersPage
from boltseal.server.storage.blobs.protocol import BlobStore
from boltseal.server.storage.coordination.outages import ASK_S, GIVE_UP_S, is_outage
from boltseal.server.storage.metadata import name_lists, queries
from boltseal.server.storage.metadata.protocol import Metadata, Snapshot
from boltseal.server.storage.metadata.queries import ManifestRow

Key = TypeVar("Key")
Value = TypeVar("Value")

MANIFEST_CACHE_BYTES: Final = 64 * 1024 * 1024
ANSWER_OVERHEAD_BYTES: Final = 1000
CATALOG_BATCH: Final = 1000
CATALOG_MIN_BATCH: Final = 100
"""Names that are read at once for a short page: most of them may be unreadable for the caller."""
BLOB_CACHE_ITEMS: Final = 50_000
REDIRECT_FOR_S: Final = 60
"""How long the address of a redirect is valid: a client follows it at once, and a download that has begun goes on."""
MAX_REFERRERS_BYTES: Final = 8 * 1024 * 1024


class ManifestUnknown(NotFound):
    """The repository has no such tag or manifest."""

    code: ClassVar[ErrorCode | None] = ErrorCode.MANIFEST_UNKNOWN


class TagDeleted(ManifestUnknown):
    """The sealed tag was deleted. It can return only with the digest `bound`, given as text."""

    def __init__(self, message: str, bound: str) -> None:
        super().__init__(message)
        self.bound = bound


class BlobUnknown(NotFound):
    """The repository has no such blob, whatever other repositories have."""

    code: ClassVar[ErrorCode | None] = ErrorCode.BLOB_UNKNOWN


class RepositoryUnknown(NotFound):
    """Nothing was ever pushed to this name."""

    code: ClassVar[ErrorCode | None] = ErrorCode.NAME_UNKNOWN


class BlobCopy(NamedTuple):
    """A repository that has a blob, and the blob's size."""

    repository: Repository
    size: int


class _Cache(Generic[Key, Value]):
    """A cache that drops its oldest items. `limit`: the total weight of the items that it keeps."""

    def __init__(self, limit: int) -> None:
        self._items: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._limit = limit
        self._weight = 0

    def get(self, key: Key) -> Value | None:
        found = self._items.get(key)
        return None if found is None else found[0]

    def put(self, key: Key, value: Value, weight: int = 1) -> None:
        before = self._items.pop(key, None)
        if before is not None:
            self._weight -= before[1]
        if weight > self._limit // 8:
            return
        self._items[key] = (value, weight)
        self._weight += weight
        while self._weight > self._limit:
            self._weight -= self._items.popitem(last=False)[1][1]

    def clear(self) -> None:
        self._items.clear()
        self._weight = 0


class Pulls:
    """Every read of the registry, with its caches. One per process, used from the event loop's thread."""

    def __init__(self, database: Metadata, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs
        self._generation = database.generation
        self._cached_generation = -1
        self._tagged: _Cache[tuple[str, str], ManifestAnswer] = _Cache(MANIFEST_CACHE_BYTES)
        self._manifests: _Cache[tuple[str, str], ManifestAnswer] = _Cache(MANIFEST_CACHE_BYTES)
        self._sizes: _Cache[tuple[str, str], BlobAnswer] = _Cache(BLOB_CACHE_ITEMS)

    async def known(self, repository: Repository) -> bool:
        """Return whether a repository of this name exists or ever existed."""
        return await self._database.lookups.content.repository(repository)

    async def manifest(self, repository: Repository, reference: Tag | Digest) -> ManifestAnswer:
        """Return the manifest with this digest, or that a tag resolves to now (end-3).

        Raises:
            ManifestUnknown: the repository has no such manifest or tag.
            TagDeleted: the tag was sealed and deleted.
            Unavailable: the database does not answer, and no cached answer may be sent.
        """
        if self._generation.stale() is None:
            return await self._manifest(repository, reference)
        return await self._or_stale(
            lambda: self._manifest(repository, reference), lambda: self._cached_manifest(repository, reference)
        )

    async def _manifest(self, repository: Repository, reference: Tag | Digest) -> ManifestAnswer:
        generation = self._cacheable()
        if isinstance(reference, Digest):
            stored = await self._by_digest(repository, reference, generation)
            if stored is None:
                raise ManifestUnknown(f"{repository} has no manifest {reference}")
            return stored
        key = (repository, reference)
        known = None if generation is None else self._tagged.get(key)
        if known is not None and known.sealed:
            return known
        found = await self._database.lookups.content.tag(repository, reference)
        if found is None:
            raise await self._no_tag(repository, reference)
        if known is not None and (str(known.digest), known.sealed, known.settles_us) == found:
            return known
        held = await self._by_digest(repository, Digest.parse(found.digest), generation)
        if held is None:
            raise ManifestUnknown(
                f"tag {reference} of {repository} resolves to {found.digest}, and that manifest is missing here; push that image again"
            )
        answer = ManifestAnswer(
            held.raw,
            held.media_type,
            held.digest,
            held.size,
            sealed=found.sealed,
            by_digest=False,
            settles_us=found.settles_us,
        )
        if self._still_cacheable(generation):
            self._tagged.put(key, answer, weight=answer.size + ANSWER_OVERHEAD_BYTES)
        return answer

    async def stored_manifest(self, repository: Repository, digest: Digest) -> ManifestAnswer | None:
        """Return the manifest with this digest, None if the repository does not have it."""
        return await self._by_digest(repository, digest, self._cacheable())

    async def blob(self, repository: Repository, digest: Digest, *, hidden: bool = False) -> BlobAnswer:
        """Return the size and path of a blob of the repository (end-2).

        `hidden`: return it also while garbage collection hides it from clients, for a push of a manifest that refers to it.

        Raises:
            BlobUnknown: the repository has no such blob.
            Unavailable: the database does not answer, and no cached answer may be sent.
        """
        if self._generation.stale() is None:
            return await self._blob(repository, digest, hidden=hidden)
        key = (repository, str(digest))
        return await self._or_stale(lambda: self._blob(repository, digest, hidden=hidden), lambda: self._sizes.get(key))

    async def _blob(self, repository: Repository, digest: Digest, *, hidden: bool) -> BlobAnswer:
        generation = self._cacheable()
        key = (repository, str(digest))
        if generation is not None:
            known = self._sizes.get(key)
            if known is not None:
                return known
        found = await self._database.lookups.content.blob(*key)
        if found is None or (found.hidden and not hidden):
            raise BlobUnknown(f"{repository} has no blob {digest}")
        answer = BlobAnswer(digest, found.size, self._blobs.path(digest))
        if self._still_cacheable(generation) and not found.hidden:
            self._sizes.put(key, answer)
        return answer

    async def named_size(self, repository: Repository, digest: Digest) -> int | None:
        """Return a blob's size as a manifest of the repository states it, None where none does."""

        def query(snapshot: Snapshot) -> int | None:
            named_by = queries.parent_manifest(snapshot, repository, str(digest))
            if named_by is None:
                return None
            # Parsed in the reader thread, because it may be large.
            links = parse_manifest(named_by.raw, named_by.media_type).references()
            return next((link.descriptor.size for link in links if link.descriptor.digest == digest), None)

        return await self._database.read(query)

    async def pushed_by(self, repository: Repository, digest: Digest) -> str | None:
        """Return who pushed a manifest first, None if the repository does not have it."""
        found = await self._database.read(lambda snapshot: queries.manifests_of(snapshot, repository, [str(digest)]))
        return next((row.pushed_by for row in found.values()), None)

    def generation(self) -> int | None:
        """Return the store's generation, for caching answers that are read after this call; None: cache nothing now."""
        now = self._generation.read()
        return now if now % 2 == 0 else None

    async def repositories_with_blob(self, digest: Digest) -> list[BlobCopy]:
        """Return the repositories that have a blob, and its size in each. Never show this to a client: repositories are isolated."""
        rows = await self._database.read(lambda snapshot: queries.repositories_with_blob(snapshot, str(digest), None))
        return [BlobCopy(Repository(row.repository), row.size) for row in rows]

    def read_blob(self, digest: Digest, start: int, length: int) -> AsyncIterator[bytes]:
        """Return the bytes [start, start + length) of a blob that `blob` has returned."""
        return self._blobs.read(digest, start, length)

    async def has_bytes(self, found: BlobAnswer) -> bool:
        """Return whether the bytes of a blob that `blob` has returned are stored. Raises: StoreBroken."""
        stored = await self._blobs.stat(found.digest)
        return stored is not None and stored.size == found.size

    async def redirect_url(self, digest: Digest) -> str | None:
        """Return an address for the GET of a blob that `blob` has returned, None to send its bytes. It is a secret."""
        if self._blobs.redirect is None:
            return None
        return await self._blobs.redirect.redirect_url(digest, REDIRECT_FOR_S)

    async def tags(self, repository: Repository, n: int | None, last: str | None) -> Page[Tag]:
        """Return a page of the repository's tags after `last`, sorted by bytes (end-8).

        Raises:
            RepositoryUnknown: nothing was ever pushed to it.
        """

        def query(snapshot: Snapshot) -> tuple[list[str] | None, list[str]]:
            names = name_lists.tag_names(snapshot, repository, last or "", _one_more(n))
            return names, name_lists.settling_names(snapshot, repository, (names or [])[:n])

        names, settling = await self._database.read(query)
        if names is None:
            raise RepositoryUnknown(f"nothing was ever pushed to {repository}")
        return Page(tuple(Tag(name) for name in names[:n]), _more(names, n), tuple(Tag(name) for name in settling))

    async def catalog(
        self, n: int | None, last: str | None, *, may_read: Callable[[str], bool], batch: int = CATALOG_BATCH
    ) -> Page[Repository]:
        """Return a page of the readable, non-empty repositories after `last`, sorted by bytes.

        `batch`: how many names are read from the database at once. Between two batches other requests are read, as a caller
        who may read few repositories makes many batches.
        """
        wanted = _one_more(n)
        found: list[str] = []
        after = last or ""
        some = batch if wanted is None or not wanted < batch else max(wanted, CATALOG_MIN_BATCH)
        while wanted is None or len(found) < wanted:
            readable, end = await self._database.read(partial(_readable, after=after, limit=some, may_read=may_read))
            found += readable
            if end is None:
                break
            after, some = end, batch
        names = found[:wanted]
        return Page(tuple(Repository(name) for name in names[:n]), more=_more(names, n))

    async def referrers(
        self,
        repository: Repository,
        digest: Digest,
        artifact_type: str | None,
        *,
        after: str = "",
        n: int | None = None,
        max_bytes: int = MAX_REFERRERS_BYTES,
    ) -> ReferrersPage:
        """Return the manifests whose subject is this digest (end-12), and those that the fallback tag lists.

        They are sorted by digest. The page begins after `after` and has at most `n` rows. It ends early once its manifests
        have `max_bytes`, because an attacker may have pushed thousands with megabytes of annotations.
        """

        def query(snapshot: Snapshot) -> ReferrersPage:
            wanted = _one_more(n)
            sizes = queries.referrers(
                snapshot, repository, str(digest), artifact_type, after=after, limit=wanted, max_bytes=max_bytes
            )
            listed = set(_fallback_tag_lists(snapshot, repository, digest)) - sizes.keys()
            held = queries.sizes_of(snapshot, repository, [each for each in listed if each > after], artifact_type)
            sizes |= dict(sorted(held.items())[:wanted])
            following = sorted(sizes)
            page = _up_to(following[:n], sizes, max_bytes)
            rows = queries.manifests_of(snapshot, repository, page)
            return ReferrersPage(
                tuple(_referrer(rows[each]) for each in page if each in rows), len(page) < len(following)
            )

        return await self._database.read(query)

    async def _no_tag(self, repository: Repository, tag: Tag) -> ManifestUnknown:
        bound = await sealed_at(self._database, repository, tag)
        if bound is None:
            return ManifestUnknown(f"there is no tag {tag} in {repository}")
        return TagDeleted(f"tag {tag} of {repository} was deleted; it can return only with {bound}", bound)

    async def _by_digest(self, repository: Repository, digest: Digest, generation: int | None) -> ManifestAnswer | None:
        key = (repository, str(digest))
        if generation is not None:
            known = self._manifests.get(key)
            if known is not None:
                return known
        found = await self._database.lookups.content.manifest(*key)
        if found is None:
            return None
        answer = ManifestAnswer(found.raw, found.media_type, digest, len(found.raw), sealed=True, by_digest=True)
        if self._still_cacheable(generation):
            self._manifests.put(key, answer, weight=answer.size + ANSWER_OVERHEAD_BYTES)
        return answer

    def _cacheable(self) -> int | None:
        """Return the generation whose caches may be used and filled, None: no cache may be. Call before reading the database."""
        now = self._generation.read()
        if now % 2:  # not known now: what is cached may be right again, or sent stale
            return None
        if now != self._cached_generation:
            for cache in (self._tagged, self._manifests, self._sizes):
                cache.clear()
            self._cached_generation = now
        return now

    async def _or_stale(self, ask: Callable[[], Awaitable[Value]], cached: Callable[[], Value | None]) -> Value:
        """Return what the database answers while the generation is not confirmed or, where it does not answer, what may be sent stale."""
        found = self._stale(cached)
        if found is not None and is_outage(self._generation):
            return found
        try:
            async with asyncio.timeout(GIVE_UP_S if found is None else ASK_S):
                return await ask()
        except (Unavailable, TimeoutError):
            found = self._stale(cached)
            if found is None:
                raise Unavailable(
                    "the registry's database does not answer, and this is not in memory; try again"
                ) from None
            return found

    def _stale(self, cached: Callable[[], Value | None]) -> Value | None:
        """Return a cached answer that is not confirmed now, but may be sent; None if there is none."""
        stale = self._generation.stale()
        if stale is None or not stale.left_s or stale.number != self._cached_generation:
            return None
        return cached()

    def _cached_manifest(self, repository: Repository, reference: Tag | Digest) -> ManifestAnswer | None:
        if isinstance(reference, Digest):
            return self._manifests.get((repository, str(reference)))
        known = self._tagged.get((repository, reference))
        return known if known is not None and known.sealed else None

    def _still_cacheable(self, generation: int | None) -> bool:
        """Return whether what was read since `_cacheable` returned this may be cached: another request may have cleared the caches."""
        return generation is not None and generation == self._cached_generation


def _readable(
    snapshot: Snapshot, *, after: str, limit: int, may_read: Callable[[str], bool]
) -> tuple[list[str], str | None]:
    """Return the readable ones of the next repositories, and the last name that was read; None if no other follows."""
    names = name_lists.repository_names(snapshot, after, limit)
    return [name for name in names if may_read(name)], names[-1] if len(names) == limit else None


def _one_more(n: int | None) -> int | None:
    return None if n is None else n + 1


def _more(names: list[str], n: int | None) -> bool:
    return n is not None and n > 0 and len(names) > n


def _up_to(digests: list[str], sizes: dict[str, int], max_bytes: int) -> list[str]:
    """Return the first digests whose manifests together have about `max_bytes`, and at least one."""
    total_bytes = 0
    for number, digest in enumerate(digests):
        if total_bytes >= max_bytes:
            return digests[:number]
        total_bytes += sizes[digest]
    return digests


def _referrer(row: ManifestRow) -> ReferrerRow:
    return ReferrerRow(
        media_type=row.media_type,
        digest=Digest.parse(row.digest),
        size=row.size,
        artifact_type=row.artifact_type,
        annotations=json.loads(row.annotations) if row.annotations else {},
    )


def _fallback_tag_lists(snapshot: Snapshot, repository: Repository, digest: Digest) -> list[str]:
    """Return what a client listed under the fallback tag of the spec ("Referrers Tag Schema")."""
    found = queries.tagged_manifest(snapshot, repository, digest.as_tag)
    if found is None:
        return []
    try:
        index = parse_manifest(found.raw, found.media_type)
    except ManifestInvalid:
        return []
    return [str(descriptor.digest) for descriptor in index.manifests]
