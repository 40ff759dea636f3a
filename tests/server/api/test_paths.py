"""Paths are parsed strictly from the right, so that two different paths never become one name."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.errors import BoltsealError
from boltseal.oci.digest import Digest, DigestInvalid
from boltseal.oci.reference import NameInvalid, Repository, Tag, TagInvalid
from boltseal.server.api.paths import (
    ROUTES,
    BaseTarget,
    BlobTarget,
    CatalogTarget,
    ManifestTarget,
    ReferrersTarget,
    TagListTarget,
    Target,
    UploadsTarget,
    UploadTarget,
    parse_path,
    route_of,
)
from boltseal.server.storage.blobs.protocol import UploadId, UploadUnknown

HEX = "ab" * 32
DIGEST = Digest("sha256", HEX)
APP = Repository("shop/app")
SESSION = UploadId.new()

AWKWARD_NAMES = ["a/manifests/b", "x/tags/list", "a/blobs/uploads", "a/referrers", "tags", "manifests", "a/blobs"]


@pytest.mark.parametrize("path", ["/v2/", "/v2"])
def test_the_api_itself(path: str) -> None:
    """`/v2/` and `/v2` are the API itself, since clients send both."""
    assert parse_path(path.encode()) == BaseTarget()


@pytest.mark.parametrize("name", [APP, *AWKWARD_NAMES])
def test_every_route_of_every_name(name: str) -> None:
    """Repository names may contain the words of routes, because a path is parsed from its end."""
    repository = Repository(name)

    assert parse_path(f"/v2/{name}/tags/list".encode()) == TagListTarget(repository)
    assert parse_path(f"/v2/{name}/manifests/1.4.2".encode()) == ManifestTarget(repository, Tag("1.4.2"))
    assert parse_path(f"/v2/{name}/manifests/{DIGEST}".encode()) == ManifestTarget(repository, DIGEST)
    assert parse_path(f"/v2/{name}/blobs/{DIGEST}".encode()) == BlobTarget(repository, DIGEST)
    assert parse_path(f"/v2/{name}/referrers/{DIGEST}".encode()) == ReferrersTarget(repository, DIGEST)
    assert parse_path(f"/v2/{name}/blobs/uploads/".encode()) == UploadsTarget(repository)
    assert parse_path(f"/v2/{name}/blobs/uploads".encode()) == UploadsTarget(repository)
    assert parse_path(f"/v2/{name}/blobs/uploads/{SESSION}".encode()) == UploadTarget(repository, SESSION)


@pytest.mark.parametrize("tag", ["list", "uploads", "manifests", "blobs", "tags"])
def test_tags_named_like_a_route(tag: str) -> None:
    """A tag may be any word, also one that ends another route."""
    assert parse_path(f"/v2/shop/app/manifests/{tag}".encode()) == ManifestTarget(APP, Tag(tag))


def test_catalog() -> None:
    """The catalog's path can't be a repository's."""
    assert parse_path(b"/v2/_catalog") == CatalogTarget()


@pytest.mark.parametrize("colon", ["%3A", "%3a"])
def test_an_escaped_colon_in_a_digest(colon: str) -> None:
    """An escaped colon in a digest is accepted, as some clients send it."""
    assert parse_path(f"/v2/shop/app/manifests/sha256{colon}{HEX}".encode()) == ManifestTarget(APP, DIGEST)
    assert parse_path(f"/v2/shop/app/blobs/sha256{colon}{HEX}".encode()) == BlobTarget(APP, DIGEST)


@pytest.mark.parametrize(
    "path",
    [
        "/v2/shop%2Fapp/manifests/1",
        "/v2/shop/%61pp/manifests/1",
        "/v2/shop/app/manifests/1%2E4",
        "/v2/shop/app/manifests/%31",
        "/v2/shop/app/blobs/sha256%253A" + HEX,
        "/v2/shop/app%00/tags/list",
        "/v2/%2e%2e/app/tags/list",
        "/v2/shop%3Aapp/tags/list",
    ],
)
def test_any_other_escape_is_refused(path: str) -> None:
    """Any other escape is refused, since a name would have two spellings."""
    with pytest.raises(NameInvalid, match="escape"):
        parse_path(path.encode())


