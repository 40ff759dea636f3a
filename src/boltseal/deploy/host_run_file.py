"""Records a run over several hosts on this machine, so that a command can continue it after its process was killed.

    STATE/host-runs/PROJECT.json    the run that has not ended, at most one for each project; 0600
    STATE/host-runs/PROJECT.lock    flock, held while the run goes on

What was done on each host is in its releases, on its engine; here is only what they do not have: which hosts, in which order,
where each one began, and whether the run goes back.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from boltseal.deploy.compose_program import ProjectFiles
from boltseal.deploy.release_store import AnotherDeploys, ReleasesUnusable
from boltseal.deploy.releases import check_project
from boltseal.errors import Unavailable, quote
from boltseal.files.atomic_files import Disk, write_file

FORMAT: Final = 1
_SECRET: Final = 0o600


class HostRunUnreadable(Unavailable):
    """The record of a run over several hosts is malformed."""


class RecordedHost(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One host of a run. `mark`: see `host_run`; `to`: the release that a rollback deploys again, None in a deploy."""

    host: str
    mark: int
    to: int | None = None


class RecordedFiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The files of a deployed project, as absolute paths: see `ProjectFiles`."""

    directory: str
    files: tuple[str, ...] = ()
    name: str | None = None
    project_directory: str | None = None
    profiles: tuple[str, ...] = ()
    env_files: tuple[str, ...] = ()

    @classmethod
    def of(cls, named: ProjectFiles) -> RecordedFiles:
        """Return the files of a project for the record."""
        return cls(
            directory=str(named.directory),
            files=tuple(map(str, named.files)),
            name=named.name,
            project_directory=None if named.project_directory is None else str(named.project_directory),
            profiles=named.profiles,
            env_files=tuple(map(str, named.env_files)),
        )

    def named(self) -> ProjectFiles:
        """Return the files to deploy."""
        folder = None if self.project_directory is None else Path(self.project_directory)
        files, env_files = tuple(map(Path, self.files)), tuple(map(Path, self.env_files))
        return ProjectFiles(Path(self.directory), files, self.name, folder, self.profiles, env_files)


class RecordedRun(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A run. `files`: None for a rollback; `services`: to which a deploy is restricted; `allow`: registries allowed by option.

    `canary_s`: how long the canary is watched. `back`: the run failed, and its hosts go back.
    """

    format: int = FORMAT
    project: str
    who: str
    started_us: int
    hosts: tuple[RecordedHost, ...]
    files: RecordedFiles | None = None
    services: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    anyway: bool = False
    at_once: int = 1
    canary: int = 0
    canary_s: float = 0.0
    back: bool = False

    @property
    def command(self) -> str:
        """The command that began the run."""
        return "rollback" if self.files is None else "deploy"

    def host(self, name: str) -> RecordedHost:
        """Return one host."""
        return next(each for each in self.hosts if each.host == name)


class HostRunFile:
    """The record of the run of one project. `state`: the user's state folder."""

    def __init__(self, state: Path, project: str) -> None:
        self._project = check_project(project)
        self._folder = state / "host-runs"
        self._path = self._folder / f"{project}.json"

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Exclude other runs over several hosts of this project by this user. Raises: AnotherDeploys, ReleasesUnusable."""
        with self._translated_errors():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(self._folder / f"{self._project}.lock", flags, _SECRET)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise AnotherDeploys(
                    f"{self._project} is being deployed to several hosts by another process; retry when it has ended"
                ) from error
            yield
        finally:
            os.close(fd)

    def read(self) -> RecordedRun | None:
        """Return the run that has not ended, None if there is none. Raises: HostRunUnreadable, ReleasesUnusable."""
        with self._translated_errors():
            try:
                raw = self._path.read_bytes()
            except FileNotFoundError:
                return None
        try:
            found = msgspec.json.decode(raw, type=RecordedRun)
        except (msgspec.MsgspecError, ValueError) as error:
            raise HostRunUnreadable(
                f"{self._path}: could not parse it: {quote(str(error), 200)[1:-1]}; remove it, and roll back single hosts"
            ) from error
        if found.format != FORMAT:
            raise HostRunUnreadable(
                f"{self._path}: unknown format (got {found.format}, expected {FORMAT}); use a newer boltseal"
            )
        return found

    def write(self, run: RecordedRun) -> RecordedRun:
        """Record a run durably, and return it. Raises: ReleasesUnusable."""
        with self._translated_errors():
            write_file(Disk(), self._path, msgspec.json.format(msgspec.json.encode(run)) + b"\n", _SECRET)
        return run

    def remove(self) -> None:
        """Remove the record: the run has ended. Raises: ReleasesUnusable."""
        with self._translated_errors():
            self._path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ReleasesUnusable(
                f"could not read or write the run over several hosts in {self._folder}: {error.strerror}; set another folder "
                "by BOLTSEAL_STATE"
            ) from error
