"""The loop that scans images and requests rebuilds, of `boltseal outdated --rebuild` and of the server's scheduler.

1. Scan. 2. Request what is due. 3. If a command rebuilt something, scan again: images based on it may be outdated now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from boltseal.project.bases.base_report import BaseReport
from boltseal.project.bases.rebuild_journal import RebuildOutcome
from boltseal.project.bases.rebuild_requests import AskedElsewhere, Rebuilder, RebuildPlan, RebuildResult

MAX_ROUNDS: Final = 10
"""How many layers of images based on each other one run rebuilds."""

Scan = Callable[[bool], Awaitable[list[BaseReport]]]
"""Scans all images. Its argument says whether the base tags must be resolved again, since something was rebuilt."""


@dataclass(frozen=True, slots=True)
class RebuildRounds:
    """The result of the loop. `reports`: of the last scan. `elsewhere`: another process requests rebuilds, so this one stopped."""

    reports: list[BaseReport]
    results: list[RebuildResult]
    elsewhere: AskedElsewhere | None = None


async def rebuild_outdated(
    rebuilder: Rebuilder, scan: Scan, first: Callable[[list[BaseReport], RebuildPlan], None]
) -> RebuildRounds:
    """Scan and request rebuilds until nothing more is due, in at most MAX_ROUNDS rounds.

    `first`: is called after the first scan, with its reports and what is due. Raises: StateUnusable, LedgerBroken.
    """
    reports = await scan(False)
    first(reports, await asyncio.to_thread(rebuilder.plan, reports))
    results: list[RebuildResult] = []
    for _ in range(MAX_ROUNDS):
        try:
            requested = await rebuilder.rebuild(reports)
        except AskedElsewhere as error:
            return RebuildRounds(reports, results, error)
        results += requested
        if not any(one.outcome is RebuildOutcome.DONE and one.due.action.command for one in requested):
            break
        reports = await scan(True)
    return RebuildRounds(reports, results)
