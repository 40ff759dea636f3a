"""The log of what tags of other registries resolved to over time."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from boltseal.client.state import ClientState, StateUnusable
from boltseal.client.tag_observations import ChainHead, ObservationsCorrupt, ObservedInterval, TagObservations
from boltseal.errors import Invalid
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference

NODE = Reference.parse("node:16.13")
ALPINE = Reference.parse("alpine:3.19.1")
FIRST, SECOND = Digest.of(b"one"), Digest.of(b"two")
HOUR_US = 3_600_000_000


@pytest.fixture
def state(tmp_path: Path) -> ClientState:
    return ClientState(tmp_path / "state")


def sha_of(path: Path) -> str:
    """Return a hash of a file's first megabyte and its length, since some files are long and sparse."""
    with path.open("rb") as file:
        return f"{path.stat().st_size} {sha256(file.read(1_000_000)).hexdigest()}"


def changed(state: ClientState, *statements: str) -> None:
    """Change a row of the file as another process would."""
    with sqlite3.connect(state.folder / "watch.db") as database:
        for statement in statements:
            database.execute(statement)
    database.close()


def test_an_unobserved_tag_has_no_history_and_no_file_is_created(state: ClientState) -> None:
    """Reading the history of an unobserved tag returns nothing and creates no file."""
    with TagObservations(state) as watched:
        past, head = watched.past(NODE), watched.head()

    assert (past, head) == ((), ChainHead(0, b""))
    assert not state.folder.exists()


def test_intervals_have_the_first_and_last_observation(state: ClientState) -> None:
    """An unchanged tag extends its line; one that returns to a former digest adds a line."""
    with TagObservations(state) as watched:
        first = watched.saw(NODE, FIRST, HOUR_US)
        same = watched.saw(NODE, FIRST, 2 * HOUR_US)
        moved = watched.saw(NODE, SECOND, 3 * HOUR_US)
        gone = watched.saw(NODE, None, 4 * HOUR_US)
        watched.saw(NODE, FIRST, 5 * HOUR_US)
        watched.saw(NODE, FIRST, 6 * HOUR_US)
        past = watched.past(NODE)

    assert (first.was, first.moved, same.moved, moved.moved, gone.moved) == (None, False, False, True, True)
    assert moved.was == ObservedInterval(FIRST, HOUR_US, 2 * HOUR_US, 1)
    assert past == (
        ObservedInterval(FIRST, HOUR_US, 2 * HOUR_US, 1),
        ObservedInterval(SECOND, 3 * HOUR_US, 3 * HOUR_US, 2),
        ObservedInterval(None, 4 * HOUR_US, 4 * HOUR_US, 3),
        ObservedInterval(FIRST, 5 * HOUR_US, 6 * HOUR_US, 4),
    )


def test_the_log_is_durable_and_private(state: ClientState) -> None:
    """The log is synced to disk, and its folder and file are private."""
    with TagObservations(state) as watched:
        watched.record_all([(NODE, FIRST), (ALPINE, SECOND)], 1)
    with TagObservations(state) as watched:
        past = watched.past(Reference.parse("docker.io/library/alpine:3.19.1"))

    assert past == (ObservedInterval(SECOND, 1, 1, 2),)
    assert (state.folder / "watch.db").stat().st_mode & 0o777 == 0o600


def test_a_clock_set_back_shortens_no_interval(state: ClientState) -> None:
    """Lines are ordered by observation, so a clock that was set back shortens no interval."""
    with TagObservations(state) as watched:
        watched.saw(NODE, FIRST, 5)
        watched.saw(NODE, FIRST, 3)
        watched.saw(NODE, SECOND, 2)

        past = watched.past(NODE)

    assert past == (ObservedInterval(FIRST, 5, 5, 1), ObservedInterval(SECOND, 2, 2, 2))


def test_a_failing_callback_records_nothing(state: ClientState) -> None:
    """If the callback fails, nothing is recorded, and the move is detected again."""

    def fails(_: object) -> None:
        raise RuntimeError

    with TagObservations(state) as watched:
        watched.saw(NODE, FIRST, 1)
        with pytest.raises(RuntimeError):
            watched.record_all([(NODE, SECOND)], 2, fails)

        assert watched.saw(NODE, SECOND, 3).moved


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE log SET line = CAST(replace(CAST(line AS TEXT), 'docker', 'dockes') AS BLOB) WHERE n = 2",
        "UPDATE log SET ref = 'docker.io/library/node:16.14' WHERE n = 1",
        "UPDATE log SET chain = x'00' WHERE n = 3",
        "DELETE FROM log WHERE n = 2",
        "DELETE FROM log WHERE n = 1",
        "INSERT INTO log VALUES (0, 'x', x'00', x'00')",
        "INSERT INTO log VALUES (9, 'x', x'00', x'00')",
    ],
)
def test_a_modified_log_is_detected(state: ClientState, statement: str) -> None:
    """Readers and writers detect a modified log and use nothing of it."""
    with TagObservations(state) as watched:
        watched.record_all([(NODE, FIRST), (ALPINE, SECOND), (NODE, SECOND)], 1)
    changed(state, statement)

    with TagObservations(state) as watched, pytest.raises(ObservationsCorrupt, match="is corrupt"):
        watched.past(ALPINE)
    with TagObservations(state) as watched, pytest.raises(ObservationsCorrupt):
        watched.saw(ALPINE, SECOND, 2)


