"""cosign through the push proxy: a signature is stored upstream, and verifies there, here, and through another mirror."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import httpx2
import pytest

from tests import servers
from tests.real.registry import Registry
from tests.real.tools import Cosign, Skopeo, run, signature_tag

NAME = "hub.example"

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry without the referrers API."""
    with servers.docker_registry(tmp_path_factory.mktemp("upstream")) as server:
        yield Registry(server)


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory, upstream: Registry) -> Iterator[Registry]:
    """A boltseal push proxy before it, with two workers, that resolves tags at each request."""
    config = f'[[upstream]]\nname = "{NAME}"\nurl = "http://{upstream.host}"\npush = true\nfresh = "0s"\n'
    with servers.boltseal(tmp_path_factory.mktemp("gate") / "data", config=config, workers=2) as server:
        yield Registry(server)


@pytest.fixture
def digest(skopeo: Skopeo, gate: Registry, upstream: Registry, repository: str) -> str:
    """The digest of a sealed image that was pushed through the proxy."""
    skopeo.push(skopeo.image(os.urandom(1000)), f"{gate.host}/{NAME}/{repository}:1.0.0").checked()
    return upstream.digest(repository, "1.0.0")


@pytest.fixture
def image(gate: Registry, repository: str, digest: str) -> str:
    """The reference of the image at the push proxy."""
    return f"{gate.host}/{NAME}/{repository}@{digest}"


@pytest.fixture
def there(upstream: Registry, repository: str, digest: str) -> str:
    """The reference of the image at the upstream."""
    return f"{upstream.host}/{repository}@{digest}"


def test_what_is_signed_through_the_gate_verifies_on_both_sides(cosign: Cosign, image: str, there: str) -> None:
    """Signatures pushed through the proxy verify on both sides; a second one is added, and attestations grow too."""
    cosign.sign(image, "builder").checked()
    cosign.sign(image, "reviewer").checked()
    cosign.attest(image, {"tests": "passed"}).checked()
    cosign.attest(image, {"scan": "clean"}).checked()

    assert cosign.verify(image) == {"builder", "reviewer"}
    assert cosign.verify(there) == {"builder", "reviewer"}
    assert cosign.attestations(image) == cosign.attestations(there) == 2


def test_a_signature_stored_as_a_referrer_goes_through(
    cosign: Cosign, image: str, there: str, gate: Registry, upstream: Registry, repository: str, digest: str
) -> None:
    """For an upstream without the referrers API, the fallback tag is extended and read."""
    cosign.sign(image, "builder", "--registry-referrers-mode=oci-1-1").checked()
    verified = [cosign.verify(each, "--experimental-oci11") for each in (image, there)]
    cosign.sign(image, "reviewer", "--registry-referrers-mode=oci-1-1").checked()
    listed = httpx2.get(f"{gate.server.url}/v2/{NAME}/{repository}/referrers/{digest}", trust_env=False).json()
    fallback = json.loads(upstream.manifest(repository, digest.replace(":", "-")))

    assert verified == [{"builder"}, {"builder"}]
    assert len(listed["manifests"]) == 2
    assert {each["digest"] for each in listed["manifests"]} == {each["digest"] for each in fallback["manifests"]}


def test_signatures_made_at_the_upstream_verify_through_the_push_proxy(cosign: Cosign, image: str, there: str) -> None:
    """Upstream's signatures are served, and can't be overwritten through the push proxy."""
    cosign.sign(there, "stranger").checked()
    verified = cosign.verify(image)
    cosign.sign(image, "builder")

    assert verified == {"stranger"}
    assert "stranger" in cosign.verify(there)


def test_an_image_cannot_replace_its_signatures(
    cosign: Cosign, image: str, there: str, skopeo: Skopeo, gate: Registry, repository: str
) -> None:
    """An image can't replace its signatures, neither locally nor upstream."""
    cosign.sign(image, "builder").checked()
    result = skopeo.push(skopeo.image(os.urandom(1000)), f"{gate.host}/{NAME}/{repository}:{signature_tag(image)}")

    assert not result.ok
    assert "denied: " in result.text
    assert cosign.verify(image) == cosign.verify(there) == {"builder"}


def test_a_signed_image_is_copied_with_its_signatures(
    cosign: Cosign, image: str, there: str, gate: Registry, repository: str
) -> None:
    """`cosign copy` between two repositories of the proxy stores image and signatures upstream."""
    cosign.sign(image, "builder").checked()
    target = f"{gate.host}/{NAME}/{repository}-copy"
    run("cosign", "copy", "--allow-http-registry", "--allow-insecure-registry", image, f"{target}:1.0.0").checked()

    assert cosign.verify(f"{target}@{image.partition('@')[2]}") == {"builder"}
    assert cosign.verify(there.replace("@", "-copy@")) == {"builder"}
