"""The processes that serve a PostgreSQL database, as rows: which generation each has confirmed, and that it is alive.

    replica   id, beat, generation, stale_ms, version, revision; one row for each worker of each server

A process writes its row before it caches anything, and from then on confirms: it reads the generation, stops using what it cached
under another number, and then writes the number and a higher beat. It does so every `BEAT_S`, and at once when the number has changed.
It sends cached content that it can't confirm for at most `stale_ms` after it began its last successful confirmation.

A process that has committed a higher number reads the rows afterwards. No process answers from before that COMMIT any more when each row

- has that number or a higher one, or
- has kept its beat for `stale_ms` and `MARGIN_S` longer: its process confirmed nothing meanwhile, and has stopped to answer.

A row that is written after these were read belongs to a process that reads the number after the COMMIT. The time that a beat has
stood still is measured by the reader, with its own clock: clocks of hosts need not agree, and may be set. They must run at the same speed,
within `MARGIN_S` in the time of `stale_ms`.

A row also says which revision of the schema its process was written for: a migration that it would not survive waits until the row is
gone (`metadata.postgres_schema`), and a process that writes its row after such a migration refuses to work.

A process that ends removes its row. The row of one that was killed is removed by another one, after that time. A process whose row
was removed, such as one that was stopped, begins again: it drops what it cached, and writes a new row.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:  # needs the library of PostgreSQL, which most servers have not installed
    from boltseal.server.storage.coordination.lock_session import LockSession

BEAT_S: Final = 2.0
MARGIN_S: Final = 2.0
NONE_CONFIRMED: Final = -1
_BOOT_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while a machine is suspended
_INSERT: Final = (
    "INSERT INTO replica (id, beat, generation, stale_ms, version, revision) "
    "SELECT $1, 0, -1, $2::bigint, $3, $4 FROM set_config('synchronous_commit', 'on', true) "
    "ON CONFLICT (id) DO UPDATE SET generation = -1, beat = replica.beat + 1"
)
_CONFIRM: Final = (
    "UPDATE replica SET beat = beat + 1, generation = $2 FROM set_config('synchronous_commit', 'off', true) "
    "WHERE id = $1 RETURNING beat"
)
"""The COMMIT does not wait for the disk or for a standby: what is lost of it only lets changes wait for longer."""
_REMOVE: Final = "DELETE FROM replica WHERE id = $1"
_REMOVE_STOPPED: Final = "DELETE FROM replica WHERE id = $1 AND beat = $2"
_ALL: Final = "SELECT id, beat, generation, stale_ms, version, revision FROM replica"
_OLDEST: Final = "SELECT oldest FROM schema_support"


def now_s() -> float:
    """Return the time since this machine was started, with the time that it was suspended."""
    return time.clock_gettime(_BOOT_CLOCK)


class Serving(NamedTuple):
    """What a process that serves states about itself. `stale_s`: how long it may send cached content without a confirmation.

    `revision`: of the schema that it was written for.
    """

    stale_s: float
    version: str
    revision: str


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    """One row."""

    id: str
    beat: int
    generation: int
    stale_s: float
    version: str
    revision: str


class OwnRow:
    """The row of this process. For one thread. Every method raises LockUnusable."""

    def __init__(self, session: LockSession, serving: Serving) -> None:
        self._session = session
        self._serving = serving
        self.id = uuid.uuid4().hex

    def write(self) -> None:
        """Write the row, which says that nothing was confirmed. Durable, so that a failover keeps it."""
        stale_ms = int(self._serving.stale_s * 1000)
        self._session.rows(_INSERT, self.id, str(stale_ms), self._serving.version, self._serving.revision)

    def refusal(self) -> str | None:
        """Return why this process may not work on the database: its schema is for newer servers. Asked after `write` and at each beat."""
        rows, _ = self._session.rows(_OLDEST)
        oldest = rows[0][0] if rows else None
        if oldest is None or oldest <= self._serving.revision:
            return None
        return (
            f"the database has a schema for servers from revision {oldest} on, and this one, boltseal {self._serving.version}, "
            f"was written for {self._serving.revision}: start the newer boltseal here"
        )

    def confirm(self, generation: int) -> bool:
        """State that nothing is answered from before this number. Return whether the row was still there."""
        rows, _ = self._session.rows(_CONFIRM, self.id, str(generation))
        return bool(rows)

    def remove(self) -> None:
        """Remove the row, when this process answers nothing any more."""
        self._session.rows(_REMOVE, self.id)


class ReplicaWatch:
    """Measures for how long the beat of each row has stood still. For one thread."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}

    def look(self, session: LockSession) -> list[ReplicaRow]:
        """Return the rows of processes that may answer from their caches. Raises: LockUnusable."""
        return [row for row in self._rows(session) if not self._has_stopped(row, MARGIN_S)]

    def remove_stopped(self, session: LockSession) -> None:
        """Remove the rows of processes that have stopped to answer. Raises: LockUnusable."""
        for row in self._rows(session):
            if self._has_stopped(row, MARGIN_S):
                session.rows(_REMOVE_STOPPED, row.id, str(row.beat))

    def _has_stopped(self, row: ReplicaRow, margin_s: float) -> bool:
        return now_s() - self._seen[row.id][1] > row.stale_s + margin_s

    def _rows(self, session: LockSession) -> list[ReplicaRow]:
        found = all_rows(session)
        at_s = now_s()
        seen = {row.id: self._seen.get(row.id, (-1, at_s)) for row in found}
        self._seen = {row.id: seen[row.id] if seen[row.id][0] == row.beat else (row.beat, at_s) for row in found}
        return found


def all_rows(session: LockSession) -> list[ReplicaRow]:
    """Return the rows of all processes, dead ones too. Raises: LockUnusable."""
    rows, _ = session.rows(_ALL)
    return [
        ReplicaRow(str(row[0]), int(row[1] or 0), int(row[2] or 0), int(row[3] or 0) / 1000, str(row[4]), str(row[5]))
        for row in rows
    ]
