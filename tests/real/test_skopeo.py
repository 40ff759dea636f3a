"""skopeo beyond copies to and from disk: inspecting, copying inside the registry, deleting."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.real.registry import Registry
from tests.real.tools import Skopeo, run

pytestmark = pytest.mark.real


@pytest.fixture
def image(skopeo: Skopeo, registry: Registry, repository: str) -> str:
    """A sealed image, as a reference of skopeo."""
    reference = f"{registry.host}/{repository}:1.0.0"
    skopeo.push(skopeo.image(os.urandom(400_000)), reference).checked()
    return f"docker://{reference}"


def test_an_image_is_inspected(image: str, registry: Registry, repository: str) -> None:
    """`skopeo inspect` shows the tag's digest and all tags."""
    seen = json.loads(run("skopeo", "inspect", "--tls-verify=false", image).checked())

    assert seen["Digest"] == registry.digest(repository, "1.0.0")
    assert seen["RepoTags"] == ["1.0.0"]


def test_an_image_is_copied_inside_the_registry(image: str, registry: Registry, repository: str) -> None:
    """An image is copied to another repository with mounted layers."""
    run(
        *("skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false"),
        *(image, f"docker://{registry.host}/{repository}-copy:1.0.0"),
    ).checked()

    assert registry.digest(f"{repository}-copy", "1.0.0") == registry.digest(repository, "1.0.0")


def test_an_image_converted_to_dockers_format_is_another_image(image: str, registry: Registry, repository: str) -> None:
    """An image converted to Docker's format has another digest, which a sealed tag refuses."""
    sealed = registry.digest(repository, "1.0.0")

    result = run(
        *("skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false"),
        *("--format", "v2s2", image, image),
    )

    assert not result.ok
    assert "is sealed at" in result.text
    assert registry.digest(repository, "1.0.0") == sealed


def test_a_repository_is_copied_completely(
    image: str, skopeo: Skopeo, registry: Registry, repository: str, tmp_path: Path
) -> None:
    """`skopeo sync` copies every tag and every byte."""
    skopeo.push(skopeo.image(os.urandom(1000)), f"{registry.host}/{repository}:latest").checked()

    run(
        *("skopeo", "--insecure-policy", "sync", "--src-tls-verify=false", "--src", "docker", "--dest", "dir"),
        *(f"{registry.host}/{repository}", str(tmp_path)),
    ).checked()

    assert sorted(path.name.rpartition(":")[2] for path in tmp_path.iterdir()) == ["1.0.0", "latest"]


def test_a_sealed_tag_cannot_be_deleted(image: str, registry: Registry, repository: str) -> None:
    """`skopeo delete` of a sealed tag is refused with the reason, because it would delete the digest with every tag."""
    result = run("skopeo", "delete", "--tls-verify=false", image)

    assert not result.ok
    assert "1.0.0" in result.text
    assert registry.has(repository, "1.0.0")


def test_a_displaced_image_can_be_deleted_by_its_digest(skopeo: Skopeo, registry: Registry, repository: str) -> None:
    """A former image of a mutable tag may be deleted by its digest."""
    name = f"{registry.host}/{repository}"
    skopeo.push(skopeo.image(os.urandom(1000)), f"{name}:latest").checked()
    displaced = registry.digest(repository, "latest")
    skopeo.push(skopeo.image(os.urandom(1000)), f"{name}:latest").checked()

    run("skopeo", "delete", "--tls-verify=false", f"docker://{name}@{displaced}").checked()

    assert not registry.has(repository, displaced)
    assert registry.has(repository, "latest")
