"""Data folders of earlier versions, stored unchanged, are each migrated here."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from boltseal.notify.outbox import LogCursor, Posting, WaitingEvent
from boltseal.notify.outbox_file import OUTBOX_NAME, FileOutbox
from boltseal.server.storage.backup import restore
from boltseal.server.storage.metadata import outbox_table, usage
from boltseal.server.storage.metadata.blob_keys import ANNOUNCED_FOR_US
from boltseal.server.storage.metadata.migrate import (
    DATABASE_NAME,
    FORMAT,
    HEAD_REVISION,
    WORKABLE_FORMAT,
    FormatInvalid,
    check_data,
    prepare_data,
)
from boltseal.server.store_factory import examine_store, open_store
from tests.images import image, meaning, push
from tests.server.storage.layouts.make import HERE, unpack
from tests.serving import serving, settings_of

LAYOUTS = sorted(path.name for path in HERE.iterdir() if path.name.isdecimal())
OLDEST = LAYOUTS[0]
COPY = f"{DATABASE_NAME}.before-{HEAD_REVISION}"


@pytest.fixture(params=LAYOUTS)
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A data folder of each earlier layout."""
    unpack(HERE / request.param, tmp_path / "data")
    return tmp_path / "data"


def revision_of(database: Path) -> str:
    with closing(sqlite3.connect(database)) as connection:
        found: str = connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]
        return found


def columns_of(database: Path, table: str) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        return [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]


def test_there_is_a_layout_of_every_released_revision() -> None:
    """Each released database revision before the newest has a stored data folder."""
    revisions = sorted(
        path.name[:4]
        for path in (HERE.parents[3] / "src/boltseal/server/storage/metadata/migrations/versions").glob("0*")
    )

    assert revisions[:-1] == LAYOUTS
    assert revisions[-1] == HEAD_REVISION


async def test_a_migrated_folder_keeps_content_and_seals(data: Path) -> None:
    """A migrated folder serves and refuses as before, accepts pushes, and passes fsck."""
    async with serving(data, clock=lambda: 1_795_600_000_000_000) as registry:
        sealed = await meaning(registry.client, "shop/app", "1.4.2")
        one = await registry.client.get(f"/v2/shop/app/manifests/{sealed}")
        layer = one.json()["layers"][0]
        held = await registry.client.get(f"/v2/shop/app/blobs/{layer['digest']}")
        other = image("another")
        await push(registry.client, "shop/app", "9.9.9", other)
        for tag in ("1.4.2", "0.9.0"):
            refused = await registry.client.put(
                f"/v2/shop/app/manifests/{tag}", content=other.raw, headers={"content-type": other.media_type}
            )
            assert refused.status_code == 409
        found = await meaning(registry.client, "shop/app", "9.9.9")
    examined = examine_store(settings_of(data), lambda *_: None)

    assert held.content == b"layer one"
    assert found == other.digest
    assert list(examined.findings) == []
    assert (data / "format").read_text() == f"{FORMAT}\n"


def test_existing_manifests_count_for_the_users_who_pushed_them(data: Path) -> None:
    """After the migration the users' totals equal the sums of their rows."""
    prepare_data(data)
    with open_store(settings_of(data)) as store:
        wrong = store.database.read_and_wait(usage.wrong_totals)
        ci = store.database.read_and_wait(lambda connection: usage.total_of(connection, "ci"))

    assert wrong == {}
    assert ci.size_bytes > 0


def test_the_former_database_is_kept_beside_it(data: Path) -> None:
    """The migration keeps a complete copy of the old database beside the new one."""
    before = (data / DATABASE_NAME).read_bytes()
    prepare_data(data)

    assert revision_of(data / DATABASE_NAME) == HEAD_REVISION
    assert revision_of(data / COPY) < HEAD_REVISION
    assert len((data / COPY).read_bytes()) == len(before)


def test_a_read_only_command_does_not_migrate_a_folder(data: Path) -> None:
    """A read-only command does not migrate a folder, and says what does, unless it can do without the new tables."""
    before = (data / DATABASE_NAME).read_bytes()
    if int((data / "format").read_text()) < WORKABLE_FORMAT:
        with pytest.raises(
            FormatInvalid, match=r"data format \d, this boltseal works on \d+; `boltseal serve` brings it up"
        ):
            check_data(data)
    else:
        assert examine_store(settings_of(data), lambda *_: None).findings == ()

    assert (data / DATABASE_NAME).read_bytes() == before


