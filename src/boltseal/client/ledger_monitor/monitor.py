"""One run of a ledger monitor. A broken rule is a problem; what could not be checked is reported and is no success.

The steps, in this order:

1. The ledger's checkpoint extends the one seen before, under the trusted key (`client.ledger_trust`).
2. Read every new entry, in bundles, and audit it by `ledger.audit`: canonical, gapless, later than the previous one,
   unbroken chains of `previous`, no sealed tag with two digests.
3. The tree over all entries, hashed here, has the signed root.
4. The registry's answers match the ledger: for each tag of the new entries (the last ones, up to a limit), and for a
   share of all tags that the registry lists, another one in each run, so that `SHARES` runs compare every tag; or for all
   of them at once. The registry lists as many tags as the ledger has. A difference is checked again against a newer head,
   since the tag may have moved meanwhile.
5. Save the progress and the next share if there was no problem; otherwise the next run finds the same problem again.

A tag's share follows from its hash under the monitor's secret key, so no registry can know which tags are compared next.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from boltseal.client.bounded_requests import list_tags
from boltseal.client.catalog import list_repositories
from boltseal.client.errors import RemoteNotFound
from boltseal.client.head_requests import resolve_tags
from boltseal.client.ledger_client import LedgerClient
from boltseal.client.ledger_monitor.compact_audit import MonitorProgress
from boltseal.client.ledger_monitor.progress_file import MonitorMemory
from boltseal.client.ledger_monitor.tag_states import NOTHING
from boltseal.client.ledger_trust import LedgerCheck, LedgerUnchecked, LedgerWatch
from boltseal.client.registry_client import RegistryClient
from boltseal.client.transport import Transport
from boltseal.errors import BoltsealError
from boltseal.ledger.entry import Entry
from boltseal.ledger.tiles import WIDTH, BundleId
from boltseal.oci.reference import Reference, Repository, Tag

AHEAD: Final = 8
TRIES: Final = 3
PAUSE_S: Final = 0.3
SAMPLE: Final = 100
LOOKED_BACK: Final = 10 * SAMPLE
MAX_PROBLEMS: Final = 1000
SHARES: Final = 24
"""In how many runs every tag is compared once."""


@dataclass(slots=True)
class MonitorReport:
    """The result of one run. `read`: new entries; `names`: known tags; `compared`: tags compared with the registry.

    `share`: which of the SHARES shares of all tags was compared, from 1; None: all tags, or the registry lists none.
    """

    followed: LedgerCheck
    read: int = 0
    size: int = 0
    names: int = 0
    compared: int = 0
    share: int | None = None
    problems: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    def found(self, problem: str) -> None:
        """Add a problem; after MAX_PROBLEMS only a note that there are more."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)
        elif len(self.problems) == MAX_PROBLEMS:
            self.problems.append("more problems are not listed")


