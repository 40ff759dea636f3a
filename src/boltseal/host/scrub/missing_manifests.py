"""Judges images of stores that keep no manifests, by manifests that are fetched when they are needed.

A manifest is only asked for by its digest, so any registry may answer: other bytes are not used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from boltseal.host.scrub.plans import ImagePlan
from boltseal.host.scrub.trust import Expectation, ExpectedPrefix, TrustJudgement, judge
from boltseal.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class FetchedManifests:
    """Manifests by digest. `reason`: why some could not be fetched, "" if none is missing."""

    documents: Mapping[Digest, bytes] = field(default_factory=dict)
    reason: str = ""


FetchManifests = Callable[[ImagePlan, Expectation], FetchedManifests]
"""Fetches the manifests from an expected digest to an image's config; never raises for an unreachable registry."""


def fetch_nothing(_image: ImagePlan, _expected: Expectation) -> FetchedManifests:
    """Fetch no manifest, as with `--offline`."""
    return FetchedManifests()


def judge_with_fetch(
    image: ImagePlan,
    expected: Expectation | ExpectedPrefix | None,
    documents: Mapping[Digest, bytes],
    fetch: FetchManifests,
) -> TrustJudgement:
    """Compare an image with what it must be; fetch manifests if neither the store nor `documents` has them."""
    found = judge(image, expected, documents)
    if not isinstance(expected, Expectation) or not found.lacks_manifest:
        return found
    fetched = fetch(image, expected)
    if fetched.documents:
        found = judge(image, expected, {**documents, **fetched.documents})
    if fetched.reason and (
        found.lacks_manifest or found.differences
    ):  # a manifest that was not read may be the right one
        why = (*found.unknown, f"the manifests of {expected.digest.short} could not be fetched: {fetched.reason}")
        return replace(found, differences=(), unknown=why)
    return found
