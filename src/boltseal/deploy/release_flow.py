"""A release goes forward, or the one before it comes back: the steps of `deploy`, `rollback` and `deploy --resume`.

What has to be so before the first step: the images are here and held, and `deploying` of the project's folder is held.

    1. Write the release down. Until here nothing that runs was touched.
    2. Remove the containers of services that are no more; start what is new or changed.
    3. Wait until every service is healthy.
    4. It is: done. It is not: put the release before it back, the same way, and say what failed.

Jobs that the older release has completed are not run again when it comes back: see `jobs`.

Before each step that touches the host the record says so, on the disk. A process that dies is therefore found at its step,
and each step may be done again: Compose leaves alone what is as it should be.
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
from boltseal.deploy.compose_program import Compose
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
from boltseal.deploy.release_store import ReleaseContents, ReleaseFolder
from boltseal.deploy.releases import Release, ReleaseEnd, ReleaseStep, ServiceState
from boltseal.engines.api import Engine
from boltseal.engines.inventory import EngineContainer, State
from boltseal.errors import BoltsealError
from boltseal.oci.digest import Digest

WAIT_S: Final = 120.0
LOG_LINES: Final = 10
_LOOK_EVERY_S: Final = 0.5
_AT_WORK: Final = (State.RUNNING, State.RESTARTING, State.PAUSED)


@dataclass(frozen=True, slots=True)
class DeployTimeouts:
    """How long a start may take, from the first container to the last that is healthy, and what counts as a while."""

    wait_s: float = WAIT_S
    settle_s: float = SETTLE_S

    @property
    def rollback_wait_s(self) -> float:
        """The same for what ran before: who is short of patience with what is new has time enough to put that back."""
        return max(self.wait_s, WAIT_S)


@dataclass(frozen=True, slots=True)
class Failure:
    """A service that kept a release from being healthy. `log`: the last lines of the container that shows it."""

    service: str
    reason: str
    log: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReleaseOutcome:
    """How a release ended, and what kept it from being healthy. `back`: the release that runs instead, if one does."""

    release: Release
    failures: tuple[Failure, ...] = ()
    back: int | None = None


@dataclass(frozen=True, slots=True)
class DeployResult:
    """What it came to. `outcome` is None where all of it ran already: then `release` is the one that runs.

    `pulled`: services whose image was not here before. `abandoned`: the number of the unfinished release that this one took
    over from.
    """

    release: Release
    outcome: ReleaseOutcome | None = None
    pulled: tuple[str, ...] = ()
    abandoned: int | None = None


@dataclass(frozen=True, slots=True)
class ReleaseFlow:
    """One project on one engine. `now_us`: the time of day. `tell`: what goes on, for people. `copies`: whether files that
    are mounted into containers are recorded; an engine on another host would not find the copies."""

    compose: Compose
    engine: Engine
    folder: ReleaseFolder
    now_us: Callable[[], int]
    tell: Callable[[str], None]
    timeouts: DeployTimeouts = field(default_factory=DeployTimeouts)
    copies: bool = True

    def text(self, document: Mapping[str, Any], images: Mapping[str, str], variables: Mapping[str, str]) -> bytes:
        """What Compose is started from; what it mounts is recorded by this. ReleaseInvalid for what can't be read."""
        copies: dict[str, str] = {}
        for path in mounted_files(document) if self.copies else ():
            kept = None if self.folder.is_content(path) else self.folder.keep_content(path)
            if kept is not None:
                copies[str(path)] = str(kept)
        return release_text(document, images, copies, self.folder.hmac, variables)

    async def unchanged(self, last: Release | None, compose: bytes, names: Sequence[str]) -> bool:
        """Whether these services run already exactly as `compose` says: the same text, and containers of it."""
        if last is None or _services(self.folder.contents(last.number).compose, names) != _services(compose, names):
            return False
        containers = await self.containers()
        for name in names:
            service = last.service(name)
            mine = [each for each in containers if service_of(each) == name]
            if service is not None and service.state is ServiceState.COMPLETED:
                continue  # its work is done, whatever became of its container
            if service is None or len(mine) < service.containers:
                return False
            wanted = ExpectedService(service.containers, Digest.parse(service.image_id))
            if not all(
                runs_expected_image(wanted, each)
                and each.labels.get(CONFIG_HASH) == service.config_hash
                and (each.running or each.exit_code == 0)
                for each in mine
            ):
                return False
        return True

    async def go(self, release: Release, contents: ReleaseContents) -> ReleaseOutcome:
        """Steps 1 to 4, of a release that is not written down yet."""
        return await self.go_on(self.folder.begin(release, contents))

    async def go_on(self, release: Release) -> ReleaseOutcome:
        """The steps that are left of a release that was written down."""
        if release.step is ReleaseStep.RETURNING:
            return await self._put_back(release, _told(release))
        release = self.folder.write(release.at(ReleaseStep.STARTING))
        before = await self.containers()
        try:
            await self._remove(release.removed)
            await self._up(release, release.to_start, self.timeouts.wait_s, back=release.of is not None)
        except BoltsealError as error:
            failures = await self._failures(await self._verdicts(release))
            return await self._put_back(release, failures or (Failure("", error.message),), error.message)
        release = self.folder.write(release.at(ReleaseStep.WAITING, ServiceState.STARTED))
        failed = _failed(await self._healthy(release, before, self.timeouts.wait_s))
        if failed:
            return await self._put_back(release, await self._failures(failed))
        containers = await self.containers()
        ended = self._with_hashes(release, containers).at(ReleaseStep.WAITING, ServiceState.HEALTHY)
        ended = mark_completed_jobs(ended, self._document(release.number), containers)
        return ReleaseOutcome(self.folder.write(ended.ended(ReleaseEnd.HEALTHY, self.now_us())))

    async def containers(self) -> tuple[EngineContainer, ...]:
        """The project's containers, also those that do not run."""
        return await self.engine.containers(all_=True, label=f"{PROJECT}={self.folder.project}")

    async def _up(self, release: Release, names: Sequence[str], within_s: float, *, back: bool = False) -> None:
        """Start these services. `back`: the release comes back, and its completed jobs are left out."""
        file, directory = self.folder.compose_file(release.number), Path(release.directory)
        variables = self._variables(release.number)
        jobs = {each.name for each in release.services if back and each.state is ServiceState.COMPLETED}
        if jobs:
            self.tell(f"not run again: {', '.join(skipped_jobs(release))}")
            found = await self.containers()
            busy = sorted({name for each in found if each.state in _AT_WORK and (name := service_of(each)) in jobs})
            if busy:  # a job of the release that is given up must not go on beside what comes back
                await self.compose.stop(file, self.folder.project, directory, busy, variables, self.tell)
        if names:  # without any, Compose starts all
            await self.compose.up(
                file,
                self.folder.project,
                directory,
                names,
                variables,
                dependencies=not jobs,
                timeout_s=within_s,
                tell=self.tell,
            )

    async def _remove(self, names: Sequence[str]) -> None:
        """Stop and remove services that nobody wants any more, by the newest release that knew them."""
        there = {service_of(each) for each in await self.containers()} if names else set()
        gone = [name for name in names if name in there]
        for release in reversed(self.folder.all() if gone else ()):
            known = [name for name in gone if release.service(name) is not None]
            file = self.folder.compose_file(release.number)
            if known and file.exists():
                directory, variables = Path(release.directory), self._variables(release.number)
                await self.compose.remove(file, self.folder.project, directory, known, variables, self.tell)
                gone = [name for name in gone if name not in known]

    async def _healthy(
        self, release: Release, before: Sequence[EngineContainer], within_s: float
    ) -> Mapping[str, ServiceHealth]:
        """Step 3. The last verdicts: at once when a service has failed, at the latest when the time is over.

        `before`: the containers that there were when it began; what runs on has run for a while.
        """
        watch = HealthWatch(_wanted(release), self.timeouts.settle_s, self.engine.about.podman)
        loop = asyncio.get_running_loop()
        watch.look(before, loop.time() - self.timeouts.settle_s)
        until = loop.time() + within_s
        told = ""
        while True:
            verdicts = watch.look(await self.containers(), loop.time())
            judged = {each.status for each in verdicts.values()}
            if HealthStatus.FAILED in judged or HealthStatus.WAITING not in judged or loop.time() > until:
                return verdicts
            waiting = [name for name, each in verdicts.items() if each.status is HealthStatus.WAITING]
            now = f"waiting for {', '.join(waiting)}"
            if now != told:
                self.tell(now)
                told = now
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _verdicts(self, release: Release) -> Mapping[str, ServiceHealth]:
        """What has failed at this moment."""
        watch = HealthWatch(_wanted(release), self.timeouts.settle_s, self.engine.about.podman)
        found = watch.look(await self.containers(), asyncio.get_running_loop().time())
        return {name: each for name, each in found.items() if each.status is HealthStatus.FAILED}

    async def _failures(self, failed: Mapping[str, ServiceHealth]) -> tuple[Failure, ...]:
        found = []
        for name, verdict in failed.items():
            late = "" if verdict.status is HealthStatus.FAILED else f"; it had {self.timeouts.wait_s:g} s (--wait)"
            log: tuple[str, ...] = ()
            if verdict.container:
                try:
                    log = await self.engine.logs(verdict.container, LOG_LINES)
                except BoltsealError as error:
                    log = (f"(its log can't be read: {error.message})",)
            found.append(Failure(name, verdict.reason + late, log))
        return tuple(found)

    async def _put_back(self, release: Release, failures: Sequence[Failure], why: str = "") -> ReleaseOutcome:
        """Step 4 of a release that failed: what ran before runs again, exactly, or it is said that it does not."""
        reason = why or "; ".join(f"{each.service}: {each.reason}" for each in failures)
        release = release.with_services(
            msgspec.structs.replace(service, state=ServiceState.FAILED, reason=failure.reason)
            for failure in failures
            if (service := release.service(failure.service)) is not None
        )
        release = msgspec.structs.replace(release, reason=reason[:4000])
        previous = release.previous
        if previous is None:
            nothing = f"{reason}; nothing ran before it that could be put back"
            return ReleaseOutcome(
                self.folder.write(release.ended(ReleaseEnd.FAILED, self.now_us(), nothing)), tuple(failures)
            )
        release = self.folder.write(release.at(ReleaseStep.RETURNING))
        self.tell(f"putting release {previous} back")
        try:
            before = skip_completed_jobs(self.folder.read(previous), self._document(previous))
            there = await self.containers()
            added = [each.name for each in release.services if before.service(each.name) is None]
            await self._remove(added)
            names = tuple(each.name for each in before.services if each.state is not ServiceState.COMPLETED)
            await self._up(before, names, self.timeouts.rollback_wait_s, back=True)
            ill = _failed(await self._healthy(before, there, self.timeouts.rollback_wait_s))
        except BoltsealError as error:
            broken = f"{reason}; release {previous} could not be put back: {error.message}"
            return ReleaseOutcome(
                self.folder.write(release.ended(ReleaseEnd.FAILED, self.now_us(), broken)), tuple(failures)
            )
        if ill:
            broken = f"{reason}; release {before.number} was put back, and {', '.join(ill)} of it is not healthy"
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

    def _document(self, number: int) -> Mapping[str, Any]:
        found: Mapping[str, Any] = json.loads(self.folder.contents(number).compose)
        return found

    def _variables(self, number: int) -> dict[str, str]:
        return {name: str(value) for name, value in json.loads(self.folder.contents(number).environment).items()}

    @staticmethod
    def _with_hashes(release: Release, containers: Sequence[EngineContainer]) -> Release:
        """The release with what Compose made of each service, as its containers say."""
        hashes = {service_of(each): each.labels.get(CONFIG_HASH, "") for each in containers}
        return release.with_services(
            msgspec.structs.replace(each, config_hash=hashes.get(each.name, each.config_hash))
            for each in release.services
            if each.state is not ServiceState.COMPLETED  # its container may be of another release
        )


def _failed(verdicts: Mapping[str, ServiceHealth]) -> Mapping[str, ServiceHealth]:
    """What keeps a release from being healthy: what has failed, or if nothing has, what is still waited for."""
    for status in (HealthStatus.FAILED, HealthStatus.WAITING):
        found = {name: each for name, each in verdicts.items() if each.status is status}
        if found:
            return found
    return {}


def _wanted(release: Release) -> dict[str, ExpectedService]:
    return {
        each.name: ExpectedService(each.containers, Digest.parse(each.image_id))
        for each in release.services
        if each.name in release.to_start
    }


def _told(release: Release) -> tuple[Failure, ...]:
    """What an unfinished release says of its own failure."""
    return tuple(Failure(each.name, each.reason) for each in release.services if each.state is ServiceState.FAILED) or (
        Failure("", release.reason),
    )


def _services(compose: bytes, names: Sequence[str]) -> object:
    """What of a project's text decides over these services."""
    document = json.loads(compose)
    shared = {key: value for key, value in document.items() if key not in ("services", "secrets", "configs")}
    return shared, {name: document["services"].get(name) for name in names}
