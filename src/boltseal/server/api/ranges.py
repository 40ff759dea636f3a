"""Byte ranges, both ways: `Range` on a GET (RFC 9110, section 14) and `Content-Range` on a chunk of an upload.

Rules kept here: one range is served as asked, clamped to what is there, or refused (416) where there is none of it;
several ranges, another unit, or what is no range at all mean the whole. A chunk that can't be placed is refused: a
misread one would corrupt the blob. The chunk's form is the distribution spec's ("Pushing a blob in chunks"),
`<start>-<end>` without a unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from boltseal.errors import RangeInvalid, quote
from boltseal.server.api.errors import RangeNotSatisfiable

_HUGE: Final = 2**63 - 1
"""What a number too long to be an offset of anything counts as."""

_MAX_DIGITS: Final = 18


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes [start, start + length) of something larger; length is at least 1."""

    start: int
    length: int

    def content_range(self, size: int) -> str:
        """The value of the answer's Content-Range."""
        return f"bytes {self.start}-{self.start + self.length - 1}/{size}"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Where a chunk of an upload says it begins, and how many bytes it says it has."""

    start: int
    length: int


def parse_range(header: str, size: int) -> ByteRange | None:
    """The range that `Range: <header>` asks of `size` bytes; None where the whole is to be served (200).

    RangeNotSatisfiable when it begins behind the end, or ends before it begins.
    """
    unit, _, ranges = header.partition("=")
    first, dash, last = (part.strip() for part in ranges.partition("-"))
    start, end = _offset(first), _offset(last)
    readable = dash and (first or last) and (start is not None or not first) and (end is not None or not last)
    if unit.strip().lower() != "bytes" or not readable:
        return None  # another unit, several ranges, or no range at all: as if it had not been sent
    if start is None:
        start, end = max(size - (end or 0), 0), size - 1
    end = size - 1 if end is None else min(end, size - 1)
    if start > end:
        raise RangeNotSatisfiable(f"range {quote(header)} is not in the blob, which has {size} bytes", size)
    return ByteRange(start, end - start + 1)


def parse_content_range(header: str | None, content_length: int | None) -> Chunk | None:
    """Where a chunk belongs; None when it does not say, and follows what is there.

    RangeInvalid when it has another form, ends before it begins, or disagrees with Content-Length.
    """
    if header is None:
        return None
    first, dash, last = header.partition("-")
    start, end = _offset(first), _offset(last)
    if not dash or start is None or end is None or end < start:
        msg = (
            f"Content-Range {quote(header)} can't be read; expected <first>-<last> of the chunk's bytes, such as 0-1023"
        )
        raise RangeInvalid(msg)
    length = end - start + 1
    if content_length is not None and content_length != length:
        msg = f"Content-Range {quote(header)} means {length} bytes; Content-Length says {content_length}"
        raise RangeInvalid(msg)
    return Chunk(start, length)


def held(size: int) -> str:
    """The `Range` header of an upload session that holds `size` bytes: `0-<last>`, and `0-0` before any byte."""
    return f"0-{max(size - 1, 0)}"


def _offset(text: str) -> int | None:
    """A number of ASCII digits, however long; None for anything else."""
    if not (text.isascii() and text.isdigit()):
        return None
    text = text.lstrip("0") or "0"
    return int(text) if len(text) <= _MAX_DIGITS else _HUGE
