"""Parsing tars as engines do, and refusing malformed ones."""

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

from boltseal.engines.safe_open import SafeFolder
from boltseal.host.scrub.layer_blob import BlobTar
from boltseal.host.scrub.tar_header import (
    FOLDER,
    HARDLINK,
    REGULAR,
    SYMLINK,
    Header,
    TarMalformed,
    clean,
    parse_group,
)
from boltseal.host.scrub.tar_split import entries
from boltseal.oci.digest import Digest
from tests.host.scrub.made_stores import NAMES_BY_GO, extended, layer_tar, record, split

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CONTENT = {"etc/passwd": b"root\n", "bin/tool": b"tool" * 1000, "empty": b""}


def headers(tar: bytes) -> list[Header]:
    """Return the entries of a tar."""
    return list(BlobTar(io.BytesIO(tar), "sha256", lambda _: None).entries())


def written_and_parsed(entry: tarfile.TarInfo, format_: Literal[0, 1, 2] = tarfile.PAX_FORMAT) -> Header:
    """Return an entry as Python writes it, and as boltseal parses it."""
    return parse_group(entry.tobuf(format_, errors="surrogateescape"))


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_an_entry_is_read_as_it_was_written(format_: Literal[0, 1, 2]) -> None:
    """A parsed entry equals the written one in each tar format."""
    entry = tarfile.TarInfo("some/" + "n" * 90 + "/file")
    entry.size, entry.mode, entry.uid, entry.gid, entry.mtime = 123_456, 0o4755, 1000, 1001, 1_700_000_000

    found = written_and_parsed(entry, format_)

    assert (found.name.decode(), found.kind, found.size, found.stored) == (entry.name, REGULAR, 123_456, 123_456)
    assert (found.mode, found.uid, found.gid, found.mtime_ns) == (0o4755, 1000, 1001, 1_700_000_000 * 10**9)


@pytest.mark.parametrize("format_", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_extended_headers_are_read(format_: Literal[0, 1, 2]) -> None:
    """Extended headers with long names, long links and large numbers are read."""
    entry = tarfile.TarInfo("n" * 300)
    entry.type, entry.linkname, entry.uid = tarfile.SYMTYPE, "l" * 300, 3_000_000

    found = written_and_parsed(entry, format_)

    assert (found.name, found.kind, found.link, found.uid) == (b"n" * 300, SYMLINK, b"l" * 300, 3_000_000)


def test_a_time_of_pax_keeps_its_nanoseconds() -> None:
    """A PAX time keeps its nanoseconds and is marked as exact; other times are not."""
    entry = tarfile.TarInfo("f")
    entry.pax_headers = {"mtime": "1700000000.1234567891"}

    assert (written_and_parsed(entry).mtime_ns, written_and_parsed(entry).exact) == (1_700_000_000_123_456_789, True)
    assert not written_and_parsed(tarfile.TarInfo("f")).exact


def of_type(type_: bytes, name: str = "f/") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.size = type_, 7
    return entry


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["f/", "n" * 90 + "/" + "n" * 90 + "/"], ids=["short", "long"])
def test_a_slash_makes_a_folder_of_an_entry_of_the_v7_type_only(name: str, format_: Literal[0, 1, 2]) -> None:
    """As in Go's archive/tar, a trailing slash makes a folder of an entry of the v7 type only."""
    old, new = (
        written_and_parsed(of_type(tarfile.AREGTYPE, name), format_),
        written_and_parsed(of_type(tarfile.REGTYPE, name), format_),
    )

    assert (old.name.decode(), old.kind, old.size, old.stored) == (name, FOLDER, 0, 0)
    assert (new.name.decode(), new.kind, new.size, new.stored) == (name, REGULAR, 7, 7)


@pytest.mark.parametrize("type_", [tarfile.REGTYPE, tarfile.AREGTYPE])
@pytest.mark.parametrize("how", [b"x", b"L"], ids=["pax", "gnu"])
def test_the_effective_name_decides_what_an_entry_is(type_: bytes, how: bytes) -> None:
    """The effective name decides an entry's kind, since Go writes "data/" in the header of "data/日本語"."""
    name = "data/日本語".encode()
    raw = extended(how, record(b"path", name) if how == b"x" else name + b"\0", of_type(type_, "data/").tobuf())

    found = parse_group(raw)

    assert (found.name, found.kind, found.size, found.stored) == (name, REGULAR, 7, 7)


