"""One look at a ledger from outside. What breaks a rule is named; what could not be looked at is no success.

In this order:

1. Its head goes on from the one that was seen before, under the trusted key (`client.ledger_trust`).
2. Every entry behind those that were read is read, in bundles, and keeps the rules of `ledger.audit`: canonical, gapless,
   later than the one before it, unbroken chains of `previous`, no bound name with two digests.
3. The tree over all entries, hashed here, has the root that was signed.
4. What the registry answers is what the ledger says: each name that the entries just read are about (the last of them, up
   to a number), or every tag that the registry lists. What differs is looked at again behind a newer head, since a tag may
   have moved meanwhile.
5. How far it was read is remembered, if nothing was wrong; otherwise the same is found again the next time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from boltseal.client.catalog import repositories
from boltseal.client.errors import RemoteNotFound
from boltseal.client.head_requests import poll
from boltseal.client.ledger_client import LedgerClient
from boltseal.client.ledger_monitor.compact_audit import MonitorProgress
from boltseal.client.ledger_monitor.progress_file import MonitorMemory
from boltseal.client.ledger_monitor.tag_states import NOTHING
from boltseal.client.ledger_trust import LedgerCheck, LedgerUnchecked, LedgerWatch
from boltseal.client.registry_client import RegistryClient
from boltseal.client.transport import Transport
from boltseal.ledger.entry import Entry
from boltseal.ledger.tiles import WIDTH, BundleId
from boltseal.oci.reference import Reference, Repository, Tag

AHEAD: Final = 8
TRIES: Final = 3
PAUSE_S: Final = 0.3
SAMPLE: Final = 100
LOOKED_BACK: Final = 10 * SAMPLE
MAX_PROBLEMS: Final = 1000


@dataclass(slots=True)
class MonitorReport:
    """What one look found. `read`: entries read this time; `names`: known by now; `compared`: tags held against the log."""

    followed: LedgerCheck
    read: int = 0
    size: int = 0
    names: int = 0
    compared: int = 0
    problems: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    def found(self, problem: str) -> None:
        """Remember a problem; of a thousand and more only that there are more."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)
        elif len(self.problems) == MAX_PROBLEMS:
            self.problems.append("and more, which are not listed")


class Monitor:
    """Looks at the ledger of one registry. `progressed` hears how many entries of how many were read."""

    def __init__(
        self,
        memory: MonitorMemory,
        watch: LedgerWatch,
        transport: Transport,
        registry: str,
        *,
        every_tag: bool = False,
        progressed: Callable[[int, int], None] = lambda *_: None,
    ) -> None:
        self._memory = memory
        self._watch = watch
        self._transport = transport
        self._registry = registry
        self._every_tag = every_tag
        self._progressed = progressed
        self._client = LedgerClient(transport, registry)
        self._recent: dict[Reference, None] = {}

    async def look(self) -> MonitorReport:
        """Once. LedgerBroken, LedgerUnchecked, MemoryUnusable, and whatever kept entries from being read."""
        progress = self._memory.load()
        report = await self._advance(progress, None)
        if not report.problems:
            await self._compare(progress, report)
        # 5
        if not report.problems and report.read:
            self._memory.save(progress)
        return report

    async def _advance(self, progress: MonitorProgress, report: MonitorReport | None) -> MonitorReport:
        """Steps 1 to 3."""
        followed = await self._watch.follow(self._registry)
        head = followed.head
        if head is None:
            raise LedgerUnchecked(f"{self._registry} shows no ledger")
        report = report or MonitorReport(followed)
        report.followed, size = followed, head.checkpoint.size
        if progress.size > size:
            raise LedgerUnchecked(f"{self._registry} shows {size} entries, and {progress.size} were read already")
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
                    self._touched(last)
            self._progressed(progress.audit.size, size)
        progress.grow()
        report.read += size - start
        report.size, report.names = size, len(progress.audit.hashed)
        if progress.root != head.checkpoint.root:
            report.found(f"the tree over the {size} entries that it gives has another root than the one that it signed")
        return report

    async def _bundles(self, start: int, size: int) -> AsyncIterator[tuple[bytes, ...]]:
        """The entries from `start` on, a few bundles asked for ahead of the one that is read."""
        wanted = [
            BundleId(index, min(WIDTH, size - index * WIDTH))
            for index in range(start // WIDTH, (size + WIDTH - 1) // WIDTH)
        ]
        asked: list[asyncio.Task[tuple[bytes, ...]]] = []
        try:
            for number, bundle in enumerate(wanted):
                while len(asked) <= AHEAD and number + len(asked) < len(wanted):
                    asked.append(asyncio.create_task(self._client.bundle(wanted[number + len(asked)])))
                yield (await asked.pop(0))[max(0, start - bundle.index * WIDTH) :]
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    def _touched(self, entry: Entry) -> None:
        """Of the newest entries the names, the newest last; no more than SAMPLE."""
        name = Reference(self._registry, Repository(entry.repository), Tag(entry.tag))
        self._recent.pop(name, None)
        self._recent[name] = None
        if len(self._recent) > SAMPLE:
            del self._recent[next(iter(self._recent))]

    async def _compare(self, progress: MonitorProgress, report: MonitorReport) -> None:
        """Step 4."""
        names = [one async for one in self._listed()] if self._every_tag else list(self._recent)
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
        if self._every_tag and len(names) < progress.audit.live:
            live = progress.audit.live
            report.unchecked.append(
                f"{self._registry} lists {len(names)} tags, and the ledger says that there are {live}: the others are "
                "hidden from this login, or gone without an entry"
            )

    async def _differing(
        self, progress: MonitorProgress, report: MonitorReport, names: Iterable[Reference]
    ) -> dict[Reference, str]:
        """The names that mean something else than the ledger says, and what."""
        wrong: dict[Reference, str] = {}
        hashed = progress.audit.hashed
        async with aclosing(poll(self._transport, names)) as answers:
            async for answer in answers:
                name, means = answer.reference, "" if answer.resolved is None else str(answer.resolved.digest)
                if answer.error is not None and not isinstance(answer.error, RemoteNotFound):
                    report.unchecked.append(f"{name}: {answer.error.message}")
                    continue
                held = hashed.find(hashed.hash(f"{name.repository}:{name.tag}"))
                if (NOTHING if held is None else held.digest) != hashed.hash(means):
                    said = (
                        "the ledger says nothing of it"
                        if held is None
                        else f"its last entry {held.last} says otherwise"
                    )
                    wrong[name] = f"the tag means {means or 'nothing'}, and {said}"
        return wrong

    async def _listed(self) -> AsyncIterator[Reference]:
        client = RegistryClient(self._transport, self._registry)
        async for repository in repositories(self._transport, self._registry):
            try:
                async for tag in client.tags(repository):
                    yield Reference(self._registry, repository, tag)
            except RemoteNotFound:
                continue
