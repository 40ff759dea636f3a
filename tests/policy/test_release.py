"""Which tags look like a release."""

from __future__ import annotations

import pytest

from boltseal.oci.reference import Tag
from boltseal.policy.release_tags import looks_like_release


@pytest.mark.parametrize(
    "tag",
    [
        "1.4.2",
        "v1.4.2",
        "1.4.2-alpine3.20",
        "nginx-1.25.3",
        "1.2.3.4",
        "20261124",
        "2026-11-24",
        "bookworm-20261124-slim",
        "2026.11.24",
        "g1a2b3c4",
        "1a2b3c4d5e",
        "sha-1a2b3c4",
        "main-1a2b3c4",
        "build-123",
        "b42",
        "1.25-r3",
        "12345",
    ],
)
def test_tags_that_look_like_a_release(tag: str) -> None:
    """A tag with three numeric parts, a date, a hash or a build number looks like a release."""
    assert looks_like_release(Tag(tag))


@pytest.mark.parametrize(
    "tag",
    [
        "latest",
        "stable",
        "3",
        "1.25",
        "1.25-alpine",
        "1.25-alpine3.20",
        "v2",
        "bookworm-slim",
        "2026",
        "deadbeef-not",
        "release",
    ],
)
def test_tags_that_move_by_custom(tag: str) -> None:
    """Words, and tags with one or two numeric parts, do not look like a release."""
    assert not looks_like_release(Tag(tag))
