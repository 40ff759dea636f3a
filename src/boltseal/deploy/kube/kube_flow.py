"""Runs the steps of a release on a cluster: of `deploy --kube`, `rollback` and `deploy --resume`.

Preconditions: the API server has accepted a dry run of all objects, and the caller is inside `ReleaseFolder.deploying`.

    1. Record the release, with what it creates and what it removes. Until here nothing is touched.
    2. Apply its objects by server-side apply: what others need first, then the rest.
    3. Wait until every workload is rolled out, and every job has completed.
    4. Remove objects that a former release created and this one does not have.
    5. If the API server refuses an object, or a workload fails, apply the former release's objects again, without its jobs, and
       remove what this release created.

The record names each step before the step touches the cluster, and each step can be repeated, so that an interrupted release is
resumed at its step. Where it is not known whether a request was carried out, the release stays unfinished.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from boltseal.deploy.kube.cluster_failures import failure_of, workload_name
from boltseal.deploy.kube.manifest_objects import in_two_stages, is_job, object_id_of
from boltseal.deploy.kube.rollout import WAITED_FOR, Rollout, RolloutState, rollout_of
from boltseal.deploy.release_flow import Failure, ReleaseOutcome
from boltseal.deploy.release_store import ReleaseFolder
from boltseal.deploy.releases import (
    ObjectState,
    Release,
    ReleaseContents,
    ReleasedObject,
    ReleaseEnd,
    ReleaseStep,
    ServiceState,
)
from boltseal.engines.cluster import Cluster, ClusterRefused, Json, ObjectId, uid_of
from boltseal.engines.kubectl import KubectlFailed
from boltseal.errors import BoltsealError

WAIT_S: Final = 120.0
STAGE_S: Final = 60.0
_PAUSE_S: Final = 1.0
HOLD_DATA: Final = ("Namespace", "CustomResourceDefinition", "PersistentVolumeClaim", "PersistentVolume")
"""Kinds that are never removed: their deletion deletes data, or objects of others."""
_CONTROLLERS: Final = ("kube-controller-manager", "cloud-controller-manager", "kube-scheduler", "kubelet")


def manager_of(project: str) -> str:
    """Return the field manager of a project's releases."""
    return f"boltseal-{project}"


def id_of_recorded(each: ReleasedObject) -> ObjectId:
    """Return the identity of a recorded object."""
    return ObjectId(each.api_version, each.kind, each.namespace, each.name)


def documents_of(contents: ReleaseContents) -> list[dict[str, Any]]:
    """Return the objects in a release's text."""
    items: list[dict[str, Any]] = json.loads(contents.compose)["items"]
    return items


