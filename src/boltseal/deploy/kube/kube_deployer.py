"""Deploys and rolls back one project on one cluster.

    1. The manifests are read, and the lock gives the digest of each image (`pinned_manifests`).
    2. The API server says in a dry run what applying them would change, and refuses what it would refuse.
    3. If nothing would change and the same manifests run already, stop.
    4. Run the release: see `kube_flow`.

A rollback begins at step 2 from the record, without its jobs. What a former release created and the new one does not have is removed
at the end, if it is still the object that was created (by its UID) and no other manager applies it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from boltseal.deploy.deployer import DeployedBy
from boltseal.deploy.holds import Held, check_images, check_repeated, end_hint, holding
from boltseal.deploy.kube.cluster_failures import workload_name
from boltseal.deploy.kube.kube_flow import KubeFlow, documents_of, id_of_recorded, is_ours, manager_of
from boltseal.deploy.kube.manifest_objects import (
    containers,
    for_release,
    in_two_stages,
    is_job,
    object_id_of,
    with_namespaces,
)
from boltseal.deploy.kube.object_diff import ObjectChange, object_change
from boltseal.deploy.kube.pinned_manifests import PinnedImage, PinnedManifests
from boltseal.deploy.kube.rollout import RolloutState, rollout_of
from boltseal.deploy.release_choice import abandon, release_to_restore, release_to_resume, unfinished_release
from boltseal.deploy.release_flow import DeployResult
from boltseal.deploy.release_store import ReleaseFolder
from boltseal.deploy.releases import (
    ObjectState,
    Release,
    ReleaseContents,
    ReleasedObject,
    ReleasedService,
    ReleaseKind,
    ServiceState,
    last_good,
)
from boltseal.engines.cluster import Cluster, Json, ObjectId, id_of, uid_of
from boltseal.lockfile.document import Lock
from boltseal.lockfile.format import format_lock

Key = tuple[str, str, str, str]
_NEEDS: Final = "could not be checked: this release creates its kind or its namespace"


@dataclass(frozen=True, slots=True)
class KubeProject:
    """A project as it is deployed: its objects with every image by digest, the lock, the files that were read, its folder."""

    pinned: PinnedManifests
    lock: Lock | None
    files: Mapping[str, bytes]
    directory: str


@dataclass(frozen=True, slots=True)
class DryRun:
    """What the API server says that an apply would do. `live`: the objects as they are, by key."""

    changes: tuple[ObjectChange, ...]
    live: Mapping[Key, Json]

    @property
    def changed(self) -> bool:
        """Whether anything would change, or could not be checked."""
        return any(each.status != "unchanged" for each in self.changes)


@dataclass(frozen=True, slots=True)
class KubeDeployer:
    """Deploys one project. Callers are inside `folder.deploying`."""

    flow: KubeFlow

    @property
    def folder(self) -> ReleaseFolder:
        """The project's releases on this cluster."""
        return self.flow.folder

    @property
    def cluster(self) -> Cluster:
        """The cluster."""
        return self.flow.cluster

    def objects(self, project: KubeProject, number: int) -> list[dict[str, Any]]:
        """Return the project's objects as release `number` applies them. Raises: ManifestInvalid; errors of the cluster."""
        documents = project.pinned.documents
        versions = {(str(each.get("apiVersion")), each["kind"]) for each in documents}
        wide = [each for each in versions if self._is_cluster_wide(*each, documents)]
        return for_release(with_namespaces(documents, self.flow.namespace, wide), number)

    def _is_cluster_wide(self, version: str, kind: str, documents: Sequence[Json]) -> bool:
        served = self.cluster.served(version).get(kind)
        if served is not None:
            return not served.namespaced
        return any(_defines(each, version, kind) and each["spec"].get("scope") == "Cluster" for each in documents)

    def dry_run(self, documents: Sequence[Json], *, force: bool) -> DryRun:
        """Return what applying these objects would change. Raises: ClusterRefused: the API server would refuse one."""
        ids = {object_id_of(each).key: object_id_of(each) for each in documents}
        live = self.cluster.get(ids.values())
        unchecked = self._unchecked(documents, live)
        asked = [each for each in documents if object_id_of(each).key not in unchecked]
        applied = {
            id_of(each).key: each
            for stage in in_two_stages(asked)
            for each in self.cluster.apply(stage, manager_of(self.folder.project), force=force, dry_run=True)
        }
        changes = [
            ObjectChange(str(object_id), "not-checked", _NEEDS)
            if key in unchecked
            else object_change(str(object_id), live.get(key), applied.get(key, {}))
            for key, object_id in ids.items()
        ]
        return DryRun(tuple(changes), live)

    def _unchecked(self, documents: Sequence[Json], live: Mapping[Key, Json]) -> set[Key]:
        """Return the objects that the API server can't check before others of this release are there."""
        new = [each for each in documents if object_id_of(each).key not in live]
        namespaces = {str(each["metadata"]["name"]) for each in new if each["kind"] == "Namespace"}
        return {
            object_id_of(each).key
            for each in documents
            if each["metadata"].get("namespace") in namespaces
            or any(_defines(crd, str(each.get("apiVersion")), each["kind"]) for crd in new)
        }

    def preview(self, project: KubeProject) -> tuple[ObjectChange, ...]:
        """Return what a deploy would do, as the API server says, and what it would remove. Changes nothing."""
        documents = self.objects(project, self.folder.next_number())
        done = self.dry_run(documents, force=self.flow.force)
        removed = self._to_remove(self.folder.all(), {object_id_of(each).key for each in documents})
        gone = (ObjectChange(str(id_of_recorded(each)), "removed", "no manifest has it any more") for each in removed)
        return (*done.changes, *gone)

    def deploy(self, project: KubeProject, by: DeployedBy, *, anyway: bool = False) -> DeployResult:
        """Make the project run as its manifests and lock say.

        Raises: Held; ClusterRefused: nothing was applied; KubectlFailed, LoggedOut: as `KubeFlow.run`.
        """
        releases = self.folder.all()
        last = last_good(releases)
        number = self.folder.next_number()
        documents = self.objects(project, number)
        services = services_of(documents, project.pinned.images, self.flow.namespace)
        check_images(releases, {each.name: each.digest for each in services}, self.flow.options)
        if not anyway:
            self._check_held_text(releases, project)
        checked = self.dry_run(documents, force=self.flow.force)
        unfinished = unfinished_release(releases)
        recorded = self._recorded(releases, documents, checked.live)
        # Objects that the last release failed to remove need a new release. Former Jobs do not: each release has Jobs of its own.
        removes = any(each.state is ObjectState.REMOVING and each.kind != "Job" for each in recorded)
        if unfinished is None and last is not None and not removes and self._runs(last, project, checked):
            return DeployResult(last)
        release = Release(
            project=self.folder.project,
            number=number,
            kind=by.kind,
            directory=project.directory,
            started_us=self.flow.now_us(),
            who=by.who,
            revision=by.revision,
            previous=None if last is None else last.number,
            services=services,
            objects=recorded,
        )
        lock = None if project.lock is None else format_lock(project.lock).encode()
        contents = ReleaseContents(_text(documents), files=dict(project.files), lock=lock)
        return self._run(release, contents, unfinished)

    def rollback(self, number: int | None, by: DeployedBy) -> DeployResult:
        """Make the project run as an older release did: `number`, or the one before the running release. Its jobs are not run.

        Raises: NotFound, NoSuchRelease, Held; as `deploy`.
        """
        releases = self.folder.all()
        if number is None:
            check_repeated(releases, self.flow.options)
        target = release_to_restore(self.folder, releases, number, self.flow.options)
        recorded = self.folder.contents(target.number)
        documents = [each for each in documents_of(recorded) if not is_job(each)]
        checked = self.dry_run(documents, force=True)
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
            services=tuple(_returning(each, target.number) for each in target.services),
            objects=self._recorded(releases, documents, checked.live),
        )
        return self._run(
            release, ReleaseContents(_text(documents), files=recorded.files, lock=recorded.lock), unfinished, force=True
        )

    def resume(self) -> DeployResult:
        """Resume the unfinished release. Raises: NotFound: there is none; as `KubeFlow.resume`."""
        outcome = self.flow.resume(release_to_resume(self.folder, self.flow.options))
        self.folder.prune(frozenset())
        return DeployResult(outcome.release, outcome)

    def _run(
        self, release: Release, contents: ReleaseContents, unfinished: Release | None, *, force: bool = False
    ) -> DeployResult:
        abandon(self.folder, unfinished, self.flow.now_us(), release.number)
        flow = replace(self.flow, force=force or self.flow.force)
        outcome = flow.run(release, contents)
        self.folder.prune(frozenset())
        return DeployResult(outcome.release, outcome, (), None if unfinished is None else unfinished.number)

    def _check_held_text(self, releases: Sequence[Release], project: KubeProject) -> None:
        """Check that the manifests are not those that a rollback went back from. Raises: Held."""
        for rollback in holding(releases):
            undone = next((each for each in releases if each.number == rollback.previous), None)
            if undone is not None and self._same_text(undone, project):
                raise Held(
                    f"the manifests are those of release {undone.number}, held since release {rollback.number} went back from it. "
                    f"Nothing was applied; {end_hint(self.flow.options)}, or deploy them by `boltseal deploy --anyway {self.flow.options}`"
                )

    def _same_text(self, release: Release, project: KubeProject) -> bool:
        documents = self.objects(project, release.number)
        if release.of is not None:
            documents = [each for each in documents if not is_job(each)]
        return self.folder.contents(release.number).compose == _text(documents)

    def _runs(self, last: Release, project: KubeProject, checked: DryRun) -> bool:
        """Return whether the last release is what the project asks for, and is rolled out."""
        if not self._same_text(last, project):
            return False
        jobs = {str(object_id_of(each)) for each in self.objects(project, self.folder.next_number()) if is_job(each)}
        if any(each.status != "unchanged" and each.name not in jobs for each in checked.changes):
            return False
        return all(rollout_of(each).state is RolloutState.DONE for each in checked.live.values())

    def _recorded(
        self, releases: Sequence[Release], documents: Sequence[Json], live: Mapping[Key, Json]
    ) -> tuple[ReleasedObject, ...]:
        """Return the objects of a release for its record: what it applies, and what it removes at the end."""
        created = created_objects(releases)
        found = []
        for document in documents:
            object_id = object_id_of(document)
            uid = uid_of(live[object_id.key]) if object_id.key in live else ""
            former = created.get(object_id.key)
            if former is not None and not former.uid:
                uid = ""  # its creator was killed before it knew the UID: whether it is that one is looked at again
            found.append(_released(object_id, uid, created=not uid or (former is not None and former.uid == uid)))
        return (*found, *self._to_remove(releases, {object_id_of(each).key for each in documents}))

    def _to_remove(self, releases: Sequence[Release], keys: Iterable[Key]) -> tuple[ReleasedObject, ...]:
        """Return what former releases created, and is still there, and is not in `keys`."""
        kept = set(keys)
        known = {key: each for key, each in created_objects(releases).items() if key not in kept}
        live = self.cluster.get(id_of_recorded(each) for each in known.values())
        return tuple(
            msgspec.structs.replace(each, uid=uid_of(live[key]), state=ObjectState.REMOVING)
            for key, each in known.items()
            if key in live
            and (each.uid == uid_of(live[key]) or (not each.uid and is_ours(live[key], self.folder.project)))
        )


