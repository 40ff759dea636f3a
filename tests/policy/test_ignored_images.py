"""`[outdated] ignore` names images by repository or whole name, with or without a tag."""

from __future__ import annotations

import pytest

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.policy.ignored_images import is_ignored

TAGGED = Reference.parse("reg.test/vendor/db:1")


@pytest.mark.parametrize(
    ("glob", "ignored"),
    [
        ("vendor/db", True),
        ("vendor/*", True),
        ("vendor/db:1", True),
        ("*:1", True),
        ("reg.test/vendor/db", True),
        ("reg.test/*:1", True),
        ("*", True),
        ("vendor", False),
        ("vendor/db:2", False),
        ("db", False),
        ("other.test/vendor/db", False),
    ],
)
def test_a_glob_matches_the_repository_or_the_whole_name(glob: str, ignored: bool) -> None:
    """A glob matches all of the repository or name, with or without the tag."""
    assert is_ignored([glob], TAGGED) is ignored
    assert is_ignored(["nothing/*", glob], TAGGED) is ignored


def test_an_image_without_a_tag_is_matched_by_its_name() -> None:
    """An image by digest is matched by its repository or name, and by no glob for a tag."""
    image = Reference(TAGGED.registry, TAGGED.repository, None, Digest.of(b"x"))

    assert is_ignored(["vendor/*"], image)
    assert not is_ignored(["vendor/db:*"], image)
    assert not is_ignored([], image)
