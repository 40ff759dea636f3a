"""`ca` and `signing_authority` in `require`: what is read, each mistake, and the verdict."""

from __future__ import annotations

import json
import tomllib
from datetime import timedelta
from hashlib import sha256

import pytest

from boltseal.errors import Invalid
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.policy.evidence_findings import evidence_findings
from boltseal.policy.keyless_signers import CheckedBundle, KeylessNotVerified, KeylessResults
from boltseal.policy.notation_signers import CertifiedBy
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
from boltseal.signatures.evidence import EvidenceLayer
from boltseal.signatures.keyless_bundle import VerifiedBundle
from boltseal.signatures.notation_envelope import COSE, JWS
from boltseal.signatures.signed_image import CertificateIdentity, SignedImage, SigningTime, TimeSource
from boltseal.signatures.time_stamps import RefusedStamp, VerifiedStamp
from tests.signatures.notation_certificates import (
    MANIFEST,
    NOW,
    NOW_US,
    by_service,
    cose,
    jws,
    jws_document,
    payload,
    root,
)
from tests.signatures.signers import Signer
from tests.signatures.stamp_authority import TIME_STAMPING

ROOT = root()
BUILDER = ROOT.issue()
RELEASE = Signer.on_p256()
DIGEST = Digest.of(b"image")
IMAGE = SignedImage(Repository("shop/app"), DIGEST, MANIFEST)
TIME_ROOT = root("C=US, O=acme, CN=time root")
FILES = {
    "keys/time.pem": TIME_ROOT.pem,
    "keys/ca.pem": ROOT.pem,
    "acme.crl": ROOT.crl(BUILDER),
    "release.pub": RELEASE.pem,
}
CA = 'require = [{ca = "keys/ca.pem", subject = "O=acme, C=US"}]'


def read_file(file: str) -> bytes:
    if file not in FILES:
        raise Invalid(f"cannot read the key {file}: No such file")
    return FILES[file]


def parsed(toml: str) -> tuple[Requirement, ...]:
    return parse_requirements(tomllib.loads(toml)["require"], read_file)


def evidence(media_type: str, raw: bytes) -> StoredEvidence:
    return StoredEvidence(Digest.of(raw), (EvidenceLayer(media_type, raw),))


SIGNED = evidence(JWS, jws(BUILDER, payload(str(DIGEST))))


def judged(toml: str, *stored: StoredEvidence, now_us: int = NOW_US) -> EvidenceVerdict:
    return judge_evidence(parsed(toml), IMAGE, stored, now_us)


@pytest.mark.parametrize("stored", [SIGNED, evidence(COSE, cose(BUILDER, payload(str(DIGEST))))])
def test_a_signature_under_the_authority_meets_the_requirement(stored: StoredEvidence) -> None:
    """Envelopes of JWS and of COSE count."""
    assert judged(CA, stored) == EvidenceVerdict((), (stored.manifest,))


def test_without_a_signature_the_command_that_adds_it_is_named() -> None:
    """The key is one of Notation's; its name is the signer's concern."""
    (missing,) = judged(CA).missing

    assert missing.command == f"notation sign --key KEY REGISTRY/shop/app@{DIGEST}"
    assert missing.what.startswith("a Notation signature by a certificate of C=US, O=acme under ca.pem (sha256:")
    assert str(parsed(CA.replace("O=acme, C=US", "*"))[0]).startswith("a Notation signature by any certificate under")


def test_a_revoked_certificate_is_the_reason() -> None:
    """The list stands beside the authority."""
    (missing,) = judged('require = [{ca = "keys/ca.pem", crl = "acme.crl", subject = "*"}]', SIGNED).missing

    assert "is revoked" in missing.why


def test_without_a_time_no_certificate_is_valid() -> None:
    """A caller that gives none gets a refusal."""
    (missing,) = judged(CA, SIGNED, now_us=0).missing

    assert "is valid from" in missing.why


def test_a_signing_authority_is_trusted_for_its_own_signatures_alone() -> None:
    """The two kinds of trust do not stand for each other."""
    service = 'require = [{signing_authority = "keys/ca.pem", subject = "*"}]'
    made = evidence(JWS, jws(BUILDER, payload(str(DIGEST)), by_service(NOW - timedelta(days=1))))

    assert not judged(service, made).missing
    assert judged(service, SIGNED).missing
    assert judged(CA, made).missing


def test_a_certificate_is_one_of_several_alternatives() -> None:
    """A key does not verify a signature by a certificate, nor the reverse."""
    either = 'require = [{any_of = [{key = "release.pub"}, {ca = "keys/ca.pem", subject = "*"}]}]'

    assert not judged(either, SIGNED).missing
    assert "by a certificate" in judged('require = [{key = "release.pub"}]', SIGNED).missing[0].why


def test_the_signature_is_listed_among_the_evidence() -> None:
    """Under a key it is not verified, and the reason says so. An authority's reason comes first, also after a key."""
    key = TrustedKey("release.pub", RELEASE.key)
    (finding,) = evidence_findings([SignedBy(key)], IMAGE, [SIGNED])

    assert (finding.kind, finding.format, finding.media_type) == ("", "Notation JWS", JWS)
    assert "by a certificate" in finding.why
    (other,) = evidence_findings([SignedBy(key), *parsed(CA)], IMAGE, [SIGNED], now_us=1)

    assert "valid from" in other.why
    assert SignedBy(key).signer_name == "release.pub"
    assert [each.signer_name for each in parsed(CA) if isinstance(each, CertifiedBy)] == ["ca.pem"]


