"""A boundary that import-linter can't see: only the storage package uses the SQL connection of a snapshot."""

from __future__ import annotations

import ast
from pathlib import Path

import boltseal.server

SERVER = Path(boltseal.server.__file__).parent


def test_only_the_storage_package_uses_the_sql_of_a_snapshot() -> None:
    """`Snapshot.sql`, an attribute whose use no import shows, is used in the storage package only."""
    users = {
        path.relative_to(SERVER).parts[0]
        for path in SERVER.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "sql"
    }

    assert users == {"storage"}
