"""What holds whatever the tool: docker with either store, podman, buildah, skopeo, oras, containerd's ctr.

One suite, run on each of them. What only one tool does is in the file that has its name.
"""

from __future__ import annotations

import os
import re

import pytest

from tests.real.registry import Registry
from tests.real.tools import Tool

pytestmark = pytest.mark.real

#: More than a server would answer from memory, and not compressible.
CONTENT_BYTES = 400_000


def test_a_pushed_image_comes_back_byte_for_byte(tool: Tool, registry: Registry, repository: str) -> None:
    """What is pulled on another machine is what was pushed."""
    content = os.urandom(CONTENT_BYTES)
    reference = f"{registry.host}/{repository}:1.4.2"

    tool.push(tool.image(content), reference).checked()

    assert tool.pull(reference) == content


def test_the_same_image_can_be_pushed_again(tool: Tool, registry: Registry, repository: str) -> None:
    """A release job that runs twice with the same result succeeds twice."""
    reference = f"{registry.host}/{repository}:1.4.2"
    image = tool.image(os.urandom(1000))
    tool.push(image, reference).checked()
    first = registry.digest(repository, "1.4.2")

    tool.push(image, reference).checked()

    assert registry.digest(repository, "1.4.2") == first


def test_another_image_under_a_published_tag_is_refused_in_words(
    tool: Tool, registry: Registry, repository: str
) -> None:
    """The person who pushes reads which tag is sealed, at what, since when, by whom, and what to do instead."""
    reference = f"{registry.host}/{repository}:1.4.2"
    content = os.urandom(1000)
    tool.push(tool.image(content), reference).checked()
    sealed = registry.digest(repository, "1.4.2")

    said = tool.push(tool.image(os.urandom(1000)), reference)

    assert not said.ok
    assert re.search(
        rf"denied: tag 1\.4\.2 of {repository} is sealed at {sealed} since \d{{4}}-\d\d-\d\d by anonymous; "
        r"this push is sha256:[0-9a-f]{64}; publish under a new tag \(free: 1\.4\.3\)",
        said.text,
    ), said.text


def test_after_a_refused_push_the_tag_still_means_the_first_image(
    tool: Tool, registry: Registry, repository: str
) -> None:
    """A refusal changes nothing for those who pull."""
    reference = f"{registry.host}/{repository}:1.4.2"
    content = os.urandom(1000)
    tool.push(tool.image(content), reference).checked()

    refused = tool.push(tool.image(os.urandom(1000)), reference)

    assert not refused.ok
    assert tool.pull(reference) == content


def test_latest_moves(tool: Tool, registry: Registry, repository: str) -> None:
    """A floating tag means what was pushed last."""
    reference = f"{registry.host}/{repository}:latest"
    second = os.urandom(1000)
    tool.push(tool.image(os.urandom(1000)), reference).checked()

    tool.push(tool.image(second), reference).checked()

    assert tool.pull(reference) == second


def test_what_latest_meant_before_can_still_be_pulled_by_digest(
    tool: Tool, registry: Registry, repository: str
) -> None:
    """Whoever deployed the displaced image by its digest can deploy it again."""
    first = os.urandom(1000)
    tool.push(tool.image(first), f"{registry.host}/{repository}:latest").checked()
    displaced = registry.digest(repository, "latest")

    tool.push(tool.image(os.urandom(1000)), f"{registry.host}/{repository}:latest").checked()

    assert registry.digest(repository, "latest") != displaced
    assert tool.pull(f"{registry.host}/{repository}@{displaced}") == first
