"""Tags of signature tools are append-only, and kept while the image that they sign is sealed."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2
import pytest

from tests.images import (
    OCI_MANIFEST,
    Document,
    artifact,
    error_of,
    holds_blob,
    image,
    index,
    meaning,
    push,
    push_parts,
    put,
    signature,
    signature_tag,
    to_json,
)
from tests.serving import FLOATING, Clock, Rule, serving

IMAGE = image("signed")
NOON = 1_700_000_000_000_000
SUFFIXES = [".sig", ".att", ".sbom"]


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_a_signature_tag_may_grow(client: httpx2.AsyncClient, suffix: str) -> None:
    """A signature tag accepts a manifest with a second signature that still has the first."""
    await push(client, "shop/app", "1.4.2", IMAGE)
    tag = signature_tag(IMAGE, suffix)
    first = await push(client, "shop/app", tag, signature(IMAGE, "alice"))
    second = await push(client, "shop/app", tag, signature(IMAGE, "alice", "bob"))

    assert first.status_code == 201
    assert second.status_code == 201
    assert await meaning(client, "shop/app", tag) == signature(IMAGE, "alice", "bob").digest


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("signers", [("mallory",), ("bob", "mallory"), ()], ids=["other", "others", "none"])
async def test_a_signature_tag_may_not_lose_anything(
    client: httpx2.AsyncClient, suffix: str, signers: tuple[str, ...]
) -> None:
    """A signature manifest that lacks a layer of the old one is refused, and the old one stays."""
    await push(client, "shop/app", "1.4.2", IMAGE)
    tag = signature_tag(IMAGE, suffix)
    standing = signature(IMAGE, "alice", "bob")
    await push(client, "shop/app", tag, standing)

    refused = await push(client, "shop/app", tag, signature(IMAGE, *signers))

    assert refused.status_code == 409
    assert error_of(refused)[0] == "DENIED"
    assert await meaning(client, "shop/app", tag) == standing.digest


async def test_a_signature_over_the_same_payload_does_not_replace_another(client: httpx2.AsyncClient) -> None:
    """A layer with the same payload and another signature annotation does not replace the first signature."""
    honest = signature(IMAGE, "alice")
    body = json.loads(honest.raw)
    body["layers"][0]["annotations"] = {"dev.cosignproject.cosign/signature": "MEUCmallory"}
    forged = Document(to_json(body), OCI_MANIFEST, honest.blobs)
    body["layers"].insert(0, json.loads(honest.raw)["layers"][0])
    both = Document(to_json(body), OCI_MANIFEST, honest.blobs)
    await push(client, "shop/app", signature_tag(IMAGE), honest)

    replaced = await put(client, "shop/app", signature_tag(IMAGE), forged)
    added = await put(client, "shop/app", signature_tag(IMAGE), both)

    assert replaced.status_code == 409
    assert added.status_code == 201


async def test_the_same_signature_again_is_accepted(client: httpx2.AsyncClient) -> None:
    """Pushing the same signature again adds nothing."""
    tag = signature_tag(IMAGE)
    first = await push(client, "shop/app", tag, signature(IMAGE, "alice"))
    again = await push(client, "shop/app", tag, signature(IMAGE, "alice"))

    assert again.status_code == 201
    assert again.headers["Boltseal-Ledger-Index"] == first.headers["Boltseal-Ledger-Index"]


async def test_a_fallback_tag_grows_by_entries(client: httpx2.AsyncClient) -> None:
    """The referrers fallback tag is an index that may gain entries and not lose one."""
    one, two = artifact("one", subject=IMAGE), artifact("two", subject=IMAGE)
    tag = signature_tag(IMAGE, "")
    first = await push(client, "shop/app", tag, index(one))
    grown = await push(client, "shop/app", tag, index(one, two))
    shrunk = await push(client, "shop/app", tag, index(two))

    assert first.status_code == 201
    assert grown.status_code == 201
    assert shrunk.status_code == 409


async def test_a_fallback_tag_does_not_become_an_image(client: httpx2.AsyncClient) -> None:
    """A fallback tag's index can't become an image, nor an image an index."""
    tag = signature_tag(IMAGE, "")
    await push(client, "shop/app", tag, index(artifact("one", subject=IMAGE)))

    refused = await push(client, "shop/app", tag, signature(IMAGE, "alice"))

    assert refused.status_code == 409


@pytest.mark.parametrize(
    "tag",
    [
        "sha256-" + "0" * 63 + ".sig",
        "sha256-" + "0" * 64 + ".sigs",
        "sha256-" + "A" * 64 + ".sig",
        "xsha256-" + "0" * 64,
        "sha256-" + "0" * 64 + "-1",
    ],
    ids=lambda tag: tag[:9] + tag[-6:],
)
async def test_a_tag_that_only_resembles_a_signature_tag_is_sealed(client: httpx2.AsyncClient, tag: str) -> None:
    """A tag that only resembles a signature tag is an ordinary, sealed tag."""
    await push(client, "shop/app", tag, signature(IMAGE, "alice"))

    refused = await push(client, "shop/app", tag, signature(IMAGE, "alice", "bob"))

    assert refused.status_code == 409


@pytest.mark.parametrize("suffix", [*SUFFIXES, ""])
async def test_a_signature_of_a_sealed_image_is_kept(client: httpx2.AsyncClient, suffix: str) -> None:
    """While an image is sealed its signatures can't be deleted by tag, by digest, or by blob."""
    await push(client, "shop/app", "1.4.2", IMAGE)
    signed = signature(IMAGE, "alice")
    tag = signature_tag(IMAGE, suffix)
    await push(client, "shop/app", tag, signed)

    paths = [f"manifests/{tag}", f"manifests/{signed.digest}"] + [f"blobs/{blob.digest}" for blob in signed.blobs]
    answers = [await client.delete(f"/v2/shop/app/{path}") for path in paths]

    assert [answer.status_code for answer in answers] == [405] * len(paths)
    assert await meaning(client, "shop/app", tag) == signed.digest
    assert await holds_blob(client, "shop/app", signed.layers[0].digest)


