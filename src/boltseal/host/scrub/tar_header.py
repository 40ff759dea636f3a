"""Parses the headers of a layer's tar as engines do when they unpack (Go's archive/tar: v7, ustar, GNU, PAX).

`parse_group` takes the blocks before an entry's content: its header and the preceding extensions (PAX records, GNU long
names). Names stay bytes, since they need not be UTF-8. Two rules differ from Python's tarfile because engines differ: which
trailing slash makes a folder (see `_plain`), and times keep nanoseconds.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final, NamedTuple

from boltseal.errors import Invalid, quote

BLOCK: Final = 512
MAX_EXTENSION_BYTES: Final = 4 * 1024 * 1024
"""The limit for an extended header. An extended attribute has at most 64 KiB, a path 4 KiB."""

REGULAR: Final = b"0"
HARDLINK: Final = b"1"
SYMLINK: Final = b"2"
CHARACTER: Final = b"3"
BLOCK_DEVICE: Final = b"4"
FOLDER: Final = b"5"
FIFO: Final = b"6"
GLOBAL: Final = b"g"

MAX_NAME_BYTES: Final = 4096
FIELDS: Final = struct.Struct("100s24s12s12s8x356s")
"""Name; mode, user and group; size; time; (skipped: checksum); the rest from the type on."""
_PREFIX: Final = 345 - 156
_STARTS: Final = (b"", b".", b"/")
_AS_REGULAR: Final = frozenset({b"0", b"\0", b"7"})
_V7_REGULAR: Final = b"\0"
_KNOWN: Final = _AS_REGULAR | {HARDLINK, SYMLINK, CHARACTER, BLOCK_DEVICE, FOLDER, FIFO, GLOBAL}
_EXTENSIONS: Final = frozenset({b"x", b"L", b"K"})
_XATTR: Final = b"SCHILY.xattr."
_MAP_00: Final = b"\0sparse 0.0"  # no record has such a key
_NS: Final = 1_000_000_000


class TarMalformed(Invalid):
    """Bytes that no engine would accept as a layer."""


class UnusualTraits(NamedTuple):
    """The fields that most entries of a layer share, parsed once and compared as one value. `owner`: user and group.

    `prefix`: the header's name prefix, which the entry's name already includes.
    """

    kind: bytes
    mode: int
    owner: tuple[int, int]
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    prefix: bytes = b""


class Header(NamedTuple):
    """One entry. `mtime_ns`: to the nanosecond only if `exact`. `size`: of the file; `stored`: of its content in the tar.

    `sparse`: offset and length of each stored piece of a sparse file; empty if that map is in the content.
    """

    name: bytes
    traits: UnusualTraits
    size: int
    mtime_ns: int
    exact: bool
    xattrs: dict[bytes, bytes]
    stored: int
    sparse: tuple[tuple[int, int], ...] | None

    @property
    def kind(self) -> bytes:
        return self.traits.kind

    @property
    def mode(self) -> int:
        return self.traits.mode

    @property
    def uid(self) -> int:
        return self.traits.owner[0]

    @property
    def gid(self) -> int:
        return self.traits.owner[1]

    @property
    def link(self) -> bytes:
        return self.traits.link


_NONE: Final[dict[bytes, bytes]] = {}


def parse_group(raw: bytes, at: int = 0) -> Header:
    """Parse the header blocks of one entry, from an offset on.

    Raises: TarMalformed.
    """
    if len(raw) == at + BLOCK:  # nearly all of them
        return _plain(raw, at)
    records: dict[bytes, bytes] = {}
    long_name = long_link = None
    while at + BLOCK <= len(raw):
        kind = raw[at + 156 : at + 157]
        if kind not in _EXTENSIONS and kind != GLOBAL:
            break
        size = _number(raw[at + 124 : at + 136], "size")
        data = raw[at + BLOCK : at + BLOCK + size]
        if not 0 <= size <= MAX_EXTENSION_BYTES or len(data) < size:
            raise TarMalformed(f"an extended header of {size} bytes is truncated or longer than engines read")
        if kind == GLOBAL:  # engines ignore it
            _nothing_after(raw, at + BLOCK + (size + BLOCK - 1) // BLOCK * BLOCK)
            return _plain(raw[at : at + BLOCK], 0)
        if kind == b"x":
            records = _pax(data)  # if there are several, engines use the last one
        elif kind == b"L":
            long_name = data.split(b"\0", 1)[0]
        else:
            long_link = data.split(b"\0", 1)[0]
        at += BLOCK + (size + BLOCK - 1) // BLOCK * BLOCK
    if at + BLOCK > len(raw):
        raise TarMalformed("an extended header has no entry after it")
    _nothing_after(raw, at + BLOCK)
    # Go's archive/tar (reader.go, Reader.next): the PAX path replaces the header's name, a GNU long name replaces both,
    # and the effective name decides whether the entry is a folder. The header's own name can be anything: Go's writer
    # drops the non-ASCII characters of the name, "data/" for "data/日本語".
    plain = _plain(raw, at, long_name or records.get(b"path"))
    return _extended(plain, records, long_link or records.get(b"linkpath"))


def group_size(block: bytes) -> int | None:
    """Return the number of bytes between this extension block and the next header; None if this is the entry's header."""
    if block[156:157] in _EXTENSIONS or block[156:157] == GLOBAL:
        size = _number(block[124:136], "size")
        if not 0 <= size <= MAX_EXTENSION_BYTES:
            raise TarMalformed(f"an extended header of {size} bytes is longer than engines read")
        return (size + BLOCK - 1) // BLOCK * BLOCK
    return None


