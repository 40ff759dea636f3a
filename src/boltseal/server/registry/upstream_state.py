"""The state of upstreams that all workers share: whether one answers, what is left of its pull limit, and its pauses.

A state change is reported once for all workers, by the worker whose transaction writes it. An answer of an upstream is recorded with
the time at which it came, so a process that was stopped in between does not replace what another one has recorded since.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from boltseal.client.pull_limit import PullLimit
from boltseal.server.storage.metadata import upstream_table
from boltseal.server.storage.metadata.protocol import NO_PAUSE, Metadata, UnitOfWork, UpstreamPause
from boltseal.server.storage.metadata.upstream_table import UpstreamRow

__all__ = ["LONGEST_PAUSE_US", "QuotaChange", "UpstreamPause", "UpstreamRow", "UpstreamStates", "in_force"]

LONGEST_PAUSE_US: Final = 3_600_000_000


def in_force(pause: UpstreamPause, now_us: int) -> UpstreamPause:
    """Return a pause without the times that are over, or that only a clock that was ahead can have written."""
    request = now_us < pause.until_us <= now_us + LONGEST_PAUSE_US
    pull = now_us < pause.pulls_until_us <= now_us + LONGEST_PAUSE_US
    return UpstreamPause(
        pause.until_us if request else NO_PAUSE.until_us,
        pause.pulls_until_us if pull else NO_PAUSE.pulls_until_us,
        pause.reason if request else NO_PAUSE.reason,
    )


@dataclass(frozen=True, slots=True)
class QuotaChange:
    """How many pulls are left of an upstream's limit, and how many were recorded before, None where none were."""

    before: int | None
    remaining: int


class UpstreamStates:
    """Reads and writes the rows of all upstreams."""

    def __init__(self, database: Metadata) -> None:
        self._database = database

    async def every(self) -> dict[str, UpstreamRow]:
        """Return the state of each upstream by name."""
        return await self._database.read(upstream_table.all_upstreams)

    def every_and_wait(self) -> dict[str, UpstreamRow]:
        """Return the state of each upstream by name, for a caller without an event loop."""
        return self._database.read_and_wait(upstream_table.all_upstreams)

    async def down(self, name: str, reason: str) -> bool:
        """Record that an upstream does not answer, and return whether that is new."""

        def job(tx: UnitOfWork) -> bool:
            row = upstream_table.find(tx, name)
            if row.down_us is not None:
                return False
            upstream_table.put(tx, name, replace(row, down_us=tx.now_us, down_reason=reason))
            return True

        return await self._database.write(job)

    async def up(self, name: str, answered_us: int) -> None:
        """Record that an upstream answered at this time."""

        def job(tx: UnitOfWork) -> None:
            row = upstream_table.find(tx, name)
            if row.down_us is not None and row.down_us <= answered_us:
                upstream_table.put(tx, name, replace(row, down_us=None, down_reason=None))

        await self._database.write(job)

    async def pause_of(self, name: str) -> UpstreamPause:
        """Return until when an upstream gets no request. A point look-up for each request."""
        return await self._database.lookups.upstreams.upstream_pause(name)

    async def pauses(self) -> dict[str, UpstreamPause]:
        """Return the pauses of all upstreams by name."""
        return await self._database.read(upstream_table.all_pauses)

    def pauses_and_wait(self) -> dict[str, UpstreamPause]:
        """Return the pauses of all upstreams by name, for a caller without an event loop."""
        return self._database.read_and_wait(upstream_table.all_pauses)

    async def pause(self, name: str, until_us: int, reason: str) -> None:
        """Send an upstream no request until this time; a pause that ends later stays."""

        def job(tx: UnitOfWork) -> None:
            row = in_force(upstream_table.find_pause(tx, name), tx.now_us)
            if until_us > row.until_us:
                upstream_table.put_pause(tx, name, row._replace(until_us=until_us, reason=reason))

        await self._database.write(job, durable=False)

    async def pause_pulls(self, name: str, until_us: int) -> None:
        """Send an upstream no request that counts as a pull until this time; a pause that ends later stays."""

        def job(tx: UnitOfWork) -> None:
            row = upstream_table.find_pause(tx, name)
            if until_us > in_force(row, tx.now_us).pulls_until_us:
                upstream_table.put_pause(tx, name, row._replace(pulls_until_us=until_us))

        await self._database.write(job, durable=False)

    async def allow_pulls(self, name: str, ending_by_us: int) -> None:
        """End a pause of pulls that would end by this time; a later one began after the answer that allows them."""

        def job(tx: UnitOfWork) -> None:
            row = upstream_table.find_pause(tx, name)
            if 0 < row.pulls_until_us <= ending_by_us:
                upstream_table.put_pause(tx, name, row._replace(pulls_until_us=NO_PAUSE.pulls_until_us))

        await self._database.write(job, durable=False)

    async def quota(self, name: str, quota: PullLimit, answered_us: int) -> QuotaChange | None:
        """Record the pull limit that an upstream stated at this time. None: a later statement is recorded."""

        def job(tx: UnitOfWork) -> QuotaChange | None:
            row = upstream_table.find(tx, name)
            if row.quota_us is not None and answered_us < row.quota_us <= tx.now_us:
                return None
            upstream_table.put(
                tx,
                name,
                replace(
                    row,
                    quota_limit=quota.limit,
                    quota_remaining=quota.remaining,
                    quota_window_s=quota.window_s,
                    quota_source=quota.source,
                    quota_us=answered_us,
                ),
            )
            return QuotaChange(row.quota_remaining, quota.remaining)

        return await self._database.write(job)
