"""How much of an engine's answer is read, and for how long: bounds that httpx2 leaves to its caller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import BinaryIO, Final

import httpx2
import msgspec

from boltseal.engines.inventory import EngineMismatch

MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
MAX_LINE_BYTES: Final = 64 * 1024
PIECE_BYTES: Final = 1024 * 1024
SILENT_S: Final = 600.0
"""So long a stream may bring nothing."""


class TooMuch(EngineMismatch):
    """An answer without an end."""


class _Complaint(msgspec.Struct):
    message: str


async def pieces(
    response: httpx2.Response, *, most: int | None = None, size: int | None = None
) -> AsyncIterator[bytes]:
    """The body of an answer as it comes. `most`: bytes in all; `size`: of each piece. TooMuch, TimeoutError."""
    raw, read = response.aiter_raw(size), 0
    while True:
        async with asyncio.timeout(SILENT_S):
            piece = await anext(raw, None)
        if piece is None:
            return
        read += len(piece)
        if most is not None and read > most:
            raise TooMuch(f"the engine answers with more than {most // 1024**2} MiB")
        yield piece


async def whole(response: httpx2.Response) -> bytes:
    """The body of an answer. TooMuch, TimeoutError."""
    body = bytearray()
    async for piece in pieces(response, most=MAX_ANSWER_BYTES):
        body += piece
    return bytes(body)


async def lines(response: httpx2.Response) -> AsyncIterator[bytes]:
    """Documents, each on a line of its own. TooMuch, TimeoutError."""
    rest = b""
    async for piece in pieces(response):
        *full, rest = (rest + piece).split(b"\n")
        for line in (each for each in full if each.strip()):
            yield line
        if len(rest) > MAX_LINE_BYTES:
            raise TooMuch(f"the engine writes a line of more than {MAX_LINE_BYTES // 1024} KiB")
    if rest.strip():
        yield rest


async def complaint(response: httpx2.Response) -> str | None:
    """Why an engine failed, in its words; None where it does not say so in Docker's form. TooMuch, TimeoutError."""
    raw = await whole(response)
    try:
        if response.headers.get("content-type", "").startswith("application/json"):
            return msgspec.json.decode(raw, type=_Complaint).message
        return raw.decode()
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


async def contents(file: BinaryIO) -> AsyncIterator[bytes]:
    """The bytes of a file, to be sent."""
    while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
        yield piece