class Monitor:
    """Monitors the ledger of one registry."""

    def __init__(
        self,
        memory: MonitorMemory,
        watch: LedgerWatch,
        transport: Transport,
        registry: str,
        *,
        every_tag: bool = False,
    ) -> None:
        self._memory = memory
        self._watch = watch
        self._transport = transport
        self._registry = registry
        self._every_tag = every_tag
        self._client = LedgerClient(transport, registry)
        self._recent: dict[Reference, None] = {}

    async def look(self) -> MonitorReport:
        """Run once. Raises: LedgerBroken, LedgerUnchecked, MemoryUnusable, and errors of reading entries."""
        progress = self._memory.load()
        report = await self._advance(progress, None)
        if not report.problems:
            await self._compare(progress, report)
        # 5
        if not report.problems and report.read:
            self._memory.save(progress)
        if not report.problems and report.share is not None:
            self._memory.save_share(report.share % SHARES)
        return report

    async def _advance(self, progress: MonitorProgress, report: MonitorReport | None) -> MonitorReport:
        """Steps 1 to 3."""
        followed = await self._watch.follow(self._registry)
        head = followed.head
        if head is None:
            raise LedgerUnchecked(followed.no_head_reason)
        report = report or MonitorReport(followed)
        report.followed, size = followed, head.checkpoint.size
        if progress.size > size:
            raise LedgerUnchecked(
                f"the ledger of {self._registry} has {size} entries (expected at least the {progress.size} that were read before)"
            )
        start = progress.size
        async for lines in self._bundles(start, size):
            for line in lines:
                problems = progress.take(line)
                if problems:
                    index = progress.audit.size - 1
                    for problem in problems:
                        report.found(f"entry {index}: {problem}")
                last = progress.audit.last
                if last is not None and last.tag and progress.audit.size > size - LOOKED_BACK:
                    self._add_recent(last)
        progress.grow()
        report.read += size - start
        report.size, report.names = size, len(progress.audit.hashed)
        if progress.root != head.checkpoint.root:
            report.found(f"the tree over its {size} entries does not have the signed root")
        return report

    async def _bundles(self, start: int, size: int) -> AsyncIterator[tuple[bytes, ...]]:
        """Yield the entries from `start` on; a few bundles are requested ahead."""
        wanted = [
            BundleId(index, min(WIDTH, size - index * WIDTH))
            for index in range(start // WIDTH, (size + WIDTH - 1) // WIDTH)
        ]
        requests: list[asyncio.Task[tuple[bytes, ...]]] = []
        try:
            for number, bundle in enumerate(wanted):
                while len(requests) <= AHEAD and number + len(requests) < len(wanted):
                    requests.append(asyncio.create_task(self._client.bundle(wanted[number + len(requests)])))
                yield (await requests.pop(0))[max(0, start - bundle.index * WIDTH) :]
        finally:
            for task in requests:
                task.cancel()
            await asyncio.gather(*requests, return_exceptions=True)

    def _add_recent(self, entry: Entry) -> None:
        """Add the tag of a new entry to the recent ones, at most SAMPLE."""
        name = Reference(self._registry, Repository(entry.repository), Tag(entry.tag))
        self._recent.pop(name, None)
        self._recent[name] = None
        if len(self._recent) > SAMPLE:
            del self._recent[next(iter(self._recent))]

    async def _compare(self, progress: MonitorProgress, report: MonitorReport) -> None:
        """Compare the tags that are due with the ledger: step 4."""
        names = await self._due(progress, report)
        report.compared = len(names)
        wrong = await self._differing(progress, report, names)
        for _ in range(TRIES):
            if not wrong:
                break
            await asyncio.sleep(PAUSE_S)
            await self._advance(progress, report)
            wrong = await self._differing(progress, report, wrong)
        for name, problem in wrong.items():
            report.found(f"{name}: {problem}")

    async def _due(self, progress: MonitorProgress, report: MonitorReport) -> list[Reference]:
        """Return the tags that this run compares; report if the registry lists fewer tags than its ledger has."""
        share, hashed = self._memory.share() % SHARES, progress.audit.hashed
        due, listed = {} if self._every_tag else dict(self._recent), 0
        try:
            async with aclosing(self._listed()) as names:
                async for name in names:
                    listed += 1
                    place = int.from_bytes(hashed.hash(f"{name.repository}:{name.tag}")[:4])
                    if self._every_tag or place % SHARES == share:
                        due[name] = None
        except BoltsealError as error:
            if self._every_tag:
                raise
            report.unchecked.append(f"the tags of {self._registry} can't be listed: {error.message}")
            return list(due)
        report.share = None if self._every_tag else share + 1
        if listed < progress.audit.live:
            report.unchecked.append(
                f"{self._registry} lists {listed} tags, and its ledger has {progress.audit.live}: the others are hidden from "
                "this login, or were deleted without an entry"
            )
        return list(due)

    async def _differing(
        self, progress: MonitorProgress, report: MonitorReport, names: Iterable[Reference]
    ) -> dict[Reference, str]:
        """Return the tags whose digest differs from the ledger, with a message."""
        wrong: dict[Reference, str] = {}
        hashed = progress.audit.hashed
        async with aclosing(resolve_tags(self._transport, names, proven=False)) as answers:
            async for answer in answers:
                name, digest = answer.reference, "" if answer.resolved is None else str(answer.resolved.digest)
                if answer.error is not None and not isinstance(answer.error, RemoteNotFound):
                    report.unchecked.append(f"{name}: {answer.error.message}")
                    continue
                held = hashed.find(hashed.hash(f"{name.repository}:{name.tag}"))
                if (NOTHING if held is None else held.digest) != hashed.hash(digest):
                    last = (
                        "the ledger has no entry for it"
                        if held is None
                        else f"its last entry {held.last} has another digest"
                    )
                    wrong[name] = (
                        f"the tag resolves to {digest or 'nothing'}, but {last}; do not deploy it, and ask the operator"
                    )
        return wrong

    def _listed(self) -> AsyncGenerator[Reference]:
        client = RegistryClient(self._transport, self._registry)
        return list_tags(client, list_repositories(self._transport, self._registry))