STAMPED = 'require = [{ca = "keys/ca.pem", tsa = "keys/time.pem", subject = "*"}]'
OLD = ROOT.issue(end=NOW - timedelta(days=2))
OLD_DOCUMENT = jws_document(OLD, payload(str(DIGEST)))
OLD_DOCUMENT["header"]["io.cncf.notary.timestampSignature"] = "AAAA"
EXPIRED = evidence(JWS, json.dumps(OLD_DOCUMENT).encode())


def stamped(found: VerifiedStamp | RefusedStamp | VerifiedBundle, toml: str = STAMPED) -> KeylessResults:
    """Return what the process found out about the time stamp of EXPIRED."""
    (authorities,) = trusted_roots(parsed(toml))
    return {CheckedBundle(authorities.fingerprint, sha256(EXPIRED.layers[0].raw).hexdigest()): found}


TIME = TIME_ROOT.issue("C=US, O=acme, CN=time", uses=TIME_STAMPING, uses_critical=True)
PROOF = VerifiedStamp(NOW - timedelta(days=3), timedelta(0), tuple(TIME.chain))


def test_a_time_stamp_decides_about_an_expired_certificate() -> None:
    """What the process found out about it is looked up; a refusal is the reason."""
    verdict = judge_evidence(parsed(STAMPED), IMAGE, [EXPIRED], NOW_US, stamped(PROOF))
    (missing,) = judge_evidence(parsed(STAMPED), IMAGE, [EXPIRED], NOW_US, stamped(RefusedStamp("forged"))).missing
    (finding,) = evidence_findings(parsed(STAMPED), IMAGE, [EXPIRED], NOW_US, stamped(PROOF))

    assert verdict.manifests == (EXPIRED.manifest,)
    assert missing.why == "the time stamp proves nothing: forged"
    assert finding.time == SigningTime(PROOF.at, TimeSource.TIME_STAMP)
    assert judged(CA, EXPIRED).missing


def test_a_time_stamp_without_a_result_is_doubt() -> None:
    """Nothing is known about it then; a result of another kind is none."""
    other = VerifiedBundle(CertificateIdentity(("release@acme.example",), "https://accounts.example.com"), "")
    (finding,) = evidence_findings(parsed(STAMPED), IMAGE, [EXPIRED], NOW_US)

    for results in ({}, stamped(other)):
        with pytest.raises(KeylessNotVerified, match="a time stamp was not verified"):
            judge_evidence(parsed(STAMPED), IMAGE, [EXPIRED], NOW_US, results)
    assert (finding.verdict, finding.why) == ("unknown", "a time stamp was not verified; try again")
    assert judge_evidence(parsed(STAMPED), IMAGE, [EXPIRED, SIGNED], NOW_US).manifests == (SIGNED.manifest,)


def test_the_lists_of_a_rule_cover_the_authority_of_time_stamps() -> None:
    """A file of CRLs for the signers alone refuses."""
    toml = STAMPED.replace("tsa", 'crl = "acme.crl", tsa')
    (missing,) = judge_evidence(parsed(toml), IMAGE, [EXPIRED], NOW_US, stamped(PROOF, toml)).missing

    assert "revocation is unknown" in missing.why


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        ('{ca = "keys/ca.pem"}', "subject is missing"),
        ('{subject = "*"}', "expected one of ca and signing_authority"),
        ('{ca = "keys/ca.pem", signing_authority = "keys/ca.pem", subject = "*"}', "expected one of ca"),
        ('{ca = "keys/ca.pem", subject = "*", key = "release.pub"}', "key does not stand beside ca"),
        ('{ca = "keys/ca.pem", subject = "*", predicate = "spdx"}', "predicate does not stand beside ca"),
        ('{ca = "gone.pem", subject = "*"}', "No such file"),
        ('{ca = "release.pub", subject = "*"}', "release.pub.*expected certificates"),
        ('{ca = "keys/ca.pem", crl = "release.pub", subject = "*"}', "release.pub.*expected CRLs"),
        ('{ca = "keys/ca.pem", subject = "acme"}', "subject has"),
        ('{ca = 1, subject = "*"}', "must be a text"),
        ('{ca = "keys/ca.pem", tsa = "release.pub", subject = "*"}', "release.pub.*expected certificates"),
        ('{signing_authority = "keys/ca.pem", tsa = "keys/time.pem", subject = "*"}', "tsa stands beside ca"),
        ('{key = "release.pub", tsa = "keys/time.pem"}', "key does not stand beside ca"),
    ],
)
def test_a_mistake_stops_the_start(entry: str, match: str) -> None:
    """With its position in the list."""
    with pytest.raises(RequirementInvalid, match=rf"require\[0\].*{match}"):
        parsed(f"require = [{entry}]")


def test_what_a_requirement_means_is_its_canonical_text() -> None:
    """Another authority, list, subject or kind of trust is another rule."""
    entries = (
        '{ca = "keys/ca.pem", subject = "*"}',
        '{ca = "keys/ca.pem", subject = "O=acme"}',
        '{ca = "keys/ca.pem", crl = "acme.crl", subject = "*"}',
        '{signing_authority = "keys/ca.pem", subject = "*"}',
        '{ca = "keys/ca.pem", tsa = "keys/time.pem", subject = "*"}',
        '{ca = "keys/ca.pem", tsa = "keys/ca.pem", subject = "*"}',
    )

    assert len({parsed(f"require = [{each}]")[0].canonical() for each in entries}) == len(entries)
