"""Repository isolation: content of one repository can't be seen, used or deleted from another."""

from __future__ import annotations

import httpx2
import pytest

from tests.images import artifact, error_of, holds_blob, image, index, meaning, push, push_blob, push_parts, put

pytestmark = pytest.mark.usefixtures("whole_store")

DOCUMENT = image("in another repository")
NEVER = image("never pushed anywhere")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_manifest_is_invisible_from_another_repository(client: httpx2.AsyncClient, method: str) -> None:
    """A manifest of repository A is 404 in B, by digest and by tag."""
    await push(client, "a", "1.0.0", DOCUMENT)
    await push(client, "b", "2.0.0", image("other"))

    by_digest = await client.request(method, f"/v2/b/manifests/{DOCUMENT.digest}")
    by_tag = await client.request(method, "/v2/b/manifests/1.0.0")

    assert by_digest.status_code == 404
    assert by_tag.status_code == 404


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_blob_is_invisible_from_another_repository(client: httpx2.AsyncClient, method: str) -> None:
    """A blob of repository A is 404 in B, although its bytes are stored."""
    await push(client, "a", "1.0.0", DOCUMENT)
    await push(client, "b", "2.0.0", image("other"))

    answer = await client.request(method, f"/v2/b/blobs/{DOCUMENT.layers[0].digest}")

    assert answer.status_code == 404


async def test_a_range_or_a_condition_reveals_nothing(client: httpx2.AsyncClient) -> None:
    """Neither a range (206, 416) nor If-None-Match (304) reveals to B what A has."""
    await push(client, "a", "1.0.0", DOCUMENT)
    await push(client, "b", "2.0.0", image("other"))
    blob = f"/v2/b/blobs/{DOCUMENT.config.digest}"

    answers = [
        await client.get(blob, headers={"Range": "bytes=0-1"}),
        await client.get(blob, headers={"Range": "bytes=999999-"}),
        await client.get(blob, headers={"If-None-Match": f'"{DOCUMENT.config.digest}"'}),
        await client.get(f"/v2/b/manifests/{DOCUMENT.digest}", headers={"If-None-Match": f'"{DOCUMENT.digest}"'}),
        await client.get("/v2/b/manifests/1.0.0", headers={"If-None-Match": "*"}),
    ]

    assert [answer.status_code for answer in answers] == [404] * 5


@pytest.mark.parametrize("kind", ["manifest", "blob"])
async def test_absent_here_and_absent_everywhere_read_the_same(client: httpx2.AsyncClient, kind: str) -> None:
    """The 404 for content that only A has equals the 404 for content that no repository has."""
    await push(client, "a", "1.0.0", DOCUMENT)
    await push(client, "b", "2.0.0", image("other"))
    held, never = (
        (DOCUMENT.digest, NEVER.digest) if kind == "manifest" else (DOCUMENT.config.digest, NEVER.config.digest)
    )

    elsewhere = await client.get(f"/v2/b/{kind}s/{held}")
    nowhere = await client.get(f"/v2/b/{kind}s/{never}")

    numbers = {answer.headers.pop("x-request-id") for answer in (elsewhere, nowhere)}  # each repository has its own

    assert len(numbers) == 2
    assert elsewhere.text.replace(held, never) == nowhere.text
    assert elsewhere.headers == nowhere.headers


@pytest.mark.parametrize("kind", ["manifest", "blob"])
async def test_content_of_another_repository_can_not_be_deleted(floating_client: httpx2.AsyncClient, kind: str) -> None:
    """DELETE in B of content that A has is 404, and A still has it."""
    await push(floating_client, "a", "1.0.0", DOCUMENT)
    await push(floating_client, "b", "2.0.0", image("other"))
    digest = DOCUMENT.digest if kind == "manifest" else DOCUMENT.config.digest

    answer = await floating_client.delete(f"/v2/b/{kind}s/{digest}")

    assert answer.status_code == 404
    assert (await floating_client.get(f"/v2/a/{kind}s/{digest}")).status_code == 200


