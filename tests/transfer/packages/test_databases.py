"""Package databases of images, also damaged and hostile ones."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.transfer.packages.databases import is_database, read_databases
from boltseal.transfer.packages.package_list import Package, PackagesUnreadable
from tests.packaged_images import APK, DPKG, apk, dpkg, rpm, rpm_header

RPM = "var/lib/rpm/rpmdb.sqlite"


def sharing_rows(rows: int) -> bytes:
    """Return rpm's database whose rows all have the overflow pages of the first one, which is larger than they were."""
    page, local, size, short = 4096, 23 + 489, 23 + 489 + 3 * 4092, 23 + 489 + 2 * 4092
    raw = bytearray(rpm(bytes(size - 5), *[bytes(short - 5)] * (rows - 1)))
    first = raw.index(cell(size, 1)) + len(cell(size, 1)) - 5
    overflow = raw[first + local : first + local + 4]
    assert 0 < int.from_bytes(overflow) * page < len(raw)
    for number in range(2, rows + 1):
        at = raw.index(cell(short, number))
        raw[at : at + len(cell(size, number))] = cell(size, number)
        pointer = at + len(cell(size, number)) - 5 + local
        raw[pointer : pointer + 4] = overflow
    return bytes(raw)


def cell(size: int, row: int) -> bytes:
    """Return the begin of the cell of a row: the size of its record, its number, and the header of the record."""
    return varint(size) + varint(row) + b"\x05\x00" + varint(2 * (size - 5) + 12)


def varint(number: int) -> bytes:
    """Return a number as SQLite writes it."""
    groups = [number & 127]
    while number := number >> 7:
        groups.append(number & 127 | 128)
    return bytes(reversed(groups))


def test_each_kind_of_database_is_read() -> None:
    """The packages of dpkg, of distroless images, of apk and of rpm are read with name and version."""
    header = rpm_header(name="bash", version="5.2", release="3.el9", epoch=0)
    with_epoch = rpm_header(name="shadow", version="4.9", release="1", epoch=2)

    assert read_databases({DPKG: dpkg(zlib="1.3", bash="5.2-1")}) == (
        Package("deb", "bash", "5.2-1"),
        Package("deb", "zlib", "1.3"),
    )
    assert read_databases({f"{DPKG}.d/tz": b"Package: tzdata\nVersion: 2026a\n"}) == (
        Package("deb", "tzdata", "2026a"),
    )
    assert read_databases({APK: apk(musl="1.2.5-r0")}) == (Package("apk", "musl", "1.2.5-r0"),)
    assert read_databases({f"usr/{APK}": apk(musl="1.2.5-r0")}) == (Package("apk", "musl", "1.2.5-r0"),)
    assert read_databases({RPM: rpm(header, with_epoch)}) == (
        Package("rpm", "bash", "5.2-3.el9"),
        Package("rpm", "shadow", "2:4.9-1"),
    )
    assert read_databases({"etc/passwd": b"root"}) is None


def test_a_removed_package_is_not_installed() -> None:
    """A package of dpkg that was removed and left its settings is not installed."""
    status = dpkg(bash="5.2") + b"\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n"

    assert read_databases({DPKG: status}) == (Package("deb", "bash", "5.2"),)


@pytest.mark.parametrize("path", ["var/lib/rpm/Packages", "usr/lib/sysimage/rpm/Packages.db"])
def test_an_older_rpm_database_is_reported(path: str) -> None:
    """rpm's older databases are not read, and not taken for an image without packages, also beside another database."""
    with pytest.raises(PackagesUnreadable, match="is not read"):
        read_databases({path: b"\0" * 4096, DPKG: dpkg(bash="5.2")})


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"SQLite format 3\0" + b"\xff" * 2000,
        rpm(b""),
        rpm(b"\xff" * 100),
        rpm(rpm_header(name="bash", version="1")[:-3]),
        rpm(rpm_header(name="bash", version="1"))[:3000],
        rpm(schema="CREATE TABLE Other (blob BLOB)").replace(b"Other", b"Package"),
    ],
)
def test_a_damaged_rpm_database_is_reported(raw: bytes) -> None:
    """A damaged database of rpm is an error, and not a shorter list."""
    with pytest.raises(PackagesUnreadable):
        read_databases({RPM: raw})


def test_a_hostile_rpm_database_ends() -> None:
    """A view that would run forever in place of the table is refused."""
    endless = "CREATE VIEW Packages AS WITH RECURSIVE n(blob) AS (SELECT 1 UNION ALL SELECT blob + 1 FROM n) SELECT blob FROM n"

    with pytest.raises(PackagesUnreadable, match="no table of packages"):
        read_databases({RPM: rpm(schema=endless)})


@pytest.mark.parametrize("kind", ["VIRTUAL", "STORED"])
def test_a_generated_column_is_no_header(kind: str) -> None:
    """A column that is computed in place of stored headers is refused: each row could cost any time."""
    computed = f"blob BLOB GENERATED ALWAYS AS (CAST(replace(hex(zeroblob(1000000)), '0', 'ab') AS BLOB)) {kind}"
    schema = f"CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, {computed})"

    with pytest.raises(PackagesUnreadable, match="generated"):
        read_databases({RPM: rpm(schema=schema)})


def test_rows_that_share_their_bytes_are_refused() -> None:
    """A database whose rows have the same overflow pages is refused, since a small one could have any number of bytes."""
    with pytest.raises(PackagesUnreadable, match="more bytes than the whole database"):
        read_databases({RPM: sharing_rows(100)})


def test_the_first_text_of_a_header_counts_once() -> None:
    """A header whose many entries share one long text is read at once, and the text is cut."""
    data, entries = b"a" * 4_000_000 + b"\0", 200_000
    header = struct.pack(">II", entries, len(data)) + struct.pack(">IIII", 1000, 6, 0, 1) * entries + data

    assert read_databases({RPM: rpm(header)}) == (Package("rpm", "a" * 300, "unknown"),)


@pytest.mark.parametrize("path", [DPKG, APK])
def test_a_database_of_empty_paragraphs_takes_no_memory(path: str) -> None:
    """A database of a million paragraphs without a package is read without an object for each."""
    raw = b"x\n\n" * 1_000_000
    tracemalloc.start()
    found = read_databases({path: raw})
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert found == ()
    assert peak_bytes < 1_000_000


@given(st.sampled_from([DPKG, APK, RPM, f"{DPKG}.d/x"]), st.binary(max_size=300))
def test_any_bytes_are_a_list_or_an_error(path: str, raw: bytes) -> None:
    """Any bytes in place of a database give a list or an error, and no other exception."""
    try:
        found = read_databases({path: raw})
    except PackagesUnreadable:
        return

    assert found is not None


def test_databases_are_found_by_their_path() -> None:
    """A database is one by its whole path, and not a checksum file or a file elsewhere."""
    assert all(map(is_database, (DPKG, f"{DPKG}.d/base", APK, RPM, "var/lib/rpm/Packages")))
    assert not any(
        map(is_database, ("x/" + DPKG, f"{DPKG}.d/base.md5sums", f"{DPKG}.d/a/b", "var/lib/dpkg/status-old"))
    )
