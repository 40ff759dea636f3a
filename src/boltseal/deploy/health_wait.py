"""Waits until services of a project are healthy, by asking the engine about its containers again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from boltseal.deploy.health import (
    PROJECT,
    SETTLE_S,
    ExpectedService,
    HealthStatus,
    HealthWatch,
    ServiceHealth,
    service_of,
)
from boltseal.deploy.releases import Release
from boltseal.engines.api import Engine
from boltseal.engines.inventory import EngineContainer, State
from boltseal.engines.podman_health import PodmanChecks
from boltseal.oci.digest import Digest

WAIT_S: Final = 120.0
_SHORTEST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 0.5


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
class ProjectHealth:
    """The health of one project's services on one engine. `progress`: receives what is waited for."""

    engine: Engine
    project: str
    progress: Callable[[str], None]
    settle_s: float = SETTLE_S

    async def containers(self) -> tuple[EngineContainer, ...]:
        """Return the project's containers, including stopped ones."""
        return await self.engine.containers(all_=True, label=f"{PROJECT}={self.project}")

    async def wait(
        self,
        expected: Mapping[str, ExpectedService],
        within_s: float,
        before: Sequence[EngineContainer] = (),
        ignored: Collection[str] = (),
    ) -> Mapping[str, ServiceHealth]:
        """Return the health of the services as soon as one failed or all are healthy, or after `within_s`.

        `before`: the containers before the start; those that still run count as settled. `ignored`: IDs of containers that
        are about to be removed.
        """
        health_watch = HealthWatch(expected, self.settle_s, self.engine.about.podman)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        health_watch.observe(before, begun - self.settle_s)
        shown = ""
        checks = PodmanChecks(self.engine)
        while True:
            found = await self.containers()
            if await checks.run(found, loop.time()):
                found = await self.containers()
            verdicts = health_watch.observe([each for each in found if each.id not in ignored], loop.time())
            judged = {each.status for each in verdicts.values()}
            waited_s = loop.time() - begun
            if HealthStatus.FAILED in judged or HealthStatus.WAITING not in judged or waited_s > within_s:
                return verdicts
            shown = self._report(f"waiting for {', '.join(_waiting(verdicts))}", shown)
            await asyncio.sleep(_pause_s(waited_s))

    async def watch(self, expected: Mapping[str, ExpectedService], for_s: float) -> Mapping[str, ServiceHealth]:
        """Return the services that do not stay healthy for `for_s`. One whose container was started again did not."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        health_watch, checks = HealthWatch(expected, self.settle_s, self.engine.about.podman), PodmanChecks(self.engine)
        found = await self.containers()
        health_watch.observe(found, begun - self.settle_s)
        starts = {(each.id, each.started_us) for each in found}
        while True:
            if await checks.run(found, loop.time()):
                found = await self.containers()
            verdicts = health_watch.observe(found, loop.time())
            restarted = {
                service_of(each): ServiceHealth(HealthStatus.FAILED, f"{each.name} was started again", each.id)
                for each in found
                if (each.id, each.started_us) not in starts and service_of(each) in expected
            }
            failing = {name: each for name, each in verdicts.items() if each.status is not HealthStatus.HEALTHY}
            left_s = begun + for_s - loop.time()
            if restarted or failing or left_s <= 0:
                return {**restarted, **failing}
            await asyncio.sleep(min(_LONGEST_PAUSE_S, left_s))
            found = await self.containers()

    async def failed(self, expected: Mapping[str, ExpectedService]) -> Mapping[str, ServiceHealth]:
        """Return the services that are failed at this moment."""
        health_watch = HealthWatch(expected, self.settle_s, self.engine.about.podman)
        found = health_watch.observe(await self.containers(), asyncio.get_running_loop().time())
        return {name: each for name, each in found.items() if each.status is HealthStatus.FAILED}

    async def job_exit(self, job: str, within_s: float) -> ServiceHealth:
        """Wait until a container of a job has failed, or all of them have exited with 0, or for `within_s`; return which."""
        begun = asyncio.get_running_loop().time()
        shown = ""
        while True:
            found = [each for each in await self.containers() if service_of(each) == job]
            if not found:
                return ServiceHealth(HealthStatus.FAILED, f"{job} has no container")
            failed = next((each for each in found if _ended(each) and each.exit_code != 0), None)
            if failed is not None:
                code = "without an exit code" if failed.exit_code is None else f"with code {failed.exit_code}"
                return ServiceHealth(HealthStatus.FAILED, f"{failed.name} exited {code}", failed.id)
            if all(_ended(each) for each in found):
                return ServiceHealth(HealthStatus.HEALTHY, "it exited with code 0")
            waited_s = asyncio.get_running_loop().time() - begun
            if waited_s > within_s:
                return ServiceHealth(HealthStatus.WAITING, f"{found[0].name} has not exited", found[0].id)
            shown = self._report(f"waiting for the job {job}", shown)
            await asyncio.sleep(_pause_s(waited_s))

    async def not_cleaned_up(self, services: Collection[str], within_s: float) -> list[EngineContainer]:
        """Wait until Podman has cleaned up after the ended containers of these services; return those it has not after `within_s`."""
        begun = asyncio.get_running_loop().time()
        while True:
            left = [each for each in await self.containers() if service_of(each) in services and not each.cleaned_up]
            waited_s = asyncio.get_running_loop().time() - begun
            if not left or waited_s > within_s:
                return left
            await asyncio.sleep(_pause_s(waited_s))

    def _report(self, line: str, shown: str) -> str:
        if line != shown:
            self.progress(line)
        return line


def _pause_s(waited_s: float) -> float:
    """Return how long to wait before the engine is asked again: a tenth of the time so far, so that a result is noticed soon."""
    return min(max(waited_s / 10, _SHORTEST_PAUSE_S), _LONGEST_PAUSE_S)


def _ended(container: EngineContainer) -> bool:
    return container.state in (State.EXITED, State.DEAD)


def _waiting(verdicts: Mapping[str, ServiceHealth]) -> list[str]:
    return [name for name, each in verdicts.items() if each.status is HealthStatus.WAITING]


def unhealthy(verdicts: Mapping[str, ServiceHealth]) -> Mapping[str, ServiceHealth]:
    """Return the services that failed; if none did, those that are not healthy yet."""
    for status in (HealthStatus.FAILED, HealthStatus.WAITING):
        found = {name: each for name, each in verdicts.items() if each.status is status}
        if found:
            return found
    return {}


def expected_services(release: Release) -> dict[str, ExpectedService]:
    """Return what each service that a release starts must have."""
    return {
        each.name: ExpectedService(each.containers, Digest.parse(each.image_id))
        for each in release.services
        if each.name in release.to_start
    }
