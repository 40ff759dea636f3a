"""Records when mirrored manifests were last pulled: in memory, written once a minute, each at most once an hour.

`retention` uses these times. A killed process loses the last minute, which is accepted.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import structlog

from boltseal.errors import BoltsealError
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.server.storage.metadata import mirrored
from boltseal.server.storage.metadata.protocol import Metadata

ONCE_PER_US: Final = 3600 * 1_000_000
WRITE_INTERVAL_S: Final = 60.0
REMEMBERED: Final = 50_000
PENDING_LIMIT: Final = 50_000

_log = structlog.get_logger(__name__)


class LastPulls:
    """The pull times of one process.

    `clock`: microseconds since the epoch. `read_only`: returns why nothing may be written, or None. `pending_limit`: how
    many unwritten times are kept.
    """

    def __init__(
        self,
        database: Metadata,
        clock: Callable[[], int],
        read_only: Callable[[], str | None],
        pending_limit: int = PENDING_LIMIT,
    ) -> None:
        self._database = database
        self._clock = clock
        self._read_only = read_only
        self._pending_limit = pending_limit
        self._noted: OrderedDict[tuple[Repository, Digest], int] = OrderedDict()
        self._pending: dict[tuple[Repository, Digest], int] = {}

    def note(self, repository: Repository, digest: Digest) -> None:
        """Record that a manifest is pulled now."""
        key, now_us = (repository, digest), self._clock()
        if now_us - self._noted.get(key, -ONCE_PER_US) < ONCE_PER_US or len(self._pending) >= self._pending_limit:
            return
        self._noted[key] = self._pending[key] = now_us
        self._noted.move_to_end(key)
        while len(self._noted) > REMEMBERED:
            self._noted.popitem(last=False)

    async def run(self) -> None:
        """Write the recorded times once a minute, until cancelled."""
        while True:
            await asyncio.sleep(WRITE_INTERVAL_S)
            await self.write()

    async def write(self) -> None:
        """Write the recorded times. If that fails they are lost, and an image seems a little less used."""
        if not self._pending or self._read_only() is not None:
            return
        pending, self._pending = self._pending, {}
        pulls = [mirrored.LastPull(repository, str(digest), at_us) for (repository, digest), at_us in pending.items()]
        try:
            await self._database.write(lambda tx: mirrored.note_pulled(tx, pulls))
        except BoltsealError as error:
            _log.warning("pull times not written", reason=error.message)
