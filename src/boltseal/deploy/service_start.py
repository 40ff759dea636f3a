"""Starts the services of one recorded release on an engine where others may run.

Compose creates every container from the recorded text, so that its labels are those that Compose itself would write. Each
step can be repeated after an interruption: it begins with what the engine reports now.

    1. Run the jobs that others wait for, each once; the services that run are not touched.
    2. Replace changed services in batches (`start_order`): new containers beside the old ones where nothing forbids it.

Compose starts whatever a service depends on and does not run, so it would run a job again whose work is done:

- `start` and `up` do so with every exited container. They get a text without what must not start again (`_not_again`).
- `up --no-start` needs the whole text, and starts a container whose state it does not know: Podman's `stopped`, from the end
  of a process until Podman has cleaned up. Before each use that is waited for; a completed job's container that stays so is
  removed.

What was recorded from the engine (`running_snapshot`) is created by `SnapshotStart` instead.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from boltseal.deploy.compose_model import mounted_text
from boltseal.deploy.compose_program import Compose, RecordedProject, Recreate
from boltseal.deploy.health import CONFIG_HASH, HealthStatus, ServiceHealth, service_of
from boltseal.deploy.health_wait import ProjectHealth, expected_services, unhealthy
from boltseal.deploy.jobs import SHARED, jobs_by_exit
from boltseal.deploy.releases import Release, ServiceState
from boltseal.deploy.running_snapshot import recipes_of
from boltseal.deploy.start_order import batches, dependencies, shares_namespace, stop_first_reason, waited_jobs
from boltseal.engines.container_control import ContainerControl
from boltseal.engines.inventory import ContainerHealth, EngineContainer, State
from boltseal.errors import Unavailable

CLEAN_UP_S: Final = 10.0
"""How long to wait until Podman has cleaned up after a container, in seconds; under load that takes about two."""

BESIDE_S: Final = 1.5
"""How long new containers run before the former ones stop, at least, in seconds.

An engine's name server lists a container a moment before its address answers. The kernel of a client that asked in that
moment looks for the address again after one second, and the client gets no answer from it before.
"""

WriteRecord = Callable[[Release], Release]
"""Writes a release's record durably."""


class ServicesFailed(Unavailable):
    """Services of a release failed. `health`: each with its reason. What ran before them still runs."""

    def __init__(self, health: Mapping[str, ServiceHealth]) -> None:
        super().__init__("; ".join(f"{name}: {each.reason}" for name, each in health.items()))
        self.health = health