def created_objects(releases: Iterable[Release]) -> dict[Key, ReleasedObject]:
    """Return the objects that releases created, each as the newest release has it, without those that were removed."""
    found: dict[Key, ReleasedObject] = {}
    for release in releases:
        for each in release.objects:
            key = id_of_recorded(each).key
            if each.created and each.state not in (ObjectState.REMOVED, ObjectState.LEFT):
                found[key] = each
            else:
                found.pop(key, None)
    return found


def services_of(documents: Iterable[Json], images: Mapping[str, PinnedImage], home: str) -> tuple[ReleasedService, ...]:
    """Return the containers of all workloads as services of a release: deployment/web/app."""
    return tuple(
        ReleasedService(
            name=f"{workload_name(object_id_of(document), home)}/{name}",
            image=images[image].written,
            digest=str(images[image].digest),
            image_id=str(images[image].digest),
            started_as=image,
            containers=replicas if isinstance(replicas := (document.get("spec") or {}).get("replicas", 1), int) else 1,
        )
        for document in documents
        for name, image in containers(document)
        if image in images
    )


def _released(object_id: ObjectId, uid: str, *, created: bool) -> ReleasedObject:
    return ReleasedObject(
        api_version=object_id.api_version,
        kind=object_id.kind,
        namespace=object_id.namespace,
        name=object_id.name,
        uid=uid,
        created=created,
    )


def _returning(service: ReleasedService, number: int) -> ReleasedService:
    """Return a service of a release to which a rollback goes back; a job is not run again."""
    job = service.name.split("/")[-3] == "job"
    if job:
        return msgspec.structs.replace(
            service, state=ServiceState.COMPLETED, reason=f"not run again: it is of release {number}"
        )
    return msgspec.structs.replace(service, state=ServiceState.PLANNED, reason="")


def _defines(crd: Json, version: str, kind: str) -> bool:
    """Return whether an object is the CustomResourceDefinition of a kind."""
    spec = crd.get("spec") if crd.get("kind") == "CustomResourceDefinition" else None
    if not isinstance(spec, dict) or not isinstance(spec.get("names"), dict):
        return False
    return spec["names"].get("kind") == kind and version.rpartition("/")[0] == spec.get("group")


def _text(documents: Sequence[Json]) -> bytes:
    """Return the text of a release: a list of its objects, in their order."""
    return (
        json.dumps({"apiVersion": "v1", "kind": "List", "items": list(documents)}, indent=1, sort_keys=True).encode()
        + b"\n"
    )
