"""Lists the tags of a repository for people: by version, by time or by name, in pages, with size and platforms of their images.

The order by version or time needs all names of a repository. It is kept in memory until one of its tags changes, which
`TagsStamp` shows, so that a page reads the rows of its own tags and no others. A repository with more than `MAX_SORTED` tags
is listed by name alone, which needs no more than an index.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Final, TypeVar

from boltseal.oci.digest import Digest
from boltseal.oci.layer_chain import ChainDocument, ImageChain, IndexedImage, parse_chain
from boltseal.oci.reference import Repository
from boltseal.policy.version_lines import VersionKey, version_key
from boltseal.server.registry.pulls import RepositoryUnknown
from boltseal.server.storage.metadata import layer_chain_table, page_queries, tag_states
from boltseal.server.storage.metadata.page_queries import ManifestAt, TagsStamp, TagTime
from boltseal.server.storage.metadata.protocol import Metadata, Snapshot
from boltseal.server.storage.metadata.tag_row import TagRow
from boltseal.server.storage.metadata.tag_states import StoredTag

MAX_SORTED: Final = 100_000
"""A repository with more tags is listed by name alone."""
MAX_KEPT: Final = 200_000
"""Names of tags that this process keeps in order, of all repositories together."""
MAX_LINES: Final = 40
"""Version lines of a repository that a page links to, the newest ones."""
MAX_IMAGES: Final = 500
"""Images of indexes whose sizes one page reads."""


class TagOrder(StrEnum):
    """The order of a list of tags. By version and by time the newest tag is the first."""

    VERSION = "version"
    TIME = "time"
    NAME = "name"


@dataclass(frozen=True, slots=True)
class VersionLine:
    """A version line of a repository, and how many tags it has."""

    name: str
    tags: int


@dataclass(frozen=True, slots=True)
class ListedImage:
    """What is known of a tag's image. `size_bytes`: of config and layers as they are stored; of an index: of its largest image.

    A value None is not known. `pulled_us`: the last pull, recorded for mirrored repositories only.
    """

    size_bytes: int | None
    platforms: tuple[str, ...]
    pulled_us: int | None


NOT_KNOWN: Final = ListedImage(None, (), None)


@dataclass(frozen=True, slots=True)
class Referring:
    """What refers to images. `types`: digests, each with an artifact type. `tagged`: digests of images with a signature tag."""

    types: frozenset[tuple[str, str]]
    tagged: frozenset[str]


@dataclass(frozen=True, slots=True)
class ListedTag:
    """A tag of a list. `line`: its version line, "" without a version."""

    name: str
    line: str
    row: TagRow
    image: ListedImage


@dataclass(frozen=True, slots=True)
class TagListPage:
    """A page of tags. `order`: the order that was used. `lines`: the newest version lines of the repository.

    `tags`: how many tags the repository has; None: not counted.
    """

    order: TagOrder
    listed: tuple[ListedTag, ...]
    more: bool
    lines: tuple[VersionLine, ...]
    tags: int | None


@dataclass(frozen=True, slots=True)
class PageAfter:
    """The tag after which a page begins; "" for the first page. `changed_us`: of that tag, for the order by time."""

    name: str = ""
    changed_us: int = 0


FIRST: Final = PageAfter()
_Key = TypeVar("_Key", VersionKey, tuple[int, str])


class _Sorted:
    """All tags of a repository, in the order of their versions and of their times, the newest last."""

    def __init__(self, times: Sequence[TagTime]) -> None:
        self._times = times
        self.by_version = sorted(version_key(each.name) for each in times)
        counted = Counter(key.line for key in self.by_version)
        newest_first = list(dict.fromkeys(key.line for key in reversed(self.by_version)))
        self.lines = tuple(VersionLine(line, counted[line]) for line in newest_first[:MAX_LINES])

    def __len__(self) -> int:
        return len(self._times)

    @cached_property
    def by_time(self) -> list[tuple[int, str]]:
        """Time and name of each tag."""
        return sorted((each.changed_us, each.name) for each in self._times)

    def names(self, order: TagOrder, after: PageAfter, line: str | None, wanted: int) -> list[str]:
        """Return the next names in an order. `line`: only of this version line."""
        if order is TagOrder.TIME:
            return [
                name for _, name in _below(self.by_time, (after.changed_us, after.name) if after.name else None, wanted)
            ]
        keys = self.by_version if line is None else [key for key in self.by_version if key.line == line]
        return [key.tag for key in _below(keys, version_key(after.name) if after.name else None, wanted)]


def _below(ascending: Sequence[_Key], key: _Key | None, wanted: int) -> list[_Key]:
    """Return the next values below a key, the highest first. `key` None: from the highest one on."""
    end = len(ascending) if key is None else bisect_left(ascending, key)
    return list(reversed(ascending[max(0, end - wanted) : end]))


class TagLists:
    """Lists the tags of one store. One per process. `max_sorted`: a repository with more tags is listed by name alone."""

    def __init__(self, database: Metadata, max_sorted: int = MAX_SORTED) -> None:
        self._max_sorted = max_sorted
        self._database = database
        self._kept: OrderedDict[int, tuple[TagsStamp, _Sorted]] = OrderedDict()
        self._lock = threading.Lock()

    async def page(
        self, repository: Repository, order: TagOrder, after: PageAfter, n: int, line: str | None = None
    ) -> TagListPage:
        """Return a page of the tags that resolve to something. `line`: only of this version line, in the order of versions.

        Raises: RepositoryUnknown: nothing was ever pushed to it.
        """
        return await self._database.read(lambda snapshot: self._page(snapshot, repository, order, after, n, line))

    async def images(self, repository: Repository, digests: Sequence[str]) -> Mapping[str, ListedImage]:
        """Return what is known of images of a repository, by digest; nothing if nothing was ever pushed to it."""

        def query(snapshot: Snapshot) -> Mapping[str, ListedImage]:
            number = page_queries.repository_number(snapshot, repository)
            if number is None:
                return {}
            image_of = _images(snapshot, repository, number, digests)
            return {digest: image_of(digest) for digest in digests}

        return await self._database.read(query)

    async def referring(self, repository: Repository, digests: Sequence[str]) -> Referring:
        """Return what refers to these images of a repository; nothing if nothing was ever pushed to it."""
        tags = {f"{Digest.parse(each).as_tag}.sig": each for each in digests}

        def query(snapshot: Snapshot) -> Referring:
            number = page_queries.repository_number(snapshot, repository)
            if number is None:
                return Referring(frozenset(), frozenset())
            rows = page_queries.tags_named(snapshot, repository, number, sorted(tags))
            signed = frozenset(tags[name] for name, each in rows.items() if each.row.digest is not None)
            return Referring(frozenset(page_queries.referring_types(snapshot, number, sorted(digests))), signed)

        return await self._database.read(query)

    async def resolving(self, repository: Repository, digest: str, n: int) -> tuple[str, ...]:
        """Return at most `n` tags of a repository that resolve to a digest now, sorted by name."""

        def query(snapshot: Snapshot) -> tuple[str, ...]:
            number = page_queries.repository_number(snapshot, repository)
            if number is None:
                return ()
            at = ManifestAt("", number, repository, digest)
            return tuple(each.name for each in page_queries.tags_resolving(snapshot, [at], n))

        return await self._database.read(query)

    def _page(
        self, snapshot: Snapshot, repository: Repository, order: TagOrder, after: PageAfter, n: int, line: str | None
    ) -> TagListPage:
        number = page_queries.repository_number(snapshot, repository)
        if number is None:
            raise RepositoryUnknown(f"nothing was ever pushed to {repository}")
        known = self._sorted(snapshot, number)
        if known is None or order is TagOrder.NAME:
            order = TagOrder.NAME
            stored = tag_states.tags_of(snapshot, repository, after.name, n + 1, deleted=False) or []
        else:
            names = known.names(order, after, line if order is TagOrder.VERSION else None, n + 1)
            rows = page_queries.tags_named(snapshot, repository, number, names)
            stored = [rows[name] for name in names if name in rows]
        return TagListPage(
            order,
            tuple(_listed(snapshot, repository, number, stored[:n])),
            len(stored) > n,
            () if known is None else known.lines,
            None if known is None else len(known),
        )

    def _sorted(self, snapshot: Snapshot, number: int) -> _Sorted | None:
        """Return a repository's tags in order; None if there are too many. Called in the threads that read."""
        stamp = page_queries.tags_stamp(snapshot, number)
        if stamp.number > self._max_sorted:
            return None
        found = self._kept.get(number)
        if found is None or found[0] != stamp:
            found = (stamp, _Sorted(page_queries.tag_times(snapshot, number)))
            with self._lock:  # another thread may have done the same meanwhile: one of the two equal values stays
                self._kept[number] = found
                while sum(len(each) for _, each in self._kept.values()) > MAX_KEPT:
                    self._kept.popitem(last=False)
        return found[1]


