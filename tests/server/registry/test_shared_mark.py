"""The ledger with its mark in an object store: signers on several hosts, a store that does not answer, old copies."""

from __future__ import annotations

import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from boltseal.ledger.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from boltseal.ledger.entry import EntryKind
from boltseal.ledger.merkle import EMPTY_ROOT
from boltseal.server.registry import sequencer
from boltseal.server.registry.integrator import Integrator
from boltseal.server.registry.ledger_in_doubt import LedgerInDoubt
from boltseal.server.registry.sequencer import LedgerFrozen
from boltseal.server.registry.signer import Signer
from boltseal.server.storage.ledger_key import LedgerKeys
from boltseal.server.storage.ledger_mark import MARK, MarkUnreachable, ObjectMark
from boltseal.server.storage.metadata import ledger_store, ledger_tree
from boltseal.server.storage.metadata.ledger_store import DatabaseSetBack
from boltseal.server.storage.metadata.protocol import UnitOfWork
from boltseal.server.storage.object_client import Bucket
from tests.polling import wait_until
from tests.server.registry.ledgers import ORIGIN, BareLedger
from tests.storage_choice import take_copy
from tests.storage_servers import ACCESS_KEY, BUCKET, SECRET_KEY, ObjectServer, seaweedfs

Marks = Callable[[str], ObjectMark]


def marks_on(server: ObjectServer) -> Marks:
    """Return the marks below a prefix of its own."""
    place = Bucket(BUCKET, uuid.uuid4().hex, server.endpoint, "us-east-1", (ACCESS_KEY, SECRET_KEY))
    return lambda log: ObjectMark(place.connect(MARK), f"{log}.mark")


@pytest.fixture
def marks(object_server: ObjectServer) -> Marks:
    return marks_on(object_server)


def ledger_with(data: Path, marks: Marks) -> BareLedger:
    """Return a ledger whose mark is an object."""
    log = BareLedger(data)
    log.keys = LedgerKeys(data.with_name("data.keys"), marks=marks)
    log.integrator = Integrator(log.database, log.keys)
    log.integrator.begin()
    return log


@pytest.fixture
def log(tmp_path: Path, marks: Marks) -> Iterator[BareLedger]:
    made = ledger_with(tmp_path / "data", marks)
    yield made
    made.database.close()


def test_the_mark_covers_every_checkpoint_that_is_stored(log: BareLedger, marks: Marks) -> None:
    """Each signature raises the object first; no file in the folder of keys holds the mark."""
    for more in (1, 3, 300):
        log.add(more)
        log.integrator.integrate()
        key = log.keys.key()
        assert key is not None
        assert open_checkpoint(marks("ledger").read() or b"", key.verifier).checkpoint == log.head() == log.expected()
    assert not (log.keys.folder / "ledger.mark").exists()


