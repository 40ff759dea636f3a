"""Records which pushes were refused, for those who ask later: who tried to overwrite what, when and from where.

- A refusal is answered first and recorded up to a second later, many in one transaction. What can't be written now is tried
  again; a server that is killed loses what it had not written. The log has every refusal (`registry.refusals`).
- Pushes that were refused alike count in one row, so that a client that repeats its push adds none.
- An attacker can neither fill the disk nor hold the writer, nor remove what others did: there are limits for each user in a
  minute, and for the rows of each user, of each repository, and of all. Beyond these the newest are kept. All anonymous
  clients count as one user.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Final, NamedTuple

import structlog

from boltseal.errors import BoltsealError
from boltseal.server.storage.metadata import refused_push_table, tag_states
from boltseal.server.storage.metadata.protocol import Metadata, Snapshot, UnitOfWork
from boltseal.server.storage.metadata.refused_push_table import (
    Bounds,
    Position,
    RefusedPush,
    RefusedPushRow,
    RefusedTimes,
)

WRITTEN_EVERY_S: Final = 1.0
MINUTE_S: Final = 60.0
MAX_PER_MINUTE: Final = 120
"""Rows that one user's refused pushes may write in a minute."""
MAX_WAITING: Final = 1000
MAX_WRITTEN: Final = 200
"""Rows in one transaction."""
BOUNDS: Final = Bounds(owner=500, repository=500, total=20_000)
KEPT_US: Final = 90 * 86_400_000_000
"""How long a row is kept after its last push: 90 days."""
NEWEST: Final = Position(2**63 - 1, "")

BATCH: Final = 1000
"""Rows that are read from the database at once. Between two batches other requests are read."""

_log = structlog.get_logger(__name__)


class Page(NamedTuple):
    """A page of rows, the newest first. `more`: whether another one follows."""

    rows: list[RefusedPushRow]
    more: bool


class RefusedPushes:
    """The refused pushes of one store, and those that this process has not written yet.

    `bounds`: the most rows. `monotonic`: seconds.
    """

    def __init__(
        self, database: Metadata, bounds: Bounds = BOUNDS, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._bounds = bounds
        self._monotonic = monotonic
        self._waiting: dict[RefusedPush, RefusedTimes] = {}
        self._failed: dict[RefusedPush, RefusedTimes] = {}
        """Pushes whose transaction failed, which may have taken effect. They are written again as they are, before all others."""
        self._minute_s = monotonic()
        self._of_owner = Counter[str]()
        self._dropped = 0

    def note(self, push: RefusedPush, free: str = "") -> None:
        """Take a push that is refused now, to be recorded soon. Neither waits nor raises. `free`: the suggested tag."""
        now_us, before = self._database.now_us(), self._waiting.get(push)
        if before is not None:
            self._waiting[push] = RefusedTimes(before.first_us, now_us, before.times + 1, free)
            return
        if self._monotonic() >= self._minute_s + MINUTE_S:
            self._minute_s = self._monotonic()
            self._of_owner.clear()
        if self._of_owner[push.owner] >= MAX_PER_MINUTE or not self._admits(push.owner):
            self._dropped += 1
            return
        self._of_owner[push.owner] += 1
        self._waiting[push] = RefusedTimes(now_us, now_us, 1, free)

    def _admits(self, owner: str) -> bool:
        """Return whether another push of a user can wait. If too many wait, one of the user with the most of them is dropped for it."""
        if len(self._waiting) < MAX_WAITING:
            return True
        waiting = Counter(each.owner for each in self._waiting)
        ((most, rows),) = waiting.most_common(1)
        if rows <= waiting[owner] + 1:
            return False
        del self._waiting[next(each for each in reversed(self._waiting) if each.owner == most)]
        self._dropped += 1
        return True

    async def run(self, may_write: Callable[[], bool], every_s: float = WRITTEN_EVERY_S) -> None:
        """Write what waits, from time to time and at the end, until this task is cancelled."""
        try:
            while True:
                await asyncio.sleep(every_s)
                if may_write():
                    await self.write()
        finally:
            while may_write() and await self.write():
                pass

    async def write(self) -> bool:
        """Write what waits, and return whether anything was written. What fails is written the next time."""
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            _log.warning("refused pushes not recorded: too many in a minute", dropped=dropped)
        repeated = bool(self._failed)
        batch = self._failed or dict(islice(self._waiting.items(), MAX_WRITTEN))
        if not batch:
            return False
        if not repeated:
            for push in batch:
                del self._waiting[push]
            self._failed = batch
        try:
            await self._database.write(partial(self._add, batch=batch, repeated=repeated))
        except BoltsealError as error:
            _log.warning("refused pushes not recorded yet", reason=error.message)
            return False
        self._failed = {}
        return True

    def _add(self, tx: UnitOfWork, batch: dict[RefusedPush, RefusedTimes], repeated: bool) -> None:
        added = []
        for push, when in batch.items():
            row = push if push.digest or not push.tag else push._replace(digest=_resolves_to(tx, push))
            if refused_push_table.add(tx, row, when, repeated=repeated):
                added.append(row)
        if added:
            refused_push_table.trim(tx, added, self._bounds)

    async def of_repository(self, repository: str, tag: str, *, before: Position, since_us: int, limit: int) -> Page:
        """Return a page of the refused pushes to a repository, the newest first. `tag`: only to this one; "": to all."""
        rows = await self._database.read(
            lambda snapshot: refused_push_table.of_repository(snapshot, repository, tag, before, since_us, limit + 1)
        )
        return Page(rows[:limit], len(rows) > limit)

    async def of_all(self, may_read: Callable[[str], bool], *, before: Position, since_us: int, limit: int) -> Page:
        """Return a page of the refused pushes to all repositories that the caller may read, the newest first.

        A page reads all rows at most, of which `BOUNDS` limits the number.
        """

        found: list[RefusedPushRow] = []
        at: Position | None = before
        while at is not None and len(found) <= limit:
            readable, at = await self._database.read(
                partial(_readable, before=at, since_us=since_us, may_read=may_read)
            )
            found += readable
        return Page(found[:limit], len(found) > limit)


def _readable(
    snapshot: Snapshot, before: Position, since_us: int, may_read: Callable[[str], bool]
) -> tuple[list[RefusedPushRow], Position | None]:
    """Return the rows of the next batch that the caller may read, and behind which row another batch begins; None: none."""
    rows = refused_push_table.of_all(snapshot, before, since_us, BATCH)
    end = Position(rows[-1].when.last_us, rows[-1].id) if len(rows) == BATCH else None
    return [row for row in rows if may_read(row.push.repository)], end


def _resolves_to(snapshot: Snapshot, push: RefusedPush) -> str:
    """Return what the tag of a push resolves to, or is sealed at; "" for nothing."""
    row = tag_states.find(snapshot, push.repository, push.tag)
    digest = None if row is None else row.digest or row.sealed_digest
    return "" if digest is None else str(digest)


def expire_refused(tx: UnitOfWork, now_us: int) -> int:
    """Delete what is older than `KEPT_US`. Return how many rows."""
    return refused_push_table.expire(tx, now_us - KEPT_US)
