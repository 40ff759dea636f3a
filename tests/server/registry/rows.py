"""Changes rows of a data folder in SQLite as an older version of boltseal left them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from boltseal.server.storage.metadata.migrate import DATABASE_NAME


def forget_manifest_objects(data: Path) -> None:
    """Let no row name the object of a manifest, as before there were such objects."""
    with closing(sqlite3.connect(data / DATABASE_NAME)) as database:
        database.execute("DELETE FROM manifest_object")
        database.commit()
