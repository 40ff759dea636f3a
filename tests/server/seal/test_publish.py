"""A published tag keeps its digest: an absent tag or the same digest is 201, anything else is refused."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from tests.images import (
    DOCKER_MANIFEST,
    OCI_MANIFEST,
    Document,
    digest_of,
    error_of,
    image,
    index,
    meaning,
    push,
    push_parts,
    put,
    to_json,
)
from tests.serving import FLOATING, serving

FIRST, SECOND, THIRD = image("first"), image("second"), image("third")


def entry_of(answer: httpx2.Response) -> int:
    """Return the index of the ledger entry in the answer."""
    return int(answer.headers["Boltseal-Ledger-Index"])


async def test_the_first_push_is_accepted_and_recorded(client: httpx2.AsyncClient) -> None:
    """The first push of a tag is accepted, and its answer names the ledger entry."""
    answer = await push(client, "shop/app", "1.4.2", FIRST)

    assert answer.status_code == 201
    assert entry_of(answer) > 0
    assert await meaning(client, "shop/app", "1.4.2") == FIRST.digest


async def test_the_same_push_again_is_accepted_and_adds_nothing(client: httpx2.AsyncClient) -> None:
    """Repeating a push gets 201 with the index of the existing entry, and adds none."""
    first = await push(client, "shop/app", "1.4.2", FIRST)
    again = await push(client, "shop/app", "1.4.2", FIRST)
    other_tag = await put(client, "shop/app", "1.4.3", FIRST)

    assert again.status_code == 201
    assert again.headers["Docker-Content-Digest"] == FIRST.digest
    assert entry_of(again) == entry_of(first)
    assert entry_of(other_tag) == entry_of(first) + 1


@pytest.mark.parametrize(
    "document", [SECOND, index(FIRST), image("first", docker=True)], ids=["image", "index", "docker"]
)
async def test_other_content_is_refused(client: httpx2.AsyncClient, document: Document) -> None:
    """Another manifest under a sealed tag gets 409 DENIED, and the tag keeps its digest."""
    await push(client, "shop/app", "1.4.2", FIRST)

    refused = await push(client, "shop/app", "1.4.2", document)
    got = await client.get("/v2/shop/app/manifests/1.4.2")

    assert refused.status_code == 409
    assert error_of(refused)[0] == "DENIED"
    assert got.content == FIRST.raw


async def test_a_refused_push_adds_no_entry(client: httpx2.AsyncClient) -> None:
    """After a refused push, the next entry has the index after the last accepted one."""
    first = await push(client, "shop/app", "1.4.2", FIRST)
    await push(client, "shop/app", "1.4.2", SECOND)
    next_one = await push(client, "shop/app", "1.4.3", SECOND)

    assert entry_of(next_one) == entry_of(first) + 1


async def test_a_refused_push_adds_no_manifest(client: httpx2.AsyncClient) -> None:
    """The manifest of a refused push is not stored, also not by its digest."""
    await push(client, "shop/app", "1.4.2", FIRST)
    await push(client, "shop/app", "1.4.2", SECOND)

    assert await meaning(client, "shop/app", SECOND.digest) is None


async def test_a_refused_push_adds_no_referrer(client: httpx2.AsyncClient) -> None:
    """The manifest of a refused push is not listed as a referrer of its subject."""
    pointing = image("pointing", subject=THIRD.descriptor())
    await push(client, "shop/app", "1.4.2", FIRST)
    await push(client, "shop/app", "1.4.2", pointing)

    listed = await client.get(f"/v2/shop/app/referrers/{THIRD.digest}")

    assert listed.json()["manifests"] == []


async def test_a_refused_push_keeps_an_existing_manifest(client: httpx2.AsyncClient) -> None:
    """An untagged manifest that was stored before is still stored after a refused push of it."""
    await push(client, "shop/app", "1.4.2", FIRST)
    await push(client, "shop/app", SECOND.digest, SECOND)
    refused = await put(client, "shop/app", "1.4.2", SECOND)
    got = await client.get(f"/v2/shop/app/manifests/{SECOND.digest}")

    assert refused.status_code == 409
    assert got.content == SECOND.raw


async def test_a_refused_push_creates_no_repository(client: httpx2.AsyncClient) -> None:
    """A refused push creates no repository."""
    answer = await client.put(
        "/v2/shop/other/manifests/1.4.2", content=FIRST.raw, headers={"Content-Type": OCI_MANIFEST}
    )

    assert answer.status_code == 400
    assert (await client.get("/v2/_catalog")).json()["repositories"] == []


async def test_the_same_bytes_with_another_media_type_are_refused(client: httpx2.AsyncClient) -> None:
    """Equal bytes under another media type are refused for a sealed tag."""
    body = {"schemaVersion": 2, "config": FIRST.config.descriptor(), "layers": []}
    as_oci = Document(to_json(body), OCI_MANIFEST, (FIRST.config,))
    as_docker = Document(to_json(body), DOCKER_MANIFEST, (FIRST.config,))
    accepted = await push(client, "shop/app", "1.4.2", as_oci)
    refused = await push(client, "shop/app", "1.4.2", as_docker)
    got = await client.get("/v2/shop/app/manifests/1.4.2")

    assert accepted.status_code == 201
    assert refused.status_code in {400, 409}
    assert got.headers["Content-Type"] == OCI_MANIFEST


@pytest.mark.parametrize("first", ["sha256", "sha512", "tag"])
@pytest.mark.parametrize("second", ["sha256", "sha512", "tag"])
async def test_the_algorithm_of_the_url_does_not_matter(client: httpx2.AsyncClient, first: str, second: str) -> None:
    """A push of equal bytes under the other digest algorithm, or by tag, gets 201 without a new entry."""

    async def publish(how: str, document: Document) -> httpx2.Response:
        if how == "tag":
            return await put(client, "shop/app", "1.4.2", document)
        return await put(client, "shop/app", digest_of(document.raw, how), document, tags=["1.4.2"])

    await push_parts(client, "shop/app", FIRST)
    await push_parts(client, "shop/app", SECOND)
    one = await publish(first, FIRST)
    two = await publish(second, FIRST)
    refused = await publish(second, SECOND)

    assert one.status_code == 201
    assert two.status_code == 201
    assert entry_of(two) == entry_of(one)
    assert refused.status_code == 409


async def test_a_seal_covers_one_tag(client: httpx2.AsyncClient) -> None:
    """A seal of one tag affects neither other tags nor that tag of another repository."""
    await push(client, "shop/app", "1.4.2", FIRST)

    elsewhere = await push(client, "shop/other", "1.4.2", SECOND)
    beside = await push(client, "shop/app", "1.4.3", SECOND)

    assert elsewhere.status_code == 201
    assert beside.status_code == 201


async def test_a_seal_is_kept_after_a_restart(data: Path) -> None:
    """A seal, which is in the store, is unchanged after a restart."""
    async with serving(data) as registry:
        first = await push(registry.client, "shop/app", "1.4.2", FIRST)
    async with serving(data) as registry:
        refused = await push(registry.client, "shop/app", "1.4.2", SECOND)
        again = await push(registry.client, "shop/app", "1.4.2", FIRST)

    assert refused.status_code == 409
    assert again.status_code == 201
    assert entry_of(again) == entry_of(first)


async def test_changed_rules_never_unseal(data: Path) -> None:
    """A new rule that makes tags mutable does not apply to a tag that is sealed already."""
    async with serving(data) as registry:
        await push(registry.client, "shop/app", "1.4.2", FIRST)
    async with serving(data, FLOATING) as registry:
        refused = await push(registry.client, "shop/app", "1.4.2", SECOND)
        new = await push(registry.client, "shop/app", "1.4.3", FIRST)
        moved = await push(registry.client, "shop/app", "1.4.3", SECOND)

    assert refused.status_code == 409
    assert new.status_code == 201
    assert moved.status_code == 201


async def test_a_floating_tag_is_sealed_by_its_next_push_when_a_rule_now_seals(data: Path) -> None:
    """A mutable tag that a new rule seals moves once more and is sealed at the pushed digest."""
    async with serving(data, FLOATING) as registry:
        await push(registry.client, "shop/app", "1.4.2", FIRST)
    async with serving(data) as registry:
        moved = await push(registry.client, "shop/app", "1.4.2", SECOND)
        refused = await push(registry.client, "shop/app", "1.4.2", THIRD)
        back = await push(registry.client, "shop/app", "1.4.2", FIRST)

        assert moved.status_code == 201
        assert refused.status_code == 409
        assert back.status_code == 409
        assert await meaning(registry.client, "shop/app", "1.4.2") == SECOND.digest


async def test_a_floating_tag_is_sealed_at_its_digest_by_the_same_push(data: Path) -> None:
    """Pushing a mutable tag's present digest under a rule that now seals it seals it, which is recorded."""
    async with serving(data, FLOATING) as registry:
        first = await push(registry.client, "shop/app", "1.4.2", FIRST)
    async with serving(data) as registry:
        sealed = await push(registry.client, "shop/app", "1.4.2", FIRST)
        refused = await push(registry.client, "shop/app", "1.4.2", SECOND)

    assert sealed.status_code == 201
    assert entry_of(sealed) > entry_of(first)
    assert refused.status_code == 409


