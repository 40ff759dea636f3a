"""SQL that SQLAlchemy has compiled once, for all databases of a test process. Loaded by `tests/conftest.py`.

By itself SQLAlchemy compiles a statement once for each engine. A registry opens several engines in its life, and thousands of tests
open a registry: they would spend more time on compiling the same statements than on running them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event

Key = tuple[Any, ...]


class CompiledStatements(dict[Key, Any]):
    """SQLAlchemy's option `compiled_cache`, whose keys begin with an engine's dialect: here with its class.

    All engines of a class of dialects have the same settings, so they compile a statement to the same text.
    """

    def get(self, key: Key, default: Any = None) -> Any:
        return super().get(_shared(key), default)

    def __setitem__(self, key: Key, compiled: Any) -> None:
        super().__setitem__(_shared(key), compiled)


def _shared(key: Key) -> Key:
    dialect, *statement = key
    return type(dialect), *statement


@pytest.fixture(scope="session", autouse=True)
def compiled_statements() -> Iterator[CompiledStatements]:
    """Let all connections of this process share what they compile."""
    statements = CompiledStatements()

    def share(connection: Connection) -> None:
        connection.execution_options(compiled_cache=statements)

    event.listen(Engine, "engine_connect", share)
    yield statements
    event.remove(Engine, "engine_connect", share)
