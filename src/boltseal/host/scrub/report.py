"""What a scrub answers: a result for each image, container, and store that could not be read whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from boltseal.host.scrub.container_changes import ContainerChange
from boltseal.host.scrub.differences import Difference
from boltseal.host.scrub.trust import Level


class ReportStatus(StrEnum):
    """In one word, as in every verb's `--json`."""

    HOLDS = "holds"
    DIFFERS = "differs"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ScrubReport:
    """One line. `what`: image, container or store. `differences` may be fewer than `count`. `unknown`: not checked, and why."""

    what: str
    ref: str
    status: ReportStatus
    store: str
    root: str
    level: Level | None = None
    by: str = ""
    id: str = ""
    names: tuple[str, ...] = ()
    layers: int = 0
    entries: int = 0
    differences: tuple[Difference, ...] = ()
    count: int = 0
    unknown: tuple[str, ...] = ()
    changed: tuple[ContainerChange, ...] = field(default=())
    running: int = 0
    """The process that was looked at; 0 where none runs."""


def status_of(count: int, unknown: tuple[str, ...]) -> ReportStatus:
    """What differs was seen, whatever else could not be."""
    return ReportStatus.DIFFERS if count else ReportStatus.UNKNOWN if unknown else ReportStatus.HOLDS


def outcome(reports: list[ScrubReport]) -> ReportStatus:
    """Of all together: 1 beats 3, as exit codes."""
    found = {report.status for report in reports}
    return next((each for each in (ReportStatus.DIFFERS, ReportStatus.UNKNOWN) if each in found), ReportStatus.HOLDS)
