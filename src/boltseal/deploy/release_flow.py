"""Runs the steps of a release: of `deploy`, `rollback` and `deploy --resume`.

Preconditions: all images are on the host and protected from prune, and the caller is inside `ReleaseFolder.deploying`.

    1. Record the release. Until here nothing that runs is touched.
    2. Run the jobs that others wait for, then replace changed services: see `service_start`. Remove removed services.
    3. Wait until every service is healthy.
    4. If a job or health check fails, remove what was started beside the former containers, restore the previous release
       by steps 2 and 3 where it does not run any more, and report what failed.

Completed jobs of an older release are not run again: see `jobs`.

The record on disk names each step before the step touches the host, so an interrupted release can be resumed at its step.
Each step can be repeated: Compose leaves services alone that are already as wanted.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from boltseal.deploy.compose_model import mounted_files, mounted_text, release_text
from boltseal.deploy.compose_program import Compose, RecordedProject
from boltseal.deploy.copy_locations import CopyLocations
from boltseal.deploy.health import (
    CONFIG_HASH,
    ExpectedService,
    HealthStatus,
    ServiceHealth,
    runs_expected_image,
    service_of,
)
from boltseal.deploy.health_wait import DeployTimeouts, ProjectHealth, expected_services, unhealthy
from boltseal.deploy.jobs import mark_completed_jobs, skip_completed_jobs, skipped_jobs
from boltseal.deploy.release_images import NOTHING_TOUCHED, ReleaseImages
from boltseal.deploy.release_store import ReleaseFolder
from boltseal.deploy.releases import (
    Release,
    ReleaseContents,
    ReleaseEnd,
    ReleaseStep,
    ServiceState,
    unreplaced_releases,
)
from boltseal.deploy.service_start import ServicesFailed, ServiceStart
from boltseal.deploy.snapshot_start import FoundRelease, SnapshotStart, differs_from, take_snapshot
from boltseal.engines.api import Engine
from boltseal.engines.container_control import ContainerControl
from boltseal.engines.inventory import EngineContainer, State
from boltseal.errors import BoltsealError
from boltseal.oci.digest import Digest

LOG_LINES: Final = 10
_AT_WORK: Final = (State.RUNNING, State.RESTARTING, State.PAUSED)


@dataclass(frozen=True, slots=True)
class Failure:
    """A service that failed, or "" for the whole release. `log`: the last lines of the container concerned."""

    service: str
    reason: str
    log: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReleaseOutcome:
    """How a release ended. `back`: the number of the previous release that was restored, if one was; `files`: it has recorded files."""

    release: Release
    failures: tuple[Failure, ...] = ()
    back: int | None = None
    files: bool = False


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
    mounted into containers; an engine on another host would not find them. `images`: prepares what is started; None to only
    compare releases with what runs.
    """

    compose: Compose
    engine: Engine
    folder: ReleaseFolder
    now_us: Callable[[], int]
    progress: Callable[[str], None]
    timeouts: DeployTimeouts = field(default_factory=DeployTimeouts)
    copies: bool = True
    images: ReleaseImages | None = None

    def text(self, document: Mapping[str, Any], images: Mapping[str, str]) -> bytes:
        """Return the text that Compose starts from, and record copies of the files that it mounts.

        Raises: FileDenied, ReleaseInvalid: for a file that can't be read.
        """
        copies: dict[str, str] = {}
        for path in mounted_files(document):
            if (kept := self.locations.of_file(path)) != path:
                copies[str(path)] = str(kept)
        return release_text(document, images, copies)

    async def unchanged(
        self, last: Release | None, compose: bytes, names: Sequence[str], variables: Mapping[str, str]
    ) -> bool:
        """Return whether these services already run exactly as `compose` says: equal text, and containers made from it."""
        if last is None:
            return False
        recorded = self.folder.contents(last.number)
        if _relevant_text(recorded.compose, names) != _relevant_text(compose, names):
            return False
        now, then = json.loads(compose), json.loads(recorded.compose)
        before = self._variables(last.number)
        if any(mounted_text(now, name, variables) != mounted_text(then, name, before) for name in names):
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

    async def snapshot(
        self, releases: Sequence[Release], last: Release | None, text: Mapping[str, Any] | None = None
    ) -> FoundRelease | None:
        """Return what runs as a release, if no release has it; None if `last` runs, or nothing does. `text`: the project's."""
        if not differs_from(unreplaced_releases(releases), last, await self.containers()):
            return None
        number = self.folder.next_number()
        first = number == 1
        previous = None if last is None else last.number
        values = text if text is not None else {} if last is None else self._document(last.number)
        return await take_snapshot(self._control, self._health, 0 if first else number, previous, self.now_us(), values)

    async def run(self, release: Release, contents: ReleaseContents) -> ReleaseOutcome:
        """Run steps 1 to 4 of a new release."""
        before = tuple(sorted(each.id for each in await self.containers()))
        return await self.resume(self.folder.begin(msgspec.structs.replace(release, before=before), contents))

    async def resume(self, release: Release) -> ReleaseOutcome:
        """Run the remaining steps of a recorded release."""
        if release.step is ReleaseStep.RETURNING:
            return await self._restore_previous(release, _recorded_failures(release))
        release = await self._startable(release, release.to_start)
        hashes = await self.compose.hashes(self._recorded(release))
        release = self.folder.write(_with_hashes(release, hashes).at(ReleaseStep.STARTING))
        before = await self.containers()
        try:
            if release.of is not None:
                await self._stop_jobs(release)
            start = self._service_start(release, hashes, self.timeouts.wait_s, former=release.previous)
            release = await start.run_jobs(release, self.folder.write)
            await self._remove(release.removed)
            await self._snapshot_start(release).run(release.to_start)
            ids = await start.replace_changed(release)
            settled = [*before, *(each for each in await self.containers() if each.id in ids)]
        except ServicesFailed as failed:
            return await self._restore_previous(self.folder.read(release.number), await self._failures(failed.health))
        except BoltsealError as error:
            release = self.folder.read(release.number)
            failures = await self._failures(await self._health.failed(expected_services(release)))
            return await self._restore_previous(release, failures or (Failure("", error.message),), error.message)
        release = self.folder.write(release.at(ReleaseStep.WAITING, ServiceState.STARTED))
        failing = unhealthy(await self._health.wait(expected_services(release), self.timeouts.wait_s, settled))
        if failing:
            return await self._restore_previous(release, await self._failures(failing))
        containers = await self.containers()
        ended = _with_hashes(release, _labelled_hashes(containers)).at(ReleaseStep.WAITING, ServiceState.HEALTHY)
        ended = mark_completed_jobs(ended, self._document(release.number), containers)
        return ReleaseOutcome(self.folder.write(ended.ended(ReleaseEnd.HEALTHY, self.now_us())))

    async def containers(self) -> tuple[EngineContainer, ...]:
        """Return the project's containers, including stopped ones."""
        return await self._health.containers()

    @property
    def locations(self) -> CopyLocations:
        """Where files of the project are mounted from."""
        return CopyLocations(self.folder, self.copies)

    @property
    def _control(self) -> ContainerControl:
        return ContainerControl(self.engine)

    @property
    def _health(self) -> ProjectHealth:
        return ProjectHealth(self.engine, self.folder.project, self.progress, self.timeouts.settle_s)

    def _service_start(
        self, release: Release, hashes: Mapping[str, str], within_s: float, *, former: int | None
    ) -> ServiceStart:
        known = None if former is None else (self._document(former), self._variables(former))
        return ServiceStart(
            compose=self.compose,
            control=self._control,
            health=self._health,
            recorded=self._recorded(release),
            document=self._document(release.number),
            hashes=hashes,
            former=known,
            progress=self.progress,
            wait_s=within_s,
        )

    def _snapshot_start(self, release: Release) -> SnapshotStart:
        return SnapshotStart(self._control, self._health, self._document(release.number), release, self.progress)

    async def _startable(self, release: Release, names: Collection[str]) -> Release:
        """Return a recorded release whose images are as `ReleaseImages.startable` says. Every start of a container comes after it.

        Raises: as `ReleaseImages.startable`. Nothing was started or stopped.
        """
        if self.images is None:
            raise AssertionError("this flow has no images: it does not start anything")
        ready = await self.images.startable(release, {name for name in names if name in _all_to_start(release)})
        images = {each.name: each.started_as for each in ready.services if each != release.service(each.name)}
        if not images:
            return release
        self.progress(f"other copies of the recorded images are started: {', '.join(images)}")
        return self.folder.write(ready, release_text(self._document(release.number), images, {}))

    async def _stop_jobs(self, release: Release) -> None:
        """Stop running jobs that an older release has completed: they must not run beside it."""
        jobs = {each.name for each in release.services if each.state is ServiceState.COMPLETED}
        if jobs:
            self.progress(f"not run again: {', '.join(skipped_jobs(release))}")
        busy = [each.id for each in await self.containers() if each.state in _AT_WORK and service_of(each) in jobs]
        await asyncio.gather(*(self._control.stop(id_) for id_ in busy))

    async def _remove(self, names: Collection[str]) -> None:
        """Stop and remove the containers of these services."""
        found = [each.id for each in await self.containers() if service_of(each) in names] if names else []
        await asyncio.gather(*(self._control.remove(id_) for id_ in found))

    async def _remove_beside(self, release: Release, before: Release) -> None:
        """Remove what a failed release started beside containers of `before` that still run."""
        containers = await self.containers()
        old = [each for each in containers if each.id in release.before and each.running]
        for service in before.services:
            whole = [each for each in old if service_of(each) == service.name]
            if service.containers and len(whole) >= service.containers:
                new = [each for each in containers if service_of(each) == service.name and each not in whole]
                await asyncio.gather(*(self._control.remove(each.id) for each in new))

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
            running = _running_services(before, await self.containers())
            before = await self._startable(before, [each.name for each in before.services if each.name not in running])
            failed = await self._restore(release, before)
        except BoltsealError as error:
            why_not = error.message.replace(f"; {NOTHING_TOUCHED}", "")
            broken = f"{reason}; could not restore release {previous}: {why_not}"
            return ReleaseOutcome(
                self.folder.write(release.ended(ReleaseEnd.FAILED, self.now_us(), broken)), tuple(failures)
            )
        if failed:
            broken = f"{reason}; release {before.number} was restored, but its {', '.join(failed)} is not healthy"
            return ReleaseOutcome(
                self.folder.write(release.ended(ReleaseEnd.FAILED, self.now_us(), broken)), tuple(failures)
            )
        self.folder.write(_with_hashes(before, _labelled_hashes(await self.containers())))
        done = release.at(ReleaseStep.RETURNING, ServiceState.PUT_BACK).with_services(
            msgspec.structs.replace(each, reason=each.reason or f"not run again: {job.reason}")
            for each in release.services
            if each.state is not ServiceState.COMPLETED
            and (job := before.service(each.name)) is not None
            and job.state is ServiceState.COMPLETED
        )
        return ReleaseOutcome(
            self.folder.write(done.ended(ReleaseEnd.PUT_BACK, self.now_us())),
            tuple(failures),
            before.number,
            bool(self.folder.contents(before.number).files),
        )

    async def _restore(self, release: Release, before: Release) -> Mapping[str, ServiceHealth]:
        """Make `before` run again after `release` failed; return the services that are not healthy."""
        within_s = self.timeouts.rollback_wait_s
        existing = await self.containers()
        await self._stop_jobs(before)
        await self._remove_beside(release, before)
        await self._remove([each.name for each in release.services if before.service(each.name) is None])
        every = msgspec.structs.replace(before, chosen=(), before=tuple(each.id for each in existing))
        await self._snapshot_start(before).run(every.to_start)
        hashes = await self.compose.hashes(self._recorded(before))
        start = self._service_start(before, hashes, within_s, former=release.number)
        kept = msgspec.structs.replace(every, before=tuple(set(every.before) - set(release.before)))
        await start.replace_changed(kept)
        return unhealthy(await self._health.wait(expected_services(every), within_s, existing))

    def _recorded(self, release: Release) -> RecordedProject:
        number = release.number
        return RecordedProject(
            file=self.folder.compose_file(number, self.locations.of_copy),
            name=self.folder.project,
            directory=Path(release.directory),
            variables=self._variables(number),
        )

    def _document(self, number: int) -> Mapping[str, Any]:
        found: Mapping[str, Any] = json.loads(self.folder.contents(number).compose)
        return found

    def _variables(self, number: int) -> dict[str, str]:
        return {name: str(value) for name, value in json.loads(self.folder.contents(number).environment).items()}


