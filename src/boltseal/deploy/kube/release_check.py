"""Compare the pods of a cluster with the release that runs there: what they ask for, and what their nodes run. Pure.

The steps that decide for each container, in this order:

1. The release has no such container, as with those of other projects in the namespace: noted.
2. Its pod is being deleted, as after a rollout: noted.
3. The pod asks for another digest than the release has: differs. If a release that is not finished has that digest: could not check.
4. The node has reported no image yet: could not check, with the reason why the container waits.
5. The node reports the digest, or one of its platforms' manifests or image IDs in the release's lock: holds, unless it is the image
   for another platform.
6. The node reports only an image ID, and the release's lock has none: could not check.
7. The node reports another image: differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from boltseal.deploy.kube.manifest_objects import common_name
from boltseal.deploy.releases import Release, ReleasedService, ServiceState
from boltseal.host.containers.hosts import RunningContainer
from boltseal.host.containers.rows import ContainerRow, DeployedRelease
from boltseal.lockfile.compare import Weight
from boltseal.lockfile.container_check import ContainerStatus, LockedImages, RunningVerdict, judge, known_kinds
from boltseal.lockfile.document import Lock, LockedImage
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference

_ENDS: Final = ("job", "cronjob")
"""Kinds whose containers end, so that none of them runs most of the time."""


@dataclass(frozen=True, slots=True)
class ReleaseCheck:
    """The release that runs, to compare containers with. `namespace`: that of the release.

    `lock`: what it was deployed with, None without one. `unfinished`: a later release that has not ended.
    """

    release: Release
    namespace: str
    lock: Lock | None = None
    unfinished: Release | None = None

    @property
    def namespaces(self) -> tuple[str, ...]:
        """The namespaces of the release's containers, its own first."""
        others = {each.name.split("/")[0] for each in self.release.services if each.name.count("/") == 3}
        return (self.namespace, *sorted(others - {self.namespace}))

    def row(self, seen: RunningContainer) -> ContainerRow:
        """Compare one container."""
        service = _service(self.release, seen, self.namespace)
        locked = None if service is None else self._locked(service)
        verdict = self._judged(seen, service, locked)
        release = self.release
        return ContainerRow(
            seen=seen,
            name=seen.image.started_as if locked is None else locked.reference,
            digests=known_kinds(seen.image.digests, locked),
            verdict=verdict,
            deployed=None
            if verdict.weight is not Weight.HOLDS
            else DeployedRelease(release.number, release.who, release.started_us, release.of),
        )

    def missing(self, rows: Sequence[ContainerRow]) -> tuple[str, ...]:
        """Return the release's containers that no pod of `rows` has. Those of jobs end, and are left out."""
        found = {each.name for row in rows if (each := _service(self.release, row.seen, self.namespace)) is not None}
        return tuple(
            each.name
            for each in self.release.services
            if each.containers
            and each.state is not ServiceState.COMPLETED
            and each.name.split("/")[-3] not in _ENDS
            and each.name not in found
        )

    def _locked(self, service: ReleasedService) -> LockedImage:
        """Return the lock entry of a service's image, or one that has only its digest."""
        wanted = Digest.parse(service.digest)
        name = Reference.parse(service.image)
        known = (each for each in (() if self.lock is None else self.lock.images) if each.digest == wanted)
        found = next((each for each in known if each.reference.name == name.name), None)
        return LockedImage(replace(name, digest=wanted), wanted, 0) if found is None else found

    def _judged(
        self, seen: RunningContainer, service: ReleasedService | None, locked: LockedImage | None
    ) -> RunningVerdict:
        release = self.release
        # 1
        if service is None or locked is None:
            reason = f"release {release.number} of {release.project} has no such container"
            return RunningVerdict(ContainerStatus.NOT_IN_RELEASE, Weight.NOTE, reason)
        # 2
        if seen.deleted:
            return RunningVerdict(ContainerStatus.DELETED, Weight.NOTE, "its pod is being deleted", locked)
        # 3
        if seen.asked_digest != locked.digest:
            return self._other_asked(seen, locked)
        # 4
        if not seen.image.digests:
            reason = f"its node has reported no image yet: {seen.waiting or 'it has just started'}"
            return RunningVerdict(ContainerStatus.UNKNOWN, Weight.UNKNOWN, reason, locked)
        # 5, 6
        image = replace(seen.image, started_as=locked.reference)
        verdict = judge(image, LockedImages.of(Lock((locked,))))
        if verdict.weight is not Weight.DIFFERS or verdict.status is ContainerStatus.OTHER_PLATFORM:
            return verdict
        # 7
        runs = ", ".join(sorted(str(each) for each in seen.image.digests))
        reason = f"its node runs {runs}, and it was asked for {locked.digest}, as release {release.number} has it"
        return RunningVerdict(ContainerStatus.OTHER_IMAGE, Weight.DIFFERS, reason, locked)

    def _other_asked(self, seen: RunningContainer, locked: LockedImage) -> RunningVerdict:
        later = None if self.unfinished is None else _service(self.unfinished, seen, self.namespace)
        asked = seen.asked_digest
        if self.unfinished is not None and later is not None and later.digest == str(asked):
            reason = f"release {self.unfinished.number} has this image and is unfinished ({self.unfinished.step})"
            return RunningVerdict(ContainerStatus.UNKNOWN, Weight.UNKNOWN, reason, locked)
        reason = (
            f"its pod asks for {asked or 'no digest'}, and release {self.release.number} has {locked.digest}: it was changed after "
            "the release, or is not rolled out"
        )
        return RunningVerdict(ContainerStatus.NOT_AS_RELEASED, Weight.DIFFERS, reason, locked)


def _service(release: Release, seen: RunningContainer, home: str) -> ReleasedService | None:
    """Return the service of a release that a container belongs to; None for one that the release does not have."""
    found = (release.service(each) for each in _service_names(seen, home))
    return next((each for each in found if each is not None and each.digest), None)


def _service_names(seen: RunningContainer, home: str) -> Iterator[str]:
    """Yield the names that a release may have for a container. Jobs are named for a release, or for a run of a CronJob."""
    namespace, pod, container = seen.name.split("/")
    inside = "" if namespace == home else f"{namespace}/"
    workload = seen.service.rpartition("/")[0] or f"pod/{pod}"
    yield f"{inside}{workload}/{container}"
    kind, _, name = workload.partition("/")
    if kind == "job":
        yield f"{inside}job/{common_name('Job', name)}/{container}"
        yield f"{inside}cronjob/{name.rpartition('-')[0]}/{container}"
