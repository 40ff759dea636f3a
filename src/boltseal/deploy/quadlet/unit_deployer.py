"""Deploys and rolls back one project of Quadlet units on this host.

    1. Podman's generator says what the units are without boltseal's drop-in files, and the lock gives the digest of each image.
    2. The generator says what they are with the new ones: nothing but images may differ.
    3. If all of it runs already, stop.
    4. What runs without a release is recorded as one, by keep tags, before the first pull.
    5. Pull images by digest; keep the working images.
    6. Run the release: see `unit_flow`.

A rollback begins at step 2 from the record. It needs the unit files to be those of the release: drop-in files set only images.
"""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec

from boltseal.deploy.deployer import DeployedBy
from boltseal.deploy.holds import Held, check_images, check_repeated, end_hint, holding
from boltseal.deploy.kube.object_diff import ObjectChange
from boltseal.deploy.quadlet.drop_ins import write_drop_ins
from boltseal.deploy.quadlet.generator import Generated, GeneratedService, services_of
from boltseal.deploy.quadlet.pinned_units import UnitImage, check_only_images, drop_ins_of, unit_images
from boltseal.deploy.quadlet.service_watch import UNIT_LABEL
from boltseal.deploy.quadlet.unit_flow import (
    RecordedUnit,
    UnitFlow,
    UnitsText,
    different_units,
    full_name,
    recorded_unit,
    units_text,
)
from boltseal.deploy.quadlet.unit_folders import ProjectUnits, read_units
from boltseal.deploy.release_choice import abandon, release_to_restore, release_to_resume, unfinished_release
from boltseal.deploy.release_cleanup import ReleaseCleanup
from boltseal.deploy.release_flow import DeployResult, ReleaseOutcome
from boltseal.deploy.release_images import PreparedImage, hold_reason, labels_of
from boltseal.deploy.release_store import ReleaseFolder
from boltseal.deploy.releases import (
    Release,
    ReleaseContents,
    ReleasedService,
    ReleaseEnd,
    ReleaseKind,
    ReleaseStep,
    ServiceState,
    check_kind,
    last_good,
)
from boltseal.deploy.source_snapshot import changed_files
from boltseal.errors import Precondition
from boltseal.host.keeper import Keeper
from boltseal.lockfile.document import Lock, key_in
from boltseal.lockfile.format import format_lock
from boltseal.oci.reference import Reference

_MAX_LISTED: Final = 10


class UnitsDiffer(Precondition):
    """The unit files are not those of the release to go back to. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class UnitPlan:
    """What the units are and get. `bare`: their services without drop-in files; `images`: theirs; `names`: as they will be written."""

    project: ProjectUnits
    bare: Mapping[str, GeneratedService]
    images: tuple[UnitImage, ...]
    names: Mapping[str, str]

    @property
    def setters(self) -> Mapping[str, str]:
        """The unit that sets each unit's image."""
        return {each.unit: each.by for each in self.images}

    def recorded(self) -> dict[str, RecordedUnit]:
        """Return the units as they are recorded."""
        return {
            unit: recorded_unit(service, self.setters.get(unit, ""), self.bare) for unit, service in self.bare.items()
        }


