"""cosign with a sealing registry: cosign rewrites its own tags, which may only grow."""

from __future__ import annotations

import os

import pytest

from tests.real.registry import Registry
from tests.real.tools import Cosign, Skopeo, run, signature_tag

pytestmark = pytest.mark.real


@pytest.fixture
def image(skopeo: Skopeo, registry: Registry, repository: str) -> str:
    """The digest reference of a sealed image, which cosign signs."""
    skopeo.push(skopeo.image(os.urandom(1000)), f"{registry.host}/{repository}:1.0.0").checked()
    return f"{registry.host}/{repository}@{registry.digest(repository, '1.0.0')}"


def test_a_signed_image_verifies(cosign: Cosign, image: str) -> None:
    """cosign verifies the signature that it wrote."""
    cosign.sign(image, "builder").checked()

    assert cosign.verify(image) == {"builder"}


def test_a_second_signature_is_added_to_the_first(cosign: Cosign, image: str) -> None:
    """A second signature rewrites the signature tag with both signatures in it."""
    cosign.sign(image, "builder").checked()

    cosign.sign(image, "reviewer").checked()

    assert cosign.verify(image) == {"builder", "reviewer"}


def test_a_second_attestation_is_added_to_the_first(cosign: Cosign, image: str) -> None:
    """A second attestation rewrites the attestation tag with both in it."""
    cosign.attest(image, {"tests": "passed"}).checked()

    cosign.attest(image, {"scan": "clean"}).checked()

    assert cosign.attestations(image) == 2


def test_a_signature_kept_as_a_referrer_verifies(cosign: Cosign, image: str) -> None:
    """A signature stored as a referrer, without tags, is verified."""
    cosign.sign(image, "builder", "--registry-referrers-mode=oci-1-1").checked()

    assert cosign.verify(image, "--experimental-oci11") == {"builder"}


def test_an_image_cannot_replace_the_signatures(
    cosign: Cosign, image: str, skopeo: Skopeo, registry: Registry, repository: str
) -> None:
    """A push of an image to a signature tag is refused, so signatures can't be lost."""
    cosign.sign(image, "builder").checked()
    tag = signature_tag(image)

    result = skopeo.push(skopeo.image(os.urandom(1000)), f"{registry.host}/{repository}:{tag}")

    assert not result.ok
    assert "denied: " in result.text
    assert cosign.verify(image) == {"builder"}


def test_the_signatures_of_a_sealed_image_cannot_be_cleaned_away(cosign: Cosign, image: str) -> None:
    """`cosign clean` can't delete the signatures of a sealed image."""
    cosign.sign(image, "builder").checked()

    cosign.clean(image)

    assert cosign.verify(image) == {"builder"}


def test_the_signatures_of_a_sealed_image_cannot_be_deleted_by_digest(
    cosign: Cosign, image: str, registry: Registry, repository: str
) -> None:
    """The manifest of a sealed image's signature tag can't be deleted by its digest."""
    cosign.sign(image, "builder").checked()
    digest = registry.digest(repository, signature_tag(image))

    result = run("skopeo", "delete", "--tls-verify=false", f"docker://{registry.host}/{repository}@{digest}")

    assert not result.ok
    assert cosign.verify(image) == {"builder"}