def test_a_modification_during_a_process_is_detected(state: ClientState) -> None:
    """The verified end of the chain is checked at each access, so a later modification is detected."""
    with TagObservations(state) as watched:
        watched.record_all([(NODE, FIRST), (ALPINE, SECOND)], 1)
        changed(state, "UPDATE log SET chain = zeroblob(32) WHERE n = 2")

        with pytest.raises(ObservationsCorrupt, match="line 2"):
            watched.saw(NODE, FIRST, 2)


def test_a_saved_head_reveals_a_rewritten_log(state: ClientState) -> None:
    """A saved head reveals a rewritten log, and a truncated one, each consistent by itself."""
    with TagObservations(state) as watched:
        watched.record_all([(NODE, FIRST), (NODE, SECOND)], 1)
        head = ChainHead.parse(str(watched.head()))
        assert watched.extends_head(head)
        watched.saw(ALPINE, FIRST, 2)
        assert watched.extends_head(head)
        assert watched.extends_head(ChainHead(0, b""))
    changed(state, "DELETE FROM log WHERE n >= 2")

    with TagObservations(state) as watched:
        assert not watched.extends_head(head)
        watched.saw(ALPINE, FIRST, 2)
        assert not watched.extends_head(head)


@pytest.mark.parametrize("text", ["", "x", "1", "1:", "0:00", "-1:" + "0" * 64, "01:" + "0" * 64, "1:" + "AB" * 32])
def test_a_malformed_head_is_refused(text: str) -> None:
    """A head in another spelling is refused."""
    with pytest.raises(Invalid, match="malformed end of the log"):
        ChainHead.parse(text)


def _no_database(path: Path) -> None:
    path.write_bytes(b"not a database " * 1000)


def _truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _trigger(path: Path) -> None:
    _run(path, "CREATE TRIGGER t AFTER INSERT ON log BEGIN DELETE FROM log; END")


def _view(path: Path) -> None:
    _run(path, "ALTER TABLE log RENAME TO other")
    _run(path, "CREATE VIEW log AS SELECT n, ref, line, randomblob(1000000000) AS chain FROM other")


def _huge(path: Path) -> None:
    _run(path, "UPDATE log SET line = zeroblob(50000000) WHERE n = 2")


def _other_types(path: Path) -> None:
    text = "CREATE TABLE log (n INTEGER PRIMARY KEY, ref TEXT NOT NULL, line BLOB NOT NULL, chain BLOB NOT NULL)"
    _run(path, "PRAGMA writable_schema = 1", f"UPDATE sqlite_master SET sql = '{text}' WHERE name = 'log'")  # noqa: S608 - constants of this test


def _endless(path: Path) -> None:
    os.truncate(path, 2 * 1024**3)


def _hidden_from_the_index(path: Path) -> None:
    """Rows that the table has but its index lacks, which readers would therefore miss."""
    _run(
        path,
        "PRAGMA writable_schema = 1",
        "UPDATE sqlite_master SET sql = sql || ' WHERE n > 1' WHERE name = 'log_ref'",
    )
    _run(path, "REINDEX log_ref")
    _run(
        path,
        "PRAGMA writable_schema = 1",
        "UPDATE sqlite_master SET sql = replace(sql, ' WHERE n > 1', '') WHERE name = 'log_ref'",
    )


def _run(path: Path, *statements: str) -> None:
    database = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        database.execute(statement)
    database.close()


@pytest.mark.parametrize(
    "hostile", [_no_database, _truncated, _trigger, _view, _huge, _other_types, _endless, _hidden_from_the_index]
)
def test_a_hostile_file_is_refused(state: ClientState, hostile: Callable[[Path], None]) -> None:
    """A hostile file is refused with one line, neither used nor overwritten."""
    with TagObservations(state) as watched:
        watched.record_all([(NODE, FIRST), *((Reference.parse(f"alpine:3.{n}"), SECOND) for n in range(300))], 1)
    hostile(state.folder / "watch.db")
    before = sha_of(state.folder / "watch.db")

    with TagObservations(state) as watched, pytest.raises(StateUnusable, match=r"watch\.db"):
        watched.past(NODE)
    with TagObservations(state) as watched, pytest.raises(StateUnusable, match=r"watch\.db"):
        watched.saw(NODE, SECOND, 2)
    assert sha_of(state.folder / "watch.db") == before


