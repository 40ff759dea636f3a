"""Ask the running services of a store what they have in memory, over the Unix sockets on which they listen.

Docker's daemon, Podman's API service and CRI-O read the lists of names, images and layers when they start. Then they use those in
their memory, and do not notice that a file was changed by another program. Only reading requests are sent (version, info, images).
A service is found by its process, so that it is one that uses the store:

    Docker    /proc/locks: the process that has the databases of the store locked
    Podman    processes named podman of the store's owner that listen on a Unix socket, and report this store
    CRI-O     processes named crio; they have no such API, so they can't be asked

    /proc/PID/fd, net/unix    the sockets on which a process listens; no other is connected, so that no socket starts a service

A service that listens only on TCP can't be asked.

Any user may listen on sockets and choose their paths, also with line breaks that imitate lines of net/unix, and may start a program
with the rights of root that inherits such a socket. So a socket of which the table has two paths is not used, and the kernel must
report that the owner of the service, or root, made it listen (SO_PEERCRED of unix(7)).
"""

from __future__ import annotations

import os
import re
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from boltseal.engines.engine_locks import EngineProcess, locking_processes
from boltseal.engines.safe_open import readable
from boltseal.errors import BoltsealError, Unavailable
from boltseal.loading import deferred
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference

if TYPE_CHECKING:
    import asyncio

    from boltseal.engines import address, api
else:  # a check of a store that no service uses needs no client
    asyncio = deferred("asyncio")
    address = deferred("boltseal.engines.address")
    api = deferred("boltseal.engines.api")

WITHIN_S: Final = 60.0
MAX_TABLE_BYTES: Final = 16 * 1024 * 1024
_LISTENS: Final = 0x10000
"""The flag of a listening socket in /proc/PID/net/unix (__SO_ACCEPTCON)."""
_CONNECT_S: Final = 10.0
_CREDENTIALS: Final = struct.Struct("3i")
"""PID, user and group of a peer: struct ucred."""
_TABLE_LINE: Final = re.compile(
    rb"[0-9a-f]+: [0-9A-F]+ [0-9A-F]+ ([0-9A-F]{8}) [0-9A-F]+ [0-9A-F]+ +([0-9]+) (/.*)", re.DOTALL
)
"""A socket with a path: flags, inode, path."""
_OTHERS: Final = re.compile(rb"/(?:metrics|libnetwork/[0-9a-f]+)\.sock\Z")
"""Sockets of a daemon that do not have its API."""


class ServiceUnavailable(Unavailable):
    """A running service that can't be asked."""


class ServiceOfOtherStore(Unavailable):
    """A running service that uses another store."""


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """What a running service has in memory.

    `names`: the images of each name, of which a service with further stores may have several. `folders`: the folders of an
    image's layers, topmost first, relative to the store; empty if they are not reported, as with Docker's storage driver vfs.
    """

    names: Mapping[Reference, frozenset[Digest]] = field(default_factory=dict)
    folders: Mapping[Digest, tuple[str, ...]] = field(default_factory=dict)


def docker_services(root: Path, proc: Path = Path("/proc")) -> list[EngineProcess]:
    """Return the daemon that uses a data root of Docker, if one does."""
    return [EngineProcess(pid, _name(proc / str(pid))) for pid in sorted(locking_processes(root, proc))]


def podman_services(root: Path, proc: Path = Path("/proc")) -> list[EngineProcess]:
    """Return the services that may use a store of Podman."""
    try:
        owner = root.stat().st_uid
    except OSError:
        return []
    found = []
    for pid in sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdigit()):
        process = proc / str(pid)
        with suppress(OSError):  # it has ended
            name = _name(process)
            is_service = name == "crio" or (name == "podman" and _sockets(process))
            if is_service and process.stat().st_uid == owner and _is_same(process / "root", Path("/")):
                found.append(EngineProcess(pid, name))
    return found


