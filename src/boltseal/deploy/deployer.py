"""`deploy` and `rollback` of one project on one engine, from its files to the release's end.

    1. Compose reads the project; the lock says what each image is. Where the two disagree it ends here, also for a service
       that is built here and not locked, unless `--build` has built it now or it is the image of the release that runs.
    2. If all of it runs already, it ends here: nothing was asked for, written down, started or stopped (`standing`).
    3. Images are brought by digest, and what works is kept. 4. What was pulled is scrubbed.
    5. The release: see `flow`.

A rollback begins at 5 with what was recorded, and asks no registry and no git.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from boltseal.deploy.compose_model import ComposeService, LockMismatch, locked_digests, merge_services, unlocked_builds
from boltseal.deploy.compose_reading import ComposeReading
from boltseal.deploy.jobs import skip_completed_jobs
from boltseal.deploy.project_files import project_folder
from boltseal.deploy.release_flow import DeployResult, ReleaseFlow
from boltseal.deploy.release_images import PreparedImage, ReleaseImages, hold_reason, labels_of
from boltseal.deploy.release_store import ReleaseContents, ReleaseFolder
from boltseal.deploy.releases import (
    Release,
    ReleasedService,
    ReleaseEnd,
    ReleaseKind,
    ServiceState,
    last_good,
    removed_services,
    rollback_target,
)
from boltseal.deploy.source_snapshot import recorded_files
from boltseal.errors import Invalid, NotFound, Precondition, quote
from boltseal.lockfile.document import Lock, key_in
from boltseal.lockfile.format import format_lock
from boltseal.oci.digest import Digest


class NothingToGoBackTo(NotFound):
    """No release of the project ran before the one that runs now."""


class Unfinished(Precondition):
    """A release was left unfinished, and what is asked for can't be done on top of it."""


class NothingUnfinished(NotFound):
    """There is no release to go on with."""


class ImageNotBuilt(Invalid):
    """An image that is built here is not there."""


@dataclass(frozen=True, slots=True)
class DeployedBy:
    """Who deploys, from which revision of the project, and why."""

    who: str
    revision: str = ""
    kind: ReleaseKind = ReleaseKind.DEPLOY


