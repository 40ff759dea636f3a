"""Statements about receipts: what verifies, and each way to lie with one."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any

import pytest

from boltseal.errors import Invalid
from boltseal.ledger.entry import EntryKind
from boltseal.ledger.note import COSIGNATURE, SigningKey
from boltseal.ledger.proof import MAX_RECEIPT_BYTES
from boltseal.ledger.receipt_attestation import (
    MAX_ATTESTATION_BYTES,
    PREDICATE_TYPE,
    AttestationInvalid,
    announced_key,
    format_statement,
    is_attestation,
    open_attestation,
    pem_of,
)
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.signatures.public_keys import PublicKey
from boltseal.signatures.signed_image import SignedImage
from boltseal.signatures.sigstore_bundle import verify_bundle
from tests.fakes.attestations import Attester, in_base64
from tests.fakes.ledger import A, B, FakeLedger, signing_key

KEY = signing_key().verifier
PUSHED, MOVED, DELETED, ANNOUNCED = 1, 2, 3, 4


@pytest.fixture
def attester() -> Attester:
    return Attester()


@pytest.fixture
def ledger(attester: Attester) -> FakeLedger:
    """Entries: started, 1.4.2 is A, latest is B, 1.4.1 is removed, the attestation key is announced."""
    ledger = FakeLedger()
    ledger.push("1.4.2")
    ledger.push("latest", digest=B, mode="floating")
    ledger.add(EntryKind.TAG_DELETED, A, tag="1.4.1")
    attester.announce(ledger)
    return ledger


def statement_of(ledger: FakeLedger, index: int = PUSHED, announced: int = ANNOUNCED) -> dict[str, Any]:
    statement: dict[str, Any] = json.loads(format_statement(ledger.receipt(index), ledger.receipt(announced)))
    return statement


def packed(statement: dict[str, Any]) -> bytes:
    return json.dumps(statement, separators=(",", ":")).encode()


def test_a_statement_proves_its_tag_with_the_key_of_the_ledger(ledger: FakeLedger, attester: Attester) -> None:
    """With the ledger's key alone, a statement proves entry, tag and digest, and which key signed it."""
    opened = open_attestation(attester.attest(ledger, PUSHED, ANNOUNCED), KEY)

    assert (opened.receipt.index, opened.receipt.entry.tag, opened.receipt.entry.digest) == (PUSHED, "1.4.2", A)
    assert (opened.announcement.index, opened.key) == (ANNOUNCED, attester.public)
    assert opened.receipt_raw == ledger.receipt(PUSHED)


def test_a_bundle_and_a_receipt_differ_in_their_first_byte(ledger: FakeLedger, attester: Attester) -> None:
    """A bundle begins as JSON does, and a receipt with the name of its format."""
    bundle = attester.attest(ledger, PUSHED, ANNOUNCED)

    assert (is_attestation(b"\n" + bundle), is_attestation(ledger.receipt(PUSHED)), is_attestation(b"")) == (
        True,
        False,
        False,
    )


def test_another_tool_reads_an_attestation_of_the_image(ledger: FakeLedger, attester: Attester) -> None:
    """With the attestation key alone, the bundle is an attestation of the digest, whose predicate names tag and mode."""
    image = SignedImage(Repository("shop/app"), Digest.parse(A))
    verified = verify_bundle(
        attester.attest(ledger, PUSHED, ANNOUNCED), image, PublicKey.parse(pem_of(attester.public).encode())
    )
    named = {name: verified.predicate[name] for name in ("ledger", "repository", "tag", "event", "mode", "index")}

    assert verified.predicate_type == PREDICATE_TYPE
    assert named == {
        "ledger": "reg.example",
        "repository": "shop/app",
        "tag": "1.4.2",
        "event": "created",
        "mode": "sealed",
        "index": 1,
    }


def test_a_witness_that_did_not_cosign_is_not_reported(ledger: FakeLedger, attester: Attester) -> None:
    """The cosignatures of a statement are those of its receipt."""
    witness = SigningKey("witness.example", b"w" * 32, COSIGNATURE).verifier
    opened = open_attestation(attester.attest(ledger, PUSHED, ANNOUNCED), KEY, [witness])

    assert opened.receipt.signed.cosignatures == ()