def _with_hashes(release: Release, hashes: Mapping[str, str]) -> Release:
    """Return the release with each service's configuration hash."""
    return release.with_services(
        msgspec.structs.replace(each, config_hash=hashes.get(each.name, each.config_hash))
        for each in release.services
        if each.state is not ServiceState.COMPLETED  # its container may belong to another release
    )


def _labelled_hashes(containers: Sequence[EngineContainer]) -> dict[str, str]:
    """Return each service's configuration hash by Compose's label on its containers."""
    return {service_of(each): each.labels.get(CONFIG_HASH, "") for each in containers}


def _all_to_start(release: Release) -> frozenset[str]:
    """Return the services of a release without completed jobs, also those that it did not start itself."""
    return frozenset(each.name for each in release.services if each.state is not ServiceState.COMPLETED)


def _running_services(release: Release, containers: Sequence[EngineContainer]) -> frozenset[str]:
    """Return the services whose containers all run already as the release recorded them."""
    found: dict[str, int] = {}
    for each in containers:
        service = release.service(service_of(each))
        same = service is not None and str(each.image) == service.image_id
        if service is not None and same and each.running and each.labels.get(CONFIG_HASH) == service.config_hash:
            found[service.name] = found.get(service.name, 0) + 1
    return frozenset(each.name for each in release.services if found.get(each.name, 0) >= max(each.containers, 1))


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
