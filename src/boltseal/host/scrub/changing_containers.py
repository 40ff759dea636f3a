"""Containers that start, stop and are removed while they are checked, which is normal on a busy host.

A container that could not be checked is compared with the store's metadata, which is read again, up to ROUNDS times:

- It is there, in the same state or another: it is checked again, unless the reasons are the same twice. Differences in its
  new metadata count if the next reading has them too.
- The metadata no longer has it, and no process runs on its layer: it is gone. There is nothing left to check, and this is
  no reason to doubt the host. Differences that were found in its files count anyway.
- The metadata no longer has it, but a process runs on its layer: it could not be checked. An attacker could hide it so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from boltseal.engines.overlay_processes import ProcessRoot, running_roots
from boltseal.engines.safe_open import StoreUnreadable
from boltseal.host.scrub.plans import ContainerPlan
from boltseal.host.scrub.report import ReportStatus, ScrubReport

ROUNDS: Final = 6
PAUSE_S: Final = 0.2
"""Engines remove a container's layer first, and a little later the entry in the metadata."""
REMOVED: Final = "removed during the check"


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes on overlays, by writable layer with links resolved. `unseen`: why they could not be listed."""

    roots: Mapping[bytes, ProcessRoot] = field(default_factory=dict)
    unseen: tuple[str, ...] = ()

    @classmethod
    def listed(cls, proc: Path) -> Processes:
        """Return those that run now."""
        try:
            return cls({os.path.realpath(each.upper): each for each in running_roots(proc)})
        except StoreUnreadable as error:
            return cls(unseen=(f"could not find the running containers: {error.message}",))

    def of(self, container: ContainerPlan) -> ProcessRoot | None:
        """Return the process that runs on a container's layer."""
        if container.upper is None:
            return None
        return self.roots.get(os.fsencode((container.root / os.fsdecode(container.upper)).resolve()))


Check = Callable[[Sequence[ContainerPlan], Processes], list[ScrubReport]]
"""Checks containers, and returns a report for each."""


@dataclass(slots=True)
class _Subject:
    """A container that is checked, by its newest metadata, and its newest report. `again`: whether to check it again."""

    plan: ContainerPlan
    report: ScrubReport | None = None
    again: bool = True

    def update(self, report: ScrubReport) -> None:
        """Take over the report of another check; the same reasons twice will not change."""
        self.again = self.report is None or report.unknown != self.report.unknown
        self.report = report

    @property
    def unclear(self) -> bool:
        """Whether the container could not be checked yet."""
        return self.report is None or self.report.status is ReportStatus.UNKNOWN

    def compare_with(self, now: Sequence[ContainerPlan], processes: Processes) -> None:
        """Compare the container with the containers of its ID that the metadata has now."""
        if self.report is None or len(now) > 1:
            return
        if not now:
            if not processes.unseen and processes.of(self.plan) is None:
                self.report = replace(self.report, status=ReportStatus.GONE, unknown=(), changed=())
            return
        (fresh,) = now
        if fresh != self.plan:
            self.again = not fresh.differences  # those of a moment: compared with the next reading first
        elif fresh.differences and not self.report.differences:
            self.again = True
        self.plan = fresh


def check_until_settled(
    containers: Sequence[ContainerPlan], check: Check, list_now: Callable[[], Sequence[ContainerPlan]], proc: Path
) -> list[ScrubReport]:
    """Check containers, and again those that change meanwhile. `list_now` reads the store's metadata."""
    if not containers:
        return []
    subjects = [_Subject(each) for each in containers]
    processes = Processes.listed(proc)
    for last in (*[False] * (ROUNDS - 1), True):
        todo = [each for each in subjects if each.unclear and each.again]
        for subject, report in zip(todo, check([each.plan for each in todo], processes), strict=True):
            subject.update(report)
        unclear = [each for each in subjects if each.unclear]
        if last or not unclear:
            break
        time.sleep(PAUSE_S)
        now, processes = list_now(), Processes.listed(proc)
        for subject in unclear:
            subject.compare_with([each for each in now if each.id == subject.plan.id], processes)
    return [each.report for each in subjects if each.report is not None]