@dataclass(frozen=True, slots=True)
class KubeFlow:
    """Runs releases of one project on one cluster.

    `namespace`: that of the release. `force`: take over fields that other managers have. `now_us`: the clock, microseconds
    since the epoch. `pause_s`: the time between two questions for the state of a rollout.
    """

    cluster: Cluster
    namespace: str
    folder: ReleaseFolder
    now_us: Callable[[], int]
    progress: Callable[[str], None]
    wait_s: float = WAIT_S
    force: bool = False
    pause_s: float = _PAUSE_S
    monotonic_s: Callable[[], float] = field(default=time.monotonic)

    @property
    def options(self) -> str:
        """The options that name the project and its cluster, for commands in messages."""
        return f"--project-name {self.folder.project} --kube {self.cluster.context} --namespace {self.namespace}"

    def run(self, release: Release, contents: ReleaseContents) -> ReleaseOutcome:
        """Run steps 1 to 5 of a new release. Raises: KubectlFailed, LoggedOut: it is left unfinished."""
        return self.resume(self.folder.begin(release, contents))

    def resume(self, release: Release) -> ReleaseOutcome:
        """Run the remaining steps of a recorded release. Raises: KubectlFailed, LoggedOut: it is left unfinished."""
        if release.step is ReleaseStep.RETURNING:
            return self._restore_previous(release, _recorded_failures(release))
        release = self.folder.write(release.at(ReleaseStep.STARTING))
        documents = self._to_apply(release)
        try:
            self._apply(documents, force=self.force)
        except ClusterRefused as error:
            release = self.folder.write(self._learned(release))
            return self._restore_previous(release, (Failure("", error.message),))
        release = self.folder.write(self._learned(release).at(ReleaseStep.WAITING, ServiceState.STARTED))
        failures = self._wait(documents, self.wait_s)
        if failures:
            return self._restore_previous(release, failures)
        release = self._removed(release.at(ReleaseStep.WAITING, ServiceState.HEALTHY))
        return ReleaseOutcome(self.folder.write(_jobs_done(release).ended(ReleaseEnd.HEALTHY, self.now_us())))

    def _to_apply(self, release: Release) -> list[dict[str, Any]]:
        """Return the objects of a release that are applied: on the way back without its jobs."""
        return [
            each
            for each in documents_of(self.folder.contents(release.number))
            if release.of is None or not is_job(each)
        ]

    def _apply(self, documents: Sequence[Json], *, force: bool) -> None:
        """Apply objects: what others need first. Raises: ClusterRefused, KubectlFailed, LoggedOut."""
        manager = manager_of(self.folder.project)
        first, rest = in_two_stages(documents)
        self.cluster.apply(first, manager, force=force)
        late = self._wait(first, min(self.wait_s, STAGE_S))
        if late:
            raise ClusterRefused(f"{late[0].service}: {late[0].reason}")
        self.cluster.kinds.clear()  # the first stage may have added kinds
        self.cluster.apply(rest, manager, force=force)

    def _wait(self, documents: Sequence[Json], within_s: float) -> tuple[Failure, ...]:
        """Wait until all workloads are rolled out; return those that are not. Raises: KubectlFailed: the cluster can't be asked."""
        wanted = [object_id_of(each) for each in documents if each["kind"] in WAITED_FOR]
        ends, unreached = self.monotonic_s() + within_s, 0
        live: Mapping[tuple[str, str, str, str], Json] = {}
        states: dict[ObjectId, Rollout] = {}
        while wanted:
            try:
                live, unreached = self.cluster.get(wanted), 0
            except KubectlFailed as error:  # it may answer again
                unreached += 1
                if self.monotonic_s() > ends:
                    raise
                self.progress(f"no answer, asking again: {error.message}")
            else:
                before, states = states, {each: rollout_of(live.get(each.key)) for each in wanted}
                for each, state in states.items():
                    if state.state is RolloutState.WAITING and before.get(each) != state:
                        self.progress(f"{each}: {state.reason}")
                if any(state.state is RolloutState.FAILED for state in states.values()):
                    break
                wanted_left = [each for each in wanted if states[each].state is RolloutState.WAITING]
                if not wanted_left or self.monotonic_s() > ends:
                    break
            time.sleep(self.pause_s)
        failed = {each: state for each, state in states.items() if state.state is RolloutState.FAILED}
        late = {each: state for each, state in states.items() if state.state is RolloutState.WAITING}
        after = "" if failed else f"; not rolled out after {within_s:g} s (--wait)"
        return tuple(
            failure_of(
                self.cluster,
                each,
                workload_name(each, self.namespace),
                live.get(each.key),
                Rollout(state.state, state.reason + after),
            )
            for each, state in (failed or late).items()
        )

    def _learned(self, release: Release) -> Release:
        """Return the release with the UIDs of its objects. One that another manager wrote as well was not created by it."""
        planned = [each for each in release.objects if each.state is ObjectState.PLANNED]
        live = self.cluster.get(id_of_recorded(each) for each in planned)
        found = []
        for each in release.objects:
            document = live.get(id_of_recorded(each).key) if each.state is ObjectState.PLANNED else None
            if document is not None:
                created = each.created and (each.uid == uid_of(document) or is_ours(document, self.folder.project))
                each = msgspec.structs.replace(each, uid=uid_of(document), created=created, state=ObjectState.APPLIED)
            found.append(each)
        return msgspec.structs.replace(release, objects=tuple(found))

    def _removed(self, release: Release) -> Release:
        """Remove what the release no longer has. What can't be removed now is tried again by the next release."""
        wanted = [each for each in release.objects if each.state is ObjectState.REMOVING]
        if not wanted:
            return release
        states = self._remove(wanted)
        return msgspec.structs.replace(
            release,
            objects=tuple(
                msgspec.structs.replace(each, state=states.get(id_of_recorded(each), each.state))
                for each in release.objects
            ),
        )

    def _remove(self, wanted: Sequence[ReleasedObject]) -> dict[ObjectId, ObjectState]:
        """Remove objects that a release created, and return their states. A failure is reported, and the object stays."""
        states: dict[ObjectId, ObjectState] = {}
        try:
            live = self.cluster.get(id_of_recorded(each) for each in wanted)
            uids = {key: uid_of(document) for key, document in live.items()}
        except BoltsealError as error:
            self.progress(f"not removed: {error.message}")
            return {}
        for each in reversed(wanted):
            object_id, document = id_of_recorded(each), live.get(id_of_recorded(each).key)
            if document is None or uids[object_id.key] != each.uid:
                states[object_id] = ObjectState.REMOVED
            elif each.kind in HOLD_DATA:
                self.progress(f"{object_id}: not removed, since data would be lost with it; remove it by kubectl")
                states[object_id] = ObjectState.LEFT
            elif others := other_appliers(document, self.folder.project):
                self.progress(f"{object_id}: not removed, since {', '.join(others)} applies it as well")
                states[object_id] = ObjectState.LEFT
            else:
                try:
                    self.cluster.delete(object_id, each.uid)
                    states[object_id] = ObjectState.REMOVED
                    self.progress(f"{object_id}: removed")
                except BoltsealError as error:
                    self.progress(f"{object_id}: not removed: {error.message}")
        return states

    def _restore_previous(self, release: Release, failures: Sequence[Failure]) -> ReleaseOutcome:
        """Do step 5 of a failed release, or record why it failed."""
        reason = "; ".join(f"{each.service}: {each.reason}" if each.service else each.reason for each in failures)
        release = msgspec.structs.replace(_failed(release, failures), reason=reason[:4000])
        previous = release.previous
        if previous is None:
            nothing = f"{reason}; there is no previous release to restore"
            return self._ended(release, ReleaseEnd.FAILED, failures, nothing)
        release = self.folder.write(release.at(ReleaseStep.RETURNING))
        self.progress(f"restoring release {previous}")
        before = self.folder.read(previous)
        documents = [each for each in documents_of(self.folder.contents(before.number)) if not is_job(each)]
        try:
            self._apply(documents, force=True)  # what others changed since then is what the way back undoes
            release = self._new_removed(release, before)
            late = self._wait(documents, max(self.wait_s, WAIT_S))
        except ClusterRefused as error:
            broken = f"{reason}; could not restore release {before.number}: {error.message}"
            return self._ended(release, ReleaseEnd.FAILED, failures, broken)
        if late:
            names = ", ".join(each.service for each in late)
            broken = f"{reason}; release {before.number} was restored, but its {names} is not rolled out"
            return self._ended(release, ReleaseEnd.FAILED, failures, broken)
        done = release.at(ReleaseStep.RETURNING, ServiceState.PUT_BACK)
        done = self.folder.write(done.ended(ReleaseEnd.PUT_BACK, self.now_us()))
        return ReleaseOutcome(done, tuple(failures), before.number)

    def _new_removed(self, release: Release, before: Release) -> Release:
        """Remove what a failed release created, and the former one does not have."""
        kept = {id_of_recorded(each).key for each in before.objects}
        release = self._learned(release)
        new = [each for each in release.objects if each.created and each.uid and id_of_recorded(each).key not in kept]
        new = [each for each in new if each.state is ObjectState.APPLIED]
        states = self._remove(new) if new else {}
        return msgspec.structs.replace(
            release,
            objects=tuple(
                msgspec.structs.replace(each, state=states.get(id_of_recorded(each), each.state))
                for each in release.objects
            ),
        )

    def _ended(self, release: Release, end: ReleaseEnd, failures: Sequence[Failure], reason: str) -> ReleaseOutcome:
        return ReleaseOutcome(self.folder.write(release.ended(end, self.now_us(), reason[:4000])), tuple(failures))


