"""Read package databases of an image: dpkg, apk, and rpm's SQLite database. Pure.

var/lib/dpkg/status                   dpkg; var/lib/dpkg/status.d/* of distroless images: one file for each package
lib/apk/db/installed                  apk; usr/lib/apk/db/installed of newer ones
var/lib/rpm/rpmdb.sqlite              rpm; usr/lib/sysimage/rpm/rpmdb.sqlite of newer ones
var/lib/rpm/Packages, Packages.db     rpm's older formats (Berkeley DB, ndb): not read, and reported so
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from boltseal.transfer.packages.package_list import MAX_TEXT, Package, PackagesUnreadable, checked
from boltseal.transfer.packages.rpm_database import read_rpm_database

MAX_DATABASE_BYTES: Final = 128 * 1024 * 1024
_DPKG: Final = "var/lib/dpkg/status"
_DPKG_FOLDER: Final = "var/lib/dpkg/status.d/"
_APK: Final = frozenset({"lib/apk/db/installed", "usr/lib/apk/db/installed"})
_RPM: Final = frozenset({"var/lib/rpm/rpmdb.sqlite", "usr/lib/sysimage/rpm/rpmdb.sqlite"})
_RPM_OLD: Final = frozenset(
    f"{folder}/{name}" for folder in ("var/lib/rpm", "usr/lib/sysimage/rpm") for name in ("Packages", "Packages.db")
)
_DPKG_FIELDS: Final = frozenset({b"package", b"status", b"version"})


def is_database(path: str) -> bool:
    """Return whether a path in an image is that of a package database. `path`: without a leading slash."""
    in_folder = path.startswith(_DPKG_FOLDER) and not path.endswith(".md5sums") and path.count("/") == 4
    return path == _DPKG or in_folder or path in _APK or path in _RPM or path in _RPM_OLD


def read_databases(files: Mapping[str, bytes]) -> tuple[Package, ...] | None:
    """Return the packages of all databases; None if there is no database. `files`: contents by path.

    Raises: PackagesUnreadable: one can't be read, so that the list would not be complete.
    """
    databases = {path: raw for path, raw in files.items() if is_database(path)}
    if not databases:
        return None
    return checked(package for path, raw in sorted(databases.items()) for package in _packages(path, raw))


def _packages(path: str, raw: bytes) -> Iterator[Package]:
    if path in _RPM_OLD:
        raise PackagesUnreadable(f"/{path} is of an older rpm (Berkeley DB or ndb), which is not read")
    if path in _APK:
        yield from _apk(raw)
    elif path in _RPM:
        yield from read_rpm_database(path, raw)
    else:
        yield from _dpkg(raw)


def _dpkg(raw: bytes) -> Iterator[Package]:
    """Yield the installed packages of a dpkg status file; a file of status.d has no Status field."""
    for fields in _paragraphs(raw, _dpkg_field):
        if "package" in fields and fields.get("status", "install ok installed").endswith(" installed"):
            yield Package("deb", fields["package"], fields.get("version", ""))


def _apk(raw: bytes) -> Iterator[Package]:
    """Yield the packages of apk's installed file: `P:` is the name, `V:` the version."""
    for fields in _paragraphs(raw, _apk_field):
        if "P" in fields:
            yield Package("apk", fields["P"], fields.get("V", ""))


def _paragraphs(raw: bytes, field_of: Callable[[bytes], tuple[bytes, bytes] | None]) -> Iterator[Mapping[str, str]]:
    """Yield the fields of each paragraph, the first of each name, and not the whole file at a time in small objects."""
    fields: dict[str, str] = {}
    for line in io.BytesIO(raw):
        if not line.strip(b" \t\n"):
            yield fields
            fields = {}
        elif (found := field_of(line)) is not None:
            fields.setdefault(found[0].decode(), found[1][: 4 * MAX_TEXT].decode("utf-8", "replace").strip())
    yield fields


def _dpkg_field(line: bytes) -> tuple[bytes, bytes] | None:
    name, colon, value = line.partition(b":")
    return (name.lower(), value) if colon and name.lower() in _DPKG_FIELDS else None


def _apk_field(line: bytes) -> tuple[bytes, bytes] | None:
    return (line[:1], line[2:]) if line.startswith((b"P:", b"V:")) else None
