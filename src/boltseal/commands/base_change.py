"""What changed in a base, and how an image that is built on it has each changed part. No requests.

Of the two images of the base only what differs is kept in memory, besides the hashes of their files' contents. `policy.base_change_reach`
has the rules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from boltseal.commands.image_contents import NO_DATABASE, NO_SBOM, ImageContents, PackageList
from boltseal.oci.digest import Digest
from boltseal.oci.layer_tree import FileKind, FileState, ancestors, shown
from boltseal.oci.reference import Reference
from boltseal.policy.base_change_reach import (
    ChangedParts,
    ChangedSetting,
    CopyTraces,
    PartState,
    Reach,
    file_state,
    judge_reach,
    package_state,
    setting_state,
    setting_trace,
)
from boltseal.project.bases.changes import SettingChange
from boltseal.transfer.packages.package_list import PackageChange, compare_packages, versions_of

MAX_LISTED: Final = 1000
"""How many packages and files of an image are kept by name; all are counted."""
_Content = tuple[FileKind, bytes]
"""The kind of a file, and its content, as in `FileState`."""
_ORIGINS: Final = {
    "sbom": "SBOMs attached to the images",
    "layers": "package databases in the layers",
}


class BaseMove(NamedTuple):
    """A base of an image that was replaced: its reference, its image then and now, and the platform."""

    base: Reference
    was: Digest
    now: Digest
    platform: str


class PackageInImage(NamedTuple):
    """A changed package. `own`: its version in the image, "" for none."""

    change: PackageChange
    own: str
    state: PartState


class SettingInImage(NamedTuple):
    """A changed setting. `own`: its value in the image, "" for none."""

    change: SettingChange
    own: str
    state: PartState


@dataclass(frozen=True, slots=True)
class PartList:
    """Changed packages or files in an image. `counts`: all by their state. `reason`: why they could not be compared; "" if they were.

    `packages`: the first MAX_LISTED, those as before the change first. `former`: the first MAX_LISTED paths of files as before the change.
    `copies`: how many of all former files are copies under other paths. `origin`: what the packages were read from.
    """

    counts: Mapping[PartState, int] = field(default_factory=dict)
    reason: str = ""
    packages: tuple[PackageInImage, ...] = ()
    former: tuple[str, ...] = ()
    copies: int = 0
    origin: str = ""

    @property
    def total(self) -> int:
        """The number of all changed parts."""
        return sum(self.counts.values()) - self.copies


@dataclass(frozen=True, slots=True)
class ExplainedBase:
    """What changed in a moved base of an image, and whether that reaches the image. `move` None: the former base is unknown."""

    reach: Reach
    reason: str
    move: BaseMove | None = None
    settings: tuple[SettingInImage, ...] = ()
    packages: PartList = field(default_factory=PartList)
    files: PartList = field(default_factory=PartList)

    def as_json(self) -> dict[str, Any]:
        """Return it for programs; texts of images are as they are there."""
        move, packages, files = self.move, self.packages, self.files
        return {
            "base": None if move is None else str(move.base),
            "was": None if move is None else str(move.was),
            "now": None if move is None else str(move.now),
            "reach": str(self.reach),
            "reason": self.reason,
            "settings": [
                {"name": change.what, "was": change.was, "now": change.now, "image": own, "state": str(state)}
                for change, own, state in self.settings
            ],
            "packages": {
                **_list_json(packages),
                "from": packages.origin or None,
                "listed": [
                    {**change._asdict(), "image": own, "state": str(state)} for change, own, state in packages.packages
                ],
            },
            "files": {**_list_json(files), "copies": files.copies, "listed": list(files.former)},
        }


def _list_json(parts: PartList) -> dict[str, Any]:
    return {
        "changed": None if parts.reason else parts.total,
        "states": {str(state): number for state, number in parts.counts.items()},
        "reason": parts.reason or None,
    }


class ImageLayers(NamedTuple):
    """The contents of an image, and the digests of its uncompressed layers."""

    contents: ImageContents
    diff_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _PackageChanges:
    """The packages of the base that changed, by SBOMs or by package databases; None with a reason if a list is missing."""

    changes: tuple[PackageChange, ...] | None
    reason: str


class BaseChange:
    """What differs between two images of a base. `settings`: those that differ. `diff_ids`: of the former image."""

    def __init__(self, move: BaseMove, was: ImageLayers, now: ImageLayers, settings: tuple[SettingChange, ...]) -> None:
        self.move = move
        self.diff_ids = was.diff_ids
        self._settings = settings
        old, new = was.contents, now.contents
        self._packages = {origin: _package_changes(getattr(old, origin), getattr(new, origin)) for origin in _ORIGINS}
        self._no_packages = all((each.sbom.reason, each.layers.reason) == (NO_SBOM, NO_DATABASE) for each in (old, new))
        self._files_reason = old.files_reason or new.files_reason
        self._changed: dict[bytes, tuple[FileState | None, FileState | None]] = {}
        self._folder_of_new: dict[bytes, bytes] = {}
        self._folders: dict[bytes, bool] = {}
        self._copied: Counter[_Content] = Counter()
        self._only_former: frozenset[_Content] = frozenset()
        self._in_both: frozenset[_Content] = frozenset()
        if old.files is not None and new.files is not None:
            self._compare_files(old.files, new.files, old.folders, new.folders)

    def _compare_files(
        self,
        old: Mapping[bytes, FileState],
        new: Mapping[bytes, FileState],
        old_folders: Mapping[bytes, FileState],
        new_folders: Mapping[bytes, FileState],
    ) -> None:
        for path in {*old, *new}:
            if old.get(path) != new.get(path):
                self._changed[path] = old.get(path), new.get(path)
                if path not in old:
                    above = [folder for folder in ancestors(path) if folder in old_folders]
                    self._folder_of_new[path] = above[-1] if above else b""
        for path in old_folders.keys() & new_folders.keys():
            if old_folders[path] != new_folders[path]:
                self._changed[path] = old_folders[path], new_folders[path]
        self._folders = {path: path in old_folders for path in old_folders.keys() ^ new_folders.keys()}
        earlier, later = {*map(_content, old.values())}, {*map(_content, new.values())}
        self._copied = Counter(_content(was) for was, _ in self._changed.values() if was is not None)
        self._only_former, self._in_both = frozenset(self._copied.keys() - later), frozenset(earlier & later)

    def explain(self, image: ImageLayers, differences: Iterable[SettingChange]) -> ExplainedBase:
        """Look up the changes in an image, which was read with `diff_ids` as its base's.

        `differences`: of its settings from those of the new base.
        """
        contents = image.contents
        different = {each.what: each.was for each in differences}
        inherits = image.diff_ids[: len(self.diff_ids)] == self.diff_ids
        settings = tuple(
            SettingInImage(each, own, setting_state(each.was, each.now, own))
            for each in self._settings
            for own in [different.get(each.what, each.now)]
        )
        packages, states = self._explain_packages(contents, inherits=inherits)
        files_reason = self._files_reason or contents.files_reason
        trace = setting_trace([ChangedSetting(*change, own) for change, own, _ in settings], different)
        files, traces = PartList(reason=files_reason), CopyTraces(setting=trace)
        if not files_reason:
            files, traces = self._explain_files(contents, inherits=inherits, setting=trace)
        reach, reason = judge_reach(
            ChangedParts(
                [each.state for each in settings],
                states,
                None if files.reason else [*Counter(files.counts).elements()],
                packages.reason,
                files.reason,
                self._no_packages,
                not inherits and self._has_other_files(contents.files or {}),
                traces,
            )
        )
        return ExplainedBase(reach, reason, self.move, settings, packages, files)

    def _explain_packages(self, contents: ImageContents, *, inherits: bool) -> tuple[PartList, list[PartState] | None]:
        """Return the changed packages, by SBOMs if both bases and the image have one, else by package databases."""
        reason = ""
        for origin, title in _ORIGINS.items():
            found: _PackageChanges = self._packages[origin]
            own: PackageList = getattr(contents, origin)
            if found.changes is None or own.packages is None:
                reason = found.reason or f"the image: {own.reason}"
                continue
            versions = versions_of(own.packages)
            rows = []
            for each in found.changes:
                version = versions.get((each.kind, each.name), "")
                state = package_state(each.kind, each.was, each.now, version, inherits=inherits)
                rows.append(PackageInImage(each, version, state))
            rows.sort(key=lambda row: row.state is not PartState.FORMER)
            states = [row.state for row in rows]
            return PartList(Counter(states), packages=tuple(rows[:MAX_LISTED]), origin=title), states
        return PartList(reason=reason), None

    def _explain_files(self, contents: ImageContents, *, inherits: bool, setting: str) -> tuple[PartList, CopyTraces]:
        files, counts, former, added = contents.files or {}, Counter[PartState](), set[bytes](), b""
        for path, (was, now) in self._changed.items():
            own = files.get(path) or contents.folders.get(path)
            has_folder = not self._folder_of_new.get(path) or self._folder_of_new[path] in contents.folders
            state = file_state(was, now, own, inherits=inherits and has_folder)
            counts[state] += 1
            if state is PartState.FORMER:
                former.add(path)
            elif was is None:
                added = min(added or path, path)
        copies, doubtful = self._copies(contents, former)
        counts[PartState.FORMER] += len(copies)
        traces = CopyTraces(
            len(doubtful),
            shown(min(doubtful)) if doubtful else "",
            shown(added) if added else "",
            self._former_folder(contents, inherits=inherits),
            setting,
        )
        listed = (*sorted(map(shown, former)), *sorted(map(shown, copies)))[:MAX_LISTED]
        return PartList(+counts, former=listed, copies=len(copies)), traces

    def _copies(self, contents: ImageContents, former: Set[bytes]) -> tuple[list[bytes], list[bytes]]:
        """Return an image's own files that are copies of changed files before the change, and those that may be.

        `former`: the paths at which it has a changed file as before the change; they count already.

        A content that the new base has as well may be that of an unchanged file, such as an empty one; and a symbolic link with the
        target of a changed one is often made anew.
        """
        files, found, doubtful = contents.files or {}, list[bytes](), list[bytes]()
        for path in (contents.own & files.keys()) - former:
            content, was = _content(files[path]), self._changed.get(path, (None, None))[0]
            elsewhere = self._copied[content] - (was is not None and _content(was) == content)
            if elsewhere:
                sure = content in self._only_former and files[path].kind is FileKind.REGULAR
                (found if sure else doubtful).append(path)
        return found, doubtful

    def _former_folder(self, contents: ImageContents, *, inherits: bool) -> str:
        """Return a folder that only one of the bases has, if the image has or lacks it as the former one; "" for none."""
        as_former = [
            path
            for path, former in self._folders.items()
            if (path in contents.folders) is former and (former or inherits)
        ]
        return shown(min(as_former)) if as_former else ""

    def _has_other_files(self, files: Mapping[bytes, FileState]) -> bool:
        return any(each.kind is FileKind.REGULAR and _content(each) not in self._in_both for each in files.values())


def _package_changes(old: PackageList, new: PackageList) -> _PackageChanges:
    for which, each in (("former", old), ("new", new)):
        if each.packages is None:
            return _PackageChanges(None, f"the {which} image of the base: {each.reason}")
    diff = compare_packages(old.packages or (), new.packages or ())
    return _PackageChanges((*diff.changed, *diff.added, *diff.removed), "")


def _content(file: FileState) -> _Content:
    return file.kind, file.content
