"""Tars as engines read them, and what is none."""

from __future__ import annotations

import gzip
import io
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.oci.digest import Digest
from boltseal.runtimes.beneath import Beneath
from boltseal.scrub.blobtar import BlobTar
from boltseal.scrub.tarheader import FOLDER, REGULAR, SYMLINK, Header, TarMalformed, clean, parse_group
from boltseal.scrub.tarsplit import entries
from tests.scrub.making import layer_tar, split

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CONTENT = {"etc/passwd": b"root\n", "bin/tool": b"tool" * 1000, "empty": b""}


def headers(tar: bytes) -> list[Header]:
    """The entries of a tar."""
    return list(BlobTar(io.BytesIO(tar), "sha256", lambda _: None).entries())


def one(entry: tarfile.TarInfo, format_: Literal[0, 1, 2] = tarfile.PAX_FORMAT) -> Header:
    """An entry as Python writes it and as it is read here."""
    return parse_group(entry.tobuf(format_, errors="surrogateescape"))


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_an_entry_is_read_as_it_was_written(format_: Literal[0, 1, 2]) -> None:
    """In each of the formats."""
    entry = tarfile.TarInfo("some/" + "n" * 90 + "/file")
    entry.size, entry.mode, entry.uid, entry.gid, entry.mtime = 123_456, 0o4755, 1000, 1001, 1_700_000_000

    found = one(entry, format_)

    assert (found.name.decode(), found.kind, found.size, found.stored) == (entry.name, REGULAR, 123_456, 123_456)
    assert (found.mode, found.uid, found.gid, found.mtime_ns) == (0o4755, 1000, 1001, 1_700_000_000 * 10**9)


@pytest.mark.parametrize("format_", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_does_not_fit_into_a_header_is_read_from_before_it(format_: Literal[0, 1, 2]) -> None:
    """Long names, long links, large numbers."""
    entry = tarfile.TarInfo("n" * 300)
    entry.type, entry.linkname, entry.uid = tarfile.SYMTYPE, "l" * 300, 3_000_000

    found = one(entry, format_)

    assert (found.name, found.kind, found.link, found.uid) == (b"n" * 300, SYMLINK, b"l" * 300, 3_000_000)


def test_a_time_of_pax_keeps_its_nanoseconds() -> None:
    """And says that it is exact; one of a plain header does not."""
    entry = tarfile.TarInfo("f")
    entry.pax_headers = {"mtime": "1700000000.1234567891"}

    assert (one(entry).mtime_ns, one(entry).exact) == (1_700_000_000_123_456_789, True)
    assert not one(tarfile.TarInfo("f")).exact


def test_a_file_whose_name_ends_in_a_slash_is_a_folder() -> None:
    """Engines take it so."""
    assert one(tarfile.TarInfo("f/")).kind == FOLDER


def test_a_name_in_latin_1_stays_the_bytes_that_it_is() -> None:
    """A layer may hold names that are no UTF-8."""
    assert one(tarfile.TarInfo("caf\udce9"), tarfile.GNU_FORMAT).name == b"caf\xe9"


def test_extended_attributes_stand_in_their_records() -> None:
    """As bytes, without the prefix."""
    entry = tarfile.TarInfo("f")
    entry.pax_headers = {"SCHILY.xattr.user.mine": "1"}

    assert one(entry).xattrs == {b"user.mine": b"1"}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff" * 512,
        b"f".ljust(156, b"\0") + b"?" + b"\0" * 355,
        one.__doc__.encode().ljust(512, b"x"),  # type: ignore[union-attr]
        tarfile.TarInfo("f").tobuf() * 2,
        tarfile.TarInfo("f").tobuf() + b"content".ljust(512, b"\0"),
    ],
    ids=["nothing", "ones", "unknown-type", "text", "two-headers", "content-behind-it"],
)
def test_what_is_no_header_is_refused(raw: bytes) -> None:
    """Also one with more behind it: nobody would compare that."""
    with pytest.raises(TarMalformed):
        parse_group(raw)


@pytest.mark.parametrize(
    "record", [b"999 path=x\n", b"x path=x\n", b"9 path x\n", b"99999999999999999999999 a=b\n", b"5 a"]
)
def test_a_record_that_is_none_is_refused(record: bytes) -> None:
    """Lengths that lead nowhere, numbers that do not end."""
    extended = tarfile.TarInfo("PaxHeader")
    extended.type, extended.size = tarfile.XHDTYPE, len(record)
    raw = extended.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0") + tarfile.TarInfo("f").tobuf()

    with pytest.raises(TarMalformed):
        parse_group(raw)


