"""`require` of a rule: what is read, each mistake, and which evidence meets which requirement."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

import pytest

from boltseal.errors import Invalid
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.policy.evidence_findings import Verdict, evidence_findings
from boltseal.policy.requirements import (
    EvidenceVerdict,
    Requirement,
    RequirementInvalid,
    StoredEvidence,
    judge_evidence,
    parse_requirements,
)
from boltseal.policy.rule_decision import decide
from boltseal.policy.rules import BUILT_IN_SIGNATURES, RuleInvalid, parse_rules
from boltseal.signatures.dsse import ENVELOPE
from boltseal.signatures.evidence import EvidenceLayer
from boltseal.signatures.signed_image import SignedImage
from boltseal.signatures.simple_signing import SIMPLE_SIGNING
from tests.signatures.signers import Signer, encoded, simple_payload, statement

RELEASE, CI, MALLORY = Signer.on_p256(), Signer.on_p256(), Signer.on_p256()
FILES = {"keys/release.pub": RELEASE.pem, "ci.pub": CI.pem, "text.pub": b"no key"}
DIGEST = Digest.of(b"image")
IMAGE = SignedImage(Repository("shop/app"), DIGEST)
V1, V02 = "https://slsa.dev/provenance/v1", "https://slsa.dev/provenance/v0.2"
BUILDER = "https://ci.example/builder"


def read_key(file: str) -> bytes:
    if file not in FILES:
        raise Invalid(f"cannot read the key {file}: No such file")
    return FILES[file]


def parsed(toml: str) -> tuple[Requirement, ...]:
    return parse_requirements(tomllib.loads(toml)["require"], read_key)


def signature(signer: Signer, name: str) -> StoredEvidence:
    payload = simple_payload(DIGEST, "localhost:5000/shop/app")
    layer = EvidenceLayer(SIMPLE_SIGNING, payload, signer.signature_of(payload))
    return StoredEvidence(Digest.of(name.encode()), (layer,))


def attestation(signer: Signer, predicate_type: str, predicate: Mapping[str, Any], name: str) -> StoredEvidence:
    raw = encoded(signer.envelope(encoded(statement(DIGEST, predicate_type, predicate))))
    return StoredEvidence(Digest.of(name.encode()), (EvidenceLayer(ENVELOPE, raw),))


def judged(toml: str, *evidence: StoredEvidence) -> EvidenceVerdict:
    return judge_evidence(parsed(toml), IMAGE, evidence)


def test_a_signature_by_the_key_meets_the_requirement() -> None:
    """The manifest that has the signature is named, whatever else there is."""
    verdict = judged('require = [{key = "keys/release.pub"}]', signature(MALLORY, "m"), signature(RELEASE, "r"))

    assert verdict == EvidenceVerdict((), (Digest.of(b"r"),))


def test_an_attestation_is_shown_with_its_signer_and_builder() -> None:
    """A finding names the key as the requirement does, and what the attestation states."""
    require = f'require = [{{predicate = "slsaprovenance", builder = "{BUILDER}", key = "ci.pub"}}]'
    provenance = attestation(CI, V1, {"runDetails": {"builder": {"id": BUILDER}}}, "p")
    (finding,) = evidence_findings(parsed(require), IMAGE, [provenance])

    assert (finding.verdict, finding.kind, finding.predicate_type, finding.builder) == (
        Verdict.VERIFIED,
        "attestation",
        V1,
        BUILDER,
    )
    assert finding.signer == f"ci.pub (sha256:{CI.key.fingerprint[:12]})"


def test_without_evidence_the_command_that_adds_it_is_named() -> None:
    """The key file's folders are the operator's concern and not shown."""
    (missing,) = judged('require = [{key = "keys/release.pub"}]').missing

    assert missing.what == f"a signature by release.pub (sha256:{RELEASE.key.fingerprint[:12]})"
    assert missing.command == f"cosign sign --key release.key REGISTRY/shop/app@{DIGEST}"
    assert missing.why == ""


def test_evidence_that_does_not_hold_is_missing_with_the_reason() -> None:
    """A signature by another key does not meet the requirement, and the verdict says why."""
    (missing,) = judged('require = [{key = "keys/release.pub"}]', signature(MALLORY, "m")).missing

    assert "by another key" in missing.why


def test_every_requirement_must_hold() -> None:
    """If one of two requirements holds, the other one is missing."""
    two = 'require = [{key = "keys/release.pub"}, {key = "ci.pub"}]'

    verdict = judged(two, signature(RELEASE, "r"))

    assert [each.what for each in verdict.missing] == [f"a signature by ci.pub (sha256:{CI.key.fingerprint[:12]})"]
    assert judged(two, signature(RELEASE, "r"), signature(CI, "c")).missing == ()


def test_one_alternative_is_enough() -> None:
    """`any_of` holds with one of its keys, and names all of them when none signed."""
    either = 'require = [{any_of = [{key = "keys/release.pub"}, {key = "ci.pub"}]}]'

    verdict = judged(either)

    assert judged(either, signature(CI, "c")) == EvidenceVerdict((), (Digest.of(b"c"),))
    assert " or a signature by ci.pub" in verdict.missing[0].what
    assert verdict.missing[0].command.startswith("cosign sign --key release.key ")


def test_an_attestation_is_no_signature_and_a_signature_is_no_attestation() -> None:
    """Each of both requirements needs its own evidence, though one key signed both."""
    attested = attestation(CI, V1, {}, "a")
    (as_signature,) = judged('require = [{key = "ci.pub"}]', attested).missing
    (as_attestation,) = judged('require = [{predicate = "slsaprovenance", key = "ci.pub"}]', signature(CI, "c")).missing

    assert as_signature.why == f'ci.pub signed an attestation of type "{V1}"'
    assert as_attestation.why == "ci.pub signed the image only"
    assert as_attestation.command.startswith(
        "cosign attest --key ci.key --type slsaprovenance --predicate FILE REGISTRY/"
    )


@pytest.mark.parametrize(
    ("predicate_type", "predicate", "holds"),
    [
        (V1, {"runDetails": {"builder": {"id": BUILDER}}}, True),
        (V02, {"builder": {"id": BUILDER}}, True),
        (V1, {"runDetails": {"builder": {"id": BUILDER + "/other"}}}, False),
        (V1, {"runDetails": {"builder": BUILDER}}, False),
        (V1, {"runDetails": [BUILDER]}, False),
        (V1, {}, False),
        ("https://cyclonedx.org/bom", {"builder": {"id": BUILDER}}, False),
    ],
)
def test_a_provenance_names_its_builder(predicate_type: str, predicate: dict[str, Any], holds: bool) -> None:
    """The builder is compared as a whole, at the place where its version of SLSA has it."""
    wanted = f'require = [{{predicate = "slsaprovenance", builder = "{BUILDER}", key = "ci.pub"}}]'

    verdict = judged(wanted, attestation(CI, predicate_type, predicate, "a"))

    assert (verdict.missing == ()) is holds


def test_a_predicate_type_may_be_a_uri() -> None:
    """Types without a name of ours are written in full."""
    wanted = 'require = [{predicate = "https://example.com/tests/v1", key = "ci.pub"}]'

    assert judged(wanted, attestation(CI, "https://example.com/tests/v1", {}, "a")).missing == ()
    assert judged(wanted, attestation(CI, "https://example.com/tests/v2", {"builder": {"id": "x"}}, "a")).missing


def test_a_key_file_of_another_name_is_not_guessed() -> None:
    """The command names a private key file only where its name follows from the public one."""
    (requirement,) = parse_requirements([{"key": "release.pem"}], lambda _: RELEASE.pem)

    assert requirement.command("IMAGE") == "cosign sign --key KEY IMAGE"


MISTAKES = {
    "not a list": ('require = "release.pub"', "must be a list of tables"),
    "texts": ('require = ["release.pub"]', "must be a list of tables"),
    "empty": ("require = []", "0 entries"),
    "too many": ("require = [" + '{key = "ci.pub"}, ' * 17 + "]", "17 entries"),
    "no key": ('require = [{predicate = "cyclonedx"}]', "key is missing"),
    "unknown": ('require = [{keys = "ci.pub"}]', "did you mean key"),
    "unknown, unlike": ('require = [{colour = "red"}]', r"unknown key \"colour\" \(expected"),
    "half an identity": ('require = [{identity = "x", issuer = "y"}]', "trusted_root is missing"),
    "a number": ("require = [{key = 1}]", "must be a text"),
    "empty key": ('require = [{key = ""}]', "must be a text"),
    "no such file": ('require = [{key = "gone.pub"}]', r"require\[0\]: cannot read the key"),
    "not a key": ('require = [{key = "text.pub"}]', r"require\[0\]: key \"text.pub\": expected one block"),
    "unknown predicate": ('require = [{predicate = "sbom", key = "ci.pub"}]', "expected one of slsaprovenance"),
    "builder alone": ('require = [{builder = "x", key = "ci.pub"}]', "needs a predicate"),
    "any_of beside": ('require = [{any_of = [{key = "ci.pub"}], key = "ci.pub"}]', "stands alone"),
    "any_of inside": ("require = [{any_of = [{any_of = []}]}]", "inside any_of"),
    "any_of empty": ("require = [{any_of = []}]", r"require\[0\].any_of has 0"),
}


@pytest.mark.parametrize(("toml", "why"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_an_error_with_its_place(toml: str, why: str) -> None:
    """A mistake in `require` is an error that names its position; it is never skipped."""
    with pytest.raises(RequirementInvalid, match=why):
        parsed(toml)
    with pytest.raises(RuleInvalid, match=f"rule 1: .*{why}"):
        parse_rules([tomllib.loads(toml)], read_key=read_key)


def test_rules_that_are_not_the_configurations_own_read_no_file() -> None:
    """A client that sends rules can't have the server open files."""
    with pytest.raises(RuleInvalid, match="the server's own configuration only"):
        parse_rules([{"require": [{"key": "ci.pub"}]}])


