"""Listing referrers: end-12a and end-12b."""

from __future__ import annotations

import json

import httpx2
import pytest

from tests.images import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    SBOM_TYPE,
    Document,
    artifact,
    error_of,
    image,
    index,
    push,
    signature_tag,
)

SUBJECT = image("subject")
REFERRERS = f"/v2/shop/app/referrers/{SUBJECT.digest}"


async def listed(client: httpx2.AsyncClient, **params: str) -> list[dict[str, object]]:
    answer = await client.get(REFERRERS, params=params)
    manifests = answer.json()["manifests"]
    if not isinstance(manifests, list):
        raise AssertionError(answer.text)
    return manifests


@pytest.mark.parametrize("repository", ["shop/app", "nowhere/at-all"])
async def test_no_referrers_is_200_and_empty(client: httpx2.AsyncClient, repository: str) -> None:
    """A digest without referrers, also in an unknown repository, is 200 with an empty index and never 404."""
    await push(client, "shop/app", "1.0.0", SUBJECT)

    answer = await client.get(f"/v2/{repository}/referrers/sha256:{'0' * 64}")

    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == OCI_INDEX
    assert answer.json() == {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}


@pytest.mark.parametrize("digest", ["1.0.0", "sha256:abc", "sha256:" + "G" * 64, "md5:" + "0" * 32, "sha256:"])
async def test_a_malformed_digest_is_400(client: httpx2.AsyncClient, digest: str) -> None:
    """A malformed digest is 400."""
    answer = await client.get(f"/v2/shop/app/referrers/{digest}")

    assert answer.status_code == 400
    assert error_of(answer)[0] == "DIGEST_INVALID"


async def test_a_referrer_is_listed_with_type_size_and_annotations(client: httpx2.AsyncClient) -> None:
    """Each entry has the referrer's media type, size, digest, artifact type and annotations."""
    sbom = artifact("sbom", subject=SUBJECT, annotations={"org.example.words": "hello"})
    await push(client, "shop/app", "1.0.0", SUBJECT)
    await push(client, "shop/app", sbom.digest, sbom)

    answer = await client.get(REFERRERS)

    assert answer.headers["Content-Type"] == OCI_INDEX
    assert answer.json()["manifests"] == [
        {
            "mediaType": OCI_MANIFEST,
            "digest": sbom.digest,
            "size": len(sbom.raw),
            "artifactType": SBOM_TYPE,
            "annotations": {"org.example.words": "hello"},
        }
    ]


async def test_an_image_without_artifact_type_is_listed_with_its_config_type(client: httpx2.AsyncClient) -> None:
    """An image without artifactType is listed with its config's media type."""
    document = image("pointing", subject=SUBJECT.descriptor())
    await push(client, "shop/app", document.digest, document)

    entries = await listed(client)

    assert entries[0]["artifactType"] == OCI_CONFIG


async def test_an_index_without_artifact_type_is_listed_without(client: httpx2.AsyncClient) -> None:
    """An index without artifactType is listed without one, since it has no config."""
    document = index(image("child"), subject=SUBJECT.descriptor())
    await push(client, "shop/app", document.digest, document)

    entries = await listed(client)

    assert entries[0]["digest"] == document.digest
    assert entries[0]["mediaType"] == OCI_INDEX
    assert "artifactType" not in entries[0]


async def test_an_index_with_an_artifact_type_is_listed_with_it(client: httpx2.AsyncClient) -> None:
    """An index with an artifactType is listed with it."""
    document = index(image("child"), subject=SUBJECT.descriptor(), artifactType="application/vnd.example.bundle")
    await push(client, "shop/app", document.digest, document)

    entries = await listed(client)

    assert entries[0]["artifactType"] == "application/vnd.example.bundle"


async def test_referrers_pushed_before_their_subject_are_listed(client: httpx2.AsyncClient) -> None:
    """Referrers that were pushed before their subject are listed."""
    sbom = artifact("sbom", subject=SUBJECT)
    await push(client, "shop/app", sbom.digest, sbom)
    await push(client, "shop/app", "1.0.0", SUBJECT)

    entries = await listed(client)

    assert [entry["digest"] for entry in entries] == [sbom.digest]


async def test_entries_are_filtered_by_artifact_type(client: httpx2.AsyncClient) -> None:
    """`artifactType` filters the entries, and the answer names the applied filter."""
    one = artifact("one", subject=SUBJECT, artifact_type="application/vnd.example.one")
    two = artifact("two", subject=SUBJECT, artifact_type="application/vnd.example.two+json")
    await push(client, "shop/app", one.digest, one)
    await push(client, "shop/app", two.digest, two)

    answer = await client.get(REFERRERS, params={"artifactType": "application/vnd.example.two+json"})

    assert answer.headers["OCI-Filters-Applied"] == "artifactType"
    assert [entry["digest"] for entry in answer.json()["manifests"]] == [two.digest]


async def test_a_filter_without_matches_gets_an_empty_index(client: httpx2.AsyncClient) -> None:
    """A filter without matches gets an empty index that names the filter."""
    sbom = artifact("sbom", subject=SUBJECT)
    await push(client, "shop/app", sbom.digest, sbom)

    answer = await client.get(REFERRERS, params={"artifactType": "application/vnd.example.none"})

    assert answer.status_code == 200
    assert answer.headers["OCI-Filters-Applied"] == "artifactType"
    assert answer.json()["manifests"] == []