def test_a_statement_of_a_rotated_key_stays_valid(ledger: FakeLedger, attester: Attester) -> None:
    """A rotation takes nothing back: the ledger announced the former key, and the receipt proves the tag."""
    before = attester.attest(ledger, PUSHED, ANNOUNCED)
    following = Attester()
    after = following.attest(ledger, PUSHED, following.announce(ledger))

    assert open_attestation(before, KEY).key == attester.public
    assert open_attestation(after, KEY).key == following.public


def test_a_rotated_key_cannot_use_the_announcement_of_its_successor(ledger: FakeLedger, attester: Attester) -> None:
    """A statement is verified with the key that its own announcement has."""
    following = Attester().announce(ledger)
    with pytest.raises(Invalid, match="signed by another key"):
        open_attestation(attester.attest(ledger, PUSHED, following), KEY)


def test_a_key_that_the_ledger_never_announced_is_refused(ledger: FakeLedger) -> None:
    """A key pair of an attacker, with the true receipts, states nothing."""
    with pytest.raises(Invalid, match="signed by another key"):
        open_attestation(Attester().attest(ledger, PUSHED, ANNOUNCED), KEY)


def test_an_announcement_in_another_ledger_is_refused(ledger: FakeLedger) -> None:
    """An attacker's own ledger of the same name announces the attacker's key: the ledger's key did not sign that."""
    thief, other = Attester(), FakeLedger(key=signing_key("z"))
    announced = thief.announce(other)
    forged = thief.sign(format_statement(ledger.receipt(PUSHED), other.receipt(announced)))
    with pytest.raises(Invalid, match="none of the trusted keys signed this note"):
        open_attestation(forged, KEY)


def test_a_statement_of_another_ledger_is_refused(attester: Attester) -> None:
    """A statement that is valid for one ledger proves nothing under the key of another."""
    other = FakeLedger(key=signing_key("z", "other.example"))
    other.push("1.4.2")
    raw = attester.attest(other, 1, attester.announce(other))

    assert open_attestation(raw, other.key.verifier).receipt.entry.registry == "other.example"
    with pytest.raises(Invalid, match="none of the trusted keys signed this note"):
        open_attestation(raw, KEY)


@pytest.mark.parametrize("index", [0, PUSHED])
def test_another_entry_announces_no_key(ledger: FakeLedger, attester: Attester, index: int) -> None:
    """The start of the log, or a tag, is no announcement."""
    with pytest.raises(AttestationInvalid, match="announces no attestation key"):
        open_attestation(attester.attest(ledger, PUSHED, index), KEY)


def test_a_key_announced_for_another_use_is_refused(ledger: FakeLedger, attester: Attester) -> None:
    """An announcement counts only for the use that it names."""
    extra = {"use": "something-else", "key": in_base64(attester.public.der)}
    index = attester.announce(ledger, extra=extra)
    with pytest.raises(AttestationInvalid, match="announces no attestation key"):
        open_attestation(attester.attest(ledger, PUSHED, index), KEY)


@pytest.mark.parametrize("key", ["", "AAAA", "no base64", "-----BEGIN"])
def test_an_announced_key_that_is_none_is_refused(ledger: FakeLedger, attester: Attester, key: str) -> None:
    """An announcement without a readable key announces nothing."""
    index = attester.announce(ledger, extra={"use": "attestation", "key": key})
    with pytest.raises(Invalid, match="BEGIN PUBLIC KEY"):
        open_attestation(attester.attest(ledger, PUSHED, index), KEY)


def _other_digest(statement: dict[str, Any]) -> None:
    statement["subject"][0]["digest"] = {"sha256": B[7:]}


def _second_subject(statement: dict[str, Any]) -> None:
    statement["subject"].append({"name": "reg.example/shop/app:1.4.2", "digest": {"sha256": B[7:]}})


