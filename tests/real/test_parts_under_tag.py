"""Clients that push every part of an image under its tag: Docker 26 with containerd's image store, and buildx 0.13.

They push the images and attestations of an index to the tag, in any order, and the index last.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests import servers
from tests.real.registry import ACCEPT, Registry
from tests.real.tools import Docker

pytestmark = pytest.mark.real

PLATFORMS = ("--platform", "linux/amd64,linux/arm64")


@pytest.fixture(scope="module")
def settling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A boltseal that lets tags settle."""
    with servers.boltseal(tmp_path_factory.mktemp("settling") / "data", config='[[rule]]\nsettle = "60s"\n') as server:
        yield Registry(server)


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A build context of an image that no other test builds."""
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY content /content\n")
    (tmp_path / "content").write_bytes(os.urandom(1000))
    return tmp_path


def build(docker: Docker, context: Path, *options: str) -> None:
    docker.run("buildx", "build", *options, str(context)).checked()


def answer(registry: Registry, repository: str) -> httpx2.Response:
    """What the registry answers to a pull of 1.0.0."""
    url = f"{registry.server.url}/v2/{repository}/manifests/1.0.0"
    return httpx2.get(url, headers={"accept": ACCEPT}, timeout=30, trust_env=False)


def is_sealed_index(answer: httpx2.Response) -> bool:
    return "max-age" in answer.headers["cache-control"] and answer.json()["mediaType"].endswith("index.v1+json")


def test_without_the_rule_the_refusal_names_the_cause_and_the_remedies(
    docker_containerd: Docker, registry: Registry, repository: str, context: Path
) -> None:
    """The client prints the status only; the operator finds the reason in the server's log."""
    reference = f"{registry.host}/{repository}:1.0.0"
    build(docker_containerd, context, "-t", reference)

    pushed = docker_containerd.run("push", reference)

    assert not pushed.ok
    assert "409 Conflict" in pushed.text
    assert "this client pushes every part of an image under its tag" in registry.server.log_tail()
    assert "--provenance=false" in registry.server.log_tail()


@pytest.mark.parametrize("platforms", [(), PLATFORMS], ids=["one-platform", "two-platforms"])
def test_a_build_with_attestations_is_sealed_at_its_index(
    docker_containerd: Docker, settling: Registry, repository: str, context: Path, platforms: tuple[str, ...]
) -> None:
    """`docker build`, then `docker push`; the same push again changes nothing, and the image can be pulled."""
    reference = f"{settling.host}/{repository}:1.0.0"
    build(docker_containerd, context, *platforms, "-t", reference)

    docker_containerd.run("push", reference).checked()
    pushed = answer(settling, repository)
    docker_containerd.run("push", reference).checked()

    assert is_sealed_index(pushed)
    assert answer(settling, repository).content == pushed.content
    docker_containerd.run("pull", reference).checked()


def test_a_build_that_pushes_is_sealed_at_its_index(
    docker_containerd: Docker, settling: Registry, repository: str, context: Path
) -> None:
    """`docker build --push` pushes twice: BuildKit the index under the tag, then Docker every part under it."""
    build(docker_containerd, context, *PLATFORMS, "--push", "-t", f"{settling.host}/{repository}:1.0.0")

    assert is_sealed_index(answer(settling, repository))


def test_an_index_is_copied_by_imagetools(
    docker_containerd: Docker, settling: Registry, repository: str, context: Path
) -> None:
    """`docker buildx imagetools create` from another repository pushes what it copies to the new tag."""
    source = f"{settling.host}/{repository}-source:1.0.0"
    build(docker_containerd, context, *PLATFORMS, "--push", "-t", source)

    docker_containerd.run(
        "buildx", "imagetools", "create", "-t", f"{settling.host}/{repository}:1.0.0", source
    ).checked()

    assert is_sealed_index(answer(settling, repository))