async def test_deleting_in_one_repository_leaves_the_other(floating_client: httpx2.AsyncClient) -> None:
    """Content of both repositories that B deletes is still served by A."""
    for repository in ("a", "b"):
        await push(floating_client, repository, "1.0.0", DOCUMENT)
    await floating_client.delete(f"/v2/b/manifests/{DOCUMENT.digest}")
    for blob in DOCUMENT.blobs:
        await floating_client.delete(f"/v2/b/blobs/{blob.digest}")

    assert await meaning(floating_client, "b", "1.0.0") is None
    assert (await floating_client.get("/v2/a/manifests/1.0.0")).content == DOCUMENT.raw
    assert (await floating_client.get(f"/v2/a/blobs/{DOCUMENT.layers[0].digest}")).content == DOCUMENT.layers[0].data


async def test_referrers_are_isolated(client: httpx2.AsyncClient) -> None:
    """A referrer in A is not listed in B, even if B has the subject."""
    sbom = artifact("sbom", subject=DOCUMENT)
    await push(client, "a", sbom.digest, sbom)
    await push(client, "b", "1.0.0", DOCUMENT)

    answer = await client.get(f"/v2/b/referrers/{DOCUMENT.digest}")

    assert answer.json()["manifests"] == []


async def test_blobs_of_another_repository_do_not_complete_an_image(client: httpx2.AsyncClient) -> None:
    """An image in B whose blobs only A has is refused with MANIFEST_BLOB_UNKNOWN."""
    await push_parts(client, "a", DOCUMENT)

    refused = await put(client, "b", "1.0.0", DOCUMENT)
    nowhere = await put(client, "b", "1.0.0", NEVER)

    assert refused.status_code == 400
    assert error_of(refused)[0] == "MANIFEST_BLOB_UNKNOWN"
    assert nowhere.status_code == 400


async def test_children_of_another_repository_do_not_complete_an_index(client: httpx2.AsyncClient) -> None:
    """An index in B whose child only A has is refused."""
    await push(client, "a", "1.0.0", DOCUMENT)
    await push_parts(client, "b", DOCUMENT)

    refused = await put(client, "b", "1.0.0", index(DOCUMENT))

    assert refused.status_code == 400
    assert error_of(refused)[0] == "MANIFEST_BLOB_UNKNOWN"


async def test_a_sparse_push_does_not_bypass_isolation(client: httpx2.AsyncClient) -> None:
    """A manifest pushed by digest in B that names blobs of A does not add those blobs to B."""
    await push_parts(client, "a", DOCUMENT)
    sparse = await put(client, "b", DOCUMENT.digest, DOCUMENT)

    assert sparse.status_code == 201
    for blob in DOCUMENT.blobs:
        assert not await holds_blob(client, "b", blob.digest)


async def test_tags_are_isolated(client: httpx2.AsyncClient) -> None:
    """B does not list A's tags, and A's existence does not make B known."""
    await push(client, "a", "1.0.0", DOCUMENT)

    answer = await client.get("/v2/a/b/tags/list")
    parent = await client.get("/v2/b/tags/list")

    assert answer.status_code == 404
    assert parent.status_code == 404


async def test_a_refusal_reveals_nothing_about_other_repositories(client: httpx2.AsyncClient) -> None:
    """The free tag that a refusal suggests depends on this repository's tags only."""
    await push(client, "a", "1.4.2", DOCUMENT)
    await push(client, "b", "1.4.3", DOCUMENT)

    refused = await push(client, "a", "1.4.2", image("other"))

    assert "(free: 1.4.3)" in error_of(refused)[1]


async def test_a_blob_pushed_to_both_belongs_to_both(client: httpx2.AsyncClient) -> None:
    """Bytes may be stored once, but each repository has a blob only by its own push."""
    blob = DOCUMENT.layers[0]
    await push_blob(client, "a", blob)
    before = await holds_blob(client, "b", blob.digest)
    await push_blob(client, "b", blob)

    assert not before
    assert await holds_blob(client, "b", blob.digest)
