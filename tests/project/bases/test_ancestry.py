"""The verdict of an image by its base, the base of that one, and so on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.project.bases.ancestry import MAX_ANCESTORS, with_ancestors
from boltseal.project.bases.base_claims import BaseClaim, ClaimSource
from boltseal.project.bases.freshness import BaseStatus, BaseVerdict

DIGEST = Digest.parse(f"sha256:{'a' * 64}")


def verdict(base: int, status: BaseStatus = BaseStatus.CURRENT) -> BaseVerdict:
    """Return the verdict of the image before `base` in a chain."""
    claim = BaseClaim(Reference.parse(f"registry.example/base:{base}"), DIGEST, ClaimSource.BUILT)
    return BaseVerdict(status, "", claim, DIGEST, DIGEST)


def image(number: int) -> Reference:
    """Return a base of the chain, by tag and digest."""
    return Reference.parse(f"registry.example/base:{number}@{DIGEST}")


def chain(length: int) -> BaseVerdict:
    """Return the verdict of an image with this number of bases below each other, of which the last one has moved."""
    images = {image(each): {"": verdict(each + 1)} for each in range(1, length)}
    images[image(length)] = {"": BaseVerdict(BaseStatus.CURRENT, "")}
    images[image(length - 1)] = {"": verdict(length, BaseStatus.OUTDATED)}
    return with_ancestors(verdict(1), images)


@pytest.mark.parametrize("length", [3, MAX_ANCESTORS, MAX_ANCESTORS + 1])
def test_a_moved_ancestor_within_the_limit_is_found(length: int) -> None:
    """An image is outdated if the last of its ancestors is."""
    assert chain(length).status is BaseStatus.OUTDATED


@pytest.mark.parametrize("length", [MAX_ANCESTORS + 2, 10_000])
def test_an_image_with_ancestors_beyond_the_limit_is_not_current(length: int) -> None:
    """Of a chain that is longer than what is checked it is unknown whether an ancestor has moved."""
    found = chain(length)

    assert found.status is BaseStatus.UNKNOWN
    assert f"more than {MAX_ANCESTORS} ancestors" in found.reason


@pytest.mark.parametrize(
    ("checked", "status"),
    [
        (("linux/amd64", "linux/arm64/v8"), BaseStatus.OUTDATED),
        (("linux/amd64", "linux/s390x"), BaseStatus.UNKNOWN),
        (("linux/arm64",), BaseStatus.OUTDATED),
    ],
)
def test_the_base_counts_for_the_platform_of_the_image(checked: tuple[str, ...], status: BaseStatus) -> None:
    """A base that has moved for the image's own platform only makes it outdated, and one that was not checked for it is doubt."""
    *others, own = checked
    verdicts = {name: verdict(2) for name in others} | {own: verdict(2, BaseStatus.OUTDATED)}
    found = with_ancestors(replace(verdict(1), platform="linux/arm64"), {image(1): verdicts})

    assert found.status is status
