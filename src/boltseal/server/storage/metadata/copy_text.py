"""The rows of a table as text in the order of its primary key: exactly the bytes of PostgreSQL's `COPY ... TO STDOUT`.

So a table of SQLite and one of PostgreSQL are equal if these texts are, and the text of one can be read into the other. A row
is a line; its values are separated by tabs, in the order of the columns in `schema`. `schema` sorts text by bytes in both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, Final

from sqlalchemy import Table, select

from boltseal.errors import Invalid
from boltseal.server.storage.metadata.schema import METADATA
from boltseal.server.storage.metadata.sql import SqlStatements

OF_SERVERS: Final = frozenset(
    {"write_mark", "generation", "lease", "bucket_owner", "full_collection", "replica", "schema_support"}
)
"""Tables of the servers that run on a database, and the position of a comparison of one store. A copy begins without their rows."""
OF_UPLOADS: Final = frozenset({"upload_session", "upload_progress", "upload_part"})
"""Tables of uploads that are under way. Their bytes are not copied, so the clients begin again."""
OF_OBJECTS: Final = frozenset({"stored_blob", "blob_key", "dead_key", "manifest_object", "changed_part"})
"""Tables with the objects of one bucket."""
_ROWS_AT_ONCE: Final = 200
_ESCAPED: Final = str.maketrans(
    {"\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}
)


def tables(*, without: frozenset[str]) -> list[Table]:
    """Return the tables in an order in which their rows can be inserted."""
    return [table for table in METADATA.sorted_tables if table.name not in without]


class TextDigest:
    """Counts rows and bytes, and hashes the text, while it passes."""

    def __init__(self) -> None:
        self.rows = 0
        self.size = 0
        self._hash = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """The hash of the text so far, in hexadecimal digits."""
        return self._hash.hexdigest()

    def passing(self, text: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the pieces of the text, each after it was counted."""
        for piece in text:
            self._hash.update(piece)
            self.rows += piece.count(b"\n")
            self.size += len(piece)
            yield piece


def rows_text(sql: SqlStatements, table: Table) -> Iterator[bytes]:
    """Yield the text of a table of SQLite, some rows at once. Raises: Invalid: a value that PostgreSQL can't store."""
    query = select(table).order_by(*table.primary_key.columns).execution_options(yield_per=_ROWS_AT_ONCE)
    for rows in sql.connection.execute(query).partitions():
        lines = "".join("\t".join(map(_field, row)) + "\n" for row in rows)
        if "\0" in lines:
            raise Invalid(
                f"a row of the table {table.name} has a text with a NUL character (U+0000), which PostgreSQL can't store"
            )
        yield lines.encode()


def _field(value: Any) -> str:
    if value is None:
        return "\\N"
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, bytes):
        return "\\\\x" + value.hex()
    return str(value).translate(_ESCAPED)