def ask_service(
    service: EngineProcess, root: Path, images: Iterable[Digest], proc: Path = Path("/proc")
) -> EngineMemory:
    """Return what a service has in memory about names and these images. It must not be called in an event loop.

    Raises: ServiceUnavailable, ServiceOfOtherStore.
    """
    reasons: list[str] = []
    wanted = list(images)
    process = proc / str(service.pid)
    ends = time.monotonic() + WITHIN_S
    for paths in _sockets(process):
        try:
            if len(paths) != 1:
                raise ServiceUnavailable(
                    "the kernel's table of sockets is too large, or has several paths of its socket"
                )
            with _opened(process, paths[0]) as path:
                _check_listener(path, process.stat().st_uid)
                return asyncio.run(_asked(path, process, root, wanted, ends - time.monotonic()))
        except ServiceOfOtherStore:
            raise
        except (BoltsealError, OSError, TimeoutError) as error:
            reasons.append(error.message if isinstance(error, BoltsealError) else str(error) or "no answer in time")
    raise ServiceUnavailable("; ".join(dict.fromkeys(reasons)) or "it listens on no Unix socket")


async def _asked(path: str, process: Path, root: Path, images: list[Digest], within_s: float) -> EngineMemory:
    """Ask over the socket at `path`. Raises: BoltsealError, OSError, TimeoutError."""
    at = address.EngineAddress("unix", path=path)
    async with asyncio.timeout(within_s), api.connected(at) as engine:
        data = await _data_root(engine, root, process)
        names: dict[Reference, frozenset[Digest]] = {}
        for each in await engine.images():
            for name in (*each.names, *each.pulled_as):
                names[name] = names.get(name, frozenset()) | {each.id}
        found = await api.query_each(images, engine.layer_folders, api.NoSuchImage)
        folders = {
            image: tuple(each.removeprefix(f"{data}/") for each in mine)
            for image, mine in found.items()
            if mine is not None
        }
        return EngineMemory(names, folders)


async def _data_root(engine: api.Engine, root: Path, process: Path) -> str:
    """Return the store as the service names it. Raises: ServiceOfOtherStore."""
    named = await engine.data_root()
    if named is not None and _is_same(process / "root" / str(named).lstrip("/"), root):
        return str(named)
    raise ServiceOfOtherStore(f"its store is {named}")


def _is_same(path: Path, other: Path) -> bool:
    with suppress(OSError):
        return path.samefile(other)
    return False


def _name(process: Path) -> str:
    with suppress(OSError):
        return readable((process / "comm").read_bytes().rstrip(b"\n"))
    return ""


def _sockets(process: Path) -> list[tuple[bytes, ...]]:
    """Return the Unix sockets on which a process listens and that may have the API, `docker.sock` first.

    Each is given by all paths that the kernel's table has of it. A table that is too large has a socket without a path.
    """
    try:
        descriptors = list((process / "fd").iterdir())
        with (process / "net/unix").open("rb") as file:
            table = file.read(MAX_TABLE_BYTES + 1)
    except OSError:
        return []
    mine = set[bytes]()
    for each in descriptors:
        with suppress(OSError):  # closed meanwhile
            mine.add(os.fsencode(os.readlink(each)))  # noqa: PTH115 - no path
    if len(table) > MAX_TABLE_BYTES:
        return [()] if any(each.startswith(b"socket:") for each in mine) else []
    found: dict[bytes, tuple[bytes, ...]] = {}
    for line in table.split(b"\n"):
        match = _TABLE_LINE.fullmatch(line)
        if match is not None and int(match[1], 16) & _LISTENS and b"socket:[%s]" % match[2] in mine:
            found[match[2]] = (*found.get(match[2], ()), match[3])
    usable = [paths for paths in found.values() if not all(map(_OTHERS.search, paths))]
    return sorted(usable, key=lambda paths: not paths[0].endswith(b"/docker.sock"))


def _check_listener(path: str, owner: int) -> None:
    """Check which user made a socket listen. `owner`: of the service. Raises: ServiceUnavailable, OSError, TimeoutError."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_CONNECT_S)
        connection.connect(path)
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    user = _CREDENTIALS.unpack(raw)[1]
    if user not in (0, owner):
        raise ServiceUnavailable(f"user {user} listens on its socket (expected user {owner} or root)")


@contextmanager
def _opened(process: Path, name: bytes) -> Iterator[str]:
    """Open a socket in the process's view of the disk, and yield a path of it that is short enough to connect to.

    Raises: OSError.
    """
    descriptor = os.open(os.fsencode(process / "root") + name, os.O_PATH | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
