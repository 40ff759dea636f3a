"""Create the schema of a PostgreSQL database, or bring it up to date: from `schema`, or by the alembic revisions.

All is one transaction under the writer's lock: servers that start together do it one after the other, and an interrupted one has
changed nothing. There is no copy of the database before a migration, as there is of a SQLite file: the operator's backup
is that copy.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final

from sqlalchemy import inspect, text

from boltseal.loading import deferred
from boltseal.server.storage.metadata.migrate import HEAD_REVISION, FormatInvalid
from boltseal.server.storage.metadata.postgres import PostgresDriver, PostgresSession
from boltseal.server.storage.metadata.schema import METADATA
from boltseal.server.storage_settings import DatabaseUrl

if TYPE_CHECKING:
    from alembic import command
    from alembic import config as alembic_config
else:  # hardly any start migrates
    command = deferred("alembic.command")
    alembic_config = deferred("alembic.config")

LOCK_WAIT_S: Final = 60.0
MOVE_TABLE: Final = "boltseal_move"
"""The table of a database that is the target of a move (`move_target`)."""


def prepare_database(url: DatabaseUrl) -> None:
    """Create the tables, or bring them up to date. Safe when several servers do it at once.

    Raises: FormatInvalid: the database is of another program, or of a newer boltseal. Unavailable.
    """
    driver = PostgresDriver(url, lock_wait_s=LOCK_WAIT_S)
    try:
        with driver.errors_named(), closing(driver.connect()) as session:
            if _revision(session) == HEAD_REVISION:
                return
            session.begin(write=True)
            revision = _revision(session)
            if revision is None:
                _create(session)
            elif revision != HEAD_REVISION:
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
    finally:
        driver.close()
    if revision != HEAD_REVISION:
        raise FormatInvalid(
            f"the database {url} has {'no schema' if revision is None else f'schema {revision}'}, this boltseal works on "
            f"{HEAD_REVISION}; `boltseal serve` creates it or brings it up to date"
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


def _upgrade(session: PostgresSession, revision: str) -> None:
    if revision > HEAD_REVISION:
        raise FormatInvalid(
            f"the database has schema {revision}, this boltseal works up to {HEAD_REVISION}; use a newer one"
        )
    config = alembic_config.Config()
    config.set_main_option("script_location", "boltseal.server.storage.metadata:migrations")
    config.attributes["connection"] = session.connection
    command.upgrade(config, "head")