def _other_name(statement: dict[str, Any]) -> None:
    statement["subject"][0]["name"] = "reg.example/shop/app:1.4.3"


def _other_part(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(statement: dict[str, Any]) -> None:
        statement["predicate"][name] = value

    return change


def _one_part_more(statement: dict[str, Any]) -> None:
    statement["predicate"]["approved"] = "yes"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_other_digest, "about another digest"),
        (_second_subject, "its subject is not the image under its tag"),
        (_other_name, "its subject is not the image under its tag"),
        (_other_part("tag", "1.4.3"), 'tag is "1.4.3"; expected "1.4.2"'),
        (_other_part("repository", "shop/other"), 'repository is "shop/other"'),
        (_other_part("ledger", "other.example"), "ledger is"),
        (_other_part("index", 7), 'index is "7"; expected "1"'),
        (_other_part("mode", "floating"), "mode is"),
        (_other_part("time", "2030-01-01T00:00:00.000000Z"), "time is"),
        (_other_part("receipt", "no base64"), "not base64"),
        (_other_part("announcement", "no base64"), "not base64"),
        (_other_part("receipt", None), "the statement is not valid"),
        (_one_part_more, "other parts, or another spelling"),
    ],
)
def test_a_statement_that_its_receipt_does_not_prove_is_refused(
    ledger: FakeLedger, attester: Attester, change: Callable[[dict[str, Any]], None], problem: str
) -> None:
    """A thief of the attestation key signs any statement; it counts only as far as the receipt proves it."""
    statement = statement_of(ledger)
    change(statement)
    with pytest.raises(Invalid, match=problem):
        open_attestation(attester.sign(packed(statement)), KEY)


def test_the_receipt_of_another_tag_is_refused(ledger: FakeLedger, attester: Attester) -> None:
    """A statement about 1.4.2 with the valid receipt of another tag of the ledger is refused."""
    statement = statement_of(ledger)
    statement["predicate"]["receipt"] = in_base64(ledger.receipt(MOVED))
    with pytest.raises(Invalid, match="about another digest"):
        open_attestation(attester.sign(packed(statement)), KEY)


def test_a_receipt_with_another_entry_in_it_is_refused(ledger: FakeLedger, attester: Attester) -> None:
    """A receipt whose entry was replaced does not lead to the checkpoint."""
    forged = ledger.receipt(PUSHED).replace(
        in_base64(ledger.entries[PUSHED]).encode(), in_base64(ledger.entries[MOVED]).encode()
    )
    with pytest.raises(Invalid, match="root"):
        open_attestation(attester.sign(format_statement(forged, ledger.receipt(ANNOUNCED))), KEY)


def test_a_statement_of_another_type_is_refused(ledger: FakeLedger, attester: Attester) -> None:
    """A provenance with a receipt in it is no receipt."""
    statement = statement_of(ledger) | {"predicateType": "https://slsa.dev/provenance/v1"}
    with pytest.raises(AttestationInvalid, match=r"expected https://boltseal\.dev/receipt/v1"):
        open_attestation(attester.sign(packed(statement)), KEY)


def test_a_removed_tag_has_no_statement(ledger: FakeLedger) -> None:
    """By a deletion no tag resolves to an image, so that no statement can be misread as if it did."""
    with pytest.raises(AttestationInvalid, match=r"is a tag\.deleted"):
        format_statement(ledger.receipt(DELETED), ledger.receipt(ANNOUNCED))


def test_a_settling_tag_has_no_statement(ledger: FakeLedger) -> None:
    """A tag that is settling may still get another digest."""
    index = ledger.add(digest=A, tag="1.5.0", extra={"mode": "settling", "settles": "2026-12-03T10:00:00.000000Z"})
    with pytest.raises(AttestationInvalid, match="is settling"):
        format_statement(ledger.receipt(index), ledger.receipt(ANNOUNCED))


