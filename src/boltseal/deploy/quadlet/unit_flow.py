"""Runs the steps of a release of Quadlet units: of `deploy --quadlet`, `rollback --quadlet` and `deploy --quadlet --resume`.

Preconditions: the images are on the host and protected from prune, Podman's generator has accepted the drop-in files, and the caller is
inside `ReleaseFolder.deploying`.

    1. Record the release. Until here nothing is touched.
    2. Replace the drop-in files of all units by one rename, and check what the generator makes of them.
    3. Reload systemd, and restart the services that changed. Stop those of units that are gone.
    4. Wait until each is active, its container runs the image of the release, and its health check passes.
    5. If that fails, do steps 2 to 4 with the previous release, without its oneshot services.

The record names each step before the step touches the host, and each can be repeated. Without systemd (`--no-start`) step 2 is the last.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from boltseal.deploy.compose_model import release_text
from boltseal.deploy.health_wait import DeployTimeouts
from boltseal.deploy.quadlet.drop_ins import DropIns
from boltseal.deploy.quadlet.generator import GeneratedService, Generator, services_of
from boltseal.deploy.quadlet.pinned_units import drop_ins_of
from boltseal.deploy.quadlet.service_watch import ServiceWatch, WatchedService
from boltseal.deploy.quadlet.systemd import Systemd, SystemdFailed
from boltseal.deploy.quadlet.unit_folders import UnitsInvalid, read_units
from boltseal.deploy.release_flow import Failure, ReleaseOutcome
from boltseal.deploy.release_images import ReleaseImages
from boltseal.deploy.release_store import ReleaseFolder
from boltseal.deploy.releases import Release, ReleaseContents, ReleaseEnd, ReleaseStep, ServiceState
from boltseal.deploy.source_snapshot import changed_files
from boltseal.errors import BoltsealError
from boltseal.oci.reference import Reference

NOT_STARTED: Final = "nothing was started (--no-start); systemd starts it at its next reload and start"


@dataclass(frozen=True, slots=True)
class RecordedUnit:
    """A unit in the text of a release. `by`: the unit whose drop-in file sets its image, "" if it has none.

    `lines`: what the generator made of it without drop-in files. `start`: whether [Install] or a pod starts it. `pod`: the service
    of its pod. `job`: whether it is a oneshot service.
    """

    service: str
    by: str = ""
    start: bool = False
    job: bool = False
    pod: str = ""
    lines: tuple[str, ...] = ()


def recorded_unit(service: GeneratedService, by: str, services: Mapping[str, GeneratedService]) -> RecordedUnit:
    """Return a unit as it is recorded. `services`: of all units of the project."""
    pod = services.get(service.value("X-Container", "Pod"))
    wanted = any(service.value("Install", key) for key in ("WantedBy", "RequiredBy", "UpheldBy"))
    job = service.value("Service", "Type") == "oneshot" and bool(by)
    return RecordedUnit(
        service.name, by, wanted or pod is not None, job, "" if pod is None else pod.name, service.lines
    )


def units_text(project: str, images: Mapping[str, str], units: Mapping[str, RecordedUnit]) -> bytes:
    """Return the text of a release: the image of each unit, and what is known of its service."""
    document = {
        "name": project,
        "services": {unit: {"image": image} for unit, image in images.items()},
        "units": {unit: msgspec.to_builtins(each) for unit, each in units.items()},
    }
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class UnitsText:
    """The parsed text of a release: see `units_text`."""

    images: Mapping[str, str]
    units: Mapping[str, RecordedUnit]

    @classmethod
    def of(cls, contents: ReleaseContents) -> UnitsText:
        """Parse the text of a release whose contents were checked."""
        document: dict[str, Any] = json.loads(contents.compose)
        images = {unit: str(each["image"]).replace("$$", "$") for unit, each in document["services"].items()}
        return cls(images, msgspec.convert(document["units"], dict[str, RecordedUnit]))

    def drop_ins(self) -> dict[str, str]:
        """Return the drop-in files. Raises: UnitsInvalid."""
        return drop_ins_of(self.images, {unit: each.by for unit, each in self.units.items() if each.by})


@dataclass(frozen=True, slots=True)
class UnitFlow:
    """Runs releases of one project's units. `systemd`: None to start nothing."""

    images: ReleaseImages
    folder: ReleaseFolder
    drop_ins: DropIns
    generator: Generator
    systemd: Systemd | None
    now_us: Callable[[], int]
    progress: Callable[[str], None]
    timeouts: DeployTimeouts = field(default_factory=DeployTimeouts)

    @property
    def options(self) -> str:
        """The options that name the project and its engine, for commands in messages."""
        return f"--project-name {self.folder.project} --host {self.folder.address}"

    def text(self, number: int) -> UnitsText:
        """Return the text of a recorded release. Raises: NoSuchRelease, ReleaseUnreadable."""
        return UnitsText.of(self.folder.contents(number))

    async def run(self, release: Release, contents: ReleaseContents) -> ReleaseOutcome:
        """Run steps 1 to 5 of a new release."""
        return await self.resume(self.folder.begin(release, contents))

    async def resume(self, release: Release) -> ReleaseOutcome:
        """Run the remaining steps of a recorded release. Raises: errors of the engine and of its images: it is left unfinished."""
        if release.step is ReleaseStep.RETURNING:
            return await self._restore_previous(release, (Failure("", release.reason),))
        release = await self._startable(release)
        release = self.folder.write(release.at(ReleaseStep.STARTING))
        former = None if release.previous is None else self.text(release.previous)
        try:
            self._switch(release)
            watched = await self._restart(release, former, jobs=release.of is None)
        except BoltsealError as error:
            return await self._restore_previous(release, (Failure("", error.message),))
        if self.systemd is None:
            done = release.ended(ReleaseEnd.WRITTEN, self.now_us(), NOT_STARTED)
            return ReleaseOutcome(self.folder.write(done))
        release = self.folder.write(release.at(ReleaseStep.WAITING, ServiceState.STARTED))
        failing = await self._wait(self.systemd, watched, self.timeouts.wait_s)
        if failing:
            return await self._restore_previous(release, failing)
        done = release.at(ReleaseStep.WAITING, ServiceState.HEALTHY)
        done = self._not_watched(done, watched)
        return ReleaseOutcome(self.folder.write(done.ended(ReleaseEnd.HEALTHY, self.now_us())))

    async def is_running(self, release: Release, text: UnitsText) -> bool:
        """Return whether all services of a release run as it says. Raises: SystemdFailed; errors of the engine."""
        if self.systemd is None:
            return False
        watched = await self._watched(self.systemd, release, text, text)
        return not any(each.restart for each in watched)

    async def _startable(self, release: Release) -> Release:
        """Return a release whose images can be started, as `ReleaseImages.startable` says."""
        ready = await self.images.startable(release, {each.name for each in release.services})
        changed = {
            each.name: full_name(each.started_as) for each in ready.services if each != release.service(each.name)
        }
        if not changed:
            return release
        self.progress(f"other copies of the recorded images are started: {', '.join(changed)}")
        document = json.loads(self.folder.contents(release.number).compose)
        return self.folder.write(ready, release_text(document, changed, {}))

    def _switch(self, release: Release) -> None:
        """Do step 2. Raises: UnitsInvalid; ReleasesFull, ReleasesUnusable: the former drop-in files are in place."""
        text = self.text(release.number)
        self.drop_ins.replace(release.number, text.drop_ins())
        generated = self.generator.now()
        project = read_units(Path(release.directory))
        services = services_of(generated, project)
        for unit, image in text.images.items():
            starts = () if unit not in services else services[unit].values("Service", "ExecStart")
            if not any(image in each.split(" ") for each in starts):
                raise UnitsInvalid(
                    f"{unit}: Podman's generator does not start {image}, although its drop-in file is in place"
                )

    async def _restart(self, release: Release, former: UnitsText | None, *, jobs: bool) -> list[WatchedService]:
        """Do step 3, and return the services to wait for. `jobs`: whether oneshot services are started. Raises: SystemdFailed."""
        systemd = self.systemd
        if systemd is None:
            return []
        text = self.text(release.number)
        await asyncio.to_thread(systemd.reload)
        self._stop_gone(systemd, release, text, former)
        watched = await self._watched(systemd, release, text, former)
        watched = [each for each in watched if jobs or not each.job]
        names = {each.service for each in watched if each.restart}
        for pod, members in _pods(text).items():
            changed = former is not None and any(
                former.units[unit].lines != each.lines
                for unit, each in text.units.items()
                if each.service == pod and unit in former.units
            )
            if changed or (members and members <= names):
                names |= {pod, *members}
        if names:
            self.progress(f"restarting {', '.join(sorted(names))}")
            await asyncio.to_thread(systemd.restart, sorted(names))
        return [each.restarted() if each.service in names else each for each in watched]

    async def _watched(
        self, systemd: Systemd, release: Release, text: UnitsText, former: UnitsText | None
    ) -> list[WatchedService]:
        """Return the services that have to run, and whether each has to be restarted."""
        wanted: dict[str, str] = {}
        for unit in text.images:
            service = text.units[unit].service
            if not unit.endswith(".container"):
                continue
            for name in systemd.instances(service) if "@." in service else (service,):
                wanted.setdefault(name, unit)
        states = await asyncio.to_thread(systemd.states, wanted)
        service_watch, found = ServiceWatch(systemd, self.images.host.engine), []
        for name, unit in wanted.items():
            recorded, state, image = text.units[unit], states[name], release.service(unit)
            if image is None or (
                not recorded.start and state.active not in ("active", "activating", "reloading", "failed")
            ):
                continue
            watch = WatchedService(name, unit, image.image_id, state, job=recorded.job)
            known = None if former is None else former.units.get(unit)
            same = known is None or known.lines == recorded.lines
            if recorded.job:
                done = same and former is not None and former.images.get(unit) == text.images[unit]
            else:
                done = same and state.active == "active" and await service_watch.runs(watch)
            found.append(watch if done else watch.restarted())
        return found

    def _stop_gone(self, systemd: Systemd, release: Release, text: UnitsText, former: UnitsText | None) -> None:
        """Stop the services of units that the former release had, and whose files are gone."""
        if former is None:
            return
        kept = {each.service for each in text.units.values()}
        there = {each.name for each in Path(release.directory).iterdir()}
        gone = [
            each.service
            for unit, each in former.units.items()
            if unit not in there
            and each.service not in kept
            and "@." not in each.service
            and unit.endswith((".container", ".pod"))
        ]
        if gone:
            self.progress(f"stopping {', '.join(gone)}: the unit is gone")
            try:
                systemd.stop(gone)
            except SystemdFailed as error:
                self.progress(error.message)

    async def _wait(self, systemd: Systemd, watched: Sequence[WatchedService], within_s: float) -> tuple[Failure, ...]:
        """Do step 4; return what failed."""
        watch = ServiceWatch(systemd, self.images.host.engine)
        return await watch.wait(watched, within_s, self.timeouts.settle_s, self.progress)

    def _not_watched(self, release: Release, watched: Sequence[WatchedService]) -> Release:
        """Return the release with the units that nothing starts as planned: their next start has the new image."""
        seen = {each.unit for each in watched}
        why = "not started: neither active before, nor started by [Install] or a pod"
        return release.with_services(
            msgspec.structs.replace(each, state=ServiceState.PLANNED, reason=why)
            for each in release.services
            if each.name not in seen and each.name.endswith(".container")
        )

    async def _restore_previous(self, release: Release, failures: Sequence[Failure]) -> ReleaseOutcome:
        """Do step 5, or record why it failed."""
        reason = "; ".join(f"{each.service}: {each.reason}" if each.service else each.reason for each in failures)
        release = msgspec.structs.replace(_failed(release, failures), reason=reason[:4000])
        release = self.folder.write(release.at(ReleaseStep.RETURNING))
        previous = release.previous
        try:
            if previous is None:
                self.drop_ins.remove()
                if self.systemd is not None:
                    await asyncio.to_thread(self.systemd.reload)
                nothing = f"{reason}; there is no previous release; the drop-in files were removed"
                return self._ended(release, ReleaseEnd.FAILED, failures, nothing)
            self.progress(f"restoring release {previous}")
            before = await self._startable(self.folder.read(previous))
            self._switch(before)
            watched = await self._restart(before, self.text(release.number), jobs=False)
            late = await self._wait(self.systemd, watched, self.timeouts.rollback_wait_s) if self.systemd else ()
        except BoltsealError as error:
            broken = f"{reason}; could not restore release {previous}: {error.message}"
            return self._ended(release, ReleaseEnd.FAILED, failures, broken)
        if late:
            names = ", ".join(each.service for each in late)
            broken = f"{reason}; release {previous} was restored, but its {names} is not healthy"
            return self._ended(release, ReleaseEnd.FAILED, failures, broken)
        different = different_units(before, self.folder.contents(before.number))
        if different:
            mixed = (
                f"{reason}; the images of release {previous} run again, but the units are still those of release {release.number} "
                f"({', '.join(different[:5])}); restore them by `boltseal rollback {previous} --quadlet --restore-files`"
            )
            return self._ended(release, ReleaseEnd.FAILED, failures, mixed)
        done = release.at(ReleaseStep.RETURNING, ServiceState.PUT_BACK)
        done = self.folder.write(done.ended(ReleaseEnd.PUT_BACK, self.now_us()))
        return ReleaseOutcome(done, tuple(failures), before.number)

    def _ended(self, release: Release, end: ReleaseEnd, failures: Sequence[Failure], reason: str) -> ReleaseOutcome:
        return ReleaseOutcome(self.folder.write(release.ended(end, self.now_us(), reason[:4000])), tuple(failures))


def different_units(release: Release, contents: ReleaseContents) -> tuple[str, ...]:
    """Return the unit files that are not as a release recorded them: changed, gone, or new. A found release recorded none."""
    if not contents.files:
        return ()
    root = Path(release.directory)
    try:
        new = [each for each in read_units(root).files if each not in contents.files]
    except BoltsealError:
        new = []
    return (*changed_files(root, contents.files), *new)


def full_name(name: str) -> str:
    """Return an image's name with its registry, since Podman searches other registries for a short name."""
    return str(Reference.parse(name))


def _pods(text: UnitsText) -> dict[str, set[str]]:
    """Return the services of each pod's containers, by the pod's service."""
    found: dict[str, set[str]] = {}
    for each in text.units.values():
        if each.pod:
            found.setdefault(each.pod, set()).add(each.service)
    return found


def _failed(release: Release, failures: Sequence[Failure]) -> Release:
    reasons = {each.service: each.reason for each in failures}
    return release.with_services(
        msgspec.structs.replace(each, state=ServiceState.FAILED, reason=reasons[each.name])
        for each in release.services
        if each.name in reasons
    )
