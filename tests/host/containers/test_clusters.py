"""Running containers of a cluster, listed by the real kubectl from an API with recorded answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from boltseal.engines import kubectl
from boltseal.engines.kubernetes import ClusterMismatch
from boltseal.errors import ExitCode, exit_code
from boltseal.host.containers.clusters import list_running
from boltseal.host.containers.hosts import ContainerHost
from boltseal.lockfile.compare import Weight
from boltseal.lockfile.container_check import ContainerStatus, DigestKind, LockedImages, Origin, judge
from boltseal.lockfile.document import LockedImage, LockedPlatform
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from tests.fakes.cluster import FakeCluster
from tests.images import OCI_INDEX
from tests.lockfile.locks import NOW_US, lock_of

pytestmark = pytest.mark.real

CONTEXT = "prod (eu)"
INDEX, MANIFEST, CONFIG = (Digest.of(words) for words in (b"index", b"manifest amd64", b"config amd64"))
NAME = Reference.parse("registry.example.com/shop/app:1.4.2")
ARM = LockedPlatform("linux/arm64", Digest.of(b"manifest arm64"), Digest.of(b"config arm64"))
LOCKED = LockedImage(NAME, INDEX, NOW_US, OCI_INDEX, (LockedPlatform("linux/amd64", MANIFEST, CONFIG), ARM))
EVERY = (
    *("containerd-index", "containerd-loaded", "cri-o-manifest", "cri-o-other-name", "cri-o-image-id"),
    *("docker-pulled", "docker-local"),
)


@asynccontextmanager
async def listening(cluster: FakeCluster, folder: Path, patch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    async with cluster.listening(folder, CONTEXT) as config:
        patch.setenv("KUBECONFIG", str(config))
        patch.setenv("HOME", str(folder))
        yield


async def looked(
    cluster: FakeCluster, folder: Path, patch: pytest.MonkeyPatch, namespace: str | None = None
) -> ContainerHost:
    async with listening(cluster, folder, patch):
        return await list_running(CONTEXT, namespace)


@pytest.mark.parametrize("name", EVERY)
async def test_one_lock_matches_on_every_runtime(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock matches on every runtime: by index, platform manifest or image ID, whichever it reports."""
    (seen,) = (await looked(FakeCluster.of(name), tmp_path, monkeypatch)).seen
    verdict = judge(seen.image, LockedImages.of(lock_of(LOCKED)))

    assert (verdict.status, verdict.weight) == (ContainerStatus.HOLDS, Weight.HOLDS)
    assert seen.image.started_as == NAME
    assert (seen.image.machine, seen.node) == ("linux/amd64", "node-a")


@pytest.mark.parametrize("name", EVERY)
async def test_another_image_differs_on_every_runtime(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pod newer than the lock with another image was created from the node's image, and differs on every runtime."""
    other = LockedImage(NAME, Digest.of(b"other"), NOW_US - 10**13, OCI_INDEX, (ARM,))
    (seen,) = (await looked(FakeCluster.of(name), tmp_path, monkeypatch)).seen
    verdict = judge(seen.image, LockedImages.of(lock_of(other)))

    assert verdict.weight is Weight.DIFFERS
    assert verdict.status is ContainerStatus.RECREATED_WITHOUT_PULL


async def test_pods_and_nodes_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pods and nodes are listed by two requests."""
    cluster = FakeCluster.of("several", "containerd-index")
    found = await looked(cluster, tmp_path, monkeypatch)

    assert sorted(cluster.asked) == ["/api/v1/nodes", "/api/v1/pods"]
    assert [each.name.split("/")[0::2] for each in found.seen] == [
        ["shop", each] for each in ("debugger-4xk2p", "proxy", "web", "web")
    ]
    assert {each.node: each.image.machine for each in found.seen} == {"node-a": "linux/amd64", "node-b": "linux/arm64"}


async def test_one_namespace_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One namespace is listed if given, since others may be forbidden."""
    cluster = FakeCluster.of("docker-local")
    (found,) = (await looked(cluster, tmp_path, monkeypatch, "shop")).seen

    assert "/api/v1/namespaces/shop/pods" in cluster.asked
    assert found.image.digests == {CONFIG: DigestKind.IMAGE_ID}
    assert found.image.origin is Origin.UNSPECIFIED


async def test_without_access_to_nodes_only_the_platform_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without access to nodes, containers are listed with an unknown platform."""
    cluster = FakeCluster.of("containerd-index")
    cluster.nodes_forbidden = True
    (found,) = (await looked(cluster, tmp_path, monkeypatch)).seen

    assert (found.image.machine, found.image.digests) == ("", {INDEX: DigestKind.UNSPECIFIED})


async def test_an_unknown_context_could_not_be_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown kubectl context is "could not check" with kubectl's message."""
    async with listening(FakeCluster(), tmp_path, monkeypatch):
        with pytest.raises(kubectl.KubectlFailed, match="nowhere") as error:
            await list_running("nowhere")

    assert exit_code(error.value) is ExitCode.UNKNOWN


@pytest.mark.parametrize("context", ["", "a\nb", "x\x1b"])
async def test_an_invalid_context_is_a_usage_error(context: str) -> None:
    """An invalid context is refused before kubectl runs."""
    with pytest.raises(kubectl.ContextInvalid):
        await kubectl.get(context, "pods")


async def test_a_context_that_looks_like_an_option_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A context that looks like an option is passed as a value."""
    async with listening(FakeCluster(), tmp_path, monkeypatch):
        with pytest.raises(kubectl.KubectlFailed, match="--kubeconfig=/etc/passwd"):
            await list_running("--kubeconfig=/etc/passwd")


async def test_a_missing_kubectl_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing kubectl is reported with the program to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(kubectl.KubectlFailed, match="kubectl can't be started"):
        await list_running("prod")


async def _of_script(folder: Path, patch: pytest.MonkeyPatch, script: str, **bounds: Any) -> bytes:
    at = folder / "kubectl"
    at.write_text(f"#!/bin/sh\n{script}\n")
    at.chmod(0o755)
    patch.setenv("PATH", str(folder), prepend=":")
    return await kubectl.get("prod", "pods", **bounds)


async def test_an_endless_answer_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endless answer ends the kubectl process."""
    with pytest.raises(kubectl.KubectlFailed, match="output is longer than"):
        await _of_script(tmp_path, monkeypatch, f"echo $$ > {tmp_path}/pid; exec yes", max_bytes=1_000_000)

    assert _ended(tmp_path / "pid")


def _ended(pid: Path) -> bool:
    return not Path(f"/proc/{pid.read_text().strip()}").exists()


async def test_a_missing_answer_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that does not answer ends in a time-out."""
    with pytest.raises(kubectl.KubectlFailed, match="got no answer from prod"):
        await _of_script(tmp_path, monkeypatch, "exec sleep 1000", within_s=0.2)


async def test_a_malformed_answer_could_not_be_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A malformed answer is an error, never an empty list."""
    cluster = FakeCluster.of("containerd-index")
    cluster.pods[0]["status"]["containerStatuses"][0]["imageID"] = "sha256:\x1b[2J"
    with pytest.raises(ClusterMismatch, match=r"\\x1b\[2J|expected a digest"):
        await looked(cluster, tmp_path, monkeypatch)
