"""Finds the releases of a project on a cluster: in a folder of this machine, and in Secrets of the cluster.

    ENGINES/<UID of the namespace>-<hash of the API server's address>/releases/PROJECT/

A namespace that was deleted and made again is another one: nothing of the former one's releases runs in it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boltseal.commands.client_context import ClientContext
from boltseal.commands.releases import ListedRelease, ReleaseDiff, ReleaseList, compared, marked, unfinished_notice
from boltseal.config import operator
from boltseal.deploy.kube.cluster_copy import ClusterCopy
from boltseal.deploy.release_copy import HeldLock, LockOwner, this_process
from boltseal.deploy.release_store import NoSuchRelease, ReleaseFolder
from boltseal.deploy.releases import CLUSTER_KEY, ReleaseInvalid
from boltseal.engines.cluster import Cluster, uid_of
from boltseal.engines.kubectl import check_name
from boltseal.errors import BoltsealError, NotFound, quote

MAX_PROJECT: Final = 40
_PROJECT: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_NAMESPACE: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class ClusterPlace:
    """Where a project runs: a context of kubectl, and a namespace, None for that of the context."""

    context: str
    namespace: str | None = None


@dataclass(frozen=True, slots=True)
class ClusterReleases:
    """The releases of a project in a namespace of a cluster."""

    cluster: Cluster
    namespace: str
    folder: ReleaseFolder
    copy: ClusterCopy


def kube_project_name(name: str | None, folder: Path) -> str:
    """Return the name of a project on a cluster: `name`, else from that of its folder. Raises: ReleaseInvalid."""
    found = (
        name if name is not None else re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-")[:MAX_PROJECT]
    )
    if len(found) > MAX_PROJECT or _PROJECT.fullmatch(found) is None:
        raise ReleaseInvalid(
            f"invalid project name for a cluster (got {quote(found)}, expected at most {MAX_PROJECT} lower-case letters, digits and "
            "-); name it by --project-name"
        )
    return found


def cluster_releases(
    client: ClientContext, place: ClusterPlace, project: str, reason: str = "deploy"
) -> ClusterReleases:
    """Return the releases of a project on a cluster. `reason`: the command.

    Raises: NotFound: there is no such namespace; KubectlFailed, LoggedOut, ClusterRefused, ContextInvalid.
    """
    check_name(place.context)
    cluster = Cluster(place.context)
    namespace = place.namespace or cluster.namespace()
    if _NAMESPACE.fullmatch(namespace) is None:
        raise ReleaseInvalid(f"{quote(namespace)} is not a namespace; expected lower-case letters, digits and -")
    found = cluster.read(f"/api/v1/namespaces/{namespace}")
    if found is None:
        raise NotFound(
            f"{place.context} has no namespace {namespace}, where the releases of {project} are; create it with "
            f"`kubectl --context {place.context} create namespace {namespace}`, or name another one by --namespace"
        )
    owner = LockOwner(operator(), reason, client.now_us(), this_process())
    copy = ClusterCopy(cluster, namespace, project, owner, client.notice)
    address = f"{CLUSTER_KEY}{place.context}/{namespace}"
    uid = uid_of(found)
    # With the server: releases contain what was deployed, which no other cluster gets because it states the same UID.
    server = hashlib.sha256(cluster.server().encode()).hexdigest()[:16]
    folder = ReleaseFolder(client.engines / f"{uid}-{server}", project, address=address, copy=copy)
    return ClusterReleases(cluster, namespace, folder, copy)


def read_releases(client: ClientContext, place: ClusterPlace, project: str) -> ReleaseFolder:
    """Return the releases of a project after copying those of the cluster here, to read them. Raises: as `cluster_releases`."""
    found = cluster_releases(client, place, project)
    found.copy.copy_to(found.folder)
    return found.folder


def list_cluster_releases(client: ClientContext, place: ClusterPlace, project: str) -> ReleaseList:
    """Return the releases of a project on a cluster, the newest last. Raises: as `cluster_releases`."""
    return ReleaseList(tuple(marked(read_releases(client, place, project).all())))


def show_cluster_release(client: ClientContext, place: ClusterPlace, project: str, number: int | None) -> ListedRelease:
    """Return one release on a cluster; None: the one that runs. Raises: NoSuchRelease; as `cluster_releases`."""
    listed = list_cluster_releases(client, place, project).releases
    found = next((each for each in listed if each.release.number == number or (number is None and each.current)), None)
    if found is None:
        which = "no release that runs" if number is None else f"no release {number}"
        raise NoSuchRelease(
            f"{project} has {which} in {place.context}; see `boltseal release ls --project-name {project} --kube {place.context}"
            + ("`" if place.namespace is None else f" --namespace {place.namespace}`")
        )
    return found


def diff_cluster_releases(
    client: ClientContext, place: ClusterPlace, project: str, before: int, after: int
) -> ReleaseDiff:
    """Compare two releases on a cluster. Raises: NoSuchRelease; as `cluster_releases`."""
    return compared(read_releases(client, place, project), before, after)


def unlock_cluster(client: ClientContext, place: ClusterPlace, project: str) -> HeldLock:
    """Remove the lock of a project on a cluster. Raises: NotFound: there is none; as `cluster_releases`."""
    found = cluster_releases(client, place, project)
    held = found.copy.held()
    if held is None:
        raise NotFound(f"{project} is not locked in {place.context}/{found.namespace}: no deploy is under way")
    found.copy.remove_lock(held)
    return held


@contextmanager
def saying_how_to_continue(client: ClientContext, folder: ReleaseFolder) -> Iterator[None]:
    """Say how to continue the release that a failure or an interruption leaves unfinished."""
    try:
        yield
    except (KeyboardInterrupt, BoltsealError):
        with suppress(BoltsealError):
            for each in folder.all():
                if each.unfinished:
                    client.notice(unfinished_notice(each, client))
        raise
