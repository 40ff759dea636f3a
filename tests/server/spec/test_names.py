"""Names of repositories and tags, and paths that are parsed from the right."""

from __future__ import annotations

import httpx2
import pytest

from tests.images import Blob, artifact, error_of, image, meaning, push, push_blob, start_upload, with_digest

DOCUMENT = image("named")


@pytest.mark.parametrize(
    "repository",
    [
        "a",
        "0",
        "a/b/c/d/e/f/g/h",
        "a.b",
        "a_b",
        "a__b",
        "a-b",
        "a-----b",
        "a.b_c__d-e/f",
        "a" * 255,
        "/".join("a" * 128),
        "v2/v2",
    ],
    ids=lambda text: text[:20],
)
async def test_every_name_of_the_grammar_is_accepted(client: httpx2.AsyncClient, repository: str) -> None:
    """Names may have any number of components, with `.`, `_`, `__` and dashes inside each."""
    answer = await push(client, repository, "1.0.0", DOCUMENT)
    got = await client.get(f"/v2/{repository}/manifests/1.0.0")

    assert answer.status_code == 201
    assert got.content == DOCUMENT.raw


@pytest.mark.parametrize(
    "repository",
    [
        "A",
        "shop/App",
        "-a",
        "a-",
        ".a",
        "a.",
        "_a",
        "a_",
        "a..b",
        "a___b",
        "a._b",
        "a.-b",
        "a//b",
        "a/",
        "shop/_app",
        "a:b",
        "a@b",
        "a b",
        "a+b",
        "a~b",
        "\u00e4",
        "a" * 256,
    ],
    ids=lambda text: text[:20],
)
async def test_every_other_name_is_400_name_invalid(client: httpx2.AsyncClient, repository: str) -> None:
    """A name outside the grammar is 400 NAME_INVALID for pulls, pushes and uploads, and nothing is created."""
    pulled = await client.get(f"/v2/{repository}/manifests/1.0.0")
    pushed = await client.put(
        f"/v2/{repository}/manifests/1.0.0", content=DOCUMENT.raw, headers={"Content-Type": DOCUMENT.media_type}
    )
    upload = await client.post(f"/v2/{repository}/blobs/uploads/")
    listed = await client.get(f"/v2/{repository}/tags/list")

    for answer in (pulled, pushed, upload, listed):
        assert answer.status_code == 400
        assert error_of(answer)[0] == "NAME_INVALID"
    assert (await client.get("/v2/_catalog")).json()["repositories"] == []


@pytest.mark.parametrize(
    "tag", ["a", "A", "_", "0", "1.0.0", "a.b-c_d", "_-.", "1..0", "x" * 128], ids=lambda text: text[:20]
)
async def test_every_tag_of_the_grammar_can_be_published(client: httpx2.AsyncClient, tag: str) -> None:
    """A tag starts with a letter, digit or underscore, and has up to 128 of those, dots and dashes."""
    answer = await push(client, "shop/app", tag, DOCUMENT)

    assert answer.status_code == 201
    assert await meaning(client, "shop/app", tag) == DOCUMENT.digest


@pytest.mark.parametrize(
    "tag", [".a", "-a", "a+b", "a b", "a~", "a@b", "a:b", "\u00e4", "x" * 129], ids=lambda text: text[:20]
)
async def test_every_other_tag_is_refused(client: httpx2.AsyncClient, tag: str) -> None:
    """A tag outside the grammar is 400 on a push and 400 or 404 on a pull."""
    pushed = await push(client, "shop/app", tag, DOCUMENT)
    pulled = await client.get(f"/v2/shop/app/manifests/{tag}")

    assert pushed.status_code == 400
    assert error_of(pushed)[0] in {"MANIFEST_INVALID", "DIGEST_INVALID", "NAME_INVALID"}
    assert pulled.status_code in {400, 404}


@pytest.mark.parametrize(
    "repository",
    [
        "a/manifests/b",
        "a/blobs/b",
        "a/tags/list",
        "a/tags/b",
        "a/referrers/b",
        "a/blobs/uploads",
        "a/blobs/uploads/b",
        "manifests",
        "blobs/uploads",
        "tags/list",
        "manifests/manifests/manifests",
    ],
)
async def test_a_repository_may_be_named_like_a_route(client: httpx2.AsyncClient, repository: str) -> None:
    """All routes work on repositories whose names have the words of routes."""
    sbom = artifact("sbom", subject=DOCUMENT)
    blob = Blob(b"in " + repository.encode())
    await push(client, repository, "1.0.0", DOCUMENT)
    await push(client, repository, sbom.digest, sbom)
    await push_blob(client, repository, blob)
    location = await start_upload(client, repository)
    closed = await client.put(with_digest(location, Blob(b"x").digest), content=b"x")

    manifest = await client.get(f"/v2/{repository}/manifests/1.0.0")
    got_blob = await client.get(f"/v2/{repository}/blobs/{blob.digest}")
    tags = await client.get(f"/v2/{repository}/tags/list")
    referrers = await client.get(f"/v2/{repository}/referrers/{DOCUMENT.digest}")

    assert closed.status_code == 201
    assert manifest.content == DOCUMENT.raw
    assert got_blob.content == blob.data
    assert tags.json() == {"name": repository, "tags": ["1.0.0"]}
    assert [each["digest"] for each in referrers.json()["manifests"]] == [sbom.digest]


async def test_names_differ_by_every_character(client: httpx2.AsyncClient) -> None:
    """Tags are case-sensitive, and a repository's name is no prefix of another's."""
    await push(client, "shop/app", "rc", image("lower"))
    await push(client, "shop/app", "RC", image("upper"))
    await push(client, "shop", "rc", image("parent"))

    assert await meaning(client, "shop/app", "rc") == image("lower").digest
    assert await meaning(client, "shop/app", "RC") == image("upper").digest
    assert await meaning(client, "shop", "rc") == image("parent").digest
    assert await meaning(client, "shop/app/rc", "rc") is None
