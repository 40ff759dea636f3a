"""A cluster's JSON, as several container runtimes write it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from boltseal.engines.kubernetes import ClusterMismatch, NodeImage, PodContainer, machines, node_image, pod_containers
from boltseal.oci.digest import Digest
from boltseal.oci.platform import Platform
from boltseal.oci.reference import Reference
from tests.fakes.cluster import recorded

INDEX, MANIFEST, CONFIG = (Digest.of(words) for words in (b"index", b"manifest amd64", b"config amd64"))
REPOSITORY = "registry.example.com/shop/app"


@pytest.mark.parametrize(
    ("name", "runtime", "digest", "pulled"),
    [
        ("containerd-index", "containerd", INDEX, f"{REPOSITORY}@{INDEX}"),
        ("containerd-loaded", "containerd", CONFIG, None),
        ("cri-o-manifest", "CRI-O", MANIFEST, f"{REPOSITORY}@{MANIFEST}"),
        ("cri-o-other-name", "CRI-O", INDEX, f"mirror.example.com/cache/app@{INDEX}"),
        ("cri-o-image-id", "CRI-O", CONFIG, None),
        ("docker-pulled", "Docker", INDEX, f"{REPOSITORY}@{INDEX}"),
        ("docker-local", "Docker", CONFIG, None),
    ],
)
def test_the_forms_of_all_runtimes_are_read(name: str, runtime: str, digest: Digest, pulled: str | None) -> None:
    """The forms of all runtimes are read; a container's written image name is that of `spec`, not of `status`."""
    (found,) = pod_containers(recorded(name))

    assert found.started_as == f"{REPOSITORY}:1.4.2"
    assert found.image == NodeImage(digest, None if pulled is None else Reference.parse(pulled))
    assert (found.runtime, found.namespace, found.node, found.restarts) == (runtime, "shop", "node-a", 2)
    assert (found.created_us, found.started_us) == (1_795_161_600_000_000, 1_795_251_600_000_000)


def test_all_running_containers_are_read() -> None:
    """Running init and ephemeral containers are read; ended and waiting ones are not."""
    found = pod_containers(recorded("several"))

    assert [(one.name, one.started_as) for one in found] == [
        ("web", f"{REPOSITORY}:1.4.2"),
        ("proxy", "registry.example.com/shop/proxy:3"),
        ("debugger-4xk2p", "busybox:1.36"),
    ]


def test_the_platform_of_each_node_is_read() -> None:
    """A node's platform is read as the node reports it."""
    assert machines(recorded("nodes")) == {"node-a": Platform("linux", "amd64"), "node-b": Platform("linux", "arm64")}


@pytest.mark.parametrize("text", ["", "docker://", "docker-pullable://"])
def test_a_waiting_container_has_no_image(text: str) -> None:
    """A waiting container's empty imageID is read as no image."""
    assert node_image(text) is None


@pytest.mark.parametrize("name", ["import-2026-11-26", "Not A Name", "\x1b[2J", ""])
def test_a_digest_with_a_malformed_name_has_no_name(name: str) -> None:
    """A digest with a malformed repository name is read without the name."""
    found = node_image(f"{name}@{INDEX}")

    assert found is not None
    assert found.digest == INDEX
    assert found.pulled is None or found.pulled.repository == "library/import-2026-11-26"


def changed(**changes: Any) -> bytes:
    """Return the first recording with a changed container status; `pod__` keys change the pod's metadata."""
    document = json.loads(recorded("containerd-index"))
    pod = document["items"][0]
    for key, value in changes.items():
        at = pod["metadata"] if key.startswith("pod__") else pod["status"]["containerStatuses"][0]
        at[key.removeprefix("pod__")] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"items": [{}]}',
        b"\xff",
        changed(imageID="sha256:short"),
        changed(imageID="app"),
        changed(imageID=7),
        changed(name="web\x1b[2J"),
        changed(restartCount="2"),
        changed(pod__name="../../etc"),
        changed(pod__namespace="shop\u202e"),
    ],
)
def test_an_impossible_answer_is_a_mismatch(raw: bytes) -> None:
    """An impossible answer is a one-line mismatch without any container."""
    with pytest.raises(ClusterMismatch, match=r"the cluster"):
        pod_containers(raw)


def test_a_container_without_id_or_time_is_read() -> None:
    """A container without ID or time is read with empty fields."""
    (found,) = pod_containers(changed(containerID=None, state={"running": {}}))

    assert isinstance(found, PodContainer)
    assert (found.id, found.runtime, found.started_us) == ("", "", None)
