"""The syntax of a copy's locations."""

from __future__ import annotations

from pathlib import Path

import pytest

from boltseal.errors import Invalid
from boltseal.transfer.locations import Location, LocationKind


@pytest.mark.parametrize(
    ("text", "kind", "where", "name"),
    [
        ("ubuntu", LocationKind.REGISTRY, "docker.io/library/ubuntu", None),
        ("localhost:5000/shop/app:1.4.2", LocationKind.REGISTRY, "localhost:5000/shop/app", "1.4.2"),
        ("oci:images:1.4.2", LocationKind.LAYOUT, "images", "1.4.2"),
        ("oci:/a/b", LocationKind.LAYOUT, "/a/b", None),
        ("oci:/a:5000/b", LocationKind.LAYOUT, "/a:5000/b", None),
        ("docker-archive:app.tar", LocationKind.ARCHIVE, "app.tar", None),
        ("docker-archive:app.tar:shop/app", LocationKind.ARCHIVE, "app.tar", "docker.io/shop/app:latest"),
        ("docker-daemon:shop/app:1.4.2", LocationKind.DAEMON, "docker.io/shop/app", "1.4.2"),
    ],
)
def test_a_location_is_parsed_as_in_skopeo(text: str, kind: LocationKind, where: str, name: str | None) -> None:
    """A location is parsed as in skopeo: kind, location, and name within it."""
    place = Location.parse(text)

    assert (place.kind, place.name) == (kind, name)
    assert (place.path == Path(where)) if place.reference is None else (place.reference.name == where)


@pytest.mark.parametrize(
    "text", ["oci:", "docker-archive:", "docker-daemon:", "oci:dir:-bad-", "https://x/y", "./app.tar", "/a/b.tar"]
)
def test_a_malformed_location_is_a_usage_error(text: str) -> None:
    """A malformed location is a usage error with the expected form."""
    with pytest.raises(Invalid):
        Location.parse(text)


@pytest.mark.parametrize("text", ["app.tar", "images/app.tar", "app.tar.gz", "app.tgz"])
def test_the_name_of_an_archive_is_not_an_image_of_docker_hub(text: str) -> None:
    """No request is sent for a file that was named without its kind; the message has both forms."""
    with pytest.raises(Invalid, match=f"expected docker-archive:{text}, or docker.io/.*{text} if an image"):
        Location.parse(text)


@pytest.mark.parametrize("text", ["docker.io/library/app.tar", "registry.example.com/app.tar", "app.tar:1.4.2", "tar"])
def test_an_image_may_have_a_name_like_an_archive(text: str) -> None:
    """A name like `app.tar` with a registry or a tag is an image."""
    assert Location.parse(text).kind is LocationKind.REGISTRY


@pytest.mark.parametrize("text", ["./app.tar", "../app.tar", "/a/app.tar", "~/app.tar"])
def test_a_path_without_its_kind_is_refused_with_the_forms_of_a_path(text: str) -> None:
    """A path without its kind is refused with the forms of a path, and not as an invalid registry name."""
    with pytest.raises(Invalid, match="is a path; expected oci:FOLDER:TAG or docker-archive:FILE"):
        Location.parse(text)
