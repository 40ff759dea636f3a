"""A rule with `require` gives a tag only to an image whose evidence was verified."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from boltseal.oci.digest import Digest
from boltseal.signatures.dsse import ENVELOPE
from tests.admin_requests import as_user, items_of, post, settings_with_users, until_signed
from tests.images import (
    Blob,
    error_of,
    image,
    index,
    meaning,
    push,
    put,
    signature_tag,
)
from tests.serving import Rule, serving, serving_as
from tests.signatures.signed_documents import bundled, signatures, signed
from tests.signatures.signers import Signer, encoded, statement

RELEASE, MALLORY = Signer.on_p256(), Signer.on_p256()
IMAGE = image("to be signed")


@pytest.fixture
def rules(tmp_path: Path) -> Sequence[Rule]:
    """Return a rule that requires a signature by RELEASE for the tags of versions."""
    (tmp_path / "release.pub").write_bytes(RELEASE.pem)
    return [{"tag": "[0-9]*", "require": [{"key": str(tmp_path / "release.pub")}]}]


@asynccontextmanager
async def serving_with_users(data: Path, rules: Sequence[Rule]) -> AsyncIterator[httpx2.AsyncClient]:
    """Run a registry whose client is logged in as an operator."""
    async with serving_as(settings_with_users(data, rule=list(rules))) as registry:
        registry.client.auth = as_user("boss")
        yield registry.client


async def test_an_unsigned_image_gets_no_tag(data: Path, rules: Sequence[Rule]) -> None:
    """The refusal says what is missing, and the command that adds it; the tag stays free."""
    async with serving(data, rules) as registry:
        answer = await push(registry.client, "shop/app", "1.4.2", IMAGE)
        code, message = error_of(answer)
        detail = answer.json()["errors"][0]["detail"]

        assert (answer.status_code, code) == (409, "DENIED")
        assert f"cosign sign --key release.key REGISTRY/shop/app@{IMAGE.digest}" in message
        assert detail["reason"] == "unsigned"
        assert detail["pushed"] == IMAGE.digest
        assert detail["commands"] == [f"cosign sign --key release.key REGISTRY/shop/app@{IMAGE.digest}"]
        assert detail["missing"] == [f"a signature by release.pub (sha256:{RELEASE.key.fingerprint[:12]})"]
        assert await meaning(registry.client, "shop/app", "1.4.2") is None


@pytest.mark.parametrize("form", ["signature tag", "referrer"])
async def test_an_image_is_signed_by_digest_and_then_named(data: Path, rules: Sequence[Rule], form: str) -> None:
    """Push by digest, sign, tag: reads and pushes by digest are never refused, and the entry names the evidence."""
    async with serving_with_users(data, rules) as client:
        by_digest = await push(client, "shop/app", IMAGE.digest, IMAGE)
        seen = await meaning(client, "shop/app", IMAGE.digest)
        evidence = signed(IMAGE, RELEASE) if form == "signature tag" else bundled(IMAGE, RELEASE)
        where = signature_tag(IMAGE) if form == "signature tag" else evidence.digest
        added = await push(client, "shop/app", where, evidence)
        tagged = await put(client, "shop/app", "1.4.2", IMAGE)
        await until_signed(client)
        (entry,) = await items_of(client, "history", "boss", repository="shop/app", tag="1.4.2")

    assert (by_digest.status_code, seen, added.status_code) == (201, IMAGE.digest, 201)
    assert tagged.status_code == 201
    assert entry["extra"] == {"mode": "sealed", "keep": "forever", "evidence": evidence.digest}


async def test_an_index_is_signed_as_a_whole(data: Path, rules: Sequence[Rule]) -> None:
    """A signature of one platform's image does not count as a signature of the index."""
    whole = index(IMAGE)
    async with serving(data, rules) as registry:
        await push(registry.client, "shop/app", whole.digest, whole)
        await push(registry.client, "shop/app", signature_tag(IMAGE), signed(IMAGE, RELEASE))
        before = await put(registry.client, "shop/app", "1.4.2", whole)
        await push(registry.client, "shop/app", signature_tag(whole), signed(whole, RELEASE))
        after = await put(registry.client, "shop/app", "1.4.2", whole)

    assert (before.status_code, after.status_code) == (409, 201)


