"""Any sequence of deploys, failures, rollbacks and kills leaves what the last successful step says, or what ran before.

The same model for every target; `ReleaseMachine.open` returns its driver.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from boltseal.deploy.holds import Held
from boltseal.deploy.release_flow import DeployResult
from boltseal.deploy.release_store import ReleaseFolder
from boltseal.deploy.releases import Release, ReleaseEnd, last_good
from boltseal.errors import BoltsealError, NotFound
from tests.deploy.killable_project import Faults, Killed

Runs = dict[str, tuple[str, ...]]
"""What runs, by service: the image of each container."""


class Driver(Protocol):
    """A project on one target: how it is changed, deployed and looked at."""

    faults: Faults
    """Of its disk and its target."""
    state: str
    """The folder of the administrator who deploys."""

    def version(self, *, good: bool, job: bool, ports: bool, scale: int) -> Runs:
        """Write another version into the project's files; return what runs if it is deployed."""

    def deploy(self) -> DeployResult:
        """Deploy the project's files as locked."""

    def rollback(self) -> DeployResult:
        """Roll back to the release before."""

    def resume(self) -> DeployResult:
        """Continue the unfinished release."""

    def running(self) -> Runs:
        """Return what runs now."""

    def services(self, release: Release) -> dict[str, str]:
        """Return the image of each service of a release that keeps running."""

    def jobs(self) -> int:
        """Return how often a job was started."""

    def change_by_hand(self) -> Runs:
        """Change what runs, as an operator does without boltseal; return what runs then."""

    def unreachable(self) -> AbstractContextManager[None]:
        """What the deploy needs from elsewhere does not answer."""

    def check_failed_job(self, before: set[str]) -> None:
        """Check that a failed job left what runs. `before`: from `containers`."""

    def containers(self) -> set[str]:
        """Return the IDs of what exists."""

    def restored(self, release: Release, ran: Runs, *, itself: bool = False) -> Runs:
        """Return what a failed release puts back, or what `release` is put back to. `ran`: what ran when it began."""

    @property
    def releases(self) -> ReleaseFolder:
        """The releases on this machine."""

    def close(self) -> None:
        """End it."""


