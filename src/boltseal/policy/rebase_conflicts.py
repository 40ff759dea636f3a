"""Whether the own layers of an image can stay as they are on another base. Pure.

The own layers were made on the old base. They may only be put on the new one if a build on it could have made the same:

    overwritten, deleted   they overwrite or hide no file of the base that differs between the two bases
    link                   no hard link names such a file
    folder                 they keep the old owner or mode of no folder that changed, and write into none that is gone
    packages               they do not change a package database that the base has changed as well
    distribution           the bases have the same distribution and major version
    libc                   each C library of the old base is in the new one, and is not older there

A file that both bases have equally may be overwritten. A doubt is a conflict.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from boltseal.errors import quote
from boltseal.oci.layer_tree import (
    ChangedPaths,
    ChangeKind,
    FileKind,
    FileState,
    LayerChange,
    LayerTree,
    ancestors,
    shown,
)

PACKAGE_DATABASES: Final = {
    "dpkg": (b"var/lib/dpkg",),
    "apk": (b"lib/apk/db", b"usr/lib/apk/db"),
    "rpm": (b"var/lib/rpm", b"usr/lib/sysimage/rpm", b"usr/share/rpm"),
}
"""The folders of package databases."""
_TWO_PARTS: Final = frozenset({"alpine", "ubuntu", "opensuse-leap", "photon"})
"""Distributions whose releases have two numbers, such as 3.18 and 22.04; of others the first one counts."""
_line: Final = re.compile(r"""(ID|VERSION_ID)=(?:"([^"]*)"|'([^']*)'|(\S*))\s*""").fullmatch


class ConflictRule(StrEnum):
    """The rule that forbids a rebase."""

    OVERWRITTEN = "overwritten"
    DELETED = "deleted"
    LINK = "link"
    FOLDER = "folder"
    PACKAGES = "packages"
    DISTRIBUTION = "distribution"
    LIBC = "libc"


class Conflict(NamedTuple):
    """A reason why an image can't be rebased. `path`: the file in question, from the root; "" for none."""

    rule: ConflictRule
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Release:
    """A distribution and its version, from os-release; "" for what it does not say."""

    name: str
    version: str

    @property
    def major(self) -> tuple[str, ...]:
        """The parts of the version that packages depend on."""
        return tuple(self.version.split(".")[: 2 if self.name in _TWO_PARTS else 1])


class CLibrary(NamedTuple):
    """A C library of an image. `content`: a hash of its file. `version`: None if it can't be read from the file."""

    kind: str
    path: str
    content: bytes
    version: tuple[int, ...] | None


def layer_conflicts(old: LayerTree, new: LayerTree, changes: Iterable[LayerChange]) -> Iterator[Conflict]:
    """Yield the conflicts of the changes of an image's own layers with what changed between its old and new base."""
    changed = ChangedPaths(old, new)
    bases = _Bases(old, new, changed)
    checked: set[bytes] = set()
    databases: dict[str, bytes] = {}
    for change in changes:
        for above in ancestors(change.path):
            if above not in checked:
                checked.add(above)
                yield from bases.parent_conflict(above)
        database = _database_of(change)
        if database is not None and any(folder_changed(changed, at) for at in PACKAGE_DATABASES[database]):
            databases.setdefault(database, change.path)
            continue
        yield from bases.conflict(change)
    for database, path in databases.items():
        yield Conflict(
            ConflictRule.PACKAGES,
            shown(path),
            f"its own layers and the new base both changed the package database of {database}, and each would hide the "
            "other's packages",
        )


def folder_changed(changed: ChangedPaths, folder: bytes) -> bool:
    """Return whether anything inside of a folder changed."""
    return changed.first_below(folder) is not None


