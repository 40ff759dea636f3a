"""Replaces the key that signs a log, and decides which key is in force while a replacement is not complete.

The steps of `KeyRotation.rotate`, all under the lock that excludes other signers of this folder:

1. Append the entry `key.rotated`, which names the new key, and sign it with the old key, as its last.
2. Store the receipt of that entry, which clients follow from the old key to the new one.
3. Put the new key beside the old one (`KEY.next`).
4. Replace the mark by the checkpoint of that entry with the signatures of both keys. This is the moment of the rotation: from here on
   the new key is in force, and a host with a copy of the old key signs nothing (`is_former`).
5. Publish this checkpoint, so that each process can verify it, whichever key it reads.
6. Put the new key into force: replace the file of the key, then the stored checkpoint.

If the process dies before step 4, the old key stays in force, and the entry names a key that signs nothing alone. If it dies after step 4,
the next signer of this folder does steps 5 and 6 (`key_in_force`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from boltseal.errors import Invalid
from boltseal.ledger.checkpoint import Checkpoint, checkpoint_of_note_unverified
from boltseal.ledger.entry import EntryKind
from boltseal.ledger.note import SigningKey, VerifierKey, format_note, parse_note_unverified
from boltseal.server.registry import sequencer
from boltseal.server.registry.ledger_in_doubt import LedgerKeyMissing
from boltseal.server.registry.receipts import receipt_of
from boltseal.server.storage.ledger_key import LedgerKeys, new_signing_key
from boltseal.server.storage.metadata import ledger_tree
from boltseal.server.storage.metadata.protocol import Log, Metadata, UnitOfWork

Publish: TypeAlias = Callable[[str, bytes, SigningKey], None]
"""Publishes a checkpoint: the origin of the log, the signed note, and the key that verifies what was published before."""


class KeyRotation:
    """The key of one log, and its replacement. The lock of `keys` is the caller's, except in `rotate`."""

    def __init__(self, database: Metadata, keys: LedgerKeys, log: Log, publish: Publish) -> None:
        self._database = database
        self._keys = keys
        self._log = log
        self._publish = publish

    def rotate(self, actor: str, reason: str, integrate: Callable[[], Checkpoint | None]) -> SigningKey:
        """Replace the signing key and return the new one. `integrate`: adds and signs every entry, and returns the head.

        Raises:
            LedgerKeyMissing: the log has no key.
            LedgerInDoubt: the database does not match what was signed.
        """
        with self._keys.locked():
            integrate()
            old = self._keys.key()
            if old is None:
                raise LedgerKeyMissing("the ledger has no key yet; start `boltseal serve` once")
            new = new_signing_key(old.name)
            # 1
            index = self._database.write_and_wait(
                lambda tx: sequencer.append(
                    tx,
                    EntryKind.KEY_ROTATED,
                    actor=actor,
                    reason=reason,
                    extra={"key": str(new.verifier)},
                    log=self._log,
                )
            )
            head = integrate()
            signed = self._keys.mark()
            if head is None or signed is None:
                raise LedgerKeyMissing("the ledger's key is missing")
            # 2
            receipt = self._database.read_and_wait(
                lambda snapshot: receipt_of(snapshot, index, head.size, signed, self._log)
            )
            self._database.write_and_wait(lambda tx: ledger_tree.add_rotation(tx, index, receipt, self._log))
            # 3
            self._keys.put_next_key(new)
            # 4
            both = format_note(head.text(), [*parse_note_unverified(signed).signatures, new.sign(head.text())])
            self._keys.put_mark(both, before=signed)
            # 5
            self._publish(head.origin, both, old)
            # 6
            self._put_into_force(new, both)
            return new

    def key_by(self, mark: bytes | None, key: SigningKey | None) -> SigningKey | None:
        """Return the key that is in force by the mark: the new one after step 4, or the one that was read."""
        if key is None or mark is None or not is_former(key.verifier, mark):
            return key
        new = self._keys.next_key() or self._keys.key()
        return new if new is not None and new.verifier.key_id in _signers(mark, key.name)[-1:] else key

    def key_in_force(
        self, key: SigningKey | None, mark: bytes | None, stored_size: Callable[[], int | None]
    ) -> SigningKey | None:
        """Return what `key_by` does, after the steps 5 and 6 of a rotation that was killed.

        `stored_size`: entries under the stored checkpoint; None: the log was never started.
        """
        found = self.key_by(mark, key)
        if key is not None and found is not None and mark is not None and found != key:
            if stored_size() == checkpoint_of_note_unverified(mark).size:  # otherwise the integrator reports it
                self._publish(found.name, mark, key)
            self._put_into_force(found, mark)
        return found

    def _put_into_force(self, new: SigningKey, both: bytes) -> None:
        """Step 6. `both`: the mark, with both signatures."""
        self._keys.put_key(new)
        head = ledger_tree.SignedHead(checkpoint_of_note_unverified(both).size, both)

        def job(tx: UnitOfWork) -> None:
            stored = ledger_tree.head(tx, log=self._log)
            if stored is not None and stored.size == head.size:  # otherwise another host has signed since
                ledger_tree.put_head(tx, ledger_tree.LATEST, head, self._log)

        self._database.write_and_wait(job)


def is_former(key: VerifierKey, mark: bytes) -> bool:
    """Return whether the mark is the last checkpoint of this key: a rotation adds the signature of the key that follows.

    A host with a copy of the former key must not go on with it: hosts with the new one could not verify the mark any more.
    """
    return key.key_id in _signers(mark, key.name)[:-1]


def _signers(mark: bytes, name: str) -> list[bytes]:
    """Return the IDs of the keys of this name that signed a mark, in order; none if it is no note, which the integrator reports."""
    try:
        return [each.key_id for each in parse_note_unverified(mark).signatures if each.name == name]
    except Invalid:
        return []
