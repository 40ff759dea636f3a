"""The push proxy with real clients, before Debian's docker-registry (CNCF distribution 2.8)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import httpx2
import pytest

from tests import servers
from tests.real.registry import Registry, short
from tests.real.tools import Docker, Skopeo, Tool, run
from tests.servers import Server

NAME = "hub.example"
TOTALS_S = 1.5  # longer than workers take to save their metrics, which are compared for equality
"""How long it takes at most until one worker's sums are among the others'."""

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Another operator's registry, in which every tag may be overwritten."""
    with servers.docker_registry(tmp_path_factory.mktemp("upstream")) as server:
        yield Registry(server)


@pytest.fixture(scope="module")
def gate_server(tmp_path_factory: pytest.TempPathFactory, upstream: Registry) -> Iterator[Server]:
    config = f'[[upstream]]\nname = "{NAME}"\nurl = "http://{upstream.host}"\npush = true\n'
    with servers.boltseal(tmp_path_factory.mktemp("gate") / "data", config=config, workers=2) as server:
        yield server


@pytest.fixture
def gate(gate_server: Server) -> Registry:
    """A boltseal push proxy before it, with two workers."""
    return Registry(gate_server)


@pytest.mark.parametrize("tool", ["docker", "docker_containerd", "podman", "skopeo", "oras"], indirect=True)
def test_a_tool_pushes_through_the_proxy(tool: Tool, gate: Registry, upstream: Registry, repository: str) -> None:
    """A pushed image is upstream byte for byte; a repeated push succeeds, and another image is refused."""
    name = f"{NAME}/{repository}"
    content = os.urandom(200_000)
    image = tool.image(content)
    tool.push(image, f"{gate.host}/{name}:1.0.0").checked()
    pushed = upstream.digest(repository, "1.0.0")
    tool.push(image, f"{gate.host}/{name}:1.0.0").checked()
    refused = tool.push(tool.image(os.urandom(1000)), f"{gate.host}/{name}:1.0.0")

    assert gate.digest(name, "1.0.0") == pushed
    assert upstream.manifest(repository, "1.0.0") == gate.manifest(name, "1.0.0")
    assert not refused.ok
    assert (f"is sealed at {short(pushed)}" if tool.name != "docker-containerd" else "409 Conflict") in refused.text
    assert upstream.digest(repository, "1.0.0") == pushed
    assert tool.pull(f"{upstream.host}/{repository}:1.0.0") == content
    assert tool.pull(f"{gate.host}/{name}:1.0.0") == content


def test_a_tag_that_was_pushed_without_the_push_proxy_is_not_overwritten(
    skopeo: Skopeo, gate: Registry, upstream: Registry, repository: str
) -> None:
    """A tag that was pushed directly upstream is not overwritten: the refusal shows both digests."""
    theirs, ours = skopeo.image(os.urandom(1000)), skopeo.image(os.urandom(1000))
    skopeo.push(theirs, f"{upstream.host}/{repository}:1.0.0").checked()
    there = upstream.digest(repository, "1.0.0")
    refused = skopeo.push(ours, f"{gate.host}/{NAME}/{repository}:1.0.0")
    skopeo.push(ours, f"{gate.host}/{NAME}/{repository}:1.0.1").checked()
    here = gate.digest(f"{NAME}/{repository}", "1.0.1")
    skopeo.push(theirs, f"{upstream.host}/{repository}:1.0.1").checked()

    assert not refused.ok
    assert there in refused.text
    assert here in refused.text
    assert upstream.digest(repository, "1.0.0") == there
    assert gate.digest(f"{NAME}/{repository}", "1.0.1") == here


def test_latest_moves_locally_and_upstream(docker: Docker, gate: Registry, upstream: Registry, repository: str) -> None:
    """A mutable tag is forwarded at each push, and pulled as it was pushed last."""
    for _ in range(2):
        image = docker.image(os.urandom(1000))
        docker.push(image, f"{gate.host}/{NAME}/{repository}:latest").checked()

        assert gate.digest(f"{NAME}/{repository}", "latest") == upstream.digest(repository, "latest")


def test_a_layer_that_upstream_has_is_mounted_there(
    docker: Docker, gate: Registry, upstream: Registry, repository: str
) -> None:
    """A layer that upstream has in another repository is mounted there, without sending bytes."""
    image = docker.image(os.urandom(300_000))
    docker.push(image, f"{gate.host}/{NAME}/{repository}:1.0.0").checked()
    time.sleep(TOTALS_S)  # the worker saves its metrics meanwhile
    before = (
        counted(gate, "boltseal_push_proxy_blobs_uploaded_total"),
        counted(gate, "boltseal_push_proxy_blobs_mounted_total"),
    )
    docker.push(image, f"{gate.host}/{NAME}/{repository}-too:1.0.0").checked()
    time.sleep(TOTALS_S)  # the worker saves its metrics meanwhile

    assert upstream.digest(f"{repository}-too", "1.0.0") == upstream.digest(repository, "1.0.0")
    assert counted(gate, "boltseal_push_proxy_blobs_uploaded_total") == before[0]
    assert counted(gate, "boltseal_push_proxy_blobs_mounted_total") == before[1] + 2


def test_an_image_of_several_platforms_is_copied_through(
    skopeo: Skopeo, gate: Registry, upstream: Registry, repository: str
) -> None:
    """skopeo copies a multi-platform image through the proxy to a second tag."""
    reference = f"docker://{gate.host}/{NAME}/{repository}"
    skopeo.push(skopeo.image(os.urandom(1000)), f"{gate.host}/{NAME}/{repository}:build-1").checked()
    run(
        *("skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false"),
        *(f"{reference}:build-1", f"{reference}:1.0.0"),
    ).checked()

    assert upstream.digest(repository, "1.0.0") == upstream.digest(repository, "build-1")


def counted(gate: Registry, name: str) -> float:
    text = httpx2.get(f"{gate.server.url}/metrics", trust_env=False).text
    (line,) = (each for each in text.splitlines() if each.startswith(f"{name} "))
    return float(line.split()[1])