@dataclass(frozen=True, slots=True)
class ServiceStart:
    """Starts services of one release.

    `document`: its text. `hashes`: Compose's hash of each service. `former`: the text and variables of the release that
    ran before, as far as known, to find services of which only the contents of a secret or config changed.
    """

    compose: Compose
    control: ContainerControl
    health: ProjectHealth
    recorded: RecordedProject
    document: Mapping[str, Any]
    hashes: Mapping[str, str]
    former: tuple[Mapping[str, Any], Mapping[str, str]] | None
    progress: Callable[[str], None]
    wait_s: float
    started: set[str] = field(default_factory=set, init=False)
    """The services that Compose has started, and what they depend on."""

    async def run_jobs(self, release: Release, write: WriteRecord) -> Release:
        """Do step 1; return the release with its completed jobs.

        Raises: ServicesFailed, ComposeFailed, ComposeFull and the engine's errors.
        """
        for job in waited_jobs(self.document, release.to_start):
            await self._run_job(release, job)
            service = release.service(job)
            if service is not None:
                done = msgspec.structs.replace(service, state=ServiceState.COMPLETED)
                release = write(release.with_services([done]))
        return release

    async def replace_changed(self, release: Release) -> frozenset[str]:
        """Do step 2; return the IDs of the containers that were waited for and are healthy."""
        names = [name for name in release.to_start if name not in recipes_of(self.document)]
        beside, changed = [], []
        containers = await self.health.containers()
        for name in names:
            found = [each for each in containers if service_of(each) == name]
            if self._as_wanted(release, name, found):
                continue
            changed.append(name)
            reason = await self._stop_first_reason(release, name, found)
            if not reason:
                beside.append(name)
            elif any(each.running for each in found):
                self.progress(f"{name}: stopped before its new version starts: {reason}")
        settled: set[str] = set()
        for batch in batches(self.document, changed, beside):
            if batch.beside:
                settled |= await self._start_beside(release, batch.names)
            else:
                await self._stop_and_start(release, batch.names)
        return frozenset(settled)

    # --- jobs

    async def _run_job(self, release: Release, job: str) -> None:
        containers = await self.health.containers()
        own = [each for each in containers if service_of(each) == job]
        ours = [
            each
            for each in own
            if each.id not in release.before and each.labels.get(CONFIG_HASH) == self.hashes.get(job)
        ]
        if any(map(_has_run, ours)):  # an interrupted deploy has started it
            await asyncio.gather(*(self.control.start(each.id) for each in ours if not _has_run(each)))
        else:
            for each in own:
                await self.control.remove(each.id)
            for how, names in ((Recreate.CHANGED, self._broken(job, containers)), (Recreate.NEVER, [job])):
                if names:
                    await self._create(names, release, how=how)
            await self._start([job], release)
        verdict = await self.health.job_exit(job, self.wait_s)
        if verdict.status is not HealthStatus.HEALTHY:
            raise ServicesFailed({job: verdict})

    def _broken(self, job: str, containers: Sequence[EngineContainer]) -> list[str]:
        """Return the services that a job depends on and that exist but do not work: these may be replaced before it."""
        jobs = waited_jobs(self.document, self.document["services"].keys())
        return [
            name
            for name in sorted(dependencies(self.document, job))
            if name not in jobs
            and (found := [each for each in containers if service_of(each) == name])
            and not all(_works(each) for each in found)
        ]

    # --- services

    def _as_wanted(self, release: Release, name: str, found: Sequence[EngineContainer]) -> bool:
        service = release.service(name)
        return (
            service is not None
            and len(found) == service.containers
            and not shares_namespace(self.document, name)
            and all(self._fresh(release, each) and (each.running or self._done(each)) for each in found)
        )

    def _done(self, container: EngineContainer) -> bool:
        """Return whether a container is a job's that this deploy ran, since a job depends on it, and that has completed."""
        name = service_of(container)
        return name in self.started and name in jobs_by_exit(self.document) and _completed(container)

    def _fresh(self, release: Release, container: EngineContainer) -> bool:
        """Return whether a container is one that this release wants."""
        name = service_of(container)
        service = release.service(name)
        return (
            service is not None
            and container.labels.get(CONFIG_HASH) == self.hashes.get(name)
            and str(container.image) == service.image_id
            and not (container.id in release.before and self._other_contents(name))
        )

    def _other_contents(self, name: str) -> bool:
        """Return whether the secrets and configs of a service may have other contents than before."""
        now = mounted_text(self.document, name, self.recorded.variables)
        return bool(now) and (self.former is None or mounted_text(self.former[0], name, self.former[1]) != now)

    async def _stop_first_reason(self, release: Release, name: str, found: Sequence[EngineContainer]) -> str:
        old = [each for each in found if each.running and not self._fresh(release, each)]
        if not old or not all(_works(each) for each in old):
            return "nothing works that could run beside it"
        documents = await self.control.documents([each.id for each in old])
        return stop_first_reason(self.document, name, documents.values())

    async def _start_beside(self, release: Release, names: Sequence[str]) -> set[str]:
        """Start new containers beside the old ones, and remove the old ones when the new ones are healthy.

        Return the IDs of the new ones.
        """
        found = [each for each in await self.health.containers() if service_of(each) in names]
        stopped = [each for each in found if not each.running and not self._fresh(release, each)]
        await asyncio.gather(*(self.control.remove(each.id) for each in stopped))
        existing = [each for each in found if each not in stopped]
        old = {each.id for each in existing if not self._fresh(release, each)}
        expected = {name: each for name, each in expected_services(release).items() if name in names}
        scale = {
            name: sum(1 for each in existing if service_of(each) == name and each.id in old) + expected[name].containers
            for name in names
        }
        await self._create(names, release, how=Recreate.NEVER, scale=scale)
        await self._start(names, release)
        clock = asyncio.get_running_loop().time
        begun = clock()
        verdicts = unhealthy(await self.health.wait(expected, self.wait_s, (), old))
        if verdicts:
            raise ServicesFailed(verdicts)
        await asyncio.sleep(max(0.0, begun + BESIDE_S - clock()))
        self.progress(f"{', '.join(names)}: healthy; stopping the former containers")
        await asyncio.gather(*(self.control.remove(id_) for id_ in sorted(old)))
        return {each.id for each in await self.health.containers() if service_of(each) in names}

    async def _stop_and_start(self, release: Release, names: Sequence[str]) -> None:
        containers = await self.health.containers()
        forced = [
            name
            for name in names
            if self._other_contents(name)
            and any(service_of(each) == name and each.id in release.before for each in containers)
        ]
        if forced:
            await self._create(forced, release, how=Recreate.ALL)
        if self._needed(names) & self._not_again(names, release):
            await self._create(names, release)
            await self._start(names, release)
            return
        # one run of Compose: a service that stops first is away for less time
        await self._cleaned_up(names, release)
        await self.compose.up(self.recorded, names, timeout_s=self.wait_s, progress=self.progress)
        self.started.update(self._needed(names))

    # --- Compose

    async def _create(
        self,
        names: Sequence[str],
        release: Release,
        *,
        how: Recreate = Recreate.CHANGED,
        scale: Mapping[str, int] | None = None,
    ) -> None:
        """Create the containers of services and of what they depend on, without starting any."""
        await self._cleaned_up(names, release)
        await self.compose.create(self.recorded, names, self.progress, how=how, scale=scale)

    async def _start(self, names: Sequence[str], release: Release) -> None:
        """Start the containers of services and of what they depend on, without what must not start again."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "compose.json"
            file.write_bytes(text_without(self.document, self._not_again(names, release)))
            await self.compose.start(
                replace(self.recorded, file=file), names, timeout_s=self.wait_s, progress=self.progress
            )
        self.started.update(self._needed(names))

    async def _cleaned_up(self, names: Sequence[str], release: Release) -> None:
        """Wait until Compose knows the state of every container that it will see."""
        left = await self.health.not_cleaned_up(self._needed(names), CLEAN_UP_S)
        for each in left:
            if service_of(each) in self._not_again(names, release):
                self.progress(f"{each.name}: removed, since Podman did not clean up after it in {CLEAN_UP_S:g} s")
                await self.control.remove(each.id)

    def _needed(self, names: Sequence[str]) -> set[str]:
        return {*names, *(each for name in names for each in dependencies(self.document, name))}

    def _not_again(self, names: Sequence[str], release: Release) -> set[str]:
        """Return the services that must not start again when `names` start.

        These are completed jobs, and services that were started before and may be jobs too; not those whose health is
        waited for.
        """
        done = {each.name for each in release.services if each.state is ServiceState.COMPLETED}
        return (done | (self.started & jobs_by_exit(self.document)) - _healthy_first(self.document)) - set(names)


def text_without(document: Mapping[str, Any], names: Collection[str]) -> bytes:
    """Return a project's text without some services and without references to them. For containers that exist already."""
    services = {name: _without(service, names) for name, service in document["services"].items() if name not in names}
    return json.dumps({**document, "services": services}).encode()


def _without(service: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    kept = dict(service)
    kept["depends_on"] = {key: each for key, each in (service.get("depends_on") or {}).items() if key not in names}
    for key in ("links", "volumes_from"):
        if service.get(key):
            kept[key] = [each for each in service[key] if str(each).partition(":")[0] not in names]
    for key in SHARED:
        kind, _, name = str(service.get(key) or "").partition(":")
        if kind == "service" and name in names:
            del kept[key]
    return kept


def _healthy_first(document: Mapping[str, Any]) -> set[str]:
    """Return the services that others wait for by `service_healthy`."""
    return {
        name
        for service in document["services"].values()
        for name, each in (service.get("depends_on") or {}).items()
        if (each or {}).get("condition") == "service_healthy"
    }


def _completed(container: EngineContainer) -> bool:
    return container.state is State.EXITED and container.exit_code == 0


def _has_run(container: EngineContainer) -> bool:
    """Return whether a job's container has completed or is at work."""
    return _completed(container) or container.running or container.state is State.RESTARTING


def _works(container: EngineContainer) -> bool:
    return container.state is State.RUNNING and container.health in (ContainerHealth.NONE, ContainerHealth.HEALTHY)