async def test_a_signature_of_a_child_of_a_sealed_index_is_kept(client: httpx2.AsyncClient) -> None:
    """The signature of a child of a sealed index is kept."""
    await push(client, "shop/app", "1.4.2", index(IMAGE))
    await push(client, "shop/app", signature_tag(IMAGE), signature(IMAGE, "alice"))

    answer = await client.delete(f"/v2/shop/app/manifests/{signature_tag(IMAGE)}")

    assert answer.status_code == 405


async def test_a_signature_pushed_before_its_image_is_kept_once_that_is_sealed(client: httpx2.AsyncClient) -> None:
    """A signature that was pushed before its image is kept once the image is sealed."""
    await push(client, "shop/app", signature_tag(IMAGE), signature(IMAGE, "alice"))
    await push(client, "shop/app", "1.4.2", IMAGE)

    answer = await client.delete(f"/v2/shop/app/manifests/{signature_tag(IMAGE)}")

    assert answer.status_code == 405


async def test_a_signature_of_a_mutable_image_may_be_deleted(client: httpx2.AsyncClient) -> None:
    """The signature of an image that no seal covers may be deleted."""
    await push(client, "shop/app", "latest", IMAGE)
    await push(client, "shop/app", signature_tag(IMAGE), signature(IMAGE, "alice"))

    answer = await client.delete(f"/v2/shop/app/manifests/{signature_tag(IMAGE)}")

    assert answer.status_code == 202


async def test_a_signature_tag_that_grew_keeps_what_it_had(client: httpx2.AsyncClient) -> None:
    """After a signature tag grew, its former manifest is kept as well."""
    await push(client, "shop/app", "1.4.2", IMAGE)
    old, new = signature(IMAGE, "alice"), signature(IMAGE, "alice", "bob")
    await push(client, "shop/app", signature_tag(IMAGE), old)
    await push(client, "shop/app", signature_tag(IMAGE), new)

    answer = await client.delete(f"/v2/shop/app/manifests/{old.digest}")
    got = await client.get(f"/v2/shop/app/manifests/{old.digest}")

    assert answer.status_code == 405
    assert got.content == old.raw


async def test_an_operators_rule_may_seal_signature_tags(data: Path) -> None:
    """An operator's rule for signature tags takes precedence over the built-in one."""
    rules: list[Rule] = [{"tag": "*.sig", "mode": "sealed"}]
    async with serving(data, rules) as registry:
        await push(registry.client, "shop/app", signature_tag(IMAGE), signature(IMAGE, "alice"))
        refused = await push(registry.client, "shop/app", signature_tag(IMAGE), signature(IMAGE, "alice", "bob"))

    assert refused.status_code == 409


async def deleted_after(data: Path, document: Document, *, hours: int = 0, seconds: int = 0) -> httpx2.Response:
    """Seal IMAGE, push a referrer, wait, and let its pusher delete the referrer."""
    clock = Clock(NOON)
    async with serving(data, clock=clock) as registry:
        await push(registry.client, "shop/app", "1.4.2", IMAGE)
        pushed = await push(registry.client, "shop/app", document.digest, document)
        if pushed.status_code != 201:
            raise AssertionError(pushed.text)
        clock.advance(hours=hours, seconds=seconds)
        return await registry.client.delete(f"/v2/shop/app/manifests/{document.digest}")


