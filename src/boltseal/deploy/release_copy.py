"""The releases of a project on its engine, for all administrators of it, and the lock that admits one deploy at a time.

Both are one container that is never started (`engines.release_volume`): its name is the lock, and it has the volume with the
releases. Its labels say who deploys, since when, and by which command.

A process that was killed leaves the container. It is removed at once if it is known to be stale: it was made on this machine,
by a process that no longer runs. What another machine left is removed by a person: `boltseal release unlock`.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boltseal.deploy.release_exchange import exchanged, files_in_volume, outdated_files, releases_in_volume
from boltseal.deploy.release_file import StoredRelease
from boltseal.deploy.release_store import AnotherDeploys, ReleaseFolder
from boltseal.engines.address import EngineAddress
from boltseal.engines.api import Engine, NoSuchContainer
from boltseal.engines.engine_thread import EngineThread
from boltseal.engines.release_volume import NameTaken, VolumeContainer, labels_of, remove_container
from boltseal.errors import BoltsealError
from boltseal.lockfile.format import time_text

LOCK_PREFIX: Final = "boltseal-deploying-"
_LABEL: Final = "io.boltseal.deploy."
_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class LockOwner:
    """A process that deploys. `who`: user@host; `reason`: its command; `process`: where it runs, see `this_process`."""

    who: str
    reason: str
    since_us: int
    process: str

    def labels(self) -> dict[str, str]:
        """Return the labels of its container."""
        values = {"owner": self.who, "reason": self.reason, "since": time_text(self.since_us), "process": self.process}
        return {_LABEL + key: value for key, value in values.items()}


@dataclass(frozen=True, slots=True)
class HeldLock:
    """The lock of a project as its container's labels have it. `id`: of the container."""

    id: str
    who: str
    reason: str
    since: str
    process: str

    @classmethod
    def of(cls, id_: str, labels: Mapping[str, str]) -> HeldLock:
        """Return the lock of a container."""
        values = [labels.get(_LABEL + key, "unknown") for key in ("owner", "reason", "since", "process")]
        return cls(id_, *values)

    def __str__(self) -> str:
        return f"{self.who} since {self.since} (boltseal {self.reason})"


def this_process(proc: Path = Path("/proc"), machine_id: Path = Path("/etc/machine-id")) -> str:
    """Return what identifies this process among those of all machines: MACHINE/BOOT/PID-NAMESPACE/PID/START; "" if unknown."""
    try:
        machine = hashlib.sha256(b"boltseal " + machine_id.read_bytes()).hexdigest()[:16]
        boot = (proc / "sys/kernel/random/boot_id").read_text().strip()
        namespace = str((proc / "self/ns/pid").readlink())
        started = _start_time(proc, os.getpid())
    except OSError:
        return ""
    return f"{machine}/{boot}/{namespace}/{os.getpid()}/{started}"


def is_stale(process: str, here: str, *, local: bool, proc: Path = Path("/proc")) -> bool:
    """Return whether a process is known to have ended. `here`: `this_process`; `local`: whether the engine is on this machine.

    Only a process of this machine and process namespace can be looked up. Where /proc hides the processes of other users (option
    `hidepid` of proc(5)), one with this PID counts as running. After a restart of the machine of a local engine,
    every process from before has ended.
    """
    theirs, ours = process.split("/"), here.split("/")
    if len(theirs) != len(ours) or len(ours) < 5 or theirs[0] != ours[0]:
        return False
    if theirs[1] != ours[1]:
        return local
    if theirs[2] != ours[2] or not theirs[3].isdecimal():
        return False
    pid = int(theirs[3])
    try:
        return _start_time(proc, pid) != theirs[4]
    except OSError:
        return not _exists(pid)


