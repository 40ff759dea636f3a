"""Checks the folders that a layer's tar implies, which have no entry: owner, mode and attributes are chosen by the engine.

    Docker              root, 0755
    Podman, Skopeo      root, 0777 less the umask of the process; Podman and Buildah set that to 022
    containerd          as the same folder of the nearest lower layer that has the path, with its attributes except
                        trusted.*; if none has it, or it is no folder there: root, 0755

In a folder with the set-group-id bit the kernel gives a new folder that bit and the group (`set_group_id`). Docker and Podman
then set the owner, and the bit stays; containerd then sets the mode, and the group stays. Podman with the driver vfs sets neither.

overlayfs shows containers the owner and mode of the topmost folder. So a folder that only `etc/app.conf` implies decides who
may write to the image's whole /etc.

containerd follows symbolic links of a lower layer within that layer when it looks for the folder.
(Sources: moby go-archive createImpliedDirectories, containers/storage pkg/archive, containerd pkg/archive mkparent.)
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from boltseal.engines.linked_folders import open_store
from boltseal.engines.safe_open import SafeFolder, StoreMalformed, StoreMissing, StoreUnreadable
from boltseal.host.scrub.attributes import IGNORED, Attributes
from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.entry_attributes import DEFAULT_LIST, mode_of_list
from boltseal.host.scrub.findings import Findings
from boltseal.host.scrub.inodes import describe_file
from boltseal.host.scrub.merged_layers import OPEN_IN_ALL
from boltseal.host.scrub.ownership import Ownership
from boltseal.host.scrub.set_group_id import SetGroupIds

MODE: Final = 0o755
MAX_LINKS: Final = 255
"""containerd's limit for symbolic links on a path."""
_TRUSTED: Final = "trusted."


@dataclass(frozen=True, slots=True)
class ImpliedFolders:
    """How an engine creates folders without an entry.

    `by_umask`: with any umask of the process that does not let all users write. `below`: the folders of the lower layers whose
    owner, mode and attributes it copies, the topmost first. `keeps_bit`, `keeps_group`: the set-group-id bit and the group that
    the kernel gives a folder in one with that bit. `root_modes`: the modes of a layer's own
    folder, if the engine shows containers that mode as the mode of `/`. `root_from`: the folder of the layer below, whose own
    mode and owner it copies to the layer's.
    """

    by_umask: bool = False
    below: tuple[bytes, ...] = ()
    keeps_bit: bool = True
    keeps_group: bool = False
    root_modes: frozenset[int] = frozenset()
    root_from: bytes | None = None


class _Expected(NamedTuple):
    """What a folder must have. `attributes`: those it may have, as not all versions of containerd copy them.

    `optional_bits`, `optional_groups`: what it may have as well, from the layer's own folder.
    """

    mode: int
    user: int | None
    group: int | None
    attributes: Mapping[str, bytes]
    optional_bits: int = 0
    optional_groups: frozenset[int] = frozenset()