def _plain(raw: bytes, at: int, name: bytes | None = None) -> Header:
    """Parse the header at an offset. `name`: from extended headers, None or empty if they have none.

    A trailing slash of the effective name makes an entry of the v7 type NUL a folder, but no other: type "0" stays a file
    (Go's archive/tar, reader.go, Reader.next: `hdr.Typeflag == TypeRegA`).
    """
    field, mode_and_owner, size_field, mtime_field, rest = FIELDS.unpack_from(raw, at)
    traits = traits_of(mode_and_owner, rest)
    if not name:
        name = field.partition(b"\0")[0]
        if traits.prefix:
            name = traits.prefix + b"/" + name
    try:
        size, mtime = int(size_field[:11], 8), int(mtime_field[:11], 8)
    except ValueError:
        size, mtime = _number(size_field, "size"), _number(mtime_field, "mtime")
    if traits.kind != REGULAR:
        return Header(name, traits, 0, mtime * _NS, False, _NONE, 0, None)
    if name[-1:] == b"/" and rest[:1] == _V7_REGULAR:
        return Header(name, traits._replace(kind=FOLDER), 0, mtime * _NS, False, _NONE, 0, None)
    if not 0 <= size < 1 << 62:
        raise TarMalformed(f"an entry of {size} bytes")
    return Header(name, traits, size, mtime * _NS, False, _NONE, size, None)


def _nothing_after(raw: bytes, end: int) -> None:
    """Check that no bytes follow the header, such as a second header: they would be part of the tar but never compared."""
    if len(raw) != end:
        raise TarMalformed(f"{len(raw) - end} bytes before the content of an entry belong to no header")


def _extended(plain: Header, records: dict[bytes, bytes], link: bytes | None) -> Header:
    (uid, gid), stored = plain.traits.owner, plain.stored
    if records.get(b"uid"):
        uid = _decimal(records[b"uid"], "uid")
    if records.get(b"gid"):
        gid = _decimal(records[b"gid"], "gid")
    if records.get(b"size"):
        stored = _decimal(records[b"size"], "size")
    stored = stored if plain.kind == REGULAR else 0
    mtime_ns, exact = plain.mtime_ns, False
    if records.get(b"mtime"):
        mtime_ns, exact = _time(records[b"mtime"]), True
    xattrs = {key[len(_XATTR) :]: value for key, value in records.items() if key.startswith(_XATTR)} or _NONE
    size, sparse = _sparse(records, stored)
    if not (0 <= size < 1 << 62 and 0 <= stored < 1 << 62):
        raise TarMalformed(f"an entry of {size} bytes")
    name = records.get(b"GNU.sparse.name") or plain.name
    traits = plain.traits._replace(owner=(uid, gid), link=link or plain.link)
    return Header(name, traits, size, mtime_ns, exact, xattrs, stored, sparse)


def _sparse(records: dict[bytes, bytes], stored: int) -> tuple[int, tuple[tuple[int, int], ...] | None]:
    """Return a file's size and its sparse map. Of GNU's formats 0.0 and 0.1 have the map in records, 1.0 in the content."""
    if records.get(b"GNU.sparse.major") == b"1" and records.get(b"GNU.sparse.realsize"):
        return _decimal(records[b"GNU.sparse.realsize"], "size"), ()
    if not records.get(b"GNU.sparse.size"):
        return stored, None
    text = records.get(_MAP_00) or records.get(b"GNU.sparse.map") or b""
    numbers = [_decimal(each, "sparse map") for each in text.split(b",")] if text else []
    size, pieces = _decimal(records[b"GNU.sparse.size"], "size"), tuple(zip(numbers[::2], numbers[1::2], strict=False))
    if any(offset < 0 or length < 0 or offset + length > size for offset, length in pieces):
        raise TarMalformed("the map of a sparse file exceeds its size")
    return size, pieces


