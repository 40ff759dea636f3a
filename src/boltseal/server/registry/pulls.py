"""What goes out: manifests, blobs, lists. Reads only, and only what the asked repository holds.

A sealed tag's meaning and everything addressed by digest can't change, so once seen it is answered from memory. The
store's generation says when memory may be wrong (something was deleted, unsealed or purged, by whatever process): then
all of it is dropped. A floating tag is looked up each time.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import TYPE_CHECKING, ClassVar, Final, Generic, TypeVar

from boltseal.errors import ErrorCode, NotFound
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import ManifestInvalid, parse_manifest
from boltseal.oci.reference import Repository, Tag
from boltseal.server.registry.models import BlobAnswer, ManifestAnswer, Page, ReferrerRow, ReferrersPage
from boltseal.server.storage.metadata import queries

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from boltseal.server.storage.blobs.protocol import BlobStore
    from boltseal.server.storage.metadata.protocol import Metadata, Snapshot
    from boltseal.server.storage.metadata.queries import ManifestRow

Key = TypeVar("Key")
Value = TypeVar("Value")

MANIFEST_CACHE_BYTES: Final = 64 * 1024 * 1024
ANSWER_OVERHEAD_BYTES: Final = 1000
CATALOG_BATCH: Final = 1000
BLOB_CACHE_ITEMS: Final = 50_000
REFERRERS_HELD_BYTES: Final = 8 * 1024 * 1024


class ManifestUnknown(NotFound):
    """The repository has no such tag or holds no such manifest."""

    code: ClassVar[ErrorCode | None] = ErrorCode.MANIFEST_UNKNOWN


class TagDeleted(ManifestUnknown):
    """The tag is gone and its name is bound: it can come back only as `bound`, a digest as text."""

    def __init__(self, message: str, bound: str) -> None:
        super().__init__(message)
        self.bound = bound


class BlobUnknown(NotFound):
    """The repository holds no such blob, whatever other repositories hold."""

    code: ClassVar[ErrorCode | None] = ErrorCode.BLOB_UNKNOWN


class RepositoryUnknown(NotFound):
    """Nothing was ever pushed to this name."""

    code: ClassVar[ErrorCode | None] = ErrorCode.NAME_UNKNOWN


class _Bounded(Generic[Key, Value]):
    """A mapping that forgets its oldest items. `limit` is the sum of the weights that it keeps."""

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
    """Every read of the registry. One per process, used from the event loop's thread."""

    def __init__(self, database: Metadata, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs
        self._generation = database.generation
        self._cached_generation = -1
        self._tagged: _Bounded[tuple[str, str], ManifestAnswer] = _Bounded(MANIFEST_CACHE_BYTES)
        self._manifests: _Bounded[tuple[str, str], ManifestAnswer] = _Bounded(MANIFEST_CACHE_BYTES)
        self._sizes: _Bounded[tuple[str, str], BlobAnswer] = _Bounded(BLOB_CACHE_ITEMS)

    async def known(self, repository: Repository) -> bool:
        """Whether there is, or ever was, a repository of this name."""
        return await self._database.lookups.repository(repository)

    async def manifest(self, repository: Repository, reference: Tag | Digest) -> ManifestAnswer:
        """The manifest that a tag means now, or that has this digest (end-3). ManifestUnknown, TagDeleted."""
        may_cache = self._may_cache()
        if isinstance(reference, Digest):
            return await self._by_digest(repository, reference, may_cache=may_cache)
        key = (repository, reference)
        known = self._tagged.get(key) if may_cache else None
        if known is not None and known.sealed:
            return known
        found = await self._database.lookups.tag(repository, reference)
        if found is None:
            raise await self._no_tag(repository, reference)
        if known is not None and str(known.digest) == found.digest and not found.sealed:
            return known
        held = await self._by_digest(repository, Digest.parse(found.digest), may_cache=may_cache)
        answer = ManifestAnswer(held.raw, held.media_type, held.digest, held.size, sealed=found.sealed, by_digest=False)
        if may_cache:
            self._tagged.put(key, answer, weight=answer.size + ANSWER_OVERHEAD_BYTES)
        return answer

    async def blob(self, repository: Repository, digest: Digest) -> BlobAnswer:
        """Size and place of a blob that the repository holds (end-2). BlobUnknown."""
        may_cache = self._may_cache()
        key = (repository, str(digest))
        if may_cache:
            known = self._sizes.get(key)
            if known is not None:
                return known
        size = await self._database.lookups.blob_size(*key)
        if size is None:
            raise BlobUnknown(f"{repository} holds no blob {digest}")
        answer = BlobAnswer(digest, size, self._blobs.path(digest))
        if may_cache:
            self._sizes.put(key, answer)
        return answer

    async def named_size(self, repository: Repository, digest: Digest) -> int | None:
        """How large a blob is by a manifest of the repository that names it, None where none does."""

        def query(snapshot: Snapshot) -> int | None:
            named_by = queries.parent_manifest(snapshot, repository, str(digest))
            if named_by is None:
                return None
            links = parse_manifest(named_by[1], named_by[0]).references()  # here, as it may be large
            return next((link.descriptor.size for link in links if link.descriptor.digest == digest), None)

        return await self._database.read(query)

    def generation(self) -> int | None:
        """The store's generation, under which an answer may be kept that is asked for after this; None: none may be now."""
        now = self._generation.read()
        return now if now % 2 == 0 else None

    async def holders(self, digest: Digest) -> list[tuple[str, int]]:
        """The repositories that hold a blob, and its size in each. For us alone: between callers there are walls."""
        return await self._database.read(lambda snapshot: queries.repositories_with_blob(snapshot, str(digest), None))

    def read_blob(self, digest: Digest, start: int, length: int) -> AsyncIterator[bytes]:
        """The bytes [start, start + length) of a blob that `blob` found."""
        return self._blobs.read(digest, start, length)

    async def tags(self, repository: Repository, n: int | None, last: str | None) -> Page[Tag]:
        """A page of the repository's tags, sorted by bytes, behind `last` (end-8). RepositoryUnknown."""
        names = await self._database.read(
            lambda snapshot: queries.tag_names(snapshot, repository, last or "", _one_more(n))
        )
        if names is None:
            raise RepositoryUnknown(f"nothing was ever pushed to {repository}")
        return Page(tuple(Tag(name) for name in names[:n]), more=_more(names, n))

    async def catalog(
        self, n: int | None, last: str | None, *, may_read: Callable[[Repository], bool]
    ) -> Page[Repository]:
        """A page of the repositories that hold something and may be read, sorted by bytes, behind `last`."""

        def query(snapshot: Snapshot) -> list[str]:
            wanted = _one_more(n)
            found: list[str] = []
            after = last or ""
            while wanted is None or len(found) < wanted:
                names = queries.repository_names(snapshot, after, CATALOG_BATCH)
                found += [name for name in names if may_read(Repository(name))]
                if len(names) < CATALOG_BATCH:
                    break
                after = names[-1]
            return found[:wanted]

        names = await self._database.read(query)
        return Page(tuple(Repository(name) for name in names[:n]), more=_more(names, n))

    async def referrers(
        self,
        repository: Repository,
        digest: Digest,
        artifact_type: str | None,
        *,
        after: str = "",
        n: int | None = None,
        enough_bytes: int = REFERRERS_HELD_BYTES,
    ) -> ReferrersPage:
        """What the repository holds that names this digest as its subject (end-12), also by a fallback tag.

        In the order of digests, behind `after`, at most `n`, and no more after manifests of `enough_bytes`: somebody
        may have pushed thousands of annotations of megabytes.
        """

        def query(snapshot: Snapshot) -> ReferrersPage:
            sizes = dict(queries.referrers(snapshot, repository, str(digest), artifact_type))
            listed = _fallback_tag_lists(snapshot, repository, digest)
            for each in listed:
                if each not in sizes and each > after:
                    held = queries.manifests_of(snapshot, repository, [each]).get(each)
                    if held is not None and artifact_type in (None, held.artifact_type):
                        sizes[each] = held.size
            following = sorted(each for each in sizes if each > after)
            page = _up_to(following[:n], sizes, enough_bytes)
            rows = queries.manifests_of(snapshot, repository, page)
            return ReferrersPage(
                tuple(_referrer(rows[each]) for each in page if each in rows), len(page) < len(following)
            )

        return await self._database.read(query)

    async def _no_tag(self, repository: Repository, tag: Tag) -> ManifestUnknown:
        bound = await self._database.lookups.bound(repository, tag)
        if bound is None:
            return ManifestUnknown(f"there is no tag {tag} in {repository}")
        return TagDeleted(
            f"there is no tag {tag} in {repository} any more; its name can come back only as {bound}", bound
        )

    async def _by_digest(self, repository: Repository, digest: Digest, *, may_cache: bool) -> ManifestAnswer:
        key = (repository, str(digest))
        if may_cache:
            known = self._manifests.get(key)
            if known is not None:
                return known
        found = await self._database.lookups.manifest(*key)
        if found is None:
            raise ManifestUnknown(f"{repository} holds no manifest {digest}")
        answer = ManifestAnswer(found.raw, found.media_type, digest, len(found.raw), sealed=True, by_digest=True)
        if may_cache:
            self._manifests.put(key, answer, weight=answer.size + ANSWER_OVERHEAD_BYTES)
        return answer

    def _may_cache(self) -> bool:
        """Whether memory may be used and filled; read before the database is asked, see `server.storage.coordination.generation`."""
        now = self._generation.read()
        if now != self._cached_generation:
            for cache in (self._tagged, self._manifests, self._sizes):
                cache.clear()
            self._cached_generation = now
        return now % 2 == 0


def _one_more(n: int | None) -> int | None:
    return None if n is None else n + 1


def _more(names: list[str], n: int | None) -> bool:
    return n is not None and n > 0 and len(names) > n


def _up_to(digests: list[str], sizes: dict[str, int], enough_bytes: int) -> list[str]:
    """The first of the digests, until their manifests have so many bytes; one at least where there is one."""
    held = 0
    for number, digest in enumerate(digests):
        if held >= enough_bytes:
            return digests[:number]
        held += sizes[digest]
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
    """What a client listed at the tag that the spec has for a registry without referrers API ("Referrers Tag Schema")."""
    found = queries.tagged_manifest(snapshot, repository, f"{digest.algorithm}-{digest.hex[:64]}")
    if found is None:
        return []
    try:
        index = parse_manifest(found[1], found[0])
    except ManifestInvalid:
        return []
    return [str(descriptor.digest) for descriptor in index.manifests]
