"""`identity` and `issuer` in `require`: what is read, each mistake, and which evidence meets the requirement."""

from __future__ import annotations

import json
import tomllib
from base64 import b64decode
from hashlib import sha256

import pytest

from boltseal.errors import Invalid
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.policy.evidence_findings import evidence_findings
from boltseal.policy.keyless_signers import CheckedBundle, KeylessNotVerified, KeylessResults, KeylessSigner
from boltseal.policy.requirements import (
    EvidenceVerdict,
    Requirement,
    RequirementInvalid,
    SignedBy,
    StoredEvidence,
    TrustedKey,
    judge_evidence,
    parse_requirements,
    trusted_roots,
)
from boltseal.policy.rules import parse_rules
from boltseal.signatures.dsse import signed_bytes
from boltseal.signatures.evidence import EvidenceLayer
from boltseal.signatures.keyless_bundle import VerifiedBundle
from boltseal.signatures.signed_image import CertificateIdentity, SignedImage
from boltseal.signatures.sigstore_bundle import BUNDLE
from boltseal.signatures.simple_signing import SIMPLE_SIGNING
from boltseal.signatures.trusted_root import TrustedRoot
from tests.signatures.signers import Signer, encoded, simple_payload, statement
from tests.signatures.sigstore_services import Authority

RELEASE = Signer.on_p256()
ROOT, OTHER_ROOT = Authority().trusted_root(), Authority().trusted_root()
FILES = {"keys/root.json": ROOT, "other.json": OTHER_ROOT, "release.pub": RELEASE.pem, "text.json": b"{}"}
DIGEST = Digest.of(b"image")
IMAGE = SignedImage(Repository("shop/app"), DIGEST)
WORKFLOW = "https://git.example.com/acme/app/.workflows/release.yml@refs/tags/"
ISSUER = "https://accounts.example.com"
WHO = f'identity = "{WORKFLOW}*", issuer = "{ISSUER}", trusted_root = "keys/root.json"'
V1 = "https://slsa.dev/provenance/v1"
BUILDER = "https://ci.example/builder"


def read_key(file: str) -> bytes:
    if file not in FILES:
        raise Invalid(f"cannot read the key {file}: No such file")
    return FILES[file]


def parsed(*tables: str) -> tuple[Requirement, ...]:
    text = ", ".join(f"{{ {each} }}" for each in tables)
    return parse_requirements(tomllib.loads(f"require = [{text}]")["require"], read_key)


def bundle(predicate_type: str | None = None, predicate: dict[str, object] | None = None) -> StoredEvidence:
    payload = encoded(statement(DIGEST) if predicate_type is None else statement(DIGEST, predicate_type, predicate))
    material = {"certificate": {"rawBytes": "AA=="}, "tlogEntries": [{}]}
    raw = {"mediaType": BUNDLE, "verificationMaterial": material, "dsseEnvelope": RELEASE.envelope(payload)}
    return StoredEvidence(Digest.of(encoded(raw)), (EvidenceLayer(BUNDLE, encoded(raw)),))


def by(name: str, stored: StoredEvidence, root: bytes = ROOT, issuer: str = ISSUER) -> KeylessResults:
    """Return that a name is proven to have signed a bundle."""
    (layer,) = stored.layers
    payload = json.loads(layer.raw)["dsseEnvelope"]["payload"]
    signed = sha256(signed_bytes(b64decode(payload))).hexdigest()
    proven = VerifiedBundle(CertificateIdentity((name,), issuer), signed)
    return {CheckedBundle(sha256(root).hexdigest(), sha256(layer.raw).hexdigest()): proven}


def judged(table: str, stored: StoredEvidence, results: KeylessResults) -> EvidenceVerdict:
    return judge_evidence(parsed(table), IMAGE, [stored], keyless=results)


def test_a_signature_of_the_identity_meets_the_requirement() -> None:
    """The glob matches every tag of the workflow."""
    stored = bundle()

    assert judged(WHO, stored, by(f"{WORKFLOW}v1.4.2", stored)) == EvidenceVerdict((), (stored.manifest,))


