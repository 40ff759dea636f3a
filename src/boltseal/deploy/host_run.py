"""Decides in which order a project is deployed to several hosts, and what goes back if one of them fails. Pure.

1. Hosts begin in the order in which they were named, at most `at_once` at the same time.
2. With a canary, only the first `canary` hosts begin. When all of them have ended they are watched, and only if they stayed healthy
   do the other hosts begin.
3. After the first failure no further host begins. Those that are under way end.
4. Then each host goes back that this run changed, the last one first. A host whose own deploy failed has gone back itself.

What a host goes back to is decided from its releases: those of the person of the run after its mark, the number of its newest release
before the run, belong to the run. So a killed process forgets nothing, and going back twice changes nothing. A host on which another
person has deployed since then does not go back.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import dropwhile

from boltseal.deploy.releases import Release, ReleaseKind, last_good


class HostStep(StrEnum):
    """How far a host is in a run."""

    WAITING = "waiting"
    UNDER_WAY = "under-way"
    ENDED = "ended"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class HostRun:
    """A run over several hosts. `canary`: how many hosts are watched before the others begin; 0 for none.

    `steps`: of the hosts that do not wait any more. `watched`: whether the canary hosts stayed healthy.
    """

    hosts: tuple[str, ...]
    at_once: int = 1
    canary: int = 0
    steps: dict[str, HostStep] = field(default_factory=dict)
    watched: bool = False

    def step(self, host: str) -> HostStep:
        """Return how far a host is."""
        return self.steps.get(host, HostStep.WAITING)

    def at(self, host: str, step: HostStep) -> HostRun:
        """Return the run with a host at another step."""
        return replace(self, steps={**self.steps, host: step})

    @property
    def canary_hosts(self) -> tuple[str, ...]:
        """The hosts that are watched before the others begin."""
        return self.hosts[: self.canary]

    @property
    def failed(self) -> bool:
        """Whether a host failed, so that none begins any more."""
        return HostStep.FAILED in self.steps.values()

    @property
    def to_watch(self) -> bool:
        """Whether the canary hosts have all ended and have to be watched now."""
        ended = all(self.step(each) is HostStep.ENDED for each in self.canary_hosts)
        return bool(self.canary_hosts) and ended and not self.watched

    @property
    def next(self) -> tuple[str, ...]:
        """The hosts that begin now."""
        if self.failed or self.to_watch:
            return ()
        admitted = self.hosts if self.watched or not self.canary else self.canary_hosts
        under_way = [each for each in self.hosts if self.step(each) is HostStep.UNDER_WAY]
        waiting = [each for each in admitted if self.step(each) is HostStep.WAITING]
        return tuple(waiting[: max(self.at_once - len(under_way), 0)])

    @property
    def to_undo(self) -> tuple[str, ...]:
        """The hosts that may have to go back, the last one first. Nothing was done on the others."""
        if not self.failed:
            return ()
        return tuple(each for each in reversed(self.hosts) if self.step(each) is not HostStep.WAITING)


@dataclass(frozen=True, slots=True)
class WayBack:
    """How a host goes back. `to`: the release that ran before the run, None if none did; `holds`: rollbacks of the run that hold.

    `other`: the release of another person that runs there, or was left unfinished, so that the host does not go back.
    """

    to: int | None
    holds: tuple[int, ...] = ()
    other: Release | None = None


def newest_number(releases: Sequence[Release]) -> int:
    """Return the mark of a host before a run: the number of its newest release, 0 if there is none."""
    return max((each.number for each in releases), default=0)


def way_back(releases: Sequence[Release], mark: int, who: Collection[str]) -> WayBack | None:
    """Return how a host goes back to what ran before a run; None if that runs already, or the run recorded nothing there.

    `releases`: of the host, oldest first. `mark`: see `newest_number`. `who`: the person of the run, by each name.
    """
    later = [each for each in releases if each.number > mark and each.kind is not ReleaseKind.FOUND]
    own = list(dropwhile(lambda each: each.who not in who, later))
    if not own:
        return None
    before = own[0].previous
    now = last_good(own)
    newest = own[-1] if own[-1].unfinished else now
    if newest is not None and newest.who not in who:
        return WayBack(None, other=newest)
    if not own[-1].unfinished and (now is None or (before is not None and now.of == before)):
        return None
    return WayBack(before, tuple(each.number for each in own if each.hold))