async def test_a_referrer_may_be_deleted_within_a_day(data: Path) -> None:
    """The pusher of a referrer of a sealed image may delete it for 24 hours."""
    answer = await deleted_after(data, artifact("sbom", subject=IMAGE), hours=23, seconds=3599)

    assert answer.status_code == 202


async def test_a_referrer_is_kept_after_a_day(data: Path) -> None:
    """After 24 hours a referrer is kept like the sealed image it refers to."""
    answer = await deleted_after(data, artifact("sbom", subject=IMAGE), hours=24)

    assert answer.status_code == 405
    assert error_of(answer)[0] == "DENIED"


async def test_deleting_a_referrer_is_recorded(data: Path) -> None:
    """A referrer's deletion is a ledger entry, so the next push has a later index."""
    clock = Clock(NOON)
    sbom = artifact("sbom", subject=IMAGE)
    async with serving(data, clock=clock) as registry:
        first = await push(registry.client, "shop/app", "1.4.2", IMAGE)
        await push(registry.client, "shop/app", sbom.digest, sbom)
        await registry.client.delete(f"/v2/shop/app/manifests/{sbom.digest}")
        last = await put(registry.client, "shop/app", "1.4.3", IMAGE)

    assert int(last.headers["Boltseal-Ledger-Index"]) == int(first.headers["Boltseal-Ledger-Index"]) + 2


async def test_pushing_a_referrer_again_does_not_start_a_new_day(data: Path) -> None:
    """Pushing a referrer again does not restart its 24 hours."""
    clock = Clock(NOON)
    sbom = artifact("sbom", subject=IMAGE)
    async with serving(data, clock=clock) as registry:
        await push(registry.client, "shop/app", "1.4.2", IMAGE)
        await push(registry.client, "shop/app", sbom.digest, sbom)
        clock.advance(days=30)
        await push(registry.client, "shop/app", sbom.digest, sbom)
        answer = await registry.client.delete(f"/v2/shop/app/manifests/{sbom.digest}")

    assert answer.status_code == 405


async def test_a_sealed_referrer_is_kept_from_the_start(data: Path) -> None:
    """A referrer with a sealed tag can't be deleted, also within the first day."""
    clock = Clock(NOON)
    sbom = artifact("sbom", subject=IMAGE)
    async with serving(data, clock=clock) as registry:
        await push(registry.client, "shop/app", "1.4.2", IMAGE)
        await push(registry.client, "shop/app", "1.4.2-sbom", sbom)
        answer = await registry.client.delete(f"/v2/shop/app/manifests/{sbom.digest}")

    assert answer.status_code == 405


async def test_a_signature_under_floating_rules_still_belongs_to_a_sealed_image(data: Path) -> None:
    """Rules that make every tag mutable do not release the signatures of a sealed image."""
    async with serving(data) as registry:
        await push(registry.client, "shop/app", "1.4.2", IMAGE)
        await push(registry.client, "shop/app", signature_tag(IMAGE), signature(IMAGE, "alice"))
    async with serving(data, FLOATING) as registry:
        answer = await registry.client.delete(f"/v2/shop/app/manifests/{signature_tag(IMAGE)}")

    assert answer.status_code == 405


async def test_an_empty_signature_may_be_filled(client: httpx2.AsyncClient) -> None:
    """A signature manifest without layers may be replaced by one with layers."""
    await push_parts(client, "shop/app", signature(IMAGE))
    await put(client, "shop/app", signature_tag(IMAGE), signature(IMAGE))

    answer = await push(client, "shop/app", signature_tag(IMAGE), signature(IMAGE, "alice"))

    assert answer.status_code == 201


async def test_a_signature_known_by_its_tag_alone_has_no_removal_date(client: httpx2.AsyncClient) -> None:
    """A signature without a subject can't be deleted, so that its refusal names no day."""
    await push(client, "shop/app", "1.4.2", IMAGE)
    await push(client, "shop/app", signature_tag(IMAGE), signature(IMAGE, "alice"))

    answer = await client.delete(f"/v2/shop/app/manifests/{signature(IMAGE, 'alice').digest}")

    assert answer.status_code == 405
    assert error_of(answer)[1].endswith("refers to what tag 1.4.2 seals, and can't be deleted before that can")
