"""Receipts as signed statements: what a ledger proves of a tag, in a form that other tools verify.

    bundle      a sigstore bundle of version 0.3, signed by the attestation key (`signatures.sigstore_bundle`)
    statement   in-toto, of the image's digest; its predicate, of type PREDICATE_TYPE, has
        ledger, index, event, repository, tag, time, mode   of the entry
        receipt        base64 of the receipt of the entry (`ledger.proof`)
        announcement   base64 of the receipt of the entry `key.announced` with the key that signed the statement

The statement follows from the two receipts: a verifier that has the ledger's key computes it again and compares every byte. So
the attestation key can state nothing that the ledger does not prove, and a thief of it gains nothing against such a verifier. Tools
that know only the attestation key (`cosign verify-attestation --key`) trust it alone.

An entry `key.announced` has in its `extra`: `use` = "attestation", `key` = base64 of the public key's SubjectPublicKeyInfo.
The key announced last signs; statements of the keys before it stay valid. Pure.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any, Final

import msgspec

from boltseal.errors import Invalid, quote
from boltseal.ledger.audit import REMOVALS
from boltseal.ledger.entry import CHANGES, MODE_SETTLING, Entry, EntryKind, format_time, parse
from boltseal.ledger.note import VerifierKey
from boltseal.ledger.proof import MAX_RECEIPT_BYTES, VerifiedReceipt, open_receipt, parse_receipt_unverified
from boltseal.oci.base64_text import decode_base64
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.signatures.dsse import IN_TOTO, STATEMENT_V1, Envelope, payload_of
from boltseal.signatures.public_keys import PublicKey
from boltseal.signatures.signed_image import SignedImage
from boltseal.signatures.sigstore_bundle import BUNDLE, verify_bundle
from boltseal.signatures.strict_json import parse_strict

PREDICATE_TYPE: Final = "https://boltseal.dev/receipt/v1"
MAX_ATTESTATION_BYTES: Final = 4 * MAX_RECEIPT_BYTES
"""Two receipts in base64, as a payload in base64 once more (32/9 of the longest receipt), and what is around them."""
_USE: Final = "attestation"


class AttestationInvalid(Invalid):
    """A statement that its receipts do not prove, or an entry that no statement can be made of."""


@dataclass(frozen=True, slots=True)
class VerifiedAttestation:
    """A statement that its receipt proves. `key`: signed it; `announcement`: the entry in which the ledger announced that key."""

    receipt: VerifiedReceipt
    receipt_raw: bytes
    announcement: VerifiedReceipt
    key: PublicKey


class _Receipts(msgspec.Struct):
    receipt: str
    announcement: str


class _Statement(msgspec.Struct, rename="camel"):
    predicate_type: str
    predicate: _Receipts


class _Parts(msgspec.Struct):
    predicate: dict[str, Any]
    subject: Any


class _Bundle(msgspec.Struct, rename="camel"):
    dsse_envelope: Envelope


def announcement_extra(key: PublicKey) -> Mapping[str, str]:
    """Return the `extra` of the entry that announces an attestation key."""
    return {"use": _USE, "key": b64encode(key.der).decode()}


def announced_key(entry: Entry) -> PublicKey:
    """Return the attestation key that an entry announces. Raises: AttestationInvalid, PublicKeyInvalid."""
    if entry.kind is not EntryKind.KEY_ANNOUNCED or entry.extra.get("use") != _USE:
        raise AttestationInvalid(f"an entry of kind {entry.kind} announces no attestation key")
    return PublicKey.parse(_pem(entry.extra.get("key", "")))


def pem_of(key: PublicKey) -> str:
    """Return a public key in PEM, as cosign and openssl read it."""
    return _pem(b64encode(key.der).decode()).decode()


def format_statement(receipt: bytes, announcement: bytes) -> bytes:
    """Return the statement of an entry. `receipt`, `announcement`: the receipts, which are not verified here.

    Raises: AttestationInvalid: the entry says of no tag that it resolves to an image; ReceiptInvalid, EntryInvalid.
    """
    parsed = parse_receipt_unverified(receipt)
    entry = parse(parsed.extra or b"")
    if entry.kind not in CHANGES - REMOVALS:
        raise AttestationInvalid(
            f"entry {parsed.index} is a {entry.kind}, by which no tag resolves to an image: there is no statement of it"
        )
    if entry.extra.get("mode") == MODE_SETTLING:
        raise AttestationInvalid(
            f"the tag {entry.tag} of entry {parsed.index} is settling: there is no statement before it is sealed"
        )
    digest = Digest.parse(entry.digest)
    document = {
        "_type": STATEMENT_V1,
        "subject": [
            {"name": f"{entry.registry}/{entry.repository}:{entry.tag}", "digest": {digest.algorithm: digest.hex}}
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "ledger": entry.registry,
            "index": parsed.index,
            "event": entry.kind.removeprefix("tag."),
            "repository": entry.repository,
            "tag": entry.tag,
            "time": format_time(entry.time_us),
            "mode": entry.extra.get("mode", ""),
            "receipt": b64encode(receipt).decode(),
            "announcement": b64encode(announcement).decode(),
        },
    }
    return msgspec.json.encode(document)


def format_attestation(statement: bytes, signature: bytes, key: PublicKey) -> bytes:
    """Return the bundle. `signature`: by `key`, over `dsse.signed_bytes` of the statement."""
    envelope = {
        "payload": b64encode(statement).decode(),
        "payloadType": IN_TOTO,
        "signatures": [{"sig": b64encode(signature).decode()}],
    }
    hint = b64encode(bytes.fromhex(key.fingerprint)).decode()
    material = {"publicKey": {"hint": hint}}
    return msgspec.json.encode({"mediaType": BUNDLE, "verificationMaterial": material, "dsseEnvelope": envelope})


def is_attestation(raw: bytes) -> bool:
    """Return whether a file is a bundle, which begins as JSON does, and not a tlog-proof. Nothing of it is verified."""
    return raw.lstrip()[:1] == b"{"


def open_attestation(raw: bytes, key: VerifierKey, witnesses: Sequence[VerifierKey] = ()) -> VerifiedAttestation:
    """Read a bundle and verify it with the ledger's key. Raises: an Invalid error at the first step that fails.

    1. It is a bundle with an in-toto statement of PREDICATE_TYPE, which has both receipts.
    2. The receipt is valid under `key`, and by whichever of `witnesses` cosigned it.
    3. The announcement is valid under `key`: this ledger announced the attestation key.
    4. The attestation key signed the bundle, and the statement is about the digest of the receipt's entry.
    5. The statement is the one that follows from the two receipts, byte for byte.
    """
    # 1
    payload = payload_of(parse_strict(raw, _Bundle, "the bundle", MAX_ATTESTATION_BYTES).dsse_envelope)
    stated = parse_strict(payload, _Statement, "the statement", MAX_ATTESTATION_BYTES)
    if stated.predicate_type != PREDICATE_TYPE:
        raise AttestationInvalid(f"the statement is a {quote(stated.predicate_type)}; expected {PREDICATE_TYPE}")
    receipt_raw, announcement_raw = (
        decode_base64(each) for each in (stated.predicate.receipt, stated.predicate.announcement)
    )
    if receipt_raw is None or announcement_raw is None:
        raise AttestationInvalid("a receipt in the statement is not base64")
    # 2
    receipt = open_receipt(receipt_raw, key, witnesses)
    # 3
    announcement = open_receipt(announcement_raw, key)
    signer = announced_key(announcement.entry)
    # 4
    expected = format_statement(receipt_raw, announcement_raw)
    image = SignedImage(Repository(receipt.entry.repository), Digest.parse(receipt.entry.digest))
    verify_bundle(raw, image, signer)
    # 5
    if payload != expected:
        raise AttestationInvalid(f"the statement is not what its receipt proves: {_difference(payload, expected)}")
    return VerifiedAttestation(receipt, receipt_raw, announcement, signer)


def _difference(payload: bytes, expected: bytes) -> str:
    """Return the first part in which a statement differs from the expected one."""
    stated, proven = (
        parse_strict(each, _Parts, "the statement", MAX_ATTESTATION_BYTES) for each in (payload, expected)
    )
    for name, value in proven.predicate.items():
        other = stated.predicate.get(name)
        if other != value:
            shown = quote(str(other), 80) if isinstance(other, str | int) else "no text"
            return f"{name} is {shown}; expected {quote(str(value), 80)}"
    if stated.subject != proven.subject:
        return "its subject is not the image under its tag"
    return "it has other parts, or another spelling"


def _pem(der_base64: str) -> bytes:
    lines = "\n".join(wrap(der_base64, 64))
    return f"-----BEGIN PUBLIC KEY-----\n{lines}\n-----END PUBLIC KEY-----\n".encode()