def test_a_backup_of_an_older_layout_is_restored(data: Path, tmp_path: Path) -> None:
    """A restored backup of an older layout is migrated by its first start."""
    (data / "complete").write_text("1\n")
    restore(data, tmp_path / "restored", lambda *_: None)
    prepare_data(tmp_path / "restored")

    assert revision_of(tmp_path / "restored" / DATABASE_NAME) == HEAD_REVISION


def waiting_in_a_file(data: Path) -> None:
    """Write two events for two receivers and the cursor as format 4 stored them, in a file."""
    file = FileOutbox(data / OUTBOX_NAME)
    file.put(
        [Posting("one", 5, b"{}", ("a", "b")), Posting("two", 6, b"{}", ("a",), minor=True)], LogCursor("ledger", 7)
    )
    deliveries = file.claim()
    assert deliveries is not None
    deliveries.postpone("a", "one", 50)
    file.close()


def waiting_in_tables(data: Path) -> tuple[list[WaitingEvent], dict[str, int]]:
    """Return these events and the cursor as stored in the database."""
    with open_store(settings_of(data)) as store:
        return store.database.read_and_wait(
            lambda snapshot: (sorted(outbox_table.all_events(snapshot)), outbox_table.cursors(snapshot))
        )


WAITED = (
    [
        WaitingEvent("a", "one", 5, False, b"{}", 1, 50),
        WaitingEvent("a", "two", 6, True, b"{}", 0, 0),
        WaitingEvent("b", "one", 5, False, b"{}", 0, 0),
    ],
    {"ledger": 7},
)


@pytest.fixture(params=[each for each in LAYOUTS if each < "0006"])
def with_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A data folder of each layout whose waiting events are in a file."""
    unpack(HERE / request.param, tmp_path / "data")
    return tmp_path / "data"


def test_undelivered_events_move_from_their_file_into_the_database(with_file: Path) -> None:
    """Events with their attempts and the cursors move from the old file into the database; the file is renamed."""
    data = with_file
    waiting_in_a_file(data)
    prepare_data(data)
    moved = waiting_in_tables(data)
    prepare_data(data)

    assert moved == waiting_in_tables(data) == WAITED
    assert not (data / OUTBOX_NAME).exists()
    assert (data / f"{OUTBOX_NAME}.before-0006").exists()


def test_an_unreadable_outbox_prevents_the_start(with_file: Path) -> None:
    """An outbox file that can't be read prevents the start with advice, and nothing has changed."""
    data = with_file
    (data / OUTBOX_NAME).write_bytes(b"something else" * 1000)
    before = revision_of(data / DATABASE_NAME)
    with pytest.raises(FormatInvalid, match=r"outbox\.db can't be moved.*move the file away to give them up"):
        prepare_data(data)
    left = revision_of(data / DATABASE_NAME)
    (data / OUTBOX_NAME).unlink()
    prepare_data(data)

    assert left == before
    assert revision_of(data / DATABASE_NAME) == HEAD_REVISION


KILLED_MOVING = """
import os, sys
from pathlib import Path
from sqlalchemy import Engine, event
from boltseal.server.storage.metadata import migrate

def die(connection, cursor, statement, *_):
    if sys.argv[2] in statement:
        os._exit(9)

event.listen(Engine, "before_cursor_execute", die)
if sys.argv[2] == "after the COMMIT":
    migrate._set_aside = lambda _: os._exit(9)
migrate.prepare_data(Path(sys.argv[1]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["CREATE TABLE outbox", "INSERT INTO outbox_cursor", "after the COMMIT"])
def test_a_killed_move_of_events_is_completed_by_the_next_start(tmp_path: Path, when: str) -> None:
    """If the move of events is killed, nothing or everything has moved, and the next start completes it."""
    data = tmp_path / "data"
    unpack(HERE / "0005", data)
    waiting_in_a_file(data)
    died = subprocess.run([sys.executable, "-c", KILLED_MOVING, str(data), when], check=False, capture_output=True)
    left = revision_of(data / DATABASE_NAME), (data / OUTBOX_NAME).exists(), (data / "format").read_text()
    prepare_data(data)

    assert died.returncode == 9
    assert left == (HEAD_REVISION if when == "after the COMMIT" else "0005", True, "4\n")
    assert waiting_in_tables(data) == WAITED
    assert not (data / OUTBOX_NAME).exists()


KILLED = """
import os, sys
from pathlib import Path
from sqlalchemy import Engine, event
from boltseal.server.storage.metadata.migrate import prepare_data