def _exists(pid: int) -> bool:
    """Return whether there is a process with this PID, also one that /proc does not show."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _start_time(proc: Path, pid: int) -> str:
    """Return the start time of a process, field 22 of proc_pid_stat(5). Raises: OSError: there is none."""
    return (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[19]


class EngineCopy:
    """Implements `release_store.ReleaseCopy` for one project. `authoritative`: whether the folder's releases keep their numbers."""

    def __init__(
        self,
        address: EngineAddress,
        project: str,
        owner: LockOwner,
        notice: Callable[[str], None],
        *,
        authoritative: bool,
    ) -> None:
        self._address = address
        self._thread: EngineThread | None = None
        self._local = address.scheme == "unix"
        self._project = project
        self._owner = owner
        self._notice = notice
        self._authoritative = authoritative
        self._container: VolumeContainer | None = None

    def lock(self) -> None:
        """Exclude all other deploys of the project on the engine. Raises: AnotherDeploys; errors of the engine."""
        thread = EngineThread(self._address)
        thread.start()
        try:
            self._container = thread.call(self._locked)
        except BaseException:  # also Ctrl-C: nothing else ends the thread, since the lock is not held
            thread.stop()
            raise
        self._thread = thread

    def unlock(self) -> None:
        """Admit other deploys again. A failure is a notice: the next deploy finds the lock stale."""
        thread = self._connection()
        try:
            thread.call(lambda _engine: self._locking_container().remove())
        except BoltsealError as error:
            self._notice(f"boltseal: the lock of {self._project} was not removed: {error.message}")
        finally:
            self._container = self._thread = None
            thread.stop()

    def exchange(self, folder: ReleaseFolder) -> None:
        """Bring folder and engine to the same state: releases, and the key of environment values."""
        files = self._connection().call(lambda _engine: self._locking_container().read(self._project))
        theirs = releases_in_volume(files, self._project)
        found = exchanged(folder.stored(), theirs, authoritative=self._authoritative)
        for each in found.to_folder:
            folder.put(each, copy=False)
        written = outdated_files(files, theirs)
        for each in found.to_engine:
            written |= files_in_volume(each)
        lacking = {f"{self._project}/{name}": raw for name, raw in written.items()}
        key = files.get("key")
        if key is not None and not (self._authoritative and folder.has_key()):
            folder.key(key)
        elif key != folder.key():
            lacking[f"{self._project}/key"] = folder.key()
        if lacking:
            self._connection().call(lambda _engine: self._locking_container().write(lacking))

    def put(self, stored: StoredRelease) -> None:
        """Write one release to the engine. Raises: AnotherDeploys: the lock was removed, and another process has it."""
        files = {f"{self._project}/{name}": raw for name, raw in files_in_volume(stored).items()}
        try:
            self._connection().call(lambda engine: self._write(engine, files))
        except AnotherDeploys:
            raise
        except BoltsealError as error:
            self._notice(
                f"boltseal: release {stored.release.number} of {self._project} is only on this machine so far: {error.message}"
            )

    async def _write(self, engine: Engine, files: Mapping[str, bytes]) -> None:
        try:
            await self._locking_container().write(files)
        except NoSuchContainer:  # `docker container prune` removes what does not run
            self._container = await self._locked(engine)
            await self._container.write(files)

    async def _locked(self, engine: Engine) -> VolumeContainer:
        name = LOCK_PREFIX + self._project
        for _ in range(_TRIES):
            try:
                return await VolumeContainer.create(engine, name, self._owner.labels())
            except NameTaken:
                held = await held_lock(engine, self._project)
                if held is None:
                    continue
                if not is_stale(held.process, self._owner.process, local=self._local):
                    raise AnotherDeploys(
                        f"{self._project} is being deployed by {held}; retry when it has ended. If that process is gone: "
                        f"`boltseal release unlock --project-name {self._project}{self._host_option}`"
                    ) from None
                self._notice(f"boltseal: removed the lock of {held}: that process has ended")
                await remove_container(engine, held.id)
        raise AnotherDeploys(f"{self._project} is being deployed by other processes again and again; retry later")

    @property
    def _host_option(self) -> str:
        """Return the `--host` option for this engine, for a command that a message proposes; "" for an engine of this machine."""
        return "" if self._local else f" --host {shlex.quote(str(self._address))}"

    def _connection(self) -> EngineThread:
        if self._thread is None:
            raise AssertionError("the lock is not held")
        return self._thread

    def _locking_container(self) -> VolumeContainer:
        if self._container is None:
            raise AssertionError("the lock is not held")
        return self._container


async def held_lock(engine: Engine, project: str) -> HeldLock | None:
    """Return who deploys a project on an engine now, None if it is not locked."""
    try:
        return HeldLock.of(*await labels_of(engine, LOCK_PREFIX + project))
    except NoSuchContainer:
        return None
