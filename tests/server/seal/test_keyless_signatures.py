"""A rule that requires the signature of an identity gives a tag only to an image that this identity signed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from boltseal.errors import http_answer
from boltseal.keyless.verifier import KeylessUnavailable, KeylessVerifier
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Tag
from boltseal.server.auth.actor import ANONYMOUS
from boltseal.server.registry.evidence_checks import EvidenceChecks
from boltseal.server.registry.manifests import Manifests
from boltseal.server.registry.models import ManifestUpload
from boltseal.server.registry.tag_writer import TagWriter
from tests.bare_registry import OCI, SHOP, Opener
from tests.images import Document, error_of, image, meaning, push, put
from tests.serving import Rule, serving
from tests.signatures.signed_documents import bundled, keyless
from tests.signatures.signers import Signer, encoded, statement
from tests.signatures.sigstore_services import IDENTITY, ISSUER, Authority, Signing, TimeStampAuthority

IMAGE, OTHER = image("signed without a key"), image("another")
AUTHORITY = Authority()
SIGNER = IDENTITY.rpartition("/")[0] + "/*"


@pytest.fixture
def rules(tmp_path: Path) -> Sequence[Rule]:
    """Return a rule that requires a signature by the release workflow for every tag."""
    return [{"require": [required(tmp_path, AUTHORITY)]}]


def required(folder: Path, authority: Authority) -> dict[str, str]:
    root = folder / "trusted_root.json"
    root.write_bytes(authority.trusted_root())
    return {"identity": SIGNER, "issuer": ISSUER, "trusted_root": str(root)}


async def test_an_image_of_the_identity_gets_its_tag(data: Path, rules: Sequence[Rule]) -> None:
    """Refused with the command that adds the signature, and accepted after it was pushed as a referrer."""
    evidence = keyless(IMAGE, AUTHORITY)
    async with serving(data, rules) as registry:
        before = await push(registry.client, "shop/app", "1.4.2", IMAGE)
        await push(registry.client, "shop/app", IMAGE.digest, IMAGE)
        await push(registry.client, "shop/app", evidence.digest, evidence)
        after = await put(registry.client, "shop/app", "1.4.2", IMAGE)
        other = await push(registry.client, "shop/app", "1.4.3", OTHER)
    detail = before.json()["errors"][0]["detail"]

    assert (before.status_code, after.status_code, other.status_code) == (409, 201, 409)
    assert detail["missing"] == [f"a signature by {SIGNER} of {ISSUER}"]
    assert detail["commands"] == [f"cosign sign --new-bundle-format REGISTRY/shop/app@{IMAGE.digest}"]


async def test_a_bundle_with_a_time_stamp_gives_the_tag(data: Path, tmp_path: Path) -> None:
    """The second version of Rekor, whose entries have no time of their own."""
    authority = Authority(TimeStampAuthority.at(tmp_path / "time"))
    evidence = keyless(IMAGE, authority, Signing(rekor=2, integrated_s=None, stamped=True))
    async with serving(data, [{"require": [required(tmp_path, authority)]}]) as registry:
        await push(registry.client, "shop/app", IMAGE.digest, IMAGE)
        await push(registry.client, "shop/app", evidence.digest, evidence)
        tagged = await put(registry.client, "shop/app", "1.4.2", IMAGE)

    assert tagged.status_code == 201


LIES: dict[str, tuple[Document, str]] = {
    "another identity": (keyless(IMAGE, AUTHORITY, Signing(identity="mallory@evil.example")), "another identity"),
    "another issuer": (keyless(IMAGE, AUTHORITY, Signing(issuer="https://evil.example")), "expected"),
    "another authority": (keyless(IMAGE, Authority()), "certificate chain"),
    "another image": (keyless(IMAGE, AUTHORITY, about=OTHER), "another digest"),
    "expired": (keyless(IMAGE, AUTHORITY, Signing(valid_s=(-900, -600))), "not valid at validation time"),
    "an attestation": (keyless(IMAGE, AUTHORITY, None, "https://cyclonedx.org/bom", {}), "signed an attestation"),
    "a key": (bundled(IMAGE, Signer.on_p256()), "signed with a key"),
}


@pytest.mark.parametrize(("lie", "why"), LIES.values(), ids=LIES.keys())
async def test_a_lie_gives_no_tag(data: Path, rules: Sequence[Rule], lie: Document, why: str) -> None:
    """The refusal says why what was found is no evidence."""
    async with serving(data, rules) as registry:
        await push(registry.client, "shop/app", IMAGE.digest, IMAGE)
        pushed = await push(registry.client, "shop/app", lie.digest, lie)
        answer = await put(registry.client, "shop/app", "1.4.2", IMAGE)
        tag = await meaning(registry.client, "shop/app", "1.4.2")

    assert pushed.status_code == 201
    assert (answer.status_code, tag) == (409, None)
    assert why in error_of(answer)[1]


async def test_a_provenance_of_the_identity_names_its_builder(data: Path, tmp_path: Path) -> None:
    """Attestations can be keyless too."""
    builder = "https://ci.example/builder"
    table = {"predicate": "slsaprovenance", "builder": builder, **required(tmp_path, AUTHORITY)}
    v1 = "https://slsa.dev/provenance/v1"
    codes = []
    async with serving(data, [{"require": [table]}]) as registry:
        await push(registry.client, "shop/app", IMAGE.digest, IMAGE)
        for name in ("https://ci.example/other", builder):
            predicate = {"runDetails": {"builder": {"id": name}}}
            evidence = keyless(IMAGE, AUTHORITY, None, v1, predicate)
            await push(registry.client, "shop/app", evidence.digest, evidence)
            codes.append((await put(registry.client, "shop/app", "1.4.2", IMAGE)).status_code)

    assert codes == [409, 201]


@pytest.mark.parametrize(
    "lines", ["kill -9 $$", "exec sleep 600", "echo '{\"results\": []}'"], ids=["dies", "hangs", "lies"]
)
async def test_a_verification_that_fails_is_doubt(open_shop: Opener, tmp_path: Path, lines: str) -> None:
    """503 and no tag; a later push verifies again, and gets the tag."""
    shop = open_shop({"require": [required(tmp_path, AUTHORITY) | {"trusted_root": "trusted_root.json"}]})
    body = await shop.image("doubted")
    digest = Digest.of(body)
    await shop.push(body, digest)
    bundle = encoded(AUTHORITY.bundle(encoded(statement(digest))))
    layer = await shop.blob(bundle) | {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json"}
    subject = {"mediaType": OCI, "digest": str(digest), "size": len(body)}
    raw = encoded(json.loads(await shop.image("bundle", subject=subject)) | {"layers": [layer]})
    await shop.push(raw, Digest.of(raw))
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{lines}\n")
    python.chmod(0o755)
    upload = ManifestUpload(SHOP, Tag("1.4.2"), body, OCI, ANONYMOUS)

    def manifests(verifier: KeylessVerifier) -> Manifests:
        checks = EvidenceChecks(shop.registry.rules, shop.registry.pulls, verifier)
        return Manifests(shop.database, TagWriter(shop.registry.rules), shop.registry.refusals, evidence=checks)

    with pytest.raises(KeylessUnavailable) as refused:
        await manifests(KeylessVerifier(timeout_s=1, python=str(python))).put(upload)
    tagged = await manifests(KeylessVerifier()).put(upload)

    assert http_answer(refused.value).status == 503
    assert tagged.tags == (Tag("1.4.2"),)
    assert [each.tag for each in await shop.entries()][-1] == "1.4.2"
