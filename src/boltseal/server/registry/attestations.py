"""Receipts as signed statements: which key the ledger has announced, statements by it, and its replacement.

The steps of `rotate_attestation_key`, under a lock of the folder of keys:

1. Complete a former rotation that was killed: the key that the ledger has announced last becomes the one in `attestation.key`.
2. Make the new key, beside the one in force.
3. Append the entry `key.announced` with the public key. This is the moment of the rotation.
4. Sign the ledger.
5. Put the new key into force.

If the process dies before step 3, the former key stays in force. If it dies after it, the new key signs from its place beside the former one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from boltseal.errors import ErrorCode, NotFound, Unavailable
from boltseal.ledger.entry import EntryKind, parse
from boltseal.ledger.receipt_attestation import announced_key, announcement_extra, format_attestation, format_statement
from boltseal.server.registry import sequencer
from boltseal.server.registry.ledger import Ledger
from boltseal.server.storage.attestation_key import AttestationKey, AttestationKeys
from boltseal.server.storage.metadata import ledger_store
from boltseal.server.storage.metadata.protocol import Metadata, Snapshot
from boltseal.server.storage.worker_threads import finish_in_thread
from boltseal.signatures.dsse import signed_bytes
from boltseal.signatures.public_keys import PublicKey


class NoAttestationKey(NotFound):
    """The ledger has announced no attestation key, so there are no statements."""

    code: ClassVar[ErrorCode | None] = ErrorCode.UNSUPPORTED


class AttestationKeyMissing(Unavailable):
    """The folder of keys of this server lacks the key that the ledger has announced."""


@dataclass(frozen=True, slots=True)
class Announced:
    """The entry that announced the attestation key in force, and that key."""

    index: int
    key: PublicKey


def last_announced(snapshot: Snapshot) -> Announced:
    """Return the attestation key in force. Raises: NoAttestationKey."""
    head = ledger_store.head(snapshot)
    index = ledger_store.last_index(snapshot, "", "", {EntryKind.KEY_ANNOUNCED})
    if head is not None and index >= 0:
        entry = parse(next(iter(ledger_store.lines(snapshot, index, batch=1))).line)
        if entry.registry == head.origin:  # else a ledger before this one announced it
            return Announced(index, announced_key(entry))
    raise NoAttestationKey(
        "this registry signs no statements: its ledger has announced no attestation key; its operator makes one with "
        "`boltseal ledger rotate --attestation`"
    )


class Attestations:
    """Makes statements of the entries of a store's ledger."""

    def __init__(self, database: Metadata, ledger: Ledger, keys: AttestationKeys) -> None:
        self._database = database
        self._ledger = ledger
        self._keys = keys
        self._key: AttestationKey | None = None

    async def statement(self, index: int) -> bytes:
        """Return the statement of an entry as a signed bundle.

        Raises:
            NoAttestationKey: there is no key to sign with.
            AttestationKeyMissing, LedgerKeyUnreadable: this server does not have it.
            AttestationInvalid: by this entry no tag resolves to an image.
            NotInLedger: the signed ledger has no such entry, or has the announcement not yet.
        """
        announced = await self._database.read(last_announced)
        receipt, announcement = await self._ledger.receipts([index, announced.index])
        payload = format_statement(receipt, announcement)
        key = await self._key_pair(announced.key)
        return format_attestation(payload, key.sign(signed_bytes(payload)), announced.key)

    async def _key_pair(self, public: PublicKey) -> AttestationKey:
        if self._key is None or self._key.public != public:
            self._key = await finish_in_thread(self._keys.find, public)
        if self._key is None:
            raise AttestationKeyMissing(
                "this server lacks the attestation key that the ledger has announced: copy attestation.key into its folder of keys "
                "from another server or a backup, or make a new one with `boltseal ledger rotate --attestation`"
            )
        return self._key


def rotate_attestation_key(
    database: Metadata, keys: AttestationKeys, actor: str, reason: str, integrate: Callable[[], object]
) -> PublicKey:
    """Make an attestation key, announce it, and return it. `integrate`: signs the ledger.

    Raises: LedgerKeyUnreadable, and errors of the ledger that takes no entry.
    """
    with keys.locked():
        # 1
        try:
            former = keys.find(database.read_and_wait(last_announced).key)
        except NoAttestationKey:
            former = None
        if former is not None:
            keys.put_into_force(former)
        # 2
        new = keys.make_next()
        # 3
        database.write_and_wait(
            lambda tx: sequencer.append(
                tx, EntryKind.KEY_ANNOUNCED, actor=actor, reason=reason, extra=announcement_extra(new.public)
            )
        )
        # 4
        integrate()
        # 5
        keys.put_into_force(new)
        return new.public