@dataclass(frozen=True, slots=True)
class UnitDeployer:
    """Deploys one project. Callers are inside `folder.deploying`."""

    flow: UnitFlow

    @property
    def folder(self) -> ReleaseFolder:
        """The project's releases."""
        return self.flow.folder

    def plan(self, project: ProjectUnits, lock: Lock | None) -> UnitPlan:
        """Do steps 1 and 2. Raises: UnitsInvalid, LockMismatch, GeneratorFailed."""
        self.flow.drop_ins.check()
        bare = self._bare(project)
        images = unit_images(project, bare, lock)
        names = {each.unit: str(_pinned(each)) for each in images}
        plan = UnitPlan(project, bare, images, names)
        with_images = self._with(drop_ins_of(names, plan.setters))
        after = services_of(with_images, project)
        check_only_images(bare, after, names, {each.unit: each.written for each in images})
        return plan

    def preview(self, project: ProjectUnits, lock: Lock | None) -> tuple[ObjectChange, ...]:
        """Return what a deploy would change in each service, as Podman's generator says. Raises: as `plan`."""
        plan = self.plan(project, lock)
        before = services_of(self.flow.generator.now(), project)
        after = services_of(self._with(drop_ins_of(plan.names, plan.setters)), project)
        found = []
        for unit, service in after.items():
            old = before[unit].lines
            diff = tuple(difflib.unified_diff(old, service.lines, "now", "after", lineterm="", n=0))
            found.append(ObjectChange(service.name, "changed" if diff else "unchanged", "", diff))
        return tuple(found)

    def _bare(self, project: ProjectUnits) -> dict[str, GeneratedService]:
        """Return the services of a project without boltseal's drop-in files: empty ones of the same names take precedence."""
        current = self.flow.drop_ins.current()
        return services_of(self._with(dict.fromkeys(current, "")), project)

    def _with(self, texts: Mapping[str, str]) -> Generated:
        """Return what the generator makes with these drop-in files in place of the project's present ones."""
        gone = {unit: "" for unit in self.flow.drop_ins.current() if unit not in texts}
        with tempfile.TemporaryDirectory(prefix="boltseal-units-") as scratch:
            write_drop_ins(Path(scratch), {**texts, **gone})
            return self.flow.generator.with_first(Path(scratch))

    async def deploy(
        self, project: ProjectUnits, lock: Lock | None, by: DeployedBy, *, anyway: bool = False
    ) -> DeployResult:
        """Make the units run as they and the lock say.

        Raises: Held; UnitsInvalid, LockMismatch: nothing was changed; what `Puller.pull` raises.
        """
        releases = self.folder.all()
        check_kind(releases, self.folder.project)
        plan = self.plan(project, lock)
        check_images(releases, {each.unit: str(each.digest) for each in plan.images}, self.flow.options)
        if not anyway:
            self._check_held_text(releases, plan)
        unfinished = unfinished_release(releases)
        last = last_good(releases)
        if unfinished is None and last is not None and await self._runs(last, plan):
            return DeployResult(last)
        last = last or await self._record_what_runs(plan, by)
        number = self.folder.next_number()
        prepared = await self._prepare(plan, lock, number)
        images = {unit: full_name(each.started_as) for unit, each in prepared.items()}
        release = Release(
            project=self.folder.project,
            number=number,
            kind=by.kind,
            directory=str(project.root),
            started_us=self.flow.now_us(),
            who=by.who,
            revision=by.revision,
            previous=None if last is None else last.number,
            services=tuple(_released(each, prepared[each.unit]) for each in plan.images),
            unit_folder=str(self.flow.drop_ins.units),
        )
        text = units_text(self.folder.project, images, plan.recorded())
        recorded = None if lock is None else format_lock(lock).encode()
        pulled = tuple(unit for unit, each in prepared.items() if each.pulled)
        return await self._run(release, ReleaseContents(text, files=project.files, lock=recorded), unfinished, pulled)

    async def rollback(self, number: int | None, by: DeployedBy) -> DeployResult:
        """Make the units run as an older release did: `number`, or the one before the running release.

        Raises: NotFound, NoSuchRelease, Held; UnitsDiffer: the unit files are others; as `deploy`.
        """
        releases = self.folder.all()
        check_kind(releases, self.folder.project)
        if number is None:
            check_repeated(releases, self.flow.options)
        target = release_to_restore(self.folder, releases, number, self.flow.options)
        contents = self.folder.contents(target.number)
        self._check_files(target, contents)
        text = UnitsText.of(contents)
        project = read_units(Path(target.directory))
        services_of(self._with(text.drop_ins()), project)
        last, unfinished = last_good(releases), unfinished_release(releases)
        new = self.folder.next_number()
        release = Release(
            project=self.folder.project,
            number=new,
            kind=ReleaseKind.ROLLBACK,
            directory=target.directory,
            started_us=self.flow.now_us(),
            who=by.who,
            revision=target.revision,
            of=target.number,
            hold=True,
            previous=None if last is None else last.number,
            services=tuple([await self._returning(each, new) for each in target.services]),
            unit_folder=target.unit_folder,
        )
        images = {each.name: full_name(each.started_as) for each in release.services}
        recorded = ReleaseContents(
            units_text(self.folder.project, images, text.units), files=contents.files, lock=contents.lock
        )
        return await self._run(release, recorded, unfinished)

    async def resume(self) -> DeployResult:
        """Continue the unfinished release. Raises: NotFound: there is none."""
        check_kind(self.folder.all(), self.folder.project)
        outcome = await self.flow.resume(release_to_resume(self.folder, self.flow.options))
        await self._clean(outcome)
        return DeployResult(outcome.release, outcome)

    async def _run(
        self,
        release: Release,
        contents: ReleaseContents,
        unfinished: Release | None,
        pulled: tuple[str, ...] = (),
    ) -> DeployResult:
        abandon(self.folder, unfinished, self.flow.now_us(), release.number)
        outcome = await self.flow.run(release, contents)
        await self._clean(outcome)
        return DeployResult(outcome.release, outcome, pulled, None if unfinished is None else unfinished.number)

    async def _clean(self, outcome: ReleaseOutcome) -> None:
        if outcome.release.good:
            images = self.flow.images
            archive = images.archive if images.archiving else None
            await ReleaseCleanup(self.folder, images.host, archive, self.flow.progress).run(outcome.release.number)

    async def _prepare(self, plan: UnitPlan, lock: Lock | None, number: int) -> dict[str, PreparedImage]:
        """Return every unit's image, pulled and protected from prune; each distinct image is prepared once."""
        why = hold_reason(self.folder.project, number)
        known = {} if lock is None else lock.by_reference()
        found: dict[Reference, PreparedImage] = {}
        for each in plan.images:
            name = _pinned(each)
            if name not in found:
                locked = known.get(key_in(each.reference, known))
                ids = () if locked is None else locked.image_ids
                found[name] = await self.flow.images.locked(each.reference, each.digest, ids, why)
        return {each.unit: found[_pinned(each)] for each in plan.images}

    async def _returning(self, service: ReleasedService, number: int) -> ReleasedService:
        prepared = await self.flow.images.restore(service, hold_reason(self.folder.project, number))
        return msgspec.structs.replace(
            service,
            image_id=str(prepared.image.id),
            started_as=prepared.started_as,
            scrub="",
            state=ServiceState.PLANNED,
            reason="",
        )

    async def _runs(self, last: Release, plan: UnitPlan) -> bool:
        """Return whether a release has these units, images and drop-in files, and runs."""
        contents = self.folder.contents(last.number)
        text = UnitsText.of(contents)
        same = contents.files == plan.project.files and text.units == plan.recorded()
        same = same and {each.name: each.digest for each in last.services} == {
            each.unit: str(each.digest) for each in plan.images
        }
        if not same or self.flow.drop_ins.current() != text.drop_ins():
            return False
        if self.flow.systemd is None:
            return last.end is ReleaseEnd.WRITTEN
        return last.end is ReleaseEnd.HEALTHY and await self.flow.is_running(last, text)

    async def _record_what_runs(self, plan: UnitPlan, by: DeployedBy) -> Release | None:
        """Record the images of the units' containers as release 0, to go back to; None if none runs."""
        host, found = self.flow.images.host, list[ReleasedService]()
        for each in plan.images:
            service = plan.bare[each.unit].name
            containers = await host.engine.containers(label=f"{UNIT_LABEL}={service}")
            running = next((one for one in containers if one.running and one.image is not None), None)
            if running is None or running.image is None:
                continue
            tagged = each.reference.by_tag
            kept = await Keeper(host).hold(running.image, tagged, None, hold_reason(self.folder.project, 0))
            name = str(kept.keep_name)
            image = ReleasedService(
                name=each.unit,
                image=str(tagged),
                image_id=str(running.image),
                started_as=name,
                state=ServiceState.HEALTHY,
            )
            found.append(image)
        if not found:
            return None
        now_us = self.flow.now_us()
        release = Release(
            project=self.folder.project,
            number=0,
            kind=ReleaseKind.FOUND,
            directory=str(plan.project.root),
            started_us=now_us,
            who=by.who,
            step=ReleaseStep.ENDED,
            end=ReleaseEnd.HEALTHY,
            ended_us=now_us,
            services=tuple(found),
            unit_folder=str(self.flow.drop_ins.units),
        )
        images = {each.name: each.started_as for each in found}
        # An .image unit has no container: a container that names it gets the image by a drop-in file of its own.
        units = {unit: replace(each, by=unit) for unit, each in plan.recorded().items() if unit in images}
        self.flow.progress(f"recorded what runs as release 0: {', '.join(images)}")
        return self.folder.begin(release, ReleaseContents(units_text(self.folder.project, images, units)))

    def _check_files(self, target: Release, contents: ReleaseContents) -> None:
        """Check that the unit files are those of a release. Raises: UnitsDiffer."""
        different = different_units(target, contents)
        if not different:
            return
        new = [each for each in different if each not in contents.files]
        listed = ", ".join(different[:_MAX_LISTED])
        hint = (
            f"remove {', '.join(new[:_MAX_LISTED])}, which that release does not have"
            if new
            else f"restore them in {target.directory} by `boltseal rollback {target.number} --quadlet --restore-files {self.flow.options}`"
        )
        raise UnitsDiffer(
            f"the units are not those of release {target.number}: {listed}. Drop-in files set only images, so nothing was changed; {hint}"
        )

    def _check_held_text(self, releases: Sequence[Release], plan: UnitPlan) -> None:
        """Check that units and images are not those that a rollback went back from. Raises: Held."""
        for rollback in holding(releases):
            undone = next((each for each in releases if each.number == rollback.previous), None)
            if undone is None or {each.digest for each in undone.services} != {
                str(each.digest) for each in plan.images
            }:
                continue
            if not changed_files(plan.project.root, self.folder.contents(undone.number).files):
                raise Held(
                    f"the units are those of release {undone.number}, held since release {rollback.number} went back from it. "
                    f"Nothing was changed; {end_hint(self.flow.options)}, or deploy them by `boltseal deploy --quadlet --anyway {self.flow.options}`"
                )


def _pinned(image: UnitImage) -> Reference:
    """Return the name by which an image is started: with its tag, if it has one or no digest, and its digest."""
    tag = image.reference.by_tag.tag
    return Reference(image.reference.registry, image.reference.repository, tag, image.digest)


def _released(image: UnitImage, prepared: PreparedImage) -> ReleasedService:
    return ReleasedService(
        name=image.unit,
        image=str(image.reference),
        digest=str(image.digest),
        image_id=str(prepared.image.id),
        started_as=prepared.started_as,
        containers=1 if image.unit.endswith(".container") else 0,
        scrub=prepared.scrub,
        labels=labels_of(prepared.image),
    )
