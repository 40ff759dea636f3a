"""`boltseal explain` explains a reference without contacting a registry."""

from __future__ import annotations

import pytest

from boltseal.commands.explain import explain_reference
from boltseal.oci.reference import Reference
from tests.cli import program


def values(typed: str) -> dict[str, str]:
    return {part.name: part.value for part in explain_reference(typed, Reference.parse(typed))}


def resolutions(typed: str) -> dict[str, str]:
    return {part.name: part.meaning for part in explain_reference(typed, Reference.parse(typed))}


def test_the_parts_that_docker_adds_are_named() -> None:
    """For a bare name, `explain` names the registry, `library/` and `latest` that Docker adds."""
    reference = resolutions("ubuntu")["reference"]

    assert values("ubuntu")["reference"] == "docker.io/library/ubuntu:latest"
    assert "the registry docker.io" in reference
    assert "library/" in reference
    assert "the tag latest" in reference


def test_an_alias_of_docker_hub_is_explained() -> None:
    """`explain` says that Docker replaces an alias of Docker Hub by docker.io."""
    reference = resolutions("index.docker.io/library/nginx")["reference"]

    assert values("index.docker.io/library/nginx")["reference"] == "docker.io/library/nginx:latest"
    assert "index.docker.io is an alias of Docker Hub, docker.io. Docker adds the tag latest." in reference
    assert "not a host" not in reference


def test_a_complete_reference_gets_no_additions() -> None:
    """For a complete reference `explain` lists no additions."""
    assert "nothing is added" in resolutions("localhost:5000/shop/app:1.4.2")["reference"]


def test_the_two_parts_of_a_name_are_explained() -> None:
    """`explain` says that names on Docker Hub have an owner and an image, and that other registries follow by custom."""
    assert "ouruser, a user or organisation" in resolutions("ouruser/sinatra:v2")["repository"]
    assert "3 parts" in resolutions("registry.example.com/a/b/c")["repository"]
    assert "One part is enough" in resolutions("localhost:5000/app")["repository"]


@pytest.mark.parametrize(
    ("typed", "address"),
    [
        ("ubuntu", "https://registry-1.docker.io/v2/library/ubuntu/manifests/latest"),
        ("localhost:5000/shop/app:1.4.2", "http://localhost:5000/v2/shop/app/manifests/1.4.2"),
        (f"ghcr.io/a/b:1@sha256:{'0' * 64}", f"https://ghcr.io/v2/a/b/manifests/sha256:{'0' * 64}"),
    ],
)
def test_the_url_of_the_manifest_is_shown(typed: str, address: str) -> None:
    """`explain` shows the URL of the manifest that a client requests."""
    assert values(typed)["remotely"] == address


def test_the_web_page_of_an_image_is_named() -> None:
    """`explain` names the web page of a Docker Hub image; official images have another kind of page."""
    assert "https://hub.docker.com/_/ubuntu." in resolutions("ubuntu")["remotely"]
    assert "https://hub.docker.com/r/ouruser/sinatra." in resolutions("ouruser/sinatra")["remotely"]


def test_beside_a_digest_the_tag_does_not_count() -> None:
    """Where a reference has a tag and a digest, `explain` says that the digest decides."""
    both = f"app:1.4.2@sha256:{'0' * 64}"
    alone = f"app@sha256:{'0' * 64}"

    assert "the digest decides" in resolutions(both)["tag"]
    assert values(alone)["tag"] == ""
    assert "the digest alone" in resolutions(alone)["tag"]


def test_it_is_printed_on_eighty_columns_and_as_json() -> None:
    """Text for 80 columns and JSON have the same content."""
    printed = program.call("explain", "ouruser/sinatra:v2")
    output = program.call("explain", "ouruser/sinatra:v2", "--json").json

    assert printed.code == 0
    assert max(map(len, printed.out.splitlines())) <= 80
    assert output["schema"] == "boltseal.explain/1"
    assert output["results"][0]["ref"] == "docker.io/ouruser/sinatra:v2"
    assert output["results"][0]["repository"]["value"] == "ouruser/sinatra"


def test_an_invalid_reference_is_a_usage_error() -> None:
    """A URL is refused with the expected form."""
    ended = program.call("explain", "https://example.com/app")

    assert ended.code == 2
    assert "has no scheme" in ended.err
