"""The target of a move or a restore in PostgreSQL: empty, claimed by one move, complete, undone.

    boltseal_move        one row: the move that claimed the database, its state, and the ID of the registry in the bucket
    boltseal_moved_key   keys of objects, each before its object is written. Those that no row names in the end are dead
    boltseal_moved_blob  blobs whose objects are written and verified, so that a move which was interrupted does not send them again

States, each change one transaction under the writer's lock:

    (no table) -> copying -> complete -> undone
                     \\------------------^  |
                     ^---------------------/

While a database is `copying` or `undone` it has no table of `schema`, so no server can use it. `complete` is the transaction
that creates and fills all tables, compares them with what was read, and opens the database to servers. So a move that is
interrupted anywhere has either not happened or is complete.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from sqlalchemy import Table

from boltseal.errors import Invalid, Unavailable
from boltseal.server.storage.metadata import copy_text, postgres_copy
from boltseal.server.storage.metadata.blob_keys import ANNOUNCED_FOR_US
from boltseal.server.storage.metadata.copy_text import OF_OBJECTS, OF_SERVERS, OF_UPLOADS, TextDigest
from boltseal.server.storage.metadata.postgres import PostgresSession, refusals_named
from boltseal.server.storage.metadata.postgres_schema import MOVE_TABLE
from boltseal.server.storage.metadata.protocol import Snapshot
from boltseal.server.storage.metadata.sql_units import SqlSnapshot
from boltseal.server.storage_settings import DatabaseUrl

COPYING: Final = "copying"
COMPLETE: Final = "complete"
UNDONE: Final = "undone"
NOT_COPIED: Final = OF_SERVERS | OF_UPLOADS | OF_OBJECTS
UNWRITTEN: Final = ("repository", "manifest", "content", "blob", "link", "tag", "entry", "observation", "account")
"""Tables that a server changes only for a client, an operator, a retention rule or garbage collection, which a read-only one does not run."""
_CREATE: Final = f"""
CREATE TABLE IF NOT EXISTS {MOVE_TABLE} (id int PRIMARY KEY, move text NOT NULL, state text NOT NULL, tables text NOT NULL,
    registry text NOT NULL, former text NOT NULL);
CREATE TABLE IF NOT EXISTS boltseal_moved_key (key text COLLATE "C" PRIMARY KEY);
CREATE TABLE IF NOT EXISTS boltseal_moved_blob
    (digest text COLLATE "C" PRIMARY KEY, size bigint NOT NULL, key text NOT NULL, index_key text NOT NULL)
"""
_RECORD: Final = """
INSERT INTO boltseal_moved_blob (digest, size, key, index_key) VALUES (?, ?, ?, ?)
ON CONFLICT (digest) DO UPDATE SET size = excluded.size, key = excluded.key, index_key = excluded.index_key
"""
_NAME_BLOBS: Final = """
INSERT INTO stored_blob (digest, size, stored_us, version, index_key)
    SELECT digest, size, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, right(key, 32), index_key
    FROM boltseal_moved_blob WHERE digest IN (SELECT digest FROM blob)
"""
_NAME_KEYS: Final = """
INSERT INTO blob_key (digest, position, key, size)
    SELECT digest, 0, key, size FROM boltseal_moved_blob WHERE size > 0 AND digest IN (SELECT digest FROM blob)
"""
_ANNOUNCE: Final = "INSERT INTO boltseal_moved_key (key) SELECT unnest(?::text[]) ON CONFLICT (key) DO NOTHING"
_BURY: Final = f"""
INSERT INTO dead_key (key, due_us)
    SELECT key, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + {ANNOUNCED_FOR_US} FROM boltseal_moved_key AS moved
    WHERE NOT EXISTS (SELECT 1 FROM blob_key WHERE blob_key.key = moved.key)
        AND NOT EXISTS (SELECT 1 FROM stored_blob WHERE stored_blob.index_key = moved.key)
    ON CONFLICT (key) DO NOTHING
"""  # noqa: S608 - a constant
_REMEMBER: Final = """
INSERT INTO boltseal_moved_key (key) SELECT key FROM manifest_object UNION SELECT key FROM dead_key
    ON CONFLICT (key) DO NOTHING
