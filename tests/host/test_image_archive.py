"""The archive of images beside the releases, filled by an engine that lies."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from boltseal.engines.api import connected
from boltseal.errors import BoltsealError
from boltseal.host.image_archive import ArchiveUnusable, ImageArchive
from boltseal.oci.digest import Digest
from tests.fakes.engine import FakeEngine

INDEX = {"schemaVersion": 2, "manifests": [{"digest": f"sha256:{'0' * 64}", "size": 2}]}
NAME = "shop/app:1"
HOLE_BYTES = 1024 * 1024


@pytest.mark.parametrize(
    "blob",
    [
        "../../../outside/planted",
        "/../../../outside/planted",
        f"../sha256/{'0' * 64}",
        "index.json",
        "",
        "A" * 64,
        "0" * 64,
    ],
)
async def test_a_saved_blob_whose_name_is_not_its_hash_is_written_nowhere(tmp_path: Path, blob: str) -> None:
    """A blob that an engine saved under another name than its hash is refused, and no file is left in any folder."""
    (tmp_path / "outside").mkdir()
    fake = FakeEngine()
    image = Digest.parse(fake.image("words", NAME))
    fake.saved = saved({"index.json": json.dumps(INDEX).encode(), f"blobs/sha256/{blob}": b"{}"})
    archive = ImageArchive(tmp_path / "releases")
    async with fake.listening(tmp_path) as address, connected(address) as engine:
        with pytest.raises(BoltsealError):
            await archive.add(engine, image)

    assert files_in(tmp_path) == ["lock"]
    assert archive.ids() == frozenset()


async def test_a_sparse_file_is_not_expanded(tmp_path: Path) -> None:
    """A sparse blob, whose holes would fill the disk, is refused before anything is written."""
    fake = FakeEngine()
    image = Digest.parse(fake.image("words", NAME))
    entry = tarfile.TarInfo(f"blobs/sha256/{hashlib.sha256(bytes(HOLE_BYTES)).hexdigest()}")
    entry.pax_headers = {"GNU.sparse.map": f"{HOLE_BYTES},0", "GNU.sparse.size": str(HOLE_BYTES)}
    fake.saved = entry.tobuf(tarfile.PAX_FORMAT) + saved({"index.json": json.dumps(INDEX).encode()})
    async with fake.listening(tmp_path) as address, connected(address) as engine:
        with pytest.raises(ArchiveUnusable, match="sparse file"):
            await ImageArchive(tmp_path / "releases").add(engine, image)

    assert files_in(tmp_path) == ["lock"]


async def test_thousands_of_extended_headers_are_refused(tmp_path: Path) -> None:
    """Extended headers of one file, more than Python's tar reader can follow, make the saved image unusable."""
    fake = FakeEngine()
    image = Digest.parse(fake.image("words", NAME))
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 5
    fake.saved = (entry.tobuf(tarfile.USTAR_FORMAT) + b"name".ljust(512, b"\0")) * 3000 + saved({"index.json": b""})
    async with fake.listening(tmp_path) as address, connected(address) as engine:
        with pytest.raises(ArchiveUnusable, match="can't be read"):
            await ImageArchive(tmp_path / "releases").add(engine, image)


def files_in(folder: Path) -> list[str]:
    """Return the names of all files below a folder."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def saved(files: Mapping[str, bytes]) -> bytes:
    """Return a tar of these files."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return made.getvalue()
