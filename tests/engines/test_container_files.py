"""Files of a container in an engine's archive, which is hostile input."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from boltseal.engines.api import connected
from boltseal.engines.container_files import ContainerFile, read_files
from boltseal.engines.inventory import EngineMismatch
from tests.fakes.engine import FakeEngine, Wrong

CONTAINER = "c" * 64
END = b"\0" * 1024


def archive(*entries: tarfile.TarInfo) -> bytes:
    """Return an archive of entries without content."""
    return b"".join(entry.tobuf(tarfile.PAX_FORMAT) for entry in entries) + END


def extended_headers(number: int, kind: bytes) -> bytes:
    """Return an archive with so many extended headers before one file."""
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = kind, 11
    header = entry.tobuf(tarfile.USTAR_FORMAT) + b"11 a=bcdef\n".ljust(512, b"\0")
    return header * number + archive(tarfile.TarInfo("file"))


async def read(folder: Path, raw: bytes) -> list[ContainerFile]:
    """Return the files below /run/secrets, as read from an engine that answers with an archive."""
    fake = FakeEngine()
    fake.wrong[f"containers/{CONTAINER}/archive"] = Wrong(200, raw, "application/x-tar")
    async with fake.listening(folder) as address, connected(address) as engine:
        return await read_files(engine, CONTAINER, "/run/secrets")


async def test_files_have_absolute_paths(tmp_path: Path) -> None:
    """The names in the archive begin with the last part of the path that was asked for."""
    found = await read(tmp_path, archive(tarfile.TarInfo("secrets/token")))

    assert [each.path for each in found] == ["/run/secrets/token"]


async def test_a_name_that_is_not_utf_8_is_shown_with_escapes(tmp_path: Path) -> None:
    """A container's process chooses the names in its folders; one with any bytes can be recorded and printed."""
    entry = tarfile.TarInfo(b"secrets/to\xffken".decode(errors="surrogateescape"))
    (found,) = await read(tmp_path, entry.tobuf(tarfile.GNU_FORMAT) + END)

    assert found.shown_path.encode() == rb'"/run/secrets/to\udcffken"'


@pytest.mark.parametrize("name", ["secrets/../../etc/passwd", "../token", "/etc/passwd"])
async def test_a_file_outside_of_the_path_is_refused(tmp_path: Path, name: str) -> None:
    """A name that leads out of the folder makes the archive unreadable, so that nothing is restored from it."""
    with pytest.raises(EngineMismatch, match="it has a file elsewhere"):
        await read(tmp_path, archive(tarfile.TarInfo(name)))


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME], ids=["pax", "gnu"])
async def test_thousands_of_extended_headers_are_refused(tmp_path: Path, kind: bytes) -> None:
    """Extended headers of one file, more than Python's tar reader can follow, make the archive unreadable."""
    with pytest.raises(EngineMismatch, match="can't be read"):
        await read(tmp_path, extended_headers(3000, kind))