@pytest.mark.parametrize(
    "name", [f"{WORKFLOW}v1/x", "https://git.example.com/mallory/app/.workflows/release.yml@refs/tags/v1", ""]
)
def test_another_identity_does_not(name: str) -> None:
    """`*` stops at a slash, and the rest is compared literally."""
    stored = bundle()
    (missing,) = judged(WHO, stored, by(name, stored)).missing

    assert "another identity" in missing.why


def test_what_is_missing_is_named_with_its_command() -> None:
    """cosign signs without a key where none is given; the bundle format is what is read here."""
    (missing,) = judge_evidence(parsed(WHO), IMAGE, []).missing

    assert missing.what == f"a signature by {WORKFLOW}* of {ISSUER}"
    assert missing.command == f"cosign sign --new-bundle-format REGISTRY/shop/app@{DIGEST}"


def test_an_attestation_of_the_identity_names_its_builder() -> None:
    """Predicate and builder are compared as with keys, and a signature is no attestation."""
    table = f'predicate = "slsaprovenance", builder = "{BUILDER}", {WHO}'
    good, other, plain = (
        bundle(V1, {"runDetails": {"builder": {"id": BUILDER}}}),
        bundle(V1, {"runDetails": {"builder": {"id": "x"}}}),
        bundle(),
    )
    verdicts = [judged(table, each, by(f"{WORKFLOW}v1", each)) for each in (good, other, plain)]
    (missing,) = judge_evidence(parsed(table), IMAGE, []).missing

    assert [each.missing == () for each in verdicts] == [True, False, False]
    assert verdicts[1].missing[0].why == f'{WORKFLOW}* signed an attestation of type "{V1}" of builder "x"'
    assert verdicts[2].missing[0].why == f"{WORKFLOW}* signed the image only"
    assert missing.command.startswith("cosign attest --new-bundle-format --type slsaprovenance --predicate FILE ")


def test_a_bundle_that_was_not_verified_is_doubt_and_no_refusal() -> None:
    """The process's result is missing, or is of another root."""
    stored = bundle()

    for results in ({}, by(f"{WORKFLOW}v1", stored, OTHER_ROOT)):
        with pytest.raises(KeylessNotVerified):
            judged(WHO, stored, results)


def test_a_keyed_signature_is_none_of_an_identity() -> None:
    """Signature tags and keyed bundles need no process: they are refused."""
    payload = simple_payload(DIGEST, "localhost:5000/shop/app")
    layer = EvidenceLayer(SIMPLE_SIGNING, payload, RELEASE.signature_of(payload))
    keyed = EvidenceLayer(BUNDLE, encoded(RELEASE.bundle(encoded(statement(DIGEST)))))
    (tag,) = judged(WHO, StoredEvidence(DIGEST, (layer,)), {}).missing
    (referrer,) = judged(WHO, StoredEvidence(DIGEST, (keyed,)), {}).missing

    assert "no keyless signature of a known format" in tag.why
    assert "signed with a key" in referrer.why


def test_a_key_or_an_identity_is_enough_with_any_of() -> None:
    """Alternatives may be of both kinds, and the keyless one does not replace the key."""
    either = f'any_of = [{{ key = "release.pub" }}, {{ {WHO} }}]'
    stored = bundle()
    keyed = EvidenceLayer(BUNDLE, encoded(RELEASE.bundle(encoded(statement(DIGEST)))))
    by_key = StoredEvidence(Digest.of(b"k"), (keyed,))

    assert judged(either, stored, by(f"{WORKFLOW}v1", stored)).missing == ()
    assert judged(either, by_key, {}).manifests == (by_key.manifest,)


