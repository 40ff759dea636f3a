"""Row locks by name: `FOR UPDATE` where the database locks rows, nothing where one writer excludes all others."""

from __future__ import annotations

import pytest
from sqlalchemy import Select
from sqlalchemy.dialects import postgresql, sqlite

from boltseal.server.storage.metadata import queries, tag_table

LOCKS = {"lock_repository": queries._LOCK_REPOSITORY, "lock_tag": tag_table._LOCK}


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_is_for_update_on_postgresql_and_nothing_on_sqlite(name: str) -> None:
    """One query has `FOR UPDATE` on PostgreSQL and nothing on SQLite."""
    query: Select[object] = LOCKS[name]
    psql = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy's own

    assert str(query.compile(dialect=psql)).endswith(" FOR UPDATE")
    assert "FOR UPDATE" not in str(query.compile(dialect=sqlite.dialect()))
