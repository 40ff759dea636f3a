"""Lists of upstream's, relayed: the tags of a repository, and what refers to a manifest.

A list is asked for once in a window (`fresh`) for all clients of this process, whole, and paged here: upstreams page each
in their own way. Where upstream gives none, the last one stands in, and behind that what the store knows: the tags that
were seen, the referrers that were pulled; with a warning, as either may lack something. Where there is nothing to stand
in, that is an error and no empty list: "no signatures" is an answer that somebody may act on.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from boltseal.errors import BoltsealError
from boltseal.oci.reference import Tag
from boltseal.server.mirror.errors import UpstreamFailed, told
from boltseal.server.mirror.single_flight import SingleFlight
from boltseal.server.registry.models import ReferrerRow
from boltseal.server.registry.pulls import RepositoryUnknown
from boltseal.server.storage.metadata import mirrored

if TYPE_CHECKING:
    from collections.abc import Hashable

    from boltseal.oci.digest import Digest
    from boltseal.oci.reference import Repository
    from boltseal.server.mirror.upstream_limits import UpstreamLimits
    from boltseal.server.mirror.upstreams import Upstream
    from boltseal.server.registry.pulls import Pulls
    from boltseal.server.storage.metadata.protocol import Metadata

ITEM_BYTES: Final = 100
FAILED_US: Final = 30_000_000
"""How long an upstream that failed on a list is not asked for it again where something stands in."""


@dataclass(frozen=True, slots=True)
class ListBounds:
    """How long a list may be, and how long in coming; and about how much memory the tags, and the referrers, may take."""

    names: int = 200_000
    referrers: int = 20_000
    within_s: float = 60.0
    kept_bytes: int = 64 * 1024 * 1024


Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class UpstreamList(Generic[Item]):
    """A whole list. `asked_us`: from when on it is fresh, which is when upstream gave it. `warning`: why something may be
    missing, None where nothing is."""

    items: tuple[Item, ...]
    asked_us: int = 0
    warning: str | None = None


class _Kept(Generic[Item]):
    """The lists asked for last, up to about `kept_bytes`. `weigh`: about how many bytes an item takes."""

    def __init__(self, weigh: Callable[[Item], int], kept_bytes: int) -> None:
        self._weigh = weigh
        self._kept_bytes = kept_bytes
        self._lists: OrderedDict[Hashable, tuple[UpstreamList[Item], int]] = OrderedDict()
        self._held_bytes = 0

    def get(self, key: Hashable) -> UpstreamList[Item] | None:
        found = self._lists.get(key)
        return None if found is None else found[0]

    def put(self, key: Hashable, listed: UpstreamList[Item]) -> None:
        weight = ITEM_BYTES + sum(map(self._weigh, listed.items))
        self._held_bytes += weight - self._lists.pop(key, (listed, 0))[1]
        self._lists[key] = listed, weight
        while self._held_bytes > self._kept_bytes:
            self._held_bytes -= self._lists.popitem(last=False)[1][1]


def _of_tag(tag: Tag) -> int:
    return ITEM_BYTES + len(tag)


def _of_referrer(row: ReferrerRow) -> int:
    texts = (row.media_type, row.artifact_type or "", *chain.from_iterable(row.annotations.items()))
    return ITEM_BYTES * (len(texts) + 2) + 4 * sum(map(len, texts))  # a character may take four


class UpstreamLists:
    """Lists of all upstreams. One per process. `clock`: microseconds since the epoch."""

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
        self._tags: _Kept[Tag] = _Kept(_of_tag, bounds.kept_bytes)
        self._referrers: _Kept[ReferrerRow] = _Kept(_of_referrer, bounds.kept_bytes)
        self._tag_flights: SingleFlight[Hashable, UpstreamList[Tag]] = SingleFlight()
        self._referrer_flights: SingleFlight[Hashable, UpstreamList[ReferrerRow]] = SingleFlight()

    async def aclose(self) -> None:
        """End what is under way."""
        await self._tag_flights.aclose()
        await self._referrer_flights.aclose()

    async def tags(self, upstream: Upstream, repository: Repository) -> UpstreamList[Tag]:
        """Every tag, sorted by bytes. RepositoryUnknown, and what upstream failed with where nothing stands in."""

        async def ask() -> tuple[Tag, ...]:
            names = set()
            async for name in upstream.client.tags(upstream.remote(repository)):
                names.add(name)
                if len(names) > self._bounds.names:
                    raise UpstreamFailed(
                        f"{upstream.terms.name} lists more than {self._bounds.names} tags of {repository}"
                    )
            return tuple(sorted(names))

        async def here() -> tuple[Tag, ...]:
            names = await self._database.read(lambda found: mirrored.known_tags(found, repository, self._bounds.names))
            return tuple(Tag(name) for name in names)

        return await self._list(self._tags, self._tag_flights, repository, upstream, ask, here)

    async def referrers(self, upstream: Upstream, repository: Repository, digest: Digest) -> UpstreamList[ReferrerRow]:
        """All that refers to a manifest, by digest. What upstream failed with where nothing stands in."""

        async def ask() -> tuple[ReferrerRow, ...]:
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

        async def here() -> tuple[ReferrerRow, ...]:
            return (await self._pulls.referrers(repository, digest, None, n=self._bounds.referrers)).rows

        key = repository, digest
        return await self._list(self._referrers, self._referrer_flights, key, upstream, ask, here)

    async def _list(
        self,
        kept: _Kept[Item],
        flights: SingleFlight[Hashable, UpstreamList[Item]],
        key: Hashable,
        upstream: Upstream,
        ask: Callable[[], Coroutine[Any, Any, tuple[Item, ...]]],
        here: Callable[[], Coroutine[Any, Any, tuple[Item, ...]]],
    ) -> UpstreamList[Item]:
        before = kept.get(key)
        if before is not None and self._clock() - before.asked_us < upstream.terms.fresh_us:
            return before

        async def work() -> UpstreamList[Item]:
            try:
                async with asyncio.timeout(self._bounds.within_s), self._limits.asking(upstream):
                    listed = UpstreamList(await ask(), self._clock())
            except TimeoutError:
                failed: BoltsealError = UpstreamFailed(f"{upstream.terms.name} did not end its list in time")
            except BoltsealError as error:
                failed = told(error, RepositoryUnknown)
            else:
                kept.put(key, listed)
                return listed
            if isinstance(failed, RepositoryUnknown):
                raise failed
            listed = before or UpstreamList(await here())
            if not listed.items:
                raise failed
            age_us = max(0, upstream.terms.fresh_us - FAILED_US)  # as old as a list that is fresh for FAILED_US more
            listed = replace(listed, asked_us=self._clock() - age_us, warning=failed.message)
            kept.put(key, listed)
            return listed

        return await flights.once(key, work)
