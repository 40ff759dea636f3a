"""Read rpm's SQLite database from bytes, in memory: each row of its table `Packages` has the header of a package.

The database is hostile: anything but a table with a stored column is refused, such as a view or a generated column; no
function of the schema is trusted; a query ends after a number of instructions; and rows that share their bytes are refused,
since a small database could have any number of large headers by them.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from typing import Final

from boltseal.transfer.packages.package_list import MAX_TEXT, Package, PackagesUnreadable

MAX_HEADER_BYTES: Final = 16 * 1024 * 1024
MAX_COLUMNS: Final = 10
MAX_STEPS: Final = 20_000
STEP_INSTRUCTIONS: Final = 10_000
"""A query ends after their product of instructions; a list of 5,000 packages takes some thousands."""
_NAME, _VERSION, _RELEASE, _EPOCH = 1000, 1001, 1002, 1003
_STRING, _INT32 = 6, 4


def read_rpm_database(path: str, raw: bytes) -> Iterator[Package]:
    """Yield the packages of rpm's SQLite database: each row of `Packages` has a header of tags."""
    if raw[:16] != b"SQLite format 3\0":
        raise PackagesUnreadable(f"/{path} is no database of SQLite")
    raw = raw[:18] + b"\1\1" + raw[20:]  # rpm's has a write-ahead log, which a database in memory can't have
    try:
        with closing(sqlite3.connect(":memory:")) as database:
            database.deserialize(raw)
            steps = iter(range(MAX_STEPS))
            database.set_progress_handler(lambda: next(steps, None) is None, STEP_INSTRUCTIONS)
            for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "query_only = ON"):
                database.execute(f"PRAGMA {pragma}")
            database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_HEADER_BYTES)
            [made] = database.execute("SELECT sql FROM sqlite_master WHERE name = 'Packages'").fetchone() or [""]
            if not isinstance(made, str) or not made.upper().startswith("CREATE TABLE"):  # a view could run forever
                raise PackagesUnreadable(f"/{path} has no table of packages")
            columns = database.execute("PRAGMA table_xinfo('Packages')").fetchmany(MAX_COLUMNS + 1)
            if not 0 < len(columns) <= MAX_COLUMNS or any(hidden for *_, hidden in columns):
                raise PackagesUnreadable(f"/{path} has generated or too many columns in its table of packages")
            left = len(raw)
            for (header,) in database.execute("SELECT blob FROM Packages"):
                if not isinstance(header, bytes):
                    raise PackagesUnreadable(f"/{path} has a package without a header")
                left -= len(header)
                if left < 0:
                    raise PackagesUnreadable(f"/{path} has packages with more bytes than the whole database")
                yield _package(path, header)
    except (sqlite3.Error, OverflowError, MemoryError) as error:
        raise PackagesUnreadable(f"/{path} is no database that SQLite can read: {error}") from error


def _package(path: str, header: bytes) -> Package:
    """Return the package of a header: numbers of index entries and data bytes, the entries, then the data.

    The first entry of each tag counts, and at most MAX_TEXT bytes of a text: many entries can share one long text.
    """
    try:
        entries, size = struct.unpack_from(">II", header)
        start = 8 + 16 * entries
        data = header[start : start + size]
        found: dict[int, str] = {}
        for number in range(entries):
            if number > len(header) // 16:
                raise PackagesUnreadable(f"/{path} has a damaged header")
            tag, kind, offset, _ = struct.unpack_from(">IIII", header, 8 + 16 * number)
            if tag in found:
                continue
            if kind == _STRING and tag in (_NAME, _VERSION, _RELEASE):
                end = data.index(b"\0", offset)
                found[tag] = data[offset : min(end, offset + MAX_TEXT)].decode("utf-8", "replace")
            elif kind == _INT32 and tag == _EPOCH:
                found[tag] = str(struct.unpack_from(">I", data, offset)[0])
    except (struct.error, ValueError) as error:
        raise PackagesUnreadable(f"/{path} has a damaged header") from error
    epoch = f"{found[_EPOCH]}:" if found.get(_EPOCH, "0") != "0" else ""
    release = f"-{found[_RELEASE]}" if _RELEASE in found else ""
    return Package("rpm", found.get(_NAME, ""), f"{epoch}{found.get(_VERSION, '')}{release}")