@pytest.mark.parametrize(
    "path",
    [
        b"/v2//app/tags/list",
        b"/v2/shop//app/tags/list",
        b"/v2/shop/app//manifests/1",
        b"/v2/shop/app/manifests/1/",
        b"/v2/shop/app/manifests/",
        b"/v2/shop/app/tags/list/",
        b"/v2/shop/app/blobs/uploads//",
        b"/v2/../app/tags/list",
        b"/v2/shop/../tags/list",
        b"/v2/shop/./app/tags/list",
        b"/v2/shop/app/manifests/..",
        b"/v2/shop\x00/tags/list",
        b"/v2/shop/app/manifests/1\x00",
        b"/v2/shop/app\n/tags/list",
        b"/v2/sh\xc3\xb6p/app/tags/list",
        b"/v2/Shop/app/tags/list",
        b"/v2/-shop/tags/list",
        b"/v2/shop_-app/tags/list",
        b"/v2/tags/list",
        b"/v2/manifests/1",
        b"/v2/blobs/uploads/",
        b"/v2/" + b"a" * 256 + b"/tags/list",
        b"/v2/" + b"a/" * 4000 + b"tags/list",
    ],
)
def test_names_outside_the_grammar(path: bytes) -> None:
    """An invalid repository name is NAME_INVALID, and is never looked up."""
    with pytest.raises(NameInvalid):
        parse_path(path)


@pytest.mark.parametrize(
    "reference",
    ["sha256:baddigeststring", "sha256:" + HEX.upper(), "md5:" + "a" * 32, "a:b", ":", "sha256:" + HEX + "0"],
)
def test_a_reference_with_a_colon_is_a_digest_or_refused(reference: str) -> None:
    """A reference with a colon can't be a tag, so that it must be a digest."""
    for route in ("manifests", "blobs", "referrers"):
        with pytest.raises(DigestInvalid):
            parse_path(f"/v2/shop/app/{route}/{reference}".encode())


@pytest.mark.parametrize("tag", [".hidden", "-x", "a" * 129, "1+2", "a~b"])
def test_tags_outside_the_grammar(tag: str) -> None:
    """An invalid tag is TagInvalid, so that a pull gets 404 and a push 400."""
    with pytest.raises(TagInvalid):
        parse_path(f"/v2/shop/app/manifests/{tag}".encode())


@pytest.mark.parametrize("session", ["x", "00000000-0000-4000-8000-000000000000", "list"])
def test_upload_ids_in_another_format_are_unknown(session: str) -> None:
    """An upload id in another format is unknown, not invalid."""
    with pytest.raises(UploadUnknown):
        parse_path(f"/v2/shop/app/blobs/uploads/{session}".encode())


@pytest.mark.parametrize(
    "path",
    [
        b"/",
        b"/v1/",
        b"/v2x/",
        b"/V2/",
        b"",
        b"/v2/shop/app",
        b"/v2/shop/app/tags",
        b"/v2/shop/app/tags/lists",
        b"/v2/_catalogs",
    ],
)
def test_paths_that_are_no_route(path: bytes) -> None:
    """A path without the form of a route is None."""
    assert parse_path(path) is None


@given(st.binary(max_size=200))
def test_any_path_is_a_target_none_or_an_error(tail: bytes) -> None:
    """Any path is a target, None, or refused with one of these errors."""
    sentence = "fine"
    try:
        parse_path(b"/v2/" + tail)
    except BoltsealError as error:
        sentence = error.message

    assert sentence
    assert sentence.isprintable()


@given(
    st.lists(
        st.sampled_from(["a", "b0", "manifests", "tags", "list", "blobs", "uploads", "referrers"]),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from(["1", "list", "uploads", "tags"]),
)
def test_a_manifest_path_is_parsed_to_its_name(parts: list[str], tag: str) -> None:
    """The path of any name is parsed to exactly that name."""
    name = "/".join(parts)

    assert parse_path(f"/v2/{name}/manifests/{tag}".encode()) == ManifestTarget(Repository(name), Tag(tag))


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v2/", "/v2/"),
        ("/v2/_catalog", "/v2/_catalog"),
        ("/v2/a/manifests/1.4.2", "/v2/{name}/manifests/{reference}"),
        (f"/v2/a/b/manifests/sha256:{'a' * 64}", "/v2/{name}/manifests/{reference}"),
        ("/v2/_oci/ext/discover", "/v2/_oci/ext/discover"),
        ("/v2/a/_oci/ext/discover", "/v2/{name}/_oci/ext/discover"),
        ("/v2/a/_boltseal/history", "/v2/{name}/_boltseal/history"),
        ("/v2/a/_boltseal/history/1.4.2", "/v2/{name}/_boltseal/history/{tag}"),
        ("/v2/a/_boltseal/observations", "/v2/{name}/_boltseal/observations"),
        ("/v2/a/_boltseal/chains", "/v2/{name}/_boltseal/chains"),
    ],
)
def test_the_route_of_a_path_is_its_template(path: str, route: str) -> None:
    """The label `route` has no name, tag or digest, and only the parts that the path has."""
    target = parse_path(path.encode())

    assert target is not None
    assert route_of(target) == route


def test_every_target_has_a_template() -> None:
    """Each kind of target has a template in the table."""
    assert set(ROUTES) == set(get_args(Target))
