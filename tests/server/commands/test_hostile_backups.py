"""Backups that were damaged or made by an attacker: a restore ends with one clear line, and is whole or has not happened."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from boltseal.errors import BoltsealError
from boltseal.server.commands.backups import make_backup, restore_backup
from boltseal.server.settings import Settings
from boltseal.server.storage.metadata import copy_text
from boltseal.server.storage.metadata.schema import METADATA
from tests.server.commands import moving
from tests.server.commands.moving import NOW_US, fill, push_all, quiet
from tests.serving import settings_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.files_only("backups of SQLite and files, and of PostgreSQL on servers of its own"),
]

TABLES = sorted(table.name for table in copy_text.tables(without=copy_text.OF_SERVERS | copy_text.OF_UPLOADS))
HOSTILE_TEXT: tuple[bytes, ...] = (
    b"",
    b"\\N",
    b"-1",
    b"0",
    b"9" * 30,
    b"1e400",
    b"sha256:zz",
    b"sha256:" + b"0" * 64,
    b"../../etc/passwd",
    b"\xff\xfe",
    b"\\",
    b"\\\\x0",
    b"a\x00b",
    b"\t",
    b"{" * 2000,
    "\u202e\n".encode(),
)
HOSTILE_VALUES: tuple[object, ...] = (
    None, "", -1, 0, 2**63 - 1, 1.5, "sha256:zz", "sha256:" + "0" * 64, "../../etc/passwd", b"\xff\xfe", "a\x00b", "{" * 2000,
)  # fmt: skip
counter = itertools.count()


def restored(config: Settings, folder: Path) -> BoltsealError | None:
    """Restore; return the error that ends it, which is one line. Any other exception fails the test."""
    found: BoltsealError | None = None
    try:
        restore_backup(config, folder, quiet)
    except BoltsealError as error:
        found = error

    assert found is None or re.fullmatch("[^\n]+", found.message)
    return found


@pytest.fixture(scope="module")
def of_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of SQLite and files."""
    folder = tmp_path_factory.mktemp("of-files")
    asyncio.run(fill(folder / "data"))
    make_backup(settings_of(folder / "data"), folder / "copy", NOW_US, quiet, with_objects=False)
    return folder / "copy"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=st.sampled_from(TABLES), value=st.sampled_from(HOSTILE_VALUES), choice=st.integers(0, 99))
@example(table="manifest", value=2**63 - 1, choice=74)  # a sum of sizes that no integer has
def test_a_hostile_value_in_a_backup_of_files(
    of_files: Path, tmp_path: Path, table: str, value: object, choice: int
) -> None:
    """Whatever value a column has, a restore ends with one line, or the folder is complete and was examined."""
    copy, new = tmp_path / f"copy-{next(counter)}", tmp_path / f"new-{next(counter)}"
    shutil.copytree(of_files, copy)
    columns, key = METADATA.tables[table].columns.keys(), METADATA.tables[table].primary_key.columns.keys()[0]
    column = columns[choice % len(columns)]
    update = f"UPDATE {table} SET {column} = ? WHERE {key} = (SELECT max({key}) FROM {table})"  # noqa: S608 - names of our own schema
    with closing(sqlite3.connect(copy / "boltseal.db")) as database, database:
        database.execute("PRAGMA ignore_check_constraints = ON")
        with suppress(sqlite3.IntegrityError):  # SQLite itself does not store it
            database.execute(update, (value,))
    error = restored(settings_of(new), copy)

    assert (new / "boltseal.db").exists() or error is not None
    shutil.rmtree(copy)
    shutil.rmtree(new, ignore_errors=True)


def test_a_schema_that_is_not_utf_8_ends_a_restore_with_one_line(of_files: Path, tmp_path: Path) -> None:
    """A damaged schema, which SQLite quotes in its error as it is, ends a restore with one line."""
    copy = Path(shutil.copytree(of_files, tmp_path / "copy"))
    raw = (copy / "boltseal.db").read_bytes()
    (copy / "boltseal.db").write_bytes(raw.replace(b"CREATE TABLE blob (", b"CREATE \x80ABLE blob ("))
    error = restored(settings_of(tmp_path / "new"), copy)

    assert error is not None
    assert "damaged" in error.message
    assert not (tmp_path / "new").exists()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["boltseal.db", "format", "complete"]), at=st.floats(0, 1), change=st.binary(max_size=40))
def test_a_damaged_file_in_a_backup_of_files(
    of_files: Path, tmp_path: Path, name: str, at: float, change: bytes
) -> None:
    """Whatever bytes a file of the backup has, a restore ends with one line or is complete."""
    copy, new = tmp_path / f"copy-{next(counter)}", tmp_path / f"new-{next(counter)}"
    shutil.copytree(of_files, copy)
    raw = (copy / name).read_bytes()
    start = int(at * len(raw))
    (copy / name).write_bytes(raw[:start] + change + (raw[start + len(change) :] if name == "boltseal.db" else b""))
    error = restored(settings_of(new), copy)

    assert (new / "boltseal.db").exists() or error is not None
    shutil.rmtree(copy)
    shutil.rmtree(new, ignore_errors=True)


def changed(text: bytes, kind: str, value: bytes, choice: int) -> bytes:
    """Return the text of a table with one change."""
    lines = text.splitlines(keepends=True) or [b"\n"]
    row = choice % len(lines)
    fields = lines[row].rstrip(b"\n").split(b"\t")
    match kind:
        case "value":
            fields[choice % len(fields)] = value
        case "one more column":
            fields.append(value)
        case "one column less":
            fields.pop()
        case "twice":
            lines.insert(row, lines[row])
        case _:  # cut
            return text[: choice * len(text) // 100]
    lines[row] = b"\t".join(fields) + b"\n"
    return b"".join(lines)


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("consistent", [True, False])
def test_a_hostile_table_in_a_backup_of_postgresql(
    place: Callable[[str], Settings], tmp_path: Path, number: int, *, consistent: bool
) -> None:
    """Whatever text a table has, also with hashes that an attacker corrected, a restore ends with one line or is complete."""
    old = place("old")
    asyncio.run(push_all(old, "1.0.0"))
    make_backup(old, tmp_path / "good", NOW_US, quiet, with_objects=True)

    @settings(max_examples=12, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(
        table=st.sampled_from(["blob", *TABLES]),
        kind=st.sampled_from(["value", "value", "one more column", "one column less", "twice", "cut"]),
        value=st.sampled_from(HOSTILE_TEXT),
        choice=st.integers(0, 99),
    )
    def check(table: str, kind: str, value: bytes, choice: int) -> None:
        copy = tmp_path / f"copy-{next(counter)}"
        shutil.copytree(tmp_path / "good", copy)
        path = copy / "tables" / f"{table}.copy"
        before = path.read_bytes()
        text = changed(before, kind, value, choice)
        path.write_bytes(text)
        if consistent:
            manifest = json.loads((copy / "backup.json").read_bytes())
            manifest["tables"][table] = {
                "rows": text.count(b"\n"),
                "size": len(text),
                "sha256": hashlib.sha256(text).hexdigest(),
            }
            (copy / "backup.json").write_text(json.dumps(manifest))
        new = place(f"new-{next(counter)}")
        error = restored(new, copy)

        assert moving.is_open(new) or error is not None
        assert consistent or text == before or not moving.is_open(new)

    check()
