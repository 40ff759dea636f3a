"""Deploys and rolls back one project on one engine.

    0. What runs without a release (`docker compose up`) is recorded as a release of its own, before anything is touched.
    1. Compose resolves the project, and the lock gives the digest of each image. A mismatch is refused. So is a locally
       built service that is not locked, unless `--build` built it now or its image is that of the running release.
    2. If everything runs already, stop: nothing was pulled, recorded, started or stopped (`current_release`).
    3. Pull images by digest; keep the working images.
    4. Scrub what was pulled.
    5. Run the release: see `release_flow`.

A rollback begins at step 5 from the record, without asking a registry or git.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from boltseal.deploy.compose_model import ComposeService, LockMismatch, locked_digests, merge_services, unlocked_builds
from boltseal.deploy.compose_reading import ComposeReading, interpolated
from boltseal.deploy.health import WORKING_DIR
from boltseal.deploy.holds import check_images, check_repeated
from boltseal.deploy.jobs import skip_completed_jobs
from boltseal.deploy.project_files import project_folder
from boltseal.deploy.release_choice import abandon, release_to_restore, release_to_resume, unfinished_release
from boltseal.deploy.release_cleanup import ReleaseCleanup
from boltseal.deploy.release_flow import DeployResult, ReleaseFlow
from boltseal.deploy.release_images import (
    PreparedImage,
    ReleaseImages,
    hold_reason,
    labels_of,
)
from boltseal.deploy.release_store import ReleaseFolder
from boltseal.deploy.releases import (
    Release,
    ReleaseContents,
    ReleasedService,
    ReleaseKind,
    ServiceState,
    last_good,
    removed_services,
)
from boltseal.deploy.settings_files import paths_with_variables, settings_files
from boltseal.deploy.source_snapshot import recorded_files
from boltseal.errors import Invalid, NotFound, Precondition, quote
from boltseal.lockfile.document import Lock, key_in
from boltseal.lockfile.format import format_lock
from boltseal.oci.digest import Digest

_MAX_LISTED: Final = 20


@dataclass(frozen=True, slots=True)
class DeployedBy:
    """The user who deploys, the git revision of the project, and the kind of release."""

    who: str
    revision: str = ""
    kind: ReleaseKind = ReleaseKind.DEPLOY


class OtherFolder(Invalid):
    """The project of this name was started from another folder. Nothing was touched."""


@dataclass(frozen=True, slots=True)
class CheckedDeploy:
    """What `Deployer.check` found. `last`: the release that runs; `running`: services that keep a locally built image, by its ID."""

    releases: tuple[Release, ...]
    last: Release | None
    unfinished: Release | None
    digests: Mapping[str, Digest]
    running: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Deployer:
    """Deploys one project. Callers are inside `folder.deploying` and have checked `current_release` first.

    `take_over`: replace a project of the same name that was started from another folder.
    """

    flow: ReleaseFlow
    images: ReleaseImages
    take_over: bool = False

    @property
    def folder(self) -> ReleaseFolder:
        """The project's releases."""
        return self.flow.folder

    async def deploy(
        self, read: ComposeReading, lock: Lock | None, chosen: Sequence[str], by: DeployedBy
    ) -> DeployResult:
        """Make the project run as its files and lock say.

        Raises: LockMismatch; Invalid: if a built image is missing; OtherFolder; Precondition: if only some services are
        chosen while a release is unfinished; and what `Puller.pull` raises.
        """
        checked = await self.check(read, lock, chosen)
        releases, last, unfinished = checked.releases, checked.last, checked.unfinished
        digests, running = checked.digests, checked.running
        last = await self._record_what_runs(releases, last, read.model.document)
        number = self.folder.next_number()
        prepared = await self._prepare_all(read, lock, digests, number)
        check_unchanged(running, prepared)
        check_images(releases, {name: str(each.image.id) for name, each in prepared.items()})
        before = None if last is None else self.folder.contents(last.number).compose
        document = merge_services(read.model, before, chosen)
        release = self._new_release(read, document, prepared, last, chosen, by, number)
        text = self.flow.text(document, {name: each.started_as for name, each in prepared.items()})
        abandon(self.folder, unfinished, self.flow.now_us(), number)
        others = [each for each in release.services if each.name not in prepared]
        await self.images.protect_unchanged(others, hold_reason(self.folder.project, number))
        recorded = recorded_files(read.project)
        environment = json.dumps(dict(read.variables)).encode()
        paths = await interpolated(self.flow.compose, read.project, paths_with_variables(recorded.files))
        root, known = project_folder(read.project).resolve(), self.flow.locations.unread
        settings = settings_files(root, read.model.document, recorded.files, paths, known)
        contents = ReleaseContents(
            text,
            environment,
            {**settings.files, **recorded.files},
            None if lock is None else format_lock(lock).encode(),
            tuple(settings.outside),
            settings.modes,
            settings.owners,
        )
        for each in settings.unread[:_MAX_LISTED]:
            self.flow.progress(
                f"{each}: only another user can read it; unchanged since what runs was deployed, so its copy is used"
            )
        self._list_outside(last, contents)
        outcome = await self.flow.run(release, contents)
        await self._keep(outcome.release)
        pulled = tuple(name for name, each in prepared.items() if each.pulled)
        return DeployResult(outcome.release, outcome, pulled, None if unfinished is None else unfinished.number)

    async def check(self, read: ComposeReading, lock: Lock | None, chosen: Sequence[str]) -> CheckedDeploy:
        """Check what can be checked before anything is changed or pulled. Raises: as `deploy`."""
        releases = self.folder.all()
        last = last_good(releases)
        await self._check_folder(project_folder(read.project), last)
        unfinished = unfinished_release(releases)
        if unfinished is not None and chosen:
            raise Precondition(
                f"release {unfinished.number} of {self.folder.project} is unfinished (step {unfinished.step}): resume it with "
                "`boltseal deploy --resume`, or deploy all services"
            )
        digests = locked_digests(read.model, lock)
        check_images(releases, {name: str(each) for name, each in digests.items()})
        running = await self._check_locked_or_built(read, unlocked_builds(read.model, lock, digests), last)
        return CheckedDeploy(releases, last, unfinished, digests, running)

    async def rollback(self, number: int | None, by: DeployedBy, *, hold: bool = True) -> DeployResult:
        """Make the project run as an older release did: `number`, or the one before the running release.

        `hold`: what it takes back is not deployed again until a person ends the hold.

        Raises: NotFound: if no older release ran, or an image is gone and can't be pulled; NoSuchRelease.
        """
        releases = self.folder.all()
        if number is None:
            check_repeated(releases)
        await self._record_what_runs(releases, last_good(releases))
        releases = self.folder.all()
        target = release_to_restore(self.folder, releases, number)
        recorded = self.folder.contents(target.number)
        new = self.folder.next_number()
        prepared = await self._restore_images(target, hold_reason(self.folder.project, new))
        document = json.loads(recorded.compose)
        target = skip_completed_jobs(target, document)
        variables = {name: str(value) for name, value in json.loads(recorded.environment).items()}
        text = self.flow.text(document, {name: each.started_as for name, each in prepared.items()})
        last = last_good(releases)
        unfinished = unfinished_release(releases)
        release = Release(
            project=self.folder.project,
            number=new,
            kind=ReleaseKind.ROLLBACK,
            directory=target.directory,
            started_us=self.flow.now_us(),
            who=by.who,
            revision=target.revision,
            of=target.number,
            hold=hold,
            previous=None if last is None else last.number,
            services=tuple(_returning_service(each, prepared[each.name]) for each in target.services),
            removed=removed_services(releases, {each.name for each in target.services}),
        )
        names = tuple(each.name for each in target.services)
        same = (
            [] if last is None else [each for each in last.services if each.image_id == _image_id(prepared, each.name)]
        )
        as_it_runs = unfinished is None and not release.removed and len(same) == len(names)
        if as_it_runs and await self.flow.unchanged(last, text, names, variables):
            self.images.let_go([release])
            return DeployResult(target if last is None else last)
        if last is not None and last.directory != release.directory:
            self.flow.progress(
                f"{release.project} was deployed from {last.directory} before; release {target.number} was deployed from "
                f"{release.directory}, and its paths refer to that folder"
            )
        abandon(self.folder, unfinished, self.flow.now_us(), new)
        outcome = await self.flow.run(release, replace(recorded, compose=text))
        await self._keep(outcome.release)
        return DeployResult(outcome.release, outcome, (), None if unfinished is None else unfinished.number)

    async def _restore_images(self, target: Release, reason: str) -> dict[str, PreparedImage]:
        """Return the images of a release by service. Raises: NotFound, with who may have them; ImageChanged."""
        try:
            return {each.name: await self.images.restore(each, reason) for each in target.services}
        except NotFound as error:
            if not target.who:
                raise
            archived = f"; release {target.number} was deployed by {target.who}, whose archive may have it: roll back from there"
            raise NotFound(error.message + archived) from error

    async def resume(self) -> DeployResult:
        """Resume the unfinished release.

        Raises: NotFound: if there is none; ScrubDiffers, NotScrubbed: with a required scrub.
        """
        outcome = await self.flow.resume(release_to_resume(self.folder))
        await self._keep(outcome.release)
        return DeployResult(outcome.release, outcome)

    async def _check_folder(self, folder: Path, last: Release | None) -> None:
        """Check that what runs under the project's name was started from its folder. Raises: OtherFolder."""
        if self.take_over:
            return
        labelled = {each.labels.get(WORKING_DIR) or "" for each in await self.flow.containers()}
        folders = {each for each in labelled if each} or ({last.directory} if last is not None and labelled else set())
        other = _other_folder(folders, folder)
        if other is not None:
            raise OtherFolder(
                f"a project named {self.folder.project} runs from another folder (got {folder}, expected {other}): its services "
                "would be replaced. Nothing was touched; name this project differently with --project-name, or replace "
                "that one with `boltseal deploy --take-over`"
            )

    async def _record_what_runs(
        self, releases: Sequence[Release], last: Release | None, text: Mapping[str, Any] | None = None
    ) -> Release | None:
        """Record what runs if no release has it, and keep its images. Return the release that runs. `text`: see `ReleaseFlow.snapshot`."""
        found = await self.flow.snapshot(releases, last, text)
        if found is None:
            return last
        reason = hold_reason(self.folder.project, found.release.number)
        gone = await self.images.protect_unchanged(found.release.services, reason)
        recorded = self.folder.begin(found.release, found.contents)
        names = ", ".join(each.name for each in recorded.services)
        self.flow.progress(f"recorded what runs without a release as release {recorded.number}: {names}")
        if gone:
            self.flow.progress(
                f"their images are not on this engine any more: {', '.join(gone)}. To restore them needs a registry"
            )
        return recorded

    async def _check_locked_or_built(
        self, read: ComposeReading, reasons: Mapping[str, str], last: Release | None
    ) -> dict[str, str]:
        """Check that every image is locked, built for this deploy, or (by its ID) that of the running release.

        Return the services for which the last counts, each with that ID. Raises: LockMismatch.
        """
        wrong, running = [], {}
        for name, why in reasons.items():
            service, recorded = read.model.services[name], None if last is None else last.service(name)
            got = await self.images.host.image(service.image.by_tag)
            runs = None if recorded is None or recorded.digest else recorded.image_id
            if name in read.built:
                continue
            if got is not None and str(got.id) == runs:
                running[name] = runs
                continue
            expected = "a locked digest"
            if last is not None and runs is not None:
                expected = f"the image of release {last.number}, {Digest.parse(runs).short}"
            found = "no such image" if got is None else got.id.short
            wrong.append(f"{name}: {service.image.familiar()}: {why} (got {found}, expected {expected})")
        if wrong:
            shown = "; ".join(quote(each, 400)[1:-1] for each in wrong[:20])
            raise LockMismatch(
                f"a locally built image is not locked: {shown}. Nothing was started. Lock it with `boltseal lock` if it is in "
                "a registry, or build it with `boltseal deploy --build`"
            )
        return running

    async def _prepare_all(
        self, read: ComposeReading, lock: Lock | None, digests: Mapping[str, Digest], number: int
    ) -> dict[str, PreparedImage]:
        """Return every service's image, pulled and protected from prune; each distinct image is prepared once."""
        why = hold_reason(self.folder.project, number)
        known = {} if lock is None else lock.by_reference()
        found: dict[tuple[object, Digest | None], PreparedImage] = {}
        prepared: dict[str, PreparedImage] = {}
        for name, service in sorted(read.model.services.items()):
            key = (service.image, digests.get(name))
            if key not in found:
                found[key] = await self._prepare(service, digests.get(name), known, why)
            prepared[name] = found[key]
        return prepared

    async def _prepare(
        self, service: ComposeService, digest: Digest | None, known: Mapping[Any, Any], why: str
    ) -> PreparedImage:
        if digest is None:
            built = await self.images.built(service.image, why)
            if built is None:
                raise Invalid(
                    f"service {service.name}: the engine has no image {service.image.familiar()}, which is built locally; "
                    "build it with `boltseal deploy --build`"
                )
            return built
        locked = known.get(key_in(service.image, known))
        return await self.images.locked(service.image, digest, () if locked is None else locked.image_ids, why)

    def _new_release(
        self,
        read: ComposeReading,
        document: Mapping[str, Any],
        prepared: Mapping[str, PreparedImage],
        last: Release | None,
        chosen: Sequence[str],
        by: DeployedBy,
        number: int,
    ) -> Release:
        new = {name: self._released_service(service, prepared[name]) for name, service in read.model.services.items()}
        others = (
            {} if last is None else {each.name: each for each in last.services if each.name in document["services"]}
        )
        return Release(
            project=self.folder.project,
            number=number,
            kind=by.kind,
            directory=str(project_folder(read.project)),
            started_us=self.flow.now_us(),
            who=by.who,
            revision=by.revision,
            previous=None if last is None else last.number,
            services=tuple({**others, **new}[name] for name in sorted({**others, **new})),
            chosen=tuple(sorted(new)) if chosen else (),
            removed=() if chosen else removed_services(self.folder.all(), set(new)),
        )

    def _released_service(self, service: ComposeService, prepared: PreparedImage) -> ReleasedService:
        return ReleasedService(
            name=service.name,
            image=service.image.familiar(),
            digest="" if prepared.digest is None else str(prepared.digest),
            image_id=str(prepared.image.id),
            started_as=prepared.started_as,
            containers=service.wanted,
            scrub=prepared.scrub,
            volumes=service.volumes,
            environment={
                key: self.folder.hmac(f"{key}={value}")
                for key, value in sorted(service.environment.items())
                if value is not None
            },
            labels=labels_of(prepared.image),
        )

    def _list_outside(self, last: Release | None, contents: ReleaseContents) -> None:
        """List what is mounted and not part of the release, if the release before did not list the same."""
        before = () if last is None else self.folder.contents(last.number).outside
        if contents.outside != before:
            for each in contents.outside[:_MAX_LISTED]:
                self.flow.progress(f"not part of the release: {each}")

    async def _keep(self, release: Release) -> None:
        """After a healthy release, archive the last releases' images, and drop the contents of old releases."""
        if release.good:
            archive = self.images.archive if self.images.archiving else None
            await ReleaseCleanup(self.folder, self.images.host, archive, self.flow.progress).run(release.number)