def test_a_tag_that_settles_cannot_require_evidence() -> None:
    """A tag that settles is given to the first part of an image."""
    with pytest.raises(RuleInvalid, match="exclude each other"):
        parse_rules([{"require": [{"key": "ci.pub"}], "settle": "60s"}], read_key=read_key)


@pytest.mark.parametrize("suffix", [".sig", ".att", ".sbom", ""])
def test_a_rule_with_requirements_leaves_signature_tags_alone(suffix: str) -> None:
    """Signers write these tags before the image has its own."""
    rules = parse_rules([{"require": [{"key": "ci.pub"}]}], read_key=read_key)

    assert decide(rules, "shop/app", f"sha256-{DIGEST.hex}{suffix}") is BUILT_IN_SIGNATURES
    assert decide(rules, "shop/app", "1.4.2") is rules.user[0]


def test_other_keys_are_other_rules() -> None:
    """The line that the ledger records changes with a key, an alternative or a builder."""
    tables = [
        [{"key": "ci.pub"}],
        [{"key": "keys/release.pub"}],
        [{"any_of": [{"key": "ci.pub"}, {"key": "keys/release.pub"}]}],
        [{"predicate": "cyclonedx", "key": "ci.pub"}],
        [{"predicate": "cyclonedx", "key": "ci.pub", "builder": BUILDER}],
    ]
    lines = {parse_rules([{"require": each}], read_key=read_key).canonical() for each in tables}

    assert len(lines | {parse_rules([{}]).canonical()}) == 6
