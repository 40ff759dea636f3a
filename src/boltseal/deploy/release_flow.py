"""Runs the steps of a release: of `deploy`, `rollback` and `deploy --resume`.

Preconditions: all images are on the host and protected from prune, and the caller is inside `ReleaseFolder.deploying`.

    1. Record the release. Until here nothing that runs is touched.
    2. Remove the containers of removed services; start new and changed services.
    3. Wait until every service is healthy.
    4. If health checks fail, restore the previous release by steps 2 and 3, and report what failed.

Completed jobs of an older release are not run again: see `jobs`.

The record on disk names each step before the step touches the host, so an interrupted release can be resumed at its step.
Each step can be repeated: Compose leaves services alone that are already as wanted.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from boltseal.deploy.compose_model import mounted_files, release_text
from boltseal.deploy.compose_program import Compose, RecordedProject
from boltseal.deploy.health import (
    CONFIG_HASH,
    PROJECT,
    SETTLE_S,
    ExpectedService,
    HealthStatus,
    HealthWatch,
    ServiceHealth,
    runs_expected_image,
    service_of,
)
from boltseal.deploy.jobs import mark_completed_jobs, skip_completed_jobs, skipped_jobs
from boltseal.deploy.release_store import ReleaseFolder
from boltseal.deploy.releases import Release, ReleaseContents, ReleaseEnd, ReleaseStep, ServiceState
from boltseal.engines.api import Engine
from boltseal.engines.inventory import EngineContainer, State
from boltseal.engines.podman_health import PodmanChecks
from boltseal.errors import BoltsealError
from boltseal.oci.digest import Digest

WAIT_S: Final = 120.0
LOG_LINES: Final = 10
_LOOK_EVERY_S: Final = 0.5
_AT_WORK: Final = (State.RUNNING, State.RESTARTING, State.PAUSED)


@dataclass(frozen=True, slots=True)
class DeployTimeouts:
    """Time limits of a deploy, in seconds. `wait_s`: until all services are healthy; `settle_s`: see `health`, rule 5."""

    wait_s: float = WAIT_S
    settle_s: float = SETTLE_S

    @property
    def rollback_wait_s(self) -> float:
        """The time limit for restoring the previous release: a short `--wait` for the new one must not fail the rollback."""
        return max(self.wait_s, WAIT_S)


@dataclass(frozen=True, slots=True)
class Failure:
    """A service that failed, or "" for the whole release. `log`: the last lines of the container concerned."""

    service: str
    reason: str
    log: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReleaseOutcome:
    """How a release ended. `back`: the number of the previous release that was restored, if one was."""

    release: Release
    failures: tuple[Failure, ...] = ()
    back: int | None = None


@dataclass(frozen=True, slots=True)
class DeployResult:
    """The result of `deploy` or `rollback`. `outcome` is None if there was nothing to do: `release` is the running one.

    `pulled`: services whose image was not on the host before. `abandoned`: the number of the unfinished release that this
    one replaces. `scrubs`: for a release that ran already, the result of scrubbing each service's image now.
    """

    release: Release
    outcome: ReleaseOutcome | None = None
    pulled: tuple[str, ...] = ()
    abandoned: int | None = None
    scrubs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReleaseFlow:
    """Runs releases of one project on one engine.

    `now_us`: the clock, microseconds since the epoch. `progress`: receives progress lines. `copies`: whether to record copies of files that are
    mounted into containers; an engine on another host would not find them.
    """

    compose: Compose
    engine: Engine
    folder: ReleaseFolder
    now_us: Callable[[], int]
    progress: Callable[[str], None]
    timeouts: DeployTimeouts = field(default_factory=DeployTimeouts)
    copies: bool = True

    def text(self, document: Mapping[str, Any], images: Mapping[str, str], variables: Mapping[str, str]) -> bytes:
        """Return the text that Compose starts from, and record copies of the files that it mounts.

        Raises: ReleaseInvalid: for a file that can't be read.
        """
        copies: dict[str, str] = {}
        for path in mounted_files(document) if self.copies else ():
            kept = None if self.folder.is_content(path) else self.folder.keep_content(path)
            if kept is not None:
                copies[str(path)] = str(kept)
        return release_text(document, images, copies, self.folder.hmac, variables)

    async def unchanged(self, last: Release | None, compose: bytes, names: Sequence[str]) -> bool:
        """Return whether these services already run exactly as `compose` says: equal text, and containers made from it."""
        if last is None or _relevant_text(self.folder.contents(last.number).compose, names) != _relevant_text(
            compose, names
        ):
            return False
        containers = await self.containers()
        for name in names:
            service = last.service(name)
            containers_of_service = [each for each in containers if service_of(each) == name]
            if service is not None and service.state is ServiceState.COMPLETED:
                continue  # its work is done, whether its container still exists or not
            if service is None or len(containers_of_service) < service.containers:
                return False
            wanted = ExpectedService(service.containers, Digest.parse(service.image_id))
            if not all(
                runs_expected_image(wanted, each)
                and each.labels.get(CONFIG_HASH) == service.config_hash
                and (each.running or each.exit_code == 0)
                for each in containers_of_service
            ):
                return False
        return True

    async def run(self, release: Release, contents: ReleaseContents) -> ReleaseOutcome:
        """Run steps 1 to 4 of a new release."""
        return await self.resume(self.folder.begin(release, contents))

    async def resume(self, release: Release) -> ReleaseOutcome:
        """Run the remaining steps of a recorded release."""
        if release.step is ReleaseStep.RETURNING:
            return await self._restore_previous(release, _recorded_failures(release))
        release = self.folder.write(release.at(ReleaseStep.STARTING))
        before = await self.containers()
        try:
            await self._remove(release.removed)
            await self._start(release, release.to_start, self.timeouts.wait_s, back=release.of is not None)
        except BoltsealError as error:
            failures = await self._failures(await self._verdicts(release))
            return await self._restore_previous(release, failures or (Failure("", error.message),), error.message)
        release = self.folder.write(release.at(ReleaseStep.WAITING, ServiceState.STARTED))
        failed = _failed(await self._wait_until_healthy(release, before, self.timeouts.wait_s))
        if failed:
            return await self._restore_previous(release, await self._failures(failed))
        containers = await self.containers()
        ended = self._with_hashes(release, containers).at(ReleaseStep.WAITING, ServiceState.HEALTHY)
        ended = mark_completed_jobs(ended, self._document(release.number), containers)
        return ReleaseOutcome(self.folder.write(ended.ended(ReleaseEnd.HEALTHY, self.now_us())))

    async def containers(self) -> tuple[EngineContainer, ...]:
        """Return the project's containers, including stopped ones."""
        return await self.engine.containers(all_=True, label=f"{PROJECT}={self.folder.project}")

    async def _start(self, release: Release, names: Sequence[str], within_s: float, *, back: bool = False) -> None:
        """Start these services. `back`: an older release is restored, so its completed jobs are not started."""
        jobs = {each.name for each in release.services if back and each.state is ServiceState.COMPLETED}
        if jobs:
            self.progress(f"not run again: {', '.join(skipped_jobs(release))}")
            found = await self.containers()
            busy = sorted({name for each in found if each.state in _AT_WORK and (name := service_of(each)) in jobs})
            if busy:  # a job of the failed release must not run beside the restored one
                await self.compose.stop(self._recorded(release), busy, self.progress)
        if names:  # without names, Compose would start all services
            recorded = self._recorded(release)
            await self.compose.up(recorded, names, dependencies=not jobs, timeout_s=within_s, progress=self.progress)

    async def _remove(self, names: Sequence[str]) -> None:
        """Stop and remove these services, each by the text of the newest release that has it."""
        existing = {service_of(each) for each in await self.containers()} if names else set()
        left = [name for name in names if name in existing]
        for release in reversed(self.folder.all() if left else ()):
            known = [name for name in left if release.service(name) is not None]
            if known and self.folder.has_contents(release.number):
                await self.compose.remove(self._recorded(release), known, self.progress)
                left = [name for name in left if name not in known]

    async def _wait_until_healthy(
        self, release: Release, before: Sequence[EngineContainer], within_s: float
    ) -> Mapping[str, ServiceHealth]:
        """Do step 3: return the health of all services as soon as one failed or all are healthy, or after `within_s`.

        `before`: the containers before the start; those that still run count as settled.
        """
        health_watch = HealthWatch(_expected_services(release), self.timeouts.settle_s, self.engine.about.podman)
        loop = asyncio.get_running_loop()
        health_watch.observe(before, loop.time() - self.timeouts.settle_s)
        until = loop.time() + within_s
        shown = ""
        checks = PodmanChecks(self.engine)
        while True:
            await checks.run(await self.containers(), loop.time())
            verdicts = health_watch.observe(await self.containers(), loop.time())
            judged = {each.status for each in verdicts.values()}
            if HealthStatus.FAILED in judged or HealthStatus.WAITING not in judged or loop.time() > until:
                return verdicts
            waiting = [name for name, each in verdicts.items() if each.status is HealthStatus.WAITING]
            now = f"waiting for {', '.join(waiting)}"
            if now != shown:
                self.progress(now)
                shown = now
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _verdicts(self, release: Release) -> Mapping[str, ServiceHealth]:
        """Return the services that are failed at this moment."""
        health_watch = HealthWatch(_expected_services(release), self.timeouts.settle_s, self.engine.about.podman)
        found = health_watch.observe(await self.containers(), asyncio.get_running_loop().time())
        return {name: each for name, each in found.items() if each.status is HealthStatus.FAILED}

    async def _failures(self, failed: Mapping[str, ServiceHealth]) -> tuple[Failure, ...]:
        found = []
        for name, verdict in failed.items():
            late = (
                ""
                if verdict.status is HealthStatus.FAILED
                else f"; not healthy after {self.timeouts.wait_s:g} s (--wait)"
            )
            log: tuple[str, ...] = ()
            if verdict.container:
                try:
                    log = await self.engine.logs(verdict.container, LOG_LINES)
                except BoltsealError as error:
                    log = (f"(could not read its log: {error.message})",)
            found.append(Failure(name, verdict.reason + late, log))
        return tuple(found)

    async def _restore_previous(self, release: Release, failures: Sequence[Failure], why: str = "") -> ReleaseOutcome:
        """Do step 4 of a failed release: restore the previous release, or record why that failed."""
        reason = why or "; ".join(f"{each.service}: {each.reason}" for each in failures)
        release = release.with_services(
            msgspec.structs.replace(service, state=ServiceState.FAILED, reason=failure.reason)
            for failure in failures
            if (service := release.service(failure.service)) is not None
        )
        release = msgspec.structs.replace(release, reason=reason[:4000])
        previous = release.previous
        if previous is None:
            nothing = f"{reason}; there is no previous release to restore"
            return ReleaseOutcome(
                self.folder.write(release.ended(ReleaseEnd.FAILED, self.now_us(), nothing)), tuple(failures)
            )
        release = self.folder.write(release.at(ReleaseStep.RETURNING))
        self.progress(f"restoring release {previous}")
        try:
            before = skip_completed_jobs(self.folder.read(previous), self._document(previous))
            existing = await self.containers()
            added = [each.name for each in release.services if before.service(each.name) is None]
            await self._remove(added)
            names = tuple(each.name for each in before.services if each.state is not ServiceState.COMPLETED)
            await self._start(before, names, self.timeouts.rollback_wait_s, back=True)
            failed = _failed(await self._wait_until_healthy(before, existing, self.timeouts.rollback_wait_s))
        except BoltsealError as error:
            broken = f"{reason}; could not restore release {previous}: {error.message}"
            return ReleaseOutcome(
                self.folder.write(release.ended(ReleaseEnd.FAILED, self.now_us(), broken)), tuple(failures)
            )
        if failed:
            broken = f"{reason}; release {before.number} was restored, but its {', '.join(failed)} is not healthy"
            return ReleaseOutcome(
                self.folder.write(release.ended(ReleaseEnd.FAILED, self.now_us(), broken)), tuple(failures)
            )
        self.folder.write(self._with_hashes(before, await self.containers()))
        done = release.at(ReleaseStep.RETURNING, ServiceState.PUT_BACK).with_services(
            msgspec.structs.replace(each, reason=each.reason or f"not run again: {job.reason}")
            for each in release.services
            if (job := before.service(each.name)) is not None and job.state is ServiceState.COMPLETED
        )
        return ReleaseOutcome(
            self.folder.write(done.ended(ReleaseEnd.PUT_BACK, self.now_us())), tuple(failures), before.number
        )

    def _recorded(self, release: Release) -> RecordedProject:
        number = release.number
        return RecordedProject(
            file=self.folder.compose_file(number),
            name=self.folder.project,
            directory=Path(release.directory),
            variables=self._variables(number),
        )

    def _document(self, number: int) -> Mapping[str, Any]:
        found: Mapping[str, Any] = json.loads(self.folder.contents(number).compose)
        return found

    def _variables(self, number: int) -> dict[str, str]:
        return {name: str(value) for name, value in json.loads(self.folder.contents(number).environment).items()}

    @staticmethod
    def _with_hashes(release: Release, containers: Sequence[EngineContainer]) -> Release:
        """Return the release with each service's configuration hash, read from Compose's label on its containers."""
        hashes = {service_of(each): each.labels.get(CONFIG_HASH, "") for each in containers}
        return release.with_services(
            msgspec.structs.replace(each, config_hash=hashes.get(each.name, each.config_hash))
            for each in release.services
            if each.state is not ServiceState.COMPLETED  # its container may belong to another release
        )


def _failed(verdicts: Mapping[str, ServiceHealth]) -> Mapping[str, ServiceHealth]:
    """Return the services that failed; if none did, those that are not healthy yet."""
    for status in (HealthStatus.FAILED, HealthStatus.WAITING):
        found = {name: each for name, each in verdicts.items() if each.status is status}
        if found:
            return found
    return {}


def _expected_services(release: Release) -> dict[str, ExpectedService]:
    return {
        each.name: ExpectedService(each.containers, Digest.parse(each.image_id))
        for each in release.services
        if each.name in release.to_start
    }


def _recorded_failures(release: Release) -> tuple[Failure, ...]:
    """Return the failures that the record of an unfinished release already has."""
    return tuple(Failure(each.name, each.reason) for each in release.services if each.state is ServiceState.FAILED) or (
        Failure("", release.reason),
    )


def _relevant_text(compose: bytes, names: Sequence[str]) -> object:
    """Return the parts of a project's text that affect these services."""
    document = json.loads(compose)
    shared = {key: value for key, value in document.items() if key not in ("services", "secrets", "configs")}
    return shared, {name: document["services"].get(name) for name in names}
