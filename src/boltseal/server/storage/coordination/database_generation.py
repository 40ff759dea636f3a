"""The `Generation` of several hosts: a row of the database, which a transaction raises itself.

    generation   one row: the number, always even; no row: 0

The transaction that takes something away raises the number in the same COMMIT, so the two cannot be torn apart by a process or
a connection that ends in between. A process asks for the number every `POLL_S` and trusts an answer for `VALID_S`, counted
from before its question; without such an answer it reads an odd number, and so uses no cache. `end`, after the COMMIT,
waits until every answer from before the COMMIT is too old. So when the writer's client gets its answer, no process
of the store answers from a cache of before.

What this relies on: clocks of all hosts run at the same speed within a tenth, for a fraction of a second. They need not agree
on the time.
"""

from __future__ import annotations

import threading
import time
from typing import Final, NamedTuple

import structlog

from boltseal.errors import BoltsealError
from boltseal.server.storage.coordination.lock_session import LockSession
from boltseal.server.storage.coordination.protocol import Statements

POLL_S: Final = 0.05
VALID_S: Final = 0.15
WAIT_S: Final = VALID_S * 1.1
STEP: Final = 2
_ODD: Final = 1
_RETRY_S: Final = 1.0
_BOOT_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while a machine is suspended
_RAISE: Final = (
    "INSERT INTO generation (id, number) VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET number = generation.number + ?"
)
_READ: Final = "SELECT number FROM generation WHERE id = 1"

_log = structlog.get_logger(__name__)


class _Confirmed(NamedTuple):
    """A number, and until when it is trusted, by `_now_s`."""

    number: int
    until_s: float


class DatabaseGeneration:
    """The number of one database, read by a thread. `address`: of the database or a pooler, with the password."""

    def __init__(self, address: str) -> None:
        self._session = LockSession(address, direct=False)
        self._confirmed = _Confirmed(_ODD, 0.0)
        self._ending = threading.Event()
        self._trouble = False
        self._poll()
        self._thread = threading.Thread(target=self._run, name="boltseal-generation", daemon=True)
        self._thread.start()

    def read(self) -> int:
        """Return the number if it was confirmed a moment ago, else an odd one."""
        number, until_s = self._confirmed
        return number if _now_s() < until_s else number | _ODD

    def begin(self, statements: Statements) -> None:
        """Raise the number in the transaction that is about to be committed. Waits for another such transaction."""
        statements.plain(_RAISE, (STEP, STEP))

    def end(self) -> None:
        """Wait until no process trusts a number from before the COMMIT."""
        self._confirmed = _Confirmed(self._confirmed.number, 0.0)
        time.sleep(WAIT_S)

    def repair(self) -> None:
        """Do nothing: the number changes only together with the data."""

    def close(self) -> None:
        """End the thread and close its connection."""
        self._ending.set()
        self._thread.join()
        self._session.close()

    def _run(self) -> None:
        while not self._ending.wait(_RETRY_S if self._trouble else POLL_S):
            self._poll()

    def _poll(self) -> None:
        asked_s = _now_s()
        try:
            rows, _ = self._session.rows(_READ)
        except BoltsealError as error:
            if not self._trouble:
                _log.warning("the generation can't be read: caches are not used", reason=error.message)
            self._trouble = True
            return
        if self._trouble:
            _log.info("the generation can be read again: caches are used")
        self._trouble = False
        self._confirmed = _Confirmed(int(rows[0][0] or 0) if rows else 0, asked_s + VALID_S)


def _now_s() -> float:
    return time.clock_gettime(_BOOT_CLOCK)
