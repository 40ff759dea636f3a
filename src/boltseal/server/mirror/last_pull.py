"""When mirrored manifests were pulled last: noted in memory, written once a minute, and each at most once an hour.

Retention goes by it (`retention`). Losing the last minute of a killed process is accepted.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import structlog

from boltseal.errors import BoltsealError
from boltseal.server.storage.metadata import mirrored

if TYPE_CHECKING:
    from boltseal.oci.digest import Digest
    from boltseal.oci.reference import Repository
    from boltseal.server.storage.metadata.protocol import Metadata

EACH_US: Final = 3600 * 1_000_000
WRITTEN_EVERY_S: Final = 60.0
REMEMBERED: Final = 50_000
WAITING_MOST: Final = 50_000

_log = structlog.get_logger(__name__)


class LastPulls:
    """The notes of one process. `clock`: microseconds since the epoch. `waiting_most`: how many wait to be written."""

    def __init__(
        self,
        database: Metadata,
        clock: Callable[[], int],
        read_only: Callable[[], str | None],
        waiting_most: int = WAITING_MOST,
    ) -> None:
        self._database = database
        self._clock = clock
        self._read_only = read_only
        self._waiting_most = waiting_most
        self._noted: OrderedDict[tuple[Repository, Digest], int] = OrderedDict()
        self._waiting: dict[tuple[Repository, Digest], int] = {}

    def note(self, repository: Repository, digest: Digest) -> None:
        """A manifest is being pulled."""
        key, now_us = (repository, digest), self._clock()
        if now_us - self._noted.get(key, -EACH_US) < EACH_US or len(self._waiting) >= self._waiting_most:
            return
        self._noted[key] = self._waiting[key] = now_us
        self._noted.move_to_end(key)
        while len(self._noted) > REMEMBERED:
            self._noted.popitem(last=False)

    async def run(self) -> None:
        """Write now and then, for ever."""
        while True:
            await asyncio.sleep(WRITTEN_EVERY_S)
            await self.write()

    async def write(self) -> None:
        """Write what is noted. What can't be written is left out: an image may then look a little less used."""
        if not self._waiting or self._read_only() is not None:
            return
        waiting, self._waiting = self._waiting, {}
        pulls = [(repository, str(digest), at_us) for (repository, digest), at_us in waiting.items()]
        try:
            await self._database.write(lambda tx: mirrored.note_pulled(tx, pulls))
        except BoltsealError as error:
            _log.warning("what was pulled could not be noted", reason=error.message)
