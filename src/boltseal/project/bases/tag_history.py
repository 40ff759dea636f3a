"""What a tag resolved to over time, from its registry, `boltseal watch`, and earlier scans of this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from boltseal.client.document_cache import DocumentCache
from boltseal.client.errors import RemoteNotFound
from boltseal.client.history import read_unsigned
from boltseal.client.ledger_trust import LedgerCheck
from boltseal.client.tag_observations import TagObservations
from boltseal.client.transport import Transport
from boltseal.errors import BoltsealError
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.project.bases.freshness import TagInterval

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


TagMemory = Callable[[Reference], Iterable[TagInterval]]
"""Returns the known intervals of a tag, the oldest first; none for a tag that was never observed."""


def memory_from_cache(cache: DocumentCache) -> TagMemory:
    """Return the intervals that earlier scans observed."""
    return lambda reference: (
        TagInterval(interval.digest, interval.first_us, interval.last_us) for interval in cache.past(reference)
    )


def memory_from_observations(observations: TagObservations) -> TagMemory:
    """Return the intervals that `boltseal watch` observed."""
    return lambda reference: (
        TagInterval(interval.digest, interval.first_seen_us, interval.last_seen_us)
        for interval in observations.past(reference)
    )


class TagHistories:
    """Combines all sources. `followed`: returns the check of a registry's ledger, which records its tags."""

    def __init__(
        self,
        transport: Transport,
        memories: Iterable[TagMemory],
        followed: Callable[[str], Awaitable[LedgerCheck | BoltsealError]] | None = None,
    ) -> None:
        self._transport = transport
        self._memories = tuple(memories)
        self._by_reference: dict[Reference, asyncio.Task[tuple[TagInterval, ...]]] = {}
        self._recorded: set[Reference] = set()
        self.followed = followed

    def forget(self) -> None:
        """Discard the results, because tags may have moved meanwhile."""
        self._by_reference.clear()
        self._recorded.clear()

    def newest(self, reference: Reference, after_us: int, now_us: int) -> Digest | None:
        """Return what a tag was last observed as, if that was between two times; else None.

        Observations in the future come from a wrong clock and do not count.
        """
        ends = [intervals[-1] for intervals in self._observed(reference) if intervals]
        fresh = [interval for interval in ends if after_us <= (interval.last_us or 0) <= now_us]
        return max(fresh, key=lambda interval: interval.last_us or 0).digest if fresh else None

    def observed(self, reference: Reference) -> tuple[TagInterval, ...]:
        """Merge the observations of this machine by the time of the first one, without repetitions, the oldest first."""
        observations = sorted(
            (interval for intervals in self._observed(reference) for interval in intervals),
            key=lambda interval: interval.first_us or 0,
        )
        merged: list[TagInterval] = []
        for interval in observations:
            if merged and merged[-1].digest == interval.digest:
                merged[-1] = merged[-1]._replace(last_us=max(merged[-1].last_us or 0, interval.last_us or 0))
            else:
                merged.append(interval)
        return tuple(merged)

    async def of(self, reference: Reference) -> tuple[TagInterval, ...]:
        """Return a tag's intervals, the oldest first: from its registry's ledger, else from observations of this machine.

        A registry is asked once, however many callers wait.
        """
        if reference not in self._by_reference:
            self._by_reference[reference] = asyncio.create_task(self._read(reference))
        return await asyncio.shield(self._by_reference[reference])

    async def _read(self, reference: Reference) -> tuple[TagInterval, ...]:
        recorded = await self._registry_history(reference)
        if recorded:
            self._recorded.add(reference)
        return recorded or self.observed(reference)

    def is_complete(self, reference: Reference) -> bool:
        """Return whether what `of` returned is the registry's own record, which begins when the tag was created."""
        return reference in self._recorded

    def _observed(self, reference: Reference) -> list[list[TagInterval]]:
        return [list(memory(reference)) for memory in self._memories]

    async def _registry_history(self, reference: Reference) -> tuple[TagInterval, ...]:
        if self.followed is None or reference.tag is None:
            return ()
        check = await self.followed(reference.registry)
        if not isinstance(check, LedgerCheck) or check.head is None:
            return ()
        try:
            events = await read_unsigned(self._transport, reference.registry, reference.repository, reference.tag)
            starts = [
                (Digest.parse(interval.digest) if interval.event == "created" else None, _us(interval.time))
                for interval in events
            ]
        except (RemoteNotFound, ValueError, BoltsealError):  # without a readable history
            return ()
        ends = [start for _, start in starts[1:]] + [None]
        return tuple(TagInterval(digest, start, end) for (digest, start), end in zip(starts, ends, strict=True))


def _us(time: str) -> int:
    """Return a time in microseconds since the epoch. Raises: ValueError: it is none, or has no time zone."""
    moment = datetime.fromisoformat(time.upper())
    if moment.tzinfo is None:
        raise ValueError("no time zone")
    return (moment - _EPOCH) // timedelta(microseconds=1)