def _listed(snapshot: Snapshot, repository: Repository, number: int, stored: Sequence[StoredTag]) -> list[ListedTag]:
    digests = sorted({str(each.row.digest) for each in stored if each.row.digest is not None})
    image_of = _images(snapshot, repository, number, digests)
    return [
        ListedTag(each.name, version_key(each.name).line, each.row, image_of(str(each.row.digest))) for each in stored
    ]


def _images(
    snapshot: Snapshot, repository: Repository, number: int, digests: Sequence[str]
) -> Callable[[str], ListedImage]:
    """Return a function from each of these digests to what is known of its image."""
    chains = {
        digest: parse_chain(text) for digest, text in layer_chain_table.documents(snapshot, repository, digests).items()
    }
    parts = {digest: [image.digest for image in chain.images or ()] for digest, chain in chains.items()}
    within = [part for some in parts.values() for part in some]
    left_out, within = set(within[MAX_IMAGES:]), within[:MAX_IMAGES]
    sizes = page_queries.image_sizes(snapshot, number, sorted({*digests, *within}))
    pulls = page_queries.last_pulls(snapshot, number, digests)

    def image_of(digest: str) -> ListedImage:
        chain = chains.get(digest, ChainDocument())
        all_parts = (digest, *parts.get(digest, ()))
        known = [] if left_out.intersection(all_parts) else [sizes[each] for each in all_parts if each in sizes]
        return ListedImage(max(known, default=None), _platforms(chain), pulls.get(digest))

    return image_of


def _platforms(chain: ChainDocument) -> tuple[str, ...]:
    each: Sequence[ImageChain | IndexedImage] = chain.images or (() if chain.image is None else (chain.image,))
    found = ("/".join(filter(None, (one.os, one.architecture, one.variant))) for one in each)
    return tuple(dict.fromkeys(name for name in found if name and not name.startswith("unknown/")))
