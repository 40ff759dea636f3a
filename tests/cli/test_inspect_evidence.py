"""`boltseal inspect --signed-by`: every signature of an image with its signer, its time and its verdict."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.policy.evidence_findings import evidence_findings
from boltseal.policy.requirements import SignedBy, StoredEvidence, TrustedKey
from boltseal.signatures.evidence import EvidenceLayer
from boltseal.signatures.signed_image import SignedImage
from tests.cli import program
from tests.images import image, push, signature_tag
from tests.servers import Server
from tests.signatures.notation_certificates import Holder, root
from tests.signatures.signed_documents import attested, bundled, notarized, signed
from tests.signatures.signers import Signer
from tests.signatures.stamp_authority import StampAuthority

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
    assert f"verified      cosign signature  release.pub (sha256:{RELEASE.key.fingerprint[:12]})" in done.out
    assert done.out.count("\nnot verified  ") == 2
    assert max(map(len, done.out[done.out.index("VERDICT") :].splitlines())) <= 80
    assert (both.code, result["missing"]) == (1, [f"a signature by {by_ci}"])
    assert [each["status"] for each in result["evidence"]] == ["verified", "verified", "not-verified"]
    assert result["evidence"][1]["signer"] == by_ci
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
    keys = [SignedBy(TrustedKey("release.pub", RELEASE.key))]
    wanted = SignedImage(Repository("shop/app"), Digest.parse(image("another").digest))
    layer = signed(APP, RELEASE).blobs[1]
    stored = StoredEvidence(
        Digest.parse(APP.digest), (EvidenceLayer(layer.media_type, layer.data, RELEASE.signature_of(layer.data)),)
    )
    (finding,) = evidence_findings(keys, wanted, [stored])

    assert (finding.verdict, finding.signer, finding.kind) == ("not-verified", "", "")
    assert "expected sha256:" in finding.why


NOW = datetime.now(UTC).replace(microsecond=0)
YEAR = timedelta(days=365)


def builder() -> tuple[Holder, Holder]:
    """Return an authority and a certificate for signatures that it issued, both valid now."""
    authority = root(begin=NOW - YEAR, end=NOW + YEAR)
    return authority, authority.issue(begin=NOW - YEAR, end=NOW + YEAR)


SUBJECT = "C=US, ST=WA, O=acme"


@pytest.mark.parametrize(
    "written", ["ca={ca},subject=C=US, ST=WA, O=acme", '{{ ca = "{ca}", subject = "C=US, ST=WA, O=acme" }}']
)
@pytest.mark.parametrize("form", ["jws", "cose"])
async def test_a_signature_of_notation_has_a_verdict(server: Server, tmp_path: Path, written: str, form: str) -> None:
    """By the certificate of the given authority, with the time that the signer states; one of another authority is none."""
    authority, holder = builder()
    _, mallory = builder()
    good, forged = notarized(APP, holder, form), notarized(APP, mallory, form)
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False, timeout=60) as client:
        for what in (APP, good, forged):
            await push(client, "shop/notation", what.digest, what)
    ref, value = f"{server.address}/shop/notation@{APP.digest}", written.format(ca=tmp_path / "ca.pem")
    done = await asyncio.to_thread(program.call, "inspect", ref, "--signed-by", value, "--json")
    found = {each["digest"]: each for each in done.json["results"][0]["evidence"]}

    assert done.code == 0, done.err
    assert found[good.digest]["signer"] == "CN=builder,O=acme,ST=WA,C=US under ca.pem"
    assert (found[good.digest]["kind"], found[good.digest]["time_from"]) == ("signature", "signer")
    assert found[good.digest]["time"] == "2026-11-01T00:00:00Z"
    assert found[forged.digest]["status"] == "not-verified"
    assert "no trusted authority" in found[forged.digest]["reason"]


async def test_a_time_stamp_is_shown_with_its_time(server: Server, tmp_path: Path) -> None:
    """The certificate expired yesterday; the authority of the option stamped the signature before."""
    begin, end, day = NOW - YEAR, NOW + YEAR, timedelta(days=1)
    authority, time_root = root(begin=begin, end=end), root("C=US, O=acme, CN=time root", begin=begin, end=end)
    stamps = StampAuthority.under(time_root, tmp_path / "time", begin=begin, end=end)
    old = authority.issue(begin=NOW - YEAR, end=NOW - day)
    good = notarized(APP, old, "cose", stamping=lambda signature: stamps.stated(signature, NOW - 2 * day))
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    (tmp_path / "tsa.pem").write_bytes(time_root.pem)
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False, timeout=60) as client:
        for what in (APP, good):
            await push(client, "shop/stamped", what.digest, what)
    ref, ca = f"{server.address}/shop/stamped@{APP.digest}", f"ca={tmp_path}/ca.pem,subject=O=acme"
    without = await asyncio.to_thread(program.call, "inspect", ref, "--signed-by", ca)
    done = await asyncio.to_thread(
        program.call, "inspect", ref, "--signed-by", f"{ca},tsa={tmp_path}/tsa.pem", "--json"
    )
    (found,) = done.json["results"][0]["evidence"]

    assert without.code == 1
    assert "expired at" in " ".join(without.out.split())
    assert done.code == 0, done.out
    assert (found["time"], found["time_from"]) == (f"{NOW - 2 * day:%Y-%m-%dT%H:%M:%SZ}", "time stamp")


async def test_tables_of_a_rule_can_be_given_as_they_are(server: Server, tmp_path: Path) -> None:
    """Alternatives and attestations are required as by a rule; what does not hold is missing, and the exit code is 1."""
    for name, signer in (("release.pub", RELEASE), ("ci.pub", CI)):
        (tmp_path / name).write_bytes(signer.pem)
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False, timeout=60) as client:
        await push(client, "shop/tables", APP.digest, APP)
        await push(client, "shop/tables", signature_tag(APP), signed(APP, RELEASE, "shop/tables"))
    ref = f"{server.address}/shop/tables@{APP.digest}"
    either = f'{{ any_of = [{{ key = "{tmp_path}/ci.pub" }}, {{ key = "{tmp_path}/release.pub" }}] }}'
    sbom = f"key={tmp_path}/ci.pub,predicate=cyclonedx"
    done = await asyncio.to_thread(program.call, "inspect", ref, "--signed-by", either)
    both = await asyncio.to_thread(program.call, "inspect", ref, "--signed-by", either, "--signed-by", sbom, "--json")

    assert done.code == 0, done.err
    assert both.code == 1
    assert both.json["results"][0]["missing"][0].startswith("an attestation cyclonedx signed by ci.pub")


MISTAKES = {
    "unknown key": ('{ keys = "release.pub" }', "did you mean key?"),
    "no TOML": ("{ key = release.pub }", "expected tables as a rule has them"),
    "more than a list": ('{ key = "release.pub" }]\nother = [{ key = "x" }', "expected tables as a rule has them"),
    "twice": ("ca=a.pem,ca=b.pem,subject=*", "ca is there twice"),
    "no subject": ("ca=CA", "subject is missing"),
    "both": ("ca=CA,key=release.pub,subject=*", "key does not stand beside ca"),
    "no file": ("ca=gone.pem,subject=*", '"gone.pem" can\'t be read'),
    "no certificate": ("ca=KEY,subject=*", "expected certificates in PEM"),
    "nothing": ("", "key must be a text"),
}


@pytest.mark.parametrize(("value", "why"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_requirement_that_is_none_is_a_usage_error(tmp_path: Path, value: str, why: str) -> None:
    """A mistake in the option is found before a registry is asked."""
    (tmp_path / "ca.pem").write_bytes(builder()[0].pem)
    (tmp_path / "key.pub").write_bytes(RELEASE.pem)
    value = value.replace("CA", str(tmp_path / "ca.pem")).replace("KEY", str(tmp_path / "key.pub"))
    done = program.call("inspect", "localhost:1/shop/app:1", "--signed-by", value)

    assert done.code == 2
    assert why in done.err.replace("\n", " ")