def _pax(data: bytes) -> dict[bytes, bytes]:
    """Parse the records `LENGTH KEY=VALUE\\n`; the last one of a key counts, and an empty value removes it."""
    records: dict[bytes, bytes] = {}
    at = 0
    pairs: list[bytes] = []
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        if space < 0 or not data[at:space].isdigit():
            raise TarMalformed("a PAX record without its length")
        end = at + int(data[at:space])
        equals = data.find(b"=", space, end)
        if end <= space or end > len(data) or data[end - 1 : end] != b"\n" or equals < 0:
            raise TarMalformed("a truncated PAX record")
        key, value = data[space + 1 : equals], data[equals + 1 : end - 1]
        records[key] = value
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):  # format 0.0 repeats them, pair after pair
            pairs.append(value)
        at = end
    if pairs:
        records[_MAP_00] = b",".join(pairs)
    return records


def _number(field: bytes, what: str) -> int:
    """Parse a number: octal (POSIX), or base 256 (GNU, for large numbers)."""
    if field[0] & 0x80:
        value = int.from_bytes(field) & ((1 << (8 * len(field) - 1)) - 1)
        return value - (1 << (8 * len(field) - 1)) if field[0] & 0x40 else value
    text = field.strip(b" \0")
    try:
        return int(text.split(b"\0", 1)[0], 8) if text else 0
    except ValueError as error:
        raise TarMalformed(f"the {what} of an entry is invalid: {quote(repr(field))}") from error


@lru_cache(maxsize=1024)
def traits_of(mode_and_owner: bytes, rest: bytes) -> UnusualTraits:
    """Parse mode, user and group, and the end of a header from the type on, which most files share."""
    mode, owner = (
        _number(mode_and_owner[:8], "mode"),
        (_number(mode_and_owner[8:16], "uid"), _number(mode_and_owner[16:], "gid")),
    )
    kind = rest[:1]
    if kind not in _KNOWN:
        raise TarMalformed(f"an entry of the unknown type {quote(repr(kind))}")
    prefix = link = b""
    device = 0, 0
    if rest[_PREFIX] and rest[101:109] == b"ustar\x0000":
        star = rest[-4:] == b"tar\0"
        prefix = rest[_PREFIX : 320 if star else 344].split(b"\0", 1)[0]
    if kind in _AS_REGULAR:
        kind = REGULAR
    elif kind in (CHARACTER, BLOCK_DEVICE):
        device = _number(rest[173:181], "device"), _number(rest[181:189], "device")
    elif kind in (SYMLINK, HARDLINK):
        link = rest[1:101].split(b"\0", 1)[0]
    return UnusualTraits(kind, mode, owner, link, device, prefix)


def _decimal(text: bytes, what: str) -> int:
    if len(text) > 20:
        raise TarMalformed(f"the {what} of an entry has {len(text)} digits")
    try:
        return int(text)
    except ValueError as error:
        raise TarMalformed(f"the {what} of an entry is {quote(repr(text))}") from error


def _time(text: bytes) -> int:
    """Parse seconds with a fraction into nanoseconds; digits after the ninth are dropped, as engines do."""
    whole, _, fraction = text.partition(b".")
    if not fraction.isdigit() and fraction:
        raise TarMalformed(f"the mtime of an entry is {quote(repr(text))}")
    seconds = _decimal(whole or b"0", "mtime")
    nanoseconds = int(fraction[:9].ljust(9, b"0")) if fraction else 0
    return seconds * _NS + (-nanoseconds if whole.startswith(b"-") else nanoseconds)


def clean(name: bytes) -> bytes:
    """Return an entry's path as engines use it: relative to the layer, without empty parts.

    Raises: TarMalformed: if it is outside of the layer.
    """
    if len(name) > MAX_NAME_BYTES:
        raise TarMalformed(f"an entry's name of {len(name)} bytes; paths have at most {MAX_NAME_BYTES}")
    if b"/." not in name and b"//" not in name and name[:1] not in _STARTS and name[-1:] != b"/":
        return name
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        kept: list[bytes] = []
        for part in parts:
            if part != b"..":
                kept.append(part)
            elif kept:
                kept.pop()
            else:
                raise TarMalformed(f"the entry {quote(repr(name))} is outside of its layer")
        parts = kept
    return b"/".join(parts)
