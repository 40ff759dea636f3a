"""Reads and writes whole tables of PostgreSQL as the text of `COPY` (see `copy_text`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager

from sqlalchemy import Table, inspect, text

from boltseal.server.storage.metadata import schema_support
from boltseal.server.storage.metadata.copy_text import TextDigest
from boltseal.server.storage.metadata.migrate import HEAD_REVISION
from boltseal.server.storage.metadata.postgres import PostgresDriver, PostgresSession
from boltseal.server.storage.metadata.postgres_schema import WHOLE_DATABASE_WAIT_S
from boltseal.server.storage.metadata.schema import METADATA
from boltseal.server.storage_settings import DatabaseUrl

Session = PostgresSession
"""A session on PostgreSQL, for the functions below."""


@contextmanager
def written(url: DatabaseUrl) -> Iterator[PostgresSession]:
    """Yield a session in one write transaction, which is durable when the block ends, and undone if it raises. Unavailable."""
    driver = PostgresDriver(url, lock_wait_s=WHOLE_DATABASE_WAIT_S)
    try:
        with driver.errors_named(), closing(driver.connect()) as session:
            session.begin(write=True)
            session.plain("SET LOCAL bytea_output = 'hex'")
            session.plain("SET LOCAL idle_in_transaction_session_timeout = 0")
            yield session
            session.driver.execute(b"COMMIT")
    finally:
        driver.close()


@contextmanager
def read(url: DatabaseUrl) -> Iterator[PostgresSession]:
    """Yield a session that reads one snapshot inside the block. Raises: Unavailable."""
    driver = PostgresDriver(url)
    try:
        with driver.errors_named(), closing(driver.connect()) as session, session.one_snapshot():
            session.plain("SET LOCAL bytea_output = 'hex'")
            yield session
    finally:
        driver.close()


def copy_in(session: PostgresSession, table: Table, rows: Iterable[bytes]) -> None:
    """Insert the rows of a text."""
    names = ", ".join(f'"{column.name}"' for column in table.columns)
    with session.driver.cursor().copy(f'COPY "{table.name}" ({names}) FROM STDIN'.encode()) as copy:
        for piece in rows:
            copy.write(piece)


def copy_out(session: PostgresSession, table: Table) -> Iterator[bytes]:
    """Yield the text of a table."""
    names = ", ".join(f'"{column.name}"' for column in table.columns)
    order = ", ".join(f'"{column.name}"' for column in table.primary_key.columns)
    query = f'COPY (SELECT {names} FROM "{table.name}" ORDER BY {order}) TO STDOUT'  # noqa: S608 - names of our own schema
    with session.driver.cursor().copy(query.encode()) as copy:
        for piece in copy:
            yield bytes(piece)


def digest_of(session: PostgresSession, table: Table) -> TextDigest:
    """Return rows and hash of a table."""
    digest = TextDigest()
    for _ in digest.passing(copy_out(session, table)):
        pass
    return digest


def create_tables(session: PostgresSession) -> None:
    """Create the schema of this boltseal, without rows. Not for use by servers before `open_to_servers`."""
    METADATA.create_all(session.connection)


def open_to_servers(session: PostgresSession) -> None:
    """Do what has to be done after rows were inserted, and let servers use the database after the COMMIT."""
    session.plain(
        "SELECT setval(pg_get_serial_sequence('repository', 'id'), coalesce(max(id), 1), max(id) IS NOT NULL) FROM repository"
    )
    session.plain("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    session.plain("INSERT INTO alembic_version VALUES (?)", (HEAD_REVISION,))
    schema_support.record(session)
    session.plain("ANALYZE")


def drop_tables(session: PostgresSession) -> None:
    """Remove the schema with all rows. A server that still runs on it can read and write nothing any more."""
    METADATA.drop_all(session.connection)
    session.plain("DROP TABLE IF EXISTS alembic_version")


def table_names(session: PostgresSession) -> set[str]:
    """Return the tables of the database."""
    return set(inspect(session.connection).get_table_names())


def schema_revision(session: PostgresSession) -> str | None:
    """Return the revision of the schema, None if servers can't use the database."""
    if "alembic_version" not in table_names(session):
        return None
    found: str | None = session.connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    return found
