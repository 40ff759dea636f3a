"""Stores releases on this host's disk. A release is recorded completely before anything is touched; one process at a time.

    ROOT/releases/PROJECT/         0700
      lock                         flock, held for the duration of a deploy
      key                          32 bytes; the HMAC key for environment values
      content/HEX                  files that are mounted into containers (secrets, configs): see `mounted_copies`
      N.release                    one release: record, text, variables, files and lock (`release_file`)
      compose/N.json               the text that Compose starts from, written from N.release when it is needed
      N/                           a release of an earlier version, to read only (`earlier_releases`)

ROOT belongs to one engine (`commands.engine_releases`). A release's file is replaced by one rename at each step; an incomplete one
is ignored. Folders are 0700 and files 0600, since environments contain secrets. With a `ReleaseCopy`, each file is written to the
engine as well, where other administrators find it, and `deploying` excludes them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import hmac
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

import msgspec

from boltseal.deploy.compose_model import with_copies
from boltseal.deploy.earlier_releases import read_bounded, read_earlier
from boltseal.deploy.mounted_copies import CONTENT_FOLDER, MountedCopies, MountedFile
from boltseal.deploy.release_file import MAX_FILE_BYTES, StoredRelease, TornFile, format_stored, parse_stored
from boltseal.deploy.releases import (
    MAX_NUMBER,
    Release,
    ReleaseContents,
    ReleaseInvalid,
    ReleaseUnreadable,
    check_contents,
    check_project,
)
from boltseal.errors import Full, NotFound, Unavailable
from boltseal.files.atomic_files import Disk, is_no_space, write_file

KEPT_RELEASES: Final = 20
"""The number of releases that a rollback can use; of older ones only the record stays."""
_SECRET: Final = 0o600
_KEY_BYTES: Final = 32


class ReleasesUnusable(Unavailable):
    """The folder of releases can't be read or written."""


class ReleasesFull(Full):
    """The disk is full, so the release could not be recorded. Nothing was started."""


class AnotherDeploys(Unavailable):
    """Another process is deploying this project."""


class NoSuchRelease(NotFound):
    """The project has no release of this number, or none at all."""


class ReleaseCopy(Protocol):
    """What an engine keeps of a project's releases for all of its administrators. Methods block.

    Raises: AnotherDeploys: by `lock`; errors of the engine by all.
    """

    def lock(self) -> None:
        """Exclude all other deploys of the project on the engine."""

    def unlock(self) -> None:
        """Admit them again."""

    def exchange(self, folder: ReleaseFolder) -> None:
        """Bring folder and engine to the same state."""

    def put(self, stored: StoredRelease) -> None:
        """Write one release to the engine. A failure is a notice: it does not stop a deploy that is under way."""