def _image_id(prepared: Mapping[str, PreparedImage], name: str) -> str:
    return str(prepared[name].image.id) if name in prepared else ""


def _other_folder(folders: Collection[str], folder: Path) -> str | None:
    """Return the first of these folders that is not `folder`, links resolved; None if there is none."""
    real = os.path.realpath(folder)
    return next((each for each in sorted(folders) if os.path.realpath(each) != real), None)


def check_unchanged(running: Mapping[str, str], prepared: Mapping[str, PreparedImage]) -> None:
    """Check that locally built images are still those of the running release: the pulls of other images take time.

    `running`: the ID of each such service's image. Raises: LockMismatch.
    """
    wrong = [
        f"{name} (got {prepared[name].image.id.short}, expected {Digest.parse(expected).short})"
        for name, expected in sorted(running.items())
        if str(prepared[name].image.id) != expected
    ]
    if wrong:
        raise LockMismatch(
            f"a locally built image was tagged anew during the deploy: {', '.join(wrong[:20])}. Nothing was started. Build "
            "it with `boltseal deploy --build`"
        )


def _returning_service(service: ReleasedService, prepared: PreparedImage) -> ReleasedService:
    service = msgspec.structs.replace(
        service, image_id=str(prepared.image.id), started_as=prepared.started_as, scrub=""
    )
    if service.state is ServiceState.COMPLETED:
        return service
    return msgspec.structs.replace(service, state=ServiceState.PLANNED, reason="", config_hash="")
