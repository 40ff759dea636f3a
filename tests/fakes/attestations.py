"""Attestation keys and statements of the ledger in memory, right ones and forged ones."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from boltseal.ledger.entry import EntryKind
from boltseal.ledger.receipt_attestation import announcement_extra, format_attestation, format_statement
from boltseal.signatures.dsse import signed_bytes
from boltseal.signatures.public_keys import PublicKey
from tests.fakes.ledger import FakeLedger


@dataclass
class Attester:
    """An attestation key."""

    private: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def public(self) -> PublicKey:
        """The public half."""
        spki = serialization.PublicFormat.SubjectPublicKeyInfo
        return PublicKey(self.private.public_key().public_bytes(serialization.Encoding.DER, spki))

    def announce(self, ledger: FakeLedger, **values: Any) -> int:
        """Let the ledger announce the key; return the index of the entry."""
        made: dict[str, Any] = {"tag": "", "repository": "", "extra": announcement_extra(self.public), **values}
        return ledger.add(EntryKind.KEY_ANNOUNCED, **made)

    def attest(self, ledger: FakeLedger, index: int, announced: int) -> bytes:
        """Return the statement of an entry, with the announcement at another index."""
        return self.sign(format_statement(ledger.receipt(index), ledger.receipt(announced)))

    def sign(self, statement: bytes) -> bytes:
        """Return a bundle with any statement."""
        signature = self.private.sign(signed_bytes(statement), ec.ECDSA(hashes.SHA256()))
        return format_attestation(statement, signature, self.public)


def in_base64(raw: bytes) -> str:
    """Return bytes as a statement has them."""
    return b64encode(raw).decode()