def test_a_forged_statement_of_a_removed_tag_is_refused(ledger: FakeLedger, attester: Attester) -> None:
    """The receipt of a deletion has a digest too; a statement around it is refused."""
    statement = statement_of(ledger)
    statement["predicate"]["receipt"] = in_base64(ledger.receipt(DELETED))
    with pytest.raises(AttestationInvalid, match=r"is a tag\.deleted"):
        open_attestation(attester.sign(packed(statement)), KEY)


def _cut(raw: bytes) -> bytes:
    return raw[:-10]


def _other_payload(raw: bytes) -> bytes:
    bundle = json.loads(raw)
    payload = b64decode(bundle["dsseEnvelope"]["payload"]).replace(b'"tag":"1.4.2"', b'"tag":"1.4.3"')
    bundle["dsseEnvelope"]["payload"] = in_base64(payload)
    return json.dumps(bundle).encode()


def _other_signature(raw: bytes) -> bytes:
    bundle = json.loads(raw)
    bundle["dsseEnvelope"]["signatures"] = [{"sig": in_base64(b"\x30\x06\x02\x01\x01\x02\x01\x01")}]
    return json.dumps(bundle).encode()


def _no_signature(raw: bytes) -> bytes:
    bundle = json.loads(raw)
    bundle["dsseEnvelope"]["signatures"] = []
    return json.dumps(bundle).encode()


def _other_payload_type(raw: bytes) -> bytes:
    return raw.replace(b"application/vnd.in-toto+json", b"application/vnd.other+json")


def _two_payloads(raw: bytes) -> bytes:
    return raw.replace(b'{"payload":', b'{"payload":"e30=","payload":', 1)


def _certificate(raw: bytes) -> bytes:
    return raw.replace(b'"publicKey"', b'"certificate"')


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_cut, "not JSON"),
        (_other_payload, "signed by another key, or its payload was changed"),
        (_other_signature, "signed by another key"),
        (_no_signature, "signed by another key"),
        (_other_payload_type, "contains"),
        (_two_payloads, "a key twice"),
        (_certificate, "signed with a certificate"),
    ],
)
def test_a_changed_envelope_is_refused(
    ledger: FakeLedger, attester: Attester, change: Callable[[bytes], bytes], problem: str
) -> None:
    """No part of a bundle can be changed: payload, type, signature, or the kind of key."""
    with pytest.raises(Invalid, match=problem):
        open_attestation(change(attester.attest(ledger, PUSHED, ANNOUNCED)), KEY)


def test_a_bundle_that_is_too_long_is_refused(ledger: FakeLedger, attester: Attester) -> None:
    """A bundle is not parsed if it is longer than two receipts can make it."""
    raw = attester.attest(ledger, PUSHED, ANNOUNCED)
    with pytest.raises(Invalid, match=f"at most {MAX_ATTESTATION_BYTES} are read"):
        open_attestation(raw + b" " * MAX_ATTESTATION_BYTES, KEY)


def test_the_longest_receipts_fit_into_a_bundle(attester: Attester) -> None:
    """The limit of a bundle is above what two receipts of the greatest length, in base64 twice, need."""
    longest = b64encode(b64encode(b"r" * MAX_RECEIPT_BYTES) * 2)

    assert len(attester.sign(b"{}")) + len(longest) + 10_000 < MAX_ATTESTATION_BYTES


@pytest.mark.parametrize("depth", [100, 450, 900, 990, 5000])
@pytest.mark.parametrize("name", ["approved", "tag"])
def test_a_deeply_nested_statement_is_refused(ledger: FakeLedger, attester: Attester, name: str, depth: int) -> None:
    """A thief of the attestation key exhausts no stack, at whatever depth."""
    statement = statement_of(ledger)
    statement["predicate"][name] = "NESTED"
    raw = packed(statement).replace(b'"NESTED"', b"[" * depth + b"]" * depth)
    with pytest.raises(Invalid):
        open_attestation(attester.sign(raw), KEY)


def test_the_announced_key_is_read_from_its_entry(ledger: FakeLedger, attester: Attester) -> None:
    """The entry has the whole public key."""
    opened = open_attestation(attester.attest(ledger, PUSHED, ANNOUNCED), KEY)

    assert announced_key(opened.announcement.entry) == attester.public
