"""Count failed logins by address over all processes of a store, and compute how long an address has to wait.

The rows are in the database, so an address has the same few tries at every worker, also after a restart. Only a failed
login writes a row. A failure that the database can't store (a full disk) is counted in this process.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from boltseal.errors import Full, Unavailable
from boltseal.server.storage.metadata import failed_login_table
from boltseal.server.storage.metadata.protocol import FailedLoginRow, Metadata, UnitOfWork

MAX_ADDRESSES: Final = 10_000
FREE_FAILURES: Final = 5
FIRST_WAIT_US: Final = 1_000_000
MAX_WAIT_US: Final = 60_000_000
FORGET_FAILURES_US: Final = 900_000_000
MAX_COUNTED: Final = 30


class FailedLogins:
    """The failed logins of one store. `now_us`: microseconds since the epoch. `database` None: of this process alone.

    `max_addresses`: how many addresses are remembered; the oldest are forgotten first.
    """

    def __init__(
        self,
        database: Metadata | None,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        *,
        max_addresses: int = MAX_ADDRESSES,
    ) -> None:
        self._database = database
        self._max_addresses = max_addresses
        self._now_us = now_us
        self._uncounted: OrderedDict[str, FailedLoginRow] = OrderedDict()

    async def of(self, address: str) -> FailedLoginRow | None:
        """Return the failures of an address that still count, None if it has none. Raises: Unavailable."""
        row = None if self._database is None else await self._database.lookups.logins.failed_login(address)
        found = [each for each in (row, self._uncounted.get(address)) if each is not None]
        worst = max(found, default=None)
        return worst if worst is not None and self._counts(worst) else None

    def wait_us(self, row: FailedLoginRow) -> int:
        """Return how long an address with these failures has to wait after the last one."""
        if row.failures < FREE_FAILURES:
            return 0
        return min(MAX_WAIT_US, FIRST_WAIT_US << (row.failures - FREE_FAILURES))

    def is_waiting(self, row: FailedLoginRow) -> bool:
        """Return whether an address with these failures has to wait now."""
        return self._now_us() - row.last_us < self.wait_us(row)

    async def note(self, address: str) -> None:
        """Count a failure."""

        def job(tx: UnitOfWork) -> None:
            row = self._next(failed_login_table.find(tx, address))
            forget_before_us = row.last_us - FORGET_FAILURES_US
            failed_login_table.put(tx, address, row, forget_before_us=forget_before_us, most=self._max_addresses)

        try:
            if self._database is not None:
                await self._database.write(job, durable=False)
                return
        except (Full, Unavailable):
            pass  # the address must not get more tries because the disk is full
        self._uncounted[address] = self._next(self._uncounted.pop(address, None))
        while len(self._uncounted) > self._max_addresses:
            self._uncounted.popitem(last=False)

    async def forget(self, address: str) -> None:
        """Forget the failures of an address that logged in."""
        self._uncounted.pop(address, None)
        if self._database is not None:
            with suppress(Full, Unavailable):
                await self._database.write(lambda tx: failed_login_table.remove(tx, address), durable=False)

    def _counts(self, row: FailedLoginRow) -> bool:
        # A time in the future is from before the clock was set back; it does not block an address for longer than a wait.
        return -MAX_WAIT_US <= self._now_us() - row.last_us <= FORGET_FAILURES_US

    def _next(self, row: FailedLoginRow | None) -> FailedLoginRow:
        before = row.failures if row is not None and self._counts(row) else 0
        return FailedLoginRow(min(before + 1, MAX_COUNTED), self._now_us())