@given(st.binary(max_size=1024))
def test_any_bytes_are_a_header_or_refused(raw: bytes) -> None:
    """Nothing else ever comes out."""
    try:
        parse_group(raw)
    except TarMalformed:
        return

    assert len(raw) >= 512


@pytest.mark.parametrize("name", [b"../x", b"a/../../x", b"/../x", b".."])
def test_a_name_that_leads_out_of_its_layer_is_refused(name: bytes) -> None:
    """However it is written."""
    with pytest.raises(TarMalformed):
        clean(name)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        (b"a", b"a"),
        (b"./a/", b"a"),
        (b"/a", b"a"),
        (b"a//b", b"a/b"),
        (b"a/./b", b"a/b"),
        (b"a/../b", b"b"),
        (b"a/.b", b"a/.b"),
        (b"a/...", b"a/..."),
        (b"./", b""),
        (b"..a", b"..a"),
    ],
)
def test_a_name_is_placed_where_engines_place_it(name: bytes, place: bytes) -> None:
    """Relative to the layer, without empty parts."""
    assert clean(name) == place


COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda tar: tar,
    "gzip": gzip.compress,
    "gzip-members": lambda tar: gzip.compress(tar[:700]) + gzip.compress(tar[700:]),
    "gzip-padded": lambda tar: gzip.compress(tar) + b"\0" * 512,
    "zstd": zstd.compress,
    "zstd-frames": lambda tar: zstd.compress(tar[:700]) + b"\x50\x2a\x4d\x18\x04\0\0\0skip" + zstd.compress(tar[700:]),
}


@pytest.mark.parametrize("how", COMPRESSED)
def test_a_blob_is_hashed_as_it_lies_and_as_what_is_in_it(how: str) -> None:
    """However it is compressed, in one piece or in several."""
    tar = layer_tar(CONTENT)
    blob = COMPRESSED[how](tar)
    read = BlobTar(io.BytesIO(blob), "sha256", lambda _: None)

    found = {header.name: b"".join(read.content()) for header in read.entries() if header.kind == REGULAR}

    assert found == {name.encode(): content for name, content in CONTENT.items()}
    assert (read.digest, read.diff_id) == (Digest.of(blob), Digest.of(tar).hex)


@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_a_compressed_blob_that_is_cut_off_is_refused(how: str) -> None:
    """Also if all entries came whole."""
    blob = COMPRESSED[how](layer_tar(CONTENT))

    with pytest.raises(TarMalformed):
        headers(blob[:-1])


def test_a_tar_that_ends_in_a_file_is_refused() -> None:
    """What is missing can't be compared."""
    with pytest.raises(TarMalformed):
        headers(layer_tar({"f": b"x" * 5000})[:2000])


def test_a_zstd_frame_that_wants_gigabytes_of_memory_is_refused() -> None:
    """Its header may ask for a window of any size."""
    with pytest.raises(TarMalformed):
        headers(b"\x28\xb5\x2f\xfd" + b"\x00" + b"\xf8" + b"\x01\x00\x00")


def test_a_tar_split_gives_all_headers_and_all_bytes_but_the_files(tmp_path: Path) -> None:
    """In the tar's order; what is left stands at the end."""
    tar = layer_tar(CONTENT)
    (tmp_path / "split").write_bytes(split(tar))

    with Beneath(tmp_path) as files, files.opened(b"split") as fd, open(fd, "rb", closefd=False) as file:
        found = list(entries(file))

    names = [header.name.rstrip(b"/").decode() for _, header in found if header is not None]
    assert names == ["etc", "etc/passwd", "bin", "bin/tool", "empty"]
    assert sum(len(raw) for raw, _ in found) == len(tar) - sum(map(len, CONTENT.values()))


@pytest.mark.parametrize(
    "map_", ["0,99999999999999999999", "99999999999999999999,1", "-1,1", "0,-5", "0,11"], ids=lambda text: text[:8]
)
def test_a_map_of_a_sparse_file_that_leads_out_of_it_is_refused(map_: str) -> None:
    """Such offsets are none that a file can be read at."""
    entry = tarfile.TarInfo("f")
    entry.pax_headers = {"GNU.sparse.size": "10", "GNU.sparse.map": map_}

    with pytest.raises(TarMalformed):
        one(entry)


def test_a_map_of_a_sparse_file_without_an_end_is_refused() -> None:
    """It stands in the content, and could be as long as that."""
    entry = tarfile.TarInfo("f")
    entry.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "10"}
    entry.size = 50_000_000
    tar = BlobTar(io.BytesIO(entry.tobuf(tarfile.PAX_FORMAT) + b"1" * entry.size), "sha256", lambda _: None)
    next(tar.entries())

    with pytest.raises(TarMalformed):
        tar.sparse_map()
