"""A ledger in a database, with keys and tree, and without a registry."""

from __future__ import annotations

from pathlib import Path

from boltseal.ledger.checkpoint import Checkpoint, open_checkpoint
from boltseal.ledger.entry import EntryKind
from boltseal.server.registry import sequencer
from boltseal.server.registry.integrator import Integrator
from boltseal.server.storage.ledger_doubts import LedgerDoubts
from boltseal.server.storage.ledger_key import LedgerKeys
from boltseal.server.storage.metadata import ledger_store, ledger_tree
from boltseal.server.storage.metadata.protocol import Metadata
from boltseal.server.storage.metadata_factory import open_metadata, prepare_metadata
from tests.fakes.disk import FailingDisk
from tests.fakes.witness import FakeWitness
from tests.ledger.tree_oracle import mth
from tests.storage_choice import storage_of

ORIGIN = "registry.example.com"
NOW_US = 1_795_500_000_000_000


class BareLedger:
    """A ledger without a registry: the database, the keys, and the integrator that signs checkpoints."""

    def __init__(self, data: Path, disk: FailingDisk | None = None) -> None:
        self._data, self._storage = data, storage_of(data)
        prepare_metadata(data, self._storage)
        self.database = self._open()
        self.database.write_and_wait(lambda tx: sequencer.start_ledger(tx, origin=ORIGIN, rules="", actor="boltseal"))
        self.keys = LedgerKeys(data.with_name("data.keys"), disk)
        self.integrator = Integrator(self.database, self.keys)

    @property
    def doubts(self) -> LedgerDoubts:
        """Why the ledger takes no entries."""
        return LedgerDoubts(self.database, self.keys.folder)

    def _open(self) -> Metadata:
        return open_metadata(self._data, self._storage, lambda: NOW_US)

    def reopen(self) -> None:
        """Open the database again, as a server does that starts on an older copy of its data."""
        self.database.close()
        self.database = self._open()
        self.integrator = Integrator(self.database, self.keys)

    def add(self, count: int = 1) -> None:
        """Append entries, unsigned."""
        for _ in range(count):
            self.database.write_and_wait(lambda tx: sequencer.append(tx, EntryKind.RULES_CHANGED, actor="x"))

    def add_at_once(self, count: int) -> None:
        """Append entries, unsigned, in one transaction."""
        self.database.write_and_wait(
            lambda tx: [sequencer.append(tx, EntryKind.RULES_CHANGED, actor="x") for _ in range(count)]
        )

    def lines(self) -> list[bytes]:
        """Return all entries, encoded."""
        return self.database.read_and_wait(lambda held: [line for _, line in ledger_store.lines(held)])

    def head(self) -> Checkpoint:
        """Return the stored checkpoint, verified by the key."""
        stored = self.database.read_and_wait(ledger_tree.head)
        key = self.keys.key()
        assert stored is not None
        assert key is not None
        return open_checkpoint(stored.note, key.verifier).checkpoint

    def expected(self) -> Checkpoint:
        """Return the checkpoint of all entries, computed by the definition of RFC 6962."""
        lines = self.lines()
        return Checkpoint(ORIGIN, len(lines), mth(lines))


def cosigners(ledger: BareLedger, *fakes: FakeWitness, name: str = ledger_tree.LATEST) -> list[str]:
    """Return the names of the witnesses whose cosignatures the stored checkpoint has."""
    head, key = ledger.database.read_and_wait(lambda held: ledger_tree.head(held, name)), ledger.keys.key()
    assert head is not None
    assert key is not None
    opened = open_checkpoint(head.note, key.verifier, [fake.key.verifier for fake in fakes])
    return [one.witness for one in opened.cosignatures]
