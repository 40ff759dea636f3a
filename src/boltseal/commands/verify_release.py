"""`boltseal verify --running --kube --project-name`: check that the pods of a cluster run the release that is recorded there."""

from __future__ import annotations

from dataclasses import replace

from boltseal.commands.client_context import ClientContext
from boltseal.commands.cluster_releases import ClusterPlace, ClusterReleases, cluster_releases, kube_project_name
from boltseal.commands.ps import FoundContainers, find_pods
from boltseal.commands.verify_running import VerifyRunningReport, VerifyRunningRequest, outcome_of, weight_of
from boltseal.deploy.kube.release_check import ReleaseCheck
from boltseal.deploy.release_choice import unfinished_release
from boltseal.deploy.releases import last_good
from boltseal.errors import BoltsealError, Invalid, Unavailable
from boltseal.host.containers.registries import NOT_ASKED
from boltseal.lockfile.parse import parse_lock
from boltseal.project.settings import project_settings


def verify_release(request: VerifyRunningRequest, client: ClientContext) -> VerifyRunningReport:
    """Compare the pods of a cluster with the running release of a project. Asks no registry.

    What could not be read, the release included, is in the report. Raises: Invalid: an option or setting.
    """
    if request.filter.kube is None:
        raise Invalid("--project-name needs --kube")
    project = kube_project_name(request.released, request.project)
    strict = request.strict or project_settings(request.project).strict
    place = ClusterPlace(request.filter.kube, request.filter.namespace)
    where = place.context if place.namespace is None else f"{place.context}/{place.namespace}"
    try:
        found = cluster_releases(client, place, project)
        check, unread = _running_release(found)
    except Invalid:
        raise
    except BoltsealError as error:
        failed = ((where, Unavailable(f"could not check the release of {project}: {error.message}")),)
        return VerifyRunningReport(outcome_of((), unknown=True), FoundContainers((), failed), (), (), NOT_ASKED, 0)
    pods = find_pods(place.context, check.namespaces)
    rows = tuple(check.row(each) for each in pods.containers)
    missing = () if pods.failed else check.missing(rows)
    weights = tuple(weight_of(row, strict=strict) for row in rows)
    weight = "differs" if strict else "note"
    return VerifyRunningReport(
        outcome=outcome_of((*weights, *(weight for _ in missing)), unknown=bool(pods.failed or unread)),
        found=replace(pods, failed=(*pods.failed, *unread), missing=missing),
        rows=rows,
        weights=weights,
        answers=NOT_ASKED,
        compared=sum(row.verdict is not None and row.verdict.locked is not None for row in rows),
        expected=f"release {check.release.number} of {project}",
        missing_weight=weight,
    )


def _running_release(found: ClusterReleases) -> tuple[ReleaseCheck, tuple[tuple[str, BoltsealError], ...]]:
    """Return the release that runs, and why its lock could not be read. Raises: Unavailable: there is none; errors of the cluster."""
    found.copy.copy_to(found.folder)
    releases = found.folder.all()
    release = last_good(releases)
    where = f"{found.cluster.context}/{found.namespace}"
    unfinished = unfinished_release(releases)
    if release is None:
        why = f"release {unfinished.number} is unfinished ({unfinished.step})" if unfinished else "its record is gone"
        raise Unavailable(
            f"{where} has no release of {found.folder.project} that runs: {why}, or it was never deployed there"
        )
    try:
        raw = found.folder.contents(release.number).lock
        lock = None if raw is None else parse_lock(raw)
    except BoltsealError as error:
        unread = Unavailable(f"could not read the lock of release {release.number}: {error.message}")
        return ReleaseCheck(release, found.namespace, None, unfinished), ((where, unread),)
    return ReleaseCheck(release, found.namespace, lock, unfinished), ()
