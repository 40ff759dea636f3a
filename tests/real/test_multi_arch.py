"""Images for several architectures: an index, pushed completely, and sealed with everything under it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.real.layout import Layout, index_layout
from tests.real.registry import Registry, short
from tests.real.tools import Buildah, CommandResult, Docker, Podman, run

pytestmark = pytest.mark.real

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
HERE = ARCHITECTURES.get(platform.machine(), "amd64")

#: Pushes an index with all its images: (layout, reference) -> result.
Push = Callable[[Layout, str], CommandResult]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """An index of two images."""
    return index_layout(tmp_path / "index", {"amd64": os.urandom(1000), "arm64": os.urandom(1000)})


def push_with_skopeo(layout: Layout, reference: str) -> CommandResult:
    """Push by `skopeo copy --all`, which keeps the bytes of the index."""
    return run(
        *("skopeo", "--insecure-policy", "copy", "--all", "--dest-tls-verify=false"),
        *(layout.source, f"docker://{reference}"),
    )


@pytest.fixture(params=["skopeo", "podman", "buildah"])
def push(request: pytest.FixtureRequest) -> Push:
    """Each tool that pushes indexes."""
    if request.param == "skopeo":
        return push_with_skopeo
    tool: Podman | Buildah = request.getfixturevalue(request.param)

    def push_list(layout: Layout, reference: str) -> CommandResult:
        name = f"localhost/list{layout.digest[-8:]}"
        if not tool.run("manifest", "exists", name).ok:
            tool.run("manifest", "create", name).checked()
            tool.run("manifest", "add", "--all", name, layout.source).checked()
        return tool.run("manifest", "push", "--all", "--tls-verify=false", name, f"docker://{reference}")

    return push_list


def test_an_index_arrives_with_all_its_images(push: Push, layout: Layout, registry: Registry, repository: str) -> None:
    """Each architecture of a pushed index can be pulled by its digest."""
    push(layout, f"{registry.host}/{repository}:2.0.0").checked()

    index = json.loads(registry.manifest(repository, "2.0.0"))

    assert {entry["platform"]["architecture"]: entry["digest"] for entry in index["manifests"]} == layout.children
    assert all(registry.has(repository, child) for child in layout.children.values())


def test_the_same_index_can_be_pushed_again(push: Push, layout: Layout, registry: Registry, repository: str) -> None:
    """Pushing the same index again succeeds."""
    reference = f"{registry.host}/{repository}:2.0.0"
    push(layout, reference).checked()
    first = registry.digest(repository, "2.0.0")

    push(layout, reference).checked()

    assert registry.digest(repository, "2.0.0") == first


def test_another_index_under_a_sealed_tag_is_refused(
    push: Push, layout: Layout, registry: Registry, repository: str, tmp_path: Path
) -> None:
    """An index that was rebuilt for one architecture is another one, and is refused under the sealed tag."""
    reference = f"{registry.host}/{repository}:2.0.0"
    push(layout, reference).checked()
    sealed = registry.digest(repository, "2.0.0")
    other = index_layout(tmp_path / "other", {"amd64": os.urandom(1000), "arm64": os.urandom(1000)})

    result = push(other, reference)

    assert not result.ok
    assert f"denied: tag 2.0.0 of {repository} is sealed at {short(sealed)}" in result.text
    assert registry.digest(repository, "2.0.0") == sealed


def test_an_image_cannot_be_deleted_from_under_a_sealed_index(
    push: Push, layout: Layout, registry: Registry, repository: str
) -> None:
    """A child of a sealed index can't be deleted."""
    push(layout, f"{registry.host}/{repository}:2.0.0").checked()
    child = layout.children["arm64"]

    result = run("skopeo", "delete", "--tls-verify=false", f"docker://{registry.host}/{repository}@{child}")

    assert not result.ok
    assert "2.0.0" in result.text
    assert registry.has(repository, child)


def test_docker_pulls_the_image_of_its_own_architecture(
    docker: Docker, registry: Registry, repository: str, tmp_path: Path
) -> None:
    """docker pulls the index's image for its own architecture."""
    contents = {"amd64": os.urandom(1000), "arm64": os.urandom(1000)}
    reference = f"{registry.host}/{repository}:2.0.0"
    push_with_skopeo(index_layout(tmp_path / "index", contents), reference).checked()

    assert docker.pull(reference) == contents[HERE]
