"""docker beyond push and pull: manifest lists by its client, all tags at once, pulls by digest."""

from __future__ import annotations

import os

import pytest

from tests.real.registry import Registry, short
from tests.real.tools import Docker

pytestmark = pytest.mark.real


def test_a_refused_push_is_not_retried(docker: Docker, registry: Registry, repository: str) -> None:
    """docker does not retry a refused push, so that the user reads the message at once."""
    reference = f"{registry.host}/{repository}:1.0.0"
    docker.push(docker.image(os.urandom(1000)), reference).checked()
    other = docker.image(os.urandom(1000))

    before = registry.answered("PUT", "/v2/{name}/manifests/{reference}", 409)
    result = docker.push(other, reference)

    assert not result.ok
    assert registry.answered("PUT", "/v2/{name}/manifests/{reference}", 409) == before + 1
    assert result.text.count("denied: ") == 1


def test_an_image_is_released_under_a_second_tag(docker: Docker, registry: Registry, repository: str) -> None:
    """One image is pushed under a version and under `latest`."""
    image = docker.image(os.urandom(1000))
    docker.push(image, f"{registry.host}/{repository}:1.0.0").checked()

    docker.push(image, f"{registry.host}/{repository}:latest").checked()

    assert registry.digest(repository, "latest") == registry.digest(repository, "1.0.0")


def test_all_tags_are_pushed_at_once(docker: Docker, registry: Registry, repository: str) -> None:
    """`docker push --all-tags` succeeds for a repository with one tag published already."""
    name = f"{registry.host}/{repository}"
    image = docker.image(os.urandom(1000))
    docker.push(image, f"{name}:1.0.0").checked()
    docker.run("tag", image, f"{name}:1.0.1").checked()

    docker.run("push", "--all-tags", name).checked()

    assert registry.digest(repository, "1.0.1") == registry.digest(repository, "1.0.0")


def test_a_manifest_list_made_by_docker_is_sealed(docker: Docker, registry: Registry, repository: str) -> None:
    """A manifest list by `docker manifest create` and `push`, with Docker's media types, is sealed."""
    name = f"{registry.host}/{repository}"
    parts = [f"{name}:1.0.0-a", f"{name}:1.0.0-b"]
    for part in parts:
        docker.push(docker.image(os.urandom(1000)), part).checked()
    docker.run("manifest", "create", "--insecure", f"{name}:1.0.0", parts[0]).checked()
    docker.run("manifest", "push", "--insecure", "--purge", f"{name}:1.0.0").checked()
    sealed = registry.digest(repository, "1.0.0")
    docker.run("manifest", "create", "--insecure", f"{name}:1.0.0", parts[1]).checked()

    result = docker.run("manifest", "push", "--insecure", "--purge", f"{name}:1.0.0")

    assert not result.ok
    assert f"denied: tag 1.0.0 of {repository} is sealed at {short(sealed)}" in result.text
    assert registry.digest(repository, "1.0.0") == sealed
