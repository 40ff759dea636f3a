"""`check`: whether a tag may be published."""

from __future__ import annotations

import pytest

from boltseal.commands.check import CheckRequest, CheckResult, TagStatus
from boltseal.commands.outcome import Outcome
from boltseal.commands.registry_access import ReferenceUnsuitable
from boltseal.oci.digest import Digest

DIGEST = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("ref", "digest", "message"),
    [
        ("r.test/a", None, "has no tag; expected one, such as r.test/a:1.4.2"),
        (f"r.test/a:1@{DIGEST}", DIGEST, "the digest is given twice"),
    ],
)
def test_a_request_needs_a_tag_and_at_most_one_digest(ref: str, digest: str | None, message: str) -> None:
    """A check without a tag or with two digests is a usage error."""
    with pytest.raises(ReferenceUnsuitable, match=message):
        CheckRequest.parse(ref, digest)


@pytest.mark.parametrize(("ref", "digest"), [(f"r.test/a:1@{DIGEST}", None), ("r.test/a:1", DIGEST)])
def test_the_digest_may_be_in_the_reference_or_beside_it(ref: str, digest: str | None) -> None:
    """The digest may be in the reference or in an option; the registry is asked for the tag only."""
    request = CheckRequest.parse(ref, digest)

    assert (str(request.reference), str(request.digest)) == ("r.test/a:1", DIGEST)


def test_a_prefix_of_the_digest_is_enough() -> None:
    """A prefix of the digest, as commands print it, is accepted, with or without the algorithm."""
    for text in (Digest.parse(DIGEST).short, "0" * 12):
        request = CheckRequest.parse("r.test/a:1", text)
        assert request.digest is not None

        assert request.digest.fits(Digest.parse(DIGEST))


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (TagStatus.FREE, Outcome.HOLDS),
        (TagStatus.SAME, Outcome.HOLDS),
        (TagStatus.TAKEN, Outcome.DIFFERS),
        (TagStatus.DELETED, Outcome.DIFFERS),
    ],
)
def test_a_tag_may_be_published_if_it_is_free_or_has_the_image(status: TagStatus, outcome: Outcome) -> None:
    """A tag may be published if it is free or has the same image; a tombstone is not free."""
    reference = CheckRequest.parse("r.test/a:1", None).reference

    assert CheckResult(reference, status, DIGEST).outcome is outcome
