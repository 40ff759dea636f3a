"""The result of an examination of a store, and the collector of its findings.

A finding either differs (it was examined and is not as it must be) or is unknown (it could not be examined, with the
reason). Neither counts as "holds" (guarantee 11).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class FindingStatus(StrEnum):
    """The status of one thing, or of the whole store."""

    HOLDS = "holds"
    DIFFERS = "differs"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it must be. `what`: the entry, tag, manifest, blob or file; `problem`: one sentence."""

    what: str
    problem: str
    status: FindingStatus = FindingStatus.DIFFERS


@dataclass(frozen=True, slots=True)
class StoreCounts:
    """What was examined; sizes in bytes. `unnamed_*`: stored and unreferenced, which is no fault: left to `admin gc`.

    `names`: of objects, which were compared with the rows.
    """

    entries: int = 0
    observations: int = 0
    tags: int = 0
    manifests: int = 0
    blobs: int = 0
    blob_bytes: int = 0
    unnamed_blobs: int = 0
    unnamed_bytes: int = 0
    names: int = 0
    unnamed_objects: int = 0


@dataclass(frozen=True, slots=True)
class Examined:
    """The result of an examination."""

    counts: StoreCounts
    findings: tuple[Finding, ...]

    @property
    def outcome(self) -> FindingStatus:
        """Differs if any finding differs, else unknown if anything could not be examined, else holds."""
        found = {finding.status for finding in self.findings}
        return (
            FindingStatus.DIFFERS
            if FindingStatus.DIFFERS in found
            else FindingStatus.UNKNOWN
            if found
            else FindingStatus.HOLDS
        )


Progress = Callable[[str, int, int], None]
"""Called with the step's name, how much is done, and how much there is (0: not known)."""

STEP: Final = 1000
"""How many rows pass between two calls of a Progress."""


class FindingCollector:
    """Collects the counts and findings of the steps of an examination."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._counted: Counter[str] = Counter()
        self._findings: list[Finding] = []

    def count(self, name: str, number: int = 1) -> None:
        """Add to one of the `StoreCounts`."""
        self._counted[name] += number

    def differs(self, what: str, problem: str) -> None:
        """Add a finding: something is not as it must be."""
        self._findings.append(Finding(what, problem))

    def unknown(self, what: str, problem: str) -> None:
        """Add a finding: something could not be examined."""
        self._findings.append(Finding(what, problem, FindingStatus.UNKNOWN))

    def passed(self, step: str, done: int, total: int, *, every: int = STEP) -> None:
        """Report progress every `every` rows, and at the end."""
        if done % every == 0 or done == total:
            self._progress(step, done, total)

    @property
    def counted(self) -> dict[str, int]:
        """What was counted so far."""
        return dict(self._counted)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found so far."""
        return tuple(self._findings)

    def add(self, counts: Mapping[str, int], findings: Iterable[Finding]) -> None:
        """Add what another collector has."""
        self._counted.update(counts)
        self._findings += findings

    def close(self) -> Examined:
        """Return the result."""
        return Examined(StoreCounts(**self._counted), tuple(self._findings))
