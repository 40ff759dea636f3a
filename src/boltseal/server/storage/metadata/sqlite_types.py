"""Values of SQLite that have another type than their column: SQLite stores them, and no query expects them.

boltseal writes none. They come from a damaged file or from an attacker who made a backup. A check reports their rows, and then
reads all others: a temporary view in the place of a table has the rows that can be read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Boolean, Column, Integer, LargeBinary, Table

from boltseal.errors import quote
from boltseal.server.storage.metadata.schema import METADATA
from boltseal.server.storage.metadata.sql import SqlStatements

DIALECT: Final = "sqlite"
MOST_SHOWN: Final = 20
"""How many rows of a table are named."""


def wrong_types(sql: SqlStatements) -> Iterator[str]:
    """Yield a sentence for each row with such a value, of each table the first ones; nothing for PostgreSQL, whose columns have types."""
    for table, columns in _tables(sql):
        keys = [column for column in columns if column.primary_key]
        rows = sql.plain(_query(table, columns, keys)).fetchall()
        for row in rows[:MOST_SHOWN]:
            wrong = next(
                f"{column.name} is {kind}"
                for column, kind in zip(columns, row, strict=False)
                if kind not in _kinds(column)
            )
            shown = ", ".join(
                f"{key.name} {value}" for key, value in zip(keys, map(_shown, row[len(columns) :]), strict=True)
            )
            named = f"the row with {shown}" if keys else "a row"
            yield f"{named} of the table {table.name} has a value of a wrong type ({wrong})"
        if len(rows) > MOST_SHOWN:
            yield f"more rows of the table {table.name} have a value of a wrong type"


def hide_wrong_types(sql: SqlStatements) -> None:
    """Let the connection read only rows without such values. Nothing in the file is changed."""
    for table, columns in _tables(sql):
        view = f'CREATE TEMP VIEW "{table.name}" AS SELECT * FROM main."{table.name}" WHERE NOT ({_wrong(columns)})'  # noqa: S608 - names of our own schema
        sql.plain("PRAGMA query_only=OFF")  # the views are of this connection; the file is opened read-only
        sql.plain(view)
        sql.plain("PRAGMA query_only=ON")


def _tables(sql: SqlStatements) -> Iterator[tuple[Table, list[Column[object]]]]:
    """Yield each table that has a value of a wrong type, with the columns that it has in this file."""
    if sql.connection.dialect.name != DIALECT:
        return
    for table in METADATA.tables.values():
        there = {row[1] for row in sql.plain(f'PRAGMA table_xinfo("{table.name}")').fetchall()}
        columns = [column for column in table.columns if column.name in there]
        if not columns:  # the table is of a newer format
            continue
        exists = f'SELECT 1 FROM "{table.name}" WHERE {_wrong(columns)} LIMIT 1'  # noqa: S608 - names of our own schema
        if sql.plain(exists).fetchone() is not None:
            yield table, columns


def _query(table: Table, columns: list[Column[object]], keys: list[Column[object]]) -> str:
    """Return the query for the types of the rows that have a wrong one, and for their keys. The names are those of `schema`."""
    shown = ", ".join([f'typeof("{column.name}")' for column in columns] + [f'"{key.name}"' for key in keys])
    return f'SELECT {shown} FROM "{table.name}" WHERE {_wrong(columns)} LIMIT {MOST_SHOWN + 1}'  # noqa: S608 - names of our own schema


def _wrong(columns: list[Column[object]]) -> str:
    return " OR ".join(
        f'typeof("{column.name}") NOT IN ({", ".join(map(repr, sorted(_kinds(column))))})' for column in columns
    )


def _shown(value: object) -> str:
    """Return a value of a key for a message: what it is, on one line."""
    return quote(value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value))


def _kinds(column: Column[object]) -> set[str]:
    match column.type:
        case Integer() | Boolean():
            kind = "integer"
        case LargeBinary():
            kind = "blob"
        case _:
            kind = "text"
    return {kind, "null"} if column.nullable else {kind}
