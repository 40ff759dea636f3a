"""Headers as Go's archive/tar writes and reads them, since every engine unpacks layers with it."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from boltseal.host.scrub.layer_blob import BlobTar
from tests.attacks.scrub.clean_layers import LAYERS
from tests.go_programs import build_go
from tests.host.scrub.made_stores import NAMES_BY_GO, extended, record

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled Go program of names/main.go."""
    return build_go(Path(__file__).parent / "names/main.go", tmp_path_factory.mktemp("go") / "names")


def with_meaning(name: list[int], type_: str, size: int, link: list[int], *values: object) -> list[object]:
    """Return the values of an entry without those that its type does not have, and its attributes in order."""
    *others, major, minor, attributes = values
    devices = (major, minor) if type_ in "34" else (0, 0)
    assert isinstance(attributes, list)
    return [name, type_, size, link if type_ in "12" else [], *others, *devices, sorted(attributes)]


def read_by_go(names: Path, tar: bytes) -> list[list[object]]:
    """Return the values of each entry, in the order of names/main.go; names and links as byte values."""
    done = subprocess.run([names, "read"], input=tar, check=True, stdout=subprocess.PIPE)
    return [with_meaning(*json.loads(line)) for line in done.stdout.splitlines()]


def read_here(tar: bytes) -> list[list[object]]:
    return [
        with_meaning(
            *(list(each.name), each.kind.decode(), each.size, list(each.link), each.mode & 0o7777, each.uid, each.gid),
            *divmod(each.mtime_ns, 1_000_000_000),
            *each.traits.device,
            [[list(name), list(value)] for name, value in each.xattrs.items()],
        )
        for each in BlobTar(io.BytesIO(tar), "sha256", lambda _: None).entries()
    ]


def test_the_stored_layer_is_what_go_writes(names: Path) -> None:
    """The layer that is rebuilt from its description equals byte for byte the one that Go's archive/tar wrote."""
    written = subprocess.run([names, "write"], check=True, stdout=subprocess.PIPE).stdout

    assert written == gzip.decompress(NAMES_BY_GO.read_bytes())


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_read_as_by_go(names: Path, name: str) -> None:
    """Every entry has the values that Go gives it."""
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


def number_fields(size: int) -> st.SearchStrategy[bytes]:
    """Return numbers as writers store them: octal to the end or terminated, padded with spaces or zeros, in base 256."""
    octal = st.integers(0, 8 ** (size - 1) - 1).map(lambda value: b"%o" % value)
    return st.one_of(
        octal.map(lambda text: text.rjust(size - 1, b"0") + b"\0"),
        octal.map(lambda text: text.rjust(size - 1) + b" "),
        octal.map(lambda text: text.rjust(size, b"0")),
        octal.map(lambda text: b" " + text.ljust(size - 1, b"\0")),
        octal.map(lambda text: text.ljust(size, b"\0")),
        st.integers(-(2**40), 2**40).map(
            lambda value: (
                (value % 2 ** (8 * size - 1) | 1 << (8 * size - 1)).to_bytes(size)
                if -(2 ** (8 * size - 2)) <= value < 2 ** (8 * size - 2)
                else bytes(size)
            )
        ),
        st.just(bytes(size)),
        st.binary(min_size=size, max_size=size),
    )


TEXTS = st.sampled_from([b"", b"a", b"dir/", b"./b", "日本語".encode(), b"caf\xe9", b"x" * 90, b"/abs", b"a\0b"])


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    """Return a header as any of the formats and writers has it, with the right checksum."""
    raw = bytearray(512)

    def put(at: int, value: bytes) -> None:
        raw[at : at + len(value)] = value

    put(0, draw(TEXTS)[:100])
    for at, size in ((100, 8), (108, 8), (116, 8), (136, 12), (329, 8), (337, 8)):
        put(at, draw(number_fields(size)))
    put(124, b"%011o\0" % 0)
    put(156, draw(st.sampled_from([b"0", b"\0", b"1", b"2", b"3", b"4", b"5", b"6"])))
    put(157, draw(TEXTS)[:100])
    put(257, draw(st.sampled_from([b"ustar\x0000", b"ustar\0  ", b"ustar\0\0\0", b"ustar  \0", b"ustar 00", bytes(8)])))
    if draw(st.booleans()):
        put(345, draw(st.one_of(TEXTS, number_fields(12), st.binary(max_size=24)))[:155])
        put(357, draw(st.one_of(st.just(b""), number_fields(12))))
    put(508, draw(st.sampled_from([bytes(4), bytes(4), b"tar\0"])))
    put(148, b" " * 8)
    put(148, b"%06o\0 " % sum(raw))
    return bytes(raw)


RECORDS = st.sampled_from(
    [
        *(record(b"path", value) for value in (b"other", "長".encode() * 10, b"folder/", b"")),
        *(record(b"linkpath", value) for value in (b"target", b"")),
        *(record(b"mtime", value) for value in (b"5", b"-1.5", b"-0.25", b"1.1234567891", b"0.5", b"7.")),
        *(record(b"uid", value) for value in (b"3000000000", b"-1", b"")),
        record(b"gid", b"4294967301"),
        *(record(b"SCHILY.xattr." + name, value) for name, value in ((b"user.a", b"\0\xff="), (b"user.b", b""))),
        record(b"hdrcharset", b"BINARY"), record(b"comment", b"a=b"), record(b"LIBARCHIVE.xattr.user.c", b"MQ"),
    ]
)  # fmt: skip


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header_=headers(), records=st.lists(RECORDS, max_size=4), long=st.sampled_from([b"", b"", b"gnu\0", b"gnu/"]))
def test_any_header_is_read_as_by_go(names: Path, header_: bytes, records: list[bytes], long: bytes) -> None:
    """A header with numbers, names and formats of any writer is read as Go reads it, if Go accepts it."""
    tar = header_
    if records:
        tar = extended(b"x", b"".join(records), tar)
    if long:
        tar = extended(b"L", long, tar)
    tar += bytes(1024)
    accepted = subprocess.run([names, "read"], input=tar, capture_output=True, check=False).returncode == 0
    assume(accepted)

    assert read_here(tar) == read_by_go(names, tar)
