"""The ledger's tree and checkpoints, with a real database, real files, and disks that fail on request."""

from __future__ import annotations

import contextlib
import errno
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from boltseal.ledger.entry import EntryKind
from boltseal.ledger.merkle import leaf_hash
from boltseal.ledger.note import SigningKey
from boltseal.ledger.proof import open_receipt
from boltseal.ledger.tiles import TileId
from boltseal.server.registry import integrator
from boltseal.server.registry.integrator import Integrator
from boltseal.server.registry.ledger_in_doubt import LedgerInDoubt, LedgerKeyMissing
from boltseal.server.registry.receipts import receipt_of
from boltseal.server.storage.batches import batches
from boltseal.server.storage.ledger_key import LedgerKeys
from boltseal.server.storage.ledger_mark import FileMark, LedgerKeyUnreadable
from boltseal.server.storage.metadata import ledger_tree
from tests.fakes.disk import FailingDisk
from tests.server.registry.ledgers import BareLedger


@pytest.fixture
def disk() -> FailingDisk:
    return FailingDisk()


@pytest.fixture
def log(tmp_path: Path, disk: FailingDisk) -> Iterator[BareLedger]:
    made = BareLedger(tmp_path / "data", disk)
    made.integrator.begin()
    yield made
    made.database.close()


def test_every_checkpoint_covers_all_entries_and_is_signed(log: BareLedger) -> None:
    """Every checkpoint covers all entries and is signed, also at sizes where tiles become full, and one past them."""
    for more in (1, 1, 252, 1, 1, 255, 1):
        log.add(more)
        log.integrator.integrate()

        assert log.head() == log.expected()


def test_nothing_is_signed_before_there_is_a_key(tmp_path: Path) -> None:
    """Until `begin` creates the key, entries wait unsigned."""
    log = BareLedger(tmp_path / "data")
    log.add()

    assert log.integrator.integrate() is None
    assert log.database.read_and_wait(ledger_tree.head) is None
    log.database.close()


