"""Releases on this host's disk: written whole before anything is touched, and one process at a time.

    STATE/releases/PROJECT/        0700
      lock                         held by whoever deploys, for as long as it does
      key                          32 bytes; HMACs of the environment are made with it, and mean nothing elsewhere
      content/HEX                  files that are mounted into containers (secrets, configs), by their SHA-256
      N/                           one release
        release.json               its record, the last word of each step
        compose.json               what Compose starts: the project as Compose resolved it, every image by digest
        environment.json           variables that Compose needs beside it, for secrets and configs
        files/                     the project's own files, as they were
        boltseal.lock              its lock, if it had one

A release appears under its number by a rename, whole, or not at all. Afterwards only `release.json` changes, by a rename.
All of it is 0700 and 0600, since environments hold secrets; nothing of it leaves the host.
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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from boltseal.deploy.releases import (
    MAX_NUMBER,
    MAX_RECORD_BYTES,
    Release,
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
"""Releases that can be gone back to; of older ones only the record stays."""
MAX_CONTENT_BYTES: Final = 64 * 1024 * 1024
_SECRET: Final = 0o600
_KEY_BYTES: Final = 32


class ReleasesUnusable(Unavailable):
    """The folder of releases can't be read or written."""


class ReleasesFull(Full):
    """No room for the record. Nothing was touched."""


class AnotherDeploys(Unavailable):
    """Somebody else deploys this project at this moment."""


class NoSuchRelease(NotFound):
    """The project has no release of this number, or none at all."""


@dataclass(frozen=True, slots=True)
class ReleaseContents:
    """What is written with a release, and never changed: see the module's text. `files` by their path in the project."""

    compose: bytes
    environment: bytes = b"{}"
    files: Mapping[str, bytes] = field(default_factory=dict)
    lock: bytes | None = None


