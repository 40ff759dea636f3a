"""Deploy a project's manifests to clusters as locked, resume an unfinished release, or roll back.

Several clusters are deployed to one after the other, or to several at once (`at_once`). After the first that fails no further one is begun; one that
is under way is finished, and one that is done stays as it is.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from boltseal.client.transport import Transport
from boltseal.commands.cluster_releases import ClusterPlace, ClusterReleases, cluster_releases, saying_how_to_continue
from boltseal.commands.deploy import DeployOptions, deployed_by, record_in_ledgers
from boltseal.commands.registry_access import ask
from boltseal.commands.text import clean
from boltseal.config import child_environment
from boltseal.deploy.kube.kube_deployer import KubeDeployer, KubeProject
from boltseal.deploy.kube.kube_flow import KubeFlow
from boltseal.deploy.kube.object_diff import ObjectChange
from boltseal.deploy.kube.pinned_manifests import pinned, read_manifests
from boltseal.deploy.release_flow import DeployResult
from boltseal.deploy.release_store import ReleaseFolder
from boltseal.deploy.releases import ReleaseKind
from boltseal.errors import BoltsealError
from boltseal.lockfile.document import LOCK_NAME, Lock
from boltseal.project.lock_file import read_lock_file
from boltseal.project.settings import project_settings


@dataclass(frozen=True, slots=True)
class KubeRequest:
    """What is done where. `project`: its name; `at_once`: to how many clusters at the same time."""

    options: DeployOptions
    places: tuple[ClusterPlace, ...]
    project: str
    at_once: int = 1


@dataclass(frozen=True, slots=True)
class ClusterResult:
    """The result of one cluster. `error`: why there is none; `begun`: whether anything was tried."""

    place: ClusterPlace
    done: DeployResult | None = None
    error: BoltsealError | None = None
    begun: bool = True

    @property
    def failed(self) -> bool:
        """Whether no further cluster is begun."""
        return self.done is None or (self.done.outcome is not None and not self.done.release.good)


def read_project(root: Path, named: Sequence[str], stdin: Callable[[], bytes]) -> KubeProject:
    """Return a project's objects with every image by digest.

    Raises: NotFound, ManifestInvalid, NotRendered, LockMismatch, LockInvalid, ProjectInvalid.
    """
    manifests = read_manifests(root, named, stdin, child_environment())
    lock = _lock(root)
    return KubeProject(pinned(manifests, lock, project_settings(root).crds), lock, manifests.files, str(root.resolve()))


def _lock(root: Path) -> Lock | None:
    """Return the lock of a folder, or of one above it."""
    for each in (root, *root.resolve().parents):
        if (each / LOCK_NAME).exists():
            return read_lock_file(each).lock
    return None


def deploy_to_clusters(request: KubeRequest, project: KubeProject, *, anyway: bool = False) -> list[ClusterResult]:
    """Deploy a project to clusters. Failures are in the results."""
    by = deployed_by(Path(project.directory), ReleaseKind.DEPLOY)
    return _each_cluster(request, "deploy", lambda deployer: deployer.deploy(project, by, anyway=anyway))


def roll_back_clusters(request: KubeRequest, number: int | None) -> list[ClusterResult]:
    """Deploy an older release again on clusters. `number`: default: the one that ran before."""
    by = deployed_by(Path.cwd(), ReleaseKind.ROLLBACK)
    return _each_cluster(request, "rollback", lambda deployer: deployer.rollback(number, by))


def resume_on_clusters(request: KubeRequest) -> list[ClusterResult]:
    """Continue the unfinished release of a project on clusters."""
    return _each_cluster(request, "deploy --resume", lambda deployer: deployer.resume())


def preview(request: KubeRequest, project: KubeProject, place: ClusterPlace) -> tuple[ObjectChange, ...]:
    """Return what a deploy to a cluster would change, by the API server's dry run. Raises: errors of the cluster."""
    found = cluster_releases(request.options.client, place, request.project)
    found.copy.copy_to(found.folder)
    return _deployer(request, found).preview(project)


def _each_cluster(
    request: KubeRequest, reason: str, call: Callable[[KubeDeployer], DeployResult]
) -> list[ClusterResult]:
    failed = threading.Event()

    def run(place: ClusterPlace) -> ClusterResult:
        if failed.is_set():
            return ClusterResult(place, begun=False)
        try:
            result = ClusterResult(place, _on_cluster(request, place, reason, call))
        except BoltsealError as error:
            result = ClusterResult(place, error=error)
        if result.failed:
            failed.set()
        return result

    if request.at_once == 1 or len(request.places) == 1:
        return [run(each) for each in request.places]
    with ThreadPoolExecutor(request.at_once) as pool:
        waiting = [pool.submit(contextvars.copy_context().run, run, each) for each in request.places]
        try:
            return [each.result() for each in waiting]
        except KeyboardInterrupt:
            failed.set()  # those that wait are not begun; those under way end at their own Ctrl-C, or finish
            raise


def _on_cluster(
    request: KubeRequest, place: ClusterPlace, reason: str, call: Callable[[KubeDeployer], DeployResult]
) -> DeployResult:
    """Make a release on one cluster while no other process does."""
    client = request.options.client
    found = cluster_releases(client, place, request.project, reason)
    with found.folder.deploying(), saying_how_to_continue(client, found.folder):
        done = call(_deployer(request, found))
        if done.outcome is not None and done.release.good and request.options.record:
            _record(request, found.folder, done)
    return done


def _deployer(request: KubeRequest, found: ClusterReleases) -> KubeDeployer:
    options, several = request.options, len(request.places) > 1
    begin = f"  {found.cluster.context}: " if several else "  "
    return KubeDeployer(
        KubeFlow(
            found.cluster,
            found.namespace,
            found.folder,
            options.client.now_us,
            lambda line: options.client.notice(clean(begin + line)),
            options.wait_s,
            force=options.take_over,
        )
    )


def _record(request: KubeRequest, folder: ReleaseFolder, done: DeployResult) -> None:
    async def run(transport: Transport) -> None:
        await record_in_ledgers(request.options, transport, folder, done.release)

    ask(request.options.registries, [], run)
