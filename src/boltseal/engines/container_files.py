"""Single files inside a container, read and written through the engine's archive API, also while it does not run.

Compose copies secrets and configs whose value comes from a variable into a container after it has created it; the engine reports
nothing about them. Podman reports the container's user as owner of each file, so that written files are given to that user.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Final

from boltseal.engines.api import Engine, NoSuchContainer
from boltseal.engines.bounded_answers import chunks
from boltseal.engines.inventory import EngineMismatch, container_id
from boltseal.errors import quote

MAX_FILE_BYTES: Final = 1024 * 1024
MAX_ARCHIVE_BYTES: Final = 64 * 1024 * 1024
_MODES: Final = 0o7777
_TAR: Final = {"Content-Type": "application/x-tar"}


@dataclass(frozen=True, slots=True)
class ContainerFile:
    """A regular file in a container. `path`: absolute. `content` is None if it is larger than MAX_FILE_BYTES."""

    path: str
    content: bytes | None
    mode: int
    uid: int
    gid: int

    @property
    def shown_path(self) -> str:
        """The path for records and messages: quoted if it has bytes that are not UTF-8, or control characters."""
        return self.path if self.path.isprintable() else quote(self.path)


async def read_files(engine: Engine, container: str, path: str) -> list[ContainerFile]:
    """Return the regular files at a path of a container or below it; none if there is no such path.

    Raises: EngineMismatch: the engine's archive can't be read, or is larger than MAX_ARCHIVE_BYTES; errors of the engine.
    """
    with tempfile.TemporaryFile() as spooled:
        try:
            async with engine.stream(
                "GET", f"containers/{container_id(container)}/archive", params={"path": path}
            ) as answer:
                async for piece in chunks(answer, most=MAX_ARCHIVE_BYTES):
                    spooled.write(piece)
        except NoSuchContainer:  # or the path
            return []
        spooled.seek(0)
        try:
            return _files(spooled, PurePosixPath(path).parent)
        except (tarfile.TarError, OSError, ValueError, RecursionError) as error:
            raise EngineMismatch(f"the engine's archive of {path} can't be read: {error}") from error


def _files(file: IO[bytes], parent: PurePosixPath) -> list[ContainerFile]:
    found = []
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            name = PurePosixPath(member.name)
            if name.is_absolute() or ".." in name.parts:
                raise ValueError(f"it has a file elsewhere: {quote(member.name)}")
            content = None if member.issparse() or not member.isfile() else archive.extractfile(member)
            if content is not None:
                raw = None if member.size > MAX_FILE_BYTES else content.read()
                path = str(parent / name)
                found.append(ContainerFile(path, raw, member.mode & _MODES, member.uid, member.gid))
    return found


async def write_files(engine: Engine, container: str, files: Sequence[ContainerFile]) -> None:
    """Write files into a container, with their owners and modes; missing folders are created. Raises: errors of the engine."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for each in files:
            entry = tarfile.TarInfo(each.path.lstrip("/"))
            content = each.content or b""
            entry.size, entry.mode, entry.uid, entry.gid = len(content), each.mode, each.uid, each.gid
            archive.addfile(entry, io.BytesIO(content))
    await engine.ask(
        "PUT",
        f"containers/{container_id(container)}/archive",
        params={
            "path": "/",
            **({"copyUIDGID": "true"} if engine.about.podman else {}),
        },
        content=raw.getvalue(),
        headers=_TAR,
    )
