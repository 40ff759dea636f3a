"""Names as Go's archive/tar writes and reads them, since every engine unpacks layers with it."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from boltseal.host.scrub.layer_blob import BlobTar
from tests.attacks.scrub.clean_layers import LAYERS
from tests.go_programs import build_go
from tests.host.scrub.made_stores import NAMES_BY_GO, extended, record

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled Go program of names/main.go."""
    return build_go(Path(__file__).parent / "names/main.go", tmp_path_factory.mktemp("go") / "names")


def read_by_go(names: Path, tar: bytes) -> list[list[object]]:
    """Return name, type, size and link of each entry; names and links as byte values."""
    done = subprocess.run([names, "read"], input=tar, check=True, stdout=subprocess.PIPE)
    return [json.loads(line) for line in done.stdout.splitlines()]


def read_here(tar: bytes) -> list[list[object]]:
    entries = BlobTar(io.BytesIO(tar), "sha256", lambda _: None).entries()
    return [[list(each.name), each.kind.decode(), each.size, list(each.link)] for each in entries]


def test_the_stored_layer_is_what_go_writes(names: Path) -> None:
    """The layer that is rebuilt from its description equals byte for byte the one that Go's archive/tar wrote."""
    written = subprocess.run([names, "write"], check=True, stdout=subprocess.PIPE).stdout

    assert written == gzip.decompress(NAMES_BY_GO.read_bytes())


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_read_as_by_go(names: Path, name: str) -> None:
    """Every entry has the name, the type, the size and the link that Go gives it."""
    for tar in LAYERS[name]:
        assert read_here(tar) == read_by_go(names, tar)


def header(type_: bytes, name: str, size: int = 0) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.type, entry.size = type_, size
    return entry.tobuf(tarfile.USTAR_FORMAT) + bytes(-(-size // 512) * 512)


PAX, GNU = record(b"path", b"pax") + record(b"linkpath", b"to pax"), b"gnu\0"
UNUSUAL: dict[str, bytes] = {
    **{
        f"{how}-{old}-{new}-{type_!r}": extended(
            kind,
            record(b"path", new.encode()) if kind == b"x" else new.encode(),
            header(type_, old, 0 if (type_, new[-1]) == (tarfile.AREGTYPE, "/") else 7),
        )
        for how, kind in (("pax", b"x"), ("gnu", b"L"))
        for old in ("data/", "data")
        for new in ("other/", "other")
        for type_ in (tarfile.REGTYPE, tarfile.AREGTYPE)
    },
    "pax-then-gnu": extended(b"x", PAX, extended(b"L", GNU, extended(b"K", GNU, header(tarfile.SYMTYPE, "header")))),
    "gnu-then-pax": extended(b"L", GNU, extended(b"K", GNU, extended(b"x", PAX, header(tarfile.SYMTYPE, "header")))),
    "two-pax": extended(b"x", PAX, extended(b"x", record(b"path", b"last"), header(tarfile.SYMTYPE, "header"))),
    "two-pax-the-last-without-a-name": extended(
        b"x", PAX, extended(b"x", record(b"uid", b"1"), header(tarfile.SYMTYPE, "header"))
    ),
    "empty-pax": extended(b"x", record(b"path", b""), header(tarfile.AREGTYPE, "data/")),
    "empty-gnu": extended(b"L", b"\0", extended(b"x", PAX, header(tarfile.REGTYPE, "data/", 7))),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_an_unusual_entry_is_read_as_by_go(names: Path, name: str) -> None:
    """An entry with contradicting extended headers is read as Go reads it."""
    tar = UNUSUAL[name] + header(tarfile.REGTYPE, "after it") + bytes(1024)

    found = read_here(tar)

    assert found == read_by_go(names, tar)
    assert bytes(found[-1][0]) == b"after it"  # type: ignore[call-overload]
