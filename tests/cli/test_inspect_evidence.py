"""`boltseal inspect --signed-by`: every signature of an image with the key that verifies it, or why none does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.policy.evidence_findings import evidence_findings
from boltseal.policy.requirements import StoredEvidence, TrustedKey
from boltseal.signatures.evidence import EvidenceLayer
from boltseal.signatures.signed_image import SignedImage
from tests.cli import program
from tests.images import image, push, signature_tag
from tests.servers import Server
from tests.signatures.signed_documents import attested, bundled, signed
from tests.signatures.signers import Signer

RELEASE, CI, MALLORY = Signer.on_p256(), Signer.on_p256(), Signer.on_p256()
APP = image("inspected")
BUILDER = "https://ci.example/builder"


async def test_each_signature_has_a_verdict(server: Server, tmp_path: Path) -> None:
    """A signature, an attestation and a forged bundle are listed; the exit code is 1 because one key has not signed the image."""
    for name, signer in (("release.pub", RELEASE), ("ci.pub", CI)):
        (tmp_path / name).write_bytes(signer.pem)
    provenance = attested(APP, CI, "https://slsa.dev/provenance/v1", {"runDetails": {"builder": {"id": BUILDER}}})
    good, forged = signed(APP, RELEASE), bundled(APP, MALLORY)
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False, timeout=60) as client:
        await push(client, "shop/app", "1.4.2", APP)
        await push(client, "shop/app", signature_tag(APP), good)
        await push(client, "shop/app", signature_tag(APP, ".att"), provenance)
        await push(client, "shop/app", forged.digest, forged)
    ref, keys = f"{server.address}/shop/app:1.4.2", ("--signed-by", str(tmp_path / "release.pub"))
    done = await asyncio.to_thread(program.call, "inspect", ref, *keys)
    both = await asyncio.to_thread(program.call, "inspect", ref, *keys, "--signed-by", tmp_path / "ci.pub", "--json")
    (result,) = both.json["results"]
    by_ci = f"ci.pub (sha256:{CI.key.fingerprint[:12]})"

    assert done.code == 0, done.err
    assert f"evidence    {good.digest}  signature by release.pub (sha256:" in done.out
    assert done.out.count("  not verified: ") == 2
    assert (both.code, result["missing"]) == (1, [f"a signature by {by_ci}"])
    assert [each["status"] for each in result["evidence"]] == ["verified", "verified", "not-verified"]
    assert result["evidence"][1]["key"] == by_ci
    assert result["evidence"][1]["builder"] == BUILDER
    assert result["evidence"][2]["digest"] == forged.digest
    assert result["evidence"][2]["kind"] is None


def test_a_layout_names_no_repository(tmp_path: Path) -> None:
    """A cosign signature names a repository, and an image in a folder is in none."""
    (tmp_path / "release.pub").write_bytes(RELEASE.pem)
    (tmp_path / "image").mkdir()
    done = program.call("inspect", f"oci:{tmp_path}/image:1", "--signed-by", tmp_path / "release.pub")

    assert done.code == 2
    assert "needs an image of a registry" in done.err


def test_a_signature_of_another_image_is_not_verified() -> None:
    """What a verified signature says about another digest is no evidence for this one."""
    keys = [TrustedKey("release.pub", RELEASE.key)]
    wanted = SignedImage(Repository("shop/app"), Digest.parse(image("another").digest))
    layer = signed(APP, RELEASE).blobs[1]
    stored = StoredEvidence(
        Digest.parse(APP.digest), (EvidenceLayer(layer.media_type, layer.data, RELEASE.signature_of(layer.data)),)
    )
    (finding,) = evidence_findings(keys, wanted, [stored])

    assert (finding.signer, finding.kind) == (None, "")
    assert "expected sha256:" in finding.why
