"""Stores releases on this host's disk. A release is recorded completely before anything is touched; one process at a time.

    STATE/releases/PROJECT/        0700
      lock                         flock, held for the duration of a deploy
      key                          32 bytes; the HMAC key for environment values
      content/HEX                  files that are mounted into containers (secrets, configs), by their SHA-256
      N/                           one release
        release.json               its record, rewritten at each step
        compose.json               the text that Compose starts from: the resolved project, every image by digest
        environment.json           variables that Compose needs beside it, for secrets and configs
        files/                     the project's own files, as they were
        boltseal.lock              its lock, if it had one

A release appears under its number by one rename, complete or not at all. Afterwards only `release.json` changes, also by a
rename. Folders are 0700 and files 0600, since environments contain secrets; nothing leaves the host.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import hmac
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from boltseal.deploy.releases import (
    MAX_NUMBER,
    MAX_RECORD_BYTES,
    Release,
    ReleaseContents,
    ReleaseInvalid,
    ReleaseUnreadable,
    check_contents,
    check_project,
    format_release,
    parse_release,
)
from boltseal.errors import Full, NotFound, Unavailable
from boltseal.files.atomic_files import Disk, is_no_space, write_file

KEPT_RELEASES: Final = 20
"""The number of releases that a rollback can use; of older ones only the record stays."""
MAX_CONTENT_BYTES: Final = 64 * 1024 * 1024
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


class ReleaseFolder:
    """The releases of one project. Every method that writes must run inside `deploying`.

    `engine`: the key of one engine; the folder then shows only its releases. "" for those of all engines, to read only.
    """

    def __init__(
        self,
        state: Path,
        project: str,
        disk: Disk = Disk(),  # noqa: B008 - it has no state
        engine: str = "",
    ) -> None:
        self.project = check_project(project)
        self.engine = engine
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
            yield
        finally:
            os.close(fd)

    def all(self) -> tuple[Release, ...]:
        """Return every release, oldest first.

        Raises: ReleasesUnusable, ReleaseUnreadable.
        """
        try:
            found = [self._record(number) for number in self._numbers()]
        except NoSuchRelease as error:
            raise ReleaseUnreadable(
                f"a numbered folder in {self.folder} has no release.json ({error.message.partition(';')[0]}): restore the file "
                "from a backup, or remove that folder"
            ) from error
        return tuple(each for each in found if self._is_of_engine(each))

    def read(self, number: int) -> Release:
        """Return one release.

        Raises: NoSuchRelease, ReleaseUnreadable.
        """
        release = self._record(number)
        if not self._is_of_engine(release):
            raise NoSuchRelease(
                f"release {number} of {self.project} belongs to another engine (got {self.engine}, expected "
                f"{release.engine}); name that engine with --host"
            )
        return release

    def _is_of_engine(self, release: Release) -> bool:
        return not self.engine or release.engine in ("", self.engine)

    def _record(self, number: int) -> Release:
        raw = self._read(number, "release.json", MAX_RECORD_BYTES)
        if raw is None:
            raise NoSuchRelease(f"{self.project} has no release {number} on this host; see `boltseal release ls`")
        try:
            release = parse_release(raw)
        except ReleaseUnreadable as error:
            raise ReleaseUnreadable(f"{self.folder}/{number}/release.json: {error.message}") from error
        if (release.project, release.number) != (self.project, number):
            raise ReleaseUnreadable(
                f"{self.folder}/{number}: the record is of another release (got {release.project}/{release.number}, "
                f"expected {self.project}/{number})"
            )
        return release

    def contents(self, number: int) -> ReleaseContents:
        """Return the contents of a release.

        Raises: NoSuchRelease: if only its record is left; ReleaseUnreadable.
        """
        compose = self._read(number, "compose.json")
        if compose is None:
            raise NoSuchRelease(
                f"release {number} of {self.project} can't be restored: only the record of so old a release is kept"
            )
        release = self.read(number)
        files = {}
        for name in release.files:
            found = self._read(number, f"files/{release.files[name]}")
            if found is None:
                raise ReleaseUnreadable(f"{self.folder}/{number}: the recorded copy of {name} is missing")
            files[name] = found
        environment = self._read(number, "environment.json") or b"{}"
        try:
            check_contents(release, compose, environment)
        except ReleaseUnreadable as error:
            raise ReleaseUnreadable(
                f"{self.folder}/{number}/compose.json or environment.json: {error.message}. Restore it from a backup, or "
                f"remove the folder {number} and give up release {number}"
            ) from error
        return ReleaseContents(compose, environment, files, self._read(number, "boltseal.lock"))

    def compose_file(self, number: int) -> Path:
        """Return the path of the text that Compose starts from."""
        return self.folder / str(number) / "compose.json"

    def next_number(self) -> int:
        """Return the number for a new release."""
        return max(self._numbers(), default=0) + 1

    def begin(self, release: Release, contents: ReleaseContents) -> Release:
        """Write a new release and return it as recorded. If it fails, nothing is left on disk.

        1. Write all files in a temporary folder, each synced. 2. Rename the folder. 3. Sync the parent folder.

        Raises: ReleasesFull, ReleasesUnusable.
        """
        names = {name: f"{index}" for index, name in enumerate(sorted(contents.files))}
        temporary = self.folder / f".{release.number}.{os.urandom(6).hex()}.new"
        with self._translated_errors():
            try:
                self._make(temporary / "files")
                numbered = msgspec.structs.replace(release, files=names, engine=self.engine)
                for name, content in contents.files.items():
                    write_file(self._disk, temporary / "files" / names[name], content, _SECRET)
                write_file(self._disk, temporary / "compose.json", contents.compose, _SECRET)
                write_file(self._disk, temporary / "environment.json", contents.environment, _SECRET)
                if contents.lock is not None:
                    write_file(self._disk, temporary / "boltseal.lock", contents.lock, _SECRET)
                write_file(self._disk, temporary / "release.json", format_release(numbered), _SECRET)
                self._disk.rename(os.fspath(temporary), os.fspath(self.folder / str(release.number)))
                self._disk.sync_folder(os.fspath(self.folder))
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
        return numbered

    def write(self, release: Release) -> Release:
        """Replace the record of a release, durably, and return the release."""
        with self._translated_errors():
            write_file(self._disk, self.folder / str(release.number) / "release.json", format_release(release), _SECRET)
        return release

    def keep_content(self, path: Path) -> Path | None:
        """Copy a file that is mounted into a container, and return the copy's path; None if it is not a regular file.

        The copy is named by SHA-256. It has the file's owner and mode, since the container sees them.

        Raises: ReleaseInvalid: if the file can't be read.
        """
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise ReleaseInvalid(f"{path}, which a service mounts, can't be read: {error.strerror}") from error
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_CONTENT_BYTES:
            os.close(fd)
            return None
        with os.fdopen(fd, "rb") as file:
            content = file.read(MAX_CONTENT_BYTES + 1)
        owner = f"{status.st_uid}:{status.st_gid}:{stat.S_IMODE(status.st_mode):o}"
        kept = self.folder / "content" / hashlib.sha256(f"{owner}\n".encode() + content).hexdigest()
        if not kept.exists():
            with self._translated_errors():
                self._make(kept.parent)
                write_file(self._disk, kept, content, _SECRET)
                with contextlib.suppress(PermissionError):  # without root, file and copy both belong to this user
                    os.chown(kept, status.st_uid, status.st_gid)
                kept.chmod(stat.S_IMODE(status.st_mode))
        return kept

    def is_content(self, path: Path) -> bool:
        """Return whether a path is that of a copy made by `keep_content`."""
        return path.parent == self.folder / "content"

    def hmac(self, text: str) -> str:
        """Return the HMAC that replaces a secret value in a record: 32 hex digits, under a key that never leaves the host."""
        key = self._key()
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()[:32]

    def prune(self, holds: frozenset[int], keep: int = KEPT_RELEASES) -> tuple[Release, ...]:
        """Delete the contents of releases older than the last `keep` healthy ones, and return those releases.

        `holds`: numbers of releases to keep in any case.
        """
        releases = self.all()
        good = [each.number for each in releases if each.good]
        kept = set(good[-keep:]) | holds
        gone = []
        for release in releases:
            folder = self.folder / str(release.number)
            if release.number in kept or release.unfinished or not (folder / "compose.json").exists():
                continue
            if good and release.number > good[-1]:
                continue  # a recent failure is still needed to find its cause
            with self._translated_errors():
                for name in ("compose.json", "environment.json", "boltseal.lock"):
                    (folder / name).unlink(missing_ok=True)
                shutil.rmtree(folder / "files", ignore_errors=True)
            gone.append(release)
        if gone:
            self._prune_content()
        return tuple(gone)

    def _prune_content(self) -> None:
        """Delete copies that no recorded project refers to."""
        with self._translated_errors():
            named = b"".join(path.read_bytes() for path in self.folder.glob("[0-9]*/compose.json"))
            for copy in (self.folder / "content").glob("*"):
                if copy.name.encode() not in named:
                    copy.unlink()

    def _key(self) -> bytes:
        path = self.folder / "key"
        with self._translated_errors():
            if not path.exists():
                self._make(self.folder)
                write_file(self._disk, path, os.urandom(_KEY_BYTES), _SECRET)
            key = path.read_bytes()
        if len(key) != _KEY_BYTES:
            raise ReleaseUnreadable(f"{path} is not a valid key (got {len(key)} bytes, expected {_KEY_BYTES})")
        return key

    def _numbers(self) -> list[int]:
        with self._translated_errors():
            try:
                names = os.listdir(self.folder)  # noqa: PTH208 - names, no paths
            except FileNotFoundError:
                return []
        digits = [name for name in names if name.isascii() and name.isdigit() and not name.startswith("0")]
        if "0" in names and (self.folder / "0" / "release.json").is_file():  # what ran before the first release
            digits.append("0")
        return sorted(int(name) for name in digits if len(name) <= len(str(MAX_NUMBER)))  # ignore other names

    def _read(self, number: int, name: str, limit: int = MAX_CONTENT_BYTES) -> bytes | None:
        path = self.folder / str(number) / name
        with self._translated_errors():
            try:
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError):
                return None
            with os.fdopen(fd, "rb") as file:
                raw = file.read(limit + 1)
        if len(raw) > limit:
            raise ReleaseUnreadable(f"{path} is too large (expected at most {limit} bytes)")
        return raw

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
            hint = "; run it as the user who deploys, or set another folder by BOLTSEAL_STATE" if denied else ""
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
        return any(name.isdigit() for name in os.listdir(folder))  # noqa: PTH208 - names, no paths
    except NotADirectoryError:
        return False
    except OSError:
        return True
