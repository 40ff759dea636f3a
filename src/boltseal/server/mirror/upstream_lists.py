"""Relays lists of upstreams: the tags of a repository, and the referrers of a manifest.

A list is fetched whole, once per window (`fresh`) for all clients of this process, and paged here, because upstreams page
in different ways. If upstream fails, the last list is served, or else what the store knows: the tags that were seen, the
referrers that were pulled. Both carry a warning, because they may be incomplete. If there is neither, the answer is an
error and not an empty list: a client may act on "no signatures".
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final, Generic, TypeVar

from boltseal.errors import BoltsealError
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository, Tag
from boltseal.server.mirror.errors import UpstreamFailed, client_error
from boltseal.server.mirror.single_flight import SingleFlight
from boltseal.server.mirror.upstream_limits import UpstreamLimits
from boltseal.server.mirror.upstreams import Upstream
from boltseal.server.registry.models import ReferrerRow
from boltseal.server.registry.pulls import Pulls, RepositoryUnknown
from boltseal.server.storage.metadata import mirrored
from boltseal.server.storage.metadata.protocol import Metadata

ITEM_BYTES: Final = 100
FAILED_US: Final = 30_000_000
"""How long the substitute of a list is served before upstream is asked for the list again."""


@dataclass(frozen=True, slots=True)
class ListBounds:
    """The limits of lists: their length, the time to fetch one, and about how much memory each kind may take."""

    names: int = 200_000
    referrers: int = 20_000
    timeout_s: float = 60.0
    cache_bytes: int = 64 * 1024 * 1024


Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class UpstreamList(Generic[Item]):
    """A whole list. `asked_us`: the time of the answer. `warning`: why it may be incomplete, None where it is not."""

    items: tuple[Item, ...]
    asked_us: int = 0
    warning: str | None = None


class _ListCache(Generic[Item]):
    """A cache of lists, of about `cache_bytes`; the oldest go first. `weigh`: about how many bytes an item takes."""

    def __init__(self, weigh: Callable[[Item], int], cache_bytes: int) -> None:
        self._weigh = weigh
        self._limit_bytes = cache_bytes
        self._lists: OrderedDict[Hashable, tuple[UpstreamList[Item], int]] = OrderedDict()
        self._held_bytes = 0

    def get(self, key: Hashable) -> UpstreamList[Item] | None:
        found = self._lists.get(key)
        return None if found is None else found[0]

    def put(self, key: Hashable, listed: UpstreamList[Item]) -> None:
        weight = ITEM_BYTES + sum(map(self._weigh, listed.items))
        self._held_bytes += weight - self._lists.pop(key, (listed, 0))[1]
        self._lists[key] = listed, weight
        while self._held_bytes > self._limit_bytes:
            self._held_bytes -= self._lists.popitem(last=False)[1][1]


def _of_tag(tag: Tag) -> int:
    return ITEM_BYTES + len(tag)


def _of_referrer(row: ReferrerRow) -> int:
    texts = (row.media_type, row.artifact_type or "", *chain.from_iterable(row.annotations.items()))
    return ITEM_BYTES * (len(texts) + 2) + 4 * sum(map(len, texts))  # a character may take four


class UpstreamLists:
    """The lists of all upstreams. One per process. `clock`: microseconds since the epoch."""

    def __init__(
        self,
        database: Metadata,
        pulls: Pulls,
        limits: UpstreamLimits,
        clock: Callable[[], int],
        bounds: ListBounds = ListBounds(),
    ) -> None:
        self._database = database
        self._pulls = pulls
        self._limits = limits
        self._clock = clock
        self._bounds = bounds
        self._tags: _ListCache[Tag] = _ListCache(_of_tag, bounds.cache_bytes)
        self._referrers: _ListCache[ReferrerRow] = _ListCache(_of_referrer, bounds.cache_bytes)
        self._tag_requests: SingleFlight[Hashable, UpstreamList[Tag]] = SingleFlight()
        self._referrer_requests: SingleFlight[Hashable, UpstreamList[ReferrerRow]] = SingleFlight()

    async def aclose(self) -> None:
        """Cancel running fetches."""
        await self._tag_requests.aclose()
        await self._referrer_requests.aclose()

    async def tags(self, upstream: Upstream, repository: Repository) -> UpstreamList[Tag]:
        """Return every tag, sorted by bytes.

        Raises:
            RepositoryUnknown: upstream has no such repository.
            BoltsealError: upstream failed, and there is no substitute.
        """

        async def fetch() -> tuple[Tag, ...]:
            names = set()
            async for name in upstream.client.tags(upstream.remote(repository)):
                names.add(name)
                if len(names) > self._bounds.names:
                    raise UpstreamFailed(
                        f"{upstream.terms.name} lists more than {self._bounds.names} tags of {repository}"
                    )
            return tuple(sorted(names))

        async def stored() -> tuple[Tag, ...]:
            names = await self._database.read(lambda found: mirrored.known_tags(found, repository, self._bounds.names))
            return tuple(Tag(name) for name in names)

        return await self._list(self._tags, self._tag_requests, repository, upstream, fetch, stored)

    async def referrers(self, upstream: Upstream, repository: Repository, digest: Digest) -> UpstreamList[ReferrerRow]:
        """Return all referrers of a manifest, sorted by digest.

        Raises:
            BoltsealError: upstream failed, and there is no substitute.
        """

        async def fetch() -> tuple[ReferrerRow, ...]:
            found = await upstream.client.referrers(upstream.remote(repository), digest)
            if len(found) > self._bounds.referrers:
                raise UpstreamFailed(
                    f"{upstream.terms.name} lists more than {self._bounds.referrers} referrers of {digest.short}"
                )
            rows = {
                str(each.digest): ReferrerRow(
                    each.media_type, each.digest, each.size, each.artifact_type, dict(each.annotations)
                )
                for each in found
            }
            return tuple(rows[name] for name in sorted(rows))

        async def stored() -> tuple[ReferrerRow, ...]:
            return (await self._pulls.referrers(repository, digest, None, n=self._bounds.referrers)).rows

        key = repository, digest
        return await self._list(self._referrers, self._referrer_requests, key, upstream, fetch, stored)

    async def _list(
        self,
        cache: _ListCache[Item],
        requests: SingleFlight[Hashable, UpstreamList[Item]],
        key: Hashable,
        upstream: Upstream,
        fetch: Callable[[], Coroutine[Any, Any, tuple[Item, ...]]],
        stored: Callable[[], Coroutine[Any, Any, tuple[Item, ...]]],
    ) -> UpstreamList[Item]:
        before = cache.get(key)
        if before is not None and self._clock() - before.asked_us < upstream.terms.fresh_us:
            return before

        async def work() -> UpstreamList[Item]:
            try:
                async with asyncio.timeout(self._bounds.timeout_s), self._limits.asking(upstream):
                    listed = UpstreamList(await fetch(), self._clock())
            except TimeoutError:
                failed: BoltsealError = UpstreamFailed(f"{upstream.terms.name} did not send its list in time")
            except BoltsealError as error:
                failed = client_error(error, RepositoryUnknown)
            else:
                cache.put(key, listed)
                return listed
            if isinstance(failed, RepositoryUnknown):
                raise failed
            listed = before or UpstreamList(await stored())
            if not listed.items:
                raise failed
            age_us = max(0, upstream.terms.fresh_us - FAILED_US)  # so the substitute is fresh for FAILED_US
            listed = replace(listed, asked_us=self._clock() - age_us, warning=failed.message)
            cache.put(key, listed)
            return listed

        return await requests.once(key, work)
