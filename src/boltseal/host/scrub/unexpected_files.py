"""Checks what has no entry in a layer's tar: its root folder, whiteouts, opaque marks, and unexpected files."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from typing import Final

from boltseal.engines.privileges import sees_marks
from boltseal.engines.safe_open import SafeFolder, StoreMalformed, StoreMissing, StoreUnreadable, TooManyNames
from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.findings import Findings
from boltseal.host.scrub.implied_folders import ImpliedFolderCheck
from boltseal.host.scrub.inodes import Inodes, describe_file, is_whiteout
from boltseal.host.scrub.ownership import Ownership
from boltseal.host.scrub.tar_header import Header
from boltseal.host.scrub.unpacking_rules import UnpackingRules

_A_WHITEOUT: Final = "a whiteout, which hides the file of a lower layer"


class UnexpectedFiles:
    """Checks one layer's folder after its last entry, and adds to `findings`."""

    def __init__(
        self,
        tree: SafeFolder,
        inodes: Inodes,
        ownership: Ownership,
        findings: Findings,
        implied: ImpliedFolderCheck,
        rules: UnpackingRules,
    ) -> None:
        self._tree = tree
        self._implied = implied
        self._rules = rules
        self._inodes = inodes
        self._ownership = ownership
        self._findings = findings

    def root(self, header: Header | None = None) -> bool:
        """Check the layer's own folder: not writable by all users, owned by root, without attributes.

        `header`: the entry that sets its owner and mode, if there is one. Returns whether this process can see overlayfs
        marks at all.
        """
        attributes = self._inodes.attributes
        try:
            found = self._tree.stat(b"")
            at = self._tree.folder(b"")
            differing = attributes.differences(b"", {} if header is None else header.xattrs, found, at)
            is_of_below = self._implied.has_root_of_below(found)  # which the check of that layer compares
        except (StoreUnreadable, StoreMissing, StoreMalformed) as error:
            self._findings.not_read(error.message)
            return False
        seen = sees_marks(found.st_uid)
        if not seen:
            self._findings.not_read(
                "overlayfs marks (trusted.overlay.*) are not visible to this process; CAP_SYS_ADMIN is needed"
            )
        owner = self._ownership.users.outside(0), self._ownership.groups.outside(0)
        applied = owner if header is None else self._inodes.owner(header.traits.owner)
        if (found.st_uid, found.st_gid) not in (owner, applied) and not is_of_below:
            self._of_root(DifferenceKind.OWNER, f"{owner[0]}:{owner[1]}", f"{found.st_uid}:{found.st_gid}")
        mode, modes = stat.S_IMODE(found.st_mode), self._implied.root_modes
        is_of_entry = is_of_below or (header is not None and mode == header.mode & 0o7777)
        if not is_of_entry and (
            (mode & 0o002 and not mode & stat.S_ISVTX) or (modes and mode & ~stat.S_ISGID not in modes)
        ):
            expected = "a root folder that all users may read, and only root may change"
            self._of_root(DifferenceKind.MODE, expected, f"{mode:04o}")
        for kind, wanted, got in differing:
            self._findings.add(kind, b"", wanted, got)
        return seen

    def _of_root(self, kind: DifferenceKind, expected: str, got: str) -> None:
        """Report the owner or the mode of the layer's own folder; a build may have set it, and no tar of Docker has it."""
        if self._rules.built:
            self._findings.not_read(
                f"the root folder of layer {self._findings.layer} has the {kind} {got}, which a build step can set and its tar does "
                "not have: nothing outside of the store confirms it"
            )
        else:
            self._findings.add(kind, b"", expected, got)

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
        self, folder: bytes, left: Mapping[bytes, bool] | None, inherited: Mapping[bytes, bytes] | None
    ) -> None:
        """Report the unexpected files in a folder. `left`: its names without an entry, None if it was not listed yet.

        `inherited`: what a folder without an entry gets from the one above; None for a folder with an entry.
        """
        try:
            if inherited is not None and not self._implied.check(
                folder, inherited, self._findings, self._inodes.attributes
            ):
                return
            left = self._tree.listed(folder) if left is None else left
        except StoreMissing:
            if inherited is not None:
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
