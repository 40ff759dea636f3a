"""Fills a real PostgreSQL database of a registry with many rows, by copying real ones in SQL, for measures of size and scale.

A copied row has the values of the real one, and so its width, except for its keys. Digests are random, as those of content are, so that
indexes are filled as they are by pushes. No server checks these rows; pulls read them as any others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import psycopg

DIGEST: Final = "'sha256:' || md5(i::text || 'a') || md5(i::text || 'b')"
"""SQL of a digest for the number i."""


def copy_rows(
    connection: psycopg.Connection, table: str, count: int, changed: Mapping[str, str], where: str = "true"
) -> None:
    """Copy one row of a table, for i = 1 to `count`. `changed`: SQL for the columns that differ. `where`: of the row."""
    names = [
        str(row[0])
        for row in connection.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_name = %s AND table_schema = 'public' "
            "ORDER BY ordinal_position",
            (table,),
        )
    ]
    values = ", ".join(changed.get(name, f't."{name}"') for name in names)
    columns = ", ".join(f'"{name}"' for name in names)
    connection.execute(
        f"INSERT INTO {table} ({columns}) SELECT {values} FROM (SELECT * FROM {table} WHERE {where} LIMIT 1) t, "  # noqa: S608 - of this repository
        f"generate_series(1, {count}) i".encode()
    )


def size_of(connection: psycopg.Connection, table: str) -> tuple[int, int]:
    """Return the bytes of a table's rows, and of its indexes."""
    row = connection.execute("SELECT pg_table_size(%s), pg_indexes_size(%s)", (table, table)).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])
