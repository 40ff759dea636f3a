"""The archive of images beside the releases, filled by an engine that lies."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from boltseal.engines.api import connected
from boltseal.errors import BoltsealError
from boltseal.host.image_archive import ImageArchive
from boltseal.oci.digest import Digest
from tests.fakes.engine import FakeEngine

INDEX = {"schemaVersion": 2, "manifests": [{"digest": f"sha256:{'0' * 64}", "size": 2}]}
NAME = "shop/app:1"


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
