"""A project on a cluster for the state machine of releases: real kubectl, the scripted API server, and kills between any two requests."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from boltseal.commands.deploy_kube import read_project
from boltseal.deploy.deployer import DeployedBy
from boltseal.deploy.kube.cluster_copy import ClusterCopy
from boltseal.deploy.kube.kube_deployer import KubeDeployer
from boltseal.deploy.kube.kube_flow import KubeFlow
from boltseal.deploy.release_copy import LockOwner, this_process
from boltseal.deploy.release_flow import DeployResult
from boltseal.deploy.release_store import ReleaseFolder
from boltseal.deploy.releases import Release
from boltseal.engines import kubectl
from boltseal.engines.cluster import Cluster, ClusterRefused
from tests.deploy.killable_project import Faults, Killed
from tests.kube.https_listener import Fault
from tests.kube.shop import KubeShop, deployment, digest_of, kube_shop, service

Runs = dict[str, tuple[str, ...]]
DB, WEB, JOB, PORTS = "deployment/db/app", "deployment/web/app", "job/migrate/run", "service/api"


@dataclass(frozen=True, slots=True)
class KillableCluster(Cluster):
    """A cluster of which each request is a step before it is sent, and another one after its answer."""

    faults: Faults | None = None

    def _run(self, words: Sequence[str], sent: bytes | None = None) -> kubectl.Finished:
        if self.faults is None or sent is None:
            return super(KillableCluster, self)._run(words, sent)
        self.faults.step()
        done = super(KillableCluster, self)._run(words, sent)
        self.faults.step()
        return done


class ClusterDriver:
    """A project of a job, a Deployment, a database and sometimes a Service. `by_hand`: whether a person changed what runs."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.root = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.shop: KubeShop = self.stack.enter_context(kube_shop(self.root))
        patch = self.stack.enter_context(pytest.MonkeyPatch.context())
        for name in ("KUBECONFIG", "HOME"):
            patch.setenv(name, self.shop.environment[name])
        self.faults = Faults()
        self.cluster = KillableCluster("prod", faults=self.faults)
        self.state = "ann"
        self.number = 0
        self.now_us = 1_764_000_000_000_000
        self.by_hand = False
        self.ran: dict[int, Runs] = {}

    def close(self) -> None:
        """End the server; it must have had no defect."""
        self.stack.close()
        assert self.shop.api.defects == []

    def version(self, *, good: bool, job: bool, ports: bool, scale: int) -> Runs:
        """Write another version into the manifests; return what runs if it is deployed."""
        self.number += 1
        web, task = (f"{name}{self.number}" for name in ("web", "job"))
        self.shop.api.controllers.ill |= {f":{name}@" for name, well in ((web, good), (task, job)) if not well}
        others = [deployment("db", "registry.example.com/shop/web:db", 1), *([service("api")] if ports else [])]
        self.shop.write(web, *others, replicas=scale, job=task)
        self.shop.lock(web, task, "db")
        return {DB: (_id("db"),), WEB: (_id(web),) * scale} | ({PORTS: ("",)} if ports else {})

    @property
    def releases(self) -> ReleaseFolder:
        """The releases on this machine, with their copy on the cluster."""
        owner = LockOwner(f"{self.state}@host", "deploy", self._clock(), this_process())
        copy = ClusterCopy(self.cluster, "shop", "shop", owner, lambda _: None)
        return ReleaseFolder(self.root / self.state, "shop", self.faults, address="kube:prod/shop", copy=copy)

    def _clock(self) -> int:
        self.now_us += 1
        return self.now_us

    def _command(self, call: Callable[[KubeDeployer], DeployResult], *, force: bool = False) -> DeployResult:
        folder = self.releases
        flow = KubeFlow(self.cluster, "shop", folder, self._clock, lambda _: None, 0.0, force=force, pause_s=0.0)
        try:
            with folder.deploying():
                done = call(KubeDeployer(flow))
        except Killed:  # this process lives on, so its lock would not count as stale
            for key in [each for each in self.shop.api.objects if each[3] == "boltseal.shop.lock"]:
                self.shop.api.remove(key)
            raise
        if done.release.good:
            self.ran[done.release.number] = self.running()
        self.by_hand = self.by_hand and done.outcome is None
        return done

    def deploy(self) -> DeployResult:
        """Deploy; what a person changed is refused, and changes nothing, until it is taken over."""
        project = read_project(self.shop.folder, ["app.yaml"], bytes)
        before = self.running()
        try:
            return self._command(lambda deployer: deployer.deploy(project, DeployedBy("ann")))
        except ClusterRefused:
            assert self.by_hand
            assert self.running() == before
            return self._command(lambda deployer: deployer.deploy(project, DeployedBy("ann")), force=True)

    def rollback(self) -> DeployResult:
        """Roll back to the release before."""
        return self._command(lambda deployer: deployer.rollback(None, DeployedBy("ann")))

    def resume(self) -> DeployResult:
        """Continue the unfinished release."""
        return self._command(lambda deployer: deployer.resume())

    def running(self) -> Runs:
        """Return what the cluster has: the image of each replica, and whether there is a Service."""
        found: Runs = {PORTS: ("",)} if "api" in self.shop.api.names("Service") else {}
        for name in self.shop.api.names("Deployment"):
            spec = (self.shop.api.get("Deployment", name) or {})["spec"]
            image = spec["template"]["spec"]["containers"][0]["image"].rpartition("@")[2]
            found[f"deployment/{name}/app"] = (image,) * spec["replicas"]
        return found

    def services(self, release: Release) -> dict[str, str]:
        """Return the image of each container of a release that keeps running."""
        return {each.name: each.image_id for each in release.services if each.name != JOB}

    def jobs(self) -> int:
        """Return how many jobs ran."""
        return len(self.shop.api.controllers.jobs)

    def change_by_hand(self) -> Runs:
        """Set another image, as `kubectl set image` does."""
        self.number += 1
        live = self.shop.api.get("Deployment", "web")
        assert live is not None
        container = live["spec"]["template"]["spec"]["containers"][0]
        container["image"] = f"registry.example.com/shop/web:hand@{_id(f'hand{self.number}')}"
        path = "/apis/apps/v1/namespaces/shop/deployments/web?fieldManager=kubectl-set"
        self.cluster.replace(path, live)
        self.by_hand = True
        return self.running()

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        """The API server closes each connection."""
        self.shop.api.faults.append(Fault(""))
        yield
        self.shop.api.faults.clear()

    def containers(self) -> set[str]:
        """Return nothing: controllers replace pods as they like."""
        return set()

    def check_failed_job(self, before: set[str]) -> None:
        """Check nothing more: objects are applied together, and the model says what is restored."""

    def restored(self, release: Release, ran: Runs, *, itself: bool = False) -> Runs:
        """Return what the release before a failed one ran: what a person changed since is undone."""
        number = release.number if itself else release.previous
        return ran if number is None else self.ran[number]


def _id(version: str) -> str:
    return str(digest_of(version))
