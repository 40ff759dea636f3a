"""Read package databases of an image: dpkg, apk, and rpm's SQLite database. Pure.

var/lib/dpkg/status                   dpkg; var/lib/dpkg/status.d/* of distroless images: one file for each package
lib/apk/db/installed                  apk; usr/lib/apk/db/installed of newer ones
var/lib/rpm/rpmdb.sqlite              rpm; usr/lib/sysimage/rpm/rpmdb.sqlite of newer ones
var/lib/rpm/Packages, Packages.db     rpm's older formats (Berkeley DB, ndb): not read, and reported so
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from boltseal.transfer.packages.package_list import Package, PackagesUnreadable, checked
from boltseal.transfer.packages.rpm_database import read_rpm_database

MAX_DATABASE_BYTES: Final = 256 * 1024 * 1024
_DPKG: Final = "var/lib/dpkg/status"
_DPKG_FOLDER: Final = "var/lib/dpkg/status.d/"
_APK: Final = frozenset({"lib/apk/db/installed", "usr/lib/apk/db/installed"})
_RPM: Final = frozenset({"var/lib/rpm/rpmdb.sqlite", "usr/lib/sysimage/rpm/rpmdb.sqlite"})
_RPM_OLD: Final = frozenset(
    f"{folder}/{name}" for folder in ("var/lib/rpm", "usr/lib/sysimage/rpm") for name in ("Packages", "Packages.db")
)
_is_field = re.compile(r"([A-Za-z-]{1,40}):[ \t]?(.*)").fullmatch


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
    found: list[Package] = []
    for path, raw in sorted(databases.items()):
        if path in _RPM_OLD:
            raise PackagesUnreadable(f"/{path} is of an older rpm (Berkeley DB or ndb), which is not read")
        if path in _APK:
            found += _apk(raw)
        elif path in _RPM:
            found += read_rpm_database(path, raw)
        else:
            found += _dpkg(raw)
    return checked(found)


def _dpkg(raw: bytes) -> Iterator[Package]:
    """Yield the installed packages of a dpkg status file; a file of status.d has no Status field."""
    for paragraph in re.split(rb"\n[ \t]*\n", raw):
        fields: dict[str, str] = {}
        for line in paragraph.decode("utf-8", "replace").split("\n"):
            found = _is_field(line)
            if found is not None:
                fields.setdefault(found[1].lower(), found[2].strip())
        if "package" in fields and fields.get("status", "install ok installed").endswith(" installed"):
            yield Package("deb", fields["package"], fields.get("version", ""))


def _apk(raw: bytes) -> Iterator[Package]:
    """Yield the packages of apk's installed file: `P:` is the name, `V:` the version."""
    for paragraph in re.split(rb"\n[ \t]*\n", raw):
        fields: dict[str, str] = {}
        for line in paragraph.decode("utf-8", "replace").split("\n"):
            if line[1:2] == ":":
                fields.setdefault(line[0], line[2:].strip())
        if "P" in fields:
            yield Package("apk", fields["P"], fields.get("V", ""))