async def test_a_floating_tag_stays_mutable_until_it_is_pushed_again(data: Path) -> None:
    """A changed rule alone neither moves nor seals a tag, until it is pushed again."""
    async with serving(data, FLOATING) as registry:
        await push(registry.client, "shop/app", "1.4.2", FIRST)
    async with serving(data) as registry:
        got = await registry.client.get("/v2/shop/app/manifests/1.4.2")

    assert got.headers["Cache-Control"] == "no-store"


async def test_a_floating_tag_moves_and_each_move_is_recorded(client: httpx2.AsyncClient) -> None:
    """Each move of a mutable tag is a ledger entry, and a repeated push is not."""
    one = await push(client, "shop/app", "latest", FIRST)
    two = await push(client, "shop/app", "latest", SECOND)
    again = await push(client, "shop/app", "latest", SECOND)
    back = await push(client, "shop/app", "latest", FIRST)

    assert [answer.status_code for answer in (one, two, again, back)] == [201, 201, 201, 201]
    assert entry_of(two) == entry_of(one) + 1
    assert entry_of(again) == entry_of(two)
    assert entry_of(back) == entry_of(two) + 1


async def test_the_previous_digest_of_a_floating_tag_stays(client: httpx2.AsyncClient) -> None:
    """The former digest of a mutable tag, with all its blobs, can be pulled."""
    await push(client, "shop/app", "latest", FIRST)
    await push(client, "shop/app", "latest", SECOND)

    got = await client.get(f"/v2/shop/app/manifests/{FIRST.digest}")
    blob = await client.get(f"/v2/shop/app/blobs/{FIRST.layers[0].digest}")

    assert got.content == FIRST.raw
    assert blob.content == FIRST.layers[0].data


async def test_a_push_by_digest_alone_has_no_entry(client: httpx2.AsyncClient) -> None:
    """A push without a tag adds no ledger entry."""
    by_digest = await push(client, "shop/app", FIRST.digest, FIRST)

    assert by_digest.status_code == 201
    assert "Boltseal-Ledger-Index" not in by_digest.headers