class ReleaseFolder:
    """The releases of one project. `deploying` has to be held for everything that writes.

    `engine`: only those that ran on it are there, and new ones are of it; "" for those of all engines, to look at.
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
        """Be the one who deploys. AnotherDeploys at once if somebody is; it ends with the process, however that ends."""
        with self._said():
            self._make(self.folder)
            fd = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _SECRET)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise AnotherDeploys(
                    f"{self.project} is being deployed by another process; run it again when that has ended"
                ) from error
            yield
        finally:
            os.close(fd)

    def all(self) -> tuple[Release, ...]:
        """Every release, oldest first. ReleasesUnusable, ReleaseUnreadable."""
        try:
            found = [self._record(number) for number in self._numbers()]
        except NoSuchRelease as error:
            raise ReleaseUnreadable(
                f"a folder in {self.folder} has a number and no record in it: if nobody can bring release.json back, "
                f"take that folder away ({error.message.partition(';')[0]})"
            ) from error
        return tuple(each for each in found if self._ours(each))

    def read(self, number: int) -> Release:
        """One release. NoSuchRelease, ReleaseUnreadable."""
        release = self._record(number)
        if not self._ours(release):
            raise NoSuchRelease(
                f"release {number} of {self.project} is of the engine at {release.engine}, and this is {self.engine}; "
                "name that one by --host"
            )
        return release

    def _ours(self, release: Release) -> bool:
        return not self.engine or release.engine in ("", self.engine)

    def _record(self, number: int) -> Release:
        raw = self._read(number, "release.json", MAX_RECORD_BYTES)
        if raw is None:
            raise NoSuchRelease(f"{self.project} has no release {number} on this host; see `boltseal releases`")
        try:
            release = parse_release(raw)
        except ReleaseUnreadable as error:
            raise ReleaseUnreadable(f"{self.folder}/{number}/release.json: {error.message}") from error
        if (release.project, release.number) != (self.project, number):
            raise ReleaseUnreadable(f"{self.folder}/{number}: its record is that of another release")
        return release

    def contents(self, number: int) -> ReleaseContents:
        """What was recorded with it. NoSuchRelease where only the record was kept; ReleaseUnreadable."""
        compose = self._read(number, "compose.json")
        if compose is None:
            raise NoSuchRelease(f"release {number} of {self.project} can't be gone back to: only its record is kept")
        release = self.read(number)
        files = {}
        for name in release.files:
            found = self._read(number, f"files/{release.files[name]}")
            if found is None:
                raise ReleaseUnreadable(f"{self.folder}/{number}: {name} is not there any more")
            files[name] = found
        environment = self._read(number, "environment.json") or b"{}"
        try:
            check_contents(release, compose, environment)
        except ReleaseUnreadable as error:
            raise ReleaseUnreadable(
                f"{self.folder}/{number}/compose.json, or environment.json beside it: {error.message}. If nobody can bring "
                f"it back, take the folder {number} away: release {number} can't be gone back to then"
            ) from error
        return ReleaseContents(compose, environment, files, self._read(number, "boltseal.lock"))

    def compose_file(self, number: int) -> Path:
        """The file that Compose is given."""
        return self.folder / str(number) / "compose.json"

    def next_number(self) -> int:
        """The number of the release that comes next."""
        return max(self._numbers(), default=0) + 1

    def begin(self, release: Release, contents: ReleaseContents) -> Release:
        """Write a release under the next number, whole; with its number. Nothing is there if it fails. ReleasesFull.

        1. All files in a folder beside its place, each synced. 2. Rename. 3. Sync the folder above.
        """
        names = {name: f"{index}" for index, name in enumerate(sorted(contents.files))}
        beside = self.folder / f".{release.number}.{os.urandom(6).hex()}.new"
        with self._said():
            try:
                self._make(beside / "files")
                numbered = msgspec.structs.replace(release, files=names, engine=self.engine)
                for name, content in contents.files.items():
                    write_file(self._disk, beside / "files" / names[name], content, _SECRET)
                write_file(self._disk, beside / "compose.json", contents.compose, _SECRET)
                write_file(self._disk, beside / "environment.json", contents.environment, _SECRET)
                if contents.lock is not None:
                    write_file(self._disk, beside / "boltseal.lock", contents.lock, _SECRET)
                write_file(self._disk, beside / "release.json", format_release(numbered), _SECRET)
                self._disk.rename(os.fspath(beside), os.fspath(self.folder / str(release.number)))
                self._disk.sync_folder(os.fspath(self.folder))
            except BaseException:
                shutil.rmtree(beside, ignore_errors=True)
                raise
        return numbered

    def write(self, release: Release) -> Release:
        """The record's new text, on the disk before this returns; the release."""
        with self._said():
            write_file(self._disk, self.folder / str(release.number) / "release.json", format_release(release), _SECRET)
        return release

    def keep_content(self, path: Path) -> Path | None:
        """A copy, by its SHA-256, of a file that is mounted into a container: its path. None for what is no plain file.

        Owner and mode are the file's own, as the container sees them.
        """
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise ReleaseInvalid(f"{path}, which a service mounts, can't be read: {error.strerror}") from error
        there = os.fstat(fd)
        if not stat.S_ISREG(there.st_mode) or there.st_size > MAX_CONTENT_BYTES:
            os.close(fd)
            return None
        with os.fdopen(fd, "rb") as file:
            content = file.read(MAX_CONTENT_BYTES + 1)
        owner = f"{there.st_uid}:{there.st_gid}:{stat.S_IMODE(there.st_mode):o}"
        kept = self.folder / "content" / hashlib.sha256(f"{owner}\n".encode() + content).hexdigest()
        if not kept.exists():
            with self._said():
                self._make(kept.parent)
                write_file(self._disk, kept, content, _SECRET)
                with contextlib.suppress(PermissionError):  # not root: the copy is ours, as the file was
                    os.chown(kept, there.st_uid, there.st_gid)
                kept.chmod(stat.S_IMODE(there.st_mode))
        return kept

    def is_content(self, path: Path) -> bool:
        """Whether a path is that of such a copy."""
        return path.parent == self.folder / "content"

    def hmac(self, text: str) -> str:
        """What stands for a value in a record: hex, under a key that never leaves the host."""
        key = self._key()
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()[:32]

    def prune(self, holds: frozenset[int], keep: int = KEPT_RELEASES) -> tuple[Release, ...]:
        """Let go of what is older than the last `keep` good ones, but for `holds`; the releases whose contents went."""
        releases = self.all()
        good = [each.number for each in releases if each.good]
        kept = set(good[-keep:]) | holds
        gone = []
        for release in releases:
            place = self.folder / str(release.number)
            if release.number in kept or release.unfinished or not (place / "compose.json").exists():
                continue
            if good and release.number > good[-1]:
                continue  # a failure of today is of use to whoever looks for its reason
            with self._said():
                for name in ("compose.json", "environment.json", "boltseal.lock"):
                    (place / name).unlink(missing_ok=True)
                shutil.rmtree(place / "files", ignore_errors=True)
            gone.append(release)
        if gone:
            self._prune_content()
        return tuple(gone)

    def _prune_content(self) -> None:
        """Copies that no recorded project names any more."""
        with self._said():
            named = b"".join(path.read_bytes() for path in self.folder.glob("[0-9]*/compose.json"))
            for copy in (self.folder / "content").glob("*"):
                if copy.name.encode() not in named:
                    copy.unlink()

    def _key(self) -> bytes:
        path = self.folder / "key"
        with self._said():
            if not path.exists():
                self._make(self.folder)
                write_file(self._disk, path, os.urandom(_KEY_BYTES), _SECRET)
            key = path.read_bytes()
        if len(key) != _KEY_BYTES:
            raise ReleaseUnreadable(f"{path} is no key of {_KEY_BYTES} bytes")
        return key

    def _numbers(self) -> list[int]:
        with self._said():
            try:
                names = os.listdir(self.folder)  # noqa: PTH208 - names, no paths
            except FileNotFoundError:
                return []
        digits = [name for name in names if name.isascii() and name.isdigit() and not name.startswith("0")]
        return sorted(int(name) for name in digits if len(name) <= len(str(MAX_NUMBER)))  # others are not ours

    def _read(self, number: int, name: str, limit: int = MAX_CONTENT_BYTES) -> bytes | None:
        path = self.folder / str(number) / name
        with self._said():
            try:
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError):
                return None
            with os.fdopen(fd, "rb") as file:
                raw = file.read(limit + 1)
        if len(raw) > limit:
            raise ReleaseUnreadable(f"{path} is longer than anything that is kept there")
        return raw

    def _make(self, folder: Path) -> None:
        """A folder and those above it that are missing, for nobody else."""
        if not folder.is_dir():
            self._make(folder.parent)
            folder.mkdir(mode=0o700, exist_ok=True)
            self._disk.sync_folder(os.fspath(folder.parent))

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if is_no_space(error):
                raise ReleasesFull(
                    f"no room for the record of a release in {self.folder}: {error.strerror}; nothing was started"
                ) from error
            right = "; run it as the user who deploys, or name another folder by BOLTSEAL_STATE"
            hint = right if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else ""
            raise ReleasesUnusable(
                f"the releases in {self.folder} can't be read or written: {error.strerror}{hint}"
            ) from error


def projects(state: Path) -> tuple[str, ...]:
    """Every project that has releases on this host, by name. ReleasesUnusable."""
    try:
        names = os.listdir(state / "releases")  # noqa: PTH208 - names, no paths
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise ReleasesUnusable(f"{state / 'releases'} can't be read: {error.strerror}") from error
    found = []
    for name in sorted(names):
        with contextlib.suppress(ReleaseInvalid):
            found.append(check_project(name))
    return tuple(found)