def test_an_entry_of_the_v7_type_is_a_folder_by_its_effective_name() -> None:
    """An entry of the v7 type whose effective name ends with a slash is a folder, whatever its header's name."""
    found = parse_group(extended(b"x", record(b"path", b"data/"), of_type(tarfile.AREGTYPE, "data").tobuf()))

    assert (found.name, found.kind, found.size, found.stored) == (b"data/", FOLDER, 0, 0)


@pytest.mark.parametrize("first", ["pax", "gnu"])
def test_a_gnu_long_name_takes_precedence_over_a_pax_path(first: str) -> None:
    """As in Go's archive/tar, a GNU long name or link takes precedence over PAX in either order."""
    entry = of_type(tarfile.SYMTYPE, "header")
    pax = record(b"path", b"pax") + record(b"linkpath", b"to pax")
    if first == "pax":
        raw = extended(b"x", pax, extended(b"L", b"gnu\0", extended(b"K", b"to gnu\0", entry.tobuf())))
    else:
        raw = extended(b"L", b"gnu\0", extended(b"K", b"to gnu\0", extended(b"x", pax, entry.tobuf())))

    assert (parse_group(raw).name, parse_group(raw).link) == (b"gnu", b"to gnu")


def test_the_last_of_several_pax_headers_counts() -> None:
    """As in Go's archive/tar, the last of several PAX headers counts, and earlier records are dropped."""
    last = extended(b"x", record(b"path", b"last"), tarfile.TarInfo("header").tobuf())
    found = parse_group(extended(b"x", record(b"path", b"first") + record(b"uid", b"7"), last))

    assert (found.name, found.uid) == (b"last", 0)


def test_names_written_by_go_are_read() -> None:
    """Non-ASCII and long names of files, folders and links in each of Go's formats are read."""
    tar = gzip.decompress(NAMES_BY_GO.read_bytes())
    kinds = {tarfile.REGTYPE: REGULAR, tarfile.DIRTYPE: FOLDER, tarfile.SYMTYPE: SYMLINK, tarfile.LNKTYPE: HARDLINK}
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        expected = [(each.name, kinds[each.type], each.linkname, each.size) for each in opened]

    found = headers(tar)

    assert [(each.name.rstrip(b"/").decode(), each.kind, each.link.decode(), each.size) for each in found] == expected
    assert ("go/日本語", REGULAR, "", len("content of go/日本語".encode())) in expected
    assert {each.name for each in found if each.kind == FOLDER} == {
        each.name for each in found if each.name[-1:] == b"/"
    }
    assert len(found) == 73


def test_a_name_in_latin_1_keeps_its_bytes() -> None:
    """A name in Latin-1 keeps its bytes, since names need not be UTF-8."""
    assert written_and_parsed(tarfile.TarInfo("caf\udce9"), tarfile.GNU_FORMAT).name == b"caf\xe9"


def test_extended_attributes_are_read_from_their_records() -> None:
    """Extended attributes are read as bytes without the PAX prefix."""
    entry = tarfile.TarInfo("f")
    entry.pax_headers = {"SCHILY.xattr.user.mine": "1"}

    assert written_and_parsed(entry).xattrs == {b"user.mine": b"1"}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff" * 512,
        b"f".ljust(156, b"\0") + b"?" + b"\0" * 355,
        written_and_parsed.__doc__.encode().ljust(512, b"x"),  # type: ignore[union-attr]
        tarfile.TarInfo("f").tobuf() * 2,
        tarfile.TarInfo("f").tobuf() + b"content".ljust(512, b"\0"),
    ],
    ids=["nothing", "ones", "unknown-type", "text", "two-headers", "content-behind-it"],
)
def test_a_malformed_header_is_refused(raw: bytes) -> None:
    """A malformed header is refused, also one followed by bytes that would never be compared."""
    with pytest.raises(TarMalformed):
        parse_group(raw)


@pytest.mark.parametrize(
    "record", [b"999 path=x\n", b"x path=x\n", b"9 path x\n", b"99999999999999999999999 a=b\n", b"5 a"]
)
def test_a_malformed_record_is_refused(record: bytes) -> None:
    """A malformed PAX record, with a wrong length or an endless number, is refused."""
    extended = tarfile.TarInfo("PaxHeader")
    extended.type, extended.size = tarfile.XHDTYPE, len(record)
    raw = extended.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0") + tarfile.TarInfo("f").tobuf()

    with pytest.raises(TarMalformed):
        parse_group(raw)


@given(st.binary(max_size=1024))
def test_any_bytes_are_a_header_or_refused(raw: bytes) -> None:
    """Any bytes are parsed as a header or refused, and no other exception is raised."""
    try:
        parse_group(raw)
    except TarMalformed:
        return

    assert len(raw) >= 512