def is_ours(document: Json, project: str) -> bool:
    """Return whether only releases of a project wrote an object, besides the cluster's own controllers."""
    managers = [each for each in _managers(document) if not each.get("subresource")]
    names = {str(each.get("manager")) for each in managers} - set(_CONTROLLERS)
    return names == {manager_of(project)}


def other_appliers(document: Json, project: str) -> tuple[str, ...]:
    """Return the other managers that apply an object, such as Argo CD or another project."""
    names = {str(each.get("manager")) for each in _managers(document) if each.get("operation") == "Apply"}
    return tuple(sorted(names - {manager_of(project)}))


def _managers(document: Json) -> list[Json]:
    return [each for each in (document.get("metadata") or {}).get("managedFields") or () if isinstance(each, dict)]


def _failed(release: Release, failures: Sequence[Failure]) -> Release:
    """Return the release with the containers of failed workloads as failed."""
    reasons = {each.service: each.reason for each in failures}
    return release.with_services(
        msgspec.structs.replace(each, state=ServiceState.FAILED, reason=reasons[each.name.rpartition("/")[0]])
        for each in release.services
        if each.name.rpartition("/")[0] in reasons
    )


def _jobs_done(release: Release) -> Release:
    return release.with_services(
        msgspec.structs.replace(each, state=ServiceState.COMPLETED)
        for each in release.services
        if each.state is ServiceState.HEALTHY and each.name.rpartition("/")[0].rpartition("/")[0].endswith("job")
    )


def _recorded_failures(release: Release) -> tuple[Failure, ...]:
    """Return the failures that the record of an unfinished release has."""
    found = {
        each.name.rpartition("/")[0]: each.reason for each in release.services if each.state is ServiceState.FAILED
    }
    return tuple(Failure(name, reason) for name, reason in found.items()) or (Failure("", release.reason),)