@dataclass(frozen=True, slots=True)
class Deployer:
    """Deploys one project. Whoever calls holds `folder.deploying`, and has asked `standing` whether there is anything to do."""

    flow: ReleaseFlow
    images: ReleaseImages

    @property
    def folder(self) -> ReleaseFolder:
        """The project's releases."""
        return self.flow.folder

    async def deploy(
        self, read: ComposeReading, lock: Lock | None, chosen: Sequence[str], by: DeployedBy
    ) -> DeployResult:
        """Make the project run as its files and lock say. LockMismatch, ImageNotBuilt, Unfinished, what `Puller.bring` raises."""
        releases = self.folder.all()
        last = last_good(releases)
        unfinished = next((each for each in reversed(releases) if each.unfinished), None)
        if unfinished is not None and chosen:
            raise Unfinished(
                f"release {unfinished.number} of {self.folder.project} was left {unfinished.step}: go on with "
                "`boltseal deploy --resume`, or deploy all services"
            )
        digests = locked_digests(read.model, lock)
        await self._only_locked_or_built(read, unlocked_builds(read.model, lock, digests), last)
        number = self.folder.next_number()
        ready = await self._ready(read, lock, digests, number)
        before = None if last is None else self.folder.contents(last.number).compose
        document = merge_services(read.model, before, chosen)
        release = self._release(read, document, ready, last, chosen, by, number)
        text = self.flow.text(document, {name: each.started_as for name, each in ready.items()}, read.variables)
        if unfinished is not None:
            self.folder.write(unfinished.ended(ReleaseEnd.ABANDONED, self.flow.now_us(), f"release {number} took over"))
        if last is not None and last.directory != release.directory:
            self.flow.tell(
                f"{release.project} was deployed from {last.directory} until now; what runs of it is replaced by what is in "
                f"{release.directory} (another project needs another name: --project)"
            )
        others = [each for each in release.services if each.name not in ready]
        await self.images.also(others, hold_reason(self.folder.project, number))
        recorded = recorded_files(read.project)
        environment = json.dumps(dict(read.variables)).encode()
        contents = ReleaseContents(
            text, environment, recorded.files, None if lock is None else format_lock(lock).encode()
        )
        outcome = await self.flow.go(release, contents)
        self._prune(outcome.release)
        pulled = tuple(name for name, each in ready.items() if each.pulled)
        return DeployResult(outcome.release, outcome, pulled, None if unfinished is None else unfinished.number)

    async def rollback(self, number: int | None, by: DeployedBy) -> DeployResult:
        """Make the project run as an older release did: the one before what runs, or `number`. NothingToGoBackTo,
        NoSuchRelease, ReleaseImageGone."""
        releases = self.folder.all()
        target = rollback_target(releases) if number is None else self.folder.read(number)
        if target is None:
            raise NothingToGoBackTo(
                f"no release of {self.folder.project} ran before what runs now; see `boltseal releases`"
            )
        was = self.folder.contents(target.number)
        new = self.folder.next_number()
        ready = {
            each.name: await self.images.again(each, hold_reason(self.folder.project, new)) for each in target.services
        }
        document = json.loads(was.compose)
        target = skip_completed_jobs(target, document)
        variables = {name: str(value) for name, value in json.loads(was.environment).items()}
        text = self.flow.text(document, {name: each.started_as for name, each in ready.items()}, variables)
        last = last_good(releases)
        unfinished = next((each for each in reversed(releases) if each.unfinished), None)
        release = Release(
            project=self.folder.project,
            number=new,
            kind=ReleaseKind.ROLLBACK,
            directory=target.directory,
            started_us=self.flow.now_us(),
            who=by.who,
            revision=target.revision,
            of=target.number,
            previous=None if last is None else last.number,
            services=tuple(_again(each, ready[each.name]) for each in target.services),
            removed=removed_services(releases, {each.name for each in target.services}),
        )
        names = tuple(each.name for each in target.services)
        if unfinished is None and not release.removed and await self.flow.unchanged(last, text, names):
            self.images.let_go([release])
            return DeployResult(target if last is None else last)
        if last is not None and last.directory != release.directory:
            self.flow.tell(
                f"{release.project} was deployed from {last.directory} until now; release {target.number}, which comes back, "
                f"was deployed from {release.directory}: paths in it are those there"
            )
        if unfinished is not None:
            self.folder.write(unfinished.ended(ReleaseEnd.ABANDONED, self.flow.now_us(), f"release {new} took over"))
        outcome = await self.flow.go(release, ReleaseContents(text, was.environment, was.files, was.lock))
        self._prune(outcome.release)
        return DeployResult(outcome.release, outcome, (), None if unfinished is None else unfinished.number)

    async def resume(self) -> DeployResult:
        """Go on with the release that was left unfinished. NothingUnfinished."""
        unfinished = next((each for each in reversed(self.folder.all()) if each.unfinished), None)
        if unfinished is None:
            raise NothingUnfinished(f"no release of {self.folder.project} was left unfinished; see `boltseal releases`")
        outcome = await self.flow.go_on(unfinished)
        self._prune(outcome.release)
        return DeployResult(outcome.release, outcome)

    async def _only_locked_or_built(
        self, read: ComposeReading, reasons: Mapping[str, str], last: Release | None
    ) -> None:
        """Refuse an image that is neither locked nor built for this deploy. LockMismatch.

        The image of the release that runs is accepted by its ID: it was when that release was deployed.
        """
        wrong = []
        for name, why in reasons.items():
            service, was = read.model.services[name], None if last is None else last.service(name)
            got = await self.images.host.image(service.image.by_tag)
            runs = None if was is None or was.digest else was.image_id
            if name in read.built or (got is not None and str(got.id) == runs):
                continue
            expected = "a locked digest"
            if last is not None and runs is not None:
                expected = f"the image of release {last.number}, {Digest.parse(runs).short}"
            found = "no image of this name" if got is None else got.id.short
            wrong.append(f"{name}: {service.image.familiar()}: {why} (got {found}, expected {expected})")
        if wrong:
            shown = "; ".join(quote(each, 400)[1:-1] for each in wrong[:20])
            raise LockMismatch(
                f"an image that is built here is not locked: {shown}. Nothing was started. Lock it with `boltseal lock` if a "
                "registry has it, or build it with `boltseal deploy --build`"
            )

    async def _ready(
        self, read: ComposeReading, lock: Lock | None, digests: Mapping[str, Digest], number: int
    ) -> dict[str, PreparedImage]:
        """Every image of the services, here and held; each is asked for once, however many services have it."""
        why = hold_reason(self.folder.project, number)
        known = {} if lock is None else lock.by_reference()
        found: dict[tuple[object, Digest | None], PreparedImage] = {}
        ready: dict[str, PreparedImage] = {}
        for name, service in sorted(read.model.services.items()):
            key = (service.image, digests.get(name))
            if key not in found:
                found[key] = await self._one(service, digests.get(name), known, why)
            ready[name] = found[key]
        return ready

    async def _one(
        self, service: ComposeService, digest: Digest | None, known: Mapping[Any, Any], why: str
    ) -> PreparedImage:
        if digest is None:
            built = await self.images.built(service.image, why)
            if built is None:
                raise ImageNotBuilt(
                    f"service {service.name} was built, and the engine has no image {service.image.familiar()}; "
                    "build it again with `boltseal deploy --build`"
                )
            return built
        locked = known.get(key_in(service.image, known))
        return await self.images.locked(service.image, digest, () if locked is None else locked.image_ids, why)

    def _release(
        self,
        read: ComposeReading,
        document: Mapping[str, Any],
        ready: Mapping[str, PreparedImage],
        last: Release | None,
        chosen: Sequence[str],
        by: DeployedBy,
        number: int,
    ) -> Release:
        new = {name: self._service(service, ready[name]) for name, service in read.model.services.items()}
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

    def _service(self, service: ComposeService, ready: PreparedImage) -> ReleasedService:
        return ReleasedService(
            name=service.name,
            image=service.image.familiar(),
            digest="" if ready.digest is None else str(ready.digest),
            image_id=str(ready.image.id),
            started_as=ready.started_as,
            containers=service.wanted,
            scrub=ready.scrub,
            volumes=service.volumes,
            environment={
                key: self.folder.hmac(f"{key}={value}")
                for key, value in sorted(service.environment.items())
                if value is not None
            },
            labels=labels_of(ready.image),
        )

    def _prune(self, release: Release) -> None:
        """Let go of what is too old, after a release that ran; of a failed one the images are held like its record."""
        if release.good:
            self.images.let_go(self.folder.prune(frozenset({release.number})))


def _again(service: ReleasedService, ready: PreparedImage) -> ReleasedService:
    if service.state is ServiceState.COMPLETED:
        return msgspec.structs.replace(service, started_as=ready.started_as, scrub="")
    return msgspec.structs.replace(
        service, started_as=ready.started_as, state=ServiceState.PLANNED, hold_reason="", scrub="", config_hash=""
    )
