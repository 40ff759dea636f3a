"""Seals the settling tags whose time is over.

A tag is settling when a rule with `settle` let its first manifest wait for an index (`policy.seal`). The deadline is in the
tag's row, so it survives the end of a process; any process may seal the tag, and each transaction decides anew by its own
time. A tag whose repository lacks content under its manifest is never sealed: it stays settling, is reported, and is tried
again each minute and at the next push to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog

from boltseal.errors import BoltsealError
from boltseal.server.auth.actor import ANONYMOUS
from boltseal.server.registry.tag_refusals import ReferencesMissing
from boltseal.server.registry.tag_writer import OverdueTag, TagWriter
from boltseal.server.storage.metadata.protocol import Metadata, UnitOfWork

SETTLE_EVERY_S: Final = 1.0
BATCH: Final = 500
AT_ONCE: Final = 50
"""Tags that one transaction seals, so that it does not keep other writes waiting."""
AGAIN_US: Final = 60_000_000
"""After how long a tag is tried again that could not be sealed."""

_log = structlog.get_logger(__name__)


class SettlingTags:
    """Seals settling tags in time. `overdue`: the tags that could not be sealed, and why."""

    def __init__(self, database: Metadata, tag_writer: TagWriter) -> None:
        self._database = database
        self._tag_writer = tag_writer
        self._again_us: dict[OverdueTag, int] = {}
        self.overdue: dict[OverdueTag, str] = {}

    @property
    def troubles(self) -> tuple[str, ...]:
        """A sentence for the tags that could not be sealed; none without any."""
        if not self.overdue:
            return ()
        tag, reason = next(iter(self.overdue.items()))
        more = f" and {len(self.overdue) - 1} more tags" if len(self.overdue) > 1 else ""
        return (f"{tag.repository.name}:{tag.tag}{more} settled, but can't be sealed: {reason}",)

    async def run(
        self, clock: Callable[[], int], may_write: Callable[[], bool], every_s: float = SETTLE_EVERY_S
    ) -> None:
        """Seal settling tags as their time is over, until this task is cancelled."""
        while True:
            if may_write():
                try:
                    await self.seal_due(clock())
                except BoltsealError as error:
                    _log.warning("cannot seal settling tags", reason=error.message)
            await asyncio.sleep(every_s)

    async def seal_due(self, now_us: int) -> int:
        """Seal the tags whose time is over, and return how many were sealed."""
        due = await self._database.read(lambda snapshot: self._tag_writer.settled(snapshot, now_us, BATCH))
        for tag in self._again_us.keys() - set(due):
            del self._again_us[tag], self.overdue[tag]
        wanted = [tag for tag in due if self._again_us.get(tag, 0) <= now_us]
        sealed = 0
        for start in range(0, len(wanted), AT_ONCE):
            batch = wanted[start : start + AT_ONCE]
            refused = await self._database.write(partial(self._seal, batch=batch))
            sealed += len(batch) - len(refused)
            for tag, reason in refused.items():
                if tag not in self.overdue:
                    _log.warning(
                        "cannot seal a settling tag", repository=tag.repository.name, tag=tag.tag, reason=reason
                    )
                self.overdue[tag], self._again_us[tag] = reason, now_us + AGAIN_US
        return sealed

    def _seal(self, tx: UnitOfWork, batch: list[OverdueTag]) -> dict[OverdueTag, str]:
        """Seal tags whose time is over; return those whose repository lacks content, and the reason."""
        refused = {}
        for repository, tag in batch:
            change = self._tag_writer.change(tx, repository, tag, ANONYMOUS)
            settles_us = None if change.row is None else change.row.settles_us
            if settles_us is None or settles_us > tx.now_us:
                continue  # another process sealed it, or a push did
            try:
                self._tag_writer.settle(tx, change)
            except ReferencesMissing as error:  # raised before anything is written
                refused[OverdueTag(repository, tag)] = error.message
        return refused
