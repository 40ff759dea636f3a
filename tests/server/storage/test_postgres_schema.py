"""The schema on PostgreSQL: created once, equal to that of the migrations, and refused when it is another program's."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine

from boltseal.server.storage.metadata.migrate import HEAD_REVISION, FormatInvalid
from boltseal.server.storage.metadata.postgres_schema import check_database, prepare_database
from boltseal.server.storage_settings import DatabaseUrl
from tests.storage_servers import Postgres

pytestmark = pytest.mark.real

COLUMNS = """
SELECT table_name, column_name, data_type, is_nullable, collation_name, column_default FROM information_schema.columns
WHERE table_schema = 'public' AND table_name <> 'alembic_version' ORDER BY 1, 2
"""
INDEXES = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version' ORDER BY 1"
CONSTRAINTS = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'alembic_version' ORDER BY 1, 2
"""


def rows(url: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


def migrated(url: str, revision: str = "head") -> None:
    """Apply the migrations from the first one on."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        config = Config()
        config.set_main_option("script_location", "boltseal.server.storage.metadata:migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        connection.commit()
    engine.dispose()


@pytest.fixture
def empty(postgres_server: Postgres) -> str:
    """A database without tables."""
    return postgres_server.url(postgres_server.create_database())


def test_a_new_database_equals_one_that_went_through_every_migration(
    empty: str, new_database: Callable[[], str]
) -> None:
    """Tables, columns, collations, indexes and constraints of a created database are those of a migrated one."""
    created = new_database()
    migrated(empty)

    for query in (COLUMNS, INDEXES, CONSTRAINTS):
        assert rows(created, query) == rows(empty, query)
        assert rows(created, query)


def test_every_text_is_compared_by_bytes(new_database: Callable[[], str]) -> None:
    """Every column of text has the collation "C", so that ranges of digests and pages of names are those of SQLite."""
    texts = [row for row in rows(new_database(), COLUMNS) if row[2] == "text"]

    assert {row[4] for row in texts} == {"C"}


def test_an_older_schema_is_brought_up_to_date(empty: str) -> None:
    """A database of an older revision is refused by commands, and migrated by a server that starts."""
    migrated(empty, "0008")
    with pytest.raises(FormatInvalid, match="schema 0008"):
        check_database(DatabaseUrl(empty))
    prepare_database(DatabaseUrl(empty))
    check_database(DatabaseUrl(empty))

    assert rows(empty, "SELECT version_num FROM alembic_version") == [(HEAD_REVISION,)]


def test_many_servers_may_prepare_one_database_at_once(empty: str) -> None:
    """Servers that start together create one schema."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: prepare_database(DatabaseUrl(empty)), range(4)))

    assert rows(empty, "SELECT version_num FROM alembic_version") == [(HEAD_REVISION,)]


def test_a_database_of_another_program_is_refused_unchanged(empty: str) -> None:
    """A database with tables of another program is refused, and gets no table."""
    with psycopg.connect(empty) as connection:
        connection.execute("CREATE TABLE thesis (chapter text)")
    with pytest.raises(FormatInvalid, match="thesis"):
        prepare_database(DatabaseUrl(empty))

    assert {row[0] for row in rows(empty, COLUMNS)} == {"thesis"}


@pytest.mark.parametrize("change", ["DELETE FROM schema_support", "UPDATE schema_support SET oldest = '9999'"])
def test_a_newer_schema_that_does_not_name_this_version_is_refused(
    new_database: Callable[[], str], change: str
) -> None:
    """What a newer database does not say of older servers is no permission."""
    url = new_database()
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.execute(change.encode())
    with pytest.raises(FormatInvalid, match="9999"):
        prepare_database(DatabaseUrl(url))


def test_a_newer_schema_that_was_only_expanded_is_accepted(new_database: Callable[[], str]) -> None:
    """A server and a command work on it, and leave it as it is."""
    url = new_database()
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    prepare_database(DatabaseUrl(url))
    check_database(DatabaseUrl(url))

    assert rows(url, "SELECT version_num FROM alembic_version") == [("9999",)]


def test_a_newer_schema_is_refused(new_database: Callable[[], str]) -> None:
    """A database of a newer boltseal that contracted it is refused by servers and commands."""
    url = new_database()
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.execute("UPDATE schema_support SET oldest = '9998'")
    for refuse in (prepare_database, check_database):
        with pytest.raises(FormatInvalid, match="9999"):
            refuse(DatabaseUrl(url))
