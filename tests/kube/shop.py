"""A project with manifests, its lock, and clusters: what the tests of releases on Kubernetes work on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from boltseal.lockfile.document import Lock, LockedImage
from boltseal.lockfile.format import format_lock
from boltseal.oci.digest import Digest
from boltseal.oci.mediatype import OCI_INDEX
from boltseal.oci.reference import Reference
from tests.authority import authority
from tests.cli import program
from tests.kube.api_server import ApiServer, kubeconfig

SEEN_US = 1_764_000_000_000_000
MANAGER = "boltseal-shop"


def digest_of(version: str) -> Digest:
    """Return the digest of a version of any image of the shop."""
    return Digest.of(version.encode())


@dataclass
class KubeShop:
    """`folder`: of the project. `clusters`: by context."""

    folder: Path
    clusters: dict[str, ApiServer]
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def api(self) -> ApiServer:
        """The first cluster."""
        return next(iter(self.clusters.values()))

    def write(self, version: str, *others: dict[str, Any], replicas: int = 2, job: str = "") -> None:
        """Write the manifests and the lock of a version. `job`: the version of a job's image."""
        documents = [deployment("web", f"registry.example.com/shop/web:{version}", replicas), service("web"), *others]
        locked = [version]
        if job:
            documents.insert(0, a_job("migrate", f"registry.example.com/shop/web:{job}"))
            locked.append(job)
        text = "---\n".join(json.dumps(each, indent=1) + "\n" for each in documents)
        (self.folder / "app.yaml").write_text(text)
        self.lock(*locked)

    def lock(self, *versions: str) -> None:
        """Lock these versions."""
        images = tuple(
            LockedImage(Reference.parse(f"registry.example.com/shop/web:{each}"), digest_of(each), SEEN_US, OCI_INDEX)
            for each in dict.fromkeys(versions)
        )
        (self.folder / "boltseal.lock").write_text(format_lock(Lock(images)))

    def run(self, *arguments: str, typed: str = "") -> program.Run:
        """Run a command in the project's folder."""
        return program.call(*arguments, environment=self.environment, cwd=self.folder, typed=typed)

    def deploy(self, *arguments: str, wait: str = "60s") -> program.Run:
        """Deploy the manifests to the first cluster, or to those of `arguments`."""
        where = () if "--kube" in arguments else ("--kube", next(iter(self.clusters)))
        return self.run("deploy", "-f", "app.yaml", "--wait", wait, *where, *arguments)

    def running(self, api: ApiServer | None = None) -> str:
        """Return the version that the Deployment has, "" for none."""
        found = (api or self.api).get("Deployment", "web")
        return "" if found is None else version_in(found["spec"]["template"]["spec"]["containers"][0]["image"])

    def releases(self, context: str = "") -> list[dict[str, Any]]:
        """Return what `release ls` lists."""
        context = context or next(iter(self.clusters))
        results: list[dict[str, Any]] = self.run("release", "ls", "--kube", context, "-p", "shop", "--json").json[
            "results"
        ]
        return results


def version_in(image: str) -> str:
    """Return the tag of an image, after a check that its digest is that of the version."""
    named, _, digest = image.partition("@")
    version = named.rpartition(":")[2]
    assert digest == str(digest_of(version)), image
    return version


@contextmanager
def kube_shop(folder: Path, *contexts: str) -> Iterator[KubeShop]:
    """Yield a project and clusters with these contexts; default: prod."""
    project, state, tls = folder / "shop", folder / "state", folder / "tls"
    for each in (project, state, tls):
        each.mkdir()
    authority(tls)
    with ExitStack() as stack:
        clusters = {name: ApiServer() for name in contexts or ("prod",)}
        for name, api in clusters.items():
            stack.enter_context(api.listening(tls, name))
        config = folder / "kubeconfig"
        config.write_text(kubeconfig({name: api.port for name, api in clusters.items()}, tls / "ca.crt", "valid"))
        environment = {
            "KUBECONFIG": str(config),
            "HOME": str(folder),
            "BOLTSEAL_STATE": str(state),
            "BOLTSEAL_ENGINES": str(state / "engines"),
        }
        yield KubeShop(project, clusters, environment)


def _metadata(name: str) -> dict[str, Any]:
    return {"name": name, "labels": {"app": name}}


def deployment(name: str, image: str, replicas: int = 2) -> dict[str, Any]:
    """Return the manifest of a Deployment."""
    template = {
        "metadata": {"labels": {"app": name}},
        "spec": {"containers": [{"name": "app", "image": image, "ports": [{"containerPort": 8080}]}]},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(name),
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template},
    }


def service(name: str) -> dict[str, Any]:
    """Return the manifest of a Service."""
    spec = {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": _metadata(name), "spec": spec}


def a_job(name: str, image: str) -> dict[str, Any]:
    """Return the manifest of a Job."""
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "run", "image": image}]}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"template": template}}


def config_map(name: str, **data: str) -> dict[str, Any]:
    """Return the manifest of a ConfigMap."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}
