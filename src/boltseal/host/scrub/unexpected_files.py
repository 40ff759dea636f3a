"""Checks what has no entry in a layer's tar: its root folder, whiteouts, opaque marks, and unexpected files."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from typing import Final

from boltseal.engines.privileges import sees_marks
from boltseal.engines.safe_open import SafeFolder, StoreMalformed, StoreMissing, StoreUnreadable, TooManyNames
from boltseal.host.scrub.attributes import IGNORED, OPAQUE_MARKS, OVERLAYFS_PREFIXES, describe_value
from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.findings import Findings
from boltseal.host.scrub.inodes import Inodes, describe_file, is_whiteout
from boltseal.host.scrub.ownership import Ownership
from boltseal.host.scrub.tar_header import IMPLIED_FOLDER, Header

_A_WHITEOUT: Final = "a whiteout, which hides the file of a lower layer"


class UnexpectedFiles:
    """Checks one layer's folder after its last entry, and adds to `findings`."""

    def __init__(self, tree: SafeFolder, inodes: Inodes, ownership: Ownership, findings: Findings) -> None:
        self._tree = tree
        self._inodes = inodes
        self._ownership = ownership
        self._findings = findings

    def root(self, header: Header | None = None) -> bool:
        """Check the layer's own folder: not writable by all users, owned by root, without marks.

        `header`: the entry that sets its owner and mode, if there is one. Returns whether this process can see overlayfs
        marks at all.
        """
        attributes = self._inodes.attributes
        try:
            found = self._tree.stat(b"")
            at = self._tree.folder(b"")
            names = attributes.names(b"", at)
        except StoreUnreadable as error:
            self._findings.not_read(error.message)
            return False
        seen = sees_marks(found.st_uid)
        if not seen:
            self._findings.not_read(
                "overlayfs marks (trusted.overlay.*) are not visible to this process; CAP_SYS_ADMIN is needed"
            )
        owner = self._ownership.users.outside(0)
        if found.st_uid not in (owner, self._inodes.owner(header.traits.owner)[0] if header is not None else owner):
            self._findings.add(DifferenceKind.OWNER, b"", f"{owner}", f"{found.st_uid}")
        mode = stat.S_IMODE(found.st_mode)
        if mode & 0o002 and not mode & stat.S_ISVTX and (header is None or mode != header.mode & 0o7777):
            expected, got = "a root folder that is not world-writable", f"{mode:04o}"
            self._findings.add(DifferenceKind.MODE, b"", expected, got)
        for name in names:
            if name in OPAQUE_MARKS:
                attributes.opaque.add(b"")
            elif name.startswith(OVERLAYFS_PREFIXES) and name not in IGNORED:
                got = describe_value(attributes.value(b"", at, name))
                self._findings.add(DifferenceKind.XATTR, b"", f"{name}=none", f"{name}={got}")
        return seen

    def whiteouts(self, folder: bytes, hidden: Iterable[bytes], left: dict[bytes, bool], *, written: bool) -> None:
        """Check the whiteouts of the tar in a folder, and remove their names from `left`, the names without an entry.

        `written`: whether the engine must have written them.
        """
        for name in hidden:
            path = folder + b"/" + name if folder else name
            on_list = left.pop(name, None) is not None
            try:
                found = self._tree.stat(path)
            except StoreMissing:
                if written and not self._findings.has(path, DifferenceKind.MISSING):
                    self._findings.add(DifferenceKind.WHITEOUT, path, _A_WHITEOUT, "nothing")
                continue
            except (StoreMalformed, StoreUnreadable) as error:
                self._findings.not_read(error.message)
                continue
            if on_list and not is_whiteout(
                found
            ):  # else an entry of this layer has the name, and the whiteout refers to lower layers
                self._findings.add(DifferenceKind.WHITEOUT, path, _A_WHITEOUT, describe_file(found))

    def missing_marks(self, folders: Iterable[bytes]) -> None:
        """Report folders that should have an opaque mark and have none."""
        for path in sorted(folders):
            if not self._findings.has(path, DifferenceKind.MISSING, DifferenceKind.TYPE):
                self._findings.add(
                    DifferenceKind.OPAQUE, path, "an opaque mark, which hides all of lower layers", "none"
                )

    def report_unexpected(
        self, folder: bytes, left: Mapping[bytes, bool] | None, implied: Mapping[bytes, bytes] | None
    ) -> None:
        """Report the unexpected files in a folder. `left`: its names without an entry, None if it was not listed yet.

        `implied`: the attributes of a folder without an entry, None for one with an entry.
        """
        try:
            if implied is not None:
                found = self._tree.stat(folder)
                if not stat.S_ISDIR(found.st_mode):
                    self._findings.add(DifferenceKind.TYPE, folder, "folder", describe_file(found))
                    return
                self._inodes.check_implied_folder(folder, IMPLIED_FOLDER._replace(xattrs=dict(implied)), found)
            left = self._tree.listed(folder) if left is None else left
        except StoreMissing:
            if implied is not None:
                self._findings.add(DifferenceKind.MISSING, folder, "folder", "nothing")
            return
        except TooManyNames as error:
            self._findings.not_read(f"unexpected files in a folder can't be found: {error.message}")
            return
        except StoreMalformed:
            return  # already reported for its own entry
        except StoreUnreadable as error:
            self._findings.not_read(error.message)
            return
        for name in sorted(left):
            self._extra(folder + b"/" + name if folder else name)

    def _extra(self, path: bytes) -> None:
        try:
            found = self._tree.stat(path)
        except (StoreMissing, StoreMalformed, StoreUnreadable) as error:
            self._findings.not_read(error.message)
            return
        self._findings.add(
            DifferenceKind.WHITEOUT if is_whiteout(found) else DifferenceKind.EXTRA,
            path,
            "nothing",
            describe_file(found),
        )
