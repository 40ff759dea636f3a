"""The private keys that sign receipts as statements, in `<data>.keys/` (mode 0700), beside the data folder.

    attestation.key        EC on P-256, PKCS #8 in PEM, mode 0600: what signs now
    attestation.key.next   during a rotation, the key that follows; in force once the ledger has announced it
    attestation.lock       locked by a process that makes a key

The ledger says which key is in force: the one that its last entry `key.announced` has. A file with another key signs nothing.

Trusted: accounts that can read the files. If they are compromised, the attacker can make statements that cosign accepts. A verifier
with the ledger's key refuses them, since each statement has to follow from a receipt (`ledger.receipt_attestation`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from boltseal.files.atomic_files import Disk, locked, write_file
from boltseal.server.storage.ledger_mark import PRIVATE, LedgerKeyUnreadable, read_small
from boltseal.signatures.public_keys import PublicKey

_NAME: Final = "attestation.key"
_NEXT: Final = "attestation.key.next"
_LOCK: Final = "attestation.lock"
_REMEDY: Final = "restore attestation.key in the folder of keys from a backup, or remove it and run `boltseal ledger rotate --attestation`"


@dataclass(frozen=True, slots=True)
class AttestationKey:
    """A key pair. `pem`: the private key."""

    pem: bytes

    @property
    def public(self) -> PublicKey:
        """The public half."""
        spki = serialization.PublicFormat.SubjectPublicKeyInfo
        return PublicKey(self._private().public_key().public_bytes(serialization.Encoding.DER, spki))

    def sign(self, message: bytes) -> bytes:
        """Return an ECDSA signature with SHA-256, in DER."""
        return self._private().sign(message, ec.ECDSA(hashes.SHA256()))

    def _private(self) -> ec.EllipticCurvePrivateKey:
        try:
            key = serialization.load_pem_private_key(self.pem, None)
        except (ValueError, TypeError) as error:
            raise LedgerKeyUnreadable(
                f"the attestation key is no private key in PEM without a password; {_REMEDY}"
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise LedgerKeyUnreadable(f"the attestation key is not of type EC on P-256; {_REMEDY}")
        return key

    def __repr__(self) -> str:
        return "AttestationKey(...)"


class AttestationKeys:
    """The files in one folder of keys."""

    def __init__(self, folder: Path, disk: Disk | None = None) -> None:
        self._folder = folder
        self._disk = disk or Disk()

    def find(self, public: PublicKey) -> AttestationKey | None:
        """Return the key pair of an announced key, None if neither file has it. Raises: LedgerKeyUnreadable."""
        return next(
            (each for each in map(self._read, (_NAME, _NEXT)) if each is not None and each.public == public), None
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Exclude other processes that make a key inside the block. Raises: LedgerKeyUnreadable."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(str(self._folder / _LOCK), PRIVATE):
                yield
        except OSError as error:
            raise LedgerKeyUnreadable(
                f"the folder of keys, {self._folder.name}, can't be used: {error.strerror}"
            ) from error

    def make_next(self) -> AttestationKey:
        """Make the key that follows, beside the one in force. Raises: LedgerKeyUnreadable."""
        made = AttestationKey(
            ec.generate_private_key(ec.SECP256R1()).private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        self._write(_NEXT, made)
        return made

    def put_into_force(self, key: AttestationKey) -> None:
        """Let a key be the one that signs, in place of the former. Raises: LedgerKeyUnreadable."""
        self._write(_NAME, key)
        with suppress(OSError):  # a file that is left has the same key, and the next rotation replaces it
            (self._folder / _NEXT).unlink(missing_ok=True)

    def _read(self, name: str) -> AttestationKey | None:
        raw = read_small(self._folder / name)
        return None if raw is None else AttestationKey(raw)

    def _write(self, name: str, key: AttestationKey) -> None:
        try:
            write_file(self._disk, self._folder / name, key.pem, PRIVATE)
        except OSError as error:
            raise LedgerKeyUnreadable(f"{self._folder.name}/{name} can't be written: {error.strerror}") from error