def test_many_processes_sign_each_size_once(log: BareLedger, tmp_path: Path) -> None:
    """Integrators of several processes write one tree, and each size is signed once."""
    others = [Integrator(log.database, LedgerKeys(log.keys.folder)) for _ in range(4)]
    failed: list[BaseException] = []

    def run(each: Integrator) -> None:
        try:
            for _ in range(10):
                log.add(3)
                each.integrate()
        except BaseException as error:  # noqa: BLE001 - raised in the test's own thread
            failed.append(error)

    threads = [threading.Thread(target=run, args=(each,)) for each in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.integrator.integrate()

    assert not failed
    assert log.head() == log.expected()


@pytest.mark.parametrize("call", ["create", "append", "sync", "rename", "sync_folder"])
@pytest.mark.parametrize("done", [False, True])
def test_a_failed_mark_is_repaired_by_the_next(log: BareLedger, disk: FailingDisk, call: str, done: bool) -> None:
    """After a write of the high-water mark failed, or its answer was lost, the next one succeeds and signing continues."""
    log.add(300)
    log.integrator.integrate()
    log.add(5)
    disk.fail(call, errno.EIO, done=done)
    with pytest.raises(LedgerKeyUnreadable):
        log.integrator.integrate()
    before = log.database.read_and_wait(ledger_tree.head)
    log.add(2)
    Integrator(log.database, LedgerKeys(log.keys.folder)).integrate()

    assert before is not None
    assert before.size == 301  # every served checkpoint is covered by the mark
    assert log.head() == log.expected()


def test_a_checkpoint_whose_transaction_was_lost_is_served_as_signed(log: BareLedger) -> None:
    """If the mark is ahead of the tree, its note becomes the checkpoint, and no other is signed for that size."""
    log.add(3)
    log.integrator.integrate()
    before = log.database.read_and_wait(ledger_tree.head)
    log.add(4)
    log.integrator.integrate()
    signed = log.keys.mark()
    log.database.write_and_wait(lambda tx: ledger_tree.remove_tree(tx))  # and back to its former state
    _restore(log, before)
    log.add(1)
    seen = []
    integrator_ = Integrator(log.database, log.keys)
    integrator_.integrate()
    seen.append(log.head())

    assert signed is not None
    assert seen == [log.expected()]


def _restore(log: BareLedger, head: ledger_tree.SignedHead | None) -> None:
    """Restore the tree as it was under an earlier checkpoint."""
    assert head is not None
    lines = log.lines()[: head.size]
    hashes = b"".join(leaf_hash(line) for line in lines)
    log.database.write_and_wait(
        lambda tx: ledger_tree.add_tiles(
            tx, 0, {TileId(0, 0, len(lines)): hashes}, ledger_tree.SignedHead(head.size, head.note)
        )
    )


def test_a_full_tile_is_never_written_again(log: BareLedger) -> None:
    """The database refuses to overwrite a full tile."""
    log.add(600)
    log.integrator.integrate()
    head = log.database.read_and_wait(ledger_tree.head)

    assert head is not None
    with pytest.raises(Exception, match=r"(?i)unique"):
        log.database.write_and_wait(lambda tx: ledger_tree.add_tiles(tx, head.size, {TileId(0, 0): bytes(8192)}, head))


def test_an_old_copy_of_the_data_is_behind_its_mark(log: BareLedger) -> None:
    """Guarantee 1: a restored backup is behind its high-water mark, so that sealed tags do not become free."""
    log.add(10)
    log.integrator.integrate()
    log.database.write_and_wait(
        lambda tx: [
            tx.sql.connection.exec_driver_sql("DELETE FROM entry WHERE idx >= 8"),
            tx.sql.connection.exec_driver_sql("UPDATE ledger_head SET size = 8"),
        ]
    )

    with pytest.raises(LedgerInDoubt, match="11 entries of the ledger were signed, but the data has 8"):
        Integrator(log.database, log.keys).check()
    with pytest.raises(LedgerInDoubt):
        log.integrator.integrate()


def test_entries_that_were_replaced_before_the_mark_are_not_signed_again(log: BareLedger) -> None:
    """The mark has a root for this size, so that another history of the same length is not signed."""
    log.add(2)
    log.integrator.integrate()
    log.database.write_and_wait(lambda tx: ledger_tree.remove_tree(tx))
    other = log.lines()[1] + b" "
    log.database.write_and_wait(lambda tx: tx.sql.plain("UPDATE entry SET line = ? WHERE idx = 1", (other,)))

    with pytest.raises(LedgerInDoubt, match="not the ones that were signed"):
        Integrator(log.database, log.keys).integrate()


def test_a_changed_tree_freezes_the_ledger(log: BareLedger) -> None:
    """A changed bit in a tile freezes the ledger."""
    log.add(2)
    log.integrator.integrate()
    zeros = "UPDATE ledger_tile SET hashes = substr(?, 1, length(hashes))"
    log.database.write_and_wait(lambda tx: tx.sql.plain(zeros, (bytes(8192),)))

    with pytest.raises(LedgerInDoubt, match="does not match its stored tree"):
        Integrator(log.database, log.keys).check()


def test_another_key_freezes_the_ledger(log: BareLedger) -> None:
    """A replaced key, which did not sign the mark, freezes the ledger."""
    log.add()
    log.integrator.integrate()
    key = log.keys.key()
    assert key is not None
    log.keys.put_key(type(key)(key.name, bytes(32)))

    with pytest.raises(LedgerInDoubt, match="mark is invalid"):
        log.integrator.integrate()


@pytest.mark.parametrize(("missing", "kind"), [("ledger.key", LedgerKeyMissing), ("ledger.mark", LedgerInDoubt)])
def test_a_missing_key_or_mark_freezes_the_ledger(log: BareLedger, missing: str, kind: type[Exception]) -> None:
    """A missing key or mark freezes the ledger, and is not created again."""
    log.add()
    log.integrator.integrate()
    (log.keys.folder / missing).unlink()
    log.integrator.begin()

    with pytest.raises(kind):
        log.integrator.integrate()


def test_an_old_mark_is_raised_again(log: BareLedger) -> None:
    """An old mark beside newer data is raised, because the checkpoint has the key's own signature."""
    log.add()
    log.integrator.integrate()
    old = log.keys.mark()
    log.add(300)
    log.integrator.integrate()
    log.keys.put_mark(old or b"", before=log.keys.mark())
    log.add(1)
    Integrator(log.database, log.keys).integrate()

    assert log.head() == log.expected()


def test_a_new_key_is_named_by_an_entry_that_the_old_one_signed(log: BareLedger) -> None:
    """The old key signs the entry that names the new one, so that clients can follow."""
    log.add(3)
    old = log.keys.key()
    new = log.integrator.rotate("operator", "once a year")
    log.add(3)
    log.integrator.integrate()
    receipts = log.database.read_and_wait(ledger_tree.rotations)

    assert old is not None
    assert log.head() == log.expected()
    opened = open_receipt(receipts[0], old.verifier)
    assert opened.entry.kind is EntryKind.KEY_ROTATED
    assert opened.entry.extra["key"] == str(new.verifier)


@pytest.mark.parametrize("call", ["create", "sync", "rename", "sync_folder"])
@pytest.mark.parametrize("skip", [0, 1, 2, 3])
@pytest.mark.parametrize("done", [False, True])
def test_a_rotation_that_fails_at_any_step_leaves_a_usable_log(
    log: BareLedger, disk: FailingDisk, call: str, skip: int, done: bool
) -> None:
    """After a rotation fails at any step, the old key or the new one signs."""
    log.add(3)
    log.integrator.integrate()
    disk.fail(call, errno.EIO, done=done, skip=skip)
    with pytest.raises(LedgerKeyUnreadable):
        log.integrator.rotate("operator", "")
    log.add(1)
    Integrator(log.database, LedgerKeys(log.keys.folder)).integrate()

    assert log.head() == log.expected()


class KilledKeys(LedgerKeys):
    """Keys of a rotation that is killed before it replaces the key."""

    def put_key(self, key: SigningKey) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("killed", [False, True])
def test_a_host_with_a_copy_of_the_former_key_signs_nothing(log: BareLedger, killed: bool) -> None:
    """If a key is rotated on one host, another one with a copy of the former key signs nothing, and the first one goes on.

    The same if the rotation is killed after both keys have signed: then the next signer of that host puts the new key into force.
    """
    log.add(1)
    log.integrator.integrate()
    copied = shutil.copytree(log.keys.folder, log.keys.folder.with_name("copied.keys"))
    other = Integrator(log.database, LedgerKeys(copied, marks=lambda name: FileMark(log.keys.folder / f"{name}.mark")))
    other.integrate()
    former = log.keys.key()
    with contextlib.suppress(KeyboardInterrupt):
        Integrator(log.database, (KilledKeys if killed else LedgerKeys)(log.keys.folder)).rotate("operator", "")
    log.add(1)
    with pytest.raises(LedgerKeyMissing, match="copy the folder of keys again"):
        other.integrate()
    log.integrator.check()
    log.integrator.integrate()

    assert log.head() == log.expected()
    assert log.keys.key() != former
    assert log.keys.next_key() is None


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 700])
def test_every_entry_has_a_receipt_under_the_newest_checkpoint(log: BareLedger, size: int) -> None:
    """Every entry has a receipt under the newest checkpoint, made from tiles alone and verified offline."""
    log.add(size)
    log.integrator.integrate()
    key, head = log.keys.key(), log.database.read_and_wait(ledger_tree.head)
    assert key is not None
    assert head is not None
    indices = [0, 1, head.size // 2, head.size - 1]
    receipts = log.database.read_and_wait(lambda held: [receipt_of(held, at, head.size, head.note) for at in indices])

    assert [open_receipt(raw, key.verifier).index for raw in receipts] == indices


def test_very_many_entries_are_signed_by_several_checkpoints(log: BareLedger) -> None:
    """A large unsigned ledger is signed in several checkpoints, with constant memory."""
    for numbers in batches(range(integrator.BATCH + 10), 1000):  # a write may take a few seconds at most
        log.add_at_once(len(numbers))
    log.integrator.integrate()

    assert log.head() == log.expected()


def test_a_check_beside_a_signing_process_finds_nothing(log: BareLedger) -> None:
    """Entries are added and signed, and keys rotated, while another process compares database, key and mark."""
    log.add(1)
    log.integrator.integrate()
    ending = threading.Event()

    def sign() -> None:
        number = 0
        while not ending.is_set():
            log.add(1)
            log.integrator.integrate()
            number += 1
            if number % 5 == 0:
                log.integrator.rotate("operator", "")

    signing = threading.Thread(target=sign)
    signing.start()
    try:
        for _ in range(300):
            Integrator(log.database, LedgerKeys(log.keys.folder)).check()
    finally:
        ending.set()
        signing.join()

    assert log.head() == log.expected()