@given(st.lists(st.sampled_from([b"", b".", b"..", b"a", b"..b", b"c"]), max_size=8))
def test_no_name_is_outside_of_its_layer(parts: list[bytes]) -> None:
    """However a name is written, its path is relative, within the layer, and without `..`."""
    path = clean(b"/".join(parts))

    assert not path.startswith(b"/")
    assert not {b"", b".", b".."}.intersection(path.split(b"/") if path else ())


@pytest.mark.parametrize(
    ("name", "place"),
    [
        (b"a", b"a"),
        (b"./a/", b"a"),
        (b"/a", b"a"),
        (b"a//b", b"a/b"),
        (b"a/./b", b"a/b"),
        (b"a/../b", b"b"),
        (b"../x", b"x"),
        (b"/../x", b"x"),
        (b"a/../../x", b"x"),
        (b"..", b""),
        (b"a/.b", b"a/.b"),
        (b"a/...", b"a/..."),
        (b"./", b""),
        (b"..a", b"..a"),
    ],
)
def test_a_name_is_normalized_as_by_engines(name: bytes, place: bytes) -> None:
    """As in engines, a name is normalized: relative to the layer, without empty parts."""
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
def test_a_blob_is_hashed_compressed_and_decompressed(how: str) -> None:
    """A blob is hashed compressed and decompressed, with any compression, in one frame or several."""
    tar = layer_tar(CONTENT)
    blob = COMPRESSED[how](tar)
    read = BlobTar(io.BytesIO(blob), "sha256", lambda _: None)

    found = {header.name: b"".join(read.content()) for header in read.entries() if header.kind == REGULAR}

    assert found == {name.encode(): content for name, content in CONTENT.items()}
    assert (read.digest, read.diff_id) == (Digest.of(blob), Digest.of(tar).hex)


@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_a_truncated_compressed_blob_is_refused(how: str) -> None:
    """A truncated compressed blob is refused, even if all entries are complete."""
    blob = COMPRESSED[how](layer_tar(CONTENT))

    with pytest.raises(TarMalformed):
        headers(blob[:-1])


def test_a_tar_that_ends_in_a_file_is_refused() -> None:
    """A tar that ends within a file is refused, since the missing content can't be compared."""
    with pytest.raises(TarMalformed):
        headers(layer_tar({"f": b"x" * 5000})[:2000])


def test_a_zstd_frame_that_wants_gigabytes_of_memory_is_refused() -> None:
    """A zstd frame whose header requests a window of gigabytes is refused."""
    with pytest.raises(TarMalformed):
        headers(b"\x28\xb5\x2f\xfd" + b"\x00" + b"\xf8" + b"\x01\x00\x00")


def test_a_tar_split_yields_all_headers_and_other_bytes(tmp_path: Path) -> None:
    """A tar-split gives all headers in order, and the remaining bytes at the end."""
    tar = layer_tar(CONTENT)
    (tmp_path / "split").write_bytes(split(tar))

    with SafeFolder(tmp_path) as files, files.opened(b"split") as fd, open(fd, "rb", closefd=False) as file:
        found = list(entries(file))

    names = [header.name.rstrip(b"/").decode() for _, header in found if header is not None]
    assert names == ["etc", "etc/passwd", "bin", "bin/tool", "empty"]
    assert sum(len(raw) for raw, _ in found) == len(tar) - sum(map(len, CONTENT.values()))


@pytest.mark.parametrize(
    "map_", ["0,99999999999999999999", "99999999999999999999,1", "-1,1", "0,-5", "0,11"], ids=lambda text: text[:8]
)
def test_a_sparse_map_beyond_the_file_is_refused(map_: str) -> None:
    """A sparse map with offsets beyond the file is refused."""
    entry = tarfile.TarInfo("f")
    entry.pax_headers = {"GNU.sparse.size": "10", "GNU.sparse.map": map_}

    with pytest.raises(TarMalformed):
        written_and_parsed(entry)


def test_an_endless_sparse_map_is_refused() -> None:
    """A sparse map, which is as long as the content allows, is refused over its limit."""
    entry = tarfile.TarInfo("f")
    entry.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "10"}
    entry.size = 50_000_000
    tar = BlobTar(io.BytesIO(entry.tobuf(tarfile.PAX_FORMAT) + b"1" * entry.size), "sha256", lambda _: None)
    next(tar.entries())

    with pytest.raises(TarMalformed):
        tar.sparse_map()
