"""tar-split: a layer's tar without its files, from which and from the files the tar can be put together again.

    {"type":2,"payload":BASE64}                                          bytes of the tar: headers, padding
    {"type":1,"name":"etc/passwd","size":12,"payload":CRC64,...}         here the content of this file belongs
    {"type":1,"name_raw":BASE64,...}                                     the same, of a name that is no UTF-8

one per line, in gzip. Every entry of the tar has a line of type 1, folders and links too (without a size); the bytes
before it are its header. Nothing in here is believed: the tar has the digest that the config names, or it has not.
"""

from __future__ import annotations

import binascii
import zlib
from base64 import b64decode
from collections.abc import Iterator
from typing import IO, Final

import msgspec

from boltseal.errors import quote
from boltseal.scrub.tarheader import GLOBAL, Header, TarMalformed, parse_group

MAX_LINE_BYTES: Final = 32 * 1024 * 1024
"""Padding at the end of a tar comes in pieces of a MiB, a header group has less."""
MAX_PENDING_BYTES: Final = 64 * 1024 * 1024
END_BYTES: Final = 1024
"""Two blocks of zeros end a tar; what follows them is read by nobody."""
_READ: Final = 256 * 1024


class _Line(msgspec.Struct):
    type: int
    name: str = ""
    name_raw: str = ""
    size: int = 0
    payload: str | None = None


class Segment(msgspec.Struct, frozen=True, gc=False):
    """Raw bytes of the tar."""

    data: bytes


class Slot(msgspec.Struct, frozen=True, gc=False):
    """Here `size` bytes of the file `name` belong; `crc` is their CRC64 (ISO) as eight bytes, or None."""

    name: bytes
    size: int
    crc: bytes | None


_decoder = msgspec.json.Decoder(_Line)


def read(file: IO[bytes]) -> Iterator[Segment | Slot]:
    """The lines of a tar-split file. TarMalformed; OSError when it can't be read."""
    for raw in _lines(file):
        try:
            line = _decoder.decode(raw)
            payload = b64decode(line.payload, validate=True) if line.payload else b""
            name = b64decode(line.name_raw, validate=True) if line.name_raw else line.name.encode()
        except (msgspec.MsgspecError, RecursionError, ValueError, binascii.Error) as error:
            raise TarMalformed(f"a line of the tar-split is {quote(repr(raw[:60]))}") from error
        if line.type == 2:
            yield Segment(payload)
        elif line.type == 1:
            if not 0 <= line.size < 1 << 62:
                raise TarMalformed(f"the tar-split names a file of {line.size} bytes")
            yield Slot(name, line.size, payload or None)
        else:
            raise TarMalformed(f"a line of the tar-split is of the unknown type {line.type}")


def entries(file: IO[bytes]) -> Iterator[tuple[Header, Slot]]:
    """Each entry's header with its line. TarMalformed when they do not belong together.

    Every byte must be accounted for: padding, one header for each entry, zeros at the end. Otherwise a forger could
    write a file's content, or a whole entry, into a raw segment, and the digest would hold without the file.
    """
    pending: list[bytes] = []
    size = pad = 0
    for each in read(file):
        if isinstance(each, Segment):
            size += len(each.data)
            if size > MAX_PENDING_BYTES:
                raise TarMalformed("the tar-split has no entry in tens of megabytes")
            pending.append(each.data)
            continue
        raw = pending[0] if len(pending) == 1 else b"".join(pending)
        header = parse_group(raw[pad:] if pad else raw)
        if header.kind != GLOBAL and header.name != each.name:
            raise TarMalformed(
                f"the tar-split names {quote(repr(each.name))} where its header has {quote(repr(header.name))}"
            )
        if each.size != header.size:
            raise TarMalformed(
                f"the tar-split gives {quote(repr(each.name))} {each.size} bytes, its header {header.size}"
            )
        yield header, each
        pending, size, pad = [], 0, -header.stored % 512
    if any(b"".join(pending)[pad : pad + END_BYTES]):
        raise TarMalformed("the tar-split has bytes after its last entry that no entry accounts for")


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """Lines of a gzip file, none longer than MAX_LINE_BYTES. A member may follow another."""
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
    rest = b""
    ended = False
    while piece := file.read(_READ):
        while piece:
            if ended:
                inflate, ended = zlib.decompressobj(zlib.MAX_WBITS | 16), False
            try:
                text = inflate.decompress(piece, _READ * 4)
            except zlib.error as error:
                raise TarMalformed(f"the tar-split is no gzip file, or damaged: {error}") from error
            piece = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
            ended = inflate.eof
            *whole, rest = (rest + text).split(b"\n")
            if len(rest) > MAX_LINE_BYTES:
                raise TarMalformed("the tar-split has a line of tens of megabytes")
            yield from (line for line in whole if line)
    if not ended:
        raise TarMalformed("the tar-split is cut off")
    if rest:
        yield rest