class _Bases(NamedTuple):
    """The two bases, and where they differ."""

    old: LayerTree
    new: LayerTree
    changed: ChangedPaths

    def parent_conflict(self, folder: bytes) -> Iterator[Conflict]:
        """Yield the conflict of a folder into which an own layer writes."""
        was, now = self.old.file(folder), self.new.file(folder)
        if now is not None and now.kind is not FileKind.FOLDER and was != now:
            reason = f"its own layers write into this folder, which is a {now.kind} in the new base"
            yield Conflict(ConflictRule.FOLDER, shown(folder), reason)
        elif now is None and was is not None:
            reason = "its own layers write into this folder of the old base, which the new base does not have"
            yield Conflict(ConflictRule.FOLDER, shown(folder), reason)

    def conflict(self, change: LayerChange) -> Iterator[Conflict]:
        """Yield the conflicts of one change."""
        path = change.path
        match change.kind:
            case ChangeKind.WRITE if change.file.kind is FileKind.FOLDER:
                yield from self._folder_conflict(path, change.file)
            case ChangeKind.WRITE:
                yield from self._hidden(path, change.file, ConflictRule.OVERWRITTEN, "overwrite")
            case ChangeKind.LINK:
                target = change.target
                if target in self.changed:
                    reason = f"a hard link of its own layers names {shown(target)}, which differs in the new base"
                    yield Conflict(ConflictRule.LINK, shown(path), reason)
                yield from self._hidden(path, None, ConflictRule.OVERWRITTEN, "overwrite")
            case ChangeKind.DELETE:
                yield from self._hidden(path, None, ConflictRule.DELETED, "delete")
            case _:  # CLEAR
                below = self.changed.first_below(path)
                if below is not None:
                    reason = f"its own layers empty the folder {shown(path)}, in which the new base changed this file"
                    yield Conflict(ConflictRule.DELETED, shown(below), reason)

    def _folder_conflict(self, path: bytes, own: FileState) -> Iterator[Conflict]:
        now = self.new.file(path)
        if path in self.changed and now != own:
            there = "lacks it" if now is None else f"has a {now.kind} of other attributes"
            reason = f"its own layers keep their owner, mode and attributes of this folder, and the new base {there}"
            yield Conflict(ConflictRule.FOLDER, shown(path), reason)

    def _hidden(self, path: bytes, own: FileState | None, rule: ConflictRule, verb: str) -> Iterator[Conflict]:
        """Yield the conflict of a change that hides what the base has at a path and below it."""
        if path in self.changed and (own is None or self.new.file(path) != own):
            was, now = self.old.file(path), self.new.file(path)
            differs = "added" if was is None else "removed" if now is None else "changed"
            yield Conflict(rule, shown(path), f"its own layers {verb} this file, which the new base has {differs}")
        elif (below := self.changed.first_below(path)) is not None:
            reason = f"its own layers {verb} {shown(path)}, in which the new base changed this file"
            yield Conflict(rule, shown(below), reason)


def _database_of(change: LayerChange) -> str | None:
    """Return the package database that a change is a part of; None for none, and for a folder that is only listed."""
    if change.kind is ChangeKind.WRITE and change.file.kind is FileKind.FOLDER:
        return None
    for database, folders in PACKAGE_DATABASES.items():
        if any(change.path == folder or change.path.startswith(folder + b"/") for folder in folders):
            return database
    return None


def parse_os_release(text: str) -> Release:
    """Parse an os-release file (freedesktop.org); what it does not say is ""."""
    found = {"ID": "", "VERSION_ID": ""}
    for line in text.splitlines():
        matched = _line(line)
        if matched is not None:
            found[matched[1]] = next((value for value in matched.groups()[1:] if value is not None), "")
    return Release(found["ID"], found["VERSION_ID"])


def release_conflict(old: Release | None, new: Release | None) -> Conflict | None:
    """Return the conflict of two distributions; None if there is none. A base without os-release has no distribution."""
    if old == new or (old is not None and new is not None and (old.name, old.major) == (new.name, new.major)):
        return None
    reason = f"the old base is {_release_text(old)}, and the new one is {_release_text(new)}"
    return Conflict(ConflictRule.DISTRIBUTION, "/etc/os-release", reason)


def _release_text(release: Release | None) -> str:
    if release is None:
        return "no known distribution (it has no os-release)"
    return quote(f"{release.name} {release.version}".strip() or "unnamed")[1:-1]


def library_conflicts(old: Sequence[CLibrary], new: Sequence[CLibrary]) -> Iterator[Conflict]:
    """Yield the conflicts of the C libraries of two bases. A newer one is compatible, an older or another kind is not."""
    for kind in sorted({library.kind for library in old}):
        was = [library for library in old if library.kind == kind]
        now = [library for library in new if library.kind == kind]
        path = was[0].path
        if not now:
            there = ", ".join(sorted({library.kind for library in new})) or "no C library"
            yield Conflict(ConflictRule.LIBC, path, f"the old base has {kind}, and the new one has {there}")
            continue
        if {library.content for library in was} == {library.content for library in now}:
            continue
        versions = [[library.version for library in some if library.version is not None] for some in (was, now)]
        if len(versions[0]) < len(was) or len(versions[1]) < len(now):
            yield Conflict(
                ConflictRule.LIBC, path, f"{kind} differs, and which of the two is newer can't be read from it"
            )
        elif max(versions[0]) > min(versions[1]):
            before, after = (".".join(map(str, each)) for each in (max(versions[0]), min(versions[1])))
            yield Conflict(
                ConflictRule.LIBC, path, f"the old base has {kind} {before}, and the new one an older {after}"
            )
