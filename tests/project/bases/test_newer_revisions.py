"""An image on a sealed tag is judged by the newest revision of that tag, and an outdated version by its own newest one."""

from __future__ import annotations

import pytest

from boltseal.errors import Unavailable
from boltseal.oci.reference import Reference
from boltseal.project.bases.base_claims import BaseClaim, ClaimSource
from boltseal.project.bases.freshness import BaseStatus, BaseVerdict, worst_verdict
from boltseal.project.bases.newer_revisions import judge_newer, judge_superseded
from tests.project.bases.samples import digest

BASE = Reference.parse("reg.test/base/rt:3.0.0")
NEWER = Reference.parse(f"reg.test/base/rt:3.0.0.1@{digest('newer')}")


def verdict(status: BaseStatus = BaseStatus.CURRENT) -> BaseVerdict:
    claim = BaseClaim(BASE, digest("base"), ClaimSource.BUILT)
    return BaseVerdict(status, "why", claim, digest("base"), digest("base"))


def test_a_current_image_on_a_tag_with_a_newer_revision_is_outdated() -> None:
    """A current image is outdated if its sealed base has a newer revision, which the verdict names by tag and digest."""
    found = judge_newer(verdict(), {BASE: NEWER})

    assert (found.status, found.newer) == (BaseStatus.OUTDATED, NEWER)
    assert found.reason == f"a newer revision of its base exists: {NEWER.by_tag}; {BASE} is sealed, and never moves"


def test_unknown_revisions_leave_a_current_image_unknown() -> None:
    """If it is not known whether a newer revision exists, a current image is not called current."""
    found = judge_newer(verdict(), {BASE: Unavailable("the registry does not answer")})

    assert found.status is BaseStatus.UNKNOWN
    assert found.reason.endswith("could not be checked: the registry does not answer")


@pytest.mark.parametrize("status", [each for each in BaseStatus if each is not BaseStatus.CURRENT])
def test_only_current_images_are_judged_by_revisions(status: BaseStatus) -> None:
    """An image that is outdated, unknown, ignored or without a base stays so, whatever revisions exist."""
    assert judge_newer(verdict(status), {BASE: NEWER}) == verdict(status)


def test_only_outdated_and_unknown_platforms_are_superseded() -> None:
    """Of an image with several platforms those that are current stay so, and the whole is superseded."""
    found = [judge_superseded(verdict(status), NEWER.by_tag) for status in (BaseStatus.CURRENT, BaseStatus.OUTDATED)]

    assert [each.status for each in found] == [BaseStatus.CURRENT, BaseStatus.SUPERSEDED]
    assert worst_verdict(found).status is BaseStatus.SUPERSEDED