def die(connection, cursor, statement, *_):
    if "CREATE TABLE usage" in statement:
        os._exit(9)

event.listen(Engine, "before_cursor_execute", die)
prepare_data(Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_killed_migration_begins_again(tmp_path: Path) -> None:
    """A migration killed between two schema changes leaves the old database, and begins again."""
    data = tmp_path / "data"
    unpack(HERE / OLDEST, data)
    died = subprocess.run([sys.executable, "-c", KILLED, str(data)], check=False, capture_output=True)
    left = (revision_of(data / DATABASE_NAME), columns_of(data / DATABASE_NAME, "blob"), (data / "format").read_text())
    copy = revision_of(data / COPY)
    prepare_data(data)

    assert died.returncode == 9
    assert left == ("0001", ["repository_id", "digest", "size", "added_us"], "1\n")
    assert copy == "0001"
    assert revision_of(data / DATABASE_NAME) == HEAD_REVISION
    assert "added_by" in columns_of(data / DATABASE_NAME, "blob")


def test_a_failed_migration_changes_nothing(tmp_path: Path) -> None:
    """A failed migration changes nothing, and succeeds once its obstacle is removed."""
    data = tmp_path / "data"
    unpack(HERE / OLDEST, data)
    with closing(sqlite3.connect(data / DATABASE_NAME)) as connection:
        connection.execute("CREATE TABLE usage (mine TEXT)")
    with pytest.raises(OperationalError, match="already exists"):
        prepare_data(data)
    left = columns_of(data / DATABASE_NAME, "blob")
    with closing(sqlite3.connect(data / DATABASE_NAME)) as connection:
        connection.execute("DROP TABLE usage")
    prepare_data(data)

    assert "added_by" not in left
    assert revision_of(data / DATABASE_NAME) == HEAD_REVISION


def test_a_partial_copy_is_never_taken_for_a_complete_one(tmp_path: Path) -> None:
    """A partial copy of the old database has another name, and is replaced by the next migration."""
    data = tmp_path / "data"
    unpack(HERE / OLDEST, data)
    (data / f"{COPY}.new").write_bytes(b"half")
    prepare_data(data)

    assert revision_of(data / COPY) == "0001"
    assert not (data / f"{COPY}.new").exists()


async def test_two_concurrent_starts_migrate_once(data: Path) -> None:
    """Of two servers that start at once, the second waits for the first's migration."""
    async with serving(data) as one, serving(data) as two:
        both = [await registry.client.get("/v2/shop/app/tags/list") for registry in (one, two)]

    assert [answer.status_code for answer in both] == [200, 200]


def test_objects_of_manifests_that_state_no_parts_are_named_no_more(tmp_path: Path) -> None:
    """After the migration no row names an object of format 1, and each of these objects is kept for a day."""
    data, before_us = tmp_path / "data", time.time_ns() // 1000
    unpack(HERE / "0013", data)
    with closing(sqlite3.connect(data / DATABASE_NAME)) as connection:
        connection.execute(
            "INSERT INTO manifest_object SELECT repository_id, digest, 'manifests/' || repository_id || digest FROM manifest"
        )
        connection.execute("INSERT INTO dead_key SELECT min(key), 7 FROM manifest_object")
        connection.commit()
        named = [row[0] for row in connection.execute("SELECT key FROM manifest_object ORDER BY key")]
    prepare_data(data)
    with closing(sqlite3.connect(data / DATABASE_NAME)) as connection:
        left = connection.execute("SELECT count(*) FROM manifest_object").fetchone()[0]
        dead = connection.execute("SELECT key, due_us FROM dead_key ORDER BY key").fetchall()

    assert left == 0
    assert [key for key, _ in dead] == named
    assert dead[0][1] == 7
    assert all(before_us + ANNOUNCED_FOR_US <= due_us for _, due_us in dead[1:])