class ReleaseMachine(RuleBasedStateMachine):
    """`runs`: what must run. `new`, `before`: what may run after a killed command: the new version, or what ran before."""

    takes_over = True
    """Whether a deploy can go back to what ran without a release."""

    def open(self) -> Any:
        """Return the driver of the target."""
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.shop: Driver = self.open()
        self.runs: Runs = {}
        self.before: Runs = {}
        self.new: Runs | None = None

    def teardown(self) -> None:
        self.shop.close()

    @initialize(by_hand=st.booleans(), ports=st.booleans())
    def first(self, by_hand: bool, ports: bool) -> None:
        self.runs = self.shop.version(good=True, job=True, ports=ports, scale=1)
        if by_hand and self.takes_over:
            self.runs = self.shop.change_by_hand()
        else:
            assert self.shop.deploy().release.good

    @precondition(lambda self: self.new is None)
    @rule(good=st.booleans(), job=st.booleans(), ports=st.booleans(), scale=st.integers(1, 2))
    def deploy(self, good: bool, job: bool, ports: bool, scale: int) -> None:
        """A good version runs; a bad one leaves what ran before."""
        wanted = self.shop.version(good=good, job=job, ports=ports, scale=scale)
        before, ran = self.shop.containers(), self.runs
        release = self.shop.deploy().release
        assert release.end is (ReleaseEnd.HEALTHY if good and job else ReleaseEnd.PUT_BACK), release.reason
        self.runs = wanted if release.good else self.shop.restored(release, ran)
        if not job:
            self.shop.check_failed_job(before)

    @precondition(lambda self: self.new is None)
    @rule()
    def deploy_again(self) -> None:
        """A deploy of the same file after a success changes nothing."""
        seen = self.shop.running()
        try:
            release = self.shop.deploy()
        except Held:  # the file has what was rolled back
            self.is_held(seen)
            return
        if release.outcome is not None:
            assert release.release.end in (ReleaseEnd.HEALTHY, ReleaseEnd.PUT_BACK)
            if release.release.good:
                self.runs = self.shop.running()
                again = self.shop.deploy()
                assert again.outcome is None
            else:
                self.runs = self.shop.restored(release.release, self.runs)

    def is_held(self, seen: dict[str, tuple[str, ...]]) -> None:
        """What was refused since a rollback holds it changed nothing."""
        assert self.shop.running() == seen
        assert any(each.hold for each in self.shop.releases.all())

    @precondition(lambda self: self.new is None)
    @rule()
    def rollback(self) -> None:
        """A rollback makes an older state run again, and runs no job; a second one in a row is refused."""
        jobs, seen = self.shop.jobs(), self.shop.running()
        try:
            done = self.shop.rollback()
        except NotFound:
            return
        except Held:
            self.is_held(seen)
            return
        assert done.release.good, done.release.reason
        assert self.shop.jobs() == jobs
        self.runs = self.shop.running()
        services = self.shop.services(done.release)
        assert {name: images[0] for name, images in self.runs.items() if name in services} == services, seen

    @precondition(lambda self: self.new is None)
    @rule(good=st.booleans(), ports=st.booleans(), steps=st.integers(1, 60))
    def killed(self, good: bool, ports: bool, steps: int) -> None:
        """A deploy is killed after some of its steps."""
        wanted = self.shop.version(good=good, job=True, ports=ports, scale=1)
        self.before = self.runs
        self.shop.faults.left = steps
        try:
            release = self.shop.deploy().release
        except Killed:
            last = last_good(self.shop.releases.all())
            self.before = self.runs if last is None else self.shop.restored(last, self.runs, itself=True)
            self.new = wanted if good else self.before
        else:
            self.runs = wanted if release.good else self.shop.restored(release, self.runs)
        finally:
            self.shop.faults.left = None

    @precondition(lambda self: self.new is not None)
    @rule(how=st.sampled_from(["resume", "deploy", "rollback"]))
    def one_command_continues(self, how: str) -> None:
        """After a kill, one command leaves the new version, or what ran before."""
        assert self.new is not None
        unfinished = any(each.unfinished for each in self.shop.releases.all())
        if how == "deploy" or not unfinished:
            release = self.shop.deploy().release
            self.runs = self.new if release.good else self.before
        elif how == "resume":
            release = self.shop.resume().release
            self.runs = self.new if release.good else self.before
        else:
            jobs = self.shop.jobs()
            release = self.shop.rollback().release
            assert release.good, release.reason
            assert self.shop.jobs() == jobs
            self.runs = self.before
        self.new = None

    @precondition(lambda self: self.new is None)
    @rule()
    def changed_by_hand(self) -> None:
        """An operator changes what runs without boltseal."""
        self.runs = self.shop.change_by_hand()

    @precondition(lambda self: self.new is None)
    @rule()
    def unreachable(self) -> None:
        """A deploy that can't reach what it needs, the registry or the cluster, changes nothing."""
        self.shop.version(good=True, job=True, ports=False, scale=1)
        with self.shop.unreachable(), pytest.raises(BoltsealError):
            self.shop.deploy()

    @precondition(lambda self: self.new is None)
    @rule()
    def disk_full(self) -> None:
        """A deploy that can't be recorded changes nothing."""
        self.shop.version(good=True, job=True, ports=False, scale=1)
        self.shop.faults.full = True
        with pytest.raises(BoltsealError):
            self.shop.deploy()
        self.shop.faults.full = False

    @precondition(lambda self: self.new is None)
    @rule()
    def other_admin(self) -> None:
        """Another admin, whose state folder has no releases, deploys a bad version: what ran is put back."""
        self.shop.version(good=False, job=True, ports=True, scale=1)
        state, self.shop.state = self.shop.state, "other"
        release = self.shop.deploy().release
        self.shop.state = state
        assert release.end is ReleaseEnd.PUT_BACK, release.reason
        self.runs = self.shop.restored(release, self.runs)

    @invariant()
    def what_runs_is_as_expected(self) -> None:
        if self.new is None:
            assert self.shop.running() == self.runs
