"""The key that signs receipts as statements: show it, and make a new one."""

from __future__ import annotations

from dataclasses import dataclass

from boltseal.commands.tag_changes import required_reason
from boltseal.ledger.receipt_attestation import pem_of
from boltseal.server.commands.data_folder import local_admin
from boltseal.server.registry.attestations import last_announced, rotate_attestation_key
from boltseal.server.settings import Settings
from boltseal.server.storage.attestation_key import AttestationKeys
from boltseal.server.storage.metadata import ledger_store
from boltseal.server.storage.metadata.protocol import Snapshot
from boltseal.server.store_factory import open_store


@dataclass(frozen=True, slots=True)
class PublicAttestationKey:
    """The public key, in PEM, and the origin of the ledger that announced it."""

    origin: str
    pem: str


def public_attestation_key(settings: Settings) -> PublicAttestationKey:
    """Return the attestation key that the ledger has announced last. Raises: NoAttestationKey."""
    with open_store(settings) as store:
        announced = store.database.read_and_wait(last_announced)
        return PublicAttestationKey(store.database.read_and_wait(_origin), pem_of(announced.key))


def rotate_attestation(settings: Settings, reason: str) -> PublicAttestationKey:
    """Make an attestation key and announce it in the ledger. Raises: LedgerMissing: the ledger was never started."""
    reason = required_reason(reason)
    with open_store(settings) as store:
        keys = AttestationKeys(store.keys.folder)
        new = rotate_attestation_key(store.database, keys, local_admin().name, reason, store.integrator.integrate)
        return PublicAttestationKey(store.database.read_and_wait(_origin), pem_of(new))


def _origin(snapshot: Snapshot) -> str:
    head = ledger_store.head(snapshot)
    return "" if head is None else head.origin
