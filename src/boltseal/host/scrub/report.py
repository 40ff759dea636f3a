"""The results of a scrub: one for each image, container, and store that could not be read completely."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from boltseal.host.scrub.container_changes import ContainerChange
from boltseal.host.scrub.differences import Difference
from boltseal.host.scrub.remedies import Remedy
from boltseal.host.scrub.trust import Level

BUILD_CACHE: Final = "build-cache"
ORPHANED: Final = "orphaned-layers"


class ReportStatus(StrEnum):
    """The outcome, as in the `--json` output of every command.

    GONE: a container that was removed during the check. UNCHECKED: nothing of it was checked, as it belongs to no image and no
    container; it counts only if complete coverage is asked for (`outcome`).
    """

    HOLDS = "holds"
    DIFFERS = "differs"
    UNKNOWN = "unknown"
    GONE = "gone"
    UNCHECKED = "unchecked"


@dataclass(frozen=True, slots=True)
class ScrubReport:
    """The result for one subject.

    `what`: image, container, store, BUILD_CACHE or ORPHANED. `ref`: its name in output. `level`, `by`: how far it is proven, and by which evidence.
    `count`: of all differences; `differences` may be fewer. `unknown`: reasons why something was not checked. `changed`: a
    container's own changes. `running`: the process ID of the container that was compared, 0 if none runs. `notes`: what else a
    person should know. `unchecked`: what the check left out, which is stated, and changes the status only if complete coverage
    is asked for. `unchecked_count`: how many records of a build cache or orphaned folders that is. `unread`: parts of it (layers, copies, the view
    of a container) whose content this run did not read, with `--share`. `remedy`: what to do about an image that
    differs.
    """

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
    notes: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    unchecked_count: int = 0
    unread: int = 0
    remedy: Remedy | None = None


def status_of(count: int, unknown: tuple[str, ...]) -> ReportStatus:
    """Return the status for a number of differences; they count even if something else could not be checked."""
    return ReportStatus.DIFFERS if count else ReportStatus.UNKNOWN if unknown else ReportStatus.HOLDS


def outcome(reports: list[ScrubReport], *, complete: bool = False) -> ReportStatus:
    """Return the status of all reports together: DIFFERS over UNKNOWN over HOLDS.

    What is gone does not count, but it is no success either: UNKNOWN if nothing else was checked.
    `complete`: whether what was left out is UNKNOWN: build caches, what `unchecked` names, and content that was not read in
    this run. Otherwise it is only stated.
    """
    found = {report.status for report in reports}
    if ReportStatus.GONE in found and found <= {ReportStatus.GONE, ReportStatus.UNCHECKED}:
        return ReportStatus.UNKNOWN
    if complete and any(
        report.unchecked or report.unread or report.status is ReportStatus.UNCHECKED for report in reports
    ):
        found.add(ReportStatus.UNKNOWN)
    return next((each for each in (ReportStatus.DIFFERS, ReportStatus.UNKNOWN) if each in found), ReportStatus.HOLDS)