class ReleaseFolder:
    """The releases of one project. Every method that writes must run inside `deploying`.

    `engine`: the key of one engine; of releases of earlier versions the folder then shows only its own. "" for all. `address`:
    by which new releases reach their engine; default: `engine`. `copy`: on the engine; None to use only this folder.
    """

    def __init__(
        self,
        state: Path,
        project: str,
        disk: Disk = Disk(),  # noqa: B008 - it has no state
        engine: str = "",
        *,
        address: str = "",
        copy: ReleaseCopy | None = None,
    ) -> None:
        self.project = check_project(project)
        self.root = state
        self.engine = engine
        self.address = address or engine
        self.copy = copy
        self.folder = state / "releases" / project
        self._disk = disk

    @contextlib.contextmanager
    def deploying(self) -> Iterator[None]:
        """Hold the project's deploy lock; the kernel releases it when the process ends.

        Raises: AnotherDeploys: at once, if another process holds it.
        """
        with self._translated_errors():
            self._make(self.folder)
            fd = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _SECRET)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise AnotherDeploys(
                    f"{self.project} is being deployed by another process; retry when it has ended"
                ) from error
            if self.copy is None:
                yield
            else:
                with self._locked_on_engine(self.copy):
                    yield
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _locked_on_engine(self, copy: ReleaseCopy) -> Iterator[None]:
        copy.lock()
        try:
            copy.exchange(self)
            yield
        finally:
            copy.unlock()

    def all(self) -> tuple[Release, ...]:
        """Return every release, oldest first.

        Raises: ReleasesUnusable, ReleaseUnreadable.
        """
        return tuple(each.release for each in self.stored() if self._is_of_engine(each.release))

    def stored(self) -> tuple[StoredRelease, ...]:
        """Return every release with its contents, oldest first, without torn files.

        Raises: ReleasesUnusable, ReleaseUnreadable.
        """
        found = []
        for number in self._numbers():
            with contextlib.suppress(TornFile):
                stored = self._load(number)
                if stored is None:
                    raise ReleaseUnreadable(
                        f"a numbered folder in {self.folder} has no release.json ({self.project} has no release {number} on "
                        "this host): restore the file from a backup, or remove that folder"
                    )
                found.append(stored)
        return tuple(found)

    def torn(self) -> tuple[Path, ...]:
        """Return the files that `stored` leaves out, because a crash left them incomplete or they were changed."""
        found = []
        for number in self._numbers():
            try:
                self._load(number)
            except TornFile:
                found.append(self._file(number))
        return tuple(found)

    def read(self, number: int) -> Release:
        """Return one release.

        Raises: NoSuchRelease, ReleaseUnreadable.
        """
        return self._existing(number).release

    def _existing(self, number: int) -> StoredRelease:
        stored = self._load(number)
        if stored is None:
            raise NoSuchRelease(f"{self.project} has no release {number} on this host; see `boltseal release ls`")
        if not self._is_of_engine(stored.release):
            raise NoSuchRelease(
                f"release {number} of {self.project} belongs to another engine (got {self.engine}, expected "
                f"{stored.release.engine}); name that engine with --host"
            )
        return stored

    def _is_of_engine(self, release: Release) -> bool:
        return not self.engine or release.engine in ("", self.engine)

    def _load(self, number: int) -> StoredRelease | None:
        path = self._file(number)
        raw = self._read(path, MAX_FILE_BYTES)
        try:
            if raw is not None:
                stored: StoredRelease | None = parse_stored(raw)
            else:
                with self._translated_errors():
                    stored = read_earlier(self.folder / str(number))
        except ReleaseUnreadable as error:
            raise type(error)(f"{path}: {error.message}" if raw is not None else error.message) from error
        release = None if stored is None else stored.release
        if release is not None and (release.project, release.number) != (self.project, number):
            raise ReleaseUnreadable(
                f"{self.folder}/{number}: the record is of another release (got {release.project}/{release.number}, "
                f"expected {self.project}/{number})"
            )
        return stored

    def contents(self, number: int) -> ReleaseContents:
        """Return the contents of a release.

        Raises: NoSuchRelease: if only its record is left; ReleaseUnreadable.
        """
        stored = self._existing(number)
        if stored.contents is None:
            raise NoSuchRelease(
                f"release {number} of {self.project} can't be restored: only the record of so old a release is kept"
            )
        try:
            check_contents(stored.release, stored.contents.compose, stored.contents.environment)
        except ReleaseUnreadable as error:
            raise ReleaseUnreadable(f"{self._file(number)}: {error.message}") from error
        return stored.contents

    def compose_file(self, number: int, located: Callable[[Path], Path] = lambda path: path) -> Path:
        """Write the text that Compose starts from, and return its path. `located`: where a recorded copy is mounted from.

        Raises: NoSuchRelease, ReleaseUnreadable, ReleasesFull, ReleasesUnusable.
        """
        text, path = with_copies(self.contents(number).compose, located), self.folder / "compose" / f"{number}.json"
        with self._translated_errors():
            if not path.is_file() or path.read_bytes() != text:
                self._make(path.parent)
                write_file(self._disk, path, text, _SECRET)
        return path

    def next_number(self) -> int:
        """Return the number for a new release."""
        return max(self._numbers(), default=0) + 1

    def begin(self, release: Release, contents: ReleaseContents) -> Release:
        """Write a new release and return it as recorded. If it fails, nothing is left on disk.

        Raises: ReleasesFull, ReleasesUnusable.
        """
        recorded = msgspec.structs.replace(release, files={}, engine=self.address)
        self.put(StoredRelease(revision=1, release=recorded, contents=contents))
        return recorded

    def write(self, release: Release, compose: bytes | None = None) -> Release:
        """Replace the record of a release, durably, and return the release. `compose`: its text, None to leave it."""
        before = self._existing(release.number)
        kept = msgspec.structs.replace(release, files={})
        contents = before.contents
        if compose is not None and contents is not None:
            contents = replace(contents, compose=compose)
        self.put(StoredRelease(revision=before.revision + 1, release=kept, contents=contents))
        return release

    def put(self, stored: StoredRelease, *, copy: bool = True) -> None:
        """Write a release as it is. `copy`: also to the engine."""
        with self._translated_errors():
            self._make(self.folder)
            write_file(self._disk, self._file(stored.release.number), format_stored(stored), _SECRET)
        if copy and self.copy is not None:
            self.copy.put(stored)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number}.release"

    def copy_named(self, name: str) -> Path | None:
        """Return the path of a copy of a mounted file, None if there is none."""
        with self._translated_errors():
            return self._copies.at(name)

    def make_copy(self, file: MountedFile) -> Path:
        """Copy a file that is mounted into a container, and return the copy's path."""
        with self._translated_errors():
            self._make(self._copies.folder)
            return self._copies.make(file)

    @property
    def _copies(self) -> MountedCopies:
        return MountedCopies(self.folder / CONTENT_FOLDER, self._disk)

    def hmac(self, text: str) -> str:
        """Return the HMAC that replaces a secret value in a record: 32 hex digits, under a key that never leaves the host."""
        key = self.key()
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()[:32]

    def prune(self, holds: frozenset[int], keep: int = KEPT_RELEASES) -> tuple[Release, ...]:
        """Delete the contents of releases older than the last `keep` healthy ones.

        Return all releases without contents: what else belongs to one has to be removed, also if a process was killed in the middle.
        `holds`: numbers of releases to keep in any case.
        """
        stored = [each for each in self.stored() if self._is_of_engine(each.release)]
        good = [each.release.number for each in stored if each.release.good]
        kept = set(good[-keep:]) | holds
        gone = [each.release for each in stored if each.contents is None]
        for each in stored:
            number = each.release.number
            if number in kept or each.release.unfinished or each.contents is None:
                continue
            if good and number > good[-1]:
                continue  # a recent failure is still needed to find its cause
            self.put(StoredRelease(revision=each.revision + 1, release=each.release, contents=None))
            gone.append(each.release)
        self._remove_unneeded()
        return tuple(sorted(gone, key=lambda each: each.number))

    def _remove_unneeded(self) -> None:
        """Delete what belongs to no release with contents: texts, copies, and files that a killed process did not finish."""
        with self._translated_errors():
            left = [each for each in self.stored() if each.contents is not None]
            texts = {f"{each.release.number}.json" for each in left}
            self._copies.prune(each.contents.compose for each in left if each.contents is not None)
            for path in (*self.folder.glob("*.new"), *(self.folder / "compose").glob("*")):
                if path.name not in texts:
                    path.unlink()

    def key(self, theirs: bytes | None = None) -> bytes:
        """Return the HMAC key, which is made when it is missing. `theirs`: the key to use instead of ours."""
        path = self.folder / "key"
        with self._translated_errors():
            if theirs is not None or not path.exists():
                self._make(self.folder)
                write_file(self._disk, path, theirs or os.urandom(_KEY_BYTES), _SECRET)
            key = path.read_bytes()
        if len(key) != _KEY_BYTES:
            raise ReleaseUnreadable(f"{path} is not a valid key (got {len(key)} bytes, expected {_KEY_BYTES})")
        return key

    def has_key(self) -> bool:
        """Return whether there is an HMAC key."""
        return (self.folder / "key").exists()

    def _numbers(self) -> list[int]:
        with self._translated_errors():
            try:
                names = os.listdir(self.folder)  # noqa: PTH208 - names, no paths
            except FileNotFoundError:
                return []
        return sorted({number for name in names if (number := _number(name)) is not None})

    def _read(self, path: Path, limit: int) -> bytes | None:
        with self._translated_errors():
            return read_bounded(path, limit)

    def _make(self, folder: Path) -> None:
        """Create a folder and its missing parents, with mode 0700."""
        if not folder.is_dir():
            self._make(folder.parent)
            folder.mkdir(mode=0o700, exist_ok=True)
            self._disk.sync_folder(os.fspath(folder.parent))

    @contextlib.contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if is_no_space(error):
                raise ReleasesFull(
                    f"could not record the release in {self.folder}: {error.strerror}; nothing was started; free some space"
                ) from error
            denied = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
            other = "; run it as the user who deploys, or set other folders by BOLTSEAL_STATE and BOLTSEAL_ENGINES"
            hint = other if denied else ""
            raise ReleasesUnusable(
                f"could not read or write the releases in {self.folder}: {error.strerror}{hint}"
            ) from error


def projects(state: Path) -> tuple[str, ...]:
    """Return the names of all projects that have releases on this host.

    Raises: ReleasesUnusable.
    """
    try:
        names = os.listdir(state / "releases")  # noqa: PTH208 - names, no paths
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise ReleasesUnusable(f"could not read {state / 'releases'}: {error.strerror}") from error
    found = []
    for name in sorted(names):
        with contextlib.suppress(ReleaseInvalid):
            if _may_have_releases(state / "releases" / check_project(name)):
                found.append(name)
    return tuple(found)


def _may_have_releases(folder: Path) -> bool:
    """Return whether a project's folder has releases, or can't be read. One that was only locked has none."""
    try:
        return any(_number(name) is not None for name in os.listdir(folder))  # noqa: PTH208 - names, no paths
    except NotADirectoryError:
        return False
    except OSError:
        return True


def _number(name: str) -> int | None:
    """Return the number of the release whose file or folder has this name, None for other names."""
    digits = name.removesuffix(".release")
    if name == "0.release":  # what ran before the first release
        return 0
    valid = digits.isascii() and digits.isdigit() and not digits.startswith("0") and len(digits) <= len(str(MAX_NUMBER))
    return int(digits) if valid else None
