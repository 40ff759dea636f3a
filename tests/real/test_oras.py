"""oras beyond push and pull: attached artifacts, copies, tags, blobs, deletes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.real.registry import Registry, short
from tests.real.tools import CommandResult, Skopeo, run

pytestmark = pytest.mark.real

NOTE = "application/vnd.example.note"


def oras(*argv: str, cwd: Path | None = None) -> CommandResult:
    """Run oras without TLS."""
    return run("oras", *argv, "--plain-http", cwd=cwd)


@pytest.fixture
def attach(tmp_path: Path) -> Callable[[str, str], CommandResult]:
    """Attach a text to an image: (reference, text)."""

    def attach(reference: str, text: str) -> CommandResult:
        (tmp_path / "note.txt").write_text(text)
        return oras("attach", "--artifact-type", NOTE, reference, "note.txt:text/plain", cwd=tmp_path)

    return attach


@pytest.fixture
def image(skopeo: Skopeo, registry: Registry, repository: str) -> str:
    """A sealed image."""
    reference = f"{registry.host}/{repository}:1.0.0"
    skopeo.push(skopeo.image(os.urandom(1000)), reference).checked()
    return reference


def attached(reference: str) -> list[str]:
    """Return the digests of the artifacts that are attached to an image."""
    found = json.loads(oras("discover", "--format", "json", "--artifact-type", NOTE, reference).checked())
    return [manifest["digest"] for manifest in found["manifests"]]


def test_what_is_attached_to_a_sealed_image_is_found(image: str, attach: Callable[[str, str], CommandResult]) -> None:
    """An artifact attached to a sealed image is listed."""
    attach(image, "first").checked()
    attach(image, "second").checked()

    assert len(attached(image)) == 2


def test_an_image_is_copied_to_another_repository_with_what_is_attached(
    image: str, attach: Callable[[str, str], CommandResult]
) -> None:
    """An image is copied to another repository with mounted blobs and its referrers."""
    attach(image, "first").checked()
    name, _, tag = image.rpartition(":")
    copy = f"{name}-copy:{tag}"

    run("oras", "cp", "--recursive", "--from-plain-http", "--to-plain-http", image, copy).checked()

    assert attached(copy) == attached(image)


def test_a_sealed_tag_cannot_be_moved_by_oras_tag(
    image: str, skopeo: Skopeo, registry: Registry, repository: str
) -> None:
    """`oras tag` can't move a sealed tag."""
    sealed = registry.digest(repository, "1.0.0")
    other = f"{registry.host}/{repository}:1.0.1"
    skopeo.push(skopeo.image(os.urandom(1000)), other).checked()

    result = oras("tag", other, "1.0.0")

    assert not result.ok
    assert f"tag 1.0.0 of {repository} is sealed at {short(sealed)}" in result.text
    assert registry.digest(repository, "1.0.0") == sealed


def test_an_image_gets_another_tag(image: str, registry: Registry, repository: str) -> None:
    """`oras tag` adds a tag to an image without an upload."""
    oras("tag", image, "1.0.1").checked()

    assert registry.digest(repository, "1.0.1") == registry.digest(repository, "1.0.0")


@pytest.mark.parametrize("by", ["tag", "digest"])
def test_a_sealed_image_cannot_be_deleted(image: str, by: str, registry: Registry, repository: str) -> None:
    """A sealed image can be deleted neither by its tag nor by its digest."""
    digest = registry.digest(repository, "1.0.0")
    name = image if by == "tag" else f"{registry.host}/{repository}@{digest}"

    result = oras("manifest", "delete", "--force", name)

    assert not result.ok
    assert f"denied: manifest {short(digest)} of {repository} is what tag 1.0.0 seals" in result.text
    assert registry.digest(repository, "1.0.0") == digest


def test_a_layer_of_a_sealed_image_cannot_be_deleted(image: str, registry: Registry, repository: str) -> None:
    """A layer of a sealed image can't be deleted."""
    layer = json.loads(registry.manifest(repository, "1.0.0"))["layers"][0]["digest"]
    blob = f"{registry.host}/{repository}@{layer}"

    result = oras("blob", "delete", "--force", blob)

    assert not result.ok
    oras("blob", "fetch", "--output", "/dev/null", blob).checked()


def test_the_tags_of_a_repository_are_listed(image: str, skopeo: Skopeo, registry: Registry, repository: str) -> None:
    """oras lists the tags of a repository."""
    skopeo.push(skopeo.image(os.urandom(1000)), f"{registry.host}/{repository}:latest").checked()

    listed = oras("repo", "tags", f"{registry.host}/{repository}").checked()

    assert listed.split() == ["1.0.0", "latest"]
