"""The `Generation` of several hosts: a row of the database, which a transaction raises itself.

    generation   one row: the number, always even; no row: 0

The transaction that takes something away raises the number in the same COMMIT, so the two cannot be torn apart by a process or
a connection that ends in between. A process asks for the number every `POLL_S` and trusts an answer for `VALID_S`, counted
from before its question; without such an answer it reads an odd number, and so uses no cache, but for sealed content that it may send
stale (`replica_rows`). The `Wait` of `end`, after the COMMIT, lasts until every answer from before the COMMIT is too old, and every process that
serves has confirmed the new number or may send nothing stale any more. So when the writer's client gets its answer, no process
of the store answers from a cache of before.

What this relies on: clocks of all hosts run at the same speed within a tenth, for a fraction of a second. They need not agree
on the time.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

import structlog

from boltseal.errors import BoltsealError, Unavailable
from boltseal.server.storage.coordination.lock_session import LockSession
from boltseal.server.storage.coordination.protocol import Stale, Statements, Wait
from boltseal.server.storage.coordination.replica_rows import (
    BEAT_S,
    MARGIN_S,
    OwnRow,
    ReplicaWatch,
    Serving,
    now_s,
)
from boltseal.server.storage.coordination.taken_away import READ_NUMBER, TakenAway

POLL_S: Final = 0.05
VALID_S: Final = 0.15
WAIT_S: Final = VALID_S * 1.1
ANSWER_S: Final = 2.5
"""How long an answer may take before the database is taken for gone, and another connection is tried."""
STEP: Final = 2
PER_CONNECTION: Final = 2**40
"""Added to the number for each connection: what another one reads may be a database that was set back, and counts from there."""
_ODD: Final = 1
_RETRY_S: Final = 0.25
_RAISE: Final = (
    "INSERT INTO generation (id, number) VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET number = generation.number + ? "
    "RETURNING number, (SELECT coalesce(max(stale_ms), 0) FROM replica)"
)

_log = structlog.get_logger(__name__)


class _Confirmed(NamedTuple):
    """A number, when it was asked for, until when it is trusted, and until when sealed content may be sent under it, by `now_s`."""

    number: int
    asked_s: float
    until_s: float
    stale_until_s: float


_UNKNOWN: Final = _Confirmed(_ODD, 0.0, 0.0, 0.0)


class DatabaseGeneration:
    """The number of one database, read by a thread. `address`: of the database, with the password; without `serving` also of a pooler.

    `serving`: what a process that answers clients states in its row; None: a command, which answers nothing from a cache for long.
    `stale_s`: how long other processes may send stale content, as far as no row says more.
    """

    def __init__(self, address: str, serving: Serving | None = None, *, stale_s: float = 0.0) -> None:
        self._session = LockSession(address, direct=serving is not None)
        self._waiting = LockSession(address, direct=False)
        self.taken_away: Final = TakenAway(self._waiting)
        self._serving = serving
        self._longest_s = stale_s
        self._own = None if serving is None else OwnRow(self._session, serving)
        self._written = False
        """Whether the own row was written, as far as this process knows."""
        self._stated = _UNKNOWN
        """What the own row says, and when it was confirmed."""
        self._watch, self._deaths = ReplicaWatch(), ReplicaWatch()
        self._confirmed = _UNKNOWN
        self._raised = 0
        self.refused: str | None = None
        """Why this process may neither write nor use its caches any more; None: it may."""
        self._ending = threading.Event()
        self._trouble = False
        self._poll()
        self._thread = threading.Thread(target=self._run, name="boltseal-generation", daemon=True)
        self._thread.start()

    def read(self) -> int:
        """Return the number if it was confirmed a moment ago, else an odd one."""
        confirmed = self._confirmed
        return confirmed.number if now_s() < confirmed.until_s else confirmed.number | _ODD

    def stale(self) -> Stale | None:
        """Return the number that was confirmed last, and for how long sealed content may be sent under it; None: it is confirmed."""
        confirmed, at_s = self._confirmed, now_s()
        if at_s < confirmed.until_s:
            return None
        return Stale(confirmed.number, max(0.0, confirmed.stale_until_s - at_s), self._trouble)

    def begin(self, statements: Statements) -> None:
        """Raise the number in the transaction that is about to be committed. Waits for another such transaction."""
        raised, stale_ms = statements.plain(_RAISE, (STEP, STEP)).fetchone()
        self._raised, self._longest_s = int(raised), max(self._longest_s, stale_ms / 1000)

    def end(self) -> Wait:
        """Trust no number from before the COMMIT, and return what waits until no process does."""
        self._confirmed = self._confirmed._replace(until_s=0.0, stale_until_s=0.0)
        return partial(self._wait, self._raised, now_s())

    def close(self) -> None:
        """Remove the own row, end the thread and close its connections."""
        self._ending.set()
        self._thread.join()
        self._confirmed = _UNKNOWN
        if self._own is not None and self._written:
            with suppress(BoltsealError):
                self._own.remove()
        self._session.close()
        self._waiting.close()

    def _run(self) -> None:
        while not self._ending.wait(_RETRY_S if self._trouble else POLL_S):
            self._poll()

    def _poll(self) -> None:
        try:
            self._confirm()
        except Exception as error:  # noqa: BLE001 - the outermost frame of this thread, without which no cache is used any more
            if not self._trouble:
                reason = error.message if isinstance(error, BoltsealError) else f"{type(error).__name__}: {error}"
                _log.warning("the generation can't be read: caches are not used", reason=reason)
            self._trouble = True
            return
        if self._trouble:
            _log.info("the generation can be read again: caches are used")
        self._trouble = False

    def _confirm(self) -> None:
        """Read the number, and state it in the own row. Raises: BoltsealError."""
        if self._own is not None and not self._written:
            self._own.write()
            self._written, self._stated = True, _UNKNOWN
            self.refused = self._own.refusal()
        if self.refused is not None:
            return
        asked_s = now_s()
        rows, connection = self._session.rows(READ_NUMBER, within_s=ANSWER_S)
        number = int(rows[0][0] or 0) if rows else 0
        stale_until_s = self._stated.stale_until_s if number == self._stated.number else 0.0
        self._confirmed = _Confirmed(connection * PER_CONNECTION + number, asked_s, asked_s + VALID_S, stale_until_s)
        if self._own is None or self._serving is None:
            return
        if number == self._stated.number and asked_s - self._stated.asked_s < BEAT_S:
            return
        self.refused = self._own.refusal()  # asked at each beat: a newer server may have contracted the schema since
        if self.refused is not None:
            self._confirmed = _UNKNOWN
            return
        # In this order: from here on nothing is answered from before this number, and then the row says so.
        if not self._own.confirm(number):
            self._written, self._confirmed = False, _UNKNOWN
            return
        self._stated = _Confirmed(number, asked_s, 0.0, asked_s + self._serving.stale_s)
        self._confirmed = self._confirmed._replace(stale_until_s=self._stated.stale_until_s)
        self._deaths.remove_stopped(self._session)

    def _wait(self, number: int, ended_s: float) -> None:
        """Wait until no process answers from before this number. Raises: Unavailable: this process ends before."""
        while True:
            left_s = ended_s + WAIT_S - now_s()  # for processes without a row
            try:
                rows = self._watch.look(self._waiting)
            except BoltsealError:  # the database is gone since the COMMIT, so every process will stop
                behind = now_s() < ended_s + self._longest_s + MARGIN_S
            else:
                self._longest_s = max(self._longest_s, *(row.stale_s for row in rows), 0.0)
                behind = any(row.generation < number for row in rows)
            if not behind and left_s <= 0:
                return
            if self._ending.wait(max(0.02, left_s) if not behind else 0.02 if now_s() < ended_s + 1 else 0.2):
                raise Unavailable(
                    "the change was made, but this server ended before all others had confirmed that they answer nothing from "
                    "before it; they do so within a minute"
                )
