"""Doubts, statements of witnesses and requested rebuilds that earlier versions kept in files: rows after the next start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from boltseal.client.state import ClientState
from boltseal.errors import Unavailable
from boltseal.project.bases.rebuild_journal import JournalLine, RebuildJournal, RebuildOutcome
from boltseal.server.registry.requested_rebuilds import RebuildRows
from boltseal.server.storage.coordination.file_leases import FileLeases
from boltseal.server.storage.ledger_doubts import WITNESSES, LedgerDoubts
from boltseal.server.storage.metadata.protocol import TAGS
from boltseal.server.storage.witness_statements import Stated, Statement, WitnessStatements
from boltseal.server.store_factory import open_store, prepare
from tests.server.registry.ledgers import BareLedger
from tests.server.storage.layouts.make import HERE, unpack
from tests.serving import settings_of

pytestmark = pytest.mark.files_only("the files are from servers on SQLite")

DOUBT = "the tags differ"
KEY = "w1.example.com+1a2b3c4d+AbCd"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[BareLedger]:
    made = BareLedger(tmp_path / "data")
    made.integrator.begin()
    yield made
    made.database.close()


def failing_once(log: BareLedger, *, done: bool) -> Callable[[], None]:
    """Let the next write fail, before or after it took effect. Returns what makes writes work again."""
    database: Any = log.database
    write = database.write_and_wait

    def failing(job: Any, **more: Any) -> Any:
        if done:
            write(job, **more)
        raise Unavailable("the connection broke")

    database.write_and_wait = failing

    def repair() -> None:
        database.write_and_wait = write

    return repair


@pytest.mark.parametrize("done", [False, True])
def test_a_doubt_is_adopted_once_however_often_it_fails(log: BareLedger, *, done: bool) -> None:
    """A start that fails before or after the row is written leaves the file, and the next one adopts it."""
    file = log.keys.folder / "ledger.tags.doubt"
    file.write_text(f"{DOUBT}\n")
    repair = failing_once(log, done=done)
    with pytest.raises(Unavailable):
        log.doubts.adopt_files()
    left = file.exists()
    repair()
    adopted = log.doubts.adopt_files()

    assert left
    assert adopted
    assert not file.exists()
    assert log.doubts.reason() == DOUBT
    assert not log.doubts.adopt_files()


@pytest.mark.parametrize("done", [False, True])
def test_statements_are_adopted_and_newer_rows_stay(log: BareLedger, *, done: bool) -> None:
    """What a witness stated in the file counts if no row says something of it."""
    statements = WitnessStatements(log.database, log.keys.folder)
    statements.note("w2", Statement(Stated.LARGER, 9))
    file = log.keys.folder / "ledger.witnesses"
    file.write_text(f"cosigned 3 {KEY}\ncosigned 1 w2\n")
    repair = failing_once(log, done=done)
    with pytest.raises(Unavailable):
        statements.adopt_file()
    repair()
    statements.adopt_file()

    assert statements.read() == {KEY: Statement(Stated.COSIGNED, 3), "w2": Statement(Stated.LARGER, 9)}
    assert not file.exists()


@pytest.mark.parametrize("done", [False, True])
def test_a_doubt_and_its_withdrawal_fail_twice(log: BareLedger, *, done: bool) -> None:
    """A repeated write of a doubt, and of its withdrawal, gives what one would have given."""
    other = LedgerDoubts(log.database, log.keys.folder)
    changes = (partial(log.doubts.put, WITNESSES, "one"), partial(log.doubts.clear, WITNESSES))
    for change in changes:
        repair = failing_once(log, done=done)
        with pytest.raises(Unavailable):
            change()
        repair()
        change()
        log.doubts.put(TAGS, DOUBT)

    assert other.reason() == DOUBT
    assert (other.has(WITNESSES), other.has(TAGS)) == (False, True)


@pytest.mark.parametrize("done", [False, True])
def test_the_journal_of_rebuilds_is_adopted(log: BareLedger, tmp_path: Path, *, done: bool) -> None:
    """The lines of the file become rows where there is none, and the file is set aside; no rebuild is requested twice."""
    state = ClientState(tmp_path / "outdated")
    journal = RebuildJournal(state)
    asked, finished = (
        JournalLine(1, f"shop/{name}:1", "base:1", "sha256:0", outcome)
        for name, outcome in (("a", RebuildOutcome.ASKED), ("b", RebuildOutcome.DONE))
    )
    for line in (asked, finished):
        journal.append(line)
    leases = FileLeases(tmp_path)
    lease = leases.acquire("rebuilds")
    assert lease is not None
    rows = RebuildRows(log.database, lease, state)
    newer = JournalLine(2, asked.image, asked.base, "sha256:1", RebuildOutcome.DONE, 2, "ok")
    rows.append(newer)
    repair = failing_once(log, done=done)
    with pytest.raises(Unavailable):
        rows.adopt_file()
    repair()
    rows.adopt_file()
    rows.adopt_file()
    leases.close()

    assert rows.last() == {(newer.image, newer.base): newer, (finished.image, finished.base): finished}
    assert not journal.path.exists()


def test_a_command_on_older_data_respects_the_file_of_a_doubt(tmp_path: Path) -> None:
    """Data of a format without these rows is in doubt if the file is there; the next start adopts the file."""
    data = tmp_path / "data"
    unpack(HERE / "0015", data)
    settings = settings_of(data)
    settings.keys.mkdir()
    (settings.keys / "ledger.tags.doubt").write_text(f"{DOUBT}\n")
    with open_store(settings) as store:
        before = store.doubts.reason()
    prepare(settings)
    with open_store(settings) as store:
        after = store.doubts.reason()

    assert (before, after) == (DOUBT, DOUBT)
    assert not (settings.keys / "ledger.tags.doubt").exists()