def test_signers_on_several_hosts_sign_each_size_once(log: BareLedger, marks: Marks, tmp_path: Path) -> None:
    """Signers without a common lock write one tree: the mark lets one of them win, and the others read again."""
    folders = [tmp_path / f"host{number}.keys" for number in range(3)]
    for folder in folders:
        shutil.copytree(log.keys.folder, folder)
    others = [Integrator(log.database, LedgerKeys(folder, marks=marks)) for folder in folders]
    signed: list[tuple[int, bytes]] = []
    failed: list[BaseException] = []

    def run(each: Integrator) -> None:
        for _ in range(8):
            log.add(3)
            try:
                head = each.integrate()
            except BaseException as error:  # noqa: BLE001 - looked at in the test's own thread
                failed.append(error)
            else:
                assert head is not None
                signed.append((head.size, head.root))

    threads = [threading.Thread(target=run, args=(each,)) for each in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.integrator.integrate()

    assert not [error for error in failed if isinstance(error, LedgerInDoubt)]
    assert len({root for _, root in signed}) == len({size for size, _ in signed})
    assert log.head() == log.expected()


def test_a_signer_that_died_after_the_mark_is_continued_on_another_host(
    log: BareLedger, marks: Marks, tmp_path: Path
) -> None:
    """If a host died between mark and checkpoint, another one stores the checkpoint that was signed, and no other."""
    log.add(5)
    log.integrator.integrate()
    log.add(3)
    log.integrator.integrate()
    signed = log.keys.mark()
    log.database.write_and_wait(ledger_tree.remove_tree)
    log.add(2)
    shutil.copytree(log.keys.folder, tmp_path / "other.keys")
    other = Integrator(log.database, LedgerKeys(tmp_path / "other.keys", marks=marks))
    other.integrate()
    key = log.keys.key()
    assert key is not None

    assert log.head() == log.expected()
    assert open_checkpoint(signed or b"", key.verifier).checkpoint.size == 9


def test_an_old_mark_with_a_newer_database_is_raised_again(log: BareLedger, marks: Marks) -> None:
    """An object store that was restored from an older backup does not stop the ledger: its checkpoint is signed as well."""
    log.add(3)
    log.integrator.integrate()
    old = log.keys.mark()
    log.add(4)
    log.integrator.integrate()
    marks("ledger").replace(old or b"", log.keys.mark())
    log.integrator.check()
    log.add(1)
    log.integrator.integrate()
    key = log.keys.key()
    assert key is not None

    assert log.head() == log.expected()
    assert open_checkpoint(log.keys.mark() or b"", key.verifier).checkpoint == log.expected()


class OvertakenMark:
    """The mark as a process reads it that another one overtakes: it signs between the first read and what follows."""

    def __init__(self, mark: ObjectMark, sign: Callable[[], object]) -> None:
        self._mark = mark
        self._signs = [sign]

    def read(self) -> bytes | None:
        """Return the note, and let the other process sign then."""
        found = self._mark.read()
        while self._signs:
            self._signs.pop()()
        return found

    def replace(self, note: bytes, before: bytes | None) -> None:
        """Replace the mark. Raises: MarkMoved."""
        self._mark.replace(note, before)


@pytest.mark.parametrize("ask", ["check", "integrate"])
def test_a_mark_that_another_process_raises_meanwhile_is_not_called_old(
    log: BareLedger, marks: Marks, ask: str
) -> None:
    """A process that reads the mark before, and the checkpoint after another one has signed, warns of nothing; of an old mark it does."""
    log.add(3)
    log.integrator.integrate()
    old = log.keys.mark()

    def sign() -> None:
        log.add(4)
        log.integrator.integrate()

    overtaken = LedgerKeys(log.keys.folder, marks=lambda name: OvertakenMark(marks(name), sign))
    with capture_logs() as raced:
        getattr(Integrator(log.database, overtaken), ask)()
    marks("ledger").replace(old or b"", log.keys.mark())
    with capture_logs() as set_back:
        getattr(Integrator(log.database, log.keys), ask)()

    warnings = [each for each in raced if "older" in each["event"]]
    assert warnings == []
    assert ["older" in each["event"] for each in set_back].count(True) == 1


def test_an_old_mark_of_another_history_is_doubted(log: BareLedger, marks: Marks, tmp_path: Path) -> None:
    """A mark that is older than the database, but of other entries, puts the ledger in doubt."""
    log.add(3)
    log.integrator.integrate()
    key = log.keys.key()
    assert key is not None
    other = BareLedger(tmp_path / "other" / "data")
    other.keys.put_mark(sign_checkpoint(Checkpoint(ORIGIN, 0, EMPTY_ROOT), key), before=None)
    other.keys.put_key(key)
    other.add(6)
    other.integrator.integrate()
    with pytest.raises(LedgerInDoubt, match="is not the one that was signed"):
        Integrator(other.database, LedgerKeys(log.keys.folder, marks=marks)).integrate()
    other.database.close()


def test_a_database_that_was_set_back_is_behind_its_mark(log: BareLedger, marks: Marks, tmp_path: Path) -> None:
    """An older copy of the database takes no entry, on the host that signed and on another one."""
    take_copy(tmp_path / "data", tmp_path / "old" / "data")
    log.add(4)
    log.integrator.integrate()
    old = BareLedger(tmp_path / "old" / "data")
    shutil.copytree(log.keys.folder, tmp_path / "other.keys")
    behind = Integrator(old.database, LedgerKeys(tmp_path / "other.keys", marks=marks))
    with pytest.raises(LedgerInDoubt, match="were signed, but the data has"):
        behind.integrate()
    with pytest.raises(LedgerInDoubt, match="it is an old copy"):
        old.database.read_and_wait(behind.check_connection)
    old.database.close()


def test_fewer_entries_than_this_process_has_seen_refuse_every_write(log: BareLedger) -> None:
    """A database that loses commits under a running server, before they were signed, takes no entry from it."""
    log.add(4)
    size = log.database.read_and_wait(ledger_store.size)
    log.database.write_and_wait(
        lambda tx: [
            tx.sql.plain("DELETE FROM entry WHERE idx >= ?", (size - 1,)),
            tx.sql.plain("UPDATE ledger_head SET size = ?", (size - 1,)),
        ]
    )
    with pytest.raises(DatabaseSetBack, match=f"{size - 1} entries in the database, and this server has seen {size}"):
        log.add(1)

    assert log.database.read_and_wait(ledger_store.size) == size - 1


def test_an_undone_entry_is_not_counted_as_seen(log: BareLedger) -> None:
    """A transaction that failed, or a part that was undone, leaves the number of seen entries as it was."""

    def fails(tx: UnitOfWork) -> None:
        sequencer.append(tx, EntryKind.RULES_CHANGED, actor="x")
        raise ZeroDivisionError

    def undoes(tx: UnitOfWork) -> None:
        with tx.rolled_back():
            sequencer.append(tx, EntryKind.RULES_CHANGED, actor="x")

    before = log.database.read_and_wait(ledger_store.size)
    with pytest.raises(ZeroDivisionError):
        log.database.write_and_wait(fails)
    log.database.write_and_wait(undoes)
    log.add(1)

    assert log.database.read_and_wait(ledger_store.size) == before + 1


def test_while_the_store_of_the_mark_does_not_answer_nothing_is_signed_or_written(tmp_path: Path) -> None:
    """Without an answer about the mark new entries are refused, until the store answers again; what waited is signed then."""
    with seaweedfs() as server:
        log = ledger_with(tmp_path / "data", marks_on(server))
        signer = Signer(log.integrator, log.database)
        signer.start()
        log.integrator.integrate()
        log.add(1)
        wait_until(lambda: log.head() == log.expected(), "the entry is signed")
        server.kill()
        log.add(1)
        wait_until(lambda: "ledger.mark" in log.database.doubts, "the signer has no answer")
        with pytest.raises(LedgerFrozen, match=r"the mark of the ledger can't be \w+: the S3 server "):
            log.add(1)
        with pytest.raises(MarkUnreachable):
            log.integrator.integrate()
        unsigned = log.expected().size - log.head().size
        frozen = log.database.frozen
        server.start()
        wait_until(server.answers, "SeaweedFS stores an object")
        wait_until(lambda: "ledger.mark" not in log.database.doubts, "the store answers again")
        log.add(1)
        wait_until(lambda: log.head() == log.expected(), "the entries are signed")
        signer.close()
        log.database.close()

    assert unsigned == 1
    assert frozen is None