def test_only_requirements_with_an_identity_need_a_root() -> None:
    """Each root is named once, so that it is asked once."""
    other = WHO.replace("keys/root.json", "other.json")
    requirements = parsed(WHO, f"any_of = [{{ {WHO} }}, {{ {other} }}]", 'key = "release.pub"')

    assert trusted_roots(requirements) == (TrustedRoot(ROOT), TrustedRoot(OTHER_ROOT))
    assert trusted_roots(parsed('key = "release.pub"')) == ()


def test_other_identities_issuers_and_roots_are_other_rules() -> None:
    """The line that the ledger records changes with each of them."""
    tables = [
        WHO,
        WHO.replace("/app/", "/api/"),
        WHO.replace(ISSUER, "https://other.example"),
        WHO.replace("keys/root.json", "other.json"),
        f'predicate = "spdx", {WHO}',
    ]
    lines = {
        parse_rules([tomllib.loads(f"require = [{{ {each} }}]")], read_key=read_key).canonical() for each in tables
    }

    assert len(lines) == 5


def test_findings_name_who_signed() -> None:
    """`inspect` shows the first of the given signers that an attestation is by."""
    stored = bundle(V1, {"runDetails": {"builder": {"id": BUILDER}}})
    signer = KeylessSigner.parse(f"{WORKFLOW}*", ISSUER, TrustedRoot(ROOT))
    key = TrustedKey("release.pub", RELEASE.key)
    required = [SignedBy(key), SignedBy(signer)]
    (found,) = evidence_findings(required, IMAGE, [stored], keyless=by(f"{WORKFLOW}v1", stored))
    (unknown,) = evidence_findings(required, IMAGE, [stored])

    assert (found.signer, found.kind, found.builder) == (f"{WORKFLOW}v1 of {ISSUER}", "attestation", BUILDER)
    assert (unknown.verdict, unknown.why) == ("unknown", "a keyless signature was not verified; try again")


def test_a_result_that_is_missing_matters_only_where_nothing_else_holds() -> None:
    """A signature that could not be verified neither helps nor harms an image that another signature is enough for."""
    stored, other = bundle(), bundle(V1, {"more": 1})
    known = by(f"{WORKFLOW}v1", stored)
    verdict = judge_evidence(parsed(WHO), IMAGE, [other, stored], keyless=known)

    assert verdict.manifests == (stored.manifest,)
    with pytest.raises(KeylessNotVerified):
        judge_evidence(parsed(WHO), IMAGE, [other], keyless=known)


MISTAKES = {
    "no issuer": (f'identity = "{WORKFLOW}*", trusted_root = "keys/root.json"', "issuer is missing"),
    "no identity": (f'issuer = "{ISSUER}", trusted_root = "keys/root.json"', "identity is missing"),
    "no root": (f'identity = "x", issuer = "{ISSUER}"', "trusted_root is missing"),
    "a key as well": (f'key = "release.pub", {WHO}', "key and identity exclude each other"),
    "no file": (WHO.replace("keys/", "gone/"), r"require\[0\]: cannot read the key"),
    "no trusted root": (WHO.replace("keys/root", "text"), r"trusted_root \"text.json\": the trusted root is not valid"),
    "everyone": (WHO.replace(WORKFLOW, "*"), "is everyone that the issuer knows"),
    "a bad glob": (WHO.replace(WORKFLOW, "[a"), "identity \"\\[a\\*\": "),
    "issuer without TLS": (WHO.replace(ISSUER, "http://accounts.example.com"), "begins with https://"),
    "issuer without scheme": (WHO.replace(ISSUER, "accounts.example.com"), "begins with https://"),
    "a long issuer": (WHO.replace(ISSUER, ISSUER + "x" * 512), "begins with https://"),
    "unknown": (f'root = "x", {WHO}', "unknown key \"root\""),
}  # fmt: skip


@pytest.mark.parametrize(("table", "why"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_an_error_with_its_place(table: str, why: str) -> None:
    """Nothing is guessed: the server does not start."""
    with pytest.raises(RequirementInvalid, match=why):
        parsed(table)
