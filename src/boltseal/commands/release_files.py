"""A project's own files and those recorded with a release: compare them, and restore them for a rollback."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from boltseal.commands.text import clean
from boltseal.deploy.release_flow import DeployResult
from boltseal.deploy.release_store import ReleaseFolder
from boltseal.deploy.releases import Release
from boltseal.deploy.settings_files import write_settings
from boltseal.deploy.source_snapshot import (
    ProjectFileDenied,
    changed_files,
    content_now,
    restore_files,
    with_lock,
    writable,
)
from boltseal.errors import BoltsealError, Invalid, Precondition, quote
from boltseal.project.replace_files import FileChanged

_MAX_LISTED = 10


class OtherProjectFolder(Invalid):
    """Files of a release would be restored into another folder than the one in which the command runs."""


class FilesDiffer(Precondition):
    """After a rollback the project's files are not those of what runs."""


@dataclass(frozen=True, slots=True)
class RestoredFiles:
    """Files that were restored: what each had before (None where it was missing), and has now. `denied`: this user may not restore them."""

    root: Path = Path()
    before: Mapping[str, bytes | None] = field(default_factory=dict)
    after: Mapping[str, bytes] = field(default_factory=dict)
    modes: Mapping[str, int] = field(default_factory=dict)
    denied: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the files."""
        return tuple(self.before)

    def undo(self, notice: Callable[[str], None]) -> None:
        """Write back what was there before. Files that were changed since they were restored stay, with a notice.

        Raises: Unavailable: a file can't be written.
        """
        changed = []
        for name, raw in self.before.items():
            if content_now(self.root / name) == raw:
                continue
            try:
                write_settings(self.root, {name: raw}, self.modes, self.after)
            except FileChanged:
                changed.append(name)
        if changed:
            notice(clean(f"boltseal: {', '.join(changed)}: changed after it was restored, and stays; check it"))


@dataclass(frozen=True, slots=True)
class RolledBack:
    """The result of a rollback. `restored`: files restored as recorded; `denied`: those that this user may not restore; `different`:
    files that differ from what runs, or that this user can't read.
    """

    done: DeployResult
    restored: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()
    different: tuple[str, ...] = ()


def different_files(folder: ReleaseFolder, release: Release) -> tuple[str, ...]:
    """Return the project's files that differ from those recorded for a release, or that this user can't read.

    Raises: NoSuchRelease, ReleaseUnreadable.
    """
    root, contents = Path(release.directory), folder.contents(release.number)
    return tuple(changed_files(root, with_lock(root, contents.files, contents.lock)))


def restored_files(folder: ReleaseFolder, release: Release, here: Path, notice: Callable[[str], None]) -> RestoredFiles:
    """Write the recorded files that differ into the project: its own files all or none, then its settings.

    A release may come from an engine, whose administrators must not be able to write anywhere on this machine: it is
    restored only into the folder in which the command runs, and without files that are outside of it. `here`: that folder.
    Without root, files of other users stay as they are, because they would get another owner. If that is so for one of the files that
    describe the project, all of those stay. `notice`: of an undo if not all files could be restored.

    Raises: OtherProjectFolder; NotFound: one of its own files is gone; FileChanged, FilesNotWritten, Unavailable: then all are as before.
    """
    root, contents = Path(release.directory), folder.contents(release.number)
    if not root.is_absolute() or root.resolve() != here.resolve():
        raise OtherProjectFolder(
            f"--restore-files writes into the folder of the project, so that it must run there (got {quote(str(here))}, expected "
            f"{quote(str(root))}, from which release {release.number} was deployed). Nothing was changed"
        )
    files = with_lock(root, contents.files, contents.lock)
    wanted = [name for name in changed_files(root, files) if _belongs(name)]
    denied = {name for name in wanted if not writable(root / name)}
    if denied - contents.modes.keys():
        denied |= set(wanted) - contents.modes.keys()
    changed = [name for name in wanted if name not in denied]
    before = {name: content_now(root / name) for name in changed}
    modes = {name: (root / name).stat().st_mode & 0o7777 for name, raw in before.items() if raw is not None}
    restore_files(root, {name: raw for name, raw in before.items() if name not in contents.modes}, files)
    restored = RestoredFiles(root, before, {name: files[name] for name in changed}, modes, tuple(sorted(denied)))
    try:
        write_settings(
            root, {name: files[name] for name in changed if name in contents.modes}, contents.modes, restored.before
        )
    except BoltsealError:
        restored.undo(notice)
        raise
    return restored


def _belongs(name: str) -> bool:
    """Return whether a recorded name is one of a file inside the project. git would run files of its own folder."""
    path = PurePosixPath(name)
    return not path.is_absolute() and not {"..", ".git"} & set(path.parts)


def check_restored(folder: ReleaseFolder, running: Release, root: Path) -> None:
    """Check that the files in a project's folder are those of the release that runs after a rollback.

    Raises: FilesDiffer: with their names.
    """
    contents = folder.contents(running.number)
    changed = changed_files(root, with_lock(root, contents.files, contents.lock))
    if changed:
        listed = ", ".join(f"{quote(each, 200)[1:-1]}{_unread(root / each)}" for each in changed[:_MAX_LISTED])
        more = f" and {len(changed) - _MAX_LISTED} more" if len(changed) > _MAX_LISTED else ""
        raise FilesDiffer(
            f"release {running.number} of {running.project} is a rollback to release {running.of}, and these files differ from "
            f"what runs: {listed}{more}. Nothing was started. Restore them by `boltseal rollback {running.number} "
            f"--project-name {running.project} --restore-files`, or deploy them by `boltseal deploy --anyway`"
        )


def _unread(path: Path) -> str:
    try:
        content_now(path)
    except ProjectFileDenied:
        return " (this user can't read it)"
    return ""
