"""Create the schema of a PostgreSQL database, or bring it up to date: from `schema`, or by the alembic revisions.

All is one transaction under the writer's lock: servers that start together do it one after the other, and an interrupted one has
changed nothing. There is no copy of the database before a migration, as there is of a SQLite file: the operator's backup
is that copy.

Servers of two versions may work on one database: an older one on a schema that was only expanded since (`schema_support`). A migration that
contracts the schema waits until no server is alive that it would break, and is refused while one is.
"""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, Final

from sqlalchemy import inspect, text

from boltseal.errors import Unavailable
from boltseal.loading import deferred
from boltseal.server.storage.coordination import lock_session, replica_rows
from boltseal.server.storage.metadata import schema_support
from boltseal.server.storage.metadata.migrate import HEAD_REVISION, FormatInvalid, MetadataAbsent
from boltseal.server.storage.metadata.postgres import PostgresDriver, PostgresSession
from boltseal.server.storage.metadata.schema import METADATA
from boltseal.server.storage.metadata.schema_support import OLDEST_SERVER
from boltseal.server.storage_settings import DatabaseUrl

if TYPE_CHECKING:
    from alembic import command
    from alembic import config as alembic_config
else:  # hardly any start migrates
    command = deferred("alembic.command")
    alembic_config = deferred("alembic.config")

WHOLE_DATABASE_WAIT_S: Final = 60.0
"""How long a migration, a move or a restore waits for the writer's lock."""
LOOK_EVERY_S: Final = 0.5
_WITH_REPLICAS: Final = "0016"
"""The revision since which servers have rows. Servers of older ones can't be found: their operator stops them."""
MOVE_TABLE: Final = "boltseal_move"
"""The table of a database that is the target of a move (`move_target`)."""


class OlderServerRuns(Unavailable):
    """A server runs that the migration would break. Nothing was changed."""


def prepare_database(url: DatabaseUrl, direct: DatabaseUrl | None = None) -> None:
    """Create the tables, or bring them up to date. Safe when several servers do it at once. `direct`: past a pooler.

    Raises:
        FormatInvalid: the database is of another program, or of a newer boltseal on whose schema this one can't work.
        OlderServerRuns: the database would have to be changed so that a running server could not work on it.
        Unavailable.
    """
    driver = PostgresDriver(url, lock_wait_s=WHOLE_DATABASE_WAIT_S)
    try:
        with driver.errors_named(), closing(driver.connect()) as session:
            revision = _revision(session)
            if _works_on(session, revision):
                return
            if revision is not None and _WITH_REPLICAS <= revision < OLDEST_SERVER:
                _await_end_of_older_servers(direct or url)
            session.begin(write=True)
            revision = _revision(session)
            if revision is None:
                _create(session)
            elif revision != HEAD_REVISION:
                if _WITH_REPLICAS <= revision < OLDEST_SERVER:
                    _refuse_older_servers(session)
                _upgrade(session, revision)
            session.driver.execute(b"COMMIT")
    finally:
        driver.close()


def check_database(url: DatabaseUrl) -> None:
    """Refuse a database that has not the schema of this boltseal. Changes nothing. Raises: FormatInvalid, Unavailable."""
    driver = PostgresDriver(url)
    try:
        with driver.errors_named(), closing(driver.connect()) as session:
            revision = _revision(session)
            works = _works_on(session, revision)
    finally:
        driver.close()
    if revision is None:
        raise MetadataAbsent(f"the database {url} is empty; `boltseal serve` creates the tables of a new registry")
    if revision > HEAD_REVISION and not works:
        raise _newer(revision)
    if not works:
        raise FormatInvalid(
            f"the database {url} has schema {revision}, this boltseal works on {HEAD_REVISION}; `boltseal serve` brings it up to date"
        )


def _works_on(session: PostgresSession, revision: str | None) -> bool:
    """Return whether this boltseal works on a schema: its own, or a newer one that was only expanded since."""
    if revision is None or revision <= HEAD_REVISION:
        return revision == HEAD_REVISION
    return schema_support.oldest(session) <= HEAD_REVISION


def _newer(revision: str) -> FormatInvalid:
    return FormatInvalid(
        f"the database has schema {revision}, this boltseal works up to {HEAD_REVISION}; use a newer one"
    )


def _await_end_of_older_servers(direct: DatabaseUrl) -> None:
    """Wait for rows of servers that were killed. Raises: OlderServerRuns: one is alive."""
    session, watch = lock_session.LockSession(direct.with_password, direct=False), replica_rows.ReplicaWatch()
    beats: dict[str, int] = {}
    try:
        while older := [row for row in watch.look(session) if row.revision < OLDEST_SERVER]:
            for row in older:
                if beats.setdefault(row.id, row.beat) != row.beat:
                    raise _runs(row.version, row.revision)
            time.sleep(LOOK_EVERY_S)
        watch.remove_stopped(session)
    finally:
        session.close()


def _refuse_older_servers(session: PostgresSession) -> None:
    """Check in the transaction of the migration that no older server has begun. Raises: OlderServerRuns."""
    row = session.plain("SELECT version, revision FROM replica WHERE revision < ?", (OLDEST_SERVER,)).fetchone()
    if row is not None:
        raise _runs(*row)


def _runs(version: str, revision: str) -> OlderServerRuns:
    return OlderServerRuns(
        f"the database is not brought up to date from schema {revision} to {HEAD_REVISION}: a server of boltseal {version} runs, which "
        "could not work on it any more: stop all servers of older versions, and start this one again"
    )


def _revision(session: PostgresSession) -> str | None:
    if not inspect(session.connection).has_table("alembic_version"):
        return None
    found: str | None = session.connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    return found


def _create(session: PostgresSession) -> None:
    tables = inspect(session.connection).get_table_names()
    if MOVE_TABLE in tables:
        raise FormatInvalid(
            "the database is the target of a move or a restore that is not complete, or was undone: go on with `boltseal admin migrate "
            "--from FOLDER` or `boltseal admin restore`, or use an empty database"
        )
    if tables:
        raise FormatInvalid(
            f"the database is not empty and not one of boltseal (it contains the table {tables[0]!r}); use one of its own"
        )
    METADATA.create_all(session.connection)
    session.plain("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    session.plain("INSERT INTO alembic_version VALUES (?)", (HEAD_REVISION,))
    schema_support.record(session)


def _upgrade(session: PostgresSession, revision: str) -> None:
    if revision > HEAD_REVISION:
        raise _newer(revision)
    config = alembic_config.Config()
    config.set_main_option("script_location", "boltseal.server.storage.metadata:migrations")
    config.attributes["connection"] = session.connection
    command.upgrade(config, "head")
    schema_support.record(session)