async def test_without_a_filter_the_header_is_absent(client: httpx2.AsyncClient) -> None:
    """OCI-Filters-Applied is absent if nothing was filtered."""
    answer = await client.get(REFERRERS)

    assert "OCI-Filters-Applied" not in answer.headers


async def test_a_referrer_of_a_referrer_is_listed_for_its_subject(client: httpx2.AsyncClient) -> None:
    """A referrer of a referrer is listed for its own subject only."""
    sbom = artifact("sbom", subject=SUBJECT)
    signed = artifact("signature", subject=sbom)
    await push(client, "shop/app", sbom.digest, sbom)
    await push(client, "shop/app", signed.digest, signed)

    of_subject = await listed(client)
    of_sbom = (await client.get(f"/v2/shop/app/referrers/{sbom.digest}")).json()["manifests"]

    assert [entry["digest"] for entry in of_subject] == [sbom.digest]
    assert [entry["digest"] for entry in of_sbom] == [signed.digest]


async def test_a_deleted_referrer_is_not_listed(floating_client: httpx2.AsyncClient) -> None:
    """A deleted referrer is no longer listed."""
    sbom = artifact("sbom", subject=SUBJECT)
    await push(floating_client, "shop/app", sbom.digest, sbom)
    await floating_client.delete(f"/v2/shop/app/manifests/{sbom.digest}")

    assert await listed(floating_client) == []


async def test_referrers_of_a_deleted_subject_are_listed(floating_client: httpx2.AsyncClient) -> None:
    """A deleted subject still has its referrers, which may be needed when it returns."""
    sbom = artifact("sbom", subject=SUBJECT)
    await push(floating_client, "shop/app", "1.0.0", SUBJECT)
    await push(floating_client, "shop/app", sbom.digest, sbom)
    await floating_client.delete(f"/v2/shop/app/manifests/{SUBJECT.digest}")

    assert [entry["digest"] for entry in await listed(floating_client)] == [sbom.digest]


async def test_a_tagged_referrer_is_listed(client: httpx2.AsyncClient) -> None:
    """A referrer may have a tag."""
    sbom = artifact("sbom", subject=SUBJECT)
    await push(client, "shop/app", "1.0.0-sbom", sbom)

    assert [entry["digest"] for entry in await listed(client)] == [sbom.digest]


async def test_entries_of_a_fallback_tag_are_listed_once(client: httpx2.AsyncClient) -> None:
    """Entries of the fallback tag `sha256-<hex>`, which some clients keep, are listed once each."""
    sbom = artifact("sbom", subject=SUBJECT)
    fallback = index(sbom)
    await push(client, "shop/app", "1.0.0", SUBJECT)
    await push(client, "shop/app", signature_tag(SUBJECT, ""), fallback)

    assert [entry["digest"] for entry in await listed(client)] == [sbom.digest]


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_entries_of_a_fallback_tag_alone_are_listed(client: httpx2.AsyncClient, algorithm: str) -> None:
    """Entries that only the fallback tag has are listed; its name has the algorithm and 64 digits of the digest."""
    subject = image("old", algorithm=algorithm)
    old = artifact("pushed without a subject")
    tag = f"{algorithm}-{subject.digest.partition(':')[2][:64]}"
    await push(client, "shop/app", subject.digest, subject)
    await push(client, "shop/app", tag, index(old))

    answer = await client.get(f"/v2/shop/app/referrers/{subject.digest}")

    assert [entry["digest"] for entry in answer.json()["manifests"]] == [old.digest]


async def test_a_referrer_pushed_twice_is_listed_once(client: httpx2.AsyncClient) -> None:
    """Pushing a referrer again does not list it again."""
    sbom = artifact("sbom", subject=SUBJECT)
    await push(client, "shop/app", sbom.digest, sbom)
    await push(client, "shop/app", sbom.digest, sbom)

    assert len(await listed(client)) == 1


async def test_many_referrers_are_all_found(client: httpx2.AsyncClient) -> None:
    """All of many referrers are found, on one page or by following Link."""
    documents = [artifact(f"sbom {number}", subject=SUBJECT) for number in range(30)]
    for document in documents:
        await push(client, "shop/app", document.digest, document)
    url, found = REFERRERS, []
    while url:
        answer = await client.get(url)
        found += [entry["digest"] for entry in answer.json()["manifests"]]
        url = answer.links["next"]["url"] if "next" in answer.links else ""

    assert sorted(found) == sorted(document.digest for document in documents)


async def test_a_subject_without_a_digest_is_refused(client: httpx2.AsyncClient) -> None:
    """A subject without a digest is refused, because it must be a complete descriptor."""
    plain = artifact("sbom", subject=SUBJECT)
    body = json.loads(plain.raw)
    del body["subject"]["digest"]
    document = Document(json.dumps(body).encode(), OCI_MANIFEST, plain.blobs)

    answer = await push(client, "shop/app", document.digest, document)

    assert answer.status_code == 400
    assert error_of(answer)[0] == "MANIFEST_INVALID"
