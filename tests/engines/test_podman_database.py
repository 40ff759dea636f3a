"""A forged database of Podman's, read without a store or Podman itself."""

from __future__ import annotations

import resource
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from boltseal.engines.podman_database import other_store
from boltseal.engines.safe_open import SafeFolder, StoreMalformed


def test_a_view_with_a_huge_text_takes_no_memory(tmp_path: Path) -> None:
    """A view that makes a text of 800 MB in one instruction, in place of the table, is malformed, and is not made."""
    with closing(sqlite3.connect(tmp_path / "db.sql")) as database:
        database.execute("CREATE VIEW DBConfig AS SELECT hex(zeroblob(400000000)) AS GraphRoot")
        database.commit()
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with SafeFolder(tmp_path) as files, pytest.raises(StoreMalformed, match="too big"):
        other_store(files)

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 100_000
