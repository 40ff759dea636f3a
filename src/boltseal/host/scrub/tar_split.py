"""tar-split: a layer's tar without its files, from which and from the files the tar can be put together again.

    {"type":2,"payload":BASE64}                                          bytes of the tar: headers, padding
    {"type":1,"name":"etc/passwd","size":12,"payload":CRC64,...}         here the content of this file belongs
    {"type":1,"name_raw":BASE64,...}                                     the same, of a name that is no UTF-8

one per line, in gzip. Every entry of the tar has a line of type 1, folders and links too (without a size); the bytes
before it are its header. Nothing in here is believed: the tar has the digest that the config names, or it has not.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import IO, Final

import msgspec

from boltseal.errors import quote
from boltseal.host.scrub.tar_header import BLOCK, GLOBAL, Header, TarMalformed, parse_group

MAX_LINE_BYTES: Final = 32 * 1024 * 1024
"""Padding at the end of a tar comes in pieces of a MiB, a header group has less."""
MAX_PENDING_BYTES: Final = 64 * 1024 * 1024
END_BYTES: Final = 1024
"""Two blocks of zeros end a tar; what follows them is read by nobody."""
_READ: Final = 256 * 1024


class TarSplitLine(msgspec.Struct, gc=False):
    """One line. `payload`: bytes of the tar (type SEGMENT), or the CRC64 (ISO) of the file's content (type SLOT)."""

    type: int
    name: str = ""
    name_raw: bytes = b""
    size: int = 0
    payload: bytes | None = None

    @property
    def path(self) -> bytes:
        """The name as the header has it."""
        return self.name_raw or self.name.encode()


SEGMENT: Final = 2
SLOT: Final = 1
_decoder = msgspec.json.Decoder(TarSplitLine)


def read(file: IO[bytes]) -> Iterator[TarSplitLine]:
    """The lines of a tar-split file. TarMalformed; OSError when it can't be read."""
    for lines in _batches(file):
        yield from lines


def _batches(file: IO[bytes]) -> Iterator[list[TarSplitLine]]:
    for text in _whole_lines(file):
        try:
            yield _decoder.decode_lines(text)
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            raise TarMalformed(f"a line of the tar-split is not what an engine writes: {quote(str(error))}") from error


TakeEntry = Callable[[bytes, int, TarSplitLine], bool]
"""Takes the bytes before an entry's content, how many of them are padding, and its line. Whether the entry is done."""


def entries(file: IO[bytes], taken: TakeEntry = lambda _, __, ___: False) -> Iterator[tuple[bytes, Header | None]]:
    """Each entry's header, with all bytes of the tar that stand before its content; at the end what is left, and None.

    `taken` is asked for plain files before their header is read, and what it takes does not come here.

    Every byte must be accounted for: padding, one header for each entry, zeros at the end. Otherwise a forger could
    write a file's content, or a whole entry, into a raw segment, and the digest would hold without the file.
    TarMalformed.
    """
    raw = b""
    pad = 0
    for line in read(file):
        if line.type == SEGMENT:
            raw = raw + line.payload if raw and line.payload else raw or line.payload or b""
            if len(raw) > MAX_PENDING_BYTES:
                raise TarMalformed("the tar-split has no entry in tens of megabytes")
            continue
        if line.type != SLOT:
            raise TarMalformed(f"a line of the tar-split is of the unknown type {line.type}")
        if line.size and len(raw) == pad + BLOCK and taken(raw, pad, line):
            raw, pad = b"", -line.size % BLOCK
            continue
        header = parse_group(raw, pad)
        if (header.name != line.path or header.size != line.size) and header.kind != GLOBAL:
            raise TarMalformed(
                f"the tar-split has {quote(repr(line.path))} of {line.size} bytes "
                f"where its header has {quote(repr(header.name))} of {header.size}"
            )
        yield raw, header
        raw, pad = b"", -header.stored % BLOCK
    if any(raw[pad : pad + END_BYTES]):
        raise TarMalformed("the tar-split has bytes after its last entry that no entry accounts for")
    yield raw, None


def _whole_lines(file: IO[bytes]) -> Iterator[bytes]:
    """The text of a gzip file in pieces that end where lines do, none longer than MAX_LINE_BYTES and a little."""
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
    rest: list[bytes] = []  # of a line whose end has not come yet
    size = 0
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
            whole, newline, begun = text.rpartition(b"\n")
            if newline:
                yield b"".join((*rest, whole))
                rest, size = [], 0
            rest.append(begun)
            size += len(begun)
            if size > MAX_LINE_BYTES:
                raise TarMalformed("the tar-split has a line of tens of megabytes")
    if not ended:
        raise TarMalformed("the tar-split is cut off")
    if size:
        yield b"".join(rest)
