"""`boltseal explain`: the whole answer to "what is a repository?", without asking anybody."""

from __future__ import annotations

import pytest

from boltseal.commands.explain import explain_reference
from boltseal.oci.reference import Reference
from tests.cli import program


def values(typed: str) -> dict[str, str]:
    return {part.name: part.value for part in explain_reference(typed, Reference.parse(typed))}


def resolutions(typed: str) -> dict[str, str]:
    return {part.name: part.meaning for part in explain_reference(typed, Reference.parse(typed))}


def test_what_docker_adds_is_said() -> None:
    """A bare name gets a registry, library/ and latest, and each is named."""
    said = resolutions("ubuntu")["reference"]

    assert values("ubuntu")["reference"] == "docker.io/library/ubuntu:latest"
    assert "the registry docker.io" in said
    assert "library/" in said
    assert "the tag latest" in said


def test_the_alias_of_docker_hub_is_said_to_be_one() -> None:
    """It is a host, in place of which Docker uses docker.io."""
    said = resolutions("index.docker.io/library/nginx")["reference"]

    assert values("index.docker.io/library/nginx")["reference"] == "docker.io/library/nginx:latest"
    assert "index.docker.io is an alias of Docker Hub, docker.io. Docker adds the tag latest." in said
    assert "not a host" not in said


def test_a_complete_name_gets_nothing() -> None:
    """Nothing is said to be added where nothing is."""
    assert "nothing is added" in resolutions("localhost:5000/shop/app:1.4.2")["reference"]


def test_why_names_have_two_parts() -> None:
    """The owner and the image, on Docker Hub; elsewhere it is custom."""
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
def test_where_it_lives_remotely(typed: str, address: str) -> None:
    """The address of the manifest, as a client asks for it."""
    assert values(typed)["remotely"] == address


def test_the_page_for_people_is_named() -> None:
    """Docker Hub's official images have pages of their own kind."""
    assert "https://hub.docker.com/_/ubuntu." in resolutions("ubuntu")["remotely"]
    assert "https://hub.docker.com/r/ouruser/sinatra." in resolutions("ouruser/sinatra")["remotely"]


def test_beside_a_digest_a_tag_is_only_read() -> None:
    """What decides, where both are there."""
    both = f"app:1.4.2@sha256:{'0' * 64}"
    alone = f"app@sha256:{'0' * 64}"

    assert "the digest decides" in resolutions(both)["tag"]
    assert values(alone)["tag"] == ""
    assert "the digest alone" in resolutions(alone)["tag"]


def test_it_is_printed_on_eighty_columns_and_as_json() -> None:
    """Both forms say the same."""
    printed = program.call("explain", "ouruser/sinatra:v2")
    told = program.call("explain", "ouruser/sinatra:v2", "--json").json

    assert printed.code == 0
    assert max(map(len, printed.out.splitlines())) <= 80
    assert told["schema"] == "boltseal.explain/1"
    assert told["results"][0]["ref"] == "docker.io/ouruser/sinatra:v2"
    assert told["results"][0]["repository"]["value"] == "ouruser/sinatra"


def test_what_is_no_reference_is_usage() -> None:
    """A URL is refused with what was expected."""
    ended = program.call("explain", "https://example.com/app")

    assert ended.code == 2
    assert "has no scheme" in ended.err