class ImpliedFolderCheck:
    """Checks the folders without an entry of one layer. Use it as a context: it opens lower layers when they are needed."""

    def __init__(self, root: Path, rule: ImpliedFolders, tree: SafeFolder, ownership: Ownership) -> None:
        self._root = root
        self._rule = rule
        self._tree = tree
        self._ownership = ownership
        self._opened = ExitStack()
        self._below: list[SafeFolder] | None = None
        self._unopened = ""
        self.set_group_ids = SetGroupIds(rule.keeps_bit, rule.keeps_group, ownership.groups.outside(0))

    @property
    def root_modes(self) -> frozenset[int]:
        """The modes that a layer's own folder may have, apart from the set-group-id bit; none if containers do not see them."""
        return self._rule.root_modes

    def has_root_of_below(self, found: os.stat_result) -> bool:
        """Return whether a layer's own folder has mode and owner of the layer below, from which the engine copies them.

        Raises: StoreMissing, StoreUnreadable, StoreMalformed.
        """
        if self._rule.root_from is None:
            return False
        with open_store(self._root) as store, store.below(self._rule.root_from) as tree:
            below = tree.stat(b"")
        return (found.st_mode, found.st_uid, found.st_gid) == (below.st_mode, below.st_uid, below.st_gid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def check(self, path: bytes, inherited: Mapping[bytes, bytes], findings: Findings, attributes: Attributes) -> bool:
        """Report what differs at one folder, and return whether it is a folder.

        `inherited`: the attributes that the kernel gives a new folder there.

        Raises: StoreMissing, StoreUnreadable, StoreMalformed.
        """
        found = self._tree.stat(path)
        if not stat.S_ISDIR(found.st_mode):
            findings.add(DifferenceKind.TYPE, path, "folder", describe_file(found))
            return False
        expected = self._expected(path)
        mode = stat.S_IMODE(found.st_mode)
        without = mode & ~expected.optional_bits
        created = {expected.mode}
        if DEFAULT_LIST not in expected.attributes:  # else that list is a copy, made after the mode
            created.add(expected.mode & ~0o777 | expected.mode & _rights_of(inherited))
        special = expected.mode & 0o7000
        if without not in created and not (self._rule.by_umask and _is_by_umask(without, special)):
            findings.add(DifferenceKind.MODE, path, f"{expected.mode:04o}", f"{mode:04o}")
        if expected.user is None or expected.group is None:
            pass  # root has no ID in this store's map
        elif found.st_uid != expected.user or found.st_gid not in {expected.group, *expected.optional_groups}:
            wanted = f"{expected.user}:{expected.group}"
            findings.add(DifferenceKind.OWNER, path, wanted, f"{found.st_uid}:{found.st_gid}")
        at = self._tree.folder(path)
        copied = {**inherited, **self._present(path, at, expected.attributes, attributes)}
        for kind, wanted, got in attributes.differences(path, copied, found, at):
            findings.add(kind, path, wanted, got)
        return True

    def make(self, path: bytes, existing: os.stat_result | None, attributes: Attributes) -> dict[bytes, bytes]:
        """Record that the tar implies a folder, in the tar's order, and return the attributes that the engine copied to it.

        `existing`: the folder that is there already, in a copy of the layer below; None for none. Entries in the folder may inherit
        the attributes. A folder that can't be read has none: `check` reports it.
        """
        copied: dict[bytes, bytes] = {}
        try:
            if existing is None and (below := self._copied_from(path)) is not None:
                lower, at = below
                existing = lower.stat(at)
                copied = self._present(path, self._tree.folder(path), _attributes(lower, at), attributes)
        except (StoreMissing, StoreUnreadable, StoreMalformed):
            pass
        if existing is None:
            self.set_group_ids.made(path)
        else:
            self.set_group_ids.is_now(path, existing.st_mode, existing.st_gid)
        return copied

    @staticmethod
    def _present(path: bytes, at: int, expected: Mapping[str, bytes], attributes: Attributes) -> dict[bytes, bytes]:
        """Return those expected attributes that the folder has: not all versions of the engine copy them."""
        if not expected:
            return {}
        names = attributes.names(path, at)
        return {os.fsencode(name): expected[name] for name in names if name in expected}

    def _expected(self, path: bytes) -> _Expected:
        below = self._copied_from(path)
        if below is not None:
            lower, at = below
            found = lower.stat(at)
            return _Expected(stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, _attributes(lower, at))
        expected = _Expected(MODE, self._ownership.users.outside(0), self._ownership.groups.outside(0), {})
        given = self.set_group_ids.given(path)
        if given is not None:
            mode = MODE | (stat.S_ISGID if self._rule.keeps_bit else 0)
            return expected._replace(mode=mode, group=given if self._rule.keeps_group else expected.group)
        if b"/" in path:
            return expected
        root = self._tree.stat(b"")  # an entry or the store's own folder may have given it the bit, at some time
        has_bit = bool(root.st_mode & stat.S_ISGID)
        return expected._replace(
            optional_bits=stat.S_ISGID if has_bit and self._rule.keeps_bit else 0,
            optional_groups=frozenset({root.st_gid}) if has_bit and self._rule.keeps_group else frozenset(),
        )

    def _copied_from(self, path: bytes) -> tuple[SafeFolder, bytes] | None:
        """Return where the nearest lower layer that has the path has a folder there, None if none has or it is no folder.

        Raises: StoreUnreadable.
        """
        for lower in self._lower_layers():
            try:
                at = _resolved(lower, path)
                found = lower.stat(at)
            except StoreMissing:
                continue
            except StoreMalformed:
                return None  # a file of the lower layer is in the way, and this layer replaces it
            return (lower, at) if stat.S_ISDIR(found.st_mode) else None
        return None

    def _lower_layers(self) -> list[SafeFolder]:
        if self._unopened:
            raise StoreUnreadable(self._unopened)
        if self._below is None:
            self._below = []
            try:
                if self._rule.below:
                    store = self._opened.enter_context(open_store(self._root))
                    self._below += [self._opened.enter_context(store.below(folder)) for folder in self._rule.below]
            except (StoreMissing, StoreMalformed, StoreUnreadable) as error:  # reported for the lower layer itself
                self._unopened = f"owner and mode of folders without an entry: {error.message}"
                raise StoreUnreadable(self._unopened) from error
            for tree in self._below:
                tree.open_folders = max(OPEN_IN_ALL // len(self._below), 2)
        return self._below


def _rights_of(inherited: Mapping[bytes, bytes]) -> int:
    """Return the rights that the default access control list of the folder above lets a new folder have, all without one."""
    default = inherited.get(DEFAULT_LIST.encode())
    return 0o777 if default is None else mode_of_list(default)


def _is_by_umask(mode: int, special: int) -> bool:
    """Return whether a mode is 0777 less a umask that keeps the owner's rights and does not let all users write.

    `special`: the bits that it must have beside these.
    """
    return mode & 0o7702 == 0o700 | special


def _resolved(tree: SafeFolder, path: bytes) -> bytes:
    """Return a path of a layer without symbolic links, which are followed within the layer; names may not exist."""
    left = deque(path.split(b"/"))
    at: list[bytes] = []
    links = 0
    while left:
        name = left.popleft()
        if name in (b"", b"."):
            continue
        if name == b"..":
            del at[-1:]
            continue
        here = b"/".join((*at, name))
        try:
            is_link = stat.S_ISLNK(tree.stat(here).st_mode)
        except (StoreMissing, StoreMalformed):
            is_link = False
        if not is_link:
            at.append(name)
            continue
        links += 1
        if links > MAX_LINKS:
            raise StoreMalformed(f"{tree.shown(path)} has more than {MAX_LINKS} symbolic links")
        target = tree.link(here)
        left.extendleft(reversed(target.split(b"/")))
        if target.startswith(b"/"):
            at.clear()
    return b"/".join(at)


def _attributes(tree: SafeFolder, path: bytes) -> dict[str, bytes]:
    """Return the attributes of a folder that containerd copies."""
    attributes, at = Attributes(tree), tree.folder(path)
    names = [name for name in attributes.names(path, at) if not name.startswith(_TRUSTED) and name not in IGNORED]
    return {name: attributes.value(path, at, name) for name in names}