async def test_what_was_sealed_stays_when_the_key_changes(data: Path, rules: Sequence[Rule], tmp_path: Path) -> None:
    """Another key in the rule unseals nothing, a push of the sealed image is still answered, and new tags need the new key."""
    async with serving(data, rules) as registry:
        await push(registry.client, "shop/app", IMAGE.digest, IMAGE)
        await push(registry.client, "shop/app", signature_tag(IMAGE), signed(IMAGE, RELEASE))
        await put(registry.client, "shop/app", "1.4.2", IMAGE)
    (tmp_path / "release.pub").write_bytes(MALLORY.pem)
    async with serving(data, rules) as registry:
        again = await put(registry.client, "shop/app", "1.4.2", IMAGE)
        other = await push(registry.client, "shop/app", "1.4.2", image("other"))
        new = await put(registry.client, "shop/app", "1.4.3", IMAGE)
        stands = await meaning(registry.client, "shop/app", "1.4.2")

    assert (again.status_code, other.status_code, new.status_code) == (201, 409, 409)
    assert other.json()["errors"][0]["detail"]["reason"] == "sealed"
    assert new.json()["errors"][0]["detail"]["reason"] == "unsigned"
    assert stands == IMAGE.digest


async def test_tags_outside_the_rule_need_nothing(data: Path, rules: Sequence[Rule]) -> None:
    """A candidate tag can be pushed by any client, and its image be signed then."""
    async with serving(data, rules) as registry:
        candidate = await push(registry.client, "shop/app", "latest", IMAGE)
        await push(registry.client, "shop/app", signature_tag(IMAGE), signed(IMAGE, RELEASE))
        version = await put(registry.client, "shop/app", "1.4.2", IMAGE)

    assert (candidate.status_code, version.status_code) == (201, 201)


async def test_with_several_tags_all_are_given_or_none(data: Path, rules: Sequence[Rule]) -> None:
    """A push with several `?tag=` gives an unsigned image none of them, not even one that needs no signature."""
    async with serving(data, rules) as registry:
        answer = await push(registry.client, "shop/app", "latest", IMAGE, tags=["1.4.2"])
        latest = await meaning(registry.client, "shop/app", "latest")

    assert answer.status_code == 409
    assert latest is None


async def test_a_mutable_tag_moves_to_signed_images_only_and_back(data: Path, tmp_path: Path) -> None:
    """A floating tag under such a rule can be restored to an image that is signed."""
    (tmp_path / "release.pub").write_bytes(RELEASE.pem)
    floating: list[Rule] = [
        {"tag": "prod", "mode": "floating", "require": [{"key": str(tmp_path / "release.pub")}]},
    ]
    first, second = image("first"), image("second")
    async with serving_with_users(data, floating) as client:
        answers = []
        for each in (first, second):
            await push(client, "shop/app", signature_tag(each), signed(each, RELEASE))
            answers.append(await push(client, "shop/app", "prod", each))
        unsigned = await push(client, "shop/app", "prod", image("third"))
        restored = await post(
            client, "restore", "boss", repository="shop/app", tag="prod", to=first.digest, reason="broken"
        )
        stands = await meaning(client, "shop/app", "prod")

    assert [each.status_code for each in answers] == [201, 201]
    assert unsigned.status_code == 409
    assert restored.status_code == 200, restored.text
    assert stands == first.digest


async def test_an_attestation_is_found_under_its_tag(data: Path, tmp_path: Path) -> None:
    """`cosign attest` writes envelopes under `sha256-<hex>.att`; the rule names builder and key."""
    (tmp_path / "ci.pub").write_bytes(RELEASE.pem)
    builder = "https://ci.example/builder"
    wanted: list[Rule] = [
        {"require": [{"predicate": "slsaprovenance", "builder": builder, "key": str(tmp_path / "ci.pub")}]}
    ]
    stated = statement(
        Digest.parse(IMAGE.digest), "https://slsa.dev/provenance/v1", {"runDetails": {"builder": {"id": builder}}}
    )
    attested = signatures((Blob(encoded(RELEASE.envelope(encoded(stated))), ENVELOPE), ""))
    async with serving(data, wanted) as registry:
        before = await push(registry.client, "shop/app", "1.4.2", IMAGE)
        await push(registry.client, "shop/app", signature_tag(IMAGE, ".att"), attested)
        after = await put(registry.client, "shop/app", "1.4.2", IMAGE)

    assert (before.status_code, after.status_code) == (409, 201)


async def test_the_rules_are_shown_with_their_requirements(data: Path, rules: Sequence[Rule]) -> None:
    """The admin API names the key by its file and the beginning of its fingerprint."""
    async with serving_with_users(data, rules) as client:
        shown = await items_of(client, "rules", "boss")

    assert shown[0]["require"] == [f"a signature by release.pub (sha256:{RELEASE.key.fingerprint[:12]})"]


def test_entries_of_evidence_are_small() -> None:
    """Sixteen requirements with evidence of its own each leave most of an entry's 65,535 bytes."""
    assert len(json.dumps({"evidence": " ".join([IMAGE.digest] * 16)})) < 2000