def test_a_valid_chain_over_malformed_lines_is_refused(state: ClientState) -> None:
    """A valid hash chain over malformed lines is refused, because lines are parsed too."""
    with TagObservations(state) as watched:
        watched.saw(NODE, FIRST, 1)
    for line in (b"{}", b"[]", b'{"v":2,"n":1,"at":1,"ref":"docker.io/library/node:16.13","digest":"","until":0}'):
        with sqlite3.connect(state.folder / "watch.db") as database:
            database.execute("UPDATE log SET line = ?, chain = ?", (line, sha256(line).digest()))
        database.close()
        with TagObservations(state) as watched, pytest.raises(ObservationsCorrupt, match="line 1 can't be parsed"):
            watched.past(NODE)


def test_impossible_times_are_not_shown(state: ClientState) -> None:
    """An impossible last observation, which the chain does not cover, is replaced by the line's own time."""
    with TagObservations(state) as watched:
        watched.saw(NODE, FIRST, 5)
    changed(state, "UPDATE seen SET at = 9223372036854775807")
    with TagObservations(state) as watched:
        assert watched.past(NODE) == (ObservedInterval(FIRST, 5, 5, 1),)
    line = b'{"v":1,"n":1,"at":9223372036854775807,"ref":"docker.io/library/node:16.13","digest":"","until":0}'
    with sqlite3.connect(state.folder / "watch.db") as database:
        database.execute("UPDATE log SET line = ?, chain = ?", (line, sha256(line).digest()))
    database.close()

    with TagObservations(state) as watched, pytest.raises(ObservationsCorrupt, match="line 1 can't be parsed"):
        watched.past(NODE)


def test_a_newer_file_is_not_touched(state: ClientState) -> None:
    """Neither a log nor a folder of a newer version is changed."""
    with TagObservations(state) as watched:
        watched.saw(NODE, FIRST, 1)
    changed(state, "PRAGMA user_version = 2")
    with TagObservations(state) as watched, pytest.raises(StateUnusable, match="newer boltseal"):
        watched.past(NODE)
    (state.folder / "format").write_text("2\n")

    with TagObservations(state) as watched, pytest.raises(StateUnusable, match="newer boltseal"):
        watched.past(NODE)


def test_an_empty_file_is_initialised_by_the_next_writer(state: ClientState) -> None:
    """An empty file, left by an interrupted creation, is initialised by the next writer."""
    state.folder.mkdir()
    (state.folder / "watch.db").touch()
    with TagObservations(state) as watched, pytest.raises(StateUnusable, match="run it again"):
        watched.past(NODE)
    with TagObservations(state) as watched:
        watched.saw(NODE, FIRST, 1)

        assert len(watched.past(NODE)) == 1


def test_an_unwritable_folder_is_reported(state: ClientState) -> None:
    """An unwritable folder is one line with the variable for another folder."""
    state.folder.parent.joinpath("state").write_text("a file")

    with TagObservations(state) as watched, pytest.raises(StateUnusable, match="BOLTSEAL_STATE"):
        watched.saw(NODE, FIRST, 1)


_WRITER = """
import sys
from pathlib import Path
from boltseal.client.state import ClientState
from boltseal.client.tag_observations import TagObservations
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
name, count = sys.argv[2], int(sys.argv[3])
with TagObservations(ClientState(Path(sys.argv[1]))) as watched:
    for n in range(count):
        watched.saw(Reference.parse(f"{name}:1"), Digest.of(f"{name} {n}".encode()), n)
        print(n, flush=True)
"""


def _writer(state: ClientState, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(state.folder), name, str(count)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.mark.slow
def test_two_concurrent_writers_are_serialised(state: ClientState) -> None:
    """Two concurrent writers lose no observation, and the chain stays intact."""
    writers = [_writer(state, name, 60) for name in ("one", "two")]
    for writer in writers:
        writer.communicate(timeout=60)
    with TagObservations(state) as watched:
        histories = [watched.past(Reference.parse(f"{name}:1")) for name in ("one", "two")]

        assert [len(past) for past in histories] == [60, 60]
        assert watched.head().size == 120


@pytest.mark.slow
def test_a_recorded_observation_survives_kill_9(state: ClientState) -> None:
    """An observation whose call returned survives kill -9, and the next process continues."""
    acknowledged = 0
    for stop_at in (3, 11, 25):
        writer = _writer(state, "one", 100_000)
        if writer.stdout is None:
            raise AssertionError("a pipe")
        for line in writer.stdout:
            if int(line) == stop_at:
                writer.send_signal(signal.SIGKILL)
                break
        writer.wait()
        writer.stdout.close()
        acknowledged += stop_at + 1
        with TagObservations(state) as watched:
            assert watched.head().size >= acknowledged
            acknowledged = watched.head().size
