"""What the tables of the metadata database share: their registry, and text that both databases compare by bytes."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import MetaData, Text
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class _TextByBytes(postgresql.TEXT):
    """Text of PostgreSQL that is compared by bytes, whatever the locale of the database."""


@compiles(_TextByBytes, "postgresql")
def _column_by_bytes(_type: _TextByBytes, _compiler: object, **_: object) -> str:
    return 'TEXT COLLATE "C"'  # for a column only; a value has its plain type


# Lists are paged by name, and ranges of digests are read: both databases must sort by bytes.
TEXT: Final = Text().with_variant(_TextByBytes(), "postgresql")


class by_bytes(FunctionElement[str]):  # noqa: N801 - a function of SQL
    """A text that begins a recursive query, compared by bytes as the columns are that follow."""

    type = Text()
    inherit_cache = True


@compiles(by_bytes)
def _plain_text(element: by_bytes, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.clauses, **options)


@compiles(by_bytes, "postgresql")
def _text_by_bytes(element: by_bytes, compiler: SQLCompiler, **options: Any) -> str:
    return f'({compiler.process(element.clauses, **options)}) COLLATE "C"'