"""
_OWN: Final = "INSERT INTO bucket_owner (id, registry, claimed, rebuilding) VALUES (1, ?, true, false)"
_MISSING: Final = (
    "SELECT DISTINCT digest FROM blob WHERE digest NOT IN (SELECT digest FROM stored_blob) ORDER BY digest LIMIT 3"
)


class TargetInUse(Invalid):
    """The database is not empty, or belongs to another move."""


class MoveDiffers(Unavailable):
    """What was written is not what was read. The target is as it was."""


class WrittenAfterMove(Invalid):
    """The target took a write, so going back would lose it."""


class MovedBlob(NamedTuple):
    """A blob whose objects are in the bucket. `key`: of its bytes, unused if it is empty."""

    digest: str
    size: int
    key: str
    index_key: str


class Claim(NamedTuple):
    """A claimed database. `registry`: the ID that the registry will have in its bucket. `former`: that of an undone move, or ""."""

    registry: str
    former: str


class _Row(NamedTuple):
    move: str
    state: str
    tables: str
    registry: str
    former: str


class MoveTarget:
    """One database as the target of a move. `move`: the ID of the move."""

    def __init__(self, url: DatabaseUrl, move: str) -> None:
        self._url = url
        self._move = move

    def check(self) -> str | None:
        """Return the state of a move to this database that may go on, None if it is empty. Raises: TargetInUse, Unavailable."""
        with postgres_copy.read(self._url) as session:
            return self._state(session)

    def claim(self, registry: str) -> Claim:
        """Reserve the database for this move, with a new ID for the registry. Idempotent: the first ID counts.

        Raises: TargetInUse, Unavailable.
        """
        with postgres_copy.written(self._url) as session:
            state, row = self._state(session), _row(session)
            if row is not None and state != UNDONE:
                return Claim(row.registry, row.former)
            claimed = Claim(registry, "" if row is None else row.registry)
            session.driver.execute(_CREATE.encode())
            session.plain(f"DELETE FROM {MOVE_TABLE}")  # noqa: S608
            session.plain(
                f"INSERT INTO {MOVE_TABLE} (id, move, state, tables, registry, former) VALUES (1, ?, ?, '', ?, ?)",  # noqa: S608
                (self._move, COPYING, *claimed),
            )
        return claimed

    def announce(self, keys: Sequence[str]) -> None:
        """Note keys whose objects are written next, so that what an interrupted run leaves is deleted. Raises: TargetInUse."""
        with postgres_copy.written(self._url) as session:
            self._require_copying(session)
            session.plain(_ANNOUNCE, (list(keys),))

    def recorded(self, digests: Sequence[str]) -> dict[str, MovedBlob]:
        """Return those of these blobs that have been copied, by an earlier run or an undone move."""
        with postgres_copy.read(self._url) as session:
            rows = session.plain(
                "SELECT digest, size, key, index_key FROM boltseal_moved_blob WHERE digest = ANY(?)", (list(digests),)
            )
            return {row[0]: MovedBlob(*row) for row in rows.fetchall()}

    def record(self, blobs: Iterable[MovedBlob]) -> None:
        """Note blobs whose objects are written. Raises: TargetInUse: another move has the database now."""
        with postgres_copy.written(self._url) as session:
            self._require_copying(session)
            for blob in blobs:
                session.plain(_RECORD, blob)

    def complete(
        self,
        rows: Callable[[Table], Iterator[bytes]],
        check: Callable[[Snapshot], None],
        progress: Callable[[str, int, int], None],
        *,
        expected: Mapping[str, str] | None = None,
        without: frozenset[str] = NOT_COPIED,
    ) -> dict[str, TextDigest]:
        """Copy all rows, compare them, and open the database to servers: one transaction. Return what was copied.

        `rows`: yields the text of a table. `check`: raises if the content is not what it must be, or the bucket has another owner
        than `claim` returned; called last. `expected`: the hash of each table's text. `without`: tables that stay empty, or are made
        of the copied blobs.

        Raises: MoveDiffers, RowsRefused, TargetInUse, Unavailable, and what `rows` and `check` raise. Nothing was changed then.
        """
        with postgres_copy.written(self._url) as session, refusals_named():
            row = self._require_copying(session)
            postgres_copy.create_tables(session)
            copied: dict[str, TextDigest] = {}
            wanted = copy_text.tables(without=without)
            for number, table in enumerate(wanted, start=1):
                copied[table.name] = digest = TextDigest()
                postgres_copy.copy_in(session, table, digest.passing(rows(table)))
                if expected is not None and digest.sha256 != expected[table.name]:
                    raise MoveDiffers(
                        f"the text of the table {table.name} is damaged; nothing was changed: restore another backup"
                    )
                progress("tables", number, len(wanted))
            if without >= OF_OBJECTS:
                _name_objects(session)
            for number, table in enumerate(wanted, start=1):
                if postgres_copy.digest_of(session, table).sha256 != copied[table.name].sha256:
                    raise MoveDiffers(
                        f"the table {table.name} has other rows in PostgreSQL than where it was read; nothing was changed: "
                        "repeat the command"
                    )
                progress("comparing tables", number, len(wanted))
            session.plain(_OWN, (row.registry,))
            check(SqlSnapshot(session))
            postgres_copy.open_to_servers(session)
            hashes = json.dumps({name: copied[name].sha256 for name in UNWRITTEN})
            session.plain(f"UPDATE {MOVE_TABLE} SET state = ?, tables = ?", (COMPLETE, hashes))  # noqa: S608
        return copied

    def undo(self, *, claimed: bool) -> None:
        """Close the database to servers and remove its rows, if it took no write since the move. Idempotent.

        From the COMMIT on a server that still runs on it can read and write nothing. Blobs that were copied stay known.
        `claimed`: the move had the database, so one without it is another, or was restored or rebuilt since, and may take writes.

        Raises: WrittenAfterMove: it did. TargetInUse: it is another database. Nothing was changed then. Unavailable: it can't be
        known; repeat it.
        """
        with postgres_copy.written(self._url) as session:
            row = _row(session)
            if claimed and (row is None or row.move != self._move):
                raise TargetInUse(
                    f"the database {self._url} has nothing of this move: it is another one, or was restored or rebuilt since, so it "
                    "can't be known whether the moved registry took writes; the former copy stays read-only. Only if no server "
                    "took a push since the move, remove the file `moved` in its folder"
                )
            if row is None or row.move != self._move or row.state == UNDONE:
                return  # this move can't become complete any more
            if row.state == COMPLETE:
                hashes = json.loads(row.tables)
                for table in copy_text.tables(without=frozenset()):
                    if table.name in hashes and postgres_copy.digest_of(session, table).sha256 != hashes[table.name]:
                        raise WrittenAfterMove(
                            f"the target took its first write (the table {table.name} has changed): going back would lose it; "
                            "nothing was changed"
                        )
                session.plain(_REMEMBER)
                postgres_copy.drop_tables(session)
            session.plain(f"UPDATE {MOVE_TABLE} SET state = ?", (UNDONE,))  # noqa: S608

    def _state(self, session: PostgresSession) -> str | None:
        row, names = _row(session), postgres_copy.table_names(session)
        if row is None:
            if names:
                raise TargetInUse(
                    f"the database {self._url} is not empty (it contains the table {min(names)!r}); name an empty one of its own"
                )
            return None
        if row.move == self._move or row.state == UNDONE:
            return row.state
        raise TargetInUse(
            f"the database {self._url} is not empty: another move or restore has it ({row.move}, {row.state}); name an empty one"
        )

    def _require_copying(self, session: PostgresSession) -> _Row:
        row = _row(session)
        if row is None or row.move != self._move or row.state != COPYING:
            raise TargetInUse(
                f"the database {self._url} is not the target of this move any more: it was undone meanwhile"
            )
        return row


def _row(session: PostgresSession) -> _Row | None:
    if MOVE_TABLE not in postgres_copy.table_names(session):
        return None
    found = session.plain(f"SELECT move, state, tables, registry, former FROM {MOVE_TABLE}").fetchone()  # noqa: S608
    return None if found is None else _Row(*found)


def _name_objects(session: PostgresSession) -> None:
    """Write the rows that name the objects of the copied blobs. The server deletes the other objects, a day later."""
    for statement in (_NAME_BLOBS, _NAME_KEYS, _BURY):
        session.plain(statement)
    missing = [str(row[0]) for row in session.plain(_MISSING).fetchall()]
    if missing:
        raise MoveDiffers(f"blobs were not copied: {', '.join(missing)}; repeat the command")
