"""Behaviour that all tools share: docker with either store, podman, buildah, skopeo, oras, containerd's ctr.

One suite runs on each tool. Behaviour of a single tool is tested in the file with its name.
"""

from __future__ import annotations

import os
import re

import pytest

from tests.real.registry import Registry, short
from tests.real.tools import Tool

pytestmark = pytest.mark.real

#: More than a server would answer from memory, and not compressible.
CONTENT_BYTES = 400_000

#: The last line that each tool prints for a refusal. containerd before 2.0 does not show the registry's message,
#: and so neither does docker on its image store; they print the tag, and that there is a conflict.
#: oras prints the `detail` for programs as well.
REFUSED = {
    "docker": "{message}",
    "docker-containerd": 'failed commit on ref "manifest-DIGEST": unexpected status from PUT request to {url}: 409 Conflict',
    "podman": "Error: writing manifest: uploading manifest 1.4.2 to {name}: {message}",
    "buildah": 'Error: pushing image "IMAGE" to "docker://{name}:1.4.2": writing manifest: '
    "uploading manifest 1.4.2 to {name}: {message}",
    "skopeo": 'time="TIME" level=fatal msg="writing manifest: uploading manifest 1.4.2 to {name}: {message}"',
    "oras": "Error response from registry: {message}: FACTS",
    "ctr": 'ctr: failed commit on ref "manifest-app@DIGEST": unexpected status from PUT request to {url}: 409 Conflict',
}


def without_what_varies(line: str, sealed: str) -> str:
    """Return a line with placeholders for what differs each time, except for the sealed digest."""
    for pattern, name in (
        (rf"(?!{sealed}\b)sha256:[0-9a-f]+", "DIGEST"),
        (r"\b\d{4}-\d\d-\d\dT[\d:]+Z", "TIME"),
        (r"\b\d{4}-\d\d-\d\d\b", "DATE"),
        (r"localhost/made:\d+", "IMAGE"),
        (r"map\[.* reason:sealed .*\]$", "FACTS"),
    ):
        line = re.sub(pattern, name, line)
    return line


def test_a_pushed_image_is_pulled_byte_for_byte(tool: Tool, registry: Registry, repository: str) -> None:
    """An image pulled on another machine has the bytes that were pushed."""
    content = os.urandom(CONTENT_BYTES)
    reference = f"{registry.host}/{repository}:1.4.2"

    tool.push(tool.image(content), reference).checked()

    assert tool.pull(reference) == content


def test_the_same_image_can_be_pushed_again(tool: Tool, registry: Registry, repository: str) -> None:
    """Pushing the same image again succeeds, as for a release job that runs twice."""
    reference = f"{registry.host}/{repository}:1.4.2"
    image = tool.image(os.urandom(1000))
    tool.push(image, reference).checked()
    first = registry.digest(repository, "1.4.2")

    tool.push(image, reference).checked()

    assert registry.digest(repository, "1.4.2") == first


def test_another_image_under_a_published_tag_is_refused_with_a_message(
    tool: Tool, registry: Registry, repository: str
) -> None:
    """The refusal shows tag, digest, time, actor, and what to do instead."""
    reference = f"{registry.host}/{repository}:1.4.2"
    tool.push(tool.image(os.urandom(1000)), reference).checked()
    sealed = short(registry.digest(repository, "1.4.2"))

    result = tool.push(tool.image(os.urandom(1000)), reference)

    assert not result.ok
    expected = REFUSED[tool.name].format(
        message=f"denied: tag 1.4.2 of {repository} is sealed at {sealed} since DATE by anonymous; "
        "this push is DIGEST; publish under a new tag (free: 1.4.3)",
        name=f"{registry.host}/{repository}",
        url=f"{registry.server.url}/v2/{repository}/manifests/1.4.2",
    )
    assert without_what_varies(result.text.splitlines()[-1], sealed) == expected


def test_after_a_refused_push_the_tag_still_resolves_to_the_first_image(
    tool: Tool, registry: Registry, repository: str
) -> None:
    """After a refused push, pulls return the first image."""
    reference = f"{registry.host}/{repository}:1.4.2"
    content = os.urandom(1000)
    tool.push(tool.image(content), reference).checked()

    refused = tool.push(tool.image(os.urandom(1000)), reference)

    assert not refused.ok
    assert tool.pull(reference) == content


def test_latest_moves(tool: Tool, registry: Registry, repository: str) -> None:
    """A mutable tag resolves to the image that was pushed last."""
    reference = f"{registry.host}/{repository}:latest"
    second = os.urandom(1000)
    tool.push(tool.image(os.urandom(1000)), reference).checked()

    tool.push(tool.image(second), reference).checked()

    assert tool.pull(reference) == second


def test_what_latest_resolved_to_before_can_be_pulled_by_digest(
    tool: Tool, registry: Registry, repository: str
) -> None:
    """A former image of `latest` can be pulled by its digest."""
    first = os.urandom(1000)
    tool.push(tool.image(first), f"{registry.host}/{repository}:latest").checked()
    displaced = registry.digest(repository, "latest")

    tool.push(tool.image(os.urandom(1000)), f"{registry.host}/{repository}:latest").checked()

    assert registry.digest(repository, "latest") != displaced
    assert tool.pull(f"{registry.host}/{repository}@{displaced}") == first
