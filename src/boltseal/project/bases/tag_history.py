"""What a tag meant over time, of all who remember: its registry, `boltseal watch`, and our own looks before."""

from __future__ import annotations

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
"""What somebody remembers of a tag, the oldest first; nothing of one that was never looked at."""


def memory_from_cache(learned: DocumentCache) -> TagMemory:
    """What our own looks saw."""
    return lambda reference: (TagInterval(one.digest, one.first_us, one.last_us) for one in learned.past(reference))


def memory_from_observations(watched: TagObservations) -> TagMemory:
    """What `boltseal watch` saw."""
    return lambda reference: (
        TagInterval(one.digest, one.first_seen_us, one.last_seen_us) for one in watched.past(reference)
    )


class TagHistories:
    """All memories together. `followed`: how it stands with a registry's ledger; one that has one remembers its tags."""

    def __init__(
        self,
        transport: Transport,
        memories: Iterable[TagMemory],
        followed: Callable[[str], Awaitable[LedgerCheck | BoltsealError]] | None = None,
    ) -> None:
        self._transport = transport
        self._memories = tuple(memories)
        self._told: dict[Reference, tuple[TagInterval, ...]] = {}
        self.followed = followed

    def forget(self) -> None:
        """Ask again: something may have moved meanwhile."""
        self._told.clear()

    def newest(self, reference: Reference, after_us: int, now_us: int) -> Digest | None:
        """What a tag was found to mean by whoever looked last, if that was between two times; else None.

        What was seen at a time that is still to come was seen by a clock that was wrong: it is no later than anything.
        """
        ends = [moments[-1] for moments in self._remembered(reference) if moments]
        fresh = [one for one in ends if after_us <= (one.last_us or 0) <= now_us]
        return max(fresh, key=lambda one: one.last_us or 0).digest if fresh else None

    def seen(self, reference: Reference) -> tuple[Digest, ...]:
        """All that a tag was seen to resolve to by us, the last of it at the end; nobody is asked."""
        seen = (one.digest for one in self._by_us(reference)[::-1] if one.digest is not None)
        return tuple(dict.fromkeys(seen))[::-1]

    async def of(self, reference: Reference) -> tuple[TagInterval, ...]:
        """All that is known of what a tag meant, the oldest first: by its registry, if that keeps a ledger; else by us."""
        if reference not in self._told:
            self._told[reference] = await self._by_registry(reference) or self._by_us(reference)
        return self._told[reference]

    def _remembered(self, reference: Reference) -> list[list[TagInterval]]:
        return [list(memory(reference)) for memory in self._memories]

    def _by_us(self, reference: Reference) -> tuple[TagInterval, ...]:
        """Merged by the time at which each was first seen; what two remember is told once."""
        every = sorted(
            (one for moments in self._remembered(reference) for one in moments), key=lambda one: one.first_us or 0
        )
        merged: list[TagInterval] = []
        for one in every:
            if merged and merged[-1].digest == one.digest:
                merged[-1] = merged[-1]._replace(last_us=max(merged[-1].last_us or 0, one.last_us or 0))
            else:
                merged.append(one)
        return tuple(merged)

    async def _by_registry(self, reference: Reference) -> tuple[TagInterval, ...]:
        if self.followed is None or reference.tag is None:
            return ()
        seen = await self.followed(reference.registry)
        if not isinstance(seen, LedgerCheck) or seen.head is None:
            return ()
        try:
            events = await read_unsigned(self._transport, reference.registry, reference.repository, reference.tag)
            starts = [(Digest.parse(one.digest) if one.event == "created" else None, _us(one.time)) for one in events]
        except (RemoteNotFound, ValueError, BoltsealError):  # whatever it is, it tells of no past
            return ()
        ends = [start for _, start in starts[1:]] + [None]
        return tuple(TagInterval(digest, start, end) for (digest, start), end in zip(starts, ends, strict=True))


def _us(time: str) -> int:
    return (datetime.fromisoformat(time.upper()) - _EPOCH) // timedelta(microseconds=1)
