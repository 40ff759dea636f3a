"""What no entry of a layer's tar names: its root, its whiteouts and opaque marks, and all that is too much."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from typing import Final

from boltseal.engines.privileges import sees_marks
from boltseal.engines.safe_open import SafeFolder, StoreMalformed, StoreMissing, StoreUnreadable, TooManyNames
from boltseal.host.scrub.attributes import OF_OVERLAYFS, OPAQUE_MARKS, PASSED_OVER, describe_value
from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.findings import Findings
from boltseal.host.scrub.inodes import Inodes, describe_file, is_whiteout
from boltseal.host.scrub.ownership import Ownership
from boltseal.host.scrub.tar_header import IMPLIED_FOLDER

_HIDES: Final = "a whiteout, which hides the file of a lower layer"


class UnexpectedFiles:
    """Looks at one layer's folder after its last entry; what it finds goes to `findings`."""

    def __init__(self, tree: SafeFolder, inodes: Inodes, ownership: Ownership, findings: Findings) -> None:
        self._tree = tree
        self._inodes = inodes
        self._ownership = ownership
        self._findings = findings

    def root(self) -> bool:
        """The layer's own folder has no header. But nobody but its owner may write there, and it carries no mark.

        Whether marks of overlayfs show themselves to this process at all.
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
                "marks of overlayfs (trusted.overlay.*) are not shown to this process; it takes CAP_SYS_ADMIN"
            )
        owner = self._ownership.users.outside(0)
        if found.st_uid != owner:
            self._findings.add(DifferenceKind.OWNER, b"", f"{owner}", f"{found.st_uid}")
        if stat.S_IMODE(found.st_mode) & 0o002 and not found.st_mode & stat.S_ISVTX:
            expected, got = "a root folder that not everybody may write to", f"{stat.S_IMODE(found.st_mode):04o}"
            self._findings.add(DifferenceKind.MODE, b"", expected, got)
        for name in names:
            if name in OPAQUE_MARKS:
                attributes.opaque.add(b"")
            elif name.startswith(OF_OVERLAYFS) and name not in PASSED_OVER:
                got = describe_value(attributes.value(b"", at, name))
                self._findings.add(DifferenceKind.XATTR, b"", f"{name}=none", f"{name}={got}")
        return seen

    def whiteouts(self, folder: bytes, hidden: Iterable[bytes], left: dict[bytes, bool]) -> None:
        """What whiteouts of the tar hide must be hidden. Takes them off the list of what is left in the folder."""
        for name in hidden:
            path = folder + b"/" + name if folder else name
            on_list = left.pop(name, None) is not None
            try:
                found = self._tree.stat(path)
            except StoreMissing:
                if not self._findings.has(path, DifferenceKind.MISSING):
                    self._findings.add(DifferenceKind.WHITEOUT, path, _HIDES, "nothing")
                continue
            except (StoreMalformed, StoreUnreadable) as error:
                self._findings.not_read(error.message)
                continue
            if on_list and not is_whiteout(found):  # what is off the list is an entry's, and means lower layers
                self._findings.add(DifferenceKind.WHITEOUT, path, _HIDES, describe_file(found))

    def missing_marks(self, folders: Iterable[bytes]) -> None:
        """Folders that should have an opaque mark and have none."""
        for path in sorted(folders):
            if not self._findings.has(path, DifferenceKind.MISSING, DifferenceKind.TYPE):
                self._findings.add(
                    DifferenceKind.OPAQUE, path, "an opaque mark, which hides all of lower layers", "none"
                )

    def too_much(self, folder: bytes, left: Mapping[bytes, bool] | None, *, implied: bool) -> None:
        """What no entry has named in a folder. `left`: what was listed before, None if nothing was."""
        try:
            if implied:
                found = self._tree.stat(folder)
                if not stat.S_ISDIR(found.st_mode):
                    self._findings.add(DifferenceKind.TYPE, folder, "folder", describe_file(found))
                    return
                self._inodes.of_a_folder_without_an_entry(folder, IMPLIED_FOLDER, found)
            left = self._tree.listed(folder) if left is None else left
        except StoreMissing:
            if implied:
                self._findings.add(DifferenceKind.MISSING, folder, "folder", "nothing")
            return
        except TooManyNames as error:
            self._findings.not_read(f"what is too much in a folder: {error.message}")
            return
        except StoreMalformed:
            return  # its own entry has said so
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
