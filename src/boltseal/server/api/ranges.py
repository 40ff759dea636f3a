"""Byte ranges: `Range` of a GET (RFC 9110, section 14) and `Content-Range` of an upload chunk.

One range is limited to the existing bytes, or refused (416) if there are none. Several ranges, another unit or invalid
syntax are ignored, as if no range was sent. A chunk that cannot be placed is refused: a misread one would corrupt the
blob. A chunk has the form of the distribution spec ("Pushing a blob in chunks"), `<start>-<end>` without a unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from boltseal.errors import RangeInvalid, quote
from boltseal.server.api.errors import RangeNotSatisfiable

_HUGE: Final = 2**63 - 1
"""The value of a number with too many digits for an offset."""

_MAX_DIGITS: Final = 18


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes [start, start + length) of a larger object; length is at least 1."""

    start: int
    length: int

    def content_range(self, size: int) -> str:
        """Return the Content-Range of a response."""
        return f"bytes {self.start}-{self.start + self.length - 1}/{size}"


@dataclass(frozen=True, slots=True)
class Chunk:
    """The declared start and length of an upload chunk."""

    start: int
    length: int


def parse_range(header: str, size: int) -> ByteRange | None:
    """Return the requested range of `size` bytes, or None if the full content must be sent (200).

    Raises: RangeNotSatisfiable: the range begins after the end, or ends before it begins.
    """
    unit, _, ranges = header.partition("=")
    first, dash, last = (part.strip() for part in ranges.partition("-"))
    start, end = _offset(first), _offset(last)
    readable = dash and (first or last) and (start is not None or not first) and (end is not None or not last)
    if unit.strip().lower() != "bytes" or not readable:
        return None  # another unit, several ranges or invalid syntax
    if start is None:
        start, end = max(size - (end or 0), 0), size - 1
    end = size - 1 if end is None else min(end, size - 1)
    if start > end:
        raise RangeNotSatisfiable(f"range {quote(header)} is outside of the blob, which has {size} bytes", size)
    return ByteRange(start, end - start + 1)


def parse_content_range(header: str | None, content_length: int | None) -> Chunk | None:
    """Return where a chunk belongs, or None without Content-Range: it follows the bytes received so far.

    Raises: RangeInvalid: invalid syntax, an end before the start, or a length other than Content-Length.
    """
    if header is None:
        return None
    first, dash, last = header.partition("-")
    start, end = _offset(first), _offset(last)
    if not dash or start is None or end is None or end < start:
        msg = f"Content-Range {quote(header)} cannot be parsed; expected <first>-<last>, such as 0-1023"
        raise RangeInvalid(msg)
    length = end - start + 1
    if content_length is not None and content_length != length:
        msg = f"Content-Range {quote(header)} has {length} bytes; Content-Length is {content_length}"
        raise RangeInvalid(msg)
    return Chunk(start, length)


def upload_range(size: int) -> str:
    """Return the `Range` header of an upload session with `size` bytes: `0-<last>`, and `0-0` before any byte."""
    return f"0-{max(size - 1, 0)}"


def _offset(text: str) -> int | None:
    """Return a number of ASCII digits of any length, or None."""
    if not (text.isascii() and text.isdigit()):
        return None
    text = text.lstrip("0") or "0"
    return int(text) if len(text) <= _MAX_DIGITS else _HUGE
